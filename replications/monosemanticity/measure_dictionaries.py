"""Step: what dictionaries of several widths recover of the loss, how latents split, which are found in two networks.

Bricken et al. 2023, sections "Feature splitting", "Universality", and loss recovered against width (S13). All on
held-out documents. Parts: `loss` (all seeds), `splitting` (the narrowest against the widest dictionary, each in the
model of one seed) and `universality` (every model against the next one, so that each is compared once).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from common.core.files import read_json
from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, run_step
from common.core.tables import write_table
from common.saes.saelens import load_saelens
from replications.monosemanticity.dictionaries import twins
from replications.monosemanticity.families import INSIDE, NEAR, Family, Level, clearest_families, families_of
from replications.monosemanticity.loss_metrics import document_metrics, model_metrics, replacement_metrics
from replications.monosemanticity.model import Models, activations, load_models, losses
from replications.monosemanticity.reconstruction import Row, ngram_losses, substitutes, table
from replications.monosemanticity.settings import Measure
from replications.monosemanticity.structure import (
    Nesting,
    best_correlations,
    nesting,
    sibling_overlap,
    split_share,
    together,
)
from replications.monosemanticity.units import Text, read_text


class MeasureDictionariesFiles(Files):
    tokens: Path
    vocabulary: Path
    models: Path
    index: Path
    """of the dictionaries, whose folders lie beside it"""
    loss: Path
    """metrics of the part `loss`"""
    splitting: Path
    """metrics of the part `splitting`"""
    universality: Path
    """metrics of the part `universality`"""
    ways: Path
    """loss under every way to replace the activations"""
    nests: Path
    families: Path
    pairs: Path
    """best correlations of units with another network"""


def measure_dictionaries(files: MeasureDictionariesFiles, settings: Measure) -> None:
    """Writes the metrics of three parts and the tables of their figures."""
    dictionaries, measures, index = settings.dictionaries, settings.measures, files.index
    stored, trained = load_file(files.tokens), load_models(files.models)
    windows, text = stored["held_out"].long(), read_text(stored["held_out"], stored["document"])
    names = {
        f"{kind}-{width}": f"{kind}-{width}-s{{seed}}" for kind in ("trained", "start") for width in dictionaries.widths
    }
    names |= {kind: f"{kind}-{dictionaries.widths[0]}-s{{seed}}" for kind in (*twins(dictionaries.twins), "relu")}
    judged = windows[(stored["document"] % 2 == 1)][: measures.loss_windows]
    grams = ngram_losses(stored["train"].numpy(), judged.numpy(), trained.shape.d_vocab)
    found: list[list[Row]] = []
    window_losses: list[dict[str, np.ndarray]] = []
    kept: list[dict[str, Tensor]] = []
    nested: list[dict[str, Any]] = []
    trees: dict[int, list[Family]] = {}
    nestings: list[dict[str, float]] = []
    for place, seed in enumerate(trained.seeds):
        saes = {name: load_saelens(index.parent / folder.format(seed=seed)) for name, folder in names.items()}
        weights, before = trained.one(place), trained.untrained().one(place)
        x = activations(weights, windows, trained.shape)[:, 1:].flatten(0, 1)
        fit, scored = x[torch.from_numpy(~text.scored)], x[torch.from_numpy(text.scored)]
        sample = scored[: judged[:, 1:].numel()]
        rows, by_window = table(
            weights, trained.shape, judged, sample, substitutes(saes, fit, dictionaries.sparsity), saes
        )
        latents = {width: saes[f"trained-{width}"].encode(scored) for width in dictionaries.widths}
        untrained = load_saelens(index.parent / f"untrained-{dictionaries.width}-s{seed}")
        x_before = activations(before, windows, trained.shape)[:, 1:].flatten(0, 1)
        kept.append(
            {
                "features": latents[dictionaries.width],
                "neurons": scored,
                "untrained": untrained.encode(x_before[torch.from_numpy(text.scored)]),
            }
        )
        found.append([{"seed": seed, **row} for row in rows])
        window_losses.append(by_window)
        levels = [Level(saes[f"trained-{width}"], active > 0) for width, active in latents.items()]
        one, null = nest(levels, seed)
        nested += [
            {"seed": seed, "kind": kind, "parent": parent, "cosine": cosine, "inside": inside}
            for kind, own in (("own parent", one), ("permuted", null))
            for parent, cosine, inside in zip(*own, strict=True)
        ]
        twin, _ = nest([levels[0], Level(saes["twin1"], saes["twin1"].encode(scored) > 0)], seed)
        nestings.append(summary({"": one, "_permuted": null, "_twin": twin}, levels))
        trees[seed] = families_of(levels, x, text, read_json(files.vocabulary), measures.set_size)
        print(f"seed {seed}: " + ", ".join(f"{row['name']} {row['ce']:.3f}" for row in rows), flush=True)
    write_table(files.ways, [row for rows in found for row in rows])
    documents = stored["document"][stored["document"] % 2 == 1][: measures.loss_windows].numpy()
    metrics = model_metrics(found, grams, untrained_losses(trained, judged)) | replacement_metrics(found, dictionaries)
    write_metrics(files.loss, metrics | document_metrics(metrics, window_losses, documents, dictionaries))
    write_table(files.nests, nested)
    write_table(files.families, clearest_families(trees))
    write_metrics(files.splitting, splitting_metrics(nestings))
    by_pair, lines = universal(kept, trained.seeds, text)
    write_table(files.pairs, lines)
    write_metrics(files.universality, universality_metrics(by_pair))


SPLITTING = {
    "inside": "mean over living latents of the widest dictionary of P(nearest narrow latent fires | it fires)",
    "nested": f"share of them with a cosine of at least {NEAR} and at least {INSIDE} of their firings inside",
    "split": "share of latents of the narrowest dictionary with two or more such children",
    "siblings": "mean Jaccard index of the firings of two children of one parent",
    "pairs": "number of such pairs",
}
UNIVERSALITY = {
    "correlation": "median over living units of the largest correlation with a unit of another network",
    "alive": "share of units that fire on held-out tokens",
    "shared": "share of living units with a correlation of at least 0.5",
}


def untrained_losses(models: Models, windows: Tensor) -> list[float]:
    """Loss of each model before training."""
    before = models.untrained()
    return [float(losses(before.one(place), windows, models.shape).mean()) for place in range(len(models.seeds))]


def nest(levels: list[Level], seed: int) -> tuple[Nesting, Nesting]:
    """Parents in the narrowest dictionary of the widest one's living latents, and the same with neurons permuted."""
    (narrow, fires_narrow), (wide, fires_wide) = levels[0], levels[-1]
    alive = fires_wide.any(0)
    rows, inside = wide.W_dec[alive], together(fires_wide[:, alive], fires_narrow)
    order = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(seed))
    return nesting(rows, narrow.W_dec, inside), nesting(rows[:, order], narrow.W_dec, inside)


