"""Step: finds the circuit's heads on the discovery half by exact path patching, and names them.

Five receiver sets in the paper's order (sweeps.py), classes by rule (classes.py), backup name movers by rule
(self_repair.py); what the named heads look at and write is measured beside it (mover_attention.py). Effects are patched
minus clean, in percent of the mean clean logit difference, for logit(IO), logit(S) and their difference. Nothing of the
verification half enters a choice; at the end the named heads, and as many others of the same layers, are patched into
the same receivers on verification prompts.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from common.core.errors import UserError
from common.core.metrics import Metric, write_metrics
from common.core.statistics import without_interval
from common.core.step import run
from common.core.tables import write_table
from common.data.models import load_model
from common.interp.decoder import Decoder
from replications.ioi_circuit import published
from replications.ioi_circuit.batches import DISCOVERY, VERIFICATION, Batch, balanced
from replications.ioi_circuit.classes import Named, Signs, signs
from replications.ioi_circuit.dataset import Prompt, read_prompts
from replications.ioi_circuit.head_scores import attention, contrasts, copying, repeated_tokens
from replications.ioi_circuit.knockout import KnockOut
from replications.ioi_circuit.means import read_means
from replications.ioi_circuit.mover_attention import measure_writing, steered_attention
from replications.ioi_circuit.nodes import Node, others_of_layers
from replications.ioi_circuit.path_patching_measures import (
    head_table,
    measure,
    measure_again,
    measure_sweeps,
    scatter,
)
from replications.ioi_circuit.self_repair import find_backups
from replications.ioi_circuit.sweeps import Effects, add_sweep, discover, read_runs, sweep_further


def path_patching(
    *,
    prompts: Path,
    manifest: Path,
    activations: Path,
    end_prompts: int,
    inner_prompts: int,
    again_prompts: int,
    minimum_percent: float,
    period: int,
    sequences: int,
    draws: int,
    steering_draws: int,
    device: Literal["cpu", "cuda"],
    out: Path,
    heads: Path,
    attention_table: Path,
    steered_table: Path,
) -> None:
    """Writes `metrics.json` and three tables.

    Args:
        prompts: `prompts.json`.
        manifest: `manifest.json` of the model.
        activations: `activations.safetensors`, for the template means with which name movers are knocked out.
        end_prompts: prompts of the sweeps whose receivers sit at END.
        inner_prompts: prompts of the sweeps whose receivers sit at S2 or S1+1, which cost several times more.
        again_prompts: verification prompts on which the named heads are patched again.
        minimum_percent: smallest effect that counts, percent of the mean logit difference.
        period: random tokens before they are repeated.
        sequences: sequences of repeated random tokens.
        draws: draws of each null distribution.
        steering_draws: sets of other heads that are patched in place of the S-inhibition heads.
        device: where the model runs.
        out: `metrics.json`.
        heads: `heads.csv`: effects, scores, t values and class of each head.
        attention_table: `attention.csv`: attention at END and direct effect on each name, per head and prompt.
        steered_table: `steered.csv`: where the movers look, without and with the S-inhibition heads patched.
    """
    rows = read_prompts(prompts, "circuit_prompts")
    bridge = load_model(manifest.parent, device=device)
    if 2 * period > bridge.cfg.n_ctx:
        raise UserError(f"twice period={period} is longer than the context of {bridge.cfg.n_ctx}; lower `period`")
    decoder = Decoder(bridge, max(2 * period, *(row.positions.end + 1 for row in rows)))
    name_ids = torch.tensor(sorted({row.io_id for row in rows} | {row.s_id for row in rows}), device=device)
    ends = Batch(balanced(rows, DISCOVERY, end_prompts), device)
    with torch.no_grad():
        cache, own = attention(decoder, ends, "original")
        _, abc = attention(decoder, ends, "abc")
        looks = {name: signs(values, draws) for name, values in contrasts(own, abc).items()}
        copies = {name: signs(values, draws) for name, values in copying(decoder, cache, ends, name_ids).items()}
        repeated = repeated_tokens(decoder, period, sequences, seed=0)
        inner = balanced(rows, DISCOVERY, inner_prompts)
        effects, named = discover(decoder, ends.prompts, inner, looks, copies, repeated, minimum_percent, draws)
        backups = backup_movers(decoder, ends.prompts, named, activations, draws, minimum_percent)
        again = patch_again(decoder, effects, named, balanced(rows, VERIFICATION, again_prompts))
        further = sweep_further(decoder, named, ends.prompts, inner)
        steered, looked = steered_attention(decoder, Batch(inner, device), named, steering_draws)
    table = head_table(decoder, effects, named, looks, copies, repeated, own, further)
    scattered = scatter(decoder, effects, named, own)
    table["backup_growth"], table["backup"] = backups.mean, backups.sign
    metrics = measure(effects, named, draws) | measure_sweeps(further, draws) | again | steered
    metrics |= measure_writing(scattered, draws)
    metrics["n_backup"] = without_interval(float(backups.sign.sum()), len(table), "heads", "heads named by rule")
    if manifest.parent.name == published.MODEL:
        metrics |= published.measure_overlap(table, draws)
    write_metrics(out, metrics)
    for path, content in ((heads, table), (attention_table, scattered), (steered_table, looked)):
        write_table(path, content)


def backup_movers(
    decoder: Decoder, prompts: list[Prompt], named: Named, activations: Path, draws: int, minimum: float
) -> Signs:
    """The rule of self_repair.py on discovery prompts."""
    device = decoder.W_O[0].device.type
    where = KnockOut(decoder, prompts, read_means(activations, device), device, 4096)
    movers = [divmod(head, decoder.n_heads) for head, kind in named["logits"].items() if kind == "name_mover"]
    return find_backups(where, frozenset(Node(layer, head, "end") for layer, head in movers), draws, minimum)


def patch_again(decoder: Decoder, effects: Effects, named: Named, prompts: list[Prompt]) -> dict[str, Metric]:
    """Named heads and as many others of the same layers, patched into the same receivers on other prompts."""
    generator = np.random.default_rng(0)
    again = Effects()
    chosen: dict[str, list[int]] = {}
    others: dict[str, list[int]] = {}
    runs = read_runs(decoder, prompts)
    for name, receivers in effects.receivers.items():
        found = named["inhibition_values" if name == "inhibition_keys" else name]
        heads = [head for head, kind in found.items() if kind != "unclassified" and effects.signs[name].sign[head]]
        if not heads:
            continue
        spared = set(np.flatnonzero(effects.signs[name].sign).tolist())
        chosen[name], others[name] = heads, sorted(others_of_layers(heads, decoder.n_heads, spared, generator))
        senders = {divmod(head, decoder.n_heads) for head in [*heads, *others[name]]}
        add_sweep(decoder, again, name, runs, receivers, senders)
    return measure_again(effects, again, chosen, others)


if __name__ == "__main__":
    run(path_patching)
