"""Attribution graph of one prompt: one batched sweep for all targets, against one backward pass per target.

Instead: autograd through the frozen pass, once for each node that is explained (here timed on a few nodes and scaled).
The transcoders are random; what an edge costs does not depend on them.
"""

import time
from collections.abc import Iterator

import torch

from benchmarks import Row, default_model
from common.data.models import encode, load_model, load_tokenizer
from common.saes.sae import About, Sae
from replications.circuit_tracing.frozen import FrozenPass
from replications.circuit_tracing.graph import attribute
from replications.circuit_tracing.language_frozen import freeze_prompt

PROMPT = "red car, blue house, green tree, red car, blue house, green"
WIDTH, ACTIVE, TARGETS, TIMED = 1152, 16, 512, 6


def compare() -> Iterator[Row]:
    """One row: the default model on one prompt."""
    folder = default_model()
    frozen = freeze_prompt(load_model(folder), torch.tensor(encode(load_tokenizer(folder), PROMPT)))
    saes = random_transcoders(frozen)
    start = time.perf_counter()
    graph = attribute(frozen, saes, most=TARGETS)
    ours = time.perf_counter() - start
    chosen = graph.expanded[:: max(1, TARGETS // TIMED)][:TIMED].tolist()
    features = graph.features
    gap = largest = 0.0
    start = time.perf_counter()
    for target in chosen:
        embeddings, writes = frozen.embeddings.clone().requires_grad_(), frozen.mlp_out.clone().requires_grad_()
        reads, _ = frozen.forward(embeddings, writes)
        value = reads[features.layer[target], features.pos[target]] @ features.readers[target]
        _, slope = torch.autograd.grad(value, [embeddings, writes])
        for layer, (which, rows) in enumerate(features.writers):
            edges = (slope[layer, features.pos[which]] * rows).sum(1) * features.activation[which]
            gap = max(gap, float((edges - graph.adjacency[target, which]).abs().max()))
            largest = max(largest, float(edges.abs().max()))
    a_target = (time.perf_counter() - start) / len(chosen)
    yield Row(
        f"attribution graph, {TARGETS} targets, {graph.n_features} features, {frozen.length} tokens",
        ours,
        "autograd, one backward pass a target",
        a_target * TARGETS,
        f"edges differ by at most {gap / largest:.0e} of the largest",
    )


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
