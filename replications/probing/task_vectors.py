"""Step: one vector that carries an in-context task (Hendel et al. 2023 and Todd et al. 2023, for the residual stream).

Prompts are ` word: answer` lines, one demonstration each, and a query ` word:`. The vector of a task at a block is the
mean residual stream before that block at the last position, over queries behind demonstrations. Subtracted is that over
the same queries with nothing before them. It is added at the last position of unseen words with nothing before them. An
answer counts if it is the most likely of all tokens. Position 0 holds token 0 in every prompt and is never edited.

Todd et al. sum the mean outputs of few heads. Hendel et al. put the stream of the demonstrations in place of that of
the query, which is measured beside (`replaced`).
"""
# mypy: allow-untyped-calls

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.shares import with_width
from common.core.statistics import over_clusters, over_seeds
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.corpora import judging_split
from common.data.models import encode, load_model
from common.interp.decoder import Decoder
from replications.probing.continuation import Prefix, Run, logits
from replications.probing.settings import TaskVectors
from replications.probing.words import TASKS, Pair, mismatched, prompt, split_pairs

SINK = 0
LENGTH = 256
RANDOM_VECTORS = 5
FEW_SHOT_PROMPTS = 2
CONTROLS = ("zero_shot", "other_task", "shuffled_labels", "answer_minus_word", "random_vector")


class TaskVectorFiles(Files):
    manifest: Path
    tables: list[Path]
    """`statements.yaml` and `words.yaml`, named so that a change in them measures anew"""
    metrics: Path
    words: Path
    """one row per judged word: whether it is answered, under every edit"""
    blocks: Path
    """share of words answered when the vector is added at each block"""


class Means(NamedTuple):
    """Of one task, over training words, at every block that is looked at or lies before one."""

    vector: Float[Tensor, "layer d_model"]
    """stream behind demonstrations minus stream alone"""
    stream: Float[Tensor, "layer d_model"]
    """stream behind demonstrations"""
    shuffled: Float[Tensor, "layer d_model"]
    """as `vector`, each answer behind another word"""
    single: Float[Tensor, "prompt layer d_model"]
    """as `vector`, of the one prompt of each seed"""
    single_shuffled: Float[Tensor, "prompt layer d_model"]


def task_vectors(files: TaskVectorFiles, settings: TaskVectors, run: RunInfo) -> None:
    """Writes the metrics and two tables."""
    model = Model(files.manifest.parent, run.device, settings)
    words = {task: split_pairs(task, model.encode, settings.train, settings.judged) for task in TASKS}
    block = round(settings.depth * model.decoder.n_layers)
    blocks = sorted({block, *range(1, model.decoder.n_layers, settings.every)})
    means = {}
    for task in TASKS:
        train = words[task]["train"]
        alone = model.alone.run(model.queries(train), max(blocks)).resid[:, :, -1]
        single, stream = model.prompts(train, alone, run.seeds, wrong=False)
        wrong, _ = model.prompts(train, alone[: block + 1], run.seeds, wrong=True)
        means[task] = Means(single.mean(0), stream.mean(0), wrong.mean(0), single, wrong)
    rows, curve = [], []
    for task in TASKS:
        judged = words[task][judging_split(run.seeds)]
        bare = model.alone.run(model.queries(judged))
        for now in blocks:
            x = bare.resid[now, :, -1:] + means[task].vector[now]
            answered = model.answered(judged, model.edited(bare, now, x)).mean()
            curve.append({"task": task, "block": now, "answered": answered})
        rows.append(model.judge(task, judged, bare, words[task]["train"], means, block, run.seeds))
    answers = pd.concat(rows)
    write_table(files.words, answers)
    write_table(files.blocks, pd.DataFrame(curve).assign(judged=lambda table: table["block"] == block))
    write_metrics(files.metrics, metrics(answers, run.seeds))


