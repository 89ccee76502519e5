"""Step: do the S-inhibition heads say which name to leave out, or where it stands (Wang et al. 2022, appendix A)?

Their outputs at END come from six versions of the prompt, everything after them is recomputed, and F, the mean of
logit(IO) - logit(S) with the names of the prompt itself, is read again. In a version, one name x is named once and the
other, y, twice: y stands in the slots of S1 and S2, or, *position* inverted, in those of IO and S2. *Token*: y is S and
x is IO (original), both are other names (random), or y is IO and x is S (inverted). A signal is the least-squares
coefficient, without a constant, of F over the six versions:

    F = position_signal * S_position + token_signal * S_token     in units of F(M), the plain run
    S_position   1 as it is, -1 inverted;  S_token   1 original, 0 random, -1 inverted

Controls: as many other heads of the same layers, drawn `draws` times; and the named classes that write to the logits
(`WRITERS`), patched alike: whatever moves a name in or out would pass for a signal. Heads are those that the discovery
half named, prompts are of the verification half. A class without a head changes nothing and has no signal.
"""

from pathlib import Path
from typing import NamedTuple

import einops
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import without_interval
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.interp.decoder import Decoder
from common.interp.partial_forward import at_position, rerun
from replications.ioi_circuit.batches import VERIFICATION, Batch, balanced, load_circuit_prompts
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.nodes import others_of_layers
from replications.ioi_circuit.place_or_token import EditedRuns, measure_edits, run_edits
from replications.ioi_circuit.prompt_statistics import clustered
from replications.ioi_circuit.residual import read_difference
from replications.ioi_circuit.settings import Signals


class Version(NamedTuple):
    """What a version of the prompt does with the names, as values of S_token and S_position."""

    token: int
    position: int


VERSIONS = [Version(token, position) for token in (1, 0, -1) for position in (1, -1)]
TOKENS = {1: "original", 0: "random", -1: "inverted"}
POSITIONS = {1: "original", -1: "inverted"}
WRITERS = {"name_movers": "name_mover", "s_suppressing": "s_suppressing", "end_readers": "end_reader"}
ROWS = 20_000  # prompts, versions and sets of heads that are computed at once
PUBLISHED = [3.55, -0.99, 2.45, -1.96, 1.77, -3.16]
"""Of GPT-2 small, in logits, in the order of `VERSIONS` (figure 9); the first is F(M)."""


class SignalsFiles(Files):
    manifest: Path
    prompts: Path
    heads: Path
    """of path patching, for the S-inhibition heads"""
    metrics: Path
    signals: Path
    """F / F(M) for each version, with these heads patched, with other heads, and as published"""


def signals(files: SignalsFiles, settings: Signals, run: RunInfo) -> None:
    """Writes `metrics.json` and one row per version."""
    decoder, every = load_circuit_prompts(files.manifest, files.prompts, run.device)
    rows = balanced(every, VERIFICATION, settings.n_prompts)
    heads = pd.read_csv(files.heads)

    def named(receiver: str, kind: str) -> list[int]:
        which = heads[heads[f"{receiver}_class"] == kind]
        return sorted(int(number) for number in which["layer"] * decoder.n_heads + which["head"])

    steering, readers = named("mover_queries", "s_inhibition"), named("inhibition_values", "induction")
    writers = {name: named("logits", kind) for name, kind in WRITERS.items()}
    generator = np.random.default_rng(0)
    spared = set(steering)
    others = [others_of_layers(steering, decoder.n_heads, spared, generator) for _ in range(settings.draws)]
    with torch.no_grad():
        batch = Batch(rows, run.device)
        runs = run_edits(decoder, batch)
        clean, patched = patch(decoder, runs, [steering, *writers.values(), *others])
        edits = measure_edits(decoder, runs, "s2", readers, settings.edit_draws, "induction")
        edits |= measure_edits(decoder, runs, "end", steering, settings.edit_draws, "inhibition")
    of_writers, random = dict(zip(writers, patched[1:], strict=False)), patched[1 + len(writers) :]
    metrics = measure(clean, patched[0], random, of_writers, rows) | edits
    metrics["n_heads"] = without_interval(float(len(steering)), 1, "heads", "S-inhibition heads")
    metrics["n_induction"] = without_interval(float(len(readers)), 1, "heads", "induction heads")
    write_metrics(files.metrics, metrics)
    write_table(files.signals, signal_table(clean, patched[0], random))


def tokens_of(batch: Batch, version: Version) -> Int[Tensor, "batch pos"]:
    """Tokens of the prompts with other names in the three slots; everything else stays."""
    pairs = {1: [(row.s_id, row.io_id) for row in batch.prompts], -1: [(row.io_id, row.s_id) for row in batch.prompts]}
    pairs[0] = [row.abc_ids[:2] for row in batch.prompts]
    twice, once = torch.tensor(pairs[version.token], device=batch.device).unbind(1)
    first, second = ("s1", "io") if version.position == 1 else ("io", "s1")
    tokens, every = batch.tokens("original").clone(), torch.arange(len(batch.prompts), device=batch.device)
    for place, name in ((first, twice), (second, once), ("s2", twice)):
        tokens[every, batch.at(place)] = name  # type: ignore[arg-type]
    return tokens


