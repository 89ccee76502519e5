"""Step: finds the circuit's heads on the discovery half by exact path patching, and names them.

Five receiver sets in the paper's order (section 3; formula `path_patch_w22`), each chosen by rule from the one before:

    logits               the final residual stream at END
    mover_queries        queries at END of the name movers and S-suppressing heads
    inhibition_values    values at S2 of the S-inhibition and S-suppressing heads
    inhibition_keys      their keys at S2
    induction_keys       keys at S1+1 of the induction heads

Effects are patched minus clean, in percent of the mean clean logit difference, for logit(IO), logit(S) and their
difference. Nothing of the verification half is looked at.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from common.cli import run, track
from common.decoder import Decoder
from common.errors import UserError
from common.files import atomic
from common.models import load_model
from common.patching import Receivers, at_position, kv_heads, path_patch
from common.records import Metric, write_metrics
from common.statistics import null_distribution
from replications.ioi_circuit.batches import DISCOVERY, Batch, Place, balanced, by_template, t_values
from replications.ioi_circuit.classes import (
    CLASSES,
    PLACE_OF_RECEIVER,
    Signs,
    direct_classes,
    inhibition_classes,
    previous_classes,
    s2_classes,
    signs,
)
from replications.ioi_circuit.clustering import clustered, exact
from replications.ioi_circuit.dataset import Prompt, read_prompts
from replications.ioi_circuit.head_scores import CONTRASTS, COPIES, attention, contrasts, copying, repeated_tokens
from replications.ioi_circuit.residual import read_names

FORMULA = "path_patch_w22"


@dataclass
class Effects:
    """Effect of every head on the two name logits for each receiver set, and the prompts it was measured on."""

    values: dict[str, Float[np.ndarray, "head prompt two"]] = field(default_factory=dict)
    prompts: dict[str, list[Prompt]] = field(default_factory=dict)
    clean: dict[str, Float[np.ndarray, " prompt"]] = field(default_factory=dict)
    receivers: dict[str, list[str]] = field(default_factory=dict)
    signs: dict[str, Signs] = field(default_factory=dict)

    def difference(self, name: str) -> Float[np.ndarray, "head prompt"]:
        """Change of logit(IO) - logit(S)."""
        found: np.ndarray = self.values[name][..., 0] - self.values[name][..., 1]
        return found


def path_patching(
    *,
    prompts: Path,
    manifest: Path,
    end_prompts: int,
    inner_prompts: int,
    minimum_percent: float,
    period: int,
    sequences: int,
    draws: int,
    device: Literal["cpu", "cuda"],
    out: Path,
    heads: Path,
    attention_table: Path,
) -> None:
    """Writes `metrics.json`, one row per head, and one row per head and prompt of the attention scatter.

    Args:
        prompts: `prompts.json`.
        manifest: `manifest.json` of the model.
        end_prompts: prompts of the sweeps whose receivers sit at END.
        inner_prompts: prompts of the sweeps whose receivers sit at S2 or S1+1, which cost several times more.
        minimum_percent: smallest effect that counts, percent of the mean logit difference.
        period: random tokens before they are repeated.
        sequences: sequences of repeated random tokens.
        draws: draws of each null distribution.
        device: where the model runs.
        out: `metrics.json`.
        heads: `heads.csv`: effects, scores, t values and class of each head.
        attention_table: `attention.csv`: attention at END and direct effect on each name, per head and prompt.
    """
    rows = read_prompts(prompts)
    bridge = load_model(manifest.parent, device=device)
    decoder = Decoder(bridge, max(2 * period, *(row.positions.end + 1 for row in rows)))
    name_ids = torch.tensor(sorted({row.io_id for row in rows} | {row.s_id for row in rows}), device=device)
    ends = Batch(balanced(rows, DISCOVERY, end_prompts), device)
    with torch.no_grad():
        cache, own = attention(decoder, ends, "original")
        _, abc = attention(decoder, ends, "abc")
        looks = {name: signs(values, draws) for name, values in contrasts(own, abc).items()}
        copies = {name: signs(values, draws) for name, values in copying(decoder, cache, ends, name_ids).items()}
        repeated = repeated_tokens(decoder, period, sequences, seed=0)
        inner = balanced(rows, DISCOVERY, inner_prompts)
        effects, named = discover(decoder, ends.prompts, inner, looks, copies, repeated, minimum_percent, draws)
    write_metrics(out, measure(effects, named, draws))
    _write(heads, head_table(decoder, effects, named, looks, copies, repeated, own))
    _write(attention_table, scatter(decoder, effects, named, own))


def discover(
    decoder: Decoder,
    ends: list[Prompt],
    inner: list[Prompt],
    looks: dict[str, Signs],
    copies: dict[str, Signs],
    repeated: dict[str, Float[np.ndarray, " head"]],
    minimum: float,
    draws: int,
) -> tuple[Effects, dict[str, dict[int, str]]]:
    """The five sweeps; returns effects and, per receiver set, the class of every head with an effect.

    Raises:
        UserError: no head has an effect on the logits, so there is nothing to follow back.
    """
    effects = Effects()

    def sweep(name: str, prompts: list[Prompt], receivers: Receivers | None) -> Signs:
        add_sweep(decoder, effects, name, prompts, receivers)
        percent = 100 * effects.difference(name) / effects.clean[name].mean()
        effects.signs[name] = signs(percent, draws, minimum)
        return effects.signs[name]

    def label(heads: Sequence[int]) -> tuple[tuple[int, int], ...]:
        return tuple(divmod(int(head), decoder.n_heads) for head in heads)

    def of(found: dict[int, str], *classes: str) -> tuple[tuple[int, int], ...]:
        return label([head for head, name in found.items() if name in classes])

    named: dict[str, dict[int, str]] = {}
    direct = sweep("logits", ends, None)
    named["logits"] = direct_classes(direct, looks, copies)
    movers = of(named["logits"], "name_mover", "s_suppressing")
    if not movers:
        raise UserError(
            "no head of this model both writes the names into the logits and looks at them, so there is no circuit to "
            "follow back; leave the model out or raise end_prompts"
        )
    queries = sweep("mover_queries", ends, Receivers("q", movers))
    named["mover_queries"] = inhibition_classes(queries, looks)
    s_heads = of(named["logits"], "s_suppressing") + of(named["mover_queries"], "s_inhibition")
    at_s2 = kv_heads(s_heads or movers, decoder.group)
    sides = [sweep("inhibition_values", inner, Receivers("v", at_s2))]
    sides.append(sweep("inhibition_keys", inner, Receivers("k", at_s2)))
    named["inhibition_values"] = s2_classes(sides, looks, repeated)
    induction = of(named["inhibition_values"], "induction")
    if induction:
        keys = sweep("induction_keys", inner, Receivers("k", kv_heads(induction, decoder.group)))
        named["induction_keys"] = previous_classes(keys, looks, repeated)
    return effects, named


def add_sweep(
    decoder: Decoder, effects: Effects, name: str, prompts: list[Prompt], receivers: Receivers | None
) -> None:
    """One receiver set: all heads as senders, template by template so that windows have one length."""
    place: Place = PLACE_OF_RECEIVER[name]  # type: ignore[assignment]
    started = time.perf_counter()
    parts, cleans = [], []
    for group in track(by_template(prompts), name):
        batch = Batch(group, decoder.W_O[0].device.type)
        cache, partner = (
            decoder.forward(batch.tokens(version), batch.mask, keep=True) for version in ("original", "abc")
        )
        patched = path_patch(decoder, cache, partner, batch.at(place), batch.at("end"), receivers)
        clean = read(decoder, at_position(cache.final, batch.at("end"))[None], batch)
        change = read(decoder, patched, batch) - clean
        full = np.zeros((decoder.n_layers * decoder.n_heads, *change.shape[1:]))
        full[: len(change)] = change
        parts.append(full)
        cleans.append(clean[0, :, 0] - clean[0, :, 1])
    effects.values[name] = np.concatenate(parts, 1)
    effects.clean[name] = np.concatenate(cleans)
    effects.prompts[name] = [row for group in by_template(prompts) for row in group]
    heads = () if receivers is None else receivers.heads
    effects.receivers[name] = [f"{layer}.{head}" for layer, head in heads]
    print(f"{name}: {len(prompts)} prompts, receivers {effects.receivers[name]}, {time.perf_counter() - started:.0f} s")


def read(decoder: Decoder, final: Float[torch.Tensor, "copy batch d"], batch: Batch) -> Float[np.ndarray, "copy n two"]:
    """Logits of IO and S above the vocabulary mean."""
    found = read_names(decoder.bridge, final.transpose(0, 1).contiguous(), batch.names).transpose(0, 1)
    numbers: np.ndarray = found.double().cpu().numpy()
    return numbers


def measure(effects: Effects, named: dict[str, dict[int, str]], draws: int) -> dict[str, Metric]:
    """Per receiver set: the strongest head and its null; per class: heads, summed effect; what stays unclassified."""
    metrics: dict[str, Metric] = {}
    for name in PLACE_OF_RECEIVER:
        if name not in effects.values:
            continue
        values, clean, rows = effects.difference(name), effects.clean[name], effects.prompts[name]
        strongest = values[int(np.argmin(values.mean(1)))]
        flips = np.random.default_rng(1).choice([-1.0, 1.0], size=(draws, len(clean)))
        t = np.abs(t_values(values)).max()
        metrics[f"{name}_strongest"] = clustered(
            100 * strongest, rows, unit="percent", formula=f"{FORMULA}: most negative head", denominators=clean
        )
        best = np.array([np.abs(t_values(values * flip)).max() for flip in flips])
        metrics[f"{name}_largest_t"] = exact(float(t), "1", "largest |t| of all heads", len(clean))
        null = "largest |t| of all heads, roles flipped prompt by prompt"
        metrics[f"{name}_largest_t_null"] = null_distribution(best, unit="1", formula=null)
        metrics[f"{name}_largest_t_minus_null"] = null_distribution(
            t - best, unit="1", formula=f"largest |t| minus {null}"
        )
    for kind in CLASSES:
        heads = {(name, head) for name, found in named.items() for head, label in found.items() if label == kind}
        count = float(len({head for _, head in heads}))
        metrics[f"n_{kind}"] = exact(count, "heads", "heads named by rule", len(effects.values["logits"]))
    for name, found in named.items():
        size = np.abs(effects.difference(name).mean(1))
        known = [head for head, label in found.items() if label != "unclassified"]
        share = float(size[known].sum() / size[list(found)].sum()) if found else 0.0
        text = "part of the summed size of counted effects that comes from heads with a class"
        metrics[f"{name}_classified_share"] = exact(share, "share", text, max(len(found), 1))
    return metrics


def head_table(
    decoder: Decoder,
    effects: Effects,
    named: dict[str, dict[int, str]],
    looks: dict[str, Signs],
    copies: dict[str, Signs],
    repeated: dict[str, Float[np.ndarray, " head"]],
    own: dict[str, Float[np.ndarray, "head n"]],
) -> pd.DataFrame:
    """One row per head: effects in percent, scores with thresholds met or not, and its class at each receiver set."""
    total = decoder.n_layers * decoder.n_heads
    columns: dict[str, object] = {
        "layer": np.repeat(np.arange(decoder.n_layers), decoder.n_heads),
        "head": np.tile(np.arange(decoder.n_heads), decoder.n_layers),
    }
    for name in PLACE_OF_RECEIVER:
        values = effects.values.get(name, np.zeros((total, 1, 2)))
        scale = 100 / effects.clean[name].mean() if name in effects.clean else 0.0
        columns[name] = scale * (values[..., 0] - values[..., 1]).mean(1)
        columns[f"{name}_io"], columns[f"{name}_s"] = scale * values[..., 0].mean(1), scale * values[..., 1].mean(1)
        columns[f"{name}_counts"] = effects.signs[name].sign if name in effects.signs else np.zeros(total)
        found = named.get("inhibition_values" if name == "inhibition_keys" else name, {})
        columns[f"{name}_class"] = [found.get(head, "") for head in range(total)]
    for name in (*CONTRASTS, *COPIES):
        one = (looks | copies)[name]
        columns[name], columns[f"{name}_passes"] = one.mean, one.sign
    columns |= {f"random_{name}": values for name, values in repeated.items()}
    columns |= {name.replace(">", "_to_"): values.mean(1) for name, values in own.items()}
    return pd.DataFrame(columns)


def scatter(
    decoder: Decoder,
    effects: Effects,
    named: dict[str, dict[int, str]],
    own: dict[str, Float[np.ndarray, "head n"]],
) -> pd.DataFrame:
    """Attention of the directly acting heads to each name at END, and their effect on that name's logit."""
    values = effects.values["logits"]
    parts = []
    for head, kind in named["logits"].items():
        layer, number = divmod(head, decoder.n_heads)
        for column, name, looked in ((0, "IO", own["end>io"]), (1, "S", own["end>s1"] + own["end>s2"])):
            parts.append(
                pd.DataFrame(
                    {
                        "head": f"{layer}.{number}",
                        "class": kind,
                        "name": name,
                        "attention": looked[head],
                        "written": -values[head, :, column],
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def _write(path: Path, table: pd.DataFrame) -> None:
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


if __name__ == "__main__":
    run(path_patching)
