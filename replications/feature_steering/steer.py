"""Step: chooses latents and null directions of one seed by what they make the model write, and writes its answers.

For its output score a latent or direction is held while the model reads unsteered answers to some choosing questions,
drawn for each candidate by itself. The score for a topic is the mean probability of the topic's words over all
positions. That is what it would write at each position, without the noise of sampling one text. A candidate that makes
these answers less likely than fluency allows counts 0. Each topic takes the best of its seed's pool. The pools of
latents, of random live latents and of random directions are equally large and go through the same choice. All answers
are to questions that had no say in it.

Latents, live and random ones, are also chosen by each half of the topic's words alone (`CROSSED`), so that the other
half can judge them. A latent that says a few words only gains nothing there.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from common.core.files import read_json, write_json
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import load_tokenizer
from common.interp.generation import load_writer
from replications.feature_steering.concepts import (
    CHOOSING_QUESTIONS,
    REQUESTS,
    asked,
    draw_questions,
    own_topics,
    scoring_questions,
)
from replications.feature_steering.prepare import own_saes
from replications.feature_steering.removal import doses_of
from replications.feature_steering.settings import (
    CROSSED,
    CURVES,
    GRADIENT,
    INPUT,
    INSTRUCTION,
    MEANS,
    OTHER_INPUT,
    OTHER_MEANS,
    OUTPUT,
    POOLS,
    PROBE,
    RANDOM_DIRECTION,
    RANDOM_LATENT,
    REMOVING,
    SCORING,
    SCREENED,
    STEERED,
    TOGETHER,
    UNSTEERED,
    WORDS,
    Fluency,
    Removal,
    Steer,
)
from replications.feature_steering.writing import Arm, Row, Writer

CHOOSING = "choosing"


class SteerFiles(Files):
    manifest: Path
    index: Path
    prepared: Path
    concepts: Path
    answers: Path
    """a table, one line an answer"""
    chosen: Path
    """of each topic and pool: the candidate, its latent, and its output score"""


def arms(prepared: dict[str, Tensor], seed: int, own: list[int]) -> dict[str, Arm]:
    """The latents and directions of every method; those of pools by place in the pool, all others by topic."""

    def by_topic(latents: Tensor) -> Tensor:
        found = torch.zeros(len(prepared["diff_means"]), dtype=torch.long)
        found[own] = latents
        return found

    pools = {method: Arm(latent=prepared[f"pool.{method}.{seed}"]) for method in (OUTPUT, RANDOM_LATENT)}
    reading = Arm(latent=by_topic(prepared[f"sae_input.{seed}"]))
    return {
        **pools,
        **{one: pools[method] for method, own in CROSSED.items() for one in own},
        RANDOM_DIRECTION: Arm(direction=prepared[f"pool.{RANDOM_DIRECTION}.{seed}"]),
        **dict.fromkeys((INPUT, OTHER_INPUT), reading),
        **{method: Arm(direction=prepared[method]) for method in (MEANS, PROBE, WORDS, GRADIENT, *TOGETHER)},
        OTHER_MEANS: Arm(direction=prepared[MEANS]),
    }


def choosing_rows(seed: int, method: str, pool: int, dose: float, texts: int) -> list[Row]:
    """On which unsteered answers each candidate of a pool is tried: one row a candidate and answer."""
    return [
        Row(seed, CHOOSING, method, 0, candidate, dose, question, question)
        for candidate in range(pool)
        for question in draw_questions(texts, len(CHOOSING_QUESTIONS), candidate, seed)
    ]


def scoring_rows(
    settings: Steer, own: list[int], chosen: dict[str, dict[int, int]], first: int, questions: int, topics: int
) -> list[Row]:
    """Every method's answers at the common dose; those of `CURVES` at the others too, to the topic's first questions.

    Where more answers are asked for than there are questions, these go round, each time with other random numbers.
    """
    seed, writing, rows = settings.seed, settings.writing, []
    screened = max(1, writing.scoring // SCREENED)
    crossed = [one for pair in CROSSED.values() for one in pair]
    for topic in own:
        for place, question in enumerate(draw_questions(writing.scoring, questions, topic, seed)):
            prompt, told, sample = first + question, first + questions * (1 + topic) + question, place // questions
            rows.append(Row(seed, SCORING, UNSTEERED, topic, topic, 0.0, prompt, prompt, sample))
            rows.append(Row(seed, SCORING, INSTRUCTION, topic, topic, 0.0, told, prompt, sample))
            for method in (*STEERED, *crossed):
                candidate = chosen[method][topic] if method in chosen else topic
                doses = writing.doses if method in CURVES and place < screened else [writing.dose]
                rows += [Row(seed, SCORING, method, topic, candidate, dose, prompt, prompt, sample) for dose in doses]
    if settings.removal:
        rows += removing_rows(seed, settings.removal, own, chosen, first + questions * (1 + topics))
    return rows


def removing_rows(
    seed: int, removal: Removal, own: list[int], chosen: dict[str, dict[int, int]], first: int
) -> list[Row]:
    """Answers to requests about each topic, under methods pushed below zero; the controls also at a greater dose."""
    rows, requests = [], len(REQUESTS["checking"])
    for topic, other in zip(own, [*own[1:], own[0]], strict=True):
        at = {OTHER_INPUT: other, OTHER_MEANS: other} | {method: one[topic] for method, one in chosen.items()}
        doses = doses_of(removal)
        for prompt in range(first + topic * requests, first + (topic + 1) * requests):
            for sample in range(removal.samples):
                rows.append(Row(seed, REMOVING, UNSTEERED, topic, topic, 0.0, prompt, prompt, sample))
                rows += [
                    Row(seed, REMOVING, method, topic, at.get(method, topic), -dose, prompt, prompt, sample)
                    for method in doses
                    for dose in doses[method]
                ]
    return rows


def output_scores(writer: Writer, methods: dict[str, Arm], pool: int, limits: Fluency) -> dict[str, np.ndarray]:
    """Of each pool: the output score of every candidate for every topic (candidate, topic); those of `CROSSED` by half
    of the words."""
    seed, writing = writer.seed, writer.writing
    plain = [Row(seed, CHOOSING, UNSTEERED, 0, 0, 0.0, one, one) for one in range(len(CHOOSING_QUESTIONS))]
    texts = writer.write(plain, methods)
    _, unsteered = writer.expects(plain, texts, None)
    found: dict[str, np.ndarray] = {}
    for method in POOLS:
        rows = choosing_rows(seed, method, pool, writing.dose, writing.choosing)
        at = torch.tensor([row.question for row in rows])
        share, nats = writer.expects(rows, texts[at], methods[method])
        scores = pooled(share.numpy(), (nats - unsteered[at]).numpy(), pool, limits)
        by_all, *by_half = np.split(scores, 3, axis=1)
        found |= {method: by_all} | dict(zip(CROSSED.get(method, ()), by_half, strict=False))
    return found


def pooled(share: np.ndarray, added: np.ndarray, pool: int, limits: Fluency) -> np.ndarray:
    """Means over the rows of each candidate, in the order of candidates; 0 where the mean of `added` is too large."""
    score = share.reshape(pool, -1, share.shape[1]).mean(1)
    fluent = added.reshape(pool, -1).mean(1) <= np.log(limits.perplexity)
    return np.where(fluent[:, None], score, 0.0)


def steer(files: SteerFiles, settings: Steer, run: RunInfo) -> None:
    """Writes, reads and judges all answers of one seed."""
    torch.set_grad_enabled(False)
    tokenizer, model = load_tokenizer(files.manifest.parent), load_writer(files.manifest.parent, run.device)
    about, seed, writing, prepared = (
        read_json(files.concepts),
        settings.seed,
        settings.writing,
        load_file(files.prepared),
    )
    topics, place = about["topics"], run.seeds.index(settings.seed)
    own = own_topics(len(topics), place, len(run.seeds))
    [sae] = own_saes(files.index, [about["saes"][place]], about["model"])
    asking, first = scoring_questions(run.seeds), len(CHOOSING_QUESTIONS)
    prompts = [asked(tokenizer, question) for question in (*CHOOSING_QUESTIONS, *asking)]
    prompts += [asked(tokenizer, question, topic) for topic in topics for question in asking]
    prompts += [asked(tokenizer, one.format(topic)) for topic in topics for one in REQUESTS["checking"]]
    writer = Writer(model, sae, prepared, prompts, about["judge"], writing, list(tokenizer.all_special_ids), seed)
    methods, pool = arms(prepared, seed, own), len(prepared[f"pool.{OUTPUT}.{seed}"])

    scores = output_scores(writer, methods, pool, settings.fluency)
    chosen = {method: {topic: int(score[:, topic].argmax()) for topic in own} for method, score in scores.items()}
    rows = scoring_rows(settings, own, chosen, first, len(asking), len(topics))
    written = writer.write(rows, methods)
    frame = writer.read(rows, written, range(first, first + len(asking)))
    frame["text"] = tokenizer.batch_decode(written)
    frame["asked"] = [
        ([*CHOOSING_QUESTIONS, *asking][at] if at < first + len(asking) else "") for at in frame["question"]
    ]
    write_table(files.answers, frame)
    write_json(
        files.chosen,
        [
            {
                "topic": topic, "method": method, "candidate": chosen[method][topic],
                "latent": None if (latents := methods[method].latent) is None else int(latents[chosen[method][topic]]),
                "score": float(scores[method][chosen[method][topic], topic]),
            }
            for method in chosen for topic in own
        ],
    )  # fmt: skip


if __name__ == "__main__":
    run_step(steer)
