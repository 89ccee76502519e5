"""The replacement model: the model with every MLP's output, but at position 0, replaced by its transcoder's prediction
(Ameisen et al. 2025: the same top token on 50 % of filtered prompts).

Controls: untrained encoders with fitted decoders (language_untrained.py), and the bias alone, about the mean
output.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from common.core.metrics import Metric
from common.core.statistics import over_clusters
from common.saes.harvest import Windows
from common.saes.sae import Sae

AGREEMENT = "share of positions at which the replacement model's likeliest token is the model's"
DIVERGENCE = "KL of the replacement model's next-token distribution from the model's"


def replaced(bridge: "object", tokens: Tensor, real: Tensor, make: Callable[[int, Tensor], Tensor]) -> Tensor:
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


def replacement_metrics(bridge: "object", text: Windows, saes: list[Sae], untrained: list[Sae]) -> dict[str, Metric]:
    """Top-1 agreement and KL over documents, beside untrained encoders and the biases alone."""
    values: dict[str, list[Tensor]] = {}
    for row in range(len(text.tokens)):
        tokens, real = text.tokens[row : row + 1], text.real[row : row + 1]
        tokens, real = tokens[:, real[0]], real[:, real[0]]
        clean = bridge(tokens)[0, 1:].log_softmax(-1)  # type: ignore[operator]
        ways: dict[str, Callable[[int, Tensor], Tensor]] = {
            "transcoders": lambda layer, x: saes[layer].reconstruct(x),
            "untrained": lambda layer, x: untrained[layer].reconstruct(x),
            "biases": lambda layer, x: saes[layer].b_dec.expand_as(x),
        }
        for name, way in ways.items():
            other = replaced(bridge, tokens, real, way)[0, 1:].log_softmax(-1)
            values.setdefault(f"same_{name}", []).append((clean.argmax(-1) == other.argmax(-1)).float())
            values.setdefault(f"kl_{name}", []).append((clean.exp() * (clean - other)).sum(-1))
    sizes = [len(one) for one in values["same_biases"]]
    documents = np.repeat(text.document.numpy(), sizes)
    flat = {name: torch.cat(found).double().numpy() for name, found in values.items()}
    return {
        f"replacement_{name}": over_clusters(
            flat[f"{name}_transcoders"], documents, unit=unit, formula=formula, cluster="documents",
            controls={other: flat[f"{name}_{other}"] for other in ("untrained", "biases")},
        )
        for name, unit, formula in (("same", "share", AGREEMENT), ("kl", "nats", DIVERGENCE))
    }  # fmt: skip