class Model:
    """The model and its prompts."""

    def __init__(self, folder: Path, device: str, settings: TaskVectors) -> None:
        bridge = load_model(folder, device=device)
        self.decoder = Decoder(bridge, LENGTH)
        self.settings = settings
        self.encode = lambda text: encode(bridge.tokenizer, text)
        self.alone = Prefix(self.decoder, [SINK])

    def queries(self, pairs: list[Pair]) -> list[list[int]]:
        """` word:` for each pair."""
        return [self.encode(f" {pair.word}:") for pair in pairs]

    def few_shot(self, pairs: list[Pair], stop: int | None = None) -> Prefix:
        """Demonstrations behind position 0, through the blocks before `stop`."""
        return Prefix(self.decoder, [SINK, *self.encode(prompt(pairs))], stop)

    def prompts(
        self, pairs: list[Pair], alone: Float[Tensor, "layer item d_model"], seeds: list[int], *, wrong: bool
    ) -> tuple[Float[Tensor, "prompt layer d_model"], Float[Tensor, "prompt layer d_model"]]:
        """Last position behind the demonstrations of each seed's prompt minus alone, and behind demonstrations, mean
        over queries, through as many blocks as `alone` has. `wrong`: with each answer behind another word."""
        moved, streams, stop = [], [], len(alone) - 1
        for seed in seeds:
            draw = random.Random(seed)
            drawn = draw.sample(range(len(pairs)), self.settings.demonstrations + self.settings.queries)
            asked = drawn[self.settings.demonstrations :]
            shown = [pairs[place] for place in drawn[: self.settings.demonstrations]]
            before = self.few_shot(mismatched(shown, draw) if wrong else shown, stop)
            streams.append(before.run(self.queries([pairs[place] for place in asked]), stop).resid[:, :, -1].mean(1))
            moved.append(streams[-1] - alone[:, asked].mean(1))
        return torch.stack(moved), torch.stack(streams)

    def edited(self, bare: Run, block: int, x: Float[Tensor, "item 1 d_model"]) -> Float[Tensor, "item d_model"]:
        """Final residual stream at the last position, which is `x` before `block`."""
        return self.alone.rerun(bare, block, x).resid[-1, :, -1]

    def answered(self, pairs: list[Pair], final: Float[Tensor, "item d_model"]) -> Float[np.ndarray, " item"]:
        """1 where the answer is the most likely token."""
        right = torch.tensor([self.encode(f" {pair.answer}")[0] for pair in pairs], device=final.device)
        return (logits(self.decoder, final).argmax(-1) == right).double().cpu().numpy()

    def judge(
        self,
        task: str,
        pairs: list[Pair],
        bare: Run,
        train: list[Pair],
        means: dict[str, Means],
        block: int,
        seeds: list[int],
    ) -> pd.DataFrame:
        """Which words are answered, with and without demonstrations, and under every vector."""
        own, here = means[task].vector[block], bare.resid[block, :, -1:]

        def under(vector: Float[Tensor, " d_model"]) -> np.ndarray:
            return self.answered(pairs, self.edited(bare, block, here + vector))

        prompts = [random.Random(seed).sample(train, self.settings.demonstrations) for seed in seeds]
        rows = self.queries(pairs)
        shots = [self.few_shot(shown).run(rows).resid[-1, :, -1] for shown in prompts[:FEW_SHOT_PROMPTS]]
        draws = [torch.Generator().manual_seed(seed) for seed in seeds[:RANDOM_VECTORS]]
        noise = [torch.randn(len(own), generator=draw).to(own) for draw in draws]
        found = {
            "few_shot": np.mean([self.answered(pairs, final) for final in shots], axis=0),
            "zero_shot": self.answered(pairs, bare.resid[-1, :, -1]),
            "own_vector": under(own),
            "replaced": self.answered(pairs, self.edited(bare, block, means[task].stream[block].expand_as(here))),
            "other_task": max((under(means[other].vector[block]) for other in TASKS if other != task), key=np.mean),
            "shuffled_labels": under(as_long(means[task].shuffled[block], own)),
            "answer_minus_word": under(self.unembedded(train, own)),
            "random_vector": np.mean([under(as_long(way, own)) for way in noise], axis=0),
        }
        single = zip(seeds, means[task].single[:, block], means[task].single_shuffled[:, block], strict=True)
        for seed, one, wrong in single:
            found |= {f"one_prompt_{seed}": under(one), f"one_shuffled_{seed}": under(as_long(wrong, one))}
        about = {"task": task, "word": [pair.word for pair in pairs], "cluster": [pair.cluster for pair in pairs]}
        return pd.DataFrame(about | found)

    def unembedded(self, pairs: list[Pair], like: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
        """Mean unembedding of the answers minus that of the words, as long as `like`."""
        ids = torch.tensor([[self.encode(f" {form}")[0] for form in (pair.answer, pair.word)] for pair in pairs])
        both = self.decoder.bridge.unembed.W_U.detach()[:, ids.to(like.device)].mean(1)
        return as_long(both[:, 0] - both[:, 1], like)


def as_long(way: Float[Tensor, " d_model"], like: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    """`way` at the norm of `like`."""
    scaled: Tensor = way / way.norm() * like.norm()
    return scaled


def metrics(words: pd.DataFrame, seeds: list[int]) -> dict[str, Metric]:
    """Share of words answered, over words; the two directions of an antonym are one cluster. How far the draw of
    demonstrations decides is `one_prompt`, over seeds."""

    def of(frame: pd.DataFrame, effect: str, *controls: str) -> Metric:
        found = over_clusters(
            frame[effect].to_numpy(),
            frame["cluster"].to_numpy(),
            unit="share",
            formula="share of unseen words whose answer is the most likely token",
            cluster="words",
            controls={name: frame[name].to_numpy() for name in controls},
        )
        return with_width(found)

    found = {"own_vector": of(words, "own_vector", *CONTROLS), "few_shot": of(words, "few_shot", "zero_shot")}
    found["replaced"] = of(words, "replaced", "zero_shot")
    found["one_prompt"] = over_seeds(
        [words[f"one_prompt_{seed}"].mean() for seed in seeds],
        unit="share",
        formula="share of unseen words answered with the vector of one prompt",
        controls={"shuffled_labels": [words[f"one_shuffled_{seed}"].mean() for seed in seeds]},
    )
    for task in TASKS:
        rows = words[words["task"] == task]
        found[f"own_vector_{task}"] = of(rows, "own_vector", *CONTROLS)
        found[f"few_shot_{task}"] = of(rows, "few_shot")
    return found


if __name__ == "__main__":
    run_step(task_vectors)
