"""A chat at the terminal with one latent held fixed.

    python -m replications.feature_steering.chat --feature 12 --multiplier 2

Every message is answered twice, side by side and word by word: by the model as it is and by the model with the latent
clamped to `multiplier` times the largest value seen in training (the error kept). Both answers share their random
numbers. End with an empty line, `quit` or Ctrl-D; Ctrl-C ends an answer. Messages do not see earlier ones.
"""

import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from common.core.errors import UserError
from common.core.files import read_json
from common.core.settings import ROOT, SCALES, load_scale
from common.core.step import make_deterministic
from common.data.models import Manifest, answer_text, chat_prompt, encode, entry, load_tokenizer
from common.interp.generation import Sampler, load_writer, stream
from common.saes.saelens import load_saelens
from common.saes.steering import Steering
from replications.feature_steering.latents import Latent
from replications.feature_steering.sae_source import either

TITLES = ("unsteered", "steered")


def chosen_latent(known: list[Latent], feature: int, multiplier: float) -> Latent:
    """The latent of that number. UserError if it does not exist or is dead, or if the multiplier is not finite."""
    if not math.isfinite(multiplier):
        raise UserError(f"--multiplier {multiplier} is not a finite number; try 1, 2 or -1")
    if not 0 <= feature < len(known):
        raise UserError(f"--feature {feature} does not exist: this SAE has the latents 0 to {len(known) - 1}")
    if known[feature].largest <= 0:
        alive = sorted((one for one in known if one.contexts), key=lambda one: -one.effect)[:8]
        raise UserError(
            f"--feature {feature} is dead: it never fired in training, so its largest value is 0; "
            f"these are alive: {', '.join(str(one.index) for one in alive)}"
        )
    return known[feature]


def check(model: str, scale: str, device: str) -> None:
    """UserError for a scale or a model that does not exist, or for a device that this machine lacks."""
    if scale not in SCALES:
        raise UserError(f"unknown scale '{scale}': --scale takes {', '.join(SCALES)}")
    if entry(model).chat_template == "none":
        raise UserError(f"{model} has no chat template, so it cannot chat; choose a chat model with --model")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda needs an NVIDIA GPU, and torch finds none; leave --device out")


def check_room(prompt: int, new_tokens: int, context: int) -> None:
    """UserError if a prompt and its answer, in tokens, are longer than what the model can read."""
    if prompt + new_tokens > context:
        raise UserError(
            f"--new-tokens {new_tokens} is too much: the message takes {prompt} of the {context} tokens that this "
            f"model can read, so {max(0, context - prompt)} are left"
        )


def advice(model: str, scale: str) -> str:
    """The command that makes the results for a model at a scale."""
    chosen = [] if model in load_scale(scale).models else [f"MODELS={model}"]
    hub = ["HUB=1"] if entry(model).source == "hub" else []
    return " ".join(["make", f"SCALE={scale}", *chosen, *hub, "feature_steering"])


def messages(given: str | None) -> Iterator[str]:
    """The given message, or lines typed until an empty one, `quit` or the end of the input."""
    if given is not None:
        yield given
        return
    while True:
        try:
            typed = input("you> ").strip() if sys.stdin.isatty() else input().strip()
        except (EOFError, KeyboardInterrupt):
            return
        if typed in ("", "quit", "exit"):
            return
        yield typed


