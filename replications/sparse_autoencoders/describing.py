"""What latents are described by: the tokens on which they are strongest, and the text around one token."""

from collections.abc import Callable

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from replications.sparse_autoencoders.baselines import AT_ONCE

STRONGEST = 20
Codes = Callable[[Float[Tensor, "token d"]], Float[Tensor, "token unit"]]
Decode = Callable[[list[int]], str]


@torch.inference_mode()
def described(code: Codes, pool: Float[Tensor, "token d"], tokens: Int[Tensor, " token"], width: int) -> pd.DataFrame:
    """How often each latent fires on the pool, and the purity of those that fire often enough (else NaN)."""
    fires = torch.zeros(width)
    top, at = torch.zeros(STRONGEST, width), torch.zeros(STRONGEST, width, dtype=torch.long)
    for start in range(0, len(pool), AT_ONCE):
        latents = code(pool[start : start + AT_ONCE])
        fires += (latents > 0).sum(0)
        places = torch.arange(start, start + len(latents))[:, None].expand_as(latents)
        values, order = torch.cat([top, latents]).topk(STRONGEST, dim=0)
        top, at = values, torch.cat([at, places]).gather(0, order)
    commonest = tokens[at].mode(0)
    purity = (tokens[at] == commonest.values).double().mean(0)
    purity[fires < STRONGEST] = float("nan")
    return pd.DataFrame({"latent": range(width), "fires": fires.numpy(), "purity": purity.numpy(),
                         "token": commonest.values.numpy()})  # fmt: skip


def shown(tokens: Int[Tensor, " pos"], real: Bool[Tensor, " pos"], place: int, around: int, decode: Decode) -> str:
    """The text around one token, which stands in brackets."""
    ids = tokens[real].tolist()
    before, after = decode(ids[max(0, place - around) : place]), decode(ids[place + 1 : place + 1 + around])
    return f"{before}[{decode([ids[place]])}]{after}"
