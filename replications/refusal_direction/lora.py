"""Low-rank fine-tuning (Hu et al. 2021, arXiv 2106.09685): W + B A, B [out, rank] from zero, A [rank, in] random.

Deviation: no scale alpha / rank; the learning rate takes its place. `merge` writes W + B A into the weight, so the
saved model is an ordinary one.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LowRank(torch.nn.Module):
    """A linear map whose weight stays and whose change has the given rank."""

    def __init__(self, linear: torch.nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        device = linear.weight.device
        self.down = torch.nn.Parameter(torch.randn(rank, linear.in_features, device=device) / linear.in_features**0.5)
        self.up = torch.nn.Parameter(torch.zeros(linear.out_features, rank, device=device))

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """W x + B A x."""
        return self.linear(x) + F.linear(F.linear(x, self.down), self.up)  # type: ignore[no-any-return]


def low_rank(blocks: torch.nn.ModuleList, rank: int) -> list[torch.nn.Parameter]:
    """Puts a `LowRank` in the place of every matrix of the blocks; what is to be trained."""
    found: list[torch.nn.Parameter] = []
    for parent, name in _matrices(blocks, torch.nn.Linear):
        layer = LowRank(getattr(parent, name), rank)
        setattr(parent, name, layer)
        found += [layer.down, layer.up]
    return found


@torch.no_grad()
def merge(blocks: torch.nn.ModuleList) -> None:
    """Ordinary linear maps again, with the change in their weights."""
    for parent, name in _matrices(blocks, LowRank):
        layer = getattr(parent, name)
        layer.linear.weight += layer.up @ layer.down
        setattr(parent, name, layer.linear)


def _matrices(blocks: torch.nn.ModuleList, kind: type) -> list[tuple[torch.nn.Module, str]]:
    parents = [block.get_submodule(part) for block in blocks for part in ("self_attn", "mlp")]
    return [(parent, name) for parent in parents for name in MATRICES if isinstance(getattr(parent, name, None), kind)]
