"""What a language model makes of true and false statements: residual streams, its own answer, and the answer moved.

Statements stand in a chat message of their own. What the statements of an item share ("The capital of France is") is
computed once, as is the beginning of the message.
"""
# mypy: allow-untyped-calls

from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.data.models import encode, load_model
from common.interp.decoder import Decoder
from replications.probing.continuation import Prefix, Run, joined, logits
from replications.probing.statements import Statement

LENGTH = 128
BEFORE = "<|im_start|>user\n"
QUESTION = " True or false?<|im_end|>\n<|im_start|>assistant\n"
ANSWERS = ("True", "False")
RANDOM_DIRECTIONS = 3
BATCH = 100


class Batch(NamedTuple):
    """Statements, with their residual streams at the full stop."""

    rows: list[Statement]
    stop: Float[Tensor, "layer item d_model"]
    words: Float[Tensor, "item d_model"]
    """mean embedding"""

    @property
    def true(self) -> Tensor:
        return torch.tensor([row.true for row in self.rows])

    def of(self, *, negated: bool) -> "Batch":
        """Statements of one polarity."""
        return self._at([place for place, row in enumerate(self.rows) if row.negated == negated])

    def about(self, topic: str) -> "Batch":
        """Statements of one topic."""
        return self._at([place for place, row in enumerate(self.rows) if row.topic == topic])

    def _at(self, kept: list[int]) -> "Batch":
        return Batch([self.rows[place] for place in kept], self.stop[:, kept], self.words[kept])


class Answers(NamedTuple):
    """To the question whether a statement is true."""

    logit: Float[Tensor, " item"]
    """logit of "True" minus logit of "False\""""
    probability: Float[Tensor, " item"]
    """probability of "True" minus probability of "False\""""


class Asked(NamedTuple):
    """What the model makes of a batch of judged statements."""

    answer: Float[Tensor, " item"]
    log_probability: Float[Tensor, " item"]

    def of(self, rows: list[Statement], *, negated: bool) -> "Asked":
        """Statements of one polarity."""
        kept = [place for place, row in enumerate(rows) if row.negated == negated]
        return Asked(self.answer[kept], self.log_probability[kept])


class Part(NamedTuple):
    """Some statements of a batch that run together: their places in it, and what follows the shared stems."""

    places: list[int]
    stems: list[int]
    rests: list[list[int]]
    run: Run


class Read(NamedTuple):
    """A batch and the passes behind it."""

    batch: Batch
    shared: list[list[int]]
    stems: Run
    parts: list[Part]


