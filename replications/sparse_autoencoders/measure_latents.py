"""Step: have the latents become more than their random start, and do they mean one thing each?

- `start_cosine`: median over living latents of the cosine of a decoder row with its first value. Beside it the
  soft-frozen rows, which may not fall below 0.8.
- `purity`: for each latent that fires at least 20 times, the share of the commonest token among the 20 tokens on which
  it is strongest. Mean over latents. Beside it the untrained dictionary. Soft-frozen latents stand apart as
  `purity_soft_frozen`: how pure latents are says little about how far they went.
- `overlap`: share of latents that another seed has too (Paulo and Belrose 2025, 2501.16615). The one-to-one matchings
  by decoder and by encoder agree and the decoder cosine is above 0.7. Null: random directions of the same covariance.
  Beside it soft-frozen dictionaries and shorter trainings, two seeds of each.

With shorter trainings (scale `full`) each number is also given by length. The table of examples holds ten living
latents of the first seed, drawn at random, with their strongest held-out contexts.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import load_tokenizer
from common.saes.architectures.base import random_rows
from common.saes.index import Index, read_index
from common.saes.metrics import principal
from common.saes.stream import Activations
from replications.sparse_autoencoders.baselines import AT_ONCE, untrained_code
from replications.sparse_autoencoders.describing import STRONGEST, Codes, Decode, described, shown
from replications.sparse_autoencoders.matching import Matcher
from replications.sparse_autoencoders.settings import MeasureLanguage, Sweep
from replications.sparse_autoencoders.substitution import HeldOut, layers_of, read_held_out
from replications.sparse_autoencoders.sweep import central

EXAMPLES, CONTEXTS, AROUND = 10, 3, 8


class LatentsFiles(Files):
    manifest: Path
    """of the language model"""
    index: Path
    starts: Path
    """first decoder rows of the main dictionaries"""
    main: Path
    """manifest of the training activations"""
    held_out: Path
    metrics: Path
    latents: Path
    """one row per latent of the main dictionaries"""
    lengths: Path
    """one row per seed and length of training"""
    examples: Path


def measure_latents(files: LatentsFiles, settings: MeasureLanguage, run: RunInfo) -> None:
    """Writes `metrics.json` and the tables."""
    index, sweep, seeds = read_index(files.index), settings.sweep, run.seeds
    data = Activations(files.main.parent)
    pool, tokens = data.first(settings.evaluation.pool), data.token_id[: settings.evaluation.pool]
    starts = load_file(files.starts)
    match = Matcher()
    lengths = {1.0: "batch_topk"} | {share: f"short{share:g}" for share in sweep.lengths}
    frames, rows = [], []
    for seed in seeds:
        start = starts[central(sweep, seed)]
        for share, prefix in [*lengths.items(), (1.0, "soft")]:
            name = central(sweep, seed, prefix)
            sae = index.load(name)
            one = described(sae.encode, pool, tokens, sae.d_sae)
            one["start_cosine"] = torch.cosine_similarity(sae.W_dec, start, dim=1).numpy()
            alive = one["fires"] > 0
            row = {"seed": seed, "share": share, "kind": prefix, "live": float(alive.mean())}
            row |= {"start_cosine": float(one["start_cosine"][alive].median()), "purity": float(one["purity"].mean())}
            row |= shared_with_others(match, index, sweep, seed, seeds, prefix)
            rows.append(row)
            if prefix == "batch_topk":
                frames.append(one.assign(seed=seed))
    frame = pd.DataFrame(rows)
    mean, _ = principal(pool)
    pure = []
    for seed in seeds:
        random = random_rows(sweep.width, pool.shape[1], torch.Generator().manual_seed(seed))
        code = untrained_code(mean, random, sweep.sparsity)
        pure.append(float(described(code, pool, tokens, sweep.width)["purity"].mean()))
    write_table(files.latents, pd.concat(frames))
    write_table(files.lengths, frame)
    stored = load_file(files.held_out)
    held = read_held_out(stored, layers_of(stored)[0])
    sae = index.load(central(sweep, seeds[0]))
    living = np.flatnonzero(frames[0]["fires"] >= STRONGEST)
    chosen = np.random.default_rng(seeds[0]).permutation(living)[:EXAMPLES]
    tokenizer = load_tokenizer(files.manifest.parent)
    write_table(files.examples, examples(sae.encode, held, torch.from_numpy(chosen), lambda ids: tokenizer.decode(ids)))
    write_metrics(files.metrics, summary(frame, pure))


def shared_with_others(
    match: Matcher, index: Index, sweep: Sweep, seed: int, seeds: list[int], prefix: str
) -> dict[str, float]:
    """Mean overlap with the other seeds and, of rows that are free, with random directions like theirs."""
    own = index.path(central(sweep, seed, prefix))
    others = [index.path(central(sweep, other, prefix)) for other in seeds if other != seed]
    found = [match(own, other)[1].double().mean() for other in others]
    row = {"overlap": float(torch.stack(found).mean())}
    if prefix != "soft":
        null = [match(own, other, 100 * seed + at)[1].double().mean() for at, other in enumerate(others)]
        row["overlap_random"] = float(torch.stack(null).mean())
    return row


@torch.inference_mode()
def examples(code: Codes, held: HeldOut, latents: Int[Tensor, " latent"], decode: Decode) -> pd.DataFrame:
    """The strongest held-out contexts of some latents, of distinct documents, with the token in brackets."""
    x, window, place = held.activations(), *torch.nonzero(held.used, as_tuple=True)
    strength = torch.cat([code(part)[:, latents] for part in torch.split(x, AT_ONCE)])
    rows = []
    for column, latent in enumerate(latents.tolist()):
        seen: set[int] = set()
        for at in strength[:, column].argsort(descending=True).tolist():
            document = int(held.document[window[at]])
            if len(seen) == CONTEXTS or strength[at, column] <= 0:
                break
            if document not in seen:
                seen.add(document)
                text = shown(held.tokens[window[at]], held.real[window[at]], int(place[at]), AROUND, decode)
                rows.append(
                    {"latent": latent, "rank": len(seen), "strength": float(strength[at, column]), "text": text}
                )
    return pd.DataFrame(rows, columns=["latent", "rank", "strength", "text"])


def summary(frame: pd.DataFrame, pure: list[float]) -> dict[str, Metric]:
    """Over seeds, and by length where there are shorter trainings."""
    whole, soft = frame[frame["kind"] == "batch_topk"], frame[frame["kind"] == "soft"]
    shorter = {float(share): frame[frame["share"] == share] for share in sorted(set(frame["share"])) if share < 1}
    found = {
        "start_cosine": over_seeds(
            whole["start_cosine"].tolist(), unit="1", controls={"soft_frozen": soft["start_cosine"].tolist()},
            formula="median over living latents of the cosine of a decoder row with its random start",
        ),
        "purity": over_seeds(
            whole["purity"].tolist(), unit="share", controls={"random_dictionary": pure},
            formula=f"share of the commonest token among the {STRONGEST} strongest, mean over latents",
        ),
        "purity_soft_frozen": over_seeds(soft["purity"].tolist(), unit="share", formula="purity, soft-frozen latents"),
        "live": over_seeds(whole["live"].tolist(), unit="share", formula="share of latents that fire on the pool"),
        "overlap": over_seeds(
            whole["overlap"].tolist(), unit="share",
            controls={
                "random_directions": whole["overlap_random"].tolist(), "soft_frozen": soft["overlap"].tolist(),
                **{f"after_{round(100 * share)}_percent": own["overlap"].tolist() for share, own in shorter.items()},
            },
            formula="share of latents with the same partner by decoder and by encoder (Hungarian) and cosine above 0.7",
        ),
    }  # fmt: skip
    for share, rows in shorter.items():
        for key, unit in (("start_cosine", "1"), ("purity", "share"), ("overlap", "share")):
            found[f"{key}_at_{round(100 * share)}_percent"] = over_seeds(
                rows[key].tolist(), unit=unit, formula=f"{key} after {share:g} of the training"
            )
    return found


if __name__ == "__main__":
    run_step(measure_latents)
