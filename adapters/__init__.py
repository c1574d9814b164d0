"""Where mrl meets whole ecosystems: one module each."""
