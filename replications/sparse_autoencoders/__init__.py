"""Sparse autoencoders: planted dictionaries, then a language model."""
