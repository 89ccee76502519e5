"""Step: which latents two layers have in common.

Pearson correlation of latents of the studied layer with latents of the SAE of the later layer, on the same held-out
tokens; each latent takes its best partner. Nulls go through the same choice: the later latents with their tokens
shuffled, and random directions of the later layer that fire as often. The SAE of the next seed at the same layer shows
how much an equal layer gives. The later SAE is that of the next seed, too: one of the same seed began with the same
rows, and some of that stays after short training (`match_same_start`).
"""

from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.saes.index import read_index
from common.saes.sae import Sae
from replications.sparse_autoencoders.readouts import random_sae
from replications.sparse_autoencoders.settings import Sweep
from replications.sparse_autoencoders.substitution import layers_of, read_held_out
from replications.sparse_autoencoders.sweep import central

ALIVE = 10  # held-out tokens on which a latent must fire to be matched
MATCHED = 0.7  # correlation
PARTNERS = {
    "later": "the later layer, next seed",
    "shuffled": "the later layer, tokens shuffled",
    "random": "random directions of the later layer",
    "other_seed": "the next seed, same layer",
    "same_start": "the later layer, same seed",
}
CONTROLS = {"shuffled": "shuffled_tokens", "random": "random_directions"}


class LayersFiles(Files):
    index: Path
    held_out: Path
    metrics: Path
    latents: Path
    """one row per living latent and seed"""


def layers(files: LayersFiles, settings: Sweep, run: RunInfo) -> None:
    """Writes `metrics.json` and the table."""
    stored, index = load_file(files.held_out), read_index(files.index)
    x, y = (read_held_out(stored, layer).activations() for layer in layers_of(stored))
    early, late = ([index.load(central(settings, seed, kind)) for seed in run.seeds] for kind in ("batch_topk", "late"))
    rows = layer_rows(x, y, early, late, run.seeds)
    write_metrics(files.metrics, layer_metrics(rows))
    write_table(files.latents, rows)


@torch.inference_mode()
def layer_rows(
    x: Float[Tensor, "token d_model"],
    y: Float[Tensor, "token d_model"],
    early: list[Sae],
    late: list[Sae],
    seeds: list[int],
) -> pd.DataFrame:
    """The largest correlation of each living latent with those of the later layer, of the nulls and of another seed."""
    codes, later = [sae.encode(x) for sae in early], [standard(sae.encode(y)) for sae in late]
    own = [standard(one) for one in codes]
    frames = []
    for place, seed in enumerate(seeds):
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
        after = (place + 1) % len(seeds)
        others = {
            "later": later[after],
            "shuffled": later[after][order],
            "random": standard(random_sae(late[after], y, 100 * seed + 1).encode(y)),
            "other_seed": own[after],
            "same_start": later[place],
        }
        best = {name: (own[place].mT @ other).amax(1) for name, other in others.items()}
        alive = (codes[place] > 0).sum(0) >= ALIVE
        density = (codes[place] > 0).double().mean(0)
        columns = {name: value[alive] for name, value in {"density": density, **best}.items()}
        frames.append(pd.DataFrame({"seed": seed, "latent": alive.nonzero()[:, 0], **columns}))
    return pd.concat(frames)


def standard(latents: Float[Tensor, "token latent"]) -> Float[Tensor, "token latent"]:
    """Centred and of norm 1 over tokens, so that products are correlations; 0 where there is none."""
    centred = latents - latents.mean(0)
    norm = centred.norm(dim=0)
    use = (norm > 0) & ((latents > 0).sum(0) >= ALIVE)
    return torch.where(use, centred / norm.clamp(min=1e-30), 0.0)


def layer_metrics(frame: pd.DataFrame) -> dict[str, Metric]:
    """Mean of the best correlation for each seed, and how many latents have a high one."""
    by_seed = frame.groupby("seed", sort=False)

    def match(column: str) -> list[float]:
        return [float(value) for value in by_seed[column].mean()]

    def matched(column: str) -> list[float]:
        return [float((own[column] > MATCHED).mean()) for _, own in by_seed]

    found = {}
    for name, number, unit, about in (
        ("match", match, "1", "correlation with the best matching latent of {}, mean over latents"),
        ("matched", matched, "share", f"share of latents with a correlation above {MATCHED} with {{}}"),
    ):
        for column, partner in PARTNERS.items():
            if column not in CONTROLS:
                controls = {control: number(key) for key, control in CONTROLS.items()} if column == "later" else {}
                end = "" if column == "later" else f"_{column}"
                formula = about.format(partner)
                found[name + end] = over_seeds(number(column), unit=unit, formula=formula, controls=controls)
    return found


if __name__ == "__main__":
    run_step(layers)
