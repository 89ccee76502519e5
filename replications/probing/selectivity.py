"""Step: selectivity of linear probes (Hewitt & Liang 2019, section 2 and figure 2).

A linear probe reads from the residual stream at the last token of a name. It reads which role the name has in the
syntax tree of a Python source (`roles`). Its control task has the same number of classes and the same tokens. But each
name type gets one label, drawn from the frequencies of the roles. A probe can only have learnt it by heart. Selectivity
is the accuracy on roles minus that on the control task. Both are judged on names of unseen files whose type occurs in
the training files: the control label of any other name cannot be known.

Deviations: Python sources instead of the Penn Treebank; ridge regression onto the classes instead of a softmax.
"""

import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.errors import UserError
from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_clusters
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.corpora import Split, judging_split, read_corpus
from common.data.models import load_model
from common.interp.decoder import Decoder
from replications.probing.roles import ROLES, Role, tagged
from replications.probing.settings import Selectivity
from replications.probing.streams import layers_of, ridge, streams


class SelectivityFiles(Files):
    manifest: Path
    corpora: list[Path]
    metrics: Path
    layers: Path
    """accuracy on roles and on the control task at each layer"""


class Names(NamedTuple):
    """Names of one split with their residual streams."""

    name: list[str]
    role: list[str]
    file: list[int]
    x: Float[Tensor, "layer item d_model"]


def selectivity(files: SelectivityFiles, settings: Selectivity, run: RunInfo) -> None:
    """Writes the metrics and a table."""
    bridge = load_model(files.manifest.parent, device=run.device)
    decoder = Decoder(bridge, settings.length)
    layers = layers_of(decoder, settings.every)
    sources = files.corpora[0].parent

    def read(split: Split, count: int) -> Names:
        """One window of each of `count` files, from a random place on."""
        documents = [one for one in read_corpus(sources, split) if one.kind == "source"]
        draw = random.Random(0)
        draw.shuffle(documents)
        tokens: list[list[int]] = []
        kept: list[tuple[int, int, Role]] = []
        for document in documents:
            if len(tokens) == count:
                break
            text = tagged(document.text, bridge.tokenizer)
            if len(text.tokens) < settings.length or not text.names:
                continue
            start = draw.randrange(len(text.tokens) - settings.length + 1)
            inside = range(start + 1, start + settings.length)  # position 0 is left out
            kept += [(len(tokens), at - start, text.names[at]) for at in inside if at in text.names]
            tokens.append(text.tokens[start : start + settings.length])
        rows = torch.tensor(tokens, device=run.device)
        found = streams(decoder, rows, torch.ones_like(rows, dtype=torch.bool), layers)
        file, at = [one[0] for one in kept], [one[1] for one in kept]
        return Names([one.name for *_, one in kept], [one.role for *_, one in kept], file, found[:, file, at])

    train, judged = read("train", settings.train), read(judging_split(run.seeds), settings.judged)
    types = set(train.name)
    known = [place for place, name in enumerate(judged.name) if name in types]
    if len({judged.file[place] for place in known}) < 2:
        raise UserError("fewer than two judged files share a name with the training files; read more or longer windows")
    table = probe(train, judged, known, layers, run.seeds, settings.ridge)
    write_table(files.layers, table.groupby("layer")[["role", "control", "by_name"]].mean().reset_index())
    write_metrics(files.metrics, metrics(table, layers, settings.depth))


def control_labels(names: list[str], roles: list[str], every: list[str], seed: int) -> list[str]:
    """A label for each of `every` name: its type's draw from the frequencies of `roles`; the same for equal names."""
    draw = random.Random(seed)
    types = sorted(set(names) | set(every))
    labels = dict(zip(types, draw.choices(roles, k=len(types)), strict=True))
    return [labels[name] for name in every]


def predicted(
    x: Float[Tensor, "item d_model"], labellings: list[list[str]], y: Float[Tensor, "other d_model"], strength: float
) -> list[list[str]]:
    """Most likely class of each row of `y` under linear probes fitted to `x`, one for each labelling of its rows."""
    rows = zip(*labellings, strict=True)
    hot = torch.tensor([[float(label == role) for label in row for role in ROLES] for row in rows], device=x.device)
    scale = x.std(0).clamp(min=1e-6)
    scores = ridge(x / scale, hot, strength)(y / scale).reshape(len(y), len(labellings), len(ROLES))
    return [[ROLES[place] for place in found] for found in scores.argmax(-1).T.tolist()]


def probe(
    train: Names, judged: Names, known: list[int], layers: list[int], seeds: list[int], strength: float
) -> pd.DataFrame:
    """One row per judged name and layer: whether both probes are right; the control is the mean over `seeds`."""
    name, role = [judged.name[place] for place in known], [judged.role[place] for place in known]
    seen: dict[str, Counter[str]] = {}
    for one, its in zip(train.name, train.role, strict=True):
        seen.setdefault(one, Counter())[its] += 1
    controls = [
        (control_labels(train.name, train.role, train.name, seed), control_labels(train.name, train.role, name, seed))
        for seed in seeds
    ]
    parts = []
    for place, layer in enumerate(layers):
        x, y = train.x[place], judged.x[place, known]
        found, *random_found = predicted(x, [train.role, *(fitted for fitted, _ in controls)], y, strength)
        right = [same(one, wanted) for one, (_, wanted) in zip(random_found, controls, strict=True)]
        rows = {
            "layer": layer,
            "file": [judged.file[one] for one in known],
            "role": same(found, role),
            "control": np.mean(right, axis=0),
            "by_name": same([seen[one].most_common(1)[0][0] for one in name], role),
        }
        parts.append(pd.DataFrame(rows))
    return pd.concat(parts)


def same(found: list[str], wanted: list[str]) -> Float[np.ndarray, " item"]:
    """1 where two labels agree."""
    return np.array([float(a == b) for a, b in zip(found, wanted, strict=True)])


def metrics(table: pd.DataFrame, layers: list[int], depth: float) -> dict[str, Metric]:
    """Accuracy at one layer, over files, beside the control task, the usual role of the name, and the embedding."""
    layer = min(layers, key=lambda one: abs(one - depth * layers[-1]))
    at, first = table[table["layer"] == layer], table[table["layer"] == 0]
    controls = {"control_task": at["control"], "usual_role": at["by_name"], "embedding": first["role"]}

    def over_files(values: pd.Series, formula: str, others: dict[str, pd.Series]) -> Metric:
        named = {name: one.to_numpy() for name, one in others.items()}
        files = at["file"].to_numpy()
        return over_clusters(values.to_numpy(), files, unit="share", formula=formula, cluster="files", controls=named)

    return {
        "role": over_files(at["role"], "names whose role a linear probe reads", controls),
        "selectivity": over_files(
            at["role"] - at["control"],
            "accuracy on roles minus accuracy on the control task",
            {"embedding": first["role"] - first["control"]},
        ),
    }


if __name__ == "__main__":
    run_step(selectivity)
