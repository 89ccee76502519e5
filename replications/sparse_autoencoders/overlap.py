"""Step: do two dictionaries that differ only in their seed hold the same latents? (Claim S10; Paulo and Belrose 2025.)

Latents of two SAEs are matched one to one (Hungarian algorithm), once by decoder cosine and once by encoder cosine. A
latent is *shared* if both matchings give it the same partner and its decoder cosine is above 0.7. The dictionaries are
those of the sweep's central point: same data in the same order, other initial weights. The number of a seed is the mean
over the other seeds.

Null: the other dictionary replaced by random directions with the covariance of its decoder rows, encoder equal to the
decoder, so that both matchings have a chance to agree. Beside it stand dictionaries of the later layer. How sharing
goes with the firing rate is the rank correlation of cosine and density; its null permutes the densities.

The same for seeds of other widths and for other sparsities is in `overlap_pairs`.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from scipy.stats import spearmanr
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.step import run
from common.core.tables import Seeded, write_table
from common.saes.saelens import SPARSITY
from replications.sparse_autoencoders.matching import Matcher
from replications.sparse_autoencoders.more_members import late_folders
from replications.sparse_autoencoders.overlap_pairs import pair_metrics, pair_rows
from replications.sparse_autoencoders.settings import Sweep

PERMUTATIONS = 20


def overlap(
    *, index: Path, more: Path, sweep: Sweep, seeds: list[int], metrics: Path, table: Path, pairs: Path
) -> None:
    """Writes `metrics.json`, one row per latent and seed, and one row per pair of dictionaries.

    `index` and `more` lie beside the folders of the SAEs of `train_language` and `train_more`.
    """
    end = f"{sweep.width}-k{sweep.sparsity}-s"
    own, late = [index.parent / f"batch_topk-{end}{seed}" for seed in seeds], late_folders(index, more, sweep, seeds)
    density = [load_file(folder / SPARSITY)["sparsity"].double() for folder in own]
    match = Matcher()
    values: dict[str, list[float]] = {}
    frames = []
    for place, seed in enumerate(seeds):
        found = [match(own[place], other) for at, other in enumerate(own) if at != place]
        cosine = torch.stack([pair[0] for pair in found]).mean(0)
        share = torch.stack([pair[1].double() for pair in found]).mean(0)
        null = [match(own[place], other, 100 * seed + at) for at, other in enumerate(own) if at != place]
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(len(cosine), generator=generator) for _ in range(PERMUTATIONS)]
        permuted = [correlation(cosine, density[place][order]) for order in orders]
        numbers = {
            "overlap": float(share.mean()),
            "overlap_random": float(torch.stack([pair[1].double() for pair in null]).mean()),
            "overlap_late": float(match(own[place], late[(place + 1) % len(seeds)])[1].double().mean()),
            "cosine": float(cosine.mean()),
            "cosine_random": float(torch.stack([pair[0] for pair in null]).mean()),
            "rate_correlation": correlation(cosine, density[place]),
            "rate_correlation_permuted": float(np.mean(permuted)),
        }
        for name, value in numbers.items():
            values.setdefault(name, []).append(value)
        random = torch.stack([pair[0] for pair in null]).mean(0)
        frames.append(
            pd.DataFrame(
                {"seed": seed, "latent": range(len(cosine)), "log10_density": density[place], "cosine": cosine}
                | {"shared": share, "random_cosine": random}
            )
        )
    rows = pair_rows(match, index.parent, more.parent, sweep, seeds)
    write_metrics(metrics, summary(values) | pair_metrics(rows, sweep, seeds))
    for path, frame in ((table, pd.concat(frames)), (pairs, rows)):
        write_table(path, frame)


def correlation(cosine: Float[Tensor, " d_sae"], log_density: Float[Tensor, " d_sae"]) -> float:
    """Spearman's rank correlation, 0 if either is constant."""
    ranked = spearmanr(cosine.numpy(), log_density.numpy()).statistic if bool((cosine != cosine[0]).any()) else np.nan
    return 0.0 if np.isnan(ranked) else float(ranked)


def summary(values: dict[str, list[float]]) -> dict[str, Metric]:
    """Intervals over seeds; the pairs of three seeds are not independent, each seed enters two of them."""
    formulas = {
        "overlap": "share of latents with the same partner by decoder and by encoder (Hungarian) and cosine above 0.7",
        "overlap_random": "overlap with random directions of the other dictionary's covariance",
        "overlap_late": "overlap with the dictionary of the later layer, next seed",
        "cosine": "mean decoder cosine of the one-to-one matching",
        "cosine_random": "the same with random directions of the other dictionary's covariance",
        "rate_correlation": "Spearman correlation of a latent's decoder cosine and its density",
        "rate_correlation_permuted": "mean of the same over 20 permutations of the densities",
    }
    found = Seeded()
    for name, formula in formulas.items():
        found.add(name, values[name], "share" if name.startswith("overlap") else "1", formula)
    found.minus("overlap_minus_random", "overlap", "overlap_random")
    found.minus("cosine_minus_random", "cosine", "cosine_random")
    found.minus("rate_correlation_difference", "rate_correlation", "rate_correlation_permuted")
    return found.found


if __name__ == "__main__":
    run(overlap)
