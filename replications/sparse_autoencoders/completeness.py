"""Step: how much of a behaviour do the k best latents carry, with and without the error term? (Causal completeness.)

Two behaviours. Syntax: after `f(data[index` the model prefers `]` to `)`, after `f(data, index` it does not. Indirect
objects (IOI, Wang et al. 2022): after `Mary and John ... John gave ... to` it prefers Mary to John, after `Mary and
John ... Mary gave ... to` John to Mary; these prompts are those of the replication `ioi_circuit`. Two prompts of a pair
share everything before the token that tells them apart, so only the positions from there on are run again
(`common.interp.partial_forward`). With D the logit of the first answer minus that of the second, M = mean of D(first)
- D(second).

At these positions a latent that is not kept takes its mean over the two prompts of the pair, and so does the error
where it is dropped: it then says nothing about which of the two it is. Keeping nothing gives M = 0, keeping all latents
and the error gives M itself (tests). `survives` is M over its clean value. The best latents are those of largest
attribution, (f_first - f_second) W_dec . (dD_first/dx + dD_second/dx), on pairs with other names (and for IOI other
templates) than those they are scored on. Controls: the best directions of a random dictionary, chosen by the same
attribution (covariance and firing rates of the SAE); and as many random latents that fire about as often, nearly all of
which are silent here (Marks et al. 2024 ask the same of circuits of latents; there the error is kept).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from common.core.errors import UserError
from common.core.files import read_json
from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds, without_interval
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.data.models import encode, load_model, load_tokenizer
from common.interp.decoder import Cache, Decoder
from common.interp.partial_forward import at_positions, rerun
from common.saes.index import read_index
from common.saes.sae import Sae
from common.saes.stream import Activations
from replications.sparse_autoencoders.readouts import density_matched, random_sae
from replications.sparse_autoencoders.settings import MeasureLatents
from replications.sparse_autoencoders.sweep import central
from replications.sparse_autoencoders.texts import padded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATES = (
    "def run():\n    result = compute({}{}{}",
    "for n in range(3):\n    print({}{}{}",
    "class A:\n    return check({}{}{}",
    "import os\n\nvalue = join({}{}{}",
)
FINDING = (("data", "i"), ("rows", "pos"))
SCORING = (("users", "index"), ("lines", "name"))
ANSWERS = ("]", ")")
KS = (4, 16, 64)
NULL = "random dictionary"
DRAWS = 2  # random sets for each k
COPIES = 6  # in one pass
PREFIXES = {"syntax": "", "ioi": "ioi_"}  # of the metrics
Tokens = list[list[int]]


class Pairs(NamedTuple):
    """Prompts, the two of a pair in turn, and the first and the second answer of each."""

    tokens: Tokens
    answers: list[tuple[int, int]]


class Prompts(NamedTuple):
    """What is known of the pairs. `at` are the positions where some pair differs, `answer` is W_U of the first answer
    minus that of the second."""

    cache: Cache
    at: Int[Tensor, "prompt step"]
    x: Float[Tensor, "prompt step d_model"]
    answer: Float[Tensor, "prompt d_model"]


class CompletenessFiles(Files):
    manifest: Path
    """of the language model"""
    early: Path
    index: Path
    ioi: Path
    """`prompts.json` of `ioi_circuit`"""
    metrics: Path
    table: Path
    """one row per set of kept latents"""


def completeness(files: CompletenessFiles, settings: MeasureLatents, run: RunInfo) -> None:
    """Writes `metrics.json` and the table."""
    data, index = Activations(files.early.parent), read_index(files.index)
    layer = int(data.manifest.hook.split(".")[1])
    tokenizer = load_tokenizer(files.manifest.parent)
    bridge = load_model(files.manifest.parent, device=run.device).requires_grad_(False)
    templates, prompts = TEMPLATES[: settings.supplement.templates], read_json(files.ioi)["prompts"]
    asked = {
        "syntax": [syntax_pairs(tokenizer, templates, names) for names in (FINDING, SCORING)],
        "ioi": [ioi_pairs(prompts, half) for half in (0, 1)],
    }
    decoder = Decoder(bridge, max(len(one) for parts in asked.values() for part in parts for one in part.tokens))

    def preference(prompts: Prompts, x: Float[Tensor, "copy prompt step d_model"]) -> Float[Tensor, "copy prompt"]:
        final = decoder.bridge.ln_final(rerun(decoder, prompts.cache, layer, prompts.at, prompts.at[:, -1], x))
        return torch.einsum("cpd,pd->cp", final, prompts.answer)  # a bias of the unembedding cancels in M

    tasks, clean = {}, {}
    for task, parts in asked.items():
        finding, scoring = (prepared(decoder, part, layer, run.device) for part in parts)
        x = finding.x[None].clone().requires_grad_()
        preference(finding, x).sum().backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        tasks[task] = finding.x, x.grad[0], scoring
        clean[task] = float(behaviour(preference(scoring, scoring.x[None]).detach()))
        print(f"{task}: {len(scoring.x) // 2} pairs, clean behaviour {clean[task]:.2f} logits")
    sample = data.first(settings.supplement.reference)
    rows = []
    with torch.no_grad():
        for seed in track(run.seeds, "seeds"):
            sae = index.load(central(settings.sweep, seed))
            density = (sae.encode(sample) > 0).float().mean(0)
            sae, null = (one.to(run.device) for one in (sae, random_sae(sae, sample, 100 * seed)))
            for task, (found, gradient, scoring) in tasks.items():
                best = attribution(sae, found, gradient).argsort(descending=True).cpu()
                kept = chosen(best, density, np.random.default_rng(seed))
                edited = [keep(sae, scoring.x, latents, error) for _, _, latents, error in kept]
                order = attribution(null, found, gradient).argsort(descending=True)
                kept += [(NULL, k, order[:k].tolist(), False) for k in KS]
                edited += [keep(null, scoring.x, order[:k].tolist(), False) for k in KS]
                copies = torch.split(torch.stack(edited), COPIES)
                left = torch.cat([behaviour(preference(scoring, part)) for part in copies]) / clean[task]
                for (name, k, _, error), value in zip(kept, left.tolist(), strict=True):
                    row = {"task": task, "seed": seed, "latents": name, "k": k, "error": error, "survives": value}
                    rows.append(row)
    frame = pd.DataFrame(rows)
    write_metrics(files.metrics, summary(frame, clean))
    write_table(files.table, frame)


def syntax_pairs(
    tokenizer: "PreTrainedTokenizerBase", templates: tuple[str, ...], names: tuple[tuple[str, str], ...]
) -> Pairs:
    """Bracket and comma; pairs that differ in their last two tokens only. UserError if the tokenizer leaves none."""
    found: Tokens = []
    for template in templates:
        for container, place in names:
            pair = [encode(tokenizer, template.format(container, mark, place)) for mark in ("[", ", ")]
            if len(pair[0]) == len(pair[1]) and pair[0][:-2] == pair[1][:-2]:
                found += pair
    if not found:
        raise UserError("this tokenizer splits the prompts of part completeness in another way; leave the model out")
    first, second = (encode(tokenizer, answer)[0] for answer in ANSWERS)
    return Pairs(found, [(first, second)] * len(found))


def ioi_pairs(listed: list[dict[str, Any]], half: int) -> Pairs:
    """For each template and order of one half, the first prompt, and the same with the other name repeated."""
    own: dict[tuple[int, str], dict[str, Any]] = {}
    for one in listed:
        if one["half"] == half:
            own.setdefault((one["template"], one["order"]), one)
    found = Pairs([], [])
    for one in own.values():
        tokens = one["versions"]["original"]["tokens"][: one["positions"]["end"] + 1]
        other = list(tokens)
        other[one["positions"]["s2"]] = one["io_id"]
        found.tokens.extend([tokens, other])
        found.answers.extend([(one["io_id"], one["s_id"])] * 2)
    return found


def prepared(decoder: Decoder, pairs: Pairs, layer: int, device: str) -> Prompts:
    """The clean pass, and the residual stream at the last positions of each prompt, as many as differ in any pair."""
    windows = padded(pairs.tokens)
    with torch.no_grad():
        cache = decoder.forward(windows.tokens.to(device), windows.real.to(device), keep=True)
    end = windows.real.sum(1).to(device)
    at = end[:, None] + torch.arange(-differing(pairs.tokens), 0, device=device)
    unembed = decoder.bridge.W_U.T
    first, second = torch.tensor(pairs.answers, device=device).unbind(1)
    return Prompts(cache, at, at_positions(cache.resid_pre[layer], at), unembed[first] - unembed[second])


def differing(tokens: Tokens) -> int:
    """The most positions, counted from the end, by which two prompts of a pair part."""
    pairs = zip(tokens[0::2], tokens[1::2], strict=True)
    return max(len(a) - next(at for at, (x, y) in enumerate(zip(a, b, strict=True)) if x != y) for a, b in pairs)


def behaviour(preference: Float[Tensor, "copy prompt"]) -> Float[Tensor, " copy"]:
    """M of each copy."""
    return (preference[:, 0::2] - preference[:, 1::2]).mean(1)


def attribution(
    sae: Sae, x: Float[Tensor, "prompt step d_model"], gradient: Float[Tensor, "prompt step d_model"]
) -> Float[Tensor, " d_sae"]:
    """To first order, what M loses when a latent takes its mean over the pair."""
    latents = sae.encode(x)
    half = (latents[0::2] - latents[1::2]) / 2
    pull = (gradient[0::2] + gradient[1::2]) @ sae.W_dec.mT
    return (half * pull).sum(1).mean(0)


def keep(
    sae: Sae, x: Float[Tensor, "prompt step d_model"], latents: list[int], error: bool
) -> Float[Tensor, "prompt step d_model"]:
    """The residual stream in which only some latents, and perhaps the error, still differ within a pair."""
    codes = sae.encode(x)
    errors = x - sae.decode(codes)
    kept = pair_mean(codes)
    kept[..., latents] = codes[..., latents]
    return sae.decode(kept) + (errors if error else pair_mean(errors))


def pair_mean(values: Float[Tensor, "prompt *rest"]) -> Float[Tensor, "prompt *rest"]:
    """The mean of the two prompts of each pair, for both."""
    mean = (values[0::2] + values[1::2]) / 2
    return rearrange(torch.stack([mean, mean], 1), "pair two ... -> (pair two) ...").clone()


def chosen(
    best: Tensor, density: Float[Tensor, " d_sae"], dice: np.random.Generator
) -> list[tuple[str, int, list[int], bool]]:
    """All sets to keep: name, size, latents, whether the error is kept."""
    found = [("none", 0, [], True), ("all", len(density), list(range(len(density))), False)]
    for k in KS:
        own = best[:k]
        found += [("best", k, own.tolist(), error) for error in (False, True)]
        found += [("random", k, density_matched(density, own.numpy(), dice).tolist(), False) for _ in range(DRAWS)]
    return found


def summary(frame: pd.DataFrame, clean: dict[str, float]) -> dict[str, Metric]:
    """What is left of each behaviour, with intervals over seeds."""
    about = "share of the clean behaviour that is left, latents that are not kept at the mean of their pair: "

    def values(task: str, latents: str, k: int | None = None, *, error: bool = False) -> list[float]:
        own = frame[(frame["task"] == task) & (frame["latents"] == latents) & (frame["error"] == error)]
        own = own if k is None else own[own["k"] == k]
        return [float(value) for value in own.groupby("seed", sort=False)["survives"].mean()]

    def metric(own: list[float], kept: str, **controls: list[float]) -> Metric:
        return over_seeds(own, unit="share", formula=about + kept, controls=controls)

    found = {}
    for task, behaved in clean.items():
        prefix = PREFIXES[task]
        formula = "clean M; not an estimate over prompts"
        found[f"{prefix}behaviour"] = without_interval(behaved, 1, "logits", formula)
        others = {} if task == "syntax" else {"syntax": values("syntax", "none", error=True)}
        found[f"{prefix}survives_error_alone"] = metric(
            values(task, "none", error=True), "the error alone", best_latents=values(task, "best", KS[0]), **others
        )
        found[f"{prefix}survives_all"] = metric(values(task, "all"), "all latents without the error")
        for k in KS:
            found[f"{prefix}survives_k{k}"] = metric(
                values(task, "best", k), f"the {k} best latents",
                random_latents=values(task, "random", k), random_dictionary=values(task, NULL, k),
            )  # fmt: skip
            found[f"{prefix}survives_k{k}_error"] = metric(
                values(task, "best", k, error=True), f"the {k} best latents and the error"
            )
    return found


if __name__ == "__main__":
    run_step(completeness)
