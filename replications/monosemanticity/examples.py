"""Contexts of latents that are chosen at random among the living ones, never by hand or by score."""

from typing import Any

import torch

from replications.monosemanticity.explain import distinguishing_tokens
from replications.monosemanticity.held_out import HeldOut, visible
from replications.monosemanticity.units import Kind

LATENTS, CONTEXTS = 10, 4
BEFORE, BEHIND = 12, 5  # tokens around the strongest one
WORDS = 5


def random_latents(kind: Kind, text: HeldOut, words: list[str], seed: int) -> list[dict[str, Any]]:
    """One row per token of the strongest contexts on judged documents, each from another document."""
    units = kind.activations.shape[1]
    chosen = torch.randperm(units, generator=torch.Generator().manual_seed(seed))[:LATENTS].sort().values
    made, rows = ~text.scored, []
    for unit in chosen.tolist():
        own = kind.activations[:, unit]
        fires = (own > 0) & made
        told = "  ".join(visible(one) for one in distinguishing_tokens(fires, text, words, WORDS))
        top = own * text.scored
        documents: list[int] = []
        for place in top.argsort(descending=True).tolist():
            if len(documents) == CONTEXTS or top[place] <= 0:
                break
            if int(text.document[place]) in documents:
                continue
            documents.append(int(text.document[place]))
            window, pos = divmod(place, text.wide)
            for offset in range(-BEFORE, BEHIND + 1):
                at = pos + 1 + offset  # in the window
                if not 0 <= at < text.windows.shape[1]:
                    continue
                read = 0 < at < text.windows.shape[1] - 1
                level = float(own[place + offset] / own[place]) if read else 0.0
                rows.append(
                    {"unit": unit, "told": told, "rate": float((own > 0).double().mean()), "context": len(documents),
                     "offset": offset, "token": visible(words[int(text.windows[window, at])]), "level": level}
                )  # fmt: skip
    return rows
