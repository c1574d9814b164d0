"""Can these embeddings be cut, to what, and what does it cost?"""
