"""Numbers and tables of path patching: effects of each receiver set, heads of each class, both halves compared."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from common.core.metrics import Metric
from common.core.statistics import without_interval
from common.interp.decoder import Decoder
from replications.ioi_circuit.batches import t_values
from replications.ioi_circuit.classes import Named, Signs
from replications.ioi_circuit.clustering import beside_null, clustered
from replications.ioi_circuit.head_scores import CONTRASTS, COPIES
from replications.ioi_circuit.labels import CLASSES, FURTHER_RECEIVERS, PLACE_OF_RECEIVER
from replications.ioi_circuit.sweeps import Effects

FORMULA = "path_patch_w22"


def measure(effects: Effects, named: Named, draws: int) -> dict[str, Metric]:
    """Per receiver set: the strongest head and its null; per class: heads; what stays unclassified."""
    metrics = measure_sweeps(effects, draws)
    for kind in CLASSES:
        heads = {(name, head) for name, found in named.items() for head, label in found.items() if label == kind}
        count = float(len({head for _, head in heads}))
        metrics[f"n_{kind}"] = without_interval(count, len(effects.values["logits"]), "heads", "heads named by rule")
    for name, found in named.items():
        size = np.abs(effects.difference(name).mean(1))
        known = [head for head, label in found.items() if label != "unclassified"]
        share = float(size[known].sum() / size[list(found)].sum()) if found else 0.0
        text = "part of the summed size of counted effects that comes from heads with a class"
        metrics[f"{name}_classified_share"] = without_interval(share, max(len(found), 1), "share", text)
    return metrics


def measure_sweeps(effects: Effects, draws: int) -> dict[str, Metric]:
    """Per receiver set: the strongest head, and the largest t of all heads with its null."""
    metrics: dict[str, Metric] = {}
    for name in effects.values:
        values, clean, rows = effects.difference(name), effects.clean[name], effects.prompts[name]
        strongest = values[int(np.argmin(values.mean(1)))]
        flips = np.random.default_rng(1).choice([-1.0, 1.0], size=(draws, len(clean)))
        t = np.abs(t_values(values)).max()
        metrics[f"{name}_strongest"] = clustered(
            100 * strongest, rows, unit="percent", formula=f"{FORMULA}: most negative head", denominators=clean
        )
        best = np.array([np.abs(t_values(values * flip)).max() for flip in flips])
        metrics |= beside_null(
            f"{name}_largest_t",
            float(t),
            len(clean),
            best,
            unit="1",
            formula="largest |t| of all heads",
            how="roles flipped prompt by prompt",
        )
    return metrics


def measure_again(
    found: Effects, again: Effects, named: dict[str, list[int]], others: dict[str, list[int]]
) -> dict[str, Metric]:
    """Effects of the named heads on the verification half, against what they were on the discovery half.

    Args:
        found: effects on discovery prompts.
        again: the same receivers on verification prompts, the same prompts for all of them.
        named: for each receiver set, heads with a class.
        others: as many heads of the same layers whose effect did not count.
    """
    prompts, clean = next(iter(again.prompts.values())), next(iter(again.clean.values()))
    before = sum(
        np.abs(found.difference(name)[heads].mean(1)).sum() / found.clean[name].mean() for name, heads in named.items()
    )
    totals = {}
    for label, chosen in (("named", named), ("others", others)):
        total = np.zeros(len(prompts))
        for name, heads in chosen.items():
            direction = np.sign(found.difference(name)[heads].mean(1))
            total += direction @ again.difference(name)[heads]
        totals[label] = total / before
    text = "summed effects on verification prompts, signs as on discovery prompts / summed size there"
    return {
        "effects_again": clustered(totals["named"], prompts, unit="1", formula=text, denominators=clean),
        "effects_again_others": clustered(
            totals["others"], prompts, unit="1", formula=f"{text}; heads of the same layers", denominators=clean
        ),
        "effects_again_minus_others": clustered(
            totals["named"] - totals["others"], prompts, unit="1", formula=f"{text}; difference", denominators=clean
        ),
    }


def head_table(
    decoder: Decoder,
    effects: Effects,
    named: Named,
    looks: dict[str, Signs],
    copies: dict[str, Signs],
    repeated: dict[str, Float[np.ndarray, " head"]],
    own: dict[str, Float[np.ndarray, "head n"]],
    further: Effects,
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
    for name in FURTHER_RECEIVERS:
        known = name in further.values
        mean = further.difference(name).mean(1) / further.clean[name].mean() if known else np.full(total, np.nan)
        columns[name] = 100 * mean
    for name in (*CONTRASTS, *COPIES):
        one = (looks | copies)[name]
        columns[name], columns[f"{name}_passes"] = one.mean, one.sign
    columns |= {f"random_{name}": values for name, values in repeated.items()}
    columns |= {name.replace(">", "_to_"): values.mean(1) for name, values in own.items()}
    return pd.DataFrame(columns)


def scatter(
    decoder: Decoder,
    effects: Effects,
    named: Named,
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
