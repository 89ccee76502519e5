"""Step: what a language model's induction heads do on real text.

Two questions of Olsson et al. 2022. (a) In-context learning: mean loss of a late window of tokens minus mean loss of an
early one, paired over documents; and, on the same late tokens, how much the loss falls when the whole context is there
instead of its last part. (b) Ablation: with the induction heads removed, by how much does the loss rise on tokens that
complete a pair seen before, and on all other tokens? The ratio of the two rises is asked to be three or more, for the
induction heads and not for random heads of the same layers. A ratio means nothing where both rises are about zero, so
the rise of the other tokens counts as at least `floor` nats: heads that matter for nothing get a ratio near zero.

Heads come from `score_model.py` (random tokens, no text). Calibration seeds read another split of the corpus than
scoring seeds: other packages altogether. Each random set of heads is measured on one document in `shared`, in turn, so
that every document meets several sets; the sets' ratios are their own null distribution, noise included.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from common.core.errors import UserError
from common.core.files import read_json
from common.core.metrics import Metric, write_metrics
from common.core.statistics import BOOTSTRAP_DRAWS, from_draws, null_distribution, over_clusters
from common.core.step import run, track
from common.core.tables import write_table
from common.data.corpora import Split, judging_split, read_corpus
from common.data.models import encode, load_model, load_tokenizer
from common.interp.decoder import Decoder
from replications.induction_heads.language_model import Head, losses_from, residual_before, run_pass
from replications.induction_heads.model_settings import RealText
from replications.induction_heads.repeats import completes_a_pair

BATCH = 6  # documents in one pass
BIN = 8  # context positions in one row of the table of losses


class Rises(NamedTuple):
    """Rise of the loss, summed over the tokens of each document, and how many tokens there are of each kind."""

    pairs: Float[np.ndarray, " document"]
    others: Float[np.ndarray, " document"]
    n_pairs: Float[np.ndarray, " document"]
    n_others: Float[np.ndarray, " document"]


def read_text(
    *,
    manifest: Path,
    roles: Path,
    corpus: Path,
    text: RealText,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    metrics: Path,
    windows: Path,
    rises: Path,
) -> None:
    """Writes `metrics`, the loss by position (`windows`) and the rises of every set of heads (`rises`).

    Raises:
        UserError: the corpus has too few documents of the length that the late window needs.
    """
    split = judging_split(seeds)
    tokens = documents(corpus.parent, split, manifest.parent, text, min(seeds)).to(device)
    bridge = load_model(manifest.parent, device=device)
    decoder = Decoder(bridge, tokens.shape[1])
    heads = [(layer, head) for layer, head in read_json(roles)["induction"]]
    first = min(layer for layer, _ in heads)
    entering = torch.cat([residual_before(bridge, first, part) for part in torch.split(tokens, BATCH)])

    def losses(removed: list[Head], rows: Tensor) -> Float[np.ndarray, "document next"]:
        parts = [
            losses_from(decoder, first, entering[part], tokens[part], removed) for part in torch.split(rows, BATCH)
        ]
        return torch.cat(parts).double().cpu().numpy()

    def losses_of(sequences: Int[Tensor, "batch pos"]) -> Float[np.ndarray, "document next"]:
        parts = [run_pass(bridge, part).losses for part in torch.split(sequences, BATCH)]
        return torch.cat(parts).double().cpu().numpy()

    everything = torch.arange(len(tokens), device=device)
    intact, without = losses([], everything), losses(heads, everything)
    start = text.late[0] - text.near
    near = torch.cat([tokens[:, :1], tokens[:, start:]], 1)
    foreign = torch.cat([tokens.roll(1, 0)[:, :start], tokens[:, start:]], 1)
    late = text.late[1] - text.late[0] + 1
    found = windows_metrics(
        text, intact, without, near=losses_of(near)[:, -late:], foreign=losses_of(foreign)[:, -late:]
    )
    completing = completes_a_pair(tokens).cpu().numpy()
    change = without - intact
    effect = summed(change, completing)
    rng = np.random.default_rng(0)
    null: list[tuple[Rises, np.ndarray]] = []
    for k in track(range(text.draws), "random heads"):
        rows = everything[k % text.shared :: text.shared]
        drawn = losses(random_set(heads, decoder.n_heads, rng), rows)
        own = rows.cpu().numpy()
        null.append((summed(drawn - intact[own], completing[own]), own))
    found |= rises_metrics(effect, null, text.floor)
    write_metrics(metrics, found)
    write_table(windows, _by_position({"intact": intact, "without induction heads": without}))
    named = [("induction", effect), *((f"random {k}", one) for k, (one, _) in enumerate(null))]
    write_table(rises, [{"heads": name} | _means(one) for name, one in named])


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


def random_set(heads: list[Head], n_heads: int, rng: np.random.Generator) -> list[Head]:
    """In every layer of `heads` as many others, at random, as far as the layer has them."""
    found: list[Head] = []
    for layer in sorted({layer for layer, _ in heads}):
        free = [head for head in range(n_heads) if (layer, head) not in heads]
        count = min(len(free), sum(one == layer for one, _ in heads))
        found += [(layer, int(head)) for head in rng.choice(free, count, replace=False)]
    return found


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
    """In-context scores. The loss at index i is that of token i + 1."""
    early, late = (slice(first - 1, last) for first, last in (text.early, text.late))

    def score(losses: np.ndarray) -> np.ndarray:
        mean: np.ndarray = losses[:, late].mean(1) - losses[:, early].mean(1)
        return mean

    others = foreign.mean(1) - intact[:, early].mean(1)
    gain, gain_foreign = near.mean(1) - intact[:, late].mean(1), near.mean(1) - foreign.mean(1)
    values = {
        "window_score": (score(intact), "loss of the late window minus loss of the early one"),
        "window_score_foreign": (others, "the same, with another document's text before the late window"),
        "window_score_minus_foreign": (score(intact) - others, "the former minus the latter, same document"),
        "window_score_without_induction": (score(without), "without induction heads"),
        "window_score_lost": (score(without) - score(intact), "in-context score without induction heads minus intact"),
        "context_gain": (gain, "loss of the late window after a short context minus loss after the whole one"),
        "context_gain_foreign": (gain_foreign, "the same, with another document's text in place of the far context"),
        "context_gain_minus_foreign": (gain - gain_foreign, "the former minus the latter, same document"),
    }
    clusters = np.arange(len(intact))
    return {
        name: over_clusters(value, clusters, unit="nats", formula=f"{formula}; mean over documents")
        for name, (value, formula) in values.items()
    }


def rises_metrics(effect: Rises, null: list[tuple[Rises, np.ndarray]], floor: float) -> dict[str, Metric]:
    """Ratios with bootstrap intervals over documents; the random sets as a null distribution and, pooled, per
    document."""
    found: dict[str, Metric] = {}
    clusters = np.arange(len(effect.pairs))
    pooled = [np.zeros(len(clusters)) for _ in Rises._fields]
    for one, own in null:
        for total, part in zip(pooled, one, strict=True):
            total[own] += part
    random = Rises(*pooled)
    for name, one in (("induction", effect), ("random", random)):
        for kind, above, below in (("pairs", one.pairs, one.n_pairs), ("others", one.others, one.n_others)):
            text = f"rise of the loss without {name} heads, mean over {kind} (tokens that complete a pair, or the rest)"
            found[f"rise_{kind}_{name}"] = over_clusters(above, clusters, unit="nats", formula=text, denominators=below)
    chosen = np.random.default_rng(0).integers(0, len(clusters), size=(BOOTSTRAP_DRAWS, len(clusters)))
    ours, theirs = ratio(effect, floor, chosen), ratio(random, floor, chosen)
    text = f"mean rise on completing tokens over mean rise on others, the latter at least {floor} nats"
    found["ratio_induction"] = from_draws(float(ratio(effect, floor)), ours, n=len(clusters), unit="1", formula=text)
    gap = float(ratio(effect, floor) - ratio(random, floor))
    found["ratio_induction_minus_random"] = from_draws(
        gap, ours - theirs, n=len(clusters), unit="1", formula=f"{text}; minus random"
    )
    each = np.array([float(ratio(one, floor)) for one, _ in null])
    found["ratio_random"] = null_distribution(each, unit="1", formula=f"{text}; random heads of the same layers")
    return found


def _by_position(losses: dict[str, np.ndarray]) -> list[dict[str, object]]:
    return [
        {"model": name, "token": first + 1 + BIN / 2, "loss": float(values[:, first : first + BIN].mean())}
        for name, values in losses.items()
        for first in range(0, values.shape[1], BIN)
    ]


def _means(one: Rises) -> dict[str, object]:
    return {"pairs": one.pairs.sum() / one.n_pairs.sum(), "others": one.others.sum() / one.n_others.sum()}


if __name__ == "__main__":
    run(read_text)
