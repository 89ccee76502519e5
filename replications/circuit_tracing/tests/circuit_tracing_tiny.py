"""A tiny two-hop model and transcoders of it, for the tests of this folder."""

import torch

from common.saes.sae import About, Sae
from common.toys.settings import Optimisation
from replications.circuit_tracing.settings import Model, Task
from replications.circuit_tracing.toy import architecture

TASK = Task(names=3, classes=3, relations=2, held_out=0.2)
OPTIMISATION = Optimisation(
    steps=1, batch=4, learning_rate=0.01, warmup=0, beta1=0.9, beta2=0.9, weight_decay=0.1, clip=1.0
)
SHAPE = architecture(Model(n_layers=3, d_model=16, n_heads=2, optimisation=OPTIMISATION), TASK)


def transcoder(layer: int, x: torch.Tensor, seed: int, width: int = 20, d: int = 16) -> Sae:
    draw = torch.Generator().manual_seed(seed)
    W_enc, W_dec = torch.randn(d, width, generator=draw), torch.randn(width, d, generator=draw)
    b_enc, b_dec = torch.randn(width, generator=draw), torch.randn(d, generator=draw)
    level = float((x @ W_enc + b_enc).flatten().quantile(0.7))
    about = About("transcoder", "two-hop", f"blocks.{layer}.ln2.hook_normalized", f"blocks.{layer}.hook_mlp_out")
    limit = torch.full((width,), max(level, 0.1))
    return Sae(about, "jumprelu", W_enc, b_enc, W_dec, b_dec, threshold=limit, centred=False)
