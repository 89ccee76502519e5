"""Ways to end refusal that are no ablation of r: bans, pushes, and permuted candidates chosen for each use."""

import pandas as pd
import pytest
import torch

from common.data.models import load_tokenizer
from replications.refusal_direction.answers import Questioner, banning
from replications.refusal_direction.chat import (
    Batch,
    ablating,
    adding,
    first_token_kl,
    greedy,
    last_logits,
    padded,
    refusal_metric,
    residuals,
    unit,
)
from replications.refusal_direction.lists import Line
from replications.refusal_direction.nulls import (
    SHORTER,
    Choosing,
    affordable,
    best_push,
    least_subtraction,
    permuted,
)
from replications.refusal_direction.search import Candidates, balanced, pushes
from replications.refusal_direction.settings import SearchSettings
from replications.refusal_direction.tests.tiny import LAYERS, WIDTH, tiny_batch, tiny_model

ON = padded([[1, 2, 3, 4, 5], [1, 2, 8], [1, 2, 3, 12], [6, 7, 8]])
OFF = padded([[6, 7, 8], [1, 2, 3, 4, 5], [9, 10, 11, 12], [1, 2, 3, 6]])
TOKENS = torch.tensor([4, 9])
EVERY = SearchSettings(  # all candidates are scored on all requests
    grid_prompts=4, finalists=2, permutations=4, permuted_step=1, null_finalists=100, rows=5, minimum_left=0
)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def choosing(model):
    return Choosing(model, ON, OFF, TOKENS, EVERY)


def literal(model, intervention):
    """Mean refusal metric on ON and mean KL on OFF, one pass each."""
    base = last_logits(model, OFF)
    with intervention():
        bypass = float(refusal_metric(last_logits(model, ON), TOKENS).mean())
        return bypass, float(first_token_kl(base, last_logits(model, OFF)).mean())


def test_a_ban_holds_for_the_first_token_alone(model):
    batch = tiny_batch()
    free, clean = greedy(model, batch, 1)
    banned = free[:, 0].unique()
    with banning(model, banned):
        written, first = greedy(model, batch, 4)
    assert not torch.isin(written[:, 0], banned).any()
    assert float(first.softmax(-1)[:, banned].max()) == 0
    others = torch.ones(clean.shape[1], dtype=torch.bool).index_fill(0, banned, False)
    torch.testing.assert_close(first[:, others], clean[:, others])
    grown = Batch(torch.cat([batch.ids, written[:, :1]], 1), torch.nn.functional.pad(batch.mask, (0, 1), value=1))
    assert torch.equal(written[:, 1:], greedy(model, grown, 3)[0]), "later tokens are free"
    assert torch.isfinite(first_token_kl(clean, first)).all()
    assert torch.isfinite(first_token_kl(first, clean)).all()
    torch.testing.assert_close(last_logits(model, batch), clean)


def test_pushes_equal_one_vector_at_a_time(model):
    vectors = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(3))
    at = torch.tensor([0, 3, 1, 3, 2])
    measured = pushes(model, ON, OFF, vectors, at, TOKENS, rows=7)
    for number, vector in enumerate(vectors):
        bypass, kl = literal(model, lambda v=vector, layer=int(at[number]): adding(model, layer, v))
        assert float(measured.bypass[number].mean()) == pytest.approx(bypass, abs=1e-3)
        assert float(measured.kl[number].mean()) == pytest.approx(kl, abs=1e-4, rel=1e-3)


