"""The refusal direction: interventions, search, weights, on a tiny random model; no completion is ever kept."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from common.core.errors import UserError
from replications.refusal_direction.chat import (
    Batch,
    ablating,
    adding,
    before_block,
    final_states,
    first_token_kl,
    greedy,
    last_logits,
    padded,
    refusal_metric,
    residuals,
    setting,
    spread,
    unit,
)
from replications.refusal_direction.directions import half_cosine, matched, refusal_tokens, treated
from replications.refusal_direction.orthogonalise import orthogonalise, untie
from replications.refusal_direction.prefixes import trees
from replications.refusal_direction.search import balanced, difference, end_logits, grid, scores, search
from replications.refusal_direction.settings import SearchSettings
from replications.refusal_direction.tests.tiny import FAMILIES, LAYERS, WIDTH, tiny_batch, tiny_model

SEARCH = SearchSettings(
    grid_prompts=2, finalists=2, permutations=3, permuted_step=2, null_finalists=1, rows=5, minimum_left=0
)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def batch():
    return tiny_batch()


@pytest.fixture(scope="module")
def direction():
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))


def test_padding_changes_nothing(model, batch):
    together = last_logits(model, batch)
    for row, ids in enumerate(([1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12])):
        torch.testing.assert_close(together[row], last_logits(model, padded([ids]))[0], atol=1e-4, rtol=1e-4)


def test_nothing_reads_or_writes_an_ablated_direction(model, batch, direction):
    r, parts = unit(direction), [part for block in model.model.layers for part in (block.self_attn, block.mlp)]
    seen = []

    def read_and_written():
        """All that blocks read, then what attention and MLPs write; hooks set now run behind those of an ablation."""
        seen.clear()
        keep = [part.register_forward_hook(lambda *call: seen.append(call[2])) for part in parts]
        read = residuals(model, batch)
        for handle in keep:
            handle.remove()
        written = [one[0] if isinstance(one, tuple) else one for one in seen]
        return [*read.unbind(2), *written]

    assert all(float((one @ r).abs().max()) > 0.01 for one in read_and_written())
    real, behind_first = batch.mask.bool(), batch.places > 0
    for everywhere, edited in ((True, real), (False, real & behind_first)):
        with ablating(model, direction, everywhere=everywhere):
            found = read_and_written()
        assert len(found) == 3 * LAYERS
        for one in found:
            assert float((one[edited] @ r).abs().max()) < 1e-5
            assert float(one[edited].norm()) > 0.1
            assert everywhere or float((one[real & ~behind_first] @ r).abs().max()) > 0.01


def test_ablating_twice_and_the_zero_vector(model, batch, direction):
    clean = last_logits(model, batch)
    with ablating(model, direction):
        once = last_logits(model, batch)
        with ablating(model, 3 * direction):
            twice = last_logits(model, batch)
    torch.testing.assert_close(once, twice, atol=1e-4, rtol=1e-4)
    with ablating(model, torch.zeros(WIDTH)):
        torch.testing.assert_close(last_logits(model, batch), clean)
    assert float((once - clean).abs().max()) > 0.1


def test_rows_may_have_directions_of_their_own(model, batch):
    own = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(2))
    with ablating(model, own):
        together = last_logits(model, batch)
    with adding(model, 2, own):
        added = last_logits(model, batch)
    for row in range(3):
        with ablating(model, own[row]):
            torch.testing.assert_close(together[row], last_logits(model, batch)[row], atol=1e-4, rtol=1e-4)
        with adding(model, 2, own[row]):
            torch.testing.assert_close(added[row], last_logits(model, batch)[row], atol=1e-4, rtol=1e-4)


def test_the_first_position_is_left_out(model, batch, direction):
    """Left padding: the first real token of each row. Without position ids, as on texts: column 0."""
    clean, first = residuals(model, batch), batch.mask.bool() & (batch.places == 0)
    for intervention in (ablating(model, direction), adding(model, 0, direction)):
        with intervention:
            edited = residuals(model, batch)
        torch.testing.assert_close(edited[first], clean[first])
        assert float((edited - clean)[batch.places > 0].abs().max()) > 0.1
    ids = torch.tensor([[3, 4, 5]])
    before = model.model(input_ids=ids).last_hidden_state
    with adding(model, 1, direction):
        after = model.model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(after[:, 0], before[:, 0])
    assert float((after - before)[:, 1:].abs().min(-1).values.max()) > 0


def test_the_projection_is_set_at_every_block_and_at_the_last_norm(model, batch, direction):
    r, levels, behind_first = unit(direction), torch.linspace(-2, 3, LAYERS), batch.places > 0
    clean, read = residuals(model, batch), []
    with setting(model, direction, levels):
        look = model.model.norm.register_forward_pre_hook(lambda _, given: read.append(given[0]))
        edited = residuals(model, batch)
        look.remove()
    assert torch.allclose((edited[behind_first] @ r), levels.expand(int(behind_first.sum()), -1), atol=1e-4)
    assert torch.allclose(read[0][behind_first] @ r, levels[-1], atol=1e-4)
    torch.testing.assert_close(edited[~behind_first], clean[~behind_first])
    moved = (edited - clean)[behind_first][:, 0]
    torch.testing.assert_close(moved, (moved @ r)[:, None] * r, atol=1e-5, rtol=1e-5)
    assert float((clean[behind_first] @ r).std()) > 0.1


def test_a_subspace_is_taken_out_whole(model, batch):
    basis = torch.linalg.qr(torch.randn(WIDTH, 3, generator=torch.Generator().manual_seed(4))).Q.mT
    with ablating(model, basis[None]):
        found = residuals(model, batch)[batch.places > 0]
        together = last_logits(model, batch)
    assert float((found @ basis.mT).abs().max()) < 1e-5
    with ablating(model, basis[0]), ablating(model, basis[None, 1:]):
        torch.testing.assert_close(last_logits(model, batch), together, atol=1e-3, rtol=1e-3)


def test_hooks_are_gone_afterwards(model, batch, direction):
    clean = last_logits(model, batch)
    with pytest.raises(ZeroDivisionError), ablating(model, direction):
        raise ZeroDivisionError
    torch.testing.assert_close(last_logits(model, batch), clean)


def test_addition_then_ablation_removes_what_was_added(model, batch, direction):
    with ablating(model, direction):
        alone = last_logits(model, batch)
        with adding(model, 0, 5 * direction):  # its hook runs after the ablation of this block's input
            along = residuals(model, batch) @ unit(direction)
            assert float((last_logits(model, batch) - alone).abs().max()) > 0.1
    along = along[batch.places > 0]
    torch.testing.assert_close(along[:, 0], (5 * direction.norm()).expand(len(along)), atol=1e-4, rtol=1e-4)
    assert float(along[:, 1:].abs().max()) < 1e-4  # the next block's input is ablated again
    with adding(model, 0, 5 * direction), ablating(model, direction):
        torch.testing.assert_close(last_logits(model, batch), alone, atol=1e-4, rtol=1e-4)


def test_resuming_equals_the_whole_pass(model, batch, direction):
    streams = residuals(model, batch)
    for layer in range(LAYERS):
        with adding(model, layer, direction):
            whole = last_logits(model, batch)
        shifted = streams[:, :, layer] + (batch.places > 0)[..., None] * direction
        resumed = model.lm_head(final_states(model, batch, (layer, shifted))[:, -1])
        torch.testing.assert_close(resumed, whole, atol=1e-4, rtol=1e-4)
        assert torch.equal(before_block(model, batch, layer), streams[:, :, layer])
        assert torch.equal(before_block(model, batch, layer, 2), streams[:, -2:, layer])
    assert len(model.model.layers) == LAYERS


def test_padding_does_not_matter(model):
    rows = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
    found = final_states(model, padded(rows))
    for row, states in zip(rows, found, strict=True):
        alone = final_states(model, padded([row]))[0]
        torch.testing.assert_close(states[-len(row) :], alone, atol=1e-5, rtol=1e-5)


def test_greedy_equals_the_loop_without_cache(model, batch, direction):
    with ablating(model, direction):
        found, first = greedy(model, batch, 4)
        torch.testing.assert_close(first, last_logits(model, batch), atol=1e-4, rtol=1e-4)
        grown = batch
        for step in range(4):
            following = last_logits(model, grown).argmax(-1, keepdim=True)
            assert torch.equal(found[:, step : step + 1], following)
            grown = Batch(torch.cat([grown.ids, following], 1), torch.nn.functional.pad(grown.mask, (0, 1), value=1))


def test_batched_scores_equal_one_candidate_at_a_time(model, monkeypatch):
    monkeypatch.setattr("replications.refusal_direction.search.TREE", 3)
    batch = padded([[1, 2, 3, 4, 5], [1, 2, 8], [1, 2, 3, 12], [6, 7, 8], [1, 2, 3, 4]])
    vectors = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(3))
    tokens, at = torch.tensor([4, 9]), torch.tensor([0, 3, 1, 3, 2])
    other = padded([[6, 7, 8], [1, 2, 3, 4, 5], [9, 10, 11, 12], [1, 2, 3, 6]])
    metric, kl, added = scores(model, batch, other, vectors, at, tokens, rows=7)
    base = last_logits(model, other)
    for number, vector in enumerate(vectors):
        with ablating(model, vector):
            torch.testing.assert_close(
                metric[number], refusal_metric(last_logits(model, batch), tokens), atol=1e-3, rtol=1e-3
            )
            torch.testing.assert_close(
                kl[number].float(), first_token_kl(base, last_logits(model, other)), atol=1e-4, rtol=1e-3
            )
        with adding(model, int(at[number]), vector):
            torch.testing.assert_close(
                added[number], refusal_metric(last_logits(model, other), tokens), atol=1e-3, rtol=1e-3
            )


def test_a_tree_runs_what_prompts_begin_with_once(model):
    prompts = [[1, 2, 3, 4], [9, 8], [1, 2, 5], [1, 2, 3], [9, 8]]
    found = trees(model, prompts, 4)
    assert [tree.ids.shape[1] for tree in found] == [7, 2]  # 1 2 3 4 5 and 9 8, then 9 8 in a tree of its own
    assert sorted(torch.cat([tree.prompts for tree in found]).tolist()) == list(range(5))
    for tree in found:
        streams, twice = residuals(model, tree), end_logits(model, tree.repeat(2))
        for column, prompt in enumerate(tree.prompts.tolist()):
            alone = padded([prompts[prompt]])
            own = residuals(model, alone)[0, -1]
            torch.testing.assert_close(streams[0, tree.ends[column]], own, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(twice[:, column], last_logits(model, alone).expand(2, -1), atol=1e-4, rtol=1e-4)


def test_subspaces_are_scored_as_vectors_are(model):
    batch, tokens = padded([[1, 2, 3, 4, 5], [1, 2, 8]]), torch.tensor([4, 9])
    vectors = unit(torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(3)))
    alone = scores(model, batch, batch, vectors, torch.tensor([0, 1]), tokens, rows=7)
    stacked = scores(model, batch, batch, vectors[:, None], torch.tensor([0, 1]), tokens, rows=7)
    torch.testing.assert_close(stacked.bypass, alone.bypass, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(stacked.kl, alone.kl, atol=1e-4, rtol=1e-3)


def test_refusal_metric_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.05, 0.05, 0.9]]))
    found = refusal_metric(logits, torch.tensor([0, 2]))
    assert found.tolist() == pytest.approx([np.log(0.7 / 0.3), np.log(0.95 / 0.05)], abs=1e-5)
    sure = refusal_metric(torch.tensor([[100.0, 0.0]]), torch.tensor([0]))
    assert float(sure) == pytest.approx(18.42, abs=0.01)
    assert float(first_token_kl(logits[:1], logits[:1])) == pytest.approx(0, abs=1e-6)


def test_orthogonalised_weights_equal_ablation(model, batch, direction, tmp_path):
    edited = type(model)(model.config).eval().requires_grad_(False)
    edited.load_state_dict(model.state_dict())
    orthogonalise(edited, direction)
    with ablating(model, direction, everywhere=True):
        expected = last_logits(model, batch)
    assert float((last_logits(edited, batch) - expected).abs().max()) < 1e-3
    edited.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert float((last_logits(again, batch) - expected).abs().max()) < 1e-3
    model.config.tie_word_embeddings = True


@pytest.mark.parametrize("broken", ["tied", "embedding", "o_proj"])
def test_any_part_left_out_breaks_the_equality(model, batch, direction, broken):
    edited = type(model)(model.config).eval().requires_grad_(False)
    edited.load_state_dict(model.state_dict())
    original = {name: weight.clone() for name, weight in edited.state_dict().items()}
    orthogonalise(edited, direction)
    if broken == "tied":
        edited.lm_head.weight.copy_(edited.model.embed_tokens.weight)
    if broken == "embedding":
        edited.model.embed_tokens.weight.copy_(original["model.embed_tokens.weight"])
    if broken == "o_proj":
        edited.model.layers[1].self_attn.o_proj.weight.copy_(original["model.layers.1.self_attn.o_proj.weight"])
    with ablating(model, direction, everywhere=True):
        assert float((last_logits(edited, batch) - last_logits(model, batch)).abs().max()) > 1e-2
    model.config.tie_word_embeddings = True


def test_untying_keeps_the_logits(model, batch):
    copy = type(model)(model.config).eval().requires_grad_(False)
    copy.load_state_dict(model.state_dict())
    untie(copy)
    assert copy.lm_head.weight is not copy.model.embed_tokens.weight
    torch.testing.assert_close(last_logits(copy, batch), last_logits(model, batch))
    model.config.tie_word_embeddings = True


def test_search_finds_a_planted_switch(model):
    """The unembedding of token 7 reads one direction that only refused prompts carry."""
    planted = type(model)(model.config).eval().requires_grad_(False)
    planted.load_state_dict(
        {name: weight / 8 if weight.ndim > 1 else weight for name, weight in model.state_dict().items()}
    )
    untie(planted)
    d = torch.nn.functional.one_hot(torch.tensor(3), WIDTH).float()
    planted.model.embed_tokens.weight[:, 3] = 0.0
    planted.model.embed_tokens.weight[20] = planted.model.embed_tokens.weight[21] + 2 * d  # ends harmful prompts
    planted.lm_head.weight[7] = 40 * d
    planted.lm_head.weight[8] = 20 * torch.ones(WIDTH) / WIDTH
    on, off = padded([[1, 2, 20], [3, 4, 20], [5, 20]]), padded([[1, 2, 21], [3, 4, 21], [5, 21]])
    tokens = refusal_tokens(last_logits(planted, on), last_logits(planted, off))
    assert tokens.tolist() == [7]
    differences = difference(residuals(planted, on, 1), residuals(planted, off, 1))
    found = search(planted, grid(differences, 1), on, off, tokens, SEARCH)
    assert found["stage"].tolist() == ["final"] * 2 + ["grid"] * 3
    r = differences[tuple(found.iloc[0][["position", "layer"]].astype(int))].float()
    assert float(unit(r) @ d) > 0.8
    with ablating(planted, r):
        assert float(refusal_metric(last_logits(planted, on), tokens).max()) < 0
    model.config.tie_word_embeddings = True


def test_a_model_that_never_refuses_is_told_so():
    same = torch.zeros(4, 10)
    with pytest.raises(UserError, match="never refuses"):
        refusal_tokens(same, same)


def test_requests_that_are_not_treated_as_taught_are_left_out():
    metric = torch.tensor([2.0, -1.0, 3.0, -4.0])
    assert treated(metric, True, 2).tolist() == [True, False, True, False]
    assert treated(metric, False, 1).tolist() == [False, True, False, True]
    assert treated(metric, True, 0).tolist() == [True] * 4
    with pytest.raises(UserError, match="refuses 2 of 4 requests that it should refuse, and 3 are needed"):
        treated(metric, True, 3)
    with pytest.raises(UserError, match="answers 2 of 4 requests that it should answer, and 3 are needed"):
        treated(metric, False, 3)


def test_controls():
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=draws, dtype=torch.float64) * torch.tensor([9.0, 1.0, 0.1])
    found = matched(x, 500, 0)
    ratio = found.std(0) / found.std(0)[1]
    assert ratio.tolist() == pytest.approx((x.std(0) / x.std(0)[1]).tolist(), rel=0.25)
    shift = torch.tensor([0.0, 5.0, 0.0])
    assert half_cosine(x[:200] / 9 + shift, x[200:] / 9, 0) > 0.95
    assert abs(half_cosine(torch.randn(400, 50), torch.randn(400, 50), 0)) < 0.3
    halves = [torch.full((4, 3), 1.0) + x[:4] / 1000, torch.full((6, 3), 9.0) + x[4:10] / 1000]
    assert float(balanced(*halves, draws).abs().max()) < 0.1, "as many of either class in both halves"
    assert spread(torch.arange(2.0)[:, None], 4)[:, 0].tolist() == [0, 0, 1, 1]
