"""Step: directions of truth, what they read and what they do (Marks & Tegmark 2023, sections 3 to 5).

Statements stand in a chat message of their own; residual streams are read at the full stop, the last token of each. A
direction is the difference of the means of true and false training statements of one topic. It is judged on other
items: affirmative, negated, and of other topics. Beside it stands what reads the same without the stream: the best of
three trivial readers (`trivial.py`), chosen topic by topic on training statements. To see whether it acts, the
statement's full stop is moved by that difference at the layer that is read. False statements go forwards, true ones
backwards. The model is then asked "True or false?"; the answer is the logit difference of the two words.
"""
# mypy: allow-untyped-calls

from pathlib import Path

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
from replications.probing.asking import Asked, Batch, Model
from replications.probing.directions import logistic, mean_difference, placements
from replications.probing.settings import Truth
from replications.probing.statements import CALIBRATION_TOPICS, TOPICS, calibration_statements, statements
from replications.probing.trivial import TrivialReader, trivial_reader

TRAIN_DEPTH = 0.7  # directions are fitted no further; curves over layers end here
DIRECTIONS = ("random", "logit_lens")
CONTROLS = ("log_probability", "bag_of_words", "shuffled_labels", "trivial_reader")
CROSSED = ("bag_of_words", "log_probability")
Batches = dict[tuple[str, bool], Batch]


class TruthFiles(Files):
    manifest: Path
    tables: list[Path]
    """`statements.yaml` and `words.yaml`, named so that a change in them measures anew"""
    metrics: Path
    layers: Path
    """AUC of each topic's direction at each layer, on affirmative and negated statements"""
    readings: Path
    """one row per judged statement: its placement under every reader"""
    transfer: Path
    """AUC from each topic to each topic"""
    patches: Path
    """one row per patched statement: how far each edit moves the answer"""


def truth(files: TruthFiles, settings: Truth, run: RunInfo) -> None:
    """Writes the metrics and four tables."""
    model = Model(files.manifest.parent, run.device)
    rows = statements(settings.train, settings.judged)
    layer = round(settings.depth * model.decoder.n_layers)
    trained: Batches = {}
    judged: Batches = {}
    asked: dict[tuple[str, bool], Asked] = {}
    trivial: dict[str, TrivialReader] = {}
    patches = []
    for topic in TOPICS:
        own = [row for row in rows if row.topic == topic]
        fitted = model.read([row for row in own if row.split == "train"])
        seen = fitted.batch._replace(stop=fitted.batch.stop[: round(TRAIN_DEPTH * model.decoder.n_layers) + 1])
        others = [row for row in own if row.split == judging_split(run.seeds)]
        patched = [place for place, row in enumerate(others) if not row.negated][: 2 * settings.patched]
        passed = model.read(others, first=patched)
        answers, tail = model.ask(passed)
        for negated in (False, True):
            trained[topic, negated] = seen.of(negated=negated)
            judged[topic, negated] = passed.batch.of(negated=negated)
            asked[topic, negated] = answers.of(others, negated=negated)
        source = trained[topic, False]
        plain = torch.tensor([not row.negated for row in fitted.batch.rows])
        trivial[topic] = trivial_reader(source.rows, model.log_probability(fitted)[plain].double().numpy())
        print(f"{topic}: trivial reader {trivial[topic].name} (area {trivial[topic].area:.3f} on training statements)")
        move = mean_difference(source.stop[layer], source.true)
        patches.append(model.patch(passed, tail, move, layer, run.seeds))
    draws = [(seed, n) for seed in run.seeds for n in range(settings.shuffles)]
    readings = read(trained, judged, asked, trivial, layer, draws)
    transfer, moved = across(trained, judged, asked, layer), pd.concat(patches)
    spread = float(torch.cat([found.answer - found.answer.mean() for found in asked.values()]).std())
    curves = pd.concat([by_layer(trained, judged), calibration(model, settings.train)])
    write_table(files.layers, curves.assign(judged=curves["layer"] == layer))
    write_table(files.readings, readings)
    write_table(files.transfer, transfer)
    write_table(files.patches, moved)
    write_metrics(files.metrics, metrics(readings, transfer) | effects(moved, spread))


