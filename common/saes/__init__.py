"""Sparse autoencoders: architectures behind one interface, batched training, metrics, exchange, and a feature browser.

`sae` is what analyses use (encode, decode, error, clamp). `architectures/` holds the training losses; `trainer` trains
a sweep in one pass with `optimiser`. `harvest` collects activations, `stream` writes and reads their shards. `sparse`
has the sparse kernels, `metrics` the numbers. `saelens` reads and writes SAELens folders, `public` loads released SAEs
by name. `browser` makes a page of every latent of one.
"""
