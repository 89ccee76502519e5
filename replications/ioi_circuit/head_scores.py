"""What a head looks at and what it copies: the scores behind the class names (Wang et al. 2022, section 3, appendix H).

Attention on IOI prompts, always as a contrast to where the head would look if the class name were wrong:

    to_io       END: attention to IO minus that to S1 and S2 together
    to_s2       END: attention to S2 minus that to IO and S1 together
    duplicate   S2: attention to S1, minus the same on the ABC partner, where nothing is repeated
    induction   S2: attention to S1+1, minus the same on the ABC partner
    previous    S1+1: attention to S1, minus that to the token before S1

On random tokens repeated once: mean attention one token back, to the same token of the first copy, and to the token
after it; the null is the attention at the offset `WRONG_OFFSET` further back.

Copying: the residual stream at the name's position goes through the head's norm, W_V, W_O and the unembedding; the
score is the share of the other names that end below the one in question (ties count half), mapped from [0, 1] to
[-1, 1]. 0 is chance, 1 copies, -1 suppresses. Wang et al. count how often the name is among the five largest logits;
that saturates and is not 0 for random heads, so the rank is used. `copy_io` reads the name at IO, `copy_s` that at S2.
"""

import einops
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.interp.decoder import Cache, Decoder
from common.interp.partial_forward import at_position
from replications.ioi_circuit.batches import Batch, Place
from replications.ioi_circuit.dataset import Version

CONTRASTS = ("to_io", "to_s2", "duplicate", "induction", "previous")
COPIES = ("copy_io", "copy_s")
WRONG_OFFSET = 7
LOOKS: tuple[tuple[Place, Place], ...] = (
    ("end", "io"),
    ("end", "s1"),
    ("end", "s2"),
    ("s2", "s1"),
    ("s2", "s1_next"),
    ("s1_next", "s1"),
)


def attention(decoder: Decoder, batch: Batch, version: Version) -> tuple[Cache, dict[str, Float[np.ndarray, "head n"]]]:
    """A pass with everything kept, and the attention of every head from one position to another.

    Returns:
        The cache, and `from>to` -> one value for each head (all layers) and prompt; `s1_next>before` is the attention
        to the token before S1.
    """
    seen: dict[str, list[Tensor]] = {}
    rows = torch.arange(len(batch.prompts), device=batch.device)
    places = {f"{start}>{goal}": (batch.at(start), batch.at(goal)) for start, goal in LOOKS}
    places["s1_next>before"] = (batch.at("s1_next"), batch.at("s1") - 1)

    def keep(layer: int, pattern: Tensor) -> None:
        for name, (start, goal) in places.items():
            seen.setdefault(name, []).append(pattern[rows, :, start, goal])

    cache = decoder.forward(batch.tokens(version), batch.mask, keep=True, patterns=keep)
    found = {name: einops.rearrange(values, "layer n head -> (layer head) n") for name, values in seen.items()}
    return cache, {name: values.double().cpu().numpy() for name, values in found.items()}


def contrasts(
    own: dict[str, Float[np.ndarray, "head n"]], abc: dict[str, Float[np.ndarray, "head n"]]
) -> dict[str, Float[np.ndarray, "head n"]]:
    """The five contrasts of the module's docstring."""
    io, s1, s2 = (own[f"end>{goal}"] for goal in ("io", "s1", "s2"))
    return {
        "to_io": io - s1 - s2,
        "to_s2": s2 - io - s1,
        "duplicate": own["s2>s1"] - abc["s2>s1"],
        "induction": own["s2>s1_next"] - abc["s2>s1_next"],
        "previous": own["s1_next>s1"] - own["s1_next>before"],
    }


def repeated_tokens(decoder: Decoder, period: int, batch: int, seed: int) -> dict[str, Float[np.ndarray, " head"]]:
    """Previous-token, duplicate-token and induction scores of every head, and the null of each."""
    generator = torch.Generator().manual_seed(seed)
    size = decoder.bridge.cfg.d_vocab
    once = torch.randint(size // 50, size, (batch, period), generator=generator)
    tokens = torch.cat([once, once], 1).to(decoder.W_O[0].device)
    offsets = {"previous": 1, "duplicate": period, "induction": period - 1}
    found: dict[str, list[Tensor]] = {}

    def keep(layer: int, pattern: Tensor) -> None:
        for name, offset in offsets.items():
            for label, back in ((name, offset), (f"{name}_null", offset + WRONG_OFFSET)):
                stripe = pattern.diagonal(-back, 2, 3)
                second = stripe[..., max(0, period - back) :]  # queries in the second copy only
                found.setdefault(label, []).append(second.mean((0, 2)))

    decoder.forward(tokens, torch.ones_like(tokens, dtype=torch.bool), patterns=keep)
    return {name: torch.cat(values).double().cpu().numpy() for name, values in found.items()}


def copying(
    decoder: Decoder, cache: Cache, batch: Batch, name_ids: Int[Tensor, " name"]
) -> dict[str, Float[np.ndarray, "head n"]]:
    """`copy_io` and `copy_s` of every head on every prompt; `name_ids` are all names of the task."""
    unembed = decoder.bridge.W_U[:, name_ids]
    found = {}
    for label, place, column in (("copy_io", "io", 0), ("copy_s", "s2", 1)):
        right = batch.names[:, column, None] == name_ids
        scores = []
        for layer in range(decoder.n_layers):
            stream = at_position(cache.resid_pre[layer], batch.at("io" if place == "io" else "s2"))
            v = decoder.values(layer, decoder.norm(layer, 0, stream))
            moved = einops.repeat(v, "n kv d -> n (kv g) d", g=decoder.group)
            written = torch.einsum("nhd,hdm->nhm", moved, decoder.W_O[layer])
            logits = decoder.bridge.ln_final(written) @ unembed
            own = logits[right[:, None].expand_as(logits)].reshape(*logits.shape[:2], 1)
            equal = (logits == own).double().sum(-1) - 1  # but for the name itself
            below = ((logits < own).double().sum(-1) + equal / 2) / (len(name_ids) - 1)
            scores.append(2 * below.T - 1)
        found[label] = torch.cat(scores).cpu().numpy()
    return found