def chat(
    feature: int,
    multiplier: float = 2.0,
    message: str | None = None,
    model: str = "smollm2-135m-instruct-q4_1",
    scale: str = "laptop",
    sae: Path | None = None,
    new_tokens: int = 80,
    temperature: float = 0.7,
    seed: int = 0,
    device: Literal["cpu", "cuda"] = "cpu",
) -> None:
    """Chats with one latent held at a multiple of its largest value, beside the model as it is.

    Args:
        feature: number of the latent; the demonstration page lists some that were chosen by rule.
        multiplier: times the largest value seen in training; 0 switches the latent off, negative values push it below.
        message: answers this one message and ends; without it, messages are read line by line.
        model: name of the language model.
        scale: whose results are used.
        sae: folder of another SAE for this model; its latents must be those that `make feature_steering` recorded.
        new_tokens: longest answer.
        temperature: 0 takes the most likely token.
        seed: of the sampling.
        device: cpu or cuda.
    """
    if new_tokens < 1:
        raise UserError(f"--new-tokens must be at least 1, not {new_tokens}")
    if seed < 0:
        raise UserError(f"--seed must be 0 or more, not {seed}")
    check(model, scale, device)
    results = ROOT / "results" / scale
    record = results / "feature_steering" / model / "demonstration" / "latents.json"
    if not record.exists():
        raise UserError(f"{record} does not exist; run `{advice(model, scale)}` first")
    about = read_json(record)
    known = [Latent.model_validate(one) for one in about["latents"]]
    latent = chosen_latent(known, feature, multiplier)
    saes = either(model, f"feature_steering/{model}/released", f"sparse_autoencoders/{model}/saes")
    dictionary = load_saelens(sae or results / saes / about["sae"])
    folder = ROOT / "resources" / "models" / model
    dictionary.check_belongs(Manifest.model_validate(read_json(folder / "manifest.json")).name, about["hook"])
    if dictionary.d_sae != len(known):
        raise UserError(f"this SAE has {dictionary.d_sae} latents, but {len(known)} were recorded for {about['sae']}")
    tokenizer, writer = load_tokenizer(folder), load_writer(folder, device)
    steering = Steering(
        "clamp",
        torch.tensor([0.0, multiplier * latent.largest]),
        sae=dictionary,
        latent=torch.tensor([feature, feature]),
        active=torch.tensor([False, True]),
    ).to(device)
    console = Console()
    raised = " ".join(repr(token) for token in latent.raised[:6])
    console.print(Text(f"latent {feature} at {multiplier:g} x {latent.largest:.3g}; raises most: {raised}"))
    for text in messages(message):
        prompt = encode(tokenizer, chat_prompt(tokenizer, text))
        check_room(len(prompt), new_tokens, writer.config.max_position_embeddings)
        rows = torch.tensor([0, 0])
        sampler = Sampler(temperature, rows, seed, [])
        steps = stream(writer, [prompt], rows, about["hook"], steering, new_tokens, sampler, whole_prompt=True)
        special = set(tokenizer.all_special_ids)

        def texts(written: list[list[int]]) -> list[str]:
            return [answer_text(tokenizer, tokens) for tokens in written]

        def growing() -> Iterator[list[str]]:
            written: list[list[int]] = [[], []]
            for step in steps:  # noqa: B023
                for row, token in enumerate(step.tolist()):
                    written[row].append(token)
                yield texts(written)
                if all(special & set(row) for row in written):  # noqa: B023
                    return

        try:
            show(console, growing())
        except KeyboardInterrupt:
            console.print("(stopped)")


def show(console: Console, growing: Iterable[list[str]]) -> None:
    """Both answers side by side as they grow; without a terminal, once they are complete."""
    if not console.is_terminal:
        last = ["", ""]
        for last in growing:  # noqa: B007
            pass
        for title, text in zip(TITLES, last, strict=True):
            console.print(Text(f"{title}: {text}"))
        return
    width = max(20, shutil.get_terminal_size().columns // 2 - 2)
    with Live(console=console, refresh_per_second=12) as live:
        for texts in growing:
            panels = [Panel(Text(text), title=title, width=width) for title, text in zip(TITLES, texts, strict=True)]
            live.update(Columns(panels))


def main() -> None:
    """Command line: an error that can be mended, or Ctrl-C while loading, is one line."""
    try:
        make_deterministic(threads=os.cpu_count() or 1)  # somebody is waiting
        tyro.cli(chat)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped")
    sys.stdout.flush()
    os._exit(0)  # taking the model apart would cost seconds


if __name__ == "__main__":
    main()
