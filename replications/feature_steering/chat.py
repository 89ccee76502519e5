"""A chat at the terminal with one latent held fixed.

    python -m replications.feature_steering.chat --topic volcanoes --dose 0.35

The latents are those of the page. Every message is answered twice, side by side and word by word: by the model as it
is, and with the latent clamped. It is clamped to `dose` times the mean norm of the residual stream (the error kept), at
every position but the first. Both answers share their random numbers. End with an empty line, `quit` or Ctrl-D; Ctrl-C
ends an answer. Messages do not see earlier ones.
"""

import math
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Literal

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
from replications.feature_steering.sae_source import either

TITLES = ("unsteered", "steered")


def chosen_latent(known: list[dict[str, Any]], topic: str, dose: float) -> dict[str, Any]:
    """The latent of a topic, or of a place in the list. UserError naming those that there are, or for a bad dose."""
    if not math.isfinite(dose):
        raise UserError(f"--dose {dose} is not a finite number; try 0.35 or -0.2")
    for place, one in enumerate(known):
        if topic in (one["topic"], str(place)):
            return one
    names = ", ".join(f"'{one['topic']}'" for one in known)
    raise UserError(f"no latent was chosen for the topic '{topic}'; --topic takes {names}")


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
    topic: str = "0",
    dose: float | None = None,
    message: str | None = None,
    model: str = "smollm2-135m-instruct-q4_1",
    scale: str = "laptop",
    new_tokens: int = 80,
    temperature: float = 0.7,
    seed: int = 0,
    device: Literal["cpu", "cuda"] = "cpu",
) -> None:
    """Chats with one latent held, beside the model as it is.

    Args:
        topic: of the latent, as the page lists them, or its place in that list, from 0 on.
        dose: length of the clamped latent over the mean norm of the residual stream; negative pushes it below zero.
            Without it, that at which the page opens.
        message: answers this one message and ends; without it, messages are read line by line.
        model: name of the language model.
        scale: whose results are used.
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
    record = results / "feature_steering" / model / "steering" / "shown.json"
    if not record.exists():
        raise UserError(f"{record} does not exist; run `{advice(model, scale)}` first")
    about = read_json(record)
    dose = about["dose"] if dose is None else dose
    latent = chosen_latent(about["latents"], topic, dose)
    saes = either(model, f"feature_steering/{model}/released", f"sparse_autoencoders/{model}/saes")
    dictionary = load_saelens(results / saes / latent["sae"])
    folder = ROOT / "resources" / "models" / model
    dictionary.check_belongs(Manifest.model_validate(read_json(folder / "manifest.json")).name, about["hook"])
    tokenizer, writer = load_tokenizer(folder), load_writer(folder, device)
    strength = dose * about["norm"] / float(dictionary.W_dec[latent["index"]].norm())
    steering = Steering(
        "clamp",
        torch.tensor([0.0, strength]),
        sae=dictionary,
        latent=torch.tensor([latent["index"]] * 2),
        active=torch.tensor([False, True]),
    ).to(device)
    console = Console()
    times = strength / latent["largest"]
    console.print(Text(f"{latent['topic']}: latent {latent['index']} at {times:.2g} times the largest value seen"))
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
