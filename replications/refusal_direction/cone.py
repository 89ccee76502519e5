"""Step: is refusal more than one direction? Cones of directions each of which does what the difference of means does.

Wollschläger et al. 2025 (arXiv 2502.17420) look for k orthonormal directions such that every direction of their cone,
v = sum c_i b_i with c_i >= 0 and |v| = 1, ends refusal when ablated, induces it when added, and changes little else.
The basis is found by gradient, on directions drawn anew in every step:

    softplus(m_harmful(v ablated)) + 0.2 softplus(-m_harmless(|r| v added)) + KL(tuned || v ablated) on harmless ones

with m the refusal metric. Deviations: the paper's targets are answers of 30 tokens, ours is the first token, so that no
answer to a harmful request is ever made; rows are made orthonormal by QR in every step. A cone starts with r, the
chosen difference of means, and axes drawn with the covariance of the activations. The control is the same cone at its
start, read at the same coefficients: what is left of r in a direction some way off it may still do.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from common.core.files import read_json
from common.core.metrics import write_metrics
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.data.models import fast_dtype, load_tokenizer
from replications.refusal_direction.chat import (
    Batch,
    ablating,
    adding,
    chat_batch,
    first_token_kl,
    last_logits,
    refusal_metric,
    unit,
)
from replications.refusal_direction.comparisons import Metrics, seeds
from replications.refusal_direction.directions import refusal_tokens
from replications.refusal_direction.folders import load
from replications.refusal_direction.lists import Line, draw
from replications.refusal_direction.search import scores
from replications.refusal_direction.settings import ConeSettings, MeasureCone

INDUCE = 0.2  # weight of the addition in the objective, as in the released code
BETAS = (0.9, 0.98)
NUMBERS = {  # formula
    "bypassed": "share of held-out harmful requests whose refusal metric is below 0, directions of the cone ablated",
    "worst": "the same for the direction of the cone that ends the fewest refusals",
    "induced": "share of held-out harmless requests whose refusal metric is above 0, |r| v added",
    "kl": "mean KL(tuned || ablated) of the first token on held-out harmless requests",
    "cosine": "mean cosine of directions of the cone with the difference of means",
}
UNITS = {"kl": "nats", "cosine": "1"}


class Subject(NamedTuple):
    """One seed's refusing model, what marks refusal in it, and the difference of means with its block."""

    model: Any
    tokens: Int[Tensor, " token"]
    r: Float[Tensor, " d_model"]
    layer: int


class ConeFiles(Files):
    tuned: list[Path]
    """`manifest.json` of the refusing model of every seed"""
    studies: list[Path]
    """`numbers.json` of their studies, beside their directions"""
    lists: Path
    """`lists.yaml`, named so that a change in it measures anew"""
    metrics: Path
    directions: Path
    """one row per seed, number of dimensions, cone (optimised or start) and direction"""


def cone(files: ConeFiles, settings: MeasureCone, run: RunInfo) -> None:
    """Searches the cones of every seed and measures what their directions do."""
    each = zip(track(settings.seeds, "models"), files.tuned, files.studies, strict=True)
    frame = pd.concat(cones(folder, study, settings, seed, run.device) for seed, folder, study in each)
    write_metrics(files.metrics, summary(frame))
    write_table(files.directions, frame)


def cones(tuned: Path, numbers: Path, settings: MeasureCone, seed: int, device: str) -> pd.DataFrame:
    """The rows of one seed."""
    tokenizer, model = load_tokenizer(tuned.parent), load(tuned, fast_dtype(), device)
    prompts, sizes = draw(seed, settings.split), settings.cone

    def batch(lines: list[Line]) -> Batch:
        return chat_batch(tokenizer, [line.text for line in lines], device)

    known = batch(prompts.switch.estimate), batch(prompts.harmless.estimate)
    new = batch(prompts.switch.test[: sizes.prompts]), batch(prompts.harmless.test[: sizes.prompts])
    tokens = refusal_tokens(last_logits(model, known[0]), last_logits(model, known[1]), needed=False)
    stored = load_file(numbers.with_name("directions.safetensors"))
    r, random = (stored[name].to(device) for name in ("r", "random"))
    subject = Subject(model, tokens, r, int(read_json(numbers)["layer"]))
    frames = []
    for k in sizes.dimensions:
        start = orthonormal(torch.cat([r[None], random[: k - 1]]))
        drawn = coefficients(k, sizes.draws, torch.Generator().manual_seed(seed))
        chosen = torch.cat([torch.eye(k), drawn]).to(device)  # the axes are the extremes of the cone
        for kind, basis in (("optimised", optimised(subject, *known, start, sizes, seed)), ("start", start)):
            found = measured(subject, *new, chosen @ basis, sizes.rows)
            frames.append(found.assign(seed=seed, dimensions=k, kind=kind))
            print(f"seed {seed}, {k} dimensions, {kind}: bypassed {found['bypassed'].mean():.2f}", flush=True)
    return pd.concat(frames)