def test_permuted_candidates_are_the_best_of_each_use(model, choosing):
    """Against one candidate at a time, the layer of r (here 0, off the grid) included. What is edited is ablated at
    position 0 too, at a KL limit of its own."""
    streams = tuple(residuals(model, batch, 1)[:, 0] for batch in (ON, OFF))
    draws, norm = torch.Generator().manual_seed(7), 3.0
    layers = list(range(int(0.8 * LAYERS)))
    drawn = torch.cat([balanced(*streams, draws)[layers] for _ in range(EVERY.permutations)])
    vectors = (unit(drawn) * norm).float()
    free, full = (
        [literal(model, lambda v=v, all_=all_: ablating(model, v, everywhere=all_)) for v in vectors]
        for all_ in (False, True)
    )
    budgets = tuple(float(torch.tensor([kl for _, kl in measured]).median()) for measured in (free, full))
    chosen = permuted(choosing, streams, {"position": 0}, norm, budgets, 0, 7)

    def best(measured, budget):
        return min((bypass, row) for row, (bypass, kl) in enumerate(measured) if kl <= budget)[1]

    torch.testing.assert_close(chosen.ablated, vectors[best(free, budgets[0])])
    torch.testing.assert_close(chosen.edited, vectors[best(full, budgets[1])])
    torch.testing.assert_close(chosen.damage, vectors[best(free, float("inf"))])
    ending = [(kl, row) for row, (bypass, kl) in enumerate(free) if bypass < 0]
    assert ending
    torch.testing.assert_close(chosen.cheapest, vectors[min(ending)[1]])
    without = permuted(choosing, streams, {"position": 0}, norm, (budgets[0], None), 0, 7)
    torch.testing.assert_close(without.edited, without.ablated)
    assert set(chosen.scores["layer"]) == {0, *range(1, int(0.8 * LAYERS))}


def test_the_best_push_keeps_the_limit_and_finds_the_sign(model, choosing):
    """The push costs no more than the limit, a looser one leaves less refusal, and a flipped candidate is the same."""
    vector = 3 * unit(torch.randn(WIDTH, generator=torch.Generator().manual_seed(1)))
    table = pd.DataFrame({"layer": [1]})
    start = literal(model, lambda: adding(model, 1, 0 * vector))[0]
    left = []
    for budget in (0.05, 0.2, 0.8):
        push, flipped = (best_push(choosing, Candidates(table, sign * vector[None]), budget) for sign in (1, -1))
        torch.testing.assert_close(push.vector, flipped.vector)
        bypass, kl = literal(model, lambda push=push: adding(model, push.layer, push.vector))
        assert push.layer == 1
        assert kl <= budget * 1.001
        left.append(bypass)
    assert start > left[0] > left[1] > left[2]


def test_the_least_subtraction_is_the_first_length_that_ends_refusal(model, choosing):
    """A direction that raises the refusal metric, at a layer where the metric starts above 0."""
    unit_vectors = unit(torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(2)))
    likeliest = last_logits(model, ON).softmax(-1).mean(0).argsort(descending=True)

    def metric(vector, tokens):
        with adding(model, 1, vector):
            return float(refusal_metric(last_logits(model, ON), tokens).mean())

    count = next(n for n in range(1, len(likeliest)) if metric(torch.zeros(WIDTH), likeliest[:n]) > 0)
    tokens = likeliest[:count]  # refused as it is
    asked = choosing._replace(tokens=tokens)
    r = next(8 * v for v in unit_vectors if metric(-8 * v, tokens) < 0 < metric(-1 * v, tokens))
    length = least_subtraction(asked, r, 1)
    assert length == next(share for share in SHORTER if metric(-share * r, tokens) < 0)
    assert least_subtraction(asked, 1e-3 * r, 1) == 1, "where no length ends it, r as it is"


def test_the_least_bypass_at_a_limit_or_the_least_kl():
    scored = pd.DataFrame({"bypass": [-5.0, -1.0, 2.0], "kl": [0.9, 0.2, 0.15]}, index=[3, 7, 8])
    assert [affordable(scored, budget) for budget in (1.0, 0.5, 0.1)] == [3, 7, 8]


def test_ablations_in_one_batch_equal_one_at_a_time(model_folder):
    tokenizer = load_tokenizer(model_folder)
    model = tiny_model(vocabulary=len(tokenizer))
    asks = Questioner(model, model, tokenizer, TOKENS, ["No."], 3)
    asked = asks.about([Line("a", "Tell me a story."), Line("b", "Why is it so?"), Line("b", "How do I draw a horse?")])
    draws = torch.Generator().manual_seed(5)
    wide = torch.linalg.qr(torch.randn(WIDTH, 3, generator=draws)).Q.mT
    own = unit(torch.randn(3, 1, WIDTH, generator=draws))
    for everywhere in (False, True):
        together = asks.ask_ablated(asked, {"wide": wide, "own": own}, ["own"], everywhere=everywhere)
        for name, basis in (("wide", wide[None]), ("own", own)):
            one, _ = asks.ask(asked, ablating(model, basis, everywhere=everywhere), surprised=name == "own")
            pd.testing.assert_frame_equal(together[name], one, atol=1e-3, rtol=1e-3)
