"""Edges of an attribution graph: one sweep for a batch of targets, against one backward pass a target.

Instead: autograd through the frozen pass, once for each feature that is explained. The transcoders are random; what an
edge costs does not depend on them.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks import Task, default_model
from common.core.errors import UserError
from common.data.models import encode, load_model, load_tokenizer
from common.saes.sae import About, Sae
from replications.circuit_tracing.frozen import FrozenPass
from replications.circuit_tracing.graph import Features, active_features, sweep
from replications.circuit_tracing.language_frozen import freeze_prompt

PROMPT = "red car, blue house, green tree, red car, blue house, green"
WIDTH, ACTIVE, TARGETS = 1152, 16, 32
TOLERANCE = 1e-4


def tasks() -> Iterator[Task]:
    """One task: edges into some features of the default model, on one prompt."""
    folder = default_model()
    frozen = freeze_prompt(load_model(folder), torch.tensor(encode(load_tokenizer(folder), PROMPT)))
    features = active_features(frozen, random_transcoders(frozen))
    chosen = torch.linspace(0, len(features) - 1, TARGETS).long()

    def ours() -> Tensor:
        found = sweep(frozen, features, features.layer[chosen], features.pos[chosen], features.readers[chosen])
        return found[:, : len(features)]

    yield Task(
        f"edges into {TARGETS} of {len(features)} features, {frozen.length} tokens, {frozen.n_layers} layers",
        ours,
        "autograd, one backward pass a target",
        lambda: torch.stack([one_by_one(frozen, features, int(target)) for target in chosen]),
        same,
    )


def same(ours: Tensor, theirs: Tensor) -> str:
    """UserError if the edges differ."""
    gap = float((ours - theirs).abs().max() / theirs.abs().max())
    if gap > TOLERANCE:
        raise UserError(f"edges of the sweep and of autograd differ by {gap:.0e} of the largest")
    return f"edges differ by at most {gap:.0e} of the largest"


def one_by_one(frozen: FrozenPass, features: Features, target: int) -> Tensor:
    """Edges from all features into one, by autograd."""
    writes = frozen.mlp_out.clone().requires_grad_()
    reads, _ = frozen.forward(frozen.embeddings, writes)
    value = reads[features.layer[target], features.pos[target]] @ features.readers[target]
    [slope] = torch.autograd.grad(value, [writes])
    edges = torch.zeros(len(features))
    for layer, (which, rows) in enumerate(features.writers):
        edges[which] = (slope[layer, features.pos[which]] * rows).sum(1) * features.activation[which]
    return edges


def random_transcoders(frozen: FrozenPass) -> list[Sae]:
    """For each layer a random dictionary with so many active features a token."""
    draw, found, d = torch.Generator().manual_seed(0), [], frozen.embeddings.shape[1]
    for layer, x in enumerate(frozen.mlp_in):
        W_enc, W_dec = torch.randn(d, WIDTH, generator=draw) / d**0.5, torch.randn(WIDTH, d, generator=draw) / d**0.5
        level = float((x[1:] @ W_enc).flatten().topk(ACTIVE * (len(x) - 1)).values[-1])
        about = About("transcoder", hook=f"blocks.{layer}.mlp.hook_in", hook_out=f"blocks.{layer}.hook_mlp_out")
        limit = torch.full((WIDTH,), level)
        sae = Sae(about, "jumprelu", W_enc, torch.zeros(WIDTH), W_dec, torch.zeros(d), threshold=limit, centred=False)
        found.append(sae)
    return found
