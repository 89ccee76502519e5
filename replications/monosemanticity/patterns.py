"""Ground truth for named features: patterns of documentation and source that a regular expression decides.

Bricken et al. 2023, section "Detailed investigations of individual features", choose contexts that a rule can decide
(Arabic script, DNA, base64, Hebrew). Text about Python has none of these. Like the paper's contexts, the following were
chosen where features had been seen: on the networks and documents of calibration, of 39 candidates.
"""

import re

import numpy as np
from jaxtyping import Bool

PATTERNS = {
    "number": r"(?<![\w.])\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?(?!\w)",
    "constant": r"(?<!\w)[A-Z][A-Z0-9_]{2,}(?!\w)",
    "brackets": r"\[[^\[\]\n]*\]",
    "literal": r"``[^`\n]+``",
    "import": r"^[ \t]*(?:from [\w.]+ )?import .*$",
}


def labels(text: str, offsets: list[tuple[int, int]]) -> Bool[np.ndarray, "token pattern"]:
    """Whether each token lies inside a match of each pattern; blanks at the ends of a token do not count."""
    found = np.zeros((len(offsets), len(PATTERNS)), dtype=bool)
    for column, pattern in enumerate(PATTERNS.values()):
        inside = np.zeros(len(text) + 1, dtype=int)
        for match in re.finditer(pattern, text, re.MULTILINE):
            inside[match.start() + 1 : match.end() + 1] = 1
        inside = np.cumsum(inside)
        for row, (begin, end) in enumerate(offsets):
            piece = text[begin:end]
            if piece.strip():
                begin += len(piece) - len(piece.lstrip())
                end -= len(piece) - len(piece.rstrip())
            found[row, column] = end > begin and inside[end] - inside[begin] == end - begin
    return found
