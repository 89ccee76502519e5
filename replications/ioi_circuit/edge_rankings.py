"""Rankings of the edges by the finders, and what the circuits of each ranking gain (see edge_attribution.py)."""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.step import track
from common.interp.decoder import Decoder
from common.interp.edge_graph import Graph, edge_scores, run_circuits, strongest
from replications.ioi_circuit.batches import (
    DISCOVERY,
    VERIFICATION,
    Batch,
    balanced,
    by_template,
    disjoint,
    in_chunks,
    passes,
)
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.prompt_statistics import PerPrompt
from replications.ioi_circuit.residual import read_answer, read_difference
from replications.ioi_circuit.settings import EdgeCurves

CHUNK = 8

Gain = dict[tuple[str, float], PerPrompt]
"""For each finder and share of edges, the gain of each prompt."""


def judge_by_template(
    decoder: Decoder, rows: list[Prompt], settings: EdgeCurves
) -> tuple[list[Prompt], dict[str, Tensor], float, Gain, PerPrompt]:
    """Circuits of a discovery set of its own for each verification template.

    Returns:
        The verification prompts by template; mean scores and mean clean logit difference over the sets; what circuits
        and all edges gain on each prompt, as `run_rankings`.
    """
    groups = by_template(balanced(rows, VERIFICATION, settings.curve_prompts))
    sets = disjoint(rows, DISCOVERY, settings.score_prompts, len(groups))
    found = [score(decoder, prompts, settings.ig_steps) for prompts in sets]
    gains, spans = zip(
        *(
            run_rankings(decoder, group, signed(scores), settings, settings.shares)
            for group, (scores, _) in zip(groups, found, strict=True)
        ),
        strict=True,
    )
    scores = {name: torch.stack([one[name] for one, _ in found]).mean(0) for name in found[0][0]}
    gain = {key: np.concatenate([one[key] for one in gains]) for key in gains[0]}
    clean = float(np.mean([difference for _, difference in found]))
    return [prompt for group in groups for prompt in group], scores, clean, gain, np.concatenate(spans)


def logit_difference(
    decoder: Decoder, batch: Batch, final: Float[Tensor, "*n batch pos d_model"]
) -> Float[Tensor, "*n batch"]:
    """logit(IO) - logit(S) at END."""
    last = final[..., torch.arange(len(batch.prompts), device=final.device), batch.at("end"), :]
    return read_difference(decoder.bridge, last, batch.names)


def answers(
    decoder: Decoder, batch: Batch, final: Float[Tensor, "*n batch pos d_model"]
) -> Float[Tensor, "*n batch d_vocab"]:
    """Log probabilities of the next token at END."""
    last = final[..., torch.arange(len(batch.prompts), device=final.device), batch.at("end"), :]
    return read_answer(decoder.bridge, last)


def score(decoder: Decoder, prompts: list[Prompt], ig_steps: int) -> tuple[dict[str, Tensor], float]:
    """Mean scores of both finders and of sizes alone over prompts, and the mean clean logit difference."""
    device = decoder.W_O[0].device.type
    totals: dict[str, Tensor] = {}
    clean_total = 0.0
    for group in track(in_chunks(prompts, CHUNK), "scores"):
        batch = Batch(group, device)
        clean, partner = passes(decoder, batch)
        clean_total += float(logit_difference(decoder, batch, clean.final).sum())
        found = edge_scores(decoder, clean, partner, batch.mask, partial(logit_difference, decoder, batch), ig_steps)
        for name, of_group in found._asdict().items():
            totals[name] = totals.get(name, 0) + of_group.cpu() * len(group) / len(prompts)
    return totals, clean_total / len(prompts)


def signed(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adds `eap_ig_signed`: largest where keeping the edge helps most. A score is the change without the edge."""
    return scores | {"eap_ig_signed": scores["eap_ig"].max() - scores["eap_ig"]}


def run_rankings(
    decoder: Decoder, prompts: list[Prompt], scores: dict[str, Tensor], settings: EdgeCurves, shares: list[float]
) -> tuple[Gain, PerPrompt]:
    """What circuits of each finder, and of random rankings, gain at each share over no circuit; what all edges gain.

    Random rankings are called `random` and a number.
    """
    every = Graph.of(decoder).edges()
    generator = torch.Generator().manual_seed(0)
    rankings = dict(scores)
    drawn = range(settings.random_circuits)
    rankings |= {f"random {number}": torch.rand(every.shape, generator=generator) for number in drawn}
    counts = [max(1, round(share * int(every.sum()))) for share in shares]
    keys = [(name, share) for name in rankings for share in shares]
    masks = [strongest(values, every, count) for values in rankings.values() for count in counts]
    device = decoder.W_O[0].device.type
    parts = []
    for group in track(in_chunks(prompts, CHUNK), "curves"):
        batch = Batch(group, device)
        clean, partner = passes(decoder, batch)
        ends = [logit_difference(decoder, batch, cache.final)[None] for cache in (partner, clean)]
        for start in range(0, len(masks), settings.circuits_per_pass):
            held = torch.stack(masks[start : start + settings.circuits_per_pass]).to(device)
            ends.append(logit_difference(decoder, batch, run_circuits(decoder, clean, partner, batch.mask, held)))
        parts.append(torch.cat(ends).double().cpu().numpy())
    values = np.concatenate(parts, 1)
    return dict(zip(keys, values[2:] - values[0], strict=True)), values[1] - values[0]
