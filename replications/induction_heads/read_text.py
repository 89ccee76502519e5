"""Step: what a language model's induction heads do on real text.

Two questions of Olsson et al. 2022. (a) In-context learning: mean loss of a late window of tokens minus mean loss of an
early one, paired over documents. Also, on the same late tokens, how much the loss falls when the whole context is there
instead of its last part. (b) Ablation: by how much does the loss rise without the induction heads, on tokens that
complete a pair seen before and on all others? The ratio of the two rises must be three or more for the induction heads,
and not for random heads of the same layers. A ratio means nothing where both rises are about zero, so the rise of the
other tokens counts as at least `floor` nats. Heads that matter for nothing get a ratio near zero.

Heads come from `measure_model.py` (random tokens, no text). Calibration seeds read another split of the corpus than
scoring seeds: other packages altogether. Controls, measured on the same documents: random sets of as many other heads
of the same layers, pooled and each by itself. Also those other heads that write most.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from common.core.errors import UserError
from common.core.files import read_json
from common.core.metrics import Metric, Uncertainty, write_metrics
from common.core.statistics import BOOTSTRAP_DRAWS, against_null, from_draws, over_clusters, with_control
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.data.corpora import Split, judging_split, read_corpus
from common.data.models import encode, load_model, load_tokenizer
from common.interp.decoder import Decoder
from replications.induction_heads.language_model import Head, losses_from, residual_before, run_pass, write_norms
from replications.induction_heads.model_heads import matched, random_set
from replications.induction_heads.repeats import completes_a_pair
from replications.induction_heads.settings import RealText

BATCH = 6  # documents in one pass
BIN = 8  # context positions in one row of the table of losses
CLUSTER = "documents"


class Rises(NamedTuple):
    """Rise of the loss, summed over the tokens of each document, and how many tokens there are of each kind."""

    pairs: Float[np.ndarray, " document"]
    others: Float[np.ndarray, " document"]
    n_pairs: Float[np.ndarray, " document"]
    n_others: Float[np.ndarray, " document"]


class ReadTextFiles(Files):
    manifest: Path
    """of the language model"""
    roles: Path
    corpus: Path
    metrics: Path
    windows: Path
    """loss by position"""
    rises: Path
    """of every set of heads"""


def read_text(files: ReadTextFiles, settings: RealText, run: RunInfo) -> None:
    """Writes the metrics and the two tables.

    Raises:
        UserError: the corpus has too few documents of the length that the late window needs.
    """
    split = judging_split(run.seeds)
    model = files.manifest.parent
    tokens = documents(files.corpus.parent, split, model, settings, min(run.seeds)).to(run.device)
    bridge = load_model(model, device=run.device)
    decoder = Decoder(bridge, tokens.shape[1])
    heads = [(layer, head) for layer, head in read_json(files.roles)["induction"]]
    first = min(layer for layer, _ in heads)
    entering = torch.cat([residual_before(bridge, first, part) for part in torch.split(tokens, BATCH)])

    def losses(removed: list[Head]) -> Float[np.ndarray, "document next"]:
        parts = [
            losses_from(decoder, first, residual, part, removed)
            for residual, part in zip(torch.split(entering, BATCH), torch.split(tokens, BATCH), strict=True)
        ]
        return torch.cat(parts).double().cpu().numpy()

    def losses_of(sequences: Int[Tensor, "batch pos"]) -> Float[np.ndarray, "document next"]:
        parts = [run_pass(bridge, part).losses for part in torch.split(sequences, BATCH)]
        return torch.cat(parts).double().cpu().numpy()

    intact, without = losses([]), losses(heads)
    start = settings.late[0] - settings.near
    near = torch.cat([tokens[:, :1], tokens[:, start:]], 1)
    foreign = torch.cat([tokens.roll(1, 0)[:, :start], tokens[:, start:]], 1)
    late = settings.late[1] - settings.late[0] + 1
    found = windows_metrics(
        settings, intact, without, near=losses_of(near)[:, -late:], foreign=losses_of(foreign)[:, -late:]
    )
    completing = completes_a_pair(tokens).cpu().numpy()

    def rises(removed: Float[np.ndarray, "document next"]) -> Rises:
        return summed(removed - intact, completing)

    effect, rng, taken = rises(without), np.random.default_rng(0), set(heads)
    norms = torch.stack([write_norms(decoder, part) for part in torch.split(tokens, BATCH)]).mean(0)
    writers = rises(losses(matched(heads, norms, taken)))
    null = [
        rises(losses(random_set(heads, decoder.n_heads, rng, taken)))
        for _ in track(range(settings.draws), "random heads")
    ]
    found |= rises_metrics(effect, null, writers, settings.floor)
    write_metrics(files.metrics, found)
    write_table(files.windows, _by_position({"intact": intact, "without induction heads": without}))
    named = [("induction", effect), ("writers", writers), *((f"random {k}", one) for k, one in enumerate(null))]
    write_table(files.rises, [{"heads": name} | _means(one) for name, one in named])


def documents(folder: Path, split: Split, model: Path, text: RealText, seed: int) -> Int[Tensor, "document pos"]:
    """The first tokens of randomly chosen documents that reach the late window's end, after the document token."""
    tokenizer, every = load_tokenizer(model), read_corpus(folder, split)
    length = text.late[1] + 1
    rows: list[list[int]] = []
    for index in np.random.default_rng(seed).permutation(len(every)):
        ids = encode(tokenizer, every[index].text[: 20 * length])
        if len(ids) >= length - 1:
            rows.append([0, *ids[: length - 1]])
        if len(rows) == text.documents:
            return torch.tensor(rows)
    raise UserError(
        f"only {len(rows)} of the {text.documents} documents have {length} tokens; lower 'documents' or the late "
        "window in replications/induction_heads/config.yaml"
    )


