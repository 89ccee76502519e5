"""Prompts as trees of tokens: what several prompts begin with is run once, and nothing is padded.

Prompts in one chat format share the template's head, and often the first words. All prompts of a tree stand in one row,
one column for each distinct beginning. A token attends to the tokens of its own beginning, at their own positions. The
template's tail is never shared: what it attends to differs.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Tree(NamedTuple):
    """Some prompts in one row. A model reads it as it reads a batch (`ids`, `mask`, `places`); several rows may follow,
    which share mask and positions."""

    ids: Int[Tensor, "1 node"]
    mask: Float[Tensor, "1 1 node node"]
    places: Int[Tensor, "1 node"]
    prompts: Int[Tensor, " prompt"]
    ends: Int[Tensor, " prompt"]
    paths: list[list[int]]

    def repeat(self, times: int) -> "Tree":
        """`times` rows of it."""
        return self._replace(ids=self.ids.repeat(times, 1))


def trees(model: Any, prompts: list[list[int]], size: int) -> list[Tree]:
    """Trees of at most `size` prompts, those that begin alike together. Of a tree, `prompts` are their places in the
    list, `paths` the columns of their tokens, `ends` those of their last ones. The mask is what the model's attention
    adds to its scores."""
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    return [_tree(model, prompts, order[start : start + size]) for start in range(0, len(order), size)]


def _tree(model: Any, prompts: list[list[int]], some: list[int]) -> Tree:
    beginnings = {tuple(prompts[at][:end]): None for at in some for end in range(1, len(prompts[at]) + 1)}
    node = {beginning: number for number, beginning in enumerate(beginnings)}
    mask = torch.full((len(node), len(node)), torch.finfo(model.dtype).min, dtype=model.dtype)
    for beginning, number in node.items():
        mask[number, [node[beginning[:end]] for end in range(1, len(beginning) + 1)]] = 0
    columns = zip(*((beginning[-1], len(beginning) - 1) for beginning in node), strict=True)
    paths = [[node[tuple(prompts[at][:end])] for end in range(1, len(prompts[at]) + 1)] for at in some]
    ends = [path[-1] for path in paths]
    ids, places, prompt, end = (torch.tensor(x, device=model.device) for x in (*columns, some, ends))
    return Tree(ids[None], mask[None, None].to(model.device), places[None], prompt, end, paths)
