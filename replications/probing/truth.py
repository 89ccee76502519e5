"""Step: directions of truth, what they read and what they do (Marks & Tegmark 2023, sections 3 to 5).

Statements stand in a chat message of their own; residual streams are read at the full stop, the last token of each.
A direction is the difference of the means of true and false training statements of one topic. It is judged on other
items: affirmative, negated, and of other topics. To see whether it acts, the statement's full stop is moved by that
difference at the layer that is read, false statements forwards and true ones backwards, and the model is asked
"True or false?"; the answer is the logit difference of the two words.
"""
# mypy: allow-untyped-calls

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_clusters
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.corpora import judging_split
from common.data.models import encode, load_model
from common.interp.decoder import Decoder
from replications.probing.continuation import Prefix, Run, joined, logits
from replications.probing.directions import logistic, mean_difference, placements
from replications.probing.settings import Truth
from replications.probing.statements import TOPICS, Statement, statements

LENGTH = 128
BEFORE = "<|im_start|>user\n"
QUESTION = " True or false?<|im_end|>\n<|im_start|>assistant\n"
ANSWERS = ("True", "False")
RANDOM_DIRECTIONS = 3
TRAIN_DEPTH = 0.7  # training statements run no further; curves over layers end here


class TruthFiles(Files):
    manifest: Path
    metrics: Path
    layers: Path
    """AUC of each topic's direction at each layer, on affirmative and negated statements"""
    readings: Path
    """one row per judged statement: its placement under every reader"""
    transfer: Path
    """AUC from each topic to each topic"""
    patches: Path
    """one row per patched statement: how far each edit moves the answer"""


class Batch(NamedTuple):
    """Statements of one topic and polarity, with their residual stream at the full stop."""

    rows: list[Statement]
    stop: Float[Tensor, "layer item d_model"]
    words: Float[Tensor, "item d_model"]
    """mean embedding"""

    @property
    def true(self) -> Tensor:
        return torch.tensor([row.true for row in self.rows])


Batches = dict[tuple[str, bool], Batch]


class Asked(NamedTuple):
    """What the model makes of a batch of judged statements."""

    run: Run
    tail: Run
    answer: Float[Tensor, " item"]
    log_probability: Float[Tensor, " item"]


def truth(files: TruthFiles, settings: Truth, run: RunInfo) -> None:
    """Writes the metrics and four tables."""
    model = Model(files.manifest.parent, run.device)
    rows = statements(settings.train, settings.judged)
    layer = round(settings.depth * model.decoder.n_layers)
    trained: Batches = {}
    judged: Batches = {}
    asked: dict[tuple[str, bool], Asked] = {}
    for topic in TOPICS:
        for negated in (False, True):
            key = (topic, negated)
            parts = {
                split: [row for row in rows if row[:1] + row[2:4] == (topic, split, negated)]
                for split in ("train", judging_split(run.seeds))
            }
            trained[key], _ = model.read(parts["train"], round(TRAIN_DEPTH * model.decoder.n_layers))
            judged[key], passed = model.read(parts[judging_split(run.seeds)])
            asked[key] = model.ask(judged[key].rows, passed)
    readings = read(
        trained, judged, asked, layer, draws=[(seed, n) for seed in run.seeds for n in range(settings.shuffles)]
    )
    transfer = across(trained, judged, layer)
    patches = pd.concat(
        [model.patch(topic, trained, judged, asked, layer, settings.patched, run.seeds) for topic in TOPICS]
    )
    spread = float(torch.cat([found.answer - found.answer.mean() for found in asked.values()]).std())
    write_table(files.layers, by_layer(trained, judged).assign(judged=lambda table: table["layer"] == layer))
    write_table(files.readings, readings)
    write_table(files.transfer, transfer)
    write_table(files.patches, patches)
    write_metrics(files.metrics, metrics(readings, transfer, patches, spread))