def patch(
    decoder: Decoder, runs: EditedRuns, sets: list[list[int]]
) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, "set version prompt"]]:
    """logit(IO) - logit(S) of the plain run, and with the heads of each set patched at END from every version.

    Heads are numbered through all layers. END alone is computed again, because nothing after it counts.
    """
    batch, clean, edited = runs
    end, mask = batch.at("end"), batch.mask
    known = {Version(1, 1): clean.z, Version(-1, -1): edited["flipped"]}
    seen = [
        [
            at_position(z, end)
            for z in known.get(version) or decoder.forward(tokens_of(batch, version), mask, keep=True).z
        ]
        for version in VERSIONS
    ]
    inside = torch.zeros(len(sets), decoder.n_layers * decoder.n_heads, dtype=torch.bool, device=mask.device)
    for number, heads in enumerate(sets):
        inside[number, heads] = True
    first = min((head // decoder.n_heads for heads in sets for head in heads), default=decoder.n_layers - 1)

    def read(final: Float[Tensor, "*n batch d_model"]) -> Float[np.ndarray, "*n batch"]:
        differences: np.ndarray = read_difference(decoder.bridge, final, batch.names).double().cpu().numpy()
        return differences

    of_sets = []
    for some in torch.split(inside, max(1, ROWS // (len(VERSIONS) * len(batch.prompts)))):

        def edit(layer: int, z: Float[Tensor, "copy batch step head d_head"], some: Tensor = some) -> Tensor:
            new = torch.stack([one[layer] for one in seen])[None, :, :, None]
            old = einops.rearrange(z, "(set version) b s h d -> set version b s h d", version=len(VERSIONS))
            ours = some[:, layer * decoder.n_heads : (layer + 1) * decoder.n_heads][:, None, None, None, :, None]
            return einops.rearrange(torch.where(ours, new, old), "set version b s h d -> (set version) b s h d")

        start = at_position(clean.resid_pre[first], end)[:, None].expand(len(some) * len(VERSIONS), -1, -1, -1)
        final = read(rerun(decoder, clean, first, end[:, None], end, start, edit=edit))
        of_sets.append(einops.rearrange(final, "(set version) prompt -> set version prompt", version=len(VERSIONS)))
    return read(at_position(clean.final, end)), np.concatenate(of_sets)


def coefficients(
    values: Float[np.ndarray, "... version prompt"],
) -> tuple[Float[np.ndarray, "... prompt"], Float[np.ndarray, "... prompt"]]:
    """Signals of position and of token on each prompt, in logits. The two regressors are orthogonal."""
    signals = []
    for part in ([version.position for version in VERSIONS], [version.token for version in VERSIONS]):
        regressor = np.array(part, dtype=float)
        signals.append(np.einsum("v,...vp->...p", regressor / (regressor @ regressor), values))
    return signals[0], signals[1]


def measure(
    clean: Float[np.ndarray, " prompt"],
    values: Float[np.ndarray, "version prompt"],
    random: Float[np.ndarray, "draw version prompt"],
    writers: dict[str, Float[np.ndarray, "version prompt"]],
    prompts: list[Prompt],
) -> dict[str, Metric]:
    """Both signals, those of other heads and of the writers, and how far the two terms are from the six numbers."""
    of_writers = {name: coefficients(one) for name, one in writers.items()}
    metrics = {
        f"{name}_signal": clustered(
            own,
            prompts,
            unit="1",
            formula=f"coefficient of {name} / F(M), S-inhibition heads patched at END",
            denominators=clean,
            controls={writer: both[number] for writer, both in of_writers.items()},
            draws={"other_heads": of_others},
        )
        for number, (name, own, of_others) in enumerate(
            zip(("position", "token"), coefficients(values), coefficients(random), strict=True)
        )
    }
    fitted = sum(
        np.outer(part, signal) for part, signal in zip(np.array(VERSIONS).T[::-1], coefficients(values), strict=True)
    )
    error = float(np.abs((values - fitted).mean(1)).mean() / clean.mean())
    metrics["fit_error"] = without_interval(error, len(VERSIONS), "1", "mean |F - fit| over the six versions / F(M)")
    return metrics


def signal_table(
    clean: Float[np.ndarray, " prompt"],
    values: Float[np.ndarray, "version prompt"],
    random: Float[np.ndarray, "draw version prompt"],
) -> pd.DataFrame:
    """One row per version; F in units of F(M), `random_low` and `random_high` being the range of the draws."""
    left = random.mean(2) / clean.mean()
    return pd.DataFrame(
        {
            "token": [TOKENS[version.token] for version in VERSIONS],
            "position": [POSITIONS[version.position] for version in VERSIONS],
            "left": values.mean(1) / clean.mean(),
            "random": left.mean(0),
            "random_low": left.min(0),
            "random_high": left.max(0),
            "published": np.array(PUBLISHED) / PUBLISHED[0],
        }
    )


if __name__ == "__main__":
    run_step(signals)
