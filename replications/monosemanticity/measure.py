"""Step: everything that is measured of the models and their dictionaries, seed by seed.

Out: `metrics.json` of the parts `loss`, `units`, `named`, `splitting` and `universality` (`metrics.py`), and the tables
that the figures draw.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import write_metrics
from common.core.step import Files, run_step
from common.core.tables import write_table
from common.saes.index import read_index
from replications.monosemanticity import metrics
from replications.monosemanticity.dictionaries import TWINS, harvest, harvest_windows
from replications.monosemanticity.examples import random_latents
from replications.monosemanticity.explain import PairTable, explained, pair_table
from replications.monosemanticity.held_out import HeldOut, read_held_out, read_words, visible
from replications.monosemanticity.model import Models, load_models
from replications.monosemanticity.named import (
    ablation_cost,
    choose,
    detect,
    pattern_means,
    push_effect,
    pushed,
    raised_tokens,
    readouts,
    symbol_units,
    tokens_of_patterns,
)  # fmt: skip
from replications.monosemanticity.ngrams import ngram_losses
from replications.monosemanticity.patterns import PATTERNS
from replications.monosemanticity.replacement import losses_by_way
from replications.monosemanticity.settings import Measure
from replications.monosemanticity.structure import (
    best_correlations,
    beyond_token,
    distinct_share,
    family,
    split_share,
)  # fmt: skip
from replications.monosemanticity.units import (
    LATENTS,
    Kind,
    Subject,
    left_start,
    living,
    made_kinds,
    purity,
    read_subject,
)  # fmt: skip

TOP = 20  # activations whose tokens make the purity
REPLACING = ("trained", "relu", "start")
UNIVERSAL = (LATENTS, "untrained_network", "neurons", "rate_matched_neurons")
Table = list[dict[str, Any]]


class MeasureFiles(Files):
    tokens: Path
    vocabulary: Path
    models: Path
    index: Path
    loss: Path
    units: Path
    named: Path
    splitting: Path
    universality: Path
    ways: Path
    """what replacing the activations costs"""
    scores: Path
    """how well each unit is explained"""
    examples: Path
    """contexts of latents chosen at random"""
    patterns: Path
    """the best unit of each kind for each pattern"""
    histograms: Path
    """activations of the first seed's best units inside and outside the patterns"""
    families: Path
    correlations: Path


def measure(files: MeasureFiles, settings: Measure) -> None:
    """Measures all parts."""
    models, index, text = load_models(files.models), read_index(files.index), read_held_out(files.tokens)
    words, widths = read_words(files.vocabulary), settings.dictionaries.widths
    stream = load_file(files.tokens)["train"]
    tables: dict[str, Table] = defaultdict(list)
    kept: list[dict[str, Float[Tensor, "judged unit"]]] = []
    by_window: dict[str, list[np.ndarray]] = defaultdict(list)
    with torch.no_grad():
        for place, seed in enumerate(models.seeds):
            table = mean_activations(models, place, stream, settings.dictionaries.tokens)
            subject = read_subject(models, place, index, text)
            kinds = made_kinds(subject, widths[-1], text, settings.measures.least_firings)
            for name, reading in (("model", subject.own), ("untrained", subject.before)):
                by_window[name].append(_windows(reading.losses(reading.x, text.following).numpy(), text))
            replaced = {name: one for name, one in subject.encoded.items() if name.split("-")[0] in REPLACING}
            rows = losses_by_way(subject.own, replaced, settings.dictionaries.sparsity, text, table)
            tables["ways"] += [{"seed": seed, **row} for row in rows]
            tables["scores"] += unit_scores(kinds, text, seed)
            trained, start = (subject.encoded[f"{kind}-{widths[-1]}"].sae for kind in ("trained", "start"))
            tables["dictionaries"].append(
                {"seed": seed, "left_start": left_start(trained, start),
                 "purity": purity(kinds[LATENTS].activations, text, TOP),
                 "purity_random_rows": purity(kinds["random_rows"].activations, text, TOP)}
            )  # fmt: skip
            found, shown = named_features(kinds, text, words, settings.measures.pushed, seed)
            tables["patterns"] += found
            tables["histograms"] += [] if place else shown
            tables["examples"] += [] if place else random_latents(kinds[LATENTS], text, words, seed)
            tables["families"] += families(subject, widths, text, settings.measures.least_firings)
            kept.append({name: kinds[name].activations[text.scored] for name in UNIVERSAL})
    tables["correlations"] = universality(kept, models.seeds, text)
    triples = (one.numpy() for one in (text.previous, text.token, text.following))
    counted = {name: _windows(one, text) for name, one in ngram_losses(stream.numpy(), len(words), *triples).items()}
    write_metrics(
        files.loss, metrics.model_metrics(by_window, counted, _windows(text.document, text))
        | metrics.loss_metrics(tables["ways"], widths) | metrics.dictionary_metrics(tables["dictionaries"]),
    )  # fmt: skip
    write_metrics(files.units, metrics.unit_metrics(tables["scores"]))
    write_metrics(files.named, metrics.named_metrics(tables["patterns"]))
    write_metrics(files.splitting, metrics.splitting_metrics(tables["families"]))
    write_metrics(files.universality, metrics.universality_metrics(tables["correlations"]))
    for name in ("ways", "scores", "examples", "patterns", "histograms", "families", "correlations"):
        write_table(getattr(files, name), tables[name])


