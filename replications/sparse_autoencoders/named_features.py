"""Step: single latents against patterns that a regular expression decides.

This is the page "Arabic, DNA, base64" of Bricken et al. 2023, section 2, with patterns that our corpora hold.

For each pattern the unit and the threshold with the largest F1 on half of the held-out documents are judged on the
other half. Sensitivity is how many of the pattern's tokens it fires on, precision how much of its firing is on them. F1
= 2 TP / (2 TP + FP + FN). Everything else that is asked goes through the same selection: coordinates and principal
components (both signs), an untrained dictionary, a soft-frozen one, clusters of activations. So does what needs no
network: a set of tokens and a table of token pairs, made on the first half. Thresholds let a unit fire on half of, as
many, and twice as many tokens as the pattern has. At 0 it fires as it does.

For the trained latents also: the tokens that the decoder row raises most. And the KL of the next token when the latent
is set to 0, on the pattern's tokens and on others.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor

from common.core.errors import UserError
from common.core.metrics import Metric, write_metrics
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import load_model, load_tokenizer
from common.interp.decoder import Decoder
from common.saes.architectures.base import random_rows
from common.saes.index import read_index
from common.saes.metrics import principal
from common.saes.sae import Sae
from common.saes.stream import Activations
from replications.sparse_autoencoders.baselines import AT_ONCE, PCA_SAMPLE, Reconstruct, untrained_code
from replications.sparse_autoencoders.clusters import of_clusters
from replications.sparse_autoencoders.crossed import Ratio, over_seeds_and_documents
from replications.sparse_autoencoders.describing import Codes, Decode
from replications.sparse_autoencoders.settings import MeasureLanguage
from replications.sparse_autoencoders.substitution import HeldOut, layers_of, read_held_out, scored, substitute
from replications.sparse_autoencoders.sweep import central
from replications.sparse_autoencoders.token_tables import tables

PATTERNS = {
    "URL": r"https?://[^\s<>\"')]+",
    "number": r"\b\d+(?:\.\d+)?\b",
    "list item": r"(?m)^\s*(?:\d+\.|[-*])\s+(?=\S)",
    "import line": r"(?m)^\s*(?:from [\w.]+ import |import )[^\n]*",
    "self.attribute": r"\bself\.\w+",
    "docstring field": r"(?m)^\s*(?::\w+[^:\n]*:|(?:Args|Arguments|Parameters|Returns|Raises|Examples?|Notes?)\b:?)",
    "CAPITALS": r"\b[A-Z][A-Z_]{2,}\b",
    "quoted words": r"\"[^\"\n]{2,120}\"",
    "question": r"(?:(?<=[.?!\n] )|(?m:^))[A-Z][^.?!\n]{5,200}\?",
    "request": r"<\|im_start\|>user\n[^<]*",
    "food": r"(?i)\b(?:bread|flour|(?:chees|cook|dish|recipe|sauce|flavou?r|ingredient|soup|wine)\w*|bak\w+)\b",
    "animals": r"(?i)\b(?:(?:animal|dog|bird|horse|whale|snake|spider)s?|cats?|species|bees?|fur|prey)\b",
}
LEAST_TOKENS, LEAST_DOCUMENTS = 30, 5  # of a pattern in each half
RATES = (0.5, 1.0, 2.0)
RAISED = 6


class Choice(NamedTuple):
    """The best unit for a pattern, and what came of it on the documents of the other half."""

    unit: int
    threshold: float
    above: Float[np.ndarray, " document"]
    """2 TP"""
    below: Float[np.ndarray, " document"]
    """2 TP + FP + FN"""
    sensitivity: float
    precision: float
    density: float
    """share of all tokens on which it is above 0"""


class NamedFiles(Files):
    manifest: Path
    """of the language model"""
    index: Path
    main: Path
    """manifest of the training activations"""
    held_out: Path
    metrics: Path
    table: Path
    """one row per pattern, code and seed"""


def named_features(files: NamedFiles, settings: MeasureLanguage, run: RunInfo) -> None:
    """Writes `metrics.json` and the table. UserError if no pattern occurs often enough."""
    index, sweep = read_index(files.index), settings.sweep
    stored = load_file(files.held_out)
    held = read_held_out(stored, layers_of(stored)[0])
    tokenizer = load_tokenizer(files.manifest.parent)
    bridge = load_model(files.manifest.parent, device=run.device)
    decoder = Decoder(bridge, held.tokens.shape[1])
    marked = {name: mark(held, pattern, tokenizer.decode)[held.used] for name, pattern in PATTERNS.items()}
    x, document = held.activations(), np.unique(held.documents(), return_inverse=True)[1]
    first = np.random.default_rng(0).permutation(document.max() + 1)[document] % 2 == 0
    marked = {name: one for name, one in marked.items() if frequent(one, document, first)}
    if not marked:
        raise UserError("no pattern occurs often enough in the held-out text; raise corpora.held_out_tokens")
    train = Activations(files.main.parent).first(PCA_SAMPLE)
    mean, axes = principal(train)
    codes: dict[str, list[Codes]] = {
        "coordinates": [lambda part: both_signs(part - mean)],
        "principal_components": [lambda part: both_signs((part - mean) @ axes)],
        "clusters": [of_clusters(train, sweep.width, sweep.sparsity).encode],
    }
    saes = {kind: [index.load(central(sweep, s, kind)) for s in run.seeds] for kind in ("batch_topk", "soft")}
    codes |= {
        "latents": [sae.encode for sae in saes["batch_topk"]],
        "soft_frozen": [sae.encode for sae in saes["soft"]],
    }
    generators = [torch.Generator().manual_seed(seed) for seed in run.seeds]
    codes["random_dictionary"] = [
        untrained_code(mean, random_rows(sweep.width, x.shape[1], one), sweep.sparsity) for one in generators
    ]
    chosen = {
        code: [
            choose(torch.cat([one(part) for part in torch.split(x, AT_ONCE)]), marked, document, first) for one in each
        ]
        for code, each in codes.items()
    }
    previous, token = (ids[held.used].long() for ids in (held.tokens.roll(1, 1), held.tokens))
    labels, counted = torch.stack(list(marked.values()), 1), torch.from_numpy(first)
    for code, values in tables(labels, previous, token, torch.from_numpy(document), counted).items():
        chosen[code] = [choose(values, marked, document, first)]
    rows = [
        {"pattern": name, "code": code, "seed": seed, "tokens": int(marked[name].sum()), "unit": one.unit,
         "threshold": one.threshold, "f1": float(one.above.sum() / one.below.sum()), "sensitivity": one.sensitivity,
         "precision": one.precision, "density": one.density}
        for code, each in chosen.items() for seed, found in enumerate(each) for name, one in found.items()
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    small = held.one_per_document(settings.evaluation.windows, settings.evaluation.window)
    effects = causes(
        decoder, small, saes["batch_topk"][0], chosen["latents"][0], tokenizer.decode, settings.evaluation.batch
    )
    write_table(files.table, frame.merge(effects, on=["pattern", "code", "seed"], how="left"))
    write_metrics(files.metrics, summary(chosen, list(marked)))


def mark(held: HeldOut, pattern: str, decode: Decode) -> Bool[Tensor, "window pos"]:
    """Tokens of which at least half of the characters belong to a match."""
    found = torch.zeros_like(held.real)
    for row, (tokens, real) in enumerate(zip(held.tokens.tolist(), held.real.tolist(), strict=True)):
        pieces = [decode([token]) for token, is_real in zip(tokens, real, strict=True) if is_real]
        inside = np.zeros(sum(map(len, pieces)) + 1)
        for match in re.finditer(pattern, "".join(pieces)):
            inside[match.start() : match.end()] = 1
        ends = np.cumsum([len(piece) for piece in pieces])
        for place, (end, piece) in enumerate(zip(ends, pieces, strict=True)):
            found[row, place] = bool(piece) and bool(inside[end - len(piece) : end].mean() >= 0.5)
    return found


def frequent(
    marked: Bool[Tensor, " token"], document: Int[np.ndarray, " token"], first: Bool[np.ndarray, " token"]
) -> bool:
    """Whether both halves have enough of a pattern, and not only of it."""
    here = marked.numpy()
    halves = [here & first, here & ~first]
    enough = all(half.sum() >= LEAST_TOKENS and len(set(document[half])) >= LEAST_DOCUMENTS for half in halves)
    return bool(enough and here.mean() < 0.5)


def both_signs(x: Float[Tensor, "token d"]) -> Float[Tensor, "token both"]:
    return torch.cat([x, -x], 1).relu()


def choose(
    values: Float[Tensor, "token unit"], marked: dict[str, Bool[Tensor, " token"]], document: Int[np.ndarray, " token"],
    first: Bool[np.ndarray, " token"],
) -> dict[str, Choice]:  # fmt: skip
    """For each pattern the unit and threshold of largest F1 on the `first` documents, judged on the others."""
    here = torch.from_numpy(first)
    own, other = values[here], values[~here]
    judged = np.unique(document[~first], return_inverse=True)[1]
    ranked = torch.from_numpy(np.sort(own.T.numpy(), axis=1)[:, ::-1].copy())  # half of torch's time
    rising = -ranked
    found = {}
    for name, mask in marked.items():
        truth, rate = mask[here], float(mask[here].double().mean())
        best = (-1.0, 0, 0.0)
        for share in (None, *RATES):
            at = torch.zeros(values.shape[1]) if share is None else kept_share(ranked, share * rate)
            fires = torch.searchsorted(rising, -at[:, None])[:, 0]  # how many values of a unit lie above
            hits = (own[truth] > at).sum(0)
            f1 = 2 * hits / (fires + truth.sum())
            unit = int(f1.argmax())
            best = max(best, (float(f1[unit]), unit, float(at[unit])))
        _, unit, threshold = best
        on, real = (other[:, unit] > threshold).numpy(), mask[~here].numpy()

        def by_document(which: np.ndarray) -> Float[np.ndarray, " document"]:
            return np.bincount(judged, weights=which)

        both, wrong, missed = by_document(on & real), by_document(on & ~real), by_document(~on & real)
        sensitivity, precision = (float(both.sum() / max(1, part.sum())) for part in (real, on))
        density = float((values[:, unit] > 0).double().mean())
        found[name] = Choice(unit, threshold, 2 * both, 2 * both + wrong + missed, sensitivity, precision, density)
    return found


def kept_share(ranked: Float[Tensor, "unit token"], share: float) -> Float[Tensor, " unit"]:
    """The threshold of each unit above which that share of tokens lies, at least 0; values fall along each row."""
    tokens = ranked.shape[1]
    return ranked[:, max(1, min(tokens - 1, round(share * tokens)))].clamp(min=0)


@torch.inference_mode()
def causes(
    decoder: Decoder, small: HeldOut, sae: Sae, chosen: dict[str, Choice], decode: Decode, batch: int
) -> pd.DataFrame:
    """For the latents of the first seed: the tokens that they raise, and the KL of setting them to 0."""

    def without(unit: int) -> Reconstruct:
        return lambda x: x - sae.encode(x)[..., unit : unit + 1] * sae.W_dec[unit]

    found = substitute(decoder, small, {name: without(one.unit) for name, one in chosen.items()}, batch)
    rows: list[dict[str, Any]] = []
    for name, one in chosen.items():
        inside = mark(small, PATTERNS[name], decode)[scored(small)].numpy()
        raised = (
            decoder.bridge.ln_final.weight * sae.W_dec[one.unit].to(decoder.bridge.W_U.device)
        ) @ decoder.bridge.W_U
        kl = found[name].kl
        rows.append({
            "pattern": name, "code": "latents", "seed": 0,
            "raises": " ".join(repr(decode([token]))[1:-1] for token in raised.topk(RAISED).indices.tolist()),
            "kl_inside": float(kl[inside].mean()) if inside.any() else float("nan"),
            "kl_outside": float(kl[~inside].mean()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def summary(chosen: dict[str, list[dict[str, Choice]]], patterns: list[str]) -> dict[str, Metric]:
    """Mean F1 over patterns beside each other code, and F1 of each pattern."""

    def sums(each: list[dict[str, Choice]], names: list[str]) -> Ratio:
        above, below = ([[getattr(one[name], side) for name in names] for one in each] for side in Ratio._fields)
        return Ratio(np.array(above), np.array(below))

    def beside(names: list[str], about: str) -> Metric:
        found = {code: sums(each, names) for code, each in chosen.items()}
        effect = found.pop("latents")
        count = effect.above.shape[-1]
        about = f"{about}; seeds and judged documents resampled"
        return over_seeds_and_documents(effect, found, n=count, unit="F1", formula=about)

    found = {"named_f1": beside(patterns, f"mean over {len(patterns)} patterns of the F1 of the best unit")}
    for name in patterns:
        found[f"f1_{re.sub('[^a-z]+', '_', name.lower())}"] = beside([name], f"F1 of the best unit for '{name}'")
    return found


if __name__ == "__main__":
    run_step(named_features)
