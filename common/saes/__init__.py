"""Sparse autoencoders: architectures behind one interface, batched training, metrics, exchange, and a feature browser.

`sae` (what others use: encode, decode, error, clamp) <- `architectures/` (training losses) <- `trainer` (one pass over the
stream trains a sweep) <- `stream` (activation shards on disk). `sparse` holds the sparse kernels, `metrics` the numbers.
"""