def calibration(model: Model, train: int) -> pd.DataFrame:
    """The same curves for the topics that decide the layer, and says which layer reads them best."""
    rows = calibration_statements(train)
    last = round(TRAIN_DEPTH * model.decoder.n_layers)
    fitted, seen = (model.read([row for row in rows if row.split == split], last) for split in ("train", "validation"))
    curves = []
    for topic in CALIBRATION_TOPICS:
        own = {(topic, False): fitted.batch.about(topic)}
        curves.append(by_layer(own, {(topic, False): seen.batch.about(topic)}))
    table = pd.concat(curves)
    means = table.groupby("layer")["auc"].mean()
    print(f"calibration topics are read best at layer {means.idxmax()} (area {means.max():.3f})")
    return table


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
    trivial: dict[str, TrivialReader],
    layer: int,
    draws: list[tuple[int, int]],
) -> pd.DataFrame:
    """Placements of all judged statements under every reader, in topic."""
    found = []
    fitted = {topic: logistic(trained[topic, False].stop[layer], trained[topic, False].true) for topic in TOPICS}
    for (topic, negated), batch in judged.items():
        source, opposite = trained[topic, False], trained[topic, True]
        x, true = batch.stop[layer], batch.true.numpy()
        likely = asked[topic, negated].log_probability

        def placed(scores: Tensor, true: np.ndarray = true) -> np.ndarray:
            return placements(scores.double().numpy(), true)

        shuffled = []
        for seed, draw in draws:
            own = 1000 * seed + 100 * TOPICS.index(topic) + draw
            order = torch.randperm(len(source.rows), generator=torch.Generator().manual_seed(own))
            shuffled.append(placed(x @ mean_difference(source.stop[layer], source.true[order])))
        columns = {
            "direction": placed(x @ mean_difference(source.stop[layer], source.true)),
            "logistic": placed(x @ fitted[topic]),
            "trained_on_negated": placed(x @ mean_difference(opposite.stop[layer], opposite.true)),
            "trained_on_both": placed(x @ both_polarities(source, opposite, layer)),
            "bag_of_words": placed(batch.words @ mean_difference(source.words, source.true)),
            "shuffled_labels": np.mean(shuffled, axis=0),
            "model_answer": placed(asked[topic, negated].answer),
            "log_probability": placed(likely),
            "trivial_reader": placements(trivial[topic].scores(batch.rows, likely.double().numpy()), true),
        }
        about = {"topic": topic, "negated": negated, "item": [row.item for row in batch.rows], "true": true}
        about["trivial"] = trivial[topic].name
        found.append(pd.DataFrame(about | columns))
    return pd.concat(found)


def both_polarities(plain: Batch, negated: Batch, layer: int) -> Float[Tensor, " d_model"]:
    """The direction of one topic, fitted to affirmative and negated statements together."""
    stop = torch.cat([plain.stop[layer], negated.stop[layer]])
    return mean_difference(stop, torch.cat([plain.true, negated.true]))


def across(trained: Batches, judged: Batches, asked: dict[tuple[str, bool], Asked], layer: int) -> pd.DataFrame:
    """Placements of the affirmative statements of each topic under the direction of each topic. The log-probability of
    a statement is fitted to no topic, so it is the same behind every source."""
    found = []
    for source in TOPICS:
        way = mean_difference(trained[source, False].stop[layer], trained[source, False].true)
        both = both_polarities(trained[source, False], trained[source, True], layer)
        bag = mean_difference(trained[source, False].words, trained[source, False].true)
        for target in TOPICS:
            batch = judged[target, False]
            true = batch.true.numpy()
            about = {"source": source, "topic": target, "item": [row.item for row in batch.rows]}
            read = {"direction": placements((batch.stop[layer] @ way).numpy(), true)}
            read["trained_on_both"] = placements((batch.stop[layer] @ both).numpy(), true)
            words = {"bag_of_words": placements((batch.words @ bag).numpy(), true)}
            words["log_probability"] = placements(asked[target, False].log_probability.double().numpy(), true)
            found.append(pd.DataFrame(about | read | words))
    return pd.concat(found)


