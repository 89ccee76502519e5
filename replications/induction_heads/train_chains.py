"""Step: small models on in-context Markov chains, against the predictors that Bayes' rule gives.

Edelman et al. 2024, "The Evolution of Statistical Induction Heads". Every sequence has a chain of its own; a chain has
`n_symbols` states, and the rows of its matrix are drawn from Dirichlet(1). Given the chain's past, Bayes' rule predicts
(c_ij + 1) / (c_i + k), with c_ij how often j followed the present state i: the *bigram* predictor. The *unigram*
predictor, which knows how often each symbol occurred but not in which order, is (n_j + 1) / (t + k). In *doubly
stochastic* chains (mixtures of permutation matrices) all symbols are equally frequent in the long run.

Two layers pass from guessing uniformly to the unigram and then to the bigram predictor (a statistical induction head);
one layer stops at the unigram. Two layers train on ordinary and on doubly stochastic chains, one layer on ordinary
ones; all seeds of a depth are one batched job. Deviations: one head, shortformer positions, constant learning rate.
"""

from itertools import permutations
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.toys.settings import Architecture
from common.toys.training import Job, Trained, train
from common.toys.transformer import Weights, forward, initial_weights, token_losses
from replications.induction_heads.curves import first_crossing
from replications.induction_heads.data import STEP_STRIDE
from replications.induction_heads.settings import Chains

Kind = Literal["dirichlet", "doubly_stochastic"]
Member = tuple[str, Kind, int]  # arm, kind of chain, seed
HELD_OUT_STEP = -1  # of `batch_of_chains`; training uses steps from 0 on
HELD_OUT_SEED = 10_000  # all models are judged on the same chains
ARMS: dict[str, tuple[int, Kind]] = {
    "two_layers": (2, "dirichlet"),
    "two_layers_doubly": (2, "doubly_stochastic"),
    "one_layer": (1, "dirichlet"),
}
LAST = 3  # measurements whose mean counts as the end
END = "divergence from the truth at the end of training over that of the best {} predictor"
FORMULAS = {
    "end_over_bigram": END.format("bigram"),
    "end_over_unigram": END.format("unigram"),
    "plateau_over_unigram": "divergence from the truth where the model is closest to the unigram predictor, over that "
    "predictor's; the step is chosen by the outcome",
    "plateau_at": "when the model is closest to the unigram predictor",
    "halfway_at": "step half way from the best predictor that ignores order to the bigram predictor; the last step if "
    "never",
}
UNITS = {"plateau_at": "share", "halfway_at": "steps"}


class ChainsFiles(Files):
    metrics: Path
    curves: Path
    """one row per arm, seed and measurement"""


def train_chains(files: ChainsFiles, settings: Chains, run: RunInfo) -> None:
    """Trains the first `n_seeds` seeds of the run and writes both files."""
    tables = []
    for layers in sorted({layers for layers, _ in ARMS.values()}):
        arms = {name: kind for name, (depth, kind) in ARMS.items() if depth == layers}
        members = [(name, kind, seed) for name, kind in arms.items() for seed in run.seeds[: settings.n_seeds]]
        judges = [Judge(kind, settings, run.device) for _, kind, _ in members]
        at = sorted({*range(0, settings.optimisation.steps, settings.measure_every), settings.optimisation.steps})
        trained = _train(members, layers, settings, judges, at, run.device)
        tables.append(_table(trained, members, at, judges))
    curves = pd.concat(tables)
    write_table(files.curves, curves)
    write_metrics(files.metrics, summary(curves))


def _train(
    members: list[Member], n_layers: int, settings: Chains, judges: list["Judge"], at: list[int], device: str
) -> Trained:
    """All arms and seeds of one depth."""
    optimisation = settings.optimisation
    shape = Architecture(
        n_layers=n_layers, keys="plain", positions="shortformer", mlp="none", d_vocab=settings.n_symbols,
        n_ctx=settings.length, **settings.sizes.model_dump(),
    )  # fmt: skip

    def loss(weights: Weights, step: int) -> Tensor:
        drawn = [
            batch_of_chains(kind, optimisation.batch, settings.n_symbols, settings.length, seed, step)
            for _, kind, seed in members
        ]
        tokens = torch.stack([paths for _, paths in drawn]).to(device)
        return token_losses(forward(weights, tokens, shape), tokens).mean((1, 2))

    start = initial_weights(shape, [seed for *_, seed in members])
    job = Job(
        name=f"chains, {n_layers} layers",
        weights={name: value.to(device) for name, value in start.items()},
        loss=loss,
        measure=lambda weights: _measured(weights, judges, shape),
        measure_at=at,
        snapshots_at=[optimisation.steps],
        rates=torch.ones(len(members), device=device),
        tokens_per_step=len(members) * optimisation.batch * settings.length,
    )
    return train(job, optimisation)


class Judge:
    """Held-out chains of one kind and their reference predictions."""

    def __init__(self, kind: Kind, settings: Chains, device: str) -> None:
        n, n_symbols = settings.held_out, settings.n_symbols
        chains, self.tokens = batch_of_chains(kind, n, n_symbols, settings.length, HELD_OUT_SEED, HELD_OUT_STEP)
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