def summary(parents: dict[str, Nesting], levels: list[Level]) -> dict[str, float]:
    """The numbers of one seed; `_permuted` for parents that were chosen with permuted neurons, `_twin` for the parents
    of the latents of another narrow dictionary."""
    narrow, fires = levels[0][0].d_sae, levels[-1][1]
    siblings, pairs = sibling_overlap(parents[""], fires[:, fires.any(0)], NEAR, INSIDE)
    out = {"siblings": siblings, "pairs": float(pairs)}
    for ending, own in parents.items():
        out[f"inside{ending}"] = float(own.inside.mean())
        out[f"nested{ending}"] = float(((own.cosine >= NEAR) & (own.inside >= INSIDE)).mean())
        out[f"split{ending}"] = split_share(own, narrow, NEAR, INSIDE)
    return out


def splitting_metrics(each: list[dict[str, float]]) -> dict[str, Metric]:
    """Wide latents in the narrowest dictionary; controls: permuted neurons, and another narrow dictionary's latents."""
    controls = {"permuted_neurons": "_permuted", "another_narrow": "_twin"}
    return {
        name: over_seeds(
            [one[name] for one in each],
            unit="1",
            formula=formula,
            controls={control: [one[name + ending] for one in each] for control, ending in controls.items()}
            if f"{name}_twin" in each[0]
            else {},
        )
        for name, formula in SPLITTING.items()
    }


def universal(
    kept: list[dict[str, Tensor]], seeds: list[int], text: Text
) -> tuple[list[dict[str, float]], list[dict[str, Any]]]:
    """Every model against the next one; null: the other model's activations moved on by half of the windows."""
    found, lines = [], []
    for place, seed in enumerate(seeds):
        other = kept[(place + 1) % len(seeds)]
        values: dict[str, float] = {}
        for kind, own in kept[place].items():
            alive = own.gt(0).any(0).numpy()
            half = len(own) // text.per_window // 2 * text.per_window
            for ending, there in (("", other[kind]), ("_null", other[kind].roll(half, 0))):
                if ending and kind == "untrained":
                    continue
                best = best_correlations(own, there)[alive]
                if not ending:
                    values[f"alive_{kind}"] = float(alive.mean())
                values[f"correlation_{kind}{ending}"] = float(np.median(best))
                values[f"shared_{kind}{ending}"] = float((best >= 0.5).mean())
                lines += [{"seed": seed, "kind": kind + ending, "correlation": float(value)} for value in best]
        found.append(values)
    return found, lines


def universality_metrics(each: list[dict[str, float]]) -> dict[str, Metric]:
    """Latents of two networks beside neurons, latents of untrained networks and other documents."""

    def values(name: str) -> list[float]:
        return [one[name] for one in each]

    found = {}
    for name, formula in UNIVERSALITY.items():
        nulls = {"other_documents": "null"} if f"{name}_neurons_null" in each[0] else {}
        against = {"neurons": f"{name}_neurons", "untrained_networks": f"{name}_untrained"}
        against |= {control: f"{name}_features_{ending}" for control, ending in nulls.items()}
        found[f"{name}_latents"] = over_seeds(
            values(f"{name}_features"), unit="1", formula=f"{formula}; latents",
            controls={control: values(other) for control, other in against.items()},
        )  # fmt: skip
        if nulls:
            found[f"{name}_neurons"] = over_seeds(
                values(f"{name}_neurons"), unit="1", formula=f"{formula}; neurons",
                controls={control: values(f"{name}_neurons_{ending}") for control, ending in nulls.items()},
            )  # fmt: skip
    return found


if __name__ == "__main__":
    run_step(measure_dictionaries)
