"""The contrastive loss under proof."""
