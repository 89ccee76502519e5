"""Step: what the latents of a natural class of tokens miss, and which latents two layers have in common.

**Natural absorption** (`token_classes`; Chanin et al. 2024, SAEBench): classes of tokens on the training activations,
probe and main latents on half of the documents, everything else on the other half. Beside the SAE stand random classes
of equal token frequencies, and an untrained dictionary (`codes.random_sae`), which has hardly any full absorption
because none of its latents points at a class: a low number alone is no merit.

**Universality between layers**: Pearson correlation of latents of the studied layer with latents of the SAE of the
later layer, on the same held-out tokens; each latent takes its best partner. Nulls go through the same choice: the
later latents with their tokens shuffled, and random directions of the later layer that fire as often. The SAE of the
next seed at the same layer shows how much an equal layer gives. The later SAE is that of the next seed, too: one of the
same seed began with the same rows, and some of that stays after short training (`match_same_start`).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.step import run, track
from common.core.tables import Seeded, write_table
from common.data.models import load_tokenizer
from common.saes.sae import Sae
from common.saes.saelens import load_saelens
from common.saes.stream import Activations
from replications.sparse_autoencoders.codes import central, random_sae
from replications.sparse_autoencoders.more_members import late_folders
from replications.sparse_autoencoders.settings import Sweep
from replications.sparse_autoencoders.sizes import Sizes
from replications.sparse_autoencoders.substitution import read_held_out
from replications.sparse_autoencoders.token_classes import (
    LEAST_F1,
    Discriminants,
    Half,
    classes,
    coded,
    measured,
    prepared,
    random_class,
)

ALIVE = 10  # held-out tokens on which a latent must fire to be matched
NUMBERS = ("recall", "frequent", "rare", "absorbed", "f1", "main")


def natural(
    *,
    manifest: Path,
    early: Path,
    held_out: Path,
    index: Path,
    more: Path,
    sweep: Sweep,
    sizes: Sizes,
    seeds: list[int],
    absorption: Path,
    absorption_table: Path,
    layers: Path,
    layers_table: Path,
) -> None:
    """Writes the metrics and tables of both parts: one row per class, one per latent.

    `index` lies beside the SAEs of the sweep, `more` beside those of the later layer's other seeds.
    """
    data = Activations(early.parent)
    tokenizer = load_tokenizer(manifest.parent)
    vocabulary = [tokenizer.decode([number]) for number in range(len(tokenizer))]
    frame = pd.concat([token_rows(data, vocabulary, index, sweep, sizes, seed) for seed in track(seeds, "classes")])
    write_metrics(absorption, absorption_metrics(frame))
    stored = load_file(held_out)
    first, later = sorted(int(name.removeprefix("resid.")) for name in stored if name.startswith("resid."))
    x, y = read_held_out(stored, first).activations(), read_held_out(stored, later).activations()
    own = [central(index, sweep.width, sweep.sparsity, seed) for seed in seeds]
    late = [load_saelens(folder) for folder in late_folders(index, more, sweep, seeds)]
    matches = layer_rows(x, y, own, late, seeds)
    write_metrics(layers, layer_metrics(matches))
    for path, rows in ((absorption_table, frame), (layers_table, matches)):
        write_table(path, rows)


@torch.inference_mode()
def token_rows(
    data: Activations, vocabulary: list[str], index: Path, sweep: Sweep, sizes: Sizes, seed: int
) -> pd.DataFrame:
    """One row per class (natural or random) and dictionary (trained or untrained)."""
    dice = np.random.default_rng(seed)
    document, names = data.document, torch.unique(data.document)
    chosen = torch.from_numpy(dice.permutation(len(names))[: len(names) // 2])
    first = torch.isin(document, names[chosen])
    places = [where.nonzero()[: sizes.tokens, 0] for where in (first, ~first)]
    fit, test = (Half(data.rows(place), data.token_id[place]) for place in places)
    count = torch.bincount(torch.cat([fit.token, test.token]), minlength=len(vocabulary))
    natural_ones = {name: {one for one in own if count[one] > 0} for name, own in classes(vocabulary).items()}
    discriminants = Discriminants(fit)
    sae = central(index, sweep.width, sweep.sparsity, seed)
    codes = {
        "trained": coded(sae, fit, test),
        "untrained": coded(random_sae(sae, fit.x[: sizes.reference], 100 * seed), fit, test),
    }
    rows: list[dict[str, Any]] = []
    for name, own in natural_ones.items():
        for group, members in (("natural", own), ("random", random_class(sorted(own), count, dice))):
            if not members or (one := prepared(members, fit, test, discriminants, sizes.least)) is None:
                continue
            for kind, code in codes.items():
                if group == "natural" or kind == "trained":
                    found = measured(one, code, fit, test)._asdict()
                    rows.append({"seed": seed, "dictionary": kind, "classes": group, "class": name, **found})
    return pd.DataFrame(rows)


def usable(own: pd.DataFrame) -> pd.DataFrame:
    """The rows of classes that the probe finds (of the best one if it finds none), and those of their random twins."""
    natural_ones = own[(own["classes"] == "natural") & (own["dictionary"] == "trained")]
    good = natural_ones[natural_ones["f1"] >= LEAST_F1]
    kept = good if len(good) else natural_ones.nlargest(1, "f1")
    return own[own["class"].isin(kept["class"])]


def absorption_metrics(frame: pd.DataFrame) -> dict[str, Metric]:
    """Means over usable classes for each seed."""
    frame = frame.assign(gap=frame["frequent"] - frame["rare"])
    by_seed = [usable(own) for _, own in frame.groupby("seed", sort=False)]
    found = Seeded()
    about = f"mean over classes whose probe has F1 >= {LEAST_F1}, or their twins: "
    for end, dictionary, group in (
        ("", "trained", "natural"), ("_random", "trained", "random"), ("_untrained", "untrained", "natural"),
    ):  # fmt: skip
        kept = [own[(own["dictionary"] == dictionary) & (own["classes"] == group)] for own in by_seed]
        for name in (*NUMBERS, "gap"):
            means = [0.0 if part[name].isna().all() else float(part[name].mean()) for part in kept]
            found.add(f"{name}{end}", means, "1" if name == "main" else "share", about + name)
        found.add(f"classes{end}", [float(len(part)) for part in kept], "1", "number of these classes")
    for name in ("recall", "rare", "gap", "absorbed"):
        for other in ("random", "untrained"):
            found.minus(f"{name}_minus_{other}", name, f"{name}_{other}")
    return found.found


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
    """Mean of the best correlation for each seed, and how many latents have one above 0.7."""
    names = {"later": ""} | {one: f"_{one}" for one in ("shuffled", "random", "other_seed", "same_start")}
    about = {
        "later": "the later layer, next seed",
        "shuffled": "the later layer, tokens shuffled",
        "random": "random directions of the later layer",
        "other_seed": "the next seed, same layer",
        "same_start": "the later layer, same seed",
    }
    by_seed, found = frame.groupby("seed", sort=False), Seeded()
    for column, end in names.items():
        formula = f"correlation with the best matching latent of {about[column]}, mean over latents"
        found.add(f"match{end}", by_seed[column].mean().tolist(), "1", formula)
        share = [float((own[column] > 0.7).mean()) for _, own in by_seed]
        found.add(
            f"matched{end}", share, "share", f"share of latents with a correlation above 0.7 with {about[column]}"
        )
    for name in ("match", "matched"):
        for other in ("shuffled", "random"):
            found.minus(f"{name}_minus_{other}", name, f"{name}_{other}")
    return found.found


if __name__ == "__main__":
    run(natural)
