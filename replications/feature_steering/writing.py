"""Writing answers under interventions, and reading them again with the unsteered model.

Latents are clamped (Templeton et al. 2024), vectors added (Turner et al. 2023; AxBench). This is done at every position
of prompt and answer but the first, an attention sink. A dose is a length over the mean norm of the residual stream, so
all methods move an activation about equally far. All answers to one question about one topic share their random
numbers, and so does the unsteered answer.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.core.step import track
from common.interp.generation import ROWS, Sampler, begin, behind_first, edited, generate, reread, unembedded
from common.saes.sae import Sae
from common.saes.steering import Steering
from replications.feature_steering.settings import INSTRUCTION, UNSTEERED, Writing
from replications.feature_steering.words import distinct_bigrams, distinct_words, halves, word_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STREAMS = 10_000
OPENING = 24  # tokens of an answer that tell which question it fits
PLAIN = "plain"  # rows without an intervention
READ = 32  # answers that are read at a time on a processor, whose cache then holds their activations


class Row(NamedTuple):
    """One answer to write. `candidate` is a place in a method's pool, or the topic; `prompt` is what is continued,
    `question` what the answer is read after. Both are places in the list of prompts. `sample` counts answers to one
    prompt."""

    seed: int
    part: str
    method: str
    topic: int
    candidate: int
    dose: float
    prompt: int
    question: int
    sample: int = 0

    @property
    def stream(self) -> int:
        return (self.sample * STREAMS + self.question) * STREAMS + self.topic


class Arm(NamedTuple):
    """The latents or the directions of a method, by candidate."""

    latent: Int[Tensor, " candidate"] | None = None
    direction: Float[Tensor, "candidate d_model"] | None = None


class Writer:
    """Writes and reads the answers of one seed."""

    def __init__(
        self, model: "PreTrainedModel", sae: Sae, prepared: dict[str, Tensor], prompts: list[list[int]], judge: str,
        writing: Writing, special: list[int], seed: int,
    ) -> None:  # fmt: skip
        self.model, self.sae, self.prepared, self.prompts, self.judge = model, sae, prepared, prompts, judge
        self.writing, self.special, self.seed = writing, special, seed
        self.norm, self.halves = float(prepared["norm"]), halves(prepared["words"])
        parts = (prepared["words"], *self.halves)
        self.tokens = torch.cat([word_tokens(prepared["of_token"], part) for part in parts], 1)

    @property
    def read_batch(self) -> int:
        return min(READ, self.writing.batch) if str(self.model.device) == "cpu" else self.writing.batch

    def steering(self, rows: list[Row], arm: Arm) -> Steering:
        """The intervention of rows of one method: a clamp to, or an addition of, the dose times the mean norm."""
        at = torch.tensor([row.candidate for row in rows])
        length = torch.tensor([row.dose * self.norm for row in rows])
        if arm.latent is not None:
            latent = arm.latent[at]
            return Steering("clamp", length / self.sae.W_dec[latent].norm(dim=1), sae=self.sae, latent=latent)
        assert arm.direction is not None
        return Steering("add", length, direction=arm.direction[at])

    def write(self, rows: list[Row], arms: dict[str, Arm]) -> Int[Tensor, "row new"]:
        """Tokens of every row. Rows of one kind of intervention are written side by side, equal ones once."""
        written = torch.zeros(len(rows), self.writing.new_tokens, dtype=torch.long)
        same: dict[tuple[Any, ...], int] = {}
        of = [same.setdefault(identity(row, arms), place) for place, row in enumerate(rows)]
        kinds: dict[str, list[int]] = {}
        for (kind, *_), place in same.items():
            kinds.setdefault(kind, []).append(place)
        for kind, places in kinds.items():
            asked = torch.tensor([rows[place].prompt for place in places])
            for part, prompts, at in self._batches(asked, f"{kind}: written", self.writing.batch):
                own = [places[one] for one in part.tolist()]
                group = [rows[place] for place in own]
                edit = None if kind == PLAIN else self._joined(group, arms).to(str(self.model.device))
                sampler = Sampler(
                    self.writing.temperature, torch.tensor([row.stream for row in group]), self.seed, self.special
                )
                written[own] = generate(
                    self.model,
                    prompts,
                    at,
                    self.sae.about.hook,
                    edit,
                    self.writing.new_tokens,
                    sampler,
                    whole_prompt=True,
                )
        return written[of]

    def _batches(
        self, asked: Int[Tensor, " row"], what: str, size: int
    ) -> Iterator[tuple[Int[Tensor, " part"], list[list[int]], Int[Tensor, " part"]]]:
        """Rows in batches: their places, the prompts that they continue, and which of these each continues."""
        for part in track(list(torch.split(torch.arange(len(asked)), size)), what):
            distinct, at = torch.unique(asked[part], return_inverse=True)
            yield part, [self.prompts[place] for place in distinct.tolist()], at

    def _joined(self, rows: list[Row], arms: dict[str, Arm]) -> Steering:
        """The interventions of rows of several methods of one kind."""
        each = [self.steering([row], arms[row.method]) for row in rows]
        strength = torch.cat([one.strength for one in each])
        if each[0].latent is not None:
            latent = torch.cat([one.latent for one in each if one.latent is not None])
            return Steering("clamp", strength, sae=self.sae, latent=latent)
        direction = torch.cat([one.direction for one in each if one.direction is not None])
        return Steering("add", strength, direction=direction)

    def expects(
        self, rows: list[Row], texts: Int[Tensor, "row new"], arm: Arm | None
    ) -> tuple[Float[Tensor, "row topic"], Float[Tensor, " row"]]:
        """What the model expects under an intervention while it reads given answers.

        Mean probability of the words of every topic, then of their first half, then of the second. Last nats per token
        of the answers. `arm` None: no intervention.
        """
        share, nats = [], []
        for part, prompts, at in self._batches(torch.tensor([row.prompt for row in rows]), "tried", self.read_batch):
            group = [rows[place] for place in part.tolist()]
            edit = None if arm is None else self.steering(group, arm).to(str(self.model.device))
            of_topic, of_text = expected(self.model, prompts, at, texts[part], self.sae.about.hook, edit, self.tokens)
            share.append(of_topic)
            nats.append(of_text)
        return torch.cat(share), torch.cat(nats)

    def read(self, rows: list[Row], written: Int[Tensor, "row new"], neutral: range) -> pd.DataFrame:
        """What the unsteered model makes of the answers: one line a row. `neutral`: places of the scoring questions.

        Columns beside those of `Row`; `words` and `others` also for each half of the words (`words_0`, ...):

            nats        a token
            distinct    bigrams
            words       of the topic
            others      mean words of other topics
            judge       the judge's score of the topic, where 0 is the mean of all topics
            named       whether it scores highest of all
            follows     2 less one for each of two other neutral questions after which the answer's first tokens are
                        likelier than after its own; nan if it answers no neutral question
        """
        asked = torch.tensor([row.question for row in rows])
        distinct, of = torch.unique(torch.cat([asked[:, None], written], 1), dim=0, return_inverse=True)
        questions, texts = distinct[:, 0], distinct[:, 1:]
        nats, mean = self._reread(questions, texts)
        judge = (mean.double() @ self.prepared["judge.weights"] + self.prepared["judge.offset"])[of]
        frame = pd.DataFrame(columns(rows))
        frame["nats"], frame["distinct"] = nats.mean(1)[of].numpy(), distinct_bigrams(written).numpy()
        frame["follows"] = self._follows(questions, texts[:, :OPENING], nats[:, :OPENING], neutral)[of].numpy()
        topic, order, topics = frame["topic"].to_numpy(), np.arange(len(rows)), judge.shape[1]
        for half, words in enumerate(self.halves):
            counts = distinct_words(written, self.prepared["of_token"], words).numpy()
            frame[f"words_{half}"] = counts[order, topic]
            frame[f"others_{half}"] = (counts.sum(1) - counts[order, topic]) / (topics - 1)
        for column in ("words", "others"):
            frame[column] = frame[f"{column}_0"] + frame[f"{column}_1"]
        frame["judge"] = (judge.numpy() - judge.numpy().mean(1, keepdims=True))[order, topic]
        frame["named"] = (judge.argmax(1).numpy() == topic).astype(int)
        return frame

    def _reread(
        self, questions: Int[Tensor, " row"], written: Int[Tensor, "row new"]
    ) -> tuple[Float[Tensor, "row new"], Float[Tensor, "row d_model"]]:
        """Nats of each token of answers after given questions, and the mean residual stream where the judge reads."""
        nats, means = [], []
        for part, prompts, at in self._batches(questions, "read again", self.read_batch):
            of_token, mean = reread(self.model, prompts, at, written[part], self.judge)
            nats.append(of_token)
            means.append(mean)
        return torch.cat(nats), torch.cat(means)

    def _follows(
        self, questions: Int[Tensor, " row"], written: Int[Tensor, "row new"], nats: Float[Tensor, "row new"],
        neutral: range,
    ) -> Float[Tensor, " row"]:  # fmt: skip
        """How well answers fit their own neutral question, 0 to 2, beside the next two questions of the list."""
        rated = (questions >= neutral.start) & (questions < neutral.stop)
        found, own = torch.full((len(questions),), float("nan")), questions[rated] - neutral.start
        found[rated] = 2.0
        for step in (1, 2):
            other, _ = self._reread(neutral.start + (own + step) % len(neutral), written[rated])
            found[rated] -= (other.mean(1) < nats[rated].mean(1)).float()
        return found


@torch.inference_mode()
def expected(
    model: "PreTrainedModel", prompts: list[list[int]], rows: Int[Tensor, " row"], texts: Int[Tensor, "row new"],
    hook: str, edit: Steering | None, tokens: Float[Tensor, "d_vocab topic"],
) -> tuple[Float[Tensor, "row topic"], Float[Tensor, " row"]]:  # fmt: skip
    """Mean probability of `tokens` at the positions of given texts, and nats per token of the texts. Prompt and text
    are edited, the first position excepted."""
    if edit is None:
        begun = begin(model, prompts, rows)
    else:
        own = [prompts[row] for row in rows.tolist()]
        with edited(model, hook, behind_first(edit, own)):
            begun = begin(model, own, torch.arange(len(rows)))
    read = torch.cat([begun.last, texts.to(begun.last.device)], 1)
    with edited(model, hook, edit) if edit is not None else contextlib.nullcontext():
        hidden = model.base_model(
            input_ids=read[:, :-1],
            attention_mask=torch.cat([begun.mask, torch.ones_like(read[:, 2:])], 1),
            position_ids=begun.position + torch.arange(texts.shape[1], device=read.device),
            past_key_values=begun.cache,
            use_cache=True,
        ).last_hidden_state
    share, nats = [], []
    for part, wanted in zip(torch.split(hidden, ROWS), torch.split(read[:, 1:], ROWS), strict=True):
        logs = unembedded(model, part).log_softmax(-1)
        nats.append(-logs.gather(-1, wanted[..., None])[..., 0].mean(1))
        share.append(logs.exp().mean(1) @ tokens.to(logs.device))
    return torch.cat(share).cpu(), torch.cat(nats).cpu()


def identity(row: Row, arms: dict[str, Arm]) -> tuple[Any, ...]:
    """Kind of intervention, and all else that an answer depends on. Rows of equal identity have the same answer."""
    rest = (row.dose, row.prompt, row.stream)
    if row.method in (UNSTEERED, INSTRUCTION):
        return PLAIN, *rest
    arm = arms[row.method]
    if arm.latent is not None:
        return "clamp", int(arm.latent[row.candidate]), *rest
    return "add", row.method, row.candidate, *rest


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    """One list for each field of a row."""
    return {name: [getattr(row, name) for row in rows] for name in Row._fields}
