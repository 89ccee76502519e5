"""Step: one vector that carries an in-context task (Todd et al. 2023; Hendel et al. 2023 for the residual stream).

Prompts are ` word: answer` lines, one demonstration each, and a query ` word:`. The vector of a task at a block is the
mean residual stream before that block at the last position, over queries behind demonstrations, minus that over the
same queries with nothing before them. It is added at the last position of unseen words with nothing before them; an
answer counts if it is the most likely of all tokens. Position 0 holds token 0 in every prompt.
"""

import random
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
from common.data.models import encode, load_model
from common.interp.decoder import Decoder
from replications.probing.continuation import Prefix, Run, logits
from replications.probing.settings import TaskVectors
from replications.probing.words import TASKS, Pair, mismatched, prompt, split_pairs

SINK = 0
LENGTH = 256
EVERY = 2  # blocks between those of the curve
RANDOM_VECTORS = 5
Means = dict[str, Float[Tensor, "layer d_model"]]


class TaskVectorFiles(Files):
    manifest: Path
    metrics: Path
    words: Path
    """one row per judged word: whether it is answered, under every edit"""
    blocks: Path
    """share of words answered when the vector is added at each block"""


def task_vectors(files: TaskVectorFiles, settings: TaskVectors, run: RunInfo) -> None:
    """Writes the metrics and two tables."""
    model = Model(files.manifest.parent, run.device, settings)
    words = {task: split_pairs(task, model.encode, settings.train, settings.judged) for task in TASKS}
    vectors: Means = {}
    shuffled: Means = {}
    for task in TASKS:
        vectors[task] = model.vector(words[task]["train"], run.seeds, wrong=False)
        shuffled[task] = model.vector(words[task]["train"], run.seeds, wrong=True)
    block = round(settings.depth * model.decoder.n_layers)
    judged = {task: words[task][judging_split(run.seeds)] for task in TASKS}
    bare = {task: model.alone.run(model.queries(judged[task])) for task in TASKS}
    rows, curve = [], []
    for task in TASKS:
        for now in range(1, model.decoder.n_layers, EVERY):
            right = model.answered(judged[task], model.added(bare[task], now, vectors[task][now]))
            curve.append({"task": task, "block": now, "answered": right.mean()})
        rows.append(model.judge(task, judged[task], bare[task], words, vectors, shuffled, block, run.seeds))
    found = pd.concat(rows)
    write_table(files.words, found)
    write_table(files.blocks, pd.DataFrame(curve))
    write_metrics(files.metrics, metrics(found))


class Model:
    """The model and its prompts."""

    def __init__(self, folder: Path, device: str, settings: TaskVectors) -> None:
        bridge = load_model(folder, device=device)
        self.decoder = Decoder(bridge, LENGTH)
        self.settings = settings
        self.encode = lambda text: encode(bridge.tokenizer, text)
        self.alone = Prefix(self.decoder, [SINK])

    def queries(self, pairs: list[Pair]) -> list[list[int]]:
        return [self.encode(f" {pair.word}:") for pair in pairs]

    def few_shot(self, pairs: list[Pair]) -> Prefix:
        return Prefix(self.decoder, [SINK, *self.encode(prompt(pairs))])

    def vector(self, pairs: list[Pair], seeds: list[int], *, wrong: bool) -> Float[Tensor, "layer d_model"]:
        """Mean of the last position behind demonstrations minus alone, over prompts of all seeds; `wrong`: with each
        answer behind another word."""
        found = []
        for seed in seeds:
            draw = random.Random(seed)
            drawn = draw.sample(pairs, self.settings.demonstrations + self.settings.queries)
            demonstrations, asked = drawn[: self.settings.demonstrations], drawn[self.settings.demonstrations :]
            before = self.few_shot(mismatched(demonstrations, draw) if wrong else demonstrations)
            rows = self.queries(asked)
            found.append((before.run(rows).resid - self.alone.run(rows).resid)[:, :, -1].mean(1))
        return torch.stack(found).mean(0)

    def added(self, bare: Run, block: int, vector: Float[Tensor, " d_model"]) -> Float[Tensor, "item d_model"]:
        """Final residual stream at the last position, with the vector added there before `block`."""
        return self.alone.rerun(bare, block, bare.resid[block, :, -1:] + vector).resid[-1, :, -1]

    def answered(self, pairs: list[Pair], final: Float[Tensor, "item d_model"]) -> Float[np.ndarray, " item"]:
        """1 where the answer is the most likely token."""
        right = torch.tensor([self.encode(f" {pair.answer}")[0] for pair in pairs], device=final.device)
        return (logits(self.decoder, final).argmax(-1) == right).double().cpu().numpy()

    def judge(
        self,
        task: str,
        pairs: list[Pair],
        bare: Run,
        words: dict[str, dict],
        vectors: Means,
        shuffled: Means,
        block: int,
        seeds: list[int],
    ) -> pd.DataFrame:
        """Which words are answered, with and without demonstrations, and under every vector."""
        own = vectors[task][block]

        def edited(vector: Tensor) -> np.ndarray:
            return self.answered(pairs, self.added(bare, block, vector))

        prompts = [random.Random(seed).sample(words[task]["train"], self.settings.demonstrations) for seed in seeds]
        shots = [self.few_shot(drawn).run(self.queries(pairs)).resid[-1, :, -1] for drawn in prompts[:2]]
        noise = [torch.randn(len(own), generator=torch.Generator().manual_seed(n)).to(own) for n in range(RANDOM_VECTORS)]
        found = {
            "few_shot": np.mean([self.answered(pairs, final) for final in shots], axis=0),
            "zero_shot": self.answered(pairs, bare.resid[-1, :, -1]),
            "own_vector": edited(own),
            "other_task": np.mean([edited(vectors[other][block]) for other in TASKS if other != task], axis=0),
            "shuffled_labels": edited(shuffled[task][block]),
            "answer_minus_word": edited(self.unembedded(words[task]["train"], own)),
            "random_vector": np.mean([edited(way / way.norm() * own.norm()) for way in noise], axis=0),
        }
        about = {"task": task, "word": [pair.word for pair in pairs], "cluster": [pair.cluster for pair in pairs]}
        return pd.DataFrame(about | found)

    def unembedded(self, pairs: list[Pair], like: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
        """Mean unembedding of the answers minus that of the words, as long as `like`: what arithmetic on words gives."""
        ids = torch.tensor([[self.encode(f" {form}")[0] for form in (pair.answer, pair.word)] for pair in pairs])
        both = self.decoder.bridge.unembed.W_U.detach()[:, ids.to(like.device)].mean(1)
        way = both[:, 0] - both[:, 1]
        return way / way.norm() * like.norm()


def metrics(words: pd.DataFrame) -> dict[str, Metric]:
    """Share of words answered, over words."""
    controls = ("zero_shot", "other_task", "shuffled_labels", "answer_minus_word", "random_vector")

    def share(frame: pd.DataFrame, effect: str, *names: str) -> Metric:
        return over_clusters(
            frame[effect].to_numpy(),
            frame["cluster"].to_numpy(),
            unit="share",
            formula="share of unseen words whose answer is the most likely token",
            cluster="words",
            controls={name: frame[name].to_numpy() for name in names},
        )

    found = {"own_vector": share(words, "own_vector", *controls), "few_shot": share(words, "few_shot", "zero_shot")}
    for task in TASKS:
        found[f"own_vector_{task}"] = share(words[words["task"] == task], "own_vector", *controls)
        found[f"few_shot_{task}"] = share(words[words["task"] == task], "few_shot")
    return found


if __name__ == "__main__":
    run_step(task_vectors)
