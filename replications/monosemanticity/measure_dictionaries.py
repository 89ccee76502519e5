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
from common.core.metrics import write_metrics
from common.core.step import run
from common.core.tables import Seeded, write_table
from common.saes.saelens import load_saelens
from replications.monosemanticity.dictionaries import twins
from replications.monosemanticity.documents import under_documents
from replications.monosemanticity.families import INSIDE, NEAR, Family, Level, clearest_families, families_of
from replications.monosemanticity.model import Models, activations, load_models, losses
from replications.monosemanticity.reconstruction import (
    luck,
    ngram_losses,
    recovered,
    resampled_recovery,
    rise,
    substitutes,
    table,
)
from replications.monosemanticity.settings import Dictionaries, Measures
from replications.monosemanticity.structure import (
    Nesting,
    best_correlations,
    nesting,
    sibling_overlap,
    split_share,
    together,
)
from replications.monosemanticity.units import Text, read_text


def measure_dictionaries(
    *,
    tokens: Path,
    vocabulary: Path,
    models: Path,
    index: Path,
    dictionaries: Dictionaries,
    measures: Measures,
    loss: Path,
    splitting: Path,
    universality: Path,
    ways: Path,
    nests: Path,
    families: Path,
    pairs: Path,
) -> None:
    """Writes the metrics of three parts and the tables of their figures. `index` lies beside the dictionaries."""
    stored, trained = load_file(tokens), load_models(models)
    windows, text = stored["held_out"].long(), read_text(stored["held_out"], stored["document"])
    names = {
        f"{kind}-{width}": f"{kind}-{width}-s{{seed}}" for kind in ("trained", "start") for width in dictionaries.widths
    }
    names |= {kind: f"{kind}-{dictionaries.widths[0]}-s{{seed}}" for kind in (*twins(dictionaries.twins), "relu")}
    judged = windows[(stored["document"] % 2 == 1)][: measures.loss_windows]
    grams = ngram_losses(stored["train"].numpy(), judged.numpy(), trained.shape.d_vocab)
    found: list[list[dict[str, Any]]] = []
    window_losses: list[dict[str, np.ndarray]] = []
    kept: list[dict[str, Tensor]] = []
    nested: list[dict[str, Any]] = []
    trees: dict[int, list[Family]] = {}
    parents: list[dict[str, float]] = []
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
        parents.append(summary({"": one, "_null": null, "_twin": twin}, levels))
        trees[seed] = families_of(levels, x, text, read_json(vocabulary), measures.set_size)
        print(f"seed {seed}: " + ", ".join(f"{row['name']} {row['ce']:.3f}" for row in rows), flush=True)
    write_table(ways, [row for rows in found for row in rows])
    documents = stored["document"][stored["document"] % 2 == 1][: measures.loss_windows].numpy()
    before_training = untrained_losses(trained, judged)
    out = loss_metrics(found, dictionaries.widths, grams, before_training)
    rises(out, window_losses, documents, dictionaries.widths)
    write_metrics(loss, out.found)
    write_table(nests, nested)
    write_table(families, clearest_families(trees))
    write_metrics(splitting, splitting_metrics(parents).found)
    by_pair, lines = universal(kept, trained.seeds, text)
    write_table(pairs, lines)
    found_pairs = over(by_pair, UNIVERSALITY)
    for left, right in (("untrained", "features"), ("neurons", "features"), ("untrained", "neurons")):
        found_pairs.minus(f"correlation_{left}_minus_{right}", f"correlation_{left}", f"correlation_{right}")
    write_metrics(universality, found_pairs.found)


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


def loss_metrics(
    found: list[list[dict[str, Any]]], widths: list[int], grams: dict[str, float], before: list[float]
) -> Seeded:
    """Losses, loss recovered, what rises with width, and TopK against ReLU dictionaries of the narrowest."""
    out = Seeded()
    ce = [{str(row["name"]): float(row["ce"]) for row in rows} for rows in found]
    by_name = [{str(row["name"]): row for row in rows} for rows in found]
    out.add("ce_model", [one["clean"] for one in ce], "nats", "cross-entropy of the next token, held-out documents")
    out.add("ce_untrained", before, "nats", "the same before training")
    for gram, value in grams.items():
        out.add(f"gain_over_{gram}", [value - one["clean"] for one in ce], "nats", f"ce of the {gram} table - ce_model")
        out.add(f"gain_over_{gram}_untrained", [value - one for one in before], "nats", "the same before training")
        out.minus(f"gain_over_{gram}_difference", f"gain_over_{gram}", f"gain_over_{gram}_untrained")
    for name in ce[0]:
        key = name.replace("-", "_")
        if name not in ("clean", "zero"):
            for ablation in ("zero", "mean"):
                values = [recovered(rows, name, ablation) for rows in found]
                text = f"(ce_{ablation} - ce) / (ce_{ablation} - ce_clean), activations replaced: {name}"
                out.add(f"recovered_{ablation}_{key}", values, "share", text)
        if name != "clean":
            out.add(f"delta_ce_{key}", [one[name] - one["clean"] for one in ce], "nats", "added cross-entropy")
            out.add(f"fvu_{key}", [float(own[name]["fvu"]) for own in by_name], "share", "variance unexplained")
        if name == "relu" or name.startswith("trained"):
            out.add(f"dead_{key}", [float(own[name]["dead"]) for own in by_name], "share", "latents that never fire")
            out.add(f"l0_{key}", [float(own[name]["l0"]) for own in by_name], "1", "active latents per token")
    out.found["dead_widest"] = out.found[f"dead_trained_{widths[-1]}"]
    for ablation in ("zero", "mean"):
        start = (f"recovered_{ablation}_start_{width}" for width in (widths[-1], widths[0]))
        out.minus(f"rise_{ablation}_start", *start)
        for other in ("components", "neurons", f"start_{widths[-1]}"):
            wide = f"recovered_{ablation}_trained_{widths[-1]}"
            out.found[f"recovered_{ablation}_widest"] = out.found[wide]
            out.minus(f"recovered_{ablation}_widest_minus_{other.split('_')[0]}", wide, f"recovered_{ablation}_{other}")
        topk = f"recovered_{ablation}_trained_{widths[0]}"
        out.minus(f"recovered_{ablation}_topk_minus_relu", topk, f"recovered_{ablation}_relu")
    return out