def _table(trained: Trained, members: list[Member], at: list[int], judges: list[Judge]) -> pd.DataFrame:
    rows = [
        {"arm": name, "seed": seed, "step": step}
        | {what: float(values[i, k]) for what, values in trained.measured.items()}
        | {f"best_{what}": judges[k].of_predictor(what) for what in judges[k].predictors}
        for k, (name, _, seed) in enumerate(members)
        for i, step in enumerate(at)
    ]
    return pd.DataFrame(rows)


def summary(curves: pd.DataFrame) -> dict[str, Metric]:
    """Metrics of every arm, one value per seed; two layers against one layer, and the plateau against the end."""
    arms = curves["arm"].unique()
    values = {
        name: pd.DataFrame([_read(one) for _, one in curves[curves["arm"] == name].groupby("seed", sort=False)])
        for name in arms
    }
    found = {}
    for name in arms:
        for what, text in FORMULAS.items():
            controls = {}
            if name == "two_layers" and what.startswith("end_over"):
                controls["one_layer"] = values["one_layer"][what].tolist()
            if what == "plateau_over_unigram":
                controls["end_of_training"] = values[name]["end_over_unigram"].tolist()
            found[f"{what}_{name}"] = over_seeds(
                values[name][what].tolist(), unit=UNITS.get(what, "1"), formula=text, controls=controls
            )
    return found


def _read(curve: pd.DataFrame) -> dict[str, float]:
    """What is read off the curve of one model."""
    steps, truth, to_unigram = (curve[what].to_numpy(np.float64) for what in ("step", "truth", "to_unigram"))
    best = {what: float(curve[f"best_{what}"].iloc[0]) for what in ("uniform", "unigram", "bigram")}
    last, closest = float(truth[-LAST:].mean()), int(to_unigram.argmin())
    level = (min(best["unigram"], best["uniform"]) + best["bigram"]) / 2
    return {
        "end_over_bigram": last / best["bigram"],
        "end_over_unigram": last / best["unigram"],
        "plateau_over_unigram": float(truth[closest] / best["unigram"]),
        "plateau_at": float(steps[closest] / steps[-1]),
        "halfway_at": first_crossing(steps, -truth, -level),
    }


def random_chains(kind: Kind, n: int, n_symbols: int, generator: torch.Generator) -> Float[Tensor, "batch row column"]:
    """Transition matrices; rows sum to one, and columns too if doubly stochastic."""
    if kind == "dirichlet":
        return _dirichlet((n, n_symbols, n_symbols), generator)
    each = torch.eye(n_symbols)[torch.tensor(list(permutations(range(n_symbols))))]
    return torch.einsum("bp,pij->bij", _dirichlet((n, len(each)), generator), each)


def walk(
    chains: Float[Tensor, "batch row column"], length: int, generator: torch.Generator
) -> Int[Tensor, "batch pos"]:
    """One path of each chain, from a uniform first symbol."""
    n, n_symbols, _ = chains.shape
    steps = torch.rand(length, n, generator=generator)
    ends = chains.cumsum(-1)
    states = [(steps[0] * n_symbols).long()]
    for step in steps[1:]:
        row = ends[torch.arange(n), states[-1]]
        states.append((step[:, None] > row[:, :-1]).sum(-1))
    return torch.stack(states, 1)


def batch_of_chains(
    kind: Kind, n: int, n_symbols: int, length: int, seed: int, step: int
) -> tuple[Float[Tensor, "batch row column"], Int[Tensor, "batch pos"]]:
    """Chains and their paths, a pure function of seed and step. Training uses steps from 0 on, held-out sets -1."""
    generator = torch.Generator().manual_seed((seed + 1) * STEP_STRIDE + step)
    chains = random_chains(kind, n, n_symbols, generator)
    return chains, walk(chains, length, generator)


def bigram(tokens: Int[Tensor, "batch pos"], n_symbols: int) -> Float[Tensor, "batch pos symbol"]:
    """Bayes' prediction of the next symbol at every position."""
    here = one_hot(tokens, n_symbols).float()
    pairs = torch.einsum("bti,btj->btij", here[:, :-1], here[:, 1:]).cumsum(1)
    counts = torch.cat([torch.zeros_like(pairs[:, :1]), pairs], 1)
    mine = torch.einsum("bti,btij->btj", here, counts)
    return (mine + 1) / (mine.sum(-1, keepdim=True) + n_symbols)


def unigram(tokens: Int[Tensor, "batch pos"], n_symbols: int) -> Float[Tensor, "batch pos symbol"]:
    """The best prediction from symbol counts alone, for independent draws from one Dirichlet(1) distribution."""
    counts = one_hot(tokens, n_symbols).float().cumsum(1)
    return (counts + 1) / (counts.sum(-1, keepdim=True) + n_symbols)


def divergence(
    truth: Float[Tensor, "*lead symbol"], predicted: Float[Tensor, "*lead symbol"]
) -> Float[Tensor, "*lead"]:
    """Kullback-Leibler divergence of a prediction from the truth, in nats."""
    found: Tensor = torch.special.xlogy(truth, truth).sum(-1) - torch.special.xlogy(truth, predicted).sum(-1)
    return found


def _dirichlet(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    drawn = -torch.log1p(-torch.rand(size, generator=generator))
    return drawn / drawn.sum(-1, keepdim=True)


if __name__ == "__main__":
    run_step(train_chains)
