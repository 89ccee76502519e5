"""Step: small models on in-context Markov chains, against the predictors that Bayes' rule gives (see `chains.py`).

Edelman et al. 2024: two-layer models pass from guessing uniformly to counting symbols (unigram) to counting what
followed the present symbol (bigram, a statistical induction head); one layer stops at the unigram. Two layers train on
ordinary and on doubly stochastic chains, one layer on ordinary ones; all seeds of a depth are one batched job. Out:
`metrics` at the end and on the plateau, and `curves`, one row per arm, seed and measurement.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import write_metrics
from common.core.step import run
from common.core.tables import Seeded, write_table
from common.toys.settings import Architecture, Optimisation
from common.toys.training import Job, Trained, train
from common.toys.transformer import Weights, forward, initial_weights, token_losses
from replications.induction_heads.arm_settings import Sizes
from replications.induction_heads.chains import Kind, batch_of_chains, bigram, divergence, unigram
from replications.induction_heads.curves import first_crossing

HALFWAY = "step half way from the best predictor that ignores order to the bigram predictor; the last step if never"
Member = tuple[str, Kind, int]  # arm, kind of chain, seed
HELD_OUT_STEP = -1  # of `batch_of_chains`; training uses steps from 0 on
HELD_OUT_SEED = 10_000  # all models are judged on the same chains
ARMS: dict[str, tuple[int, Kind]] = {
    "two_layers": (2, "dirichlet"),
    "two_layers_doubly": (2, "doubly_stochastic"),
    "one_layer": (1, "dirichlet"),
}


def train_chains(
    *,
    sizes: Sizes,
    n_symbols: int,
    length: int,
    held_out: int,
    measure_every: int,
    optimisation: Optimisation,
    n_seeds: int,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    metrics: Path,
    curves: Path,
) -> None:
    """Trains the first `n_seeds` of `seeds` and writes both files."""
    rows: list[dict[str, object]] = []
    for layers in sorted({layers for layers, _ in ARMS.values()}):
        arms = {name: kind for name, (depth, kind) in ARMS.items() if depth == layers}
        members = [(name, kind, seed) for name, kind in arms.items() for seed in seeds[:n_seeds]]
        shape = Architecture(
            n_layers=layers, keys="plain", positions="shortformer", mlp="none", d_vocab=n_symbols, n_ctx=length,
            **sizes.model_dump(),
        )  # fmt: skip
        judges = [Judge(kind, held_out, n_symbols, length, device) for _, kind, _ in members]
        at = sorted({*range(0, optimisation.steps, measure_every), optimisation.steps})
        trained = _train(members, shape, optimisation, judges, at, device)
        rows += _rows(trained, members, at, judges)
    write_table(curves, rows)
    write_metrics(metrics, summary(rows).found)


def _train(
    members: list[Member],
    shape: Architecture,
    optimisation: Optimisation,
    judges: list["Judge"],
    at: list[int],
    device: str,
) -> Trained:
    """All arms and seeds of one depth."""

    def loss(weights: Weights, step: int) -> Tensor:
        drawn = [
            batch_of_chains(kind, optimisation.batch, shape.d_vocab, shape.n_ctx, seed, step)
            for _, kind, seed in members
        ]
        tokens = torch.stack([paths for _, paths in drawn]).to(device)
        return token_losses(forward(weights, tokens, shape), tokens).mean((1, 2))

    start = initial_weights(shape, [seed for *_, seed in members])
    job = Job(
        name=f"chains, {shape.n_layers} layers",
        weights={name: value.to(device) for name, value in start.items()},
        loss=loss,
        measure=lambda weights: _measured(weights, judges, shape),
        measure_at=at,
        snapshots_at=[optimisation.steps],
        rates=torch.ones(len(members), device=device),
        tokens_per_step=len(members) * optimisation.batch * shape.n_ctx,
    )
    return train(job, optimisation)


class Judge:
    """Held-out chains of one kind and their reference predictions."""

    def __init__(self, kind: Kind, n: int, n_symbols: int, length: int, device: str) -> None:
        chains, self.tokens = batch_of_chains(kind, n, n_symbols, length, HELD_OUT_SEED, HELD_OUT_STEP)
        self.truth = chains[torch.arange(n)[:, None], self.tokens].to(device)
        self.predictors = {
            "uniform": torch.full_like(self.truth, 1 / n_symbols),
            "unigram": unigram(self.tokens, n_symbols).to(device),
            "bigram": bigram(self.tokens, n_symbols).to(device),
        }
        self.tokens = self.tokens.to(device)

    def of_predictor(self, name: str) -> float:
        """Divergence of a reference predictor from the truth."""
        return float(divergence(self.truth, self.predictors[name]).mean())


def _measured(weights: Weights, judges: list[Judge], shape: Architecture) -> Weights:
    """Divergence of each model from the truth, and of each reference predictor from the model, [instance]."""
    predicted = forward(weights, torch.stack([judge.tokens for judge in judges]), shape).softmax(-1)

    def mean(wanted: list[Tensor]) -> Float[Tensor, " instance"]:
        return divergence(torch.stack(wanted), predicted).mean((1, 2))

    found = {"truth": mean([judge.truth for judge in judges])}
    return found | {f"to_{name}": mean([j.predictors[name] for j in judges]) for name in judges[0].predictors}


def _rows(trained: Trained, members: list[Member], at: list[int], judges: list[Judge]) -> list[dict[str, object]]:
    return [
        {"arm": name, "seed": seed, "step": step}
        | {what: float(values[i, k]) for what, values in trained.measured.items()}
        | {f"best_{what}": judges[k].of_predictor(what) for what in judges[k].predictors}
        for k, (name, _, seed) in enumerate(members)
        for i, step in enumerate(at)
    ]


def summary(rows: list[dict[str, object]]) -> Seeded:
    """Metrics of every arm, one value per seed."""
    found = Seeded()
    table: dict[str, dict[object, dict[str, np.ndarray]]] = {}
    for row in rows:
        columns = table.setdefault(str(row["arm"]), {}).setdefault(row["seed"], {})
        for what, value in row.items():
            if isinstance(value, int | float) and what != "seed":
                columns[what] = np.append(columns.get(what, np.zeros(0)), float(value))
    for name, seeds in table.items():
        each = list(seeds.values())
        last = [float(one["truth"][-3:].mean()) for one in each]
        for what in ("bigram", "unigram"):
            values = [end / float(one[f"best_{what}"][0]) for end, one in zip(last, each, strict=True)]
            text = f"divergence from the truth at the end of training over that of the best {what} predictor"
            found.add(f"end_over_{what}_{name}", values, "1", text)
        closest = [int(one["to_unigram"].argmin()) for one in each]
        values = [float(one["truth"][i] / one["best_unigram"][0]) for one, i in zip(each, closest, strict=True)]
        text = "divergence from the truth where the model is closest to the unigram predictor, over that predictor's"
        found.add(f"plateau_over_unigram_{name}", values, "1", text)
        share = [float(one["step"][i] / one["step"][-1]) for one, i in zip(each, closest, strict=True)]
        found.add(f"plateau_at_{name}", share, "share", "when the model is closest to the unigram predictor")
        found.add(f"halfway_at_{name}", [_halfway(one) for one in each], "steps", HALFWAY)
    found.minus("end_over_bigram_two_minus_one", "end_over_bigram_two_layers", "end_over_bigram_one_layer")
    found.minus("end_over_unigram_one_minus_two", "end_over_unigram_one_layer", "end_over_unigram_two_layers")
    found.minus("plateau_minus_end_two_layers", "plateau_over_unigram_two_layers", "end_over_unigram_two_layers")
    return found


def _halfway(one: dict[str, np.ndarray]) -> float:
    """The step at which the divergence from the truth is half way from the best that ignores order to the best."""
    level = (min(one["best_unigram"][0], one["best_uniform"][0]) + one["best_bigram"][0]) / 2
    return first_crossing(one["step"], -one["truth"], -level)


if __name__ == "__main__":
    run(train_chains)
