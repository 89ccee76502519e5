"""Step: which heads of a language model are induction heads on random repeats, and what is lost without them.

Olsson et al. 2022, section on large models, arguments 3 and 4, and appendix. Heads are chosen on sequences of their
own, and so are the controls (`model_heads.py`). The induction score is prefix matching minus its positional share. On
other sequences, one draw per seed: the scores of the chosen heads, and `fuzzy`, the same with the words of the second
copy capitalised. `ablations` has the gain and the prefix score without the heads, patterns recomputed or kept, as for
the trained arms. What the heads write is read from weights (`model_weights.py`).

Gain: mean loss of undetermined tokens minus mean loss of tokens that the first copy determines. Prefix score: mean of
all induction heads. Deviation: heads are set to zero, not to their mean.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.files import write_json
from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_clusters, over_seeds
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import load_model, load_tokenizer
from common.interp.decoder import Decoder
from common.interp.head_scores import (
    attention_to,
    duplicate_token,
    duplicates,
    positional_share,
    prefix_matching,
    previous_token,
    successors,
)
from replications.induction_heads.language_model import Head, Pass, run_pass, write_norms
from replications.induction_heads.model_heads import Roles, choose
from replications.induction_heads.model_weights import writing_scores
from replications.induction_heads.repeats import (
    CHOOSING,
    FIRST_PLAIN_TOKEN,
    RandomRepeats,
    fuzzy_repeats,
    random_repeats,
    repeat_gain,
    word_pairs,
)
from replications.induction_heads.settings import Repeats

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

INTACT = "intact"
KINDS = {"full": "full", "kept": "pattern-preserving"}  # of ablation
CONTROLS = {"induction": "unrepeated", "duplicate": "unrepeated", "fuzzy": "unrepeated", "previous": "two_back"}
OTHERS = {"lowest_scoring_heads": "others", "random_heads": "random", "heads_that_write_most": "writers"}
ABLATION_CONTROLS = {  # with all patterns kept no prefix score can change: no control there
    f"{what}_lost_{role}_{kind}": {control: f"{role}_{group}_{kind}" for control, group in OTHERS.items()} | more
    for what, role, kind, more in (
        ("gain", "induction", "full", {}),
        ("gain", "induction", "kept", {"previous_token_heads": "previous_kept"}),
        ("gain", "previous", "full", {"patterns_kept": "previous_kept"}),
        ("prefix", "previous", "full", {}),
    )
}
Patterns = Float[Tensor, "layer batch head query key"]
Values = dict[str, list[float]]  # one per seed
Readings = dict[str, list[dict[str, np.ndarray]]]  # per removal one entry a seed: gain and prefix score by sequence
Rows = list[dict[str, object]]


class MeasureModelFiles(Files):
    manifest: Path
    """of the language model"""
    scores: Path
    """metrics of the part `scores`"""
    roles: Path
    heads: Path
    """scores of every head"""
    fuzzy: Path
    repeats: Path
    """metrics of the part `repeats`"""
    ablations: Path


def measure_model(files: MeasureModelFiles, settings: Repeats, run: RunInfo) -> None:
    """Writes metrics and tables of the parts `scores` and `repeats`."""
    bridge = load_model(files.manifest.parent, device=run.device)
    layers, d_vocab = list(range(bridge.cfg.n_layers)), bridge.cfg.d_vocab

    def intact_pass(tokens: Tensor) -> Pass:
        return run_pass(bridge, tokens.to(run.device), keep=layers)

    choosing = random_repeats(settings, d_vocab, CHOOSING).tokens
    score = score_heads(_stacked(intact_pass(choosing)), choosing)
    decoder = Decoder(bridge, settings.length)
    chosen = choose(score, write_norms(decoder, choosing.to(run.device)))
    write_json(files.roles, {name: [list(head) for head in heads] for name, heads in chosen.items()})
    n_heads = score["prefix"].shape[1]
    every_head = [(layer, head) for layer in layers for head in range(n_heads)]
    writing = writing_scores(decoder, torch.arange(FIRST_PLAIN_TOKEN, d_vocab))
    shown = score | {name: values.mean(0) for name, values in writing.items()}
    columns = [
        {"layer": layer, "head": head} | {name: float(values[layer, head]) for name, values in shown.items()}
        for layer, head in every_head
    ]
    write_table(files.heads, columns)
    best = {name: divmod(int(score[name].argmax()), n_heads) for name in ("induction", "previous", "duplicate")}
    pairs = word_pairs(load_tokenizer(files.manifest.parent))
    scores: Values = {}
    readings: Readings = {}
    fuzzy_rows: Rows = []
    ablation_rows: Rows = []
    for seed in run.seeds:
        drawn = random_repeats(settings, d_vocab, seed)
        intact = intact_pass(drawn.tokens)
        _score(scores, best, drawn, _stacked(intact), _stacked(intact_pass(drawn.unrepeated)))
        words = fuzzy_repeats(settings, pairs, seed)
        mask = successors(words.words)
        for kind, tokens in (("", words.tokens), ("_unrepeated", words.unrepeated)):
            every = attention_to(_stacked(intact_pass(tokens)), mask)
            scores.setdefault(f"fuzzy_best{kind}", []).append(float(every[best["induction"]]))
            fuzzy_rows += [
                {"seed": seed, "words": kind.strip("_") or "capitalised", "layer": layer, "head": head}
                | {"fuzzy": float(every[layer, head])}
                for layer, head in chosen["induction"]
            ]
        ablation_rows += [{"seed": seed} | row for row in _ablate(readings, bridge, chosen, drawn, intact)]
    write_table(files.fuzzy, fuzzy_rows)
    write_table(files.ablations, ablation_rows)
    write_metrics(files.scores, _score_metrics(scores) | writing_metrics(writing, chosen["induction"]))
    write_metrics(files.repeats, _ablation_metrics(readings))


def _stacked(intact: Pass) -> Patterns:
    return torch.stack([intact.patterns[layer].float().cpu() for layer in sorted(intact.patterns)])


def score_heads(patterns: Patterns, tokens: Tensor) -> dict[str, Float[Tensor, "layer head"]]:
    """Scores of all heads on random repeats."""
    prefix = prefix_matching(patterns, tokens)
    return {
        "prefix": prefix,
        "induction": prefix - positional_share(patterns, tokens),
        "previous": previous_token(patterns),
        "duplicate": duplicate_token(patterns, tokens),
    }


def _score(
    values: Values, best: dict[str, Head], drawn: RandomRepeats, repeated: Patterns, unrepeated: Patterns
) -> None:
    """Adds the attention of the best heads on one draw, and on the same places without a first copy."""
    for name, mask in (("induction", successors(drawn.tokens)), ("duplicate", duplicates(drawn.tokens))):
        for kind, patterns in (("", repeated), ("_unrepeated", unrepeated)):
            values.setdefault(f"{name}_best{kind}", []).append(float(attention_to(patterns, mask)[best[name]]))
    layer, head = best["previous"]
    for kind, offset in (("", -1), ("_two_back", -2)):
        found = repeated[layer, :, head].diagonal(offset, -2, -1).mean()
        values.setdefault(f"previous_best{kind}", []).append(float(found))


def _score_metrics(values: Values) -> dict[str, Metric]:
    return {
        f"{name}_best": over_seeds(
            values[f"{name}_best"],
            unit="share",
            formula=f"attention of the {name} head that was chosen on other sequences",
            controls={control: values[f"{name}_best_{control}"]},
        )
        for name, control in CONTROLS.items()
    }


def writing_metrics(writing: dict[str, Float[Tensor, "sample layer head"]], leading: list[Head]) -> dict[str, Metric]:
    """Scores of what the induction heads write, mean over heads, against the other heads of their layers; intervals
    over samples of tokens. Their layers must have other heads."""
    among = sorted({layer for layer, _ in leading})
    found = {}
    for name, values in writing.items():
        inside = torch.zeros(values.shape[1:], dtype=torch.bool)
        inside[tuple(zip(*leading, strict=True))] = True
        outside = torch.zeros_like(inside)
        outside[among] = ~inside[among]
        own, rest = (values[:, which].mean(1).numpy() for which in (inside, outside))
        found[name] = over_clusters(
            own, np.arange(len(own)), unit="1", cluster="samples of tokens", controls={"other_heads": rest},
            formula=f"{name} of the induction heads on samples of tokens, mean over heads",
        )  # fmt: skip
    return found


def _ablate(readings: Readings, bridge: "TransformerBridge", chosen: Roles, drawn: RandomRepeats, intact: Pass) -> Rows:
    """Adds gain and prefix score of one draw, intact and without each group; one row per group and kind of ablation."""
    tokens = drawn.tokens.to(intact.losses.device)
    leading = chosen["induction"]
    keep = sorted({layer for layer, _ in leading})

    def read(done: Pass) -> dict[str, np.ndarray]:
        by_head = [
            [float(prefix_matching(done.patterns[layer][k, None], tokens[k, None])[head]) for k in range(len(tokens))]
            for layer, head in leading
        ]
        gain = repeat_gain(done.losses, drawn.repeated.to(tokens.device))
        return {"gain": gain.cpu().numpy(), "prefix": np.array(by_head, dtype=np.float64).mean(0)}

    whole = read(intact)
    readings.setdefault(INTACT, []).append(whole)
    found: dict[tuple[str, str, int], list[dict[str, np.ndarray]]] = {}
    for group, heads in chosen.items():
        for kind in KINDS:
            given = intact.patterns if kind == "kept" else None
            if given and group.startswith("previous_"):  # no metric asks
                continue
            now = read(run_pass(bridge, tokens, removed=heads, keep=keep, given=given, intact=intact))
            found.setdefault((group.rstrip("_0123456789"), kind, len(heads)), []).append(now)
    rows: Rows = []
    for (group, kind, count), each in found.items():
        mean = {what: np.mean([one[what] for one in each], 0) for what in whole}  # over random sets
        readings.setdefault(f"{group}_{kind}", []).append(mean)
        row: dict[str, object] = {"group": group, "kind": KINDS[kind], "heads": count}
        for what in whole:
            row |= {what: whole[what].mean(), f"{what}_without": mean[what].mean()}
        rows.append(row)
    return rows


def _ablation_metrics(readings: Readings) -> dict[str, Metric]:
    """Shares of gain and prefix score that are lost: ratios of means, with a bootstrap over sequences."""
    found = {}
    seeds = np.repeat(np.arange(len(readings[INTACT])), [len(one["gain"]) for one in readings[INTACT]])
    clusters = np.arange(len(seeds))
    for what, unit in (("gain", "nats"), ("prefix", "share")):
        left = {removal: np.concatenate([one[what] for one in each]) for removal, each in readings.items()}
        intact = left.pop(INTACT)
        found[what] = over_clusters(
            intact, clusters, unit=unit, formula=f"{what} on random repeats", cluster="sequences", groups=seeds
        )
        for removal, without in left.items():
            name = f"{what}_lost_{removal}"
            others = ABLATION_CONTROLS.get(name, {})
            found[name] = over_clusters(
                intact - without,
                clusters,
                unit="share",
                formula=f"{what} lost on random repeats / {what} of the intact model",
                cluster="sequences",
                denominators=intact,
                groups=seeds,
                controls={control: (intact - left[other], intact) for control, other in others.items()},
            )
    return found


if __name__ == "__main__":
    run_step(measure_model)