def _windows(values: np.ndarray, text: HeldOut) -> np.ndarray:
    """Means over the tokens of each window."""
    found: np.ndarray = values.reshape(-1, text.wide).mean(1)
    return found


def mean_activations(models: Models, place: int, stream: Tensor, count: int) -> PairTable:
    """Mean activations at tokens and behind pairs, of the training text on which dictionaries are trained."""
    windows = harvest_windows(models, place, stream.long(), count)
    token, previous = (one.flatten()[:count] for one in (windows[:, 1:-1], windows[:, :-2]))
    return pair_table(harvest(models, place, stream.long(), count, "cpu"), previous, token, models.shape.d_vocab)


def unit_scores(kinds: dict[str, Kind], text: HeldOut, seed: int) -> Table:
    """One row per unit: how well its explanation predicts it, over all tokens and within tokens."""
    rows: Table = []
    for name, kind in kinds.items():
        score = explained(kind.activations, text)
        rates = kind.activations.gt(0).double().mean(0)
        columns = {key: value.tolist() for key, value in {**score._asdict(), "rate": rates}.items()}
        units = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        rows += [{"seed": seed, "kind": name, **unit} for unit in units]
    return rows


def named_features(
    kinds: dict[str, Kind], text: HeldOut, words: list[str], count: int, seed: int
) -> tuple[Table, Table]:
    """One row per pattern and kind of unit or direction; and histograms of the latents' and neurons' activations."""
    members = tokens_of_patterns(text, len(words))
    made, judged, names = ~text.scored, text.scored, list(PATTERNS)
    units = {name: kind.activations for name, kind in kinds.items()} | symbol_units(text, len(words))
    rows: Table = []
    bars: Table = []
    for name, activations in units.items():
        choice = choose(activations[made], text.labels[made])
        found = detect(activations[judged], text.labels[judged], choice)
        columns: dict[str, Any] = {key: value.tolist() for key, value in found._asdict().items()}
        kind = kinds.get(name)
        if kind is not None:
            columns["push"] = push_effect(kind, choice, members, text, count).tolist()
            inside, outside = ablation_cost(kind, choice, text)
            columns |= {"ablation_inside": inside.tolist(), "ablation_outside": outside.tolist()}
        for at, pattern in enumerate(names):
            unit = int(choice.unit[at])
            raised = "" if kind is None else " ".join(visible(one) for one in raised_tokens(kind, unit, words, 8))
            share = float(text.labels[judged][:, at].double().mean())
            rows.append(
                {"seed": seed, "pattern": pattern, "kind": name, "unit": unit, "prevalence": share, "raised": raised}
                | {key: value[at] for key, value in columns.items()}
            )
            if name in (LATENTS, "neurons", "untrained_network"):
                own = activations[judged][:, unit]
                bars += histogram(own, text.labels[judged][:, at], float(choice.threshold[at]), name, pattern)
    reading = kinds[LATENTS].reading
    for name, column, directions in (
        ("pattern_means", "push", pattern_means(reading, text)),
        ("readout", "push_readout", readouts(reading, members)),
    ):
        values = pushed(reading, directions, members, text, count).tolist()
        rows += [
            {"seed": seed, "pattern": pattern, "kind": name, column: value}
            for pattern, value in zip(names, values, strict=True)
        ]
    return rows, bars


