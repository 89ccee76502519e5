"""Step: finds the circuit's heads on the discovery half by exact path patching, and names them.

Five receiver sets in the paper's order (sweeps.py), classes by rule (classes.py), backup name movers by rule, and what
the named heads attend to and write (name_movers.py). Effects are patched minus clean, in percent of the mean clean
logit difference, for logit(IO), logit(S) and their difference. Nothing of the verification half enters a choice; at the
end the named heads, and as many others of the same layers, are patched into the same receivers on verification prompts.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from common.core.errors import UserError
from common.core.metrics import Metric, write_metrics
from common.core.statistics import without_interval
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import load_model
from common.interp.decoder import Decoder
from replications.ioi_circuit.batches import DISCOVERY, VERIFICATION, Place, balanced
from replications.ioi_circuit.classes import (
    CONTRASTS,
    COPYING,
    HeadClasses,
    HeadScores,
    head_scores,
    random_token_scores,
)
from replications.ioi_circuit.dataset import Prompt, read_prompts
from replications.ioi_circuit.knockout import KnockOut, read_means
from replications.ioi_circuit.name_movers import backups_by_rule, measure_writing
from replications.ioi_circuit.nodes import (
    CLASSES,
    PLACE_OF_RECEIVER,
    PLACES,
    UNNAMED,
    others_of_layers,
)
from replications.ioi_circuit.passes import Passes, shared_passes
from replications.ioi_circuit.prompt_statistics import beside_null, clustered, t_values
from replications.ioi_circuit.settings import PathPatching
from replications.ioi_circuit.sweeps import (
    Effects,
    Rules,
    add_sweep,
    discover,
    sweep_flipped,
)

FORMULA = "path_patch_w22"
BATCH_SIZE = 4096  # token positions in one pass of the knock-outs


class PathPatchingFiles(Files):
    manifest: Path
    prompts: Path
    activations: Path
    """for the template means with which name movers are knocked out"""
    metrics: Path
    heads: Path
    """effects, scores, class and stability of each head"""
    attention: Path
    """attention at END and direct effect on each name, per head and prompt"""


class Found(NamedTuple):
    """What the rules found on the prompts of one half."""

    scores: HeadScores
    effects: Effects
    classes: HeadClasses
    inner: list[Passes]
    """The prompts of the receivers at S2 and S1+1."""


def path_patching(files: PathPatchingFiles, settings: PathPatching, run: RunInfo) -> None:
    """Writes `metrics.json` and two tables."""
    rows = read_prompts(files.prompts, "circuit_prompts")
    decoder = load_for_period(files.manifest, rows, settings.period, run.device)
    draws = settings.draws
    with torch.no_grad():
        scores, effects, classes, of_inner = find(decoder, rows, DISCOVERY, settings)
        inner = [row for one in of_inner for row in one.batch.prompts]
        flipped = sweep_flipped(decoder, effects, of_inner)
        where = KnockOut(decoder, inner, read_means(files.activations, run.device), run.device, BATCH_SIZE)
        growth, backups = backups_by_rule(where, effects, classes, scores, draws, settings.minimum_percent)
        metrics = patch_again(decoder, effects, classes, balanced(rows, VERIFICATION, settings.again_prompts))
    table = head_table(decoder, effects, flipped, classes, scores)
    table["backup_growth"], table["backup"] = growth, backups.astype(float)
    written = attention_table(decoder, effects, classes, scores)
    metrics |= measure_sweeps(effects, draws) | measure_classes(effects, classes) | measure_writing(written, draws)
    metrics["n_backup"] = without_interval(float(backups.sum()), len(table), "heads", "heads named by rule")
    write_metrics(files.metrics, metrics)
    for path, content in ((files.heads, table), (files.attention, written)):
        write_table(path, content)


def load_for_period(manifest: Path, rows: list[Prompt], period: int, device: str) -> Decoder:
    """The model, for prompts and for twice `period` random tokens. UserError if its context is too short."""
    bridge = load_model(manifest.parent, device=device)
    if 2 * period > bridge.cfg.n_ctx:
        raise UserError(f"twice period={period} is longer than the context of {bridge.cfg.n_ctx}; lower `period`")
    return Decoder(bridge, max(2 * period, *(row.positions.end + 1 for row in rows)))


def find(decoder: Decoder, rows: list[Prompt], half: int, settings: PathPatching) -> Found:
    """All sweeps and classes from the prompts of one half."""
    name_ids = torch.tensor(sorted({row.io_id for row in rows} | {row.s_id for row in rows})).to(decoder.W_O[0].device)
    screened: dict[Place, int] = {place: settings.screened_inner for place in PLACES} | {"end": settings.screened}
    rules = Rules(settings.minimum_percent, settings.draws, screened, settings.resamples)
    random_tokens = random_token_scores(decoder, settings.period, settings.sequences, seed=0)
    of_ends = shared_passes(decoder, balanced(rows, half, settings.end_prompts))
    of_inner = [one.thinned(settings.inner_step) for one in of_ends]
    scores = head_scores(decoder, of_ends, name_ids, random_tokens, settings.draws)
    effects, classes = discover(decoder, of_ends, of_inner, scores, rules)
    return Found(scores, effects, classes, of_inner)


def patch_again(decoder: Decoder, effects: Effects, classes: HeadClasses, prompts: list[Prompt]) -> dict[str, Metric]:
    """Effects of the named heads on the verification half, against what they were on the discovery half.

    As many other heads of the same layers, whose effect did not count, are patched into the same receivers.
    """
    generator = np.random.default_rng(0)
    again = Effects()
    named: dict[str, list[int]] = {}
    others: dict[str, list[int]] = {}
    shared = shared_passes(decoder, prompts)
    for name, receivers in effects.receivers.items():
        counted = effects.significant[name].sign
        of_receiver = classes["inhibition_values" if name == "inhibition_keys" else name]
        heads = [head for head, kind in of_receiver.items() if kind not in UNNAMED and counted[head]]
        if not heads:
            continue
        spared = set(np.flatnonzero(counted).tolist())
        named[name], others[name] = heads, sorted(others_of_layers(heads, decoder.n_heads, spared, generator))
        senders = {divmod(head, decoder.n_heads) for head in [*heads, *others[name]]}
        add_sweep(decoder, again, name, shared, receivers, senders)
    return measure_again(effects, again, named, others)


def measure_again(
    before: Effects, again: Effects, named: dict[str, list[int]], others: dict[str, list[int]]
) -> dict[str, Metric]:
    """`effects_again`, from effects on discovery and on verification prompts, which all receiver sets share."""
    prompts, clean = next(iter(again.prompts.values())), next(iter(again.clean.values()))
    whole = sum(
        np.abs(before.difference(name)[heads].mean(1)).sum() / before.clean[name].mean()
        for name, heads in named.items()
    )
    totals = []
    for chosen in (named, others):
        total = np.zeros(len(prompts))
        for name, heads in chosen.items():
            direction = np.sign(before.mean_percent(name)[heads])  # some of the others had no exact sweep there
            total += direction @ again.difference(name)[heads]
        totals.append(total / whole)
    text = "summed effects on verification prompts, signs as on discovery prompts / summed size there"
    metric = clustered(
        totals[0], prompts, unit="1", formula=text, denominators=clean, controls={"other_heads": totals[1]}
    )
    return {"effects_again": metric}


def measure_sweeps(effects: Effects, draws: int) -> dict[str, Metric]:
    """Per receiver set: the strongest head, and the largest t of all heads against flipped roles."""
    metrics: dict[str, Metric] = {}
    for name in effects.values:
        values, clean, rows = effects.difference(name), effects.clean[name], effects.prompts[name]
        estimate = effects.estimate[name]
        strongest = values[int(np.argmin(values.mean(1)))]
        flips = np.random.default_rng(1).choice([-1.0, 1.0], size=(draws, len(clean)))
        metrics[f"{name}_strongest"] = clustered(
            100 * strongest, rows, unit="percent", formula=f"{FORMULA}: most negative head", denominators=clean
        )
        metrics[f"{name}_largest_t"] = beside_null(
            float(np.abs(t_values(values)).max()),
            len(clean),
            np.array([np.abs(t_values(estimate * flip)).max() for flip in flips]),
            unit="1",
            formula="largest |t| of all heads",
            name="flipped_roles",
        )
        swept = values.any(1)
        agreement = float(np.corrcoef(values[swept].mean(1), estimate[swept].mean(1))[0, 1])
        text = "correlation of exact and first-order effects over the heads that were swept"
        metrics[f"{name}_screen_agrees"] = without_interval(agreement, int(swept.sum()), "1", text)
    return metrics


def measure_classes(effects: Effects, classes: HeadClasses) -> dict[str, Metric]:
    """Per class: heads. Per receiver set: what stays unclassified."""
    metrics = {}
    for kind in (*CLASSES, *UNNAMED):
        heads = {head for of_receiver in classes.values() for head, label in of_receiver.items() if label == kind}
        metrics[f"n_{kind}"] = without_interval(
            float(len(heads)), len(effects.values["logits"]), "heads", "heads named by rule"
        )
    for name, of_receiver in classes.items():
        size = np.abs(effects.difference(name).mean(1))
        known = [head for head, label in of_receiver.items() if label not in UNNAMED]
        whole = size[list(of_receiver)].sum()  # 0 where the heads with a class got no exact sweep into this receiver
        share = float(size[known].sum() / whole) if whole else 0.0
        text = "part of the summed size of counted effects that comes from heads with a class"
        metrics[f"{name}_classified_share"] = without_interval(share, max(len(of_receiver), 1), "share", text)
    return metrics


def head_table(
    decoder: Decoder, effects: Effects, flipped: Effects, classes: HeadClasses, scores: HeadScores
) -> pd.DataFrame:
    """One row per head: effects in percent, scores with thresholds met or not, and its class at each receiver set.

    `<receivers>_flip` is half of the effect with flipped roles, exact for heads that count, `<receivers>_stability` the
    share of the resamples in which the head has its class. Heads that were screened out have their first-order estimate
    (`_exact` is false).
    """
    total = decoder.n_layers * decoder.n_heads
    columns: dict[str, object] = {
        "layer": np.repeat(np.arange(decoder.n_layers), decoder.n_heads),
        "head": np.tile(np.arange(decoder.n_heads), decoder.n_layers),
    }
    nothing: Float[np.ndarray, "head prompt two"] = np.zeros((total, 1, 2))
    for name in PLACE_OF_RECEIVER:
        shown, of_receiver = name in effects.values, "inhibition_values" if name == "inhibition_keys" else name
        values, scale = effects.values.get(name, nothing), 100 / effects.clean[name].mean() if shown else 0.0
        exact = (values[..., 0] - values[..., 1]).mean(1)
        columns[name] = effects.mean_percent(name) if shown else exact
        columns[f"{name}_exact"] = exact != 0
        columns[f"{name}_io"], columns[f"{name}_s"] = scale * values[..., 0].mean(1), scale * values[..., 1].mean(1)
        columns[f"{name}_flip"] = flipped.mean_percent(name) / 2 if shown else np.zeros(total)
        columns[f"{name}_counts"] = effects.significant[name].sign if shown else np.zeros(total)
        columns[f"{name}_class"] = [classes.get(of_receiver, {}).get(head, "") for head in range(total)]
        columns[f"{name}_stability"] = [
            effects.stability.get(of_receiver, {}).get(head, np.nan) for head in range(total)
        ]
    for name in (*CONTRASTS, *COPYING):
        score = (scores.contrasts | scores.copying)[name]
        columns[name], columns[f"{name}_passes"] = score.mean, score.sign
    columns |= {f"random_{name}": values for name, values in scores.random_tokens.items()}
    columns |= {name.replace(">", "_to_"): values.mean(1) for name, values in scores.attention.items()}
    return pd.DataFrame(columns)


def attention_table(decoder: Decoder, effects: Effects, classes: HeadClasses, scores: HeadScores) -> pd.DataFrame:
    """Attention of the directly acting heads to each name at END, and their effect on that name's logit."""
    values, attends = effects.values["logits"], scores.attention
    names = ((0, "IO", attends["end>io"]), (1, "S", attends["end>s1"] + attends["end>s2"]))
    parts = [
        pd.DataFrame(
            {
                "head": f"{head // decoder.n_heads}.{head % decoder.n_heads}",
                "class": kind,
                "name": name,
                "attention": attention[head],
                "written": -values[head, :, column],
            }
        )
        for head, kind in classes["logits"].items()
        for column, name, attention in names
    ]
    return pd.concat(parts, ignore_index=True)


if __name__ == "__main__":
    run_step(path_patching)