def summed(change: Float[np.ndarray, "document next"], completing: Shaped[np.ndarray, "document next"]) -> Rises:
    """Sums over the tokens of each document."""
    n = completing.sum(1).astype(np.float64)
    return Rises((change * completing).sum(1), (change * ~completing).sum(1), n, completing.shape[1] - n)


def ratio(
    rises: Rises, floor: float, chosen: Shaped[np.ndarray, "*draw document"] | None = None
) -> Float[np.ndarray, "*draw"]:
    """Mean rise on completing tokens over mean rise on others, the latter at least `floor`; per row of `chosen`."""
    rows = np.arange(len(rises.pairs)) if chosen is None else chosen
    pairs, others, n_pairs, n_others = (part[rows].sum(-1) for part in rises)
    return np.asarray((pairs / np.maximum(n_pairs, 1)) / np.maximum(others / n_others, floor))


def windows_metrics(
    text: RealText,
    intact: Float[np.ndarray, "document next"],
    without: Float[np.ndarray, "document next"],
    *,
    near: Float[np.ndarray, "document late"],
    foreign: Float[np.ndarray, "document late"],
) -> dict[str, Metric]:
    """In-context scores, against another document's text in the far context. The loss at index i is that of token
    i + 1."""
    early, late = (slice(first - 1, last) for first, last in (text.early, text.late))

    def score(losses: np.ndarray) -> np.ndarray:
        mean: np.ndarray = losses[:, late].mean(1) - losses[:, early].mean(1)
        return mean

    def over_documents(values: np.ndarray, formula: str, **controls: np.ndarray) -> Metric:
        clusters = np.arange(len(intact))
        return over_clusters(values, clusters, unit="nats", formula=formula, cluster=CLUSTER, controls=controls)

    foreign_score = foreign.mean(1) - intact[:, early].mean(1)
    return {
        "window_score": over_documents(
            score(intact), "loss of the late window minus loss of the early one", foreign_context=foreign_score
        ),
        "window_score_without_induction": over_documents(score(without), "the same without induction heads"),
        "window_score_lost": over_documents(
            score(without) - score(intact), "in-context score without induction heads minus intact"
        ),
        "context_gain": over_documents(
            near.mean(1) - intact[:, late].mean(1),
            "loss of the late window after a short context minus loss after the whole one",
            foreign_context=near.mean(1) - foreign.mean(1),
        ),
    }


def rises_metrics(effect: Rises, null: list[Rises], writers: Rises, floor: float) -> dict[str, Metric]:
    """Rises and their ratio, with bootstrap intervals over documents.

    Controls: all random sets pooled, and the heads that write most, both paired by document; and the null distribution
    of single random sets.
    """
    clusters = np.arange(len(effect.pairs))
    pooled = Rises(*(np.sum(parts, 0) for parts in zip(*null, strict=True)))
    paired = {"random_heads": pooled, "heads_that_write_most": writers}
    found = {
        f"rise_{kind}": over_clusters(
            getattr(effect, kind),
            clusters,
            unit="nats",
            formula=f"rise of the loss without induction heads, mean over {text}",
            cluster=CLUSTER,
            denominators=getattr(effect, f"n_{kind}"),
            controls={name: (getattr(one, kind), getattr(one, f"n_{kind}")) for name, one in paired.items()},
        )
        for kind, text in (("pairs", "tokens that complete an earlier pair"), ("others", "all other tokens"))
    }
    chosen = np.random.default_rng(0).integers(0, len(clusters), size=(BOOTSTRAP_DRAWS, len(clusters)))

    def estimate(value: float, draws: np.ndarray) -> Metric:
        text = f"mean rise on completing tokens over mean rise on others, the latter at least {floor} nats"
        documents = Uncertainty(unit=CLUSTER, count=len(clusters))
        return from_draws(value, draws, n=len(clusters), unit="1", formula=text, uncertainty=documents)

    value, draws = float(ratio(effect, floor)), ratio(effect, floor, chosen)
    metric = estimate(value, draws)
    for name, one in paired.items():
        control, others = float(ratio(one, floor)), ratio(one, floor, chosen)
        gap = estimate(value - control, draws - others)
        metric = with_control(metric, name, estimate(control, others), gap)
    each = np.array([float(ratio(one, floor)) for one in null])
    return found | {"ratio": against_null(metric, each, name="random_sets", formula="one random set of heads")}


def _by_position(losses: dict[str, np.ndarray]) -> list[dict[str, object]]:
    return [
        {"model": name, "token": first + 1 + BIN / 2, "loss": float(values[:, first : first + BIN].mean())}
        for name, values in losses.items()
        for first in range(0, values.shape[1], BIN)
    ]


def _means(one: Rises) -> dict[str, object]:
    return {"pairs": one.pairs.sum() / one.n_pairs.sum(), "others": one.others.sum() / one.n_others.sum()}


if __name__ == "__main__":
    run_step(read_text)
