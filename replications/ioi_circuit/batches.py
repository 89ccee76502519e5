"""Prompts as tensors: a balanced choice of prompts, their tokens, positions and names, and passes over them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from common.core.errors import UserError
from common.data.models import load_model
from common.interp.decoder import Cache, Decoder
from replications.ioi_circuit.dataset import Prompt, Version, read_prompts

Place = Literal["io", "s1", "s1_next", "s2", "end"]
DISCOVERY, VERIFICATION = 1, 0
"""Half 1 has the odd templates, half 0 the even ones, 22 each; they share no name."""


@dataclass(frozen=True)
class Batch:
    """Prompts of one batch; tensors are cut to the longest of them."""

    prompts: list[Prompt]
    device: str

    @property
    def mask(self) -> Bool[Tensor, "batch pos"]:
        return torch.tensor([row.attention[: self._length] for row in self.prompts], device=self.device).bool()

    @property
    def names(self) -> Int[Tensor, "batch two"]:
        """Token ids of IO and S."""
        return torch.tensor([[row.io_id, row.s_id] for row in self.prompts], device=self.device)

    @property
    def _length(self) -> int:
        return max(row.positions.end for row in self.prompts) + 1

    def tokens(self, version: Version) -> Int[Tensor, "batch pos"]:
        rows = [row.versions[version].tokens[: self._length] for row in self.prompts]
        return torch.tensor(rows, device=self.device)

    def at(self, place: Place) -> Int[Tensor, " batch"]:
        """Index of one position in each prompt."""
        return torch.tensor([getattr(row.positions, place) for row in self.prompts], device=self.device)


def load_circuit_prompts(manifest: Path, prompts: Path, device: str) -> tuple[Decoder, list[Prompt]]:
    """The model, and the prompts on which the circuit is searched and tested."""
    rows = read_prompts(prompts, "circuit_prompts")
    return Decoder(load_model(manifest.parent, device=device), max(row.positions.end for row in rows) + 1), rows


def passes(decoder: Decoder, batch: Batch) -> tuple[Cache, Cache]:
    """The prompts and their ABC partners, in one pass with `keep`."""
    tokens = torch.cat([batch.tokens("original"), batch.tokens("abc")])
    clean, other = decoder.forward(tokens, batch.mask.repeat(2, 1), keep=True).chunk(2)
    return clean, other


def balanced(prompts: list[Prompt], half: int, count: int, first: int = 0) -> list[Prompt]:
    """About `count` prompts of one half; templates, orders and seeds as even as `count` allows.

    Prompts are dealt in rounds: a round takes one prompt of each template, beginning with the one in place `first`;
    order and seed change from round to round and from template to template. Seeds move on by one more whenever order
    and seed would come together again, so that each seed gives prompts of either order. Sorted by template, so that a
    batch holds prompts of one length.
    """
    templates = sorted({row.template for row in prompts if row.half == half})
    templates = templates[first:] + templates[:first]
    seeds = sorted({row.seed for row in prompts})
    cells = {
        (template, order, seed): [
            row for row in prompts if (row.template, row.order, row.seed) == (template, order, seed)
        ]
        for template in templates
        for order in ("ABBA", "BABA")
        for seed in seeds
    }
    chosen: list[Prompt] = []
    for number in range(count):
        turn, which = divmod(number, len(templates))
        step = turn + which
        order = ("ABBA", "BABA")[step % 2]
        seed = seeds[(step + step // math.lcm(2, len(seeds))) % len(seeds)]
        left = cells[templates[which], order, seed] or next(
            (cell for key, cell in cells.items() if key[0] == templates[which] and cell), []
        )
        if left:
            chosen.append(left.pop(0))
    return sorted(chosen, key=lambda row: (row.template, row.seed, row.order))


def disjoint(prompts: list[Prompt], half: int, count: int, sets: int) -> list[list[Prompt]]:
    """`sets` balanced choices of `count` prompts each, none of which is in two of them. A choice begins with the
    template behind the last one of the choice before, so that small sets differ in their templates, too.

    Raises:
        UserError: the half has too few prompts.
    """
    left, drawn = prompts, []
    templates = len({prompt.template for prompt in prompts if prompt.half == half})
    for number in range(sets):
        first = number * count % max(templates, 1)
        chosen = balanced(left, half, count, first) if any(prompt.half == half for prompt in left) else []
        if len(chosen) < count:
            raise UserError(
                f"half {half} has too few prompts for {sets} sets of {count}: lower score_prompts or raise "
                "circuit_per_cell in config.yaml"
            )
        taken = {prompt.versions["original"].text for prompt in chosen}
        left = [prompt for prompt in left if prompt.versions["original"].text not in taken]
        drawn.append(chosen)
    return drawn


def by_template(prompts: list[Prompt]) -> list[list[Prompt]]:
    """Prompts grouped by template, in order."""
    return [
        [row for row in prompts if row.template == template] for template in sorted({row.template for row in prompts})
    ]


def whole_templates(prompts: list[Prompt], most: int) -> list[list[Prompt]]:
    """Prompts in order of their templates, at most `most` at a time, where no template is larger; none is cut."""
    chunks: list[list[Prompt]] = [[]]
    for group in by_template(prompts):
        if chunks[-1] and len(chunks[-1]) + len(group) > most:
            chunks.append([])
        chunks[-1] += group
    return chunks


def in_chunks(prompts: list[Prompt], size: int) -> list[list[Prompt]]:
    """Prompts in order, `size` at a time; padding is masked, so templates may mix."""
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]
