"""The replacement model: the model with every MLP's output, but at position 0, replaced by its transcoder's prediction.

Ameisen et al. 2025 report the same top token on 50 % of filtered prompts.

Controls (language_untrained.py): untrained encoders with fitted decoders, the best affine map in place of each MLP, and
the mean output.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from common.core.metrics import Metric
from common.core.statistics import over_clusters
from common.saes.harvest import Windows

AGREEMENT = "share of positions at which the replacement model's likeliest token is the model's"
DIVERGENCE = "KL of the replacement model's next-token distribution from the model's"


Way = Callable[[int, Tensor], Tensor]
"""Given a layer and what its MLP reads, what is put in place of what it writes."""


def replaced(bridge: "object", tokens: Tensor, real: Tensor, make: Way) -> Tensor:
    """Logits with the output of every MLP, but at position 0, replaced by what `make` gives for its input."""
    seen: dict[int, Tensor] = {}
    hooks: list[tuple[str, Callable[..., Tensor | None]]] = []
    for layer in range(bridge.cfg.n_layers):  # type: ignore[attr-defined]

        def keep(value: Tensor, hook: object, layer: int = layer) -> None:
            seen[layer] = value

        def put(value: Tensor, hook: object, layer: int = layer) -> Tensor:
            return torch.cat([value[:, :1], make(layer, seen[layer][:, 1:])], dim=1)

        hooks += [(f"blocks.{layer}.mlp.hook_in", keep), (f"blocks.{layer}.hook_mlp_out", put)]
    found: Tensor = bridge.run_with_hooks(tokens, attention_mask=real.long(), fwd_hooks=hooks)  # type: ignore[attr-defined]
    return found


def replacement_metrics(bridge: "object", text: Windows, ways: dict[str, Way]) -> dict[str, Metric]:
    """Top-1 agreement and KL over documents of the first way, beside the others."""
    values: dict[str, list[Tensor]] = {}
    for row in range(len(text.tokens)):
        tokens = text.tokens[row][text.real[row]][None]
        clean = bridge(tokens)[0, 1:].log_softmax(-1)  # type: ignore[operator]
        for name, way in ways.items():
            other = replaced(bridge, tokens, torch.ones_like(tokens, dtype=torch.bool), way)[0, 1:].log_softmax(-1)
            values.setdefault(f"same_{name}", []).append((clean.argmax(-1) == other.argmax(-1)).float())
            values.setdefault(f"kl_{name}", []).append((clean.exp() * (clean - other)).sum(-1))
    sizes = [len(one) for one in next(iter(values.values()))]
    documents = np.repeat(text.document.numpy(), sizes)
    flat = {name: torch.cat(found).double().numpy() for name, found in values.items()}
    own, *others = ways
    return {
        f"replacement_{name}": over_clusters(
            flat[f"{name}_{own}"], documents, unit=unit, formula=formula, cluster="documents",
            controls={other: flat[f"{name}_{other}"] for other in others},
        )
        for name, unit, formula in (("same", "share", AGREEMENT), ("kl", "nats", DIVERGENCE))
    }  # fmt: skip