def histogram(own: Tensor, inside: Tensor, threshold: float, kind: str, pattern: str) -> Table:
    """Counts of activations above 0 inside and outside the pattern, in 20 steps up to the largest."""
    edges = torch.linspace(0, 1, 21)
    level = own / own.max().clamp(min=1e-9)
    rows: Table = []
    for name, mask in (("inside", inside), ("outside", ~inside)):
        counts = torch.histogram(level[mask & (own > 0)], edges).hist
        rows += [
            {"pattern": pattern, "kind": kind, "where": name, "level": float(edge), "count": int(count),
             "threshold": threshold / float(own.max().clamp(min=1e-9))}
            for edge, count in zip(edges, counts, strict=False)
        ]  # fmt: skip
    return rows


def families(subject: Subject, widths: list[int], text: HeldOut, least: int) -> Table:
    """Shares of narrow latents that split: in the widest dictionary, and in what should not split them."""
    seed, ends = subject.seed, (widths[0], widths[-1])
    names = (f"trained-{ends[0]}", f"trained-{ends[1]}", f"start-{ends[1]}", *(f"{name}-{ends[0]}" for name in TWINS))
    narrow, wide, start, *twins = (subject.encoded[name] for name in names)
    parents, parents_alive = narrow.latents > 0, living(narrow.latents, text, least)
    order = torch.randperm(narrow.sae.d_in, generator=torch.Generator().manual_seed(seed))
    row: dict[str, Any] = {"seed": seed}
    for name, latents, rows in (
        ("widest", wide.latents, wide.sae.W_dec),
        ("equal_width_twin", twins[0].latents, twins[0].sae.W_dec),
        (
            "four_twins_pooled",
            torch.cat([one.latents for one in twins], 1),
            torch.cat([one.sae.W_dec for one in twins]),
        ),
        ("permuted_neurons", wide.latents, wide.sae.W_dec[:, order]),
        ("random_rows", start.latents, start.sae.W_dec),
    ):
        fires, alive = latents > 0, living(latents, text, least)
        found = family(rows, fires, narrow.sae.W_dec, parents)
        row[name] = split_share(found, alive, parents_alive)
        row[f"distinct_{name}"] = distinct_share(found, alive, parents_alive, fires)
        row[f"inside_{name}"] = float(found.inside[alive].mean())
        row[f"cosine_{name}"] = float(found.cosine[alive].mean())
    return [row]


def universality(kept: list[dict[str, Tensor]], seeds: list[int], text: HeldOut) -> Table:
    """Every model against the next one; `other_documents`: the other model moved on by half of the windows."""
    rows: Table = []
    for place, seed in enumerate(seeds):
        other = kept[(place + 1) % len(seeds)]
        half = int(text.scored.sum()) // text.wide // 2 * text.wide
        pairs = {name: (own, other[name]) for name, own in kept[place].items()}
        pairs["other_documents"] = (kept[place][LATENTS], other[LATENTS].roll(half, 0))
        for name, (own, there) in pairs.items():
            both = best_correlations(own, there), best_correlations(beyond_token(own, text), beyond_token(there, text))
            columns = (one.tolist() for one in both)
            rows += [{"seed": seed, "kind": name, "all": a, "within": b} for a, b in zip(*columns, strict=True)]
    return rows


if __name__ == "__main__":
    run_step(measure)