class Model:
    """The model, the beginning of its chat message, and the three things asked of it."""

    def __init__(self, folder: Path, device: str) -> None:
        bridge = load_model(folder, device=device)
        self.decoder = Decoder(bridge, LENGTH)
        self.encode = lambda text: encode(bridge.tokenizer, text)
        self.prefix = Prefix(self.decoder, self.encode(BEFORE))
        self.answers = torch.tensor([self.encode(answer)[0] for answer in ANSWERS], device=device)

    def read(self, rows: list[Statement], stop: int | None = None) -> tuple[Batch, Run]:
        """Residual streams at the full stop, and the pass."""
        run = self.prefix.run([self.encode(row.text) for row in rows], stop)
        real = run.past.mask[..., None]
        words = (run.resid[0] * real).sum(1) / real.sum(1)
        return Batch(rows, run.resid[:, :, -1].cpu(), words.cpu()), run

    def ask(self, rows: list[Statement], run: Run) -> Asked:
        """The answer to the question, and the log-probability of the statement."""
        tail = self.prefix.extend(run, self.encode(QUESTION))
        found = []
        for place, row in enumerate(rows):
            tokens = torch.tensor(self.encode(row.text), device=run.at.device)
            each = logits(self.decoder, run.resid[-1, place, -len(tokens) : -1]).log_softmax(-1)
            found.append(each.gather(-1, tokens[1:, None]).sum())
        return Asked(run, tail, self._answer(tail), torch.stack(found).cpu())

    def _answer(self, tail: Run) -> Float[Tensor, " item"]:
        both = logits(self.decoder, tail.resid[-1, :, -1], self.answers)
        return (both[:, 0] - both[:, 1]).cpu()

    def patch(
        self,
        topic: str,
        trained: Batches,
        judged: Batches,
        asked: dict[tuple[str, bool], Asked],
        layer: int,
        items: int,
        seeds: list[int],
    ) -> pd.DataFrame:
        """How far each edit of the full stop moves the answer towards that of the other kind of statement."""
        key = (topic, False)
        count = 2 * items
        rows, true = judged[key].rows[:count], judged[key].true[:count]
        both = joined(asked[key].run.first(count), asked[key].tail.first(count), 1)
        here = both.resid[layer]
        move = mean_difference(trained[key].stop[layer], trained[key].true)
        unembed = self.decoder.bridge.unembed.W_U.detach()[:, self.answers].cpu()
        along = {"truth": move, "logit_lens": unembed[:, 0] - unembed[:, 1]}
        for seed in seeds[:RANDOM_DIRECTIONS]:
            along[f"random_{seed}"] = torch.randn(len(move), generator=torch.Generator().manual_seed(seed))
        sign = torch.where(true, -1.0, 1.0)
        other = torch.arange(count).reshape(-1, 2).flip(1).flatten()  # the true and the false statement of an item
        edits = {name: sign[:, None] * way / way.norm() * move.norm() for name, way in along.items()}
        edits["whole_stream"] = (here[other, 0] - here[:, 0]).cpu()
        moved = {"topic": topic, "item": [row.item for row in rows], "true": true.numpy()}
        for name, edit in edits.items():
            x = here.clone()
            x[:, 0] += edit.to(x.device)
            answer = self._answer(self.prefix.rerun(both, layer, x))
            moved[name] = (sign * (answer - asked[key].answer[:count])).numpy()
        frame = pd.DataFrame(moved)
        draws = [name for name in frame if str(name).startswith("random_")]
        frame["random"] = frame[draws].mean(axis=1)
        return frame.drop(columns=draws)


def by_layer(trained: Batches, judged: Batches) -> pd.DataFrame:
    """AUC of each topic's direction, trained on affirmative statements, at each layer."""
    found = []
    for (topic, negated), batch in judged.items():
        source = trained[topic, False]
        for layer, way in enumerate(mean_difference(source.stop, source.true)):
            auc = placements((batch.stop[layer] @ way).numpy(), batch.true.numpy()).mean()
            found.append({"topic": topic, "negated": negated, "layer": layer, "auc": auc})
    return pd.DataFrame(found)


