"""Step: writes the answers of one seed: chooses latents and null directions by what they make the model write, then
answers questions that had no say in the choice.

Output score of a latent or direction for a topic: over its answers to the choosing questions, half the number of the
topic's words plus whether the judge names the topic, plus the judge's score; an answer that is not fluent counts 0. Each
topic takes the best of its seed's pool. The pools of latents, random live latents and random directions are equally
large, and each of them is chosen from in this way.
"""

from pathlib import Path

import numpy as np
import pandas as pd
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
from replications.feature_steering.fluency import is_fluent
from replications.feature_steering.prepare import own_saes
from replications.feature_steering.settings import (
    CHOOSING,
    CURVES,
    INPUT,
    INSTRUCTION,
    MEANS,
    OUTPUT,
    POOLS,
    PROBE,
    RANDOM_DIRECTION,
    RANDOM_LATENT,
    REMOVERS,
    REMOVING,
    SCORING,
    STEERED,
    UNSELECTED,
    UNSTEERED,
    Steer,
)
from replications.feature_steering.writing import Arm, Row, Writer


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

    return {
        OUTPUT: Arm(latent=prepared[f"pool.{OUTPUT}.{seed}"]),
        RANDOM_LATENT: Arm(latent=prepared[f"pool.{RANDOM_LATENT}.{seed}"]),
        RANDOM_DIRECTION: Arm(direction=prepared[f"pool.{RANDOM_DIRECTION}.{seed}"]),
        INPUT: Arm(latent=by_topic(prepared[f"sae_input.{seed}"])),
        UNSELECTED: Arm(latent=by_topic(prepared[f"unselected_latent.{seed}"])),
        MEANS: Arm(direction=prepared["diff_means"]),
        PROBE: Arm(direction=prepared["probe"]),
    }


def choosing_rows(seed: int, pool: int, dose: float, answers: int) -> list[Row]:
    """Each candidate's answers, and the unsteered ones. The topic of a row is only that of its random numbers."""
    rows = []
    for question in range(len(CHOOSING_QUESTIONS)):
        rows += [Row(seed, CHOOSING, UNSTEERED, topic, topic, 0.0, question, question) for topic in (0, 1)]
    for method in POOLS:
        for candidate in range(pool):
            for question in draw_questions(answers, len(CHOOSING_QUESTIONS), candidate, seed):
                rows.append(Row(seed, CHOOSING, method, 0, candidate, dose, question, question))
    return rows


def scoring_rows(
    settings: Steer, own: list[int], chosen: dict[str, dict[int, int]], first: int, questions: int, topics: int
) -> list[Row]:
    """Every method's answers at the common dose; those of `CURVES` at the others too, to the topic's first question."""
    seed, writing, rows = settings.seed, settings.writing, []
    for topic in own:
        for place, question in enumerate(draw_questions(writing.scoring, questions, topic, seed)):
            prompt = first + question
            rows.append(Row(seed, SCORING, UNSTEERED, topic, topic, 0.0, prompt, prompt))
            rows.append(
                Row(seed, SCORING, INSTRUCTION, topic, topic, 0.0, first + questions * (1 + topic) + question, prompt)
            )
            for method in STEERED:
                candidate = chosen[method][topic] if method in chosen else topic
                doses = writing.doses if method in CURVES and place < max(1, writing.scoring // 2) else [writing.dose]
                rows += [Row(seed, SCORING, method, topic, candidate, dose, prompt, prompt) for dose in doses]
    if settings.removal:
        ask = first + questions * (1 + topics)
        for topic in own:
            for request in range(len(REQUESTS["checking"])):
                prompt = ask + topic * len(REQUESTS["checking"]) + request
                rows.append(Row(seed, REMOVING, UNSTEERED, topic, topic, 0.0, prompt, prompt))
                for method in REMOVERS:
                    candidate = chosen[method][topic] if method in chosen else topic
                    rows += [
                        Row(seed, REMOVING, method, topic, candidate, -dose, prompt, prompt)
                        for dose in settings.removal.doses
                    ]
    return rows


def output_scores(
    frame: pd.DataFrame, judged: np.ndarray, counts: np.ndarray, fluent: np.ndarray, pool: int
) -> dict[str, np.ndarray]:
    """Of each pool: the output score of every candidate for every topic (candidate, topic)."""
    judge = judged - judged.mean(1, keepdims=True)
    named = judged.argmax(1)[:, None] == np.arange(judged.shape[1])
    each = fluent[:, None] * (counts / 2 + named + judge)
    found = {}
    for method in POOLS:
        own = (frame["method"] == method).to_numpy()
        places = frame.loc[own, "candidate"].to_numpy()
        sums = np.zeros((pool, judged.shape[1]))
        np.add.at(sums, places, each[own])
        found[method] = sums / np.bincount(places, minlength=pool)[:, None]
    return found


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

    rows = choosing_rows(seed, pool, writing.dose, writing.choosing)
    written = writer.write(rows, methods)
    tried = writer.read(rows, written)
    scores = output_scores(
        tried, writer.judged.numpy(), writer.counts.numpy(), is_fluent(tried, settings.fluency), pool
    )
    chosen = {method: {topic: int(scores[method][:, topic].argmax()) for topic in own} for method in POOLS}
    more = scoring_rows(settings, own, chosen, first, len(asking), len(topics))
    answers = writer.write(more, methods)
    frame = pd.concat([tried, writer.read(more, answers)], ignore_index=True)
    frame["text"] = tokenizer.batch_decode(torch.cat([written, answers]))
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
            for method in POOLS for topic in own
        ],
    )  # fmt: skip


if __name__ == "__main__":
    run_step(steer)