class Model:
    """The model, the beginning of its chat message, and the three things asked of it."""

    def __init__(self, folder: Path, device: str) -> None:
        bridge = load_model(folder, device=device)
        self.decoder = Decoder(bridge, LENGTH)
        self.encode = lambda text: encode(bridge.tokenizer, text)
        self.prefix = Prefix(self.decoder, self.encode(BEFORE))
        self.answers = torch.tensor([self.encode(answer)[0] for answer in ANSWERS], device=device)

    def read(self, rows: list[Statement], stop: int | None = None, first: list[int] | None = None) -> Read:
        """Residual streams at the full stop through the blocks before `stop`; the statements `first` run together."""
        coded = [self.encode(row.text) for row in rows]
        names = list(dict.fromkeys(row.stem for row in rows))
        stem_of = [names.index(row.stem) for row in rows]
        shared = []
        for stem in range(len(names)):
            own = [tokens for tokens, its in zip(coded, stem_of, strict=True) if its == stem]
            alike = takewhile(lambda column: len(set(column)) == 1, zip(*(tokens[:-1] for tokens in own), strict=False))
            shared.append([column[0] for column in alike])
        rests = [tokens[len(shared[stem]) :] for tokens, stem in zip(coded, stem_of, strict=True)]
        stems = self.prefix.run(shared, stop)
        later = [place for place in range(len(rows)) if place not in (first or [])]
        later.sort(key=lambda place: len(rests[place]))  # little padding
        chunks = [later[start : start + BATCH] for start in range(0, len(later), BATCH)]
        parts = []
        for places in [first, *chunks] if first else chunks:
            own_stems, own_rests = [stem_of[place] for place in places], [rests[place] for place in places]
            parts.append(Part(places, own_stems, own_rests, self.prefix.branch(stems, own_stems, own_rests, stop)))
        back = torch.tensor([place for part in parts for place in part.places]).argsort()
        seen = torch.cat([part.run.resid[:, :, -1] for part in parts], 1)[:, back.to(stems.at.device)].cpu()
        sums = self._summed(stems, shared)
        words = torch.cat([sums[part.stems] + self._summed(part.run, part.rests) for part in parts])[back]
        lengths = torch.tensor([len(tokens) for tokens in coded])
        return Read(Batch(rows, seen, words / lengths[:, None]), shared, stems, parts)

    @staticmethod
    def _summed(run: Run, rows: list[list[int]]) -> Float[Tensor, "item d_model"]:
        """Embeddings of the tokens of each row."""
        return torch.stack([x[-len(row) :].sum(0) for x, row in zip(run.resid[0], rows, strict=True)]).cpu()

    def ask(self, read: Read) -> tuple[Asked, Run]:
        """The answer to the question and the log-probability of each statement; the question behind the first part."""
        answer, tails = torch.empty(len(read.batch.rows)), []
        for part in read.parts:
            tails.append(self.prefix.extend(part.run, self.encode(QUESTION)))
            answer[part.places] = self._answer(tails[-1]).logit
        return Asked(answer, self.log_probability(read)), tails[0]

    def log_probability(self, read: Read) -> Float[Tensor, " item"]:
        """Of all tokens of each statement but the first; the passes must have gone through all blocks."""
        found = torch.empty(len(read.batch.rows))
        last = logits(self.decoder, read.stems.resid[-1, :, -1]).log_softmax(-1)
        begun = self._log_probability(read.stems, read.shared)
        for part in read.parts:
            first = torch.tensor([row[0] for row in part.rests], device=last.device)
            rest = last[part.stems, first].cpu() + self._log_probability(part.run, part.rests)
            found[part.places] = begun[part.stems] + rest
        return found

    def _log_probability(self, run: Run, rows: list[list[int]]) -> Float[Tensor, " item"]:
        """Of all tokens of each row but its first."""
        sizes = [len(row) - 1 for row in rows]
        before = torch.cat([final[-len(row) : -1] for row, final in zip(rows, run.resid[-1], strict=True)])
        after = torch.tensor([token for row in rows for token in row[1:]], dtype=torch.long, device=before.device)
        scores = logits(self.decoder, before)
        taken = scores.gather(-1, after[:, None])[:, 0] - scores.logsumexp(-1)
        return torch.stack([each.sum() for each in taken.split(sizes)]).cpu()

    def _answer(self, tail: Run) -> Answers:
        final = tail.resid[-1, :, -1]
        both = logits(self.decoder, final)
        pair = both[:, self.answers]
        share = (pair - both.logsumexp(-1, keepdim=True)).exp()
        return Answers((pair[:, 0] - pair[:, 1]).cpu(), (share[:, 0] - share[:, 1]).cpu())

    def patch(
        self, read: Read, tail: Run, move: Float[Tensor, " d_model"], layer: int, seeds: list[int]
    ) -> pd.DataFrame:
        """How far each edit of the full stop moves the answer towards that of the other kind of statement.

        Args:
            read: its first part are true and false statements of one item after the other.
            tail: the question behind them.
            move: difference of the means; all directions are as long.
            layer: where the stream is edited.
            seeds: of random directions.
        """
        rows = [read.batch.rows[place] for place in read.parts[0].places]
        true = torch.tensor([row.true for row in rows])
        both = joined(read.parts[0].run, tail, 1)
        here = both.resid[layer]
        unembed = self.decoder.bridge.unembed.W_U.detach()[:, self.answers].cpu()
        along = {"truth": move, "logit_lens": unembed[:, 0] - unembed[:, 1]}
        for seed in seeds[:RANDOM_DIRECTIONS]:
            along[f"random_{seed}"] = torch.randn(len(move), generator=torch.Generator().manual_seed(seed))
        sign = torch.where(true, -1.0, 1.0)
        other = torch.arange(len(rows)).reshape(-1, 2).flip(1).flatten()  # the other statement of the item
        edits = {name: sign[:, None] * way / way.norm() * move.norm() for name, way in along.items()}
        edits["whole_stream"] = (here[other, 0] - here[:, 0]).cpu()
        edits["other_item"] = (here[other.roll(-2), 0] - here[:, 0]).cpu()  # the next item's, of the other kind, too
        intact = self._answer(tail)
        gap = -sign * (intact.probability - intact.probability[other])
        moved = {"topic": rows[0].topic, "item": [row.item for row in rows], "true": true.numpy(), "gap": gap.numpy()}
        moved["logit_gap"] = (sign * (intact.logit[other] - intact.logit)).numpy()
        for name, edit in edits.items():
            x = here.clone()
            x[:, 0] += edit.to(x.device)
            after = self._answer(self.prefix.rerun(both, layer, x))
            moved[name] = (sign * (after.logit - intact.logit)).numpy()
            moved[f"{name}_probability"] = (sign * (after.probability - intact.probability)).numpy()
        frame = pd.DataFrame(moved)
        for suffix in ("", "_probability"):
            draws = [f"random_{seed}{suffix}" for seed in seeds[:RANDOM_DIRECTIONS]]
            frame[f"random{suffix}"] = frame[draws].mean(axis=1)
            frame = frame.drop(columns=draws)
        return frame
