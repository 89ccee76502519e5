"""Sparse probing (Gao et al. 2024; Karvonen et al. 2025): can one, two or five features answer a question?

A probe is a logistic regression, classes weighted equally, scored by balanced accuracy on groups (packages, topics,
documents) that it was not trained on. The k features are those of largest difference of class means on the training
windows, in standard deviations, for every kind of feature alike (SAEBench takes raw differences, with which a few huge
coordinates of the residual stream would always be chosen). The plain probe reads the whole residual stream; its penalty
is chosen on a split of the training groups.
"""

import random
import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression

FLAGGED = "flagged call"  # the task about calls
VIEWS = ("whole window", "without its name", "before it")  # of the call
TEST = 0.4  # share of the examples
PENALTIES = (0.001, 0.01, 0.1)  # C of the dense probes
ATTEMPTS = 200
Features = Float[np.ndarray, "window feature"]
Scale = Float[np.ndarray, " feature"]
Labels = Bool[np.ndarray, " window"]


class Halves(NamedTuple):
    """Rows to train on and rows to score."""

    train: Int[np.ndarray, " train"]
    test: Int[np.ndarray, " test"]


def halves(group: list[str], label: Labels, seed: int) -> Halves:
    """Whole groups in one half, both classes in both; ValueError if the groups do not allow it."""
    dice = random.Random(seed)
    names = sorted(set(group))
    for _ in range(ATTEMPTS):
        test: set[str] = set()
        for name in dice.sample(names, len(names)):
            if sum(one in test for one in group) >= TEST * len(group):
                break
            test.add(name)
        inside = np.array([one in test for one in group])
        if min(label[inside].sum(), (~label[inside]).sum(), label[~inside].sum(), (~label[~inside]).sum()) >= 1:
            return Halves(np.flatnonzero(~inside), np.flatnonzero(inside))
    raise ValueError("no split of these groups has both classes on both sides")


def splittable(group: list[str], label: Labels) -> bool:
    """Whether each class occurs in at least three groups, so that whole groups can be held out."""
    return min(len({one for one, own in zip(group, label, strict=True) if own == kind}) for kind in (True, False)) > 2


def best_features(x: Features, label: Labels, k: int) -> Int[np.ndarray, " k"]:
    """The features whose class means differ most, in standard deviations."""
    spread = x.std(0)
    difference = np.abs(x[label].mean(0) - x[~label].mean(0)) / np.where(spread > 0, spread, np.inf)
    return np.argsort(-difference, kind="stable")[:k]


def fitted(x: Features, label: Labels, penalty: float) -> tuple[LogisticRegression, Scale, Scale]:
    """A logistic regression on standardised features, their mean and their scale."""
    mean, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 1e-8, scale, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unfinished fit is scored like any other
        probe = LogisticRegression(C=penalty, class_weight="balanced", max_iter=200)
        probe.fit((x - mean) / scale, label)
    return probe, mean, scale


def balanced(said: Labels, label: Labels) -> float:
    """Mean of the two recalls."""
    return float((said[label].mean() + (~said[~label]).mean()) / 2)


def score(x: Features, label: Labels, split: Halves, penalty: float = 1.0) -> float:
    """Balanced accuracy on the test half."""
    probe, mean, scale = fitted(x[split.train], label[split.train], penalty)
    return balanced(probe.predict((x[split.test] - mean) / scale).astype(bool), label[split.test])


def sparse_score(x: Features, label: Labels, split: Halves, k: int) -> float:
    """The same with the k best features of the training half."""
    chosen = best_features(x[split.train], label[split.train], k)
    return score(x[:, chosen], label, split)


def dense_score(x: Features, label: Labels, group: list[str], split: Halves, seed: int) -> float:
    """The same with all features; the penalty is the best one on a split of the training groups."""
    own = x[split.train], label[split.train]
    try:
        inner = halves([group[row] for row in split.train], own[1], seed)
        scores = [score(*own, inner, penalty) for penalty in PENALTIES]
    except ValueError:  # too few groups for a second split
        scores = [0.0, 1.0, 0.0]
    return score(x, label, split, PENALTIES[int(np.argmax(scores))])
