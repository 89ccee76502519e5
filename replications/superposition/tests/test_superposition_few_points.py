"""Few-point models: chunks of points against the single pass, many widths in one batch against each alone."""

import pytest
import torch

from common.core.step import RunInfo
from common.toys.settings import Optimisation
from replications.superposition.few_points import Points, draw_points, evaluate_points, hidden_vectors
from replications.superposition.model import Data, evaluate
from replications.superposition.settings import FewPoints
from replications.superposition.train_double_descent import descend

LAW = {"n_features": 20, "density": 0.1, "seeds": [3, 4], "device": "cpu"}
GENERATOR = torch.Generator().manual_seed(0)
W, B = torch.randn(6, 2, 20, generator=GENERATOR), 0.1 * torch.randn(6, 20, generator=GENERATOR)
ONES = torch.ones(6, 20)  # two data sets, three copies


def whole(points):
    """The full batch, dense."""
    x = torch.cat([data.x for data in points.dense()], dim=-1)
    return Data(x, torch.full((len(x), points.size), 1 / points.size))


@pytest.mark.parametrize("chunk", [1, 7, 29])
def test_chunks_add_up_to_the_single_pass(chunk):
    points = draw_points(size=30, chunk=chunk, **LAW)
    assert [one.shape[2] for one in points.chunks] == [chunk] * (30 // chunk) + [30 % chunk] * (30 % chunk > 0)
    double = Points([one.double() for one in points.chunks], 30)
    batch = Data(whole(points).x.double(), torch.full((2, 30), 1 / 30, dtype=torch.float64))
    found = evaluate_points(W.double(), B.double(), double, ONES.double())
    for ours, theirs in zip(found, evaluate(W.double(), B.double(), batch, ONES.double(), "relu"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)  # the weights 1 / T of chunks are float32
    literal = torch.einsum("smf,sft->smt", W[::3], batch.x.float())
    torch.testing.assert_close(hidden_vectors(W, points)[::3], literal)


def test_one_chunk_has_the_bytes_of_the_single_pass():
    points = draw_points(size=30, chunk=30, **LAW)
    for ours, theirs in zip(
        evaluate_points(W, B, points, ONES), evaluate(W, B, whole(points), ONES, "relu"), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert torch.equal(whole(points).x, whole(draw_points(size=30, chunk=4096, **LAW)).x)


def test_many_points_are_kept_as_their_active_entries():
    points = draw_points(400, 0.02, 3000, [1], chunk=250, device="cpu")
    assert all(one.is_sparse and one.shape[2] == 250 for one in points.chunks)
    stored = sum(one.values().numel() for one in points.chunks)
    assert stored == pytest.approx(0.02 * 400 * 3000, rel=0.05)
    x = whole(points).x
    torch.testing.assert_close(x.norm(dim=1), torch.ones(1, 3000))
    assert float((x > 0).float().mean()) == pytest.approx(0.02, rel=0.05)
    assert len(torch.unique(x[0], dim=1).T) == 3000  # every chunk draws its own


def test_chunks_are_taken_in_turn():
    """A step's points weigh 1, and each chunk is taken equally often: a round's mean gradient is that of all points."""
    points = draw_points(size=24, chunk=4, **LAW)
    taken = [points.turn(step, 2) for step in range(3)]
    assert [id(chunk) for one in taken for chunk in one.chunks] == [id(chunk) for chunk in points.chunks]
    assert [one.size for one in taken] == [8, 8, 8]
    assert points.turn(7, 6) is points
    found = [evaluate_points(W, B, one, ONES) for one in taken]
    for place, theirs in enumerate(evaluate_points(W, B, points, ONES)):
        torch.testing.assert_close(torch.stack([one[place] for one in found]).mean(0), theirs)


OPTIMISATION = Optimisation(
    steps=40,
    batch=1,
    learning_rate=0.02,
    decay="cosine",
    warmup=5,
    beta1=0.9,
    beta2=0.999,
    weight_decay=0.1,
    clip=100.0,
)
TRAINING = FewPoints(
    n_features=20, widths=[2, 4], density=0.1, points=[3, 8, 12, 20], chunk=100, chunks=4, test_points=30,
    control_decay=1.0, n_seeds=2, optimisation=OPTIMISATION,
)  # fmt: skip


RUN = RunInfo(scale="smoke", seeds=[0, 1], device="cpu")


@pytest.fixture(scope="module")
def both():
    return descend(TRAINING, RUN)


def test_a_width_does_not_see_the_others(both):
    alone = descend(TRAINING.model_copy(update={"widths": [2]}), RUN)
    narrow = both["W"][:, :, :, :1]
    assert not bool(narrow[..., 2:, :].any())
    assert bool(both["W"][:, :, :, 1:, 2:].any())
    torch.testing.assert_close(narrow[..., :2, :], alone["W"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(both["test_loss"][..., :1], alone["test_loss"], rtol=1e-3, atol=1e-4)


def test_training_in_chunks_ends_at_a_like_loss(both):
    """Not at the same: a chunk draws its own points. Losses of the training set agree with the points kept."""
    chunked = descend(TRAINING.model_copy(update={"chunk": 5}), RUN)
    assert torch.equal(chunked["W"][:, 0], both["W"][:, 0])  # three points are one chunk
    torch.testing.assert_close(chunked["train_loss"], both["train_loss"], rtol=0.3, atol=0.1)
    assert chunked["hidden.20"].shape == both["hidden.20"].shape == (2, 2, 2, 4, 20)
    some = descend(TRAINING.model_copy(update={"chunk": 5, "chunks": 2}), RUN)
    assert torch.equal(some["W"][:, 1], chunked["W"][:, 1])  # eight points are two chunks
    assert not torch.equal(some["W"][:, 2], chunked["W"][:, 2])
    torch.testing.assert_close(some["train_loss"], chunked["train_loss"], rtol=0.3, atol=0.1)
