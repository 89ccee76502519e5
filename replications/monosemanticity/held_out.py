"""Held-out text as the measures see it: tokens with their neighbours, documents, halves and patterns."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from safetensors.torch import load_file
from torch import Tensor

from common.core.files import read_json


class HeldOut(NamedTuple):
    """Held-out tokens in order, the first and last position of each window left out."""

    windows: Int[Tensor, "window pos"]
    token: Int[Tensor, " n"]
    previous: Int[Tensor, " n"]
    following: Int[Tensor, " n"]
    document: Int[np.ndarray, " n"]
    scored: Bool[Tensor, " n"]
    """whether the document is one on which units are judged; on the others they are chosen and explained"""
    labels: Bool[Tensor, "n pattern"]
    next_labels: Bool[Tensor, "n pattern"]

    @property
    def wide(self) -> int:
        """Tokens of a window that are left."""
        return self.windows.shape[1] - 2

    @property
    def d_vocab(self) -> int:
        """Behind the largest token that is read."""
        return int(max(self.token.max(), self.previous.max())) + 1


def read_held_out(path: Path) -> HeldOut:
    """Documents take turns: every other one is for choosing and explaining units, the rest for judging them."""
    stored = load_file(path)
    return held_out(stored["held_out"].long(), stored["document"].numpy(), stored["labels"].bool())


def held_out(
    windows: Int[Tensor, "window pos"], document: Int[np.ndarray, " window"], labels: Bool[Tensor, "window pos pattern"]
) -> HeldOut:
    """The same from tensors."""
    of = np.repeat(document, windows.shape[1] - 2)
    return HeldOut(
        windows, windows[:, 1:-1].flatten(), windows[:, :-2].flatten(), windows[:, 2:].flatten(), of,
        torch.from_numpy(of % 2 == 1), labels[:, 1:-1].flatten(0, 1), labels[:, 2:].flatten(0, 1),
    )  # fmt: skip


def read_words(path: Path) -> list[str]:
    """The texts of all tokens."""
    words: list[str] = read_json(path)
    return words


def visible(word: str) -> str:
    """A token with its spaces and line breaks visible; what has no glyph becomes a dot."""
    plain = word.replace(" ", "\u2423").replace("\n", "\u21b5").replace("\t", "\u2192")
    return "".join(one if one.isprintable() and ord(one) < 0x2500 else "\u00b7" for one in plain)