def read(
    trained: Batches,
    judged: Batches,
    asked: dict[tuple[str, bool], Asked],
    layer: int,
    draws: list[tuple[int, int]],
) -> pd.DataFrame:
    """Placements of all judged statements under every reader, in topic."""
    found = []
    for (topic, negated), batch in judged.items():
        source, opposite = trained[topic, False], trained[topic, True]
        x, true = batch.stop[layer], batch.true.numpy()

        def placed(scores: Tensor, true: np.ndarray = true) -> np.ndarray:
            return placements(scores.double().numpy(), true)

        shuffled = []
        for seed, draw in draws:
            order = torch.randperm(len(source.rows), generator=torch.Generator().manual_seed(1000 * seed + draw))
            shuffled.append(placed(x @ mean_difference(source.stop[layer], source.true[order])))
        columns = {
            "direction": placed(x @ mean_difference(source.stop[layer], source.true)),
            "logistic": placed(x @ logistic(source.stop[layer], source.true)),
            "trained_on_negated": placed(x @ mean_difference(opposite.stop[layer], opposite.true)),
            "bag_of_words": placed(batch.words @ mean_difference(source.words, source.true)),
            "shuffled_labels": np.mean(shuffled, axis=0),
            "model_answer": placed(asked[topic, negated].answer),
            "log_probability": placed(asked[topic, negated].log_probability),
        }
        about = {"topic": topic, "negated": negated, "item": [row.item for row in batch.rows], "true": true}
        found.append(pd.DataFrame(about | columns))
    return pd.concat(found)


def across(trained: Batches, judged: Batches, layer: int) -> pd.DataFrame:
    """Placements of the affirmative statements of each topic under the direction of each topic."""
    found = []
    for source in TOPICS:
        way = mean_difference(trained[source, False].stop[layer], trained[source, False].true)
        bag = mean_difference(trained[source, False].words, trained[source, False].true)
        for target in TOPICS:
            batch = judged[target, False]
            true = batch.true.numpy()
            about = {"source": source, "topic": target, "item": [row.item for row in batch.rows]}
            read = {"direction": placements((batch.stop[layer] @ way).numpy(), true)}
            words = {"bag_of_words": placements((batch.words @ bag).numpy(), true)}
            found.append(pd.DataFrame(about | read | words))
    return pd.concat(found)


def metrics(readings: pd.DataFrame, transfer: pd.DataFrame, patches: pd.DataFrame, spread: float) -> dict[str, Metric]:
    """All comparisons, over items."""

    def auc(frame: pd.DataFrame, effect: str, *controls: str) -> Metric:
        return over_clusters(
            frame[effect].to_numpy(),
            (frame["topic"] + frame["item"].astype(str)).to_numpy(),
            unit="AUC",
            formula="mean over topics of the area under the ROC curve of true against false statements",
            cluster="items",
            controls={name: frame[name].to_numpy() for name in controls},
        )

    plain, negated = readings[~readings["negated"]], readings[readings["negated"]]
    found = {
        "reads": auc(plain, "direction", "model_answer", "log_probability", "bag_of_words", "shuffled_labels"),
        "reads_negated": auc(negated, "direction", "trained_on_negated", "bag_of_words", "shuffled_labels"),
        "reads_logistic": auc(plain, "logistic"),
        "reads_negated_logistic": auc(negated, "logistic"),
        "log_probability_negated": auc(negated, "log_probability"),
        "answer_negated": auc(negated, "model_answer"),
        "transfers": auc(transfer[transfer["source"] != transfer["topic"]], "direction", "bag_of_words"),
    }
    for topic in TOPICS:
        found[f"reads_{topic}"] = auc(plain[plain["topic"] == topic], "direction", "log_probability", "model_answer")
        found[f"reads_negated_{topic}"] = auc(negated[negated["topic"] == topic], "direction", "log_probability")
    scaled = patches[["truth", "random", "logit_lens", "whole_stream"]] / spread
    found["acts"] = over_clusters(
        scaled["truth"].to_numpy(),
        (patches["topic"] + patches["item"].astype(str)).to_numpy(),
        unit="standard deviations of the answer",
        formula="move of the logit difference True - False, over its standard deviation among statements of one kind",
        cluster="items",
        controls={name: scaled[name].to_numpy() for name in ("random", "logit_lens")},
    )
    found["acts_whole_stream"] = over_clusters(
        scaled["whole_stream"].to_numpy(),
        (patches["topic"] + patches["item"].astype(str)).to_numpy(),
        unit=found["acts"].unit,
        formula="as acts, with the whole stream of the item's other statement",
        cluster="items",
    )
    return found


if __name__ == "__main__":
    run_step(truth)
