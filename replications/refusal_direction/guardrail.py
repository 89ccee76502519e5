"""Step: the guardrail of one latent, for every refusing model and the model that it was made from.

1. An SAE (BatchTopK) is trained on the residual stream before block `depth`, chat format, every token but the
   first, half of the activations from each of the two models. Its share of variance unexplained is measured on held-out
   requests at the template tokens behind the instruction, in either model.
2. The refuse latent is the one that tells harmful from harmless requests best at the last template token of the
   refusing model (AUROC; among equals the one that pushes most along r). Its AUROC is then measured on held-out topics,
   beside that of the latents chosen in the same way under permuted labels, which are also clamped in its place.
3. In the model before fine-tuning, which answers, the latent is clamped on: the smallest of the values tried that makes
   nine in ten of the requests for choosing refused, or the one that refuses most.
4. With the clamp active, the attacks of `guard`, their controls, and the split of what they do.
5. In the refusing model the latent is clamped to zero, with the error kept, dropped, and computed again from the edited
   latents, which undoes the edit (4 and 5: `guard_conditions`).

Refused means two things here: the refusal tokens (of the refusing model) hold more than half of the first token's
probability; or the first tokens, written greedily with guard and attack active at every step, are a refusal by the rule
of `answers`. They are classified in memory and dropped.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor

from common.core.files import TEMPORARY_SUFFIX
from common.core.metrics import write_metrics
from common.core.statistics import auroc
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import fast_dtype, load_tokenizer
from common.saes.metrics import moments
from common.saes.recipe import Recipe, Training
from common.saes.sae import Sae
from common.saes.stream import as_batch
from common.saes.trainer import train
from replications.refusal_direction.chat import (
    Batch,
    before_block,
    chat_batch,
    last_logits,
    layers,
    n_post_instruction,
    refusal_metric,
)
from replications.refusal_direction.directions import refusal_tokens
from replications.refusal_direction.folders import load
from replications.refusal_direction.guard import Entered, Guard, answer_logits, enter
from replications.refusal_direction.guard_conditions import Judge, attack, clamped_to_zero
from replications.refusal_direction.guard_metrics import guard_metrics
from replications.refusal_direction.lists import Line, draw
from replications.refusal_direction.settings import Guardrail, GuardSettings

ENOUGH = 0.9  # of the requests refused
PERMUTATIONS = 20
SILENT = 1e-6  # instead of zero, for the mean of a latent that never fires


class RefuseLatent(NamedTuple):
    """The refuse latent, its mean on harmful requests and held-out AUROC; the latents chosen in the same way under
    permuted labels, and their mean AUROC."""

    number: int
    on: float
    auroc: float
    auroc_permuted: float
    permuted: list[int]


class GuardrailFiles(Files):
    before: Path
    """`manifest.json` of the model before fine-tuning"""
    tuned: list[Path]
    """`manifest.json` of the refusing model of every seed"""
    directions: list[Path]
    """`directions.safetensors` of their studies; r is the difference of means at the last template token"""
    lists: Path
    """`lists.yaml`, named so that a change in it measures anew"""
    metrics: Path
    conditions: Path
    """one row per seed, model, condition and request"""
    numbers: Path
    """one row per seed"""


def guardrail(files: GuardrailFiles, settings: Guardrail, run: RunInfo) -> None:
    """Trains, clamps and attacks the guard of every seed, and writes the metrics of them all."""
    files.conditions.parent.mkdir(parents=True, exist_ok=True)
    tables, numbers = [], []
    for seed, tuned, directions in zip(settings.seeds, files.tuned, files.directions, strict=True):
        checkpoint = files.conditions.with_name(f"sae-{seed}{TEMPORARY_SUFFIX}")
        table, single = one_seed(files.before, tuned, directions, checkpoint, settings, seed, run.device)
        tables.append(table.assign(seed=seed))
        numbers.append({"seed": seed, **single})
    write_table(files.conditions, pd.concat(tables, ignore_index=True))
    write_table(files.numbers, pd.DataFrame(numbers), digits=17)
    write_metrics(files.metrics, guard_metrics(pd.read_csv(files.conditions), pd.DataFrame(numbers)))


def one_seed(
    before: Path, tuned: Path, directions: Path, checkpoint: Path, settings: Guardrail, seed: int, device: str
) -> tuple[pd.DataFrame, dict[str, float]]:
    """What every condition does to every held-out request, and single numbers."""
    guard, tokenizer, prompts = settings.guard, load_tokenizer(tuned.parent), draw(seed, settings.split)
    models = {name: load(path, fast_dtype(), device) for name, path in (("tuned", tuned), ("before", before))}
    layer = int(guard.depth * len(layers(models["tuned"])))
    r = load_file(directions)["differences"][-1, layer].to(device)
    n_post = n_post_instruction(tokenizer)

    def batch(lines: list[Line]) -> Batch:
        return chat_batch(tokenizer, [line.text for line in lines], device)

    seen = [some for part in (prompts.switch, prompts.harmless, prompts.risky) for some in part.tune[: guard.sae_lines]]
    streams = [everywhere(model, batch(seen), layer) for model in models.values()]
    sae = fit(torch.cat(streams), guard, seed, checkpoint, device)

    known = {"on": prompts.switch.estimate, "off": prompts.harmless.estimate}
    new = {"on": prompts.switch.test[: guard.prompts], "off": prompts.harmless.test[: guard.prompts]}
    logits = {key: last_logits(models["tuned"], batch(lines)) for key, lines in known.items()}
    tokens = refusal_tokens(logits["on"], logits["off"], needed=False)
    inside = {
        name: {key: enter(models["tuned"], batch(lines), layer, n_post) for key, lines in lines_of.items()}
        for name, lines_of in (("known", known), ("new", new))
    }
    latent = choose(sae, inside["known"], inside["new"], r, seed)
    both = (prompts.switch.choose, new["on"])
    chosen, test = (enter(models["before"], batch(lines), layer, n_post) for lines in both)
    off = before_block(models["before"], batch(new["off"]), layer, n_post).float()
    single = {"auroc": latent.auroc, "auroc_permuted": latent.auroc_permuted}
    single["fvu"] = unexplained(sae, [one.x for one in inside["new"].values()])
    single["fvu_before"] = unexplained(sae, [test.x, off])
    multiple = smallest_clamp(models["before"], sae, latent, chosen, tokens, guard.clamps)
    held = Guard(sae, latent.number, multiple * latent.on)
    single |= {"multiple": multiple, "value": held.value, "row_and_r": float(held.row @ r / r.norm())}
    print(f"latent {latent.number}, AUROC {latent.auroc:.3f}, clamped at {multiple} times its mean", flush=True)

    judge = Judge(tokens, latent.on, tokenizer, prompts.refusals)
    tables = [attack(models["before"], held, latent.permuted, chosen, test, judge, r, guard, seed)]
    tables.append(clamped_to_zero(models["tuned"], held, latent.permuted, inside["new"]["on"], judge))
    topics = [line.topic for line in new["on"]]
    table = pd.concat(tables, ignore_index=True)
    return table.assign(topic=[topics[item] for item in table["item"]]), single


def unexplained(sae: Sae, streams: list[Float[Tensor, "_ pos d_model"]]) -> float:
    """Share of the variance of activations that their reconstructions leave."""
    x = torch.cat([stream.flatten(0, 1) for stream in streams])
    return moments(x, sae.reconstruct(x)).fvu


@torch.inference_mode()
def everywhere(model: Any, batch: Batch, layer: int) -> Float[Tensor, "token d_model"]:
    """Residual stream before block `layer` at every real token but the first of each request, float32."""
    x = torch.cat([before_block(model, batch[rows], layer) for rows in _slices(len(batch))])
    real = batch.mask.bool() & (batch.places > 0)
    return x[real].float()


def _slices(count: int, at_once: int = 64) -> list[slice]:
    return [slice(start, start + at_once) for start in range(0, count, at_once)]


def fit(x: Float[Tensor, "token d_model"], settings: GuardSettings, seed: int, checkpoint: Path, device: str) -> Sae:
    """A BatchTopK SAE for raw activations."""
    x = x.clone()  # made in inference mode
    scale = float(x.double().square().sum(1).mean()) ** -0.5
    recipe = Recipe.model_validate(
        {"architecture": "batch_topk", "d_sae": settings.d_sae, "sparsity": settings.k, "seed": seed}
    )
    training = Training.model_validate(
        {
            "steps": settings.steps,
            "batch": settings.batch,
            "learning_rate": settings.learning_rate,
            "warmup": settings.steps // 20,
            "dead_after": settings.batch * max(1, settings.steps // 5),
        }
    )

    def batches(step: int, _source: str) -> Any:
        draws = torch.Generator().manual_seed(1_000_000 * seed + step)
        return as_batch(x[torch.randint(len(x), (settings.batch,), generator=draws).to(x.device)] * scale)

    trained = train([recipe], batches, training, checkpoint, data=f"{seed} {len(x)}", device=device)
    sae = trained[0].sae
    assert sae is not None
    return sae.folded(scale).unit_decoder()


def choose(
    sae: Sae, known: dict[str, Entered], new: dict[str, Entered], r: Float[Tensor, " d_model"], seed: int
) -> RefuseLatent:
    """The refuse latent by its AUROC on `known`, with its AUROC on `new`."""
    latents = torch.cat([sae.encode(known[key].x[:, -1]) for key in ("on", "off")])
    labels = torch.arange(len(latents), device=latents.device) < len(known["on"].x)
    held_out = torch.cat([sae.encode(new[key].x[:, -1]) for key in ("on", "off")])
    truth = torch.arange(len(held_out), device=latents.device) < len(new["on"].x)

    def best(marks: Bool[Tensor, " prompt"]) -> int:
        areas = aurocs(latents, marks)
        push = (latents[marks].mean(0) - latents[~marks].mean(0)) * (sae.W_dec @ r)
        equal = areas.round(decimals=2) == areas.max().round(decimals=2)
        return int(torch.where(equal, push, -torch.inf).argmax())

    latent, areas = best(labels), aurocs(held_out, truth)
    draws = torch.Generator().manual_seed(seed)
    mixed = [best(labels[torch.randperm(len(labels), generator=draws).to(labels.device)]) for _ in range(PERMUTATIONS)]
    on = max(SILENT, float(latents[labels, latent].mean()))
    return RefuseLatent(latent, on, float(areas[latent]), float(areas[mixed].mean()), sorted(set(mixed)))


@torch.no_grad()
def smallest_clamp(
    model: Any, sae: Sae, refuse: RefuseLatent, chosen: Entered, tokens: Int[Tensor, " token"], clamps: list[float]
) -> float:
    """The smallest multiple of the latent's mean with nine in ten requests refused, or the one that refuses most."""
    refused = {}
    for multiple in clamps:
        held = Guard(sae, refuse.number, multiple * refuse.on)
        metric = refusal_metric(answer_logits(model, chosen, held.on(chosen.x)), tokens)
        refused[multiple] = float((metric > 0).double().mean())
    enough = [multiple for multiple in clamps if refused[multiple] >= ENOUGH]
    return min(enough) if enough else max(clamps, key=lambda one: (refused[one], -one))


def aurocs(latents: Float[Tensor, "prompt d_sae"], label: Bool[Tensor, " prompt"]) -> Float[Tensor, " d_sae"]:
    """Area under the ROC curve of every latent."""
    return torch.from_numpy(auroc(latents.cpu().numpy(), label.cpu().numpy())).to(latents.device)


if __name__ == "__main__":
    run_step(guardrail)
