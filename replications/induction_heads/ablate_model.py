"""Step: removes induction and previous-token heads of a language model on random repeats, patterns recomputed or kept.

The same experiment as on the trained arms (`measure_ablations.py`), heads chosen by `score_model.py` on other
sequences. Gain: mean loss of undetermined tokens minus mean loss of tokens that the first copy determines. Prefix
score: mean of all induction heads. Controls: in the same layers as many heads with the lowest score of the kind in
question.
"""

from pathlib import Path
from typing import Literal

import torch

from common.core.files import read_json
from common.core.metrics import write_metrics
from common.core.step import run
from common.core.tables import Seeded, write_table
from common.data.models import load_model
from common.interp.head_scores import prefix_matching
from replications.induction_heads.language_model import Pass, run_pass
from replications.induction_heads.model_settings import Repeats
from replications.induction_heads.repeats import random_repeats, repeat_gain

KINDS = {"full": "full", "kept": "pattern-preserving"}


def ablate_model(
    *,
    manifest: Path,
    roles: Path,
    repeats: Repeats,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    metrics: Path,
    table: Path,
) -> None:
    """Writes `metrics` and one row per seed, group and kind of ablation."""
    bridge = load_model(manifest.parent, device=device)
    groups = {name: [(layer, head) for layer, head in heads] for name, heads in read_json(roles).items()}
    leading = groups["induction"]
    layers = list(range(bridge.cfg.n_layers))
    rows: list[dict[str, object]] = []
    values: dict[str, list[float]] = {}
    for seed in seeds:
        drawn = random_repeats(repeats, bridge.cfg.d_vocab, seed)
        tokens = drawn.tokens.to(device)

        def read(
            done: Pass, tokens: torch.Tensor = tokens, repeated: torch.Tensor = drawn.repeated
        ) -> tuple[float, float]:
            prefix = [float(prefix_matching(done.patterns[layer], tokens)[head]) for layer, head in leading]
            return repeat_gain(done.losses, repeated.to(device)), sum(prefix) / len(prefix)

        intact = run_pass(bridge, tokens, keep=layers)
        gain, prefix = read(intact)
        values.setdefault("gain", []).append(gain)
        values.setdefault("prefix", []).append(prefix)
        for group, heads in groups.items():
            for kind in KINDS:
                given = intact.patterns if kind == "kept" else None
                keep = sorted({layer for layer, _ in leading})
                now_gain, now_prefix = read(run_pass(bridge, tokens, removed=heads, keep=keep, given=given))
                values.setdefault(f"gain_lost_{group}_{kind}", []).append(1 - now_gain / gain)
                values.setdefault(f"prefix_lost_{group}_{kind}", []).append(1 - now_prefix / prefix)
                rows.append(
                    {"seed": seed, "group": group, "kind": KINDS[kind], "heads": len(heads), "gain": gain}
                    | {"gain_without": now_gain, "prefix": prefix, "prefix_without": now_prefix}
                )
    collected = Seeded()
    for name, one in values.items():
        lost = "_lost_" in name
        text = "share lost against the intact model" if lost else "intact model"
        collected.add(name, one, "share" if lost or name == "prefix" else "nats", f"{name} on random repeats, {text}")
    for what, effect, control in (
        ("gain", "induction_full", "induction_others_full"),
        ("gain", "induction_kept", "induction_others_kept"),
        ("gain", "previous_full", "previous_kept"),
        ("gain", "previous_kept", "induction_kept"),
        ("prefix", "previous_full", "previous_others_full"),
    ):
        collected.minus(f"{what}_{effect}_minus_{control}", f"{what}_lost_{effect}", f"{what}_lost_{control}")
    write_metrics(metrics, collected.found)
    write_table(table, rows)


if __name__ == "__main__":
    run(ablate_model)
