"""Step: from answers to metrics. No model is asked.

All methods are compared on the same topics, questions and random numbers, at one dose. Columns are those of
`fluency.with_scores`. Controls of every method: the random latents and the random directions that went through the same
selection. Also the unsteered model, and two pushes towards the topic's words.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.core.files import read_json
from common.core.metrics import Metric, write_metrics
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from replications.feature_steering.evidence import ByTopic, by_topic, over_topics
from replications.feature_steering.fluency import with_scores
from replications.feature_steering.removal import removal
from replications.feature_steering.settings import (
    CROSSED,
    CURVES,
    GRADIENT,
    INPUT,
    INSTRUCTION,
    MEANS,
    OUTPUT,
    PROBE,
    RANDOM_DIRECTION,
    RANDOM_LATENT,
    REMOVING,
    SCORING,
    STEERED,
    TOGETHER,
    UNSTEERED,
    WORDS,
    Measure,
)

MEASURES = {
    "takeover": ("share", "fluent answers with words of the topic, of all answers"),
    "judged": ("share", "fluent answers of which the linear judge names the topic, of all answers"),
    "recognised": ("share", "fluent answers with words of the topic, which the judge names, too, of all answers"),
    "score": ("1", "harmonic mean of words of the topic, fit to the question and fluency (each 0 to 2)"),
    "follows": ("1", "2 less one for each of two other neutral questions after which an answer is likelier"),
    "gain": ("words", "different words of the topic in an answer, beyond the mean over the other topics"),
}
COMPARED = (OUTPUT, INPUT, *TOGETHER, MEANS, PROBE, WORDS, GRADIENT, INSTRUCTION)
NULLS = (RANDOM_LATENT, RANDOM_DIRECTION, UNSTEERED)
BANDS = {
    **dict.fromkeys(("score", "concept", "follows", "fluency"), "1"),
    **dict.fromkeys(("judged", "self"), "share"),
    **dict.fromkeys(("words", "others"), "words"),
}
"""Columns with intervals at every dose, and their units."""
HALVED = ("takeover", "gain")
"""Measures that are also taken by the half of the words that had no say in the choice."""
ORDER = (INSTRUCTION, MEANS, OUTPUT)
"""AxBench: prompt above difference of means above SAE."""
SELF = r"\bI(?:'m| am)\b|\b[Mm]y name is\b"


class MeasureFiles(Files):
    concepts: Path
    answers: list[Path]
    """of `steer`, all seeds"""
    metrics: Path
    scored: Path
    """every answer with its scores"""
    topics: Path
    """takeover, judge and score by topic and method"""
    doses: Path
    """by method and dose: takeover, judge, ratings, words of the topic and of others, self-reference, perplexity"""


def measure(files: MeasureFiles, settings: Measure, run: RunInfo) -> None:
    """Writes the metrics and the tables behind the figures."""
    about, writing = read_json(files.concepts), settings.writing
    frame = with_scores(pd.concat(map(pd.read_csv, files.answers), ignore_index=True), settings.fluency)
    frame["name"] = [about["topics"][topic] for topic in frame["topic"]]
    frame["self"] = frame["takeover"] * frame["text"].astype(str).str.contains(SELF, regex=True)
    scoring = frame[frame["part"] == SCORING]
    dose = {method: writing.dose if method in STEERED else 0.0 for method in (*COMPARED, *NULLS)}
    tables = {
        (method, column): by_topic(scoring, method, dose[method], column)
        for method in dose
        for column in (*MEASURES, "added", "self", "others")
    }
    metrics = (
        effects(tables)
        | words_of_others(tables)
        | output_over_input(tables)
        | by_unseen_words(unseen(scoring, writing.dose))
        | order(tables)
        | checks(about["checked"], settings)
    )
    metrics |= cosines(about["cosines"])
    if settings.removal:
        metrics |= removal(frame[frame["part"] == REMOVING], settings.removal)
    write_metrics(files.metrics, metrics)
    shown = ["seed", "part", "name", "method", "dose", "candidate", "asked", "text", "words", "others", "judge",
             "named", "added", "distinct", "takeover", "judged", "follows", "score", "gain"]  # fmt: skip
    write_table(files.scored, scoring[shown])
    by_name = {f"{method}_{column}": values for (method, column), values in tables.items() if column in MEASURES}
    write_table(files.topics, pd.DataFrame({"topic": about["topics"], **by_name}))
    write_table(files.doses, dose_table(scoring))


def effects(tables: dict[tuple[str, str], ByTopic]) -> dict[str, Metric]:
    """Every measure of every method beside the nulls, and its cost in perplexity."""
    found = {}
    for method in (*COMPARED, RANDOM_LATENT, RANDOM_DIRECTION):
        for column, (unit, formula) in MEASURES.items():
            nulls = [null for null in (*NULLS, WORDS, GRADIENT) if method in COMPARED and null != method]
            controls = {null: tables[null, column] for null in nulls}
            found[f"{method}_{column}"] = over_topics(tables[method, column], unit, formula, controls)
        nats = over_topics(tables[method, "added"], "nats", "nats per token, steered minus unsteered")
        low, value, high = (float(np.exp(one)) for one in (nats.ci_low, nats.value, nats.ci_high))
        found[f"{method}_perplexity"] = Metric(
            value=value, ci_low=low, ci_high=high, n=nats.n, unit="1", formula="perplexity, times unsteered",
            uncertainty=nats.uncertainty,
        )  # fmt: skip
        if method in COMPARED:
            formula = "answers that take the topic up and say 'I am', 'I'm' or 'my name is', of all answers"
            found[f"{method}_as_itself"] = over_topics(tables[method, "self"], "share", formula)
    return found


def words_of_others(tables: dict[tuple[str, str], ByTopic]) -> dict[str, Metric]:
    """Specificity: how many words of another topic a method adds to an answer. Controls: what the nulls add."""
    plain = tables[UNSTEERED, "others"]
    rise = {method: tables[method, "others"] - plain for method in (*COMPARED, *NULLS)}
    formula = "different words of another topic in an answer, mean over the other topics; steered minus unsteered"
    found = {}
    for method in (*COMPARED, RANDOM_LATENT, RANDOM_DIRECTION):
        nulls = (RANDOM_LATENT, RANDOM_DIRECTION, WORDS, GRADIENT) if method in COMPARED else ()
        controls = {null: rise[null] for null in nulls if null != method}
        found[f"{method}_others"] = over_topics(rise[method], "words", formula, controls)
    return found


def output_over_input(tables: dict[tuple[str, str], ByTopic]) -> dict[str, Metric]:
    """What choosing latents by what they make the model write gains over choosing them by what they read. Control: what
    the same choice among random latents gains over it."""
    found = {}
    for column, (unit, formula) in MEASURES.items():
        gain = tables[OUTPUT, column] - tables[INPUT, column]
        null = tables[RANDOM_LATENT, column] - tables[INPUT, column]
        said = f"{formula}; latent chosen by output minus latent chosen by input"
        found[f"output_over_input_{column}"] = over_topics(gain, unit, said, {"random_latent": null})
    return found


def unseen(scoring: pd.DataFrame, dose: float) -> dict[tuple[str, str], ByTopic]:
    """Measures of latents that one half of the words chose, by the other half, on average over both ways. Those of the
    latent chosen by input, which no words chose, by both halves."""

    def by_half(method: str, column: str, half: int) -> ByTopic:
        return by_topic(scoring, method, dose, f"{column}_{half}")

    return {
        (method, column): (by_half(first, column, 1) + by_half(second, column, 0)) / 2
        for method, (first, second) in (CROSSED | {INPUT: (INPUT, INPUT)}).items()
        for column in HALVED
    }


def by_unseen_words(tables: dict[tuple[str, str], ByTopic]) -> dict[str, Metric]:
    """`sae_output` and its lead over `sae_input`, by words that had no say in the choice; control: random latents."""
    found = {}
    for column in HALVED:
        unit, formula = MEASURES[column]
        said, own = f"{formula}; by the half of the words that did not choose", tables[INPUT, column]
        effect, null = tables[OUTPUT, column], tables[RANDOM_LATENT, column]
        found[f"{OUTPUT}_unseen_{column}"] = over_topics(effect, unit, said, {RANDOM_LATENT: null})
        said = f"{said}; latent chosen by output minus latent chosen by input"
        found[f"output_over_input_unseen_{column}"] = over_topics(effect - own, unit, said, {RANDOM_LATENT: null - own})
    return found


def order(tables: dict[tuple[str, str], ByTopic]) -> dict[str, Metric]:
    """Share of neighbouring pairs of AxBench's order that a topic's scores follow, ties counted half. Controls: that
    for three nulls in the places of the methods, and for the prompt above two nulls. A good prompt decides half of the
    pairs alone. Also the pairs one by one."""

    def follows(one: str, other: str) -> ByTopic:
        return np.asarray(0.5 + 0.5 * np.sign(tables[one, "score"] - tables[other, "score"]))

    pairs = list(pairwise(ORDER))
    nulls = list(zip((UNSTEERED, RANDOM_DIRECTION), (RANDOM_DIRECTION, RANDOM_LATENT), strict=True))
    under_prompt = list(pairwise((INSTRUCTION, RANDOM_DIRECTION, RANDOM_LATENT)))
    agreement, of_nulls, of_prompt = (
        np.mean([follows(*pair) for pair in own], axis=0) for own in (pairs, nulls, under_prompt)
    )
    formula = "neighbouring pairs of prompt > difference of means > SAE latent in order, by score"
    controls = {"three_nulls": of_nulls, "prompt_over_nulls": of_prompt}
    found = {"axbench_order": over_topics(agreement, "share", formula, controls)}
    for latent in (OUTPUT, INPUT):
        formula = f"topics in which {MEANS} scores above {latent}, ties counted half"
        found[f"{MEANS}_above_{latent}"] = over_topics(follows(MEANS, latent), "share", formula)
    for one, other in [*pairs, (INSTRUCTION, OUTPUT), (MEANS, PROBE)]:
        found[f"{one}_over_{other}"] = over_topics(
            tables[one, "score"] - tables[other, "score"], "1", f"score, {one} minus {other}"
        )
    return found


def cosines(found: dict[str, list[float]]) -> dict[str, Metric]:
    """How far latents point where the difference of means does: the nearest decoder row, and sums of rows."""
    return {
        f"{name}_cosine": over_topics(np.array(values), "1", "cosine with the topic's difference of means")
        for name, values in found.items()
    }


def checks(checked: dict[str, Any], settings: Measure) -> dict[str, Metric]:
    """Whether words and judge know conversations that they were not made from; controls: the next topic in the place of
    the own one."""
    words, judge = np.array(checked["words"]), np.array(checked["judge"])
    topics = words.shape[1]
    texts = len(words) // topics
    topic = np.repeat(np.arange(topics), texts)
    order = np.arange(len(words))

    def mean(values: np.ndarray) -> ByTopic:
        return np.asarray(values.astype(float).reshape(topics, texts).mean(1))

    def speak(of: np.ndarray) -> ByTopic:
        return mean(words[order, of] >= settings.fluency.least_words)

    other = (topic + 1) % topics
    return {
        "words_know_topics": over_topics(
            speak(topic), "share", "left-out conversations with words of their topic", {"other_topic": speak(other)}
        ),
        "judge_knows_topics": over_topics(
            mean(judge.argmax(1) == topic), "share", "left-out conversations of which the judge names the topic",
            {"other_topic": mean(judge.argmax(1) == other)},
        ),
    }  # fmt: skip


def dose_table(scoring: pd.DataFrame) -> pd.DataFrame:
    """Takeover, judge, ratings, words, self-reference and perplexity of each method and dose, with intervals."""
    lines = []
    single = [method for method in (*COMPARED, RANDOM_DIRECTION, UNSTEERED) if method not in CURVES]
    for method in (*CURVES, *single):
        for dose in sorted(scoring.loc[scoring["method"] == method, "dose"].unique()):
            own = {column: by_topic(scoring, method, dose, column) for column in (*MEASURES, "added", "distinct")}
            found = over_topics(own["takeover"], "share", "takeover")
            line = {"method": method, "dose": dose, "takeover": found.value, "low": found.ci_low, "high": found.ci_high}
            line |= {column: own[column].mean() for column in ("judged", "score", "follows", "gain", "distinct")}
            line["perplexity"] = float(np.exp(own["added"].mean()))
            for column, unit in BANDS.items():
                found = over_topics(by_topic(scoring, method, dose, column), unit, column)
                name = "as_itself" if column == "self" else column
                line |= {f"{name}_low": found.ci_low, f"{name}_high": found.ci_high}
                line.setdefault(name, found.value)
            lines.append(line)
    return pd.DataFrame(lines)


if __name__ == "__main__":
    run_step(measure)