def orthonormal(rows: Float[Tensor, "k d_model"]) -> Float[Tensor, "k d_model"]:
    """Gram and Schmidt's basis of the rows: the first keeps its direction, each other one what is left of its own."""
    q, upper = torch.linalg.qr(rows.mT)
    found: Tensor = (q * upper.diagonal().sign()).mT
    return found


def coefficients(k: int, draws: int, generator: torch.Generator) -> Float[Tensor, "draw k"]:
    """Uniform on the part of the unit sphere where no coefficient is negative."""
    return unit(torch.randn(draws, k, generator=generator).abs())


def optimised(
    subject: Subject,
    harmful: Batch,
    harmless: Batch,
    start: Float[Tensor, "k d_model"],
    settings: ConeSettings,
    seed: int,
) -> Float[Tensor, "k d_model"]:
    """The basis after `steps` steps of AdamW, each on some requests and a direction of its own for each."""
    draws = torch.Generator().manual_seed(seed)
    rows = start.clone().requires_grad_()
    optimiser = torch.optim.AdamW([rows], lr=settings.learning_rate, betas=BETAS, weight_decay=0.0, amsgrad=True)
    base = last_logits(subject.model, harmless).clone()
    for _ in range(settings.steps):
        on, off = (torch.randperm(len(part), generator=draws)[: settings.batch] for part in (harmful, harmless))
        chosen = coefficients(len(start), len(on) + len(off), draws).to(rows.device)
        on, off = on.to(rows.device), off.to(rows.device)
        loss = objective(subject, harmful[on], harmless[off], base[off], chosen @ orthonormal(rows))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return orthonormal(rows.detach())


def objective(
    subject: Subject,
    harmful: Batch,
    harmless: Batch,
    base: Float[Tensor, "harmless d_vocab"],
    directions: Float[Tensor, "harmful_then_harmless d_model"],
) -> Tensor:
    """What the module's docstring says, each request with its own direction; `base` are the tuned model's logits."""
    model, count = subject.model, len(harmful)
    with ablating(model, directions):
        ablated = last_logits(model, joined(harmful, harmless), gradients=True)
    with adding(model, subject.layer, subject.r.norm() * directions[count:]):
        added = last_logits(model, harmless, gradients=True)
    bypass = F.softplus(refusal_metric(ablated[:count], subject.tokens)).mean()
    induce = F.softplus(-refusal_metric(added, subject.tokens)).mean()
    return bypass + INDUCE * induce + first_token_kl(base, ablated[count:]).mean()


def joined(first: Batch, second: Batch) -> Batch:
    """Two batches as one, padded on the left to one length."""
    length = max(first.ids.shape[1], second.ids.shape[1])
    ids, mask = (
        torch.cat([torch.nn.functional.pad(x, (length - x.shape[1], 0)) for x in pair])
        for pair in ((first.ids, second.ids), (first.mask, second.mask))
    )
    return Batch(ids, mask)


def measured(
    subject: Subject, harmful: Batch, harmless: Batch, directions: Float[Tensor, "draw d_model"], rows: int
) -> pd.DataFrame:
    """One row per direction."""
    at = torch.full((len(directions),), subject.layer)
    found = scores(subject.model, harmful, harmless, subject.r.norm() * directions, at, subject.tokens, rows)
    return pd.DataFrame(
        {
            "draw": range(len(directions)),
            "bypassed": (found.bypass < 0).double().mean(1).tolist(),
            "induced": (found.induce > 0).double().mean(1).tolist(),
            "kl": found.kl.mean(1).tolist(),
            "cosine": (directions @ unit(subject.r)).tolist(),
        }
    )


def summary(frame: pd.DataFrame) -> Metrics:
    """One value a seed, for every number of dimensions: `<number>_<k>`, beside the cone at its start."""
    found: Metrics = {}
    each = frame.groupby(["dimensions", "kind", "seed"], sort=False)
    values = each.mean(numeric_only=True).assign(worst=each["bypassed"].min())
    for k in dict.fromkeys(frame["dimensions"]):
        for name, formula in NUMBERS.items():
            ours, start = ([float(one) for one in values.loc[(k, kind), name]] for kind in ("optimised", "start"))
            found[f"{name}_{k}"] = seeds(ours, UNITS.get(name, "share"), formula, not_optimised=start)
    return found


if __name__ == "__main__":
    run_step(cone)