def metrics(readings: pd.DataFrame, transfer: pd.DataFrame) -> dict[str, Metric]:
    """Comparisons of what is read, over items.

    An area counts pairs of a true and a false statement. An item that is drawn twice is in twice as many pairs, on
    either side. What is resampled is twice its placement less the area (DeLong et al. 1988, the influence of an item).
    """

    def influence(frame: pd.DataFrame, column: str) -> Float[np.ndarray, " statement"]:
        of_area = frame.groupby([name for name in ("source", "topic") if name in frame])[column]
        return np.asarray(2 * frame[column] - of_area.transform("mean"))

    def auc(frame: pd.DataFrame, effect: str, *controls: str) -> Metric:
        return over_clusters(
            influence(frame, effect),
            (frame["topic"] + frame["item"].astype(str)).to_numpy(),
            unit="AUC",
            formula="mean over topics of the area under the ROC curve of true against false statements",
            cluster="items",
            controls={name: influence(frame, name) for name in controls},
        )

    plain, negated = readings[~readings["negated"]], readings[readings["negated"]]
    crossed = transfer[transfer["source"] != transfer["topic"]]
    found = {
        "reads": auc(plain, "direction", *CONTROLS, "model_answer"),
        "reads_negated": auc(negated, "direction", *CONTROLS, "trained_on_negated"),
        "reads_logistic": auc(plain, "logistic"),
        "reads_negated_logistic": auc(negated, "logistic"),
        "log_probability_negated": auc(negated, "log_probability"),
        "answer_negated": auc(negated, "model_answer"),
        "transfers": auc(crossed, "direction", *CROSSED),
        "reads_both": auc(plain, "trained_on_both"),
        "reads_negated_both": auc(negated, "trained_on_both"),
        "transfers_both": auc(crossed, "trained_on_both"),
    }
    for topic in TOPICS:
        own, turned = (rows[rows["topic"] == topic] for rows in (plain, negated))
        found[f"reads_{topic}"] = auc(own, "direction", "log_probability", "model_answer", "trivial_reader")
        found[f"reads_negated_{topic}"] = auc(turned, "direction", "log_probability", "trivial_reader")
    return found


def effects(patches: pd.DataFrame, spread: float) -> dict[str, Metric]:
    """Comparisons of what acts, over items: in spreads of the answer, and normalised as Marks & Tegmark do."""
    items = (patches["topic"] + patches["item"].astype(str)).to_numpy()
    scaled = patches[["truth", *DIRECTIONS, "whole_stream"]] / spread
    between = patches["logit_gap"].to_numpy()
    unit = "standard deviations of the answer"
    gap = patches["gap"].to_numpy()
    pairs = {name: (patches[f"{name}_probability"].to_numpy(), gap) for name in ("truth", *DIRECTIONS, "whole_stream")}
    said = "move of P(True) - P(False) towards the other kind of statement, over the gap between both kinds"
    return {
        "acts": over_clusters(
            scaled["truth"].to_numpy(), items, unit=unit, cluster="items",
            formula="move of the logit difference True - False, "
            "over its standard deviation among statements of one kind",
            controls={name: scaled[name].to_numpy() for name in DIRECTIONS},
        ),
        "acts_whole_stream": over_clusters(
            scaled["whole_stream"].to_numpy(), items, unit=unit, cluster="items",
            formula="as acts, with the whole stream of the item's other statement",
        ),
        "stream_carries_answer": over_clusters(
            patches["whole_stream"].to_numpy() * between, items, unit="1", cluster="items", denominators=between**2,
            formula="slope of the move of the answer, under the stream of the item's other statement, on the "
            "difference of the answers to both statements: 1 where the stream brings its answer along",
            controls={"other_item": (patches["other_item"].to_numpy() * between, between**2)},
        ),
        "indirect_effect": over_clusters(
            pairs["truth"][0], items, unit="1", cluster="items", formula=said, denominators=gap,
            controls={name: pairs[name] for name in (*DIRECTIONS, "whole_stream")},
        ),
        "answer_gap": over_clusters(
            gap, items, unit="probability", cluster="items",
            formula="P(True) - P(False) behind true minus behind false statements, intact: what normalises",
        ),
        "indirect_move": over_clusters(
            pairs["truth"][0], items, unit="probability", cluster="items",
            formula="move of P(True) - P(False) towards the other kind of statement, not normalised",
            controls={name: pairs[name][0] for name in DIRECTIONS},
        ),
    }  # fmt: skip


if __name__ == "__main__":
    run_step(truth)
