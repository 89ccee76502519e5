"""The small batched transformer and its training."""
