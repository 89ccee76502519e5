"""Knock-outs: a circuit is what is left when every other head is replaced by its mean over ABC prompts.

A node is a head at one position (END, S2 or S1+1). Inside the circuit a head is kept only at its positions; it is
ablated everywhere else, as are all other heads at all positions. MLPs, norms and embeddings are never ablated (Wang et
al. 2022, section 2.1). Means are taken per template, so they keep the sentence and lose the names.

Each prompt of a batch has its own positions. Some published code indexes `mask[:, positions, head]`, which keeps the
union of all prompts' positions for every prompt; here rows and positions are paired, and a test with two templates
of different length holds this.
"""

from dataclasses import dataclass
from typing import Literal

import einops
import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.decoder import Decoder
from common.patching import at_position
from replications.ioi_circuit.batches import Batch, Place, by_template
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.residual import read_names

Ablation = Literal["mean", "zero", "resample"]
PLACES: tuple[Place, ...] = ("s1_next", "s2", "end")


@dataclass(frozen=True, order=True)
class Node:
    """A head at one of the three positions; `place` None means at every position."""

    layer: int
    head: int
    place: Place | None

    def __str__(self) -> str:
        return f"{self.layer}.{self.head}@{self.place or 'all'}"


NodeSet = frozenset[Node]


def template_means(
    decoder: Decoder, prompts: list[Prompt], device: str, limit: int | None = None
) -> dict[int, Float[Tensor, "layer pos head d_head"]]:
    """Mean head outputs over the ABC partners of each template; the first `limit` prompts of each if given."""
    means = {}
    for group in by_template(prompts):
        batch = Batch(group[:limit], device)
        cache = decoder.forward(batch.tokens("abc"), batch.mask, keep=True)
        means[group[0].template] = torch.stack([z.mean(0) for z in cache.z])
    return means


class KnockOut:
    """Runs prompts with parts of the model ablated.

    Args:
        decoder: the model.
        prompts: prompts of any templates.
        means: from `template_means`.
        device: where to run.
        batch_size: sequences in one forward pass.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: list[Prompt],
        means: dict[int, Float[Tensor, "layer pos head d_head"]],
        device: str,
        batch_size: int,
    ) -> None:
        self.decoder, self.prompts, self.batch_size = decoder, prompts, batch_size
        self.batch = Batch(prompts, device)
        length = self.batch.mask.shape[1]
        self._positions = {place: self.batch.at(place) for place in PLACES}
        self.means = torch.stack([_fit(means[row.template], length) for row in prompts], 1)

    def keep_mask(self, nodes: NodeSet) -> Bool[Tensor, "layer batch pos head"]:
        """True where a head is kept: each prompt at its own positions."""
        shape = (self.decoder.n_layers, *self.batch.mask.shape, self.decoder.n_heads)
        mask = torch.zeros(shape, dtype=torch.bool, device=self.batch.mask.device)
        rows = torch.arange(len(self.prompts), device=mask.device)
        for node in nodes:
            if node.place is None:
                mask[node.layer, :, :, node.head] = True
            else:
                mask[node.layer, rows, self._positions[node.place], node.head] = True
        return mask

    def differences(
        self, sets: list[NodeSet], *, remove: bool = False, ablation: Ablation = "mean"
    ) -> Float[np.ndarray, "set prompt"]:
        """logit(IO) - logit(S) of every prompt with only the nodes of a set kept, or only these removed.

        Args:
            sets: node sets, run together in batches.
            remove: ablate the nodes and keep everything else.
            ablation: what replaces a head: template mean, zero, or its output on the prompt's ABC partner.
        """
        values = self._values(ablation)
        found = []
        per_pass = max(1, self.batch_size // len(self.prompts))
        for start in range(0, len(sets), per_pass):
            part = sets[start : start + per_pass]
            mask = torch.stack([self.keep_mask(nodes) for nodes in part], 1) ^ remove
            found.append(self._run(values, mask))
        return np.concatenate(found)

    def _values(self, ablation: Ablation) -> Float[Tensor, "layer batch pos head d_head"]:
        if ablation == "mean":
            return self.means
        if ablation == "zero":
            return torch.zeros_like(self.means)
        return torch.stack(self.decoder.forward(self.batch.tokens("abc"), self.batch.mask, keep=True).z)

    def _run(
        self, values: Float[Tensor, "layer batch pos head d_head"], mask: Bool[Tensor, "layer set batch pos head"]
    ) -> Float[np.ndarray, "set prompt"]:
        sets = mask.shape[1]
        tokens, attention = (
            einops.repeat(x, "n t -> (s n) t", s=sets) for x in (self.batch.tokens("original"), self.batch.mask)
        )

        def edit(layer: int, z: Tensor) -> Tensor:
            kept = einops.rearrange(mask[layer], "s n t h -> (s n) t h 1")
            return torch.where(kept, z, einops.repeat(values[layer], "n t h d -> (s n) t h d", s=sets))

        final = self.decoder.forward(tokens, attention, edit).final
        last = at_position(final, self.batch.at("end").repeat(sets))
        logits = read_names(self.decoder.bridge, last[:, None], self.batch.names.repeat(sets, 1))[:, 0]
        difference = (logits[:, 0] - logits[:, 1]).double().cpu().numpy()
        return einops.rearrange(difference, "(s n) -> s n", s=sets)


def _fit(mean: Float[Tensor, "layer pos head d_head"], length: int) -> Float[Tensor, "layer length head d_head"]:
    """Cut or padded to the batch's length; padded positions hold no real token."""
    kept = mean[:, :length]
    missing = length - kept.shape[1]
    return torch.cat([kept, kept[:, -1:].expand(-1, missing, -1, -1)], 1)


def node_set(table: pd.DataFrame) -> NodeSet:
    """The nodes of some rows."""
    rows = zip(table["layer"], table["head"], table["place"], strict=True)
    return frozenset(Node(int(layer), int(head), place) for layer, head, place in rows)


def random_like(nodes: NodeSet, n_heads: int, draws: int, seed: int) -> list[NodeSet]:
    """Random node sets with as many nodes in each layer at each position as `nodes`, drawn among all heads."""
    generator = np.random.default_rng(seed)
    counts: dict[tuple[int, Place | None], int] = {}
    for node in sorted(nodes):
        key = (node.layer, node.place)
        counts[key] = counts.get(key, 0) + 1
    return [
        frozenset(
            Node(layer, int(head), place)
            for (layer, place), count in counts.items()
            for head in generator.choice(n_heads, count, replace=False)
        )
        for _ in range(draws)
    ]
