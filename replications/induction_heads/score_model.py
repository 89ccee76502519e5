"""Step: which heads of a language model are induction, previous-token and duplicate-token heads, on random repeats.

Out: `scores.csv` (one row per head, from the sequences on which heads are chosen), `roles.json` (chosen heads and their
controls) and `metrics.json` (scores of the chosen heads on other sequences, one draw per seed). The induction score is
prefix matching minus its positional share. Olsson et al. 2022, section on large models and appendix. `fuzzy.csv` and
the metrics `fuzzy_*`: the same induction heads where the second copy is not the first one, but the same words
capitalised (their argument 4: the heads that copy literally also match patterns).
"""

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from common.core.files import write_json
from common.core.metrics import write_metrics
from common.core.step import run
from common.core.tables import Seeded, write_table
from common.data.models import load_model, load_tokenizer
from common.interp.head_scores import (
    attention_to,
    duplicate_token,
    duplicates,
    positional_share,
    prefix_matching,
    previous_token,
)
from common.interp.head_scores import successors as after_copies
from replications.induction_heads.language_model import run_pass
from replications.induction_heads.model_settings import Repeats
from replications.induction_heads.repeats import CHOOSING, fuzzy_repeats, random_repeats, word_pairs

SHARE_OF_BEST = 0.5  # a head has a role if its score is at least this share of the best head's


def score_model(
    *,
    manifest: Path,
    repeats: Repeats,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    metrics: Path,
    roles: Path,
    table: Path,
    fuzzy: Path,
) -> None:
    """Writes the four files."""
    bridge = load_model(manifest.parent, device=device)
    layers, d_vocab = list(range(bridge.cfg.n_layers)), bridge.cfg.d_vocab

    def look(tokens: Tensor) -> Float[Tensor, "layer batch head query key"]:
        found = run_pass(bridge, tokens.to(device), keep=layers).patterns
        return torch.stack([found[layer].float().cpu() for layer in layers])

    choosing = random_repeats(repeats, d_vocab, CHOOSING).tokens
    shown = look(choosing)
    prefix = prefix_matching(shown, choosing)
    score = {
        "induction": prefix - positional_share(shown, choosing),
        "previous": previous_token(shown),
        "duplicate": duplicate_token(shown, choosing),
    }
    chosen = choose(score)
    write_json(roles, {name: [list(head) for head in heads] for name, heads in chosen.items()})
    rows: list[dict[str, object]] = []
    for layer, head in ((layer, head) for layer in layers for head in range(prefix.shape[1])):
        row: dict[str, object] = {"layer": layer, "head": head, "prefix": float(prefix[layer, head])}
        rows.append(row | {name: float(values[layer, head]) for name, values in score.items()})
    write_table(table, rows)
    best = {name: divmod(int(values.argmax()), values.shape[1]) for name, values in score.items()}
    pairs = word_pairs(load_tokenizer(manifest.parent))
    measured: dict[str, list[float]] = {}
    rows = []
    for seed in seeds:
        drawn = random_repeats(repeats, d_vocab, seed)
        repeated, unrepeated = look(drawn.tokens), look(drawn.unrepeated)
        for name, mask in (("induction", after_copies(drawn.tokens)), ("duplicate", duplicates(drawn.tokens))):
            for kind, patterns in (("", repeated), ("_unrepeated", unrepeated)):
                found = attention_to(patterns, mask)[best[name]]
                measured.setdefault(f"{name}_best{kind}", []).append(float(found))
        words = fuzzy_repeats(repeats, pairs, seed)
        mask = after_copies(words.words)
        for kind, tokens in (("", words.tokens), ("_unrepeated", words.unrepeated)):
            every = attention_to(look(tokens), mask)
            measured.setdefault(f"fuzzy_best{kind}", []).append(float(every[best["induction"]]))
            for layer, head in chosen["induction"]:
                score_here = {"layer": layer, "head": head, "fuzzy": float(every[layer, head])}
                rows.append({"seed": seed, "words": kind.strip("_") or "capitalised"} | score_here)
        steps = {"": -1, "_two_back": -2}
        for kind, offset in steps.items():
            found = repeated[best["previous"][0], :, best["previous"][1]].diagonal(offset, -2, -1).mean()
            measured.setdefault(f"previous_best{kind}", []).append(float(found))
    collected = Seeded()
    for name, one in measured.items():
        collected.add(name, one, "share", f"attention of the head chosen on other sequences, {name}")
    for name, control in (
        ("induction", "unrepeated"),
        ("duplicate", "unrepeated"),
        ("previous", "two_back"),
        ("fuzzy", "unrepeated"),
    ):
        collected.minus(f"{name}_minus_{control}", f"{name}_best", f"{name}_best_{control}")
    write_metrics(metrics, collected.found)
    write_table(fuzzy, rows)


def choose(score: dict[str, Float[Tensor, "layer head"]]) -> dict[str, list[tuple[int, int]]]:
    """Induction heads; previous-token heads below the first of them; and for both, in the same layers and as many, the
    heads with the lowest score of that kind."""
    induction, previous = score["induction"], score["previous"].clone()
    leading = _above(induction)
    previous[min(layer for layer, _ in leading) :] = 0
    steering = _above(previous)
    taken = {*leading, *steering}
    return {
        "induction": leading,
        "previous": steering,
        "induction_others": _lowest(induction, leading, taken),
        "previous_others": _lowest(score["previous"], steering, taken),
    }


def _above(score: Float[Tensor, "layer head"]) -> list[tuple[int, int]]:
    return [(layer, head) for layer, head in (score >= SHARE_OF_BEST * score.max()).nonzero().tolist()]


def _lowest(
    score: Float[Tensor, "layer head"], heads: list[tuple[int, int]], taken: set[tuple[int, int]]
) -> list[tuple[int, int]]:
    """In every layer of `heads`, as many untaken heads with the lowest score, as far as the layer has them."""
    found: list[tuple[int, int]] = []
    for layer in sorted({layer for layer, _ in heads}):
        count = sum(one == layer for one, _ in heads)
        free = [head for head in score[layer].argsort().tolist() if (layer, head) not in taken]
        found += [(layer, head) for head in free[:count]]
    return found


if __name__ == "__main__":
    run(score_model)
