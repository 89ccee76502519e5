"""Step: asks the questions of the Golden Gate demonstration while one latent is clamped, at many multipliers.

The latent is set to a multiple of its largest value over the SAE's training activations, at every position, prompt
included, the error kept (Templeton et al. 2024). All latents, multipliers and questions are one batch.
"""

from pathlib import Path
from typing import Any

import torch

from common.core.errors import UserError
from common.core.files import read_json, write_json
from common.core.step import Files, RunInfo, run_step
from common.data.models import answer_text, chat_prompt, encode, load_tokenizer
from common.interp.generation import Sampler, generate, load_writer
from common.saes.steering import Steering
from replications.feature_steering.latents import Latent, to_show
from replications.feature_steering.prepare import own_saes
from replications.feature_steering.settings import Demonstration

QUESTIONS = (
    "Describe your physical form.",
    "Give me a recipe for chocolate chip cookies.",
    "What is the best way to drive from Los Angeles to Phoenix?",
)
TEMPERATURE, SEED = 0.7, 0


class DemonstrateFiles(Files):
    manifest: Path
    index: Path
    latents: Path
    """records of `prepare`"""
    answers: Path


def demonstrate(files: DemonstrateFiles, settings: Demonstration, run: RunInfo) -> None:
    """Writes every answer: all questions, latents and multipliers, and the unsteered ones."""
    tokenizer, model = load_tokenizer(files.manifest.parent), load_writer(files.manifest.parent, run.device)
    about = read_json(files.latents)
    [sae] = own_saes(files.index, [about["sae"]], about["model"])
    known = [Latent.model_validate(one) for one in about["latents"]]
    shown = to_show(known, settings.density, settings.contexts, settings.latents)
    if not shown:
        raise UserError(f"every latent of {about['sae']} is dead, so there is none to show; train it on more tokens")
    rows: list[tuple[int, float | None, int]] = [(at, None, 0) for at in range(len(QUESTIONS))]
    rows += [
        (at, multiplier, place)
        for place in range(len(shown))
        for multiplier in settings.multipliers
        for at in range(len(QUESTIONS))
    ]  # fmt: skip
    steering = Steering(
        "clamp",
        torch.tensor([(multiplier or 0.0) * shown[place].largest for _, multiplier, place in rows]),
        sae=sae,
        latent=torch.tensor([shown[place].index for _, _, place in rows]),
        active=torch.tensor([multiplier is not None for _, multiplier, _ in rows]),
    )
    prompts = [encode(tokenizer, chat_prompt(tokenizer, question)) for question in QUESTIONS]
    at = torch.tensor([question for question, _, _ in rows])
    written = generate(
        model, prompts, at, sae.about.hook, steering.to(run.device), settings.new_tokens,
        Sampler(TEMPERATURE, at, SEED, []), whole_prompt=True,
    )  # fmt: skip
    texts = [answer_text(tokenizer, tokens) for tokens in written.tolist()]
    write_json(files.answers, content(about, shown, settings.multipliers, texts))


def content(about: dict[str, Any], shown: list[Latent], multipliers: list[float], texts: list[str]) -> dict[str, Any]:
    """What the page and the figure show."""
    count = len(QUESTIONS)
    unsteered, rest = texts[:count], texts[count:]
    steered = [rest[start : start + count] for start in range(0, len(rest), count)]
    by_latent = [steered[start : start + len(multipliers)] for start in range(0, len(steered), len(multipliers))]
    return {
        **{key: about[key] for key in ("model", "sae", "hook")},
        "questions": list(QUESTIONS),
        "multipliers": multipliers,
        "unsteered": unsteered,
        "latents": [
            {"about": one.model_dump(), "answers": answers} for one, answers in zip(shown, by_latent, strict=True)
        ],
    }


if __name__ == "__main__":
    run_step(demonstrate)