def rises(out: Seeded, by_window: list[dict[str, np.ndarray]], documents: np.ndarray, widths: list[int]) -> None:
    """Adds the rise with width, and what the luck of a start gives; both also with intervals over documents."""
    narrow = [f"trained-{widths[0]}", *sorted(name for name in by_window[0] if name.startswith("twin"))]
    for ablation in ("zero", "mean"):
        known = {name: f"recovered_{ablation}_{name.replace('-', '_')}" for name in by_window[0]}
        values = {name: np.array(out.found[key].per_seed) for name, key in known.items() if key in out.found}
        base = np.stack([values[name] for name in narrow])
        for width in widths[1:]:
            text = (
                f"recovered_{ablation}_trained_{width} - mean of the {len(narrow)} dictionaries of the narrowest width"
            )
            out.add(f"rise_{ablation}_to_{width}", rise(values[f"trained-{width}"], base).tolist(), "share", text)
        out.found[f"rise_{ablation}_trained"] = out.found[f"rise_{ablation}_to_{widths[-1]}"]
        text = f"best of the {len(narrow)} dictionaries of the narrowest width - their mean"
        out.add(f"rise_{ablation}_twin", luck(base).tolist(), "share", text)
        out.minus(f"rise_{ablation}_difference", f"rise_{ablation}_trained", f"rise_{ablation}_twin")
        ways = [f"trained-{widths[-1]}", *narrow]
        wide, *others = resampled_recovery(by_window, documents, ways, ablation)
        trained, twin = rise(wide, np.stack(others)), luck(np.stack(others))
        for name, draws in {
            f"rise_{ablation}_trained": trained,
            f"rise_{ablation}_twin": twin,
            f"rise_{ablation}_difference": trained - twin,
        }.items():
            out.found[f"{name}_documents"] = under_documents(out.found[name], draws.mean(0), len(np.unique(documents)))


def nest(levels: list[Level], seed: int) -> tuple[Nesting, Nesting]:
    """Parents in the narrowest dictionary of the widest one's living latents, and the same with neurons permuted."""
    (narrow, fires_narrow), (wide, fires_wide) = levels[0], levels[-1]
    alive = fires_wide.any(0)
    rows, inside = wide.W_dec[alive], together(fires_wide[:, alive], fires_narrow)
    order = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(seed))
    return nesting(rows, narrow.W_dec, inside), nesting(rows[:, order], narrow.W_dec, inside)


def summary(parents: dict[str, Nesting], levels: list[Level]) -> dict[str, float]:
    """The numbers of one seed; `_null` for parents that were chosen with permuted neurons, `_twin` for the parents of
    the latents of another narrow dictionary."""
    narrow, fires = levels[0][0].d_sae, levels[-1][1]
    siblings, pairs = sibling_overlap(parents[""], fires[:, fires.any(0)], NEAR, INSIDE)
    out = {"siblings": siblings, "pairs": float(pairs)}
    for ending, own in parents.items():
        out[f"inside{ending}"] = float(own.inside.mean())
        out[f"nested{ending}"] = float(((own.cosine >= NEAR) & (own.inside >= INSIDE)).mean())
        out[f"split{ending}"] = split_share(own, narrow, NEAR, INSIDE)
    return out


def splitting_metrics(parents: list[dict[str, float]]) -> Seeded:
    """Intervals over seeds, and differences from another dictionary of the narrowest width."""
    out = over(parents, SPLITTING)
    for left, right in (("inside", "inside_twin"), ("inside_null", "inside_twin"), ("nested", "nested_twin")):
        out.minus(f"{left}_minus_twin", left, right)
    return out


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


def over(each: list[dict[str, float]], formulas: dict[str, str]) -> Seeded:
    """Intervals over seeds, and every difference from the null or from the first kind."""
    out = Seeded()
    for name in each[0]:
        out.add(name, [one[name] for one in each], "1", f"{formulas[name.split('_')[0]]}; {name}")
    for name in each[0]:
        if name.endswith("_null"):
            out.minus(f"{name.removesuffix('_null')}_minus_null", name.removesuffix("_null"), name)
        elif (stem := name.split("_")[0]) + "_features" in each[0] and not name.endswith("_features"):
            out.minus(f"{stem}_features_minus_{name.split('_', 1)[1]}", f"{stem}_features", name)
    return out


if __name__ == "__main__":
    run(measure_dictionaries)
