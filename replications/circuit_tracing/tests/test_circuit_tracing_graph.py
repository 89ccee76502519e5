"""Attribution graphs: the defining identity, the slow literal version, circuit-tracer's influence, and bad input."""

import dataclasses

import pytest
import torch

from common.core.errors import UserError
from common.saes.cross_layer import CrossLayerTranscoder
from replications.circuit_tracing import graph as graph_module
from replications.circuit_tracing.graph import Graph, attribute, logit_targets
from replications.circuit_tracing.heads import carried, strongest_heads
from replications.circuit_tracing.influence import (
    Layout,
    all_influences,
    completeness_of,
    edge_scores,
    node_influence,
    nodes_needed,
    normalised,
    prune,
    scores,
)
from replications.circuit_tracing.tests.circuit_tracing_tiny import SHAPE
from replications.circuit_tracing.toy import neurons


@pytest.fixture(scope="module")
def cross_layer(frozen) -> CrossLayerTranscoder:
    draw = torch.Generator().manual_seed(9)
    W_enc, b_enc = torch.randn(3, 10, 16, generator=draw), torch.randn(3, 10, generator=draw)
    W_dec = torch.randn(3, 10, 3, 16, generator=draw)
    for layer in range(3):
        W_dec[layer, :, :layer] = 0
    return CrossLayerTranscoder(W_enc, b_enc, W_dec.reshape(30, 48), torch.randn(48, generator=draw), k=4)


def check_identity(found: Graph) -> None:
    total, count = found.adjacency.sum(1) + found.bias, found.n_features
    read = found.frozen.mlp_in[found.features.layer, found.features.pos]
    pre = (read * found.features.readers).sum(-1) + found.features.bias
    assert torch.allclose(total[:count], pre, atol=1e-4)
    logits = found.frozen.logits[found.logit_tokens] - found.frozen.logits.mean()
    assert torch.allclose(total[found.first_logit :], logits, atol=1e-4)


@pytest.mark.parametrize("kind", ["per_layer", "cross_layer", "neurons"])
def test_edges_errors_and_bias_sum_to_every_pre_activation_and_logit(kind, frozen, weights, request):
    dictionary = neurons(weights, SHAPE) if kind == "neurons" else request.getfixturevalue(kind)
    found = attribute(frozen, dictionary)
    assert found.n_features > 20
    check_identity(found)


def test_the_linear_pass_repeats_the_model(frozen):
    read_again, final = frozen.forward(frozen.embeddings, frozen.mlp_out)
    assert torch.allclose(read_again, frozen.mlp_in, atol=1e-5)
    assert torch.allclose(final[-1] @ frozen.W_U, frozen.logits, atol=1e-5)


def test_heads_mlps_embedding_and_biases_sum_to_a_logit(frozen):
    vector = frozen.W_U[:, 2] - frozen.W_U.mean(1)
    reader = frozen.back_norm(vector, frozen.gain_final, frozen.scale_final[-1])
    alone = frozen.embeddings[-1] + frozen.mlp_out[:, -1].sum(0) + frozen.bias_attn.sum(0)
    parts = carried(frozen, vector)
    assert parts.abs().min(-1).values.max() > 0
    expected = frozen.logits[2] - frozen.logits.mean()
    assert torch.allclose(parts.sum() + alone @ reader + vector @ frozen.bias_final, expected, atol=1e-5)


def test_the_strongest_head_is_the_one_whose_silence_changes_most(frozen):
    vector = frozen.W_U[:, 2] - frozen.W_U.mean(1)
    rows = strongest_heads(frozen, vector, [str(token) for token in range(frozen.W_U.shape[1])], 3)
    layer, head = rows[0]["layer"], rows[0]["head"]
    whole = carried(frozen, vector).sum(-1)
    assert abs(rows[0]["carried"]) == pytest.approx(float(whole.abs().max()))
    silent = dataclasses.replace(frozen, patterns=frozen.patterns.clone())
    silent.patterns[layer, head, -1, rows[0]["position"]] = 0  # as if it did not attend there
    now = carried(silent, vector)[layer, head].sum()
    assert float(whole[layer, head] - now) == pytest.approx(rows[0]["from_there"], rel=1e-4)
    assert rows[0]["token"] == str(int(frozen.tokens[rows[0]["position"]]))


def test_one_target_at_a_time_by_autograd_gives_the_same_edges(frozen, per_layer):
    found = attribute(frozen, per_layer)
    features = found.features
    for target in range(0, len(features), 7):
        embeddings = frozen.embeddings.clone().requires_grad_()
        writes = frozen.mlp_out.clone().requires_grad_()
        reads, _ = frozen.forward(embeddings, writes)
        value = reads[features.layer[target], features.pos[target]] @ features.readers[target]
        to_embeddings, to_writes = torch.autograd.grad(value, [embeddings, writes])
        for layer, (which, rows) in enumerate(features.writers):
            expected = (to_writes[layer, features.pos[which]] * rows).sum(1) * features.activation[which]
            assert torch.allclose(found.adjacency[target, which], expected, atol=1e-5)
        errors = (to_writes * features.errors).sum(-1).flatten()
        assert torch.allclose(found.adjacency[target, len(features) : found.first_embedding], errors, atol=1e-5)
        own = (to_embeddings * frozen.embeddings).sum(-1)
        assert torch.allclose(found.adjacency[target, found.first_embedding : found.first_logit], own, atol=1e-5)


def test_an_edge_is_the_change_of_the_target_when_the_source_is_removed_and_the_rest_held(frozen, per_layer):
    found = attribute(frozen, per_layer)
    features = found.features
    which, rows = features.writers[0]
    source = int(which[-1])
    writes = frozen.mlp_out.clone()
    writes[0, features.pos[source]] -= features.activation[source] * rows[-1]
    changed, _ = frozen.forward(frozen.embeddings, writes)
    for target in (features.layer == 2).nonzero()[:, 0].tolist():
        before = frozen.mlp_in[2, features.pos[target]] @ features.readers[target]
        after = changed[2, features.pos[target]] @ features.readers[target]
        assert float(found.adjacency[target, source]) == pytest.approx(float(before - after), abs=1e-4)


def test_small_batches_and_a_limit_give_the_same_rows(frozen, per_layer, monkeypatch):
    whole = attribute(frozen, per_layer)
    monkeypatch.setattr(graph_module, "BATCH", 5)
    assert torch.allclose(attribute(frozen, per_layer).adjacency, whole.adjacency, atol=1e-6)
    some = attribute(frozen, per_layer, most=12)
    assert len(some.expanded) == 12
    assert torch.allclose(some.adjacency[some.expanded], whole.adjacency[some.expanded], atol=1e-6)
    others = torch.ones(some.n_features, dtype=torch.bool)
    others[some.expanded] = False
    assert float(some.adjacency[: some.n_features][others].abs().sum()) == 0


def test_position_0_has_no_features(frozen, per_layer):
    assert int(attribute(frozen, per_layer).features.pos.min()) == 1


def literal_influence(adjacency, weights):
    matrix = adjacency.abs()
    matrix = matrix / matrix.sum(1, keepdim=True).clamp(min=1e-10)
    return weights @ (torch.linalg.inv(torch.eye(len(matrix)) - matrix) - torch.eye(len(matrix)))


def test_influence_scores_and_sizes_on_a_graph_known_by_heart():
    # nodes: feature 0, feature 1, error 2, embedding 3, logit 4
    adjacency = torch.zeros(5, 5)
    adjacency[0, 3] = 2.0
    adjacency[1, 0], adjacency[1, 2] = 3.0, -1.0
    adjacency[4, 1], adjacency[4, 3] = 1.0, 1.0
    weights, layout = torch.tensor([0, 0, 0, 0, 1.0]), Layout(2, 3, 4)
    found = node_influence(adjacency, weights)
    assert found.tolist() == pytest.approx([0.375, 0.5, 0.125, 0.875, 0.0])
    assert found.tolist() == pytest.approx(literal_influence(adjacency, weights).tolist(), abs=1e-6)
    assert torch.allclose(weights @ all_influences(adjacency), found, atol=1e-6)
    both = scores(adjacency, weights, layout)
    assert both.replacement == pytest.approx(0.875)
    assert both.completeness == pytest.approx((1 + 0.5 * 0.75 + 0.375) / 1.875)
    assert completeness_of(adjacency, weights, layout, torch.ones(5, dtype=torch.bool)) == pytest.approx(
        both.completeness
    )
    assert completeness_of(adjacency, weights, layout, torch.tensor([0, 0, 1, 1, 1]).bool()) == pytest.approx(0.5)
    assert nodes_needed(adjacency, weights, layout, found[:2], 0.8) == 2
    assert nodes_needed(adjacency, weights, layout, found[:2], 0.5) == 0


def test_pruning_keeps_the_strong_path_and_leaves_nothing_dangling(frozen, per_layer):
    found = attribute(frozen, per_layer)
    layout = Layout(found.n_features, found.first_embedding, found.first_logit)
    kept = prune(found.adjacency, found.logit_weights(), layout)
    assert bool(kept.nodes[layout.embeddings :].all())
    assert not bool((kept.edges & ~(kept.nodes[:, None] & kept.nodes[None])).any())
    inner = kept.nodes[: layout.errors].nonzero()[:, 0]
    assert bool(kept.edges[inner].any(1).all())
    assert bool(kept.edges[:, inner].any(0).all())
    narrow = prune(found.adjacency, found.logit_weights(), layout, nodes=0.4)
    assert int(narrow.nodes.sum()) < int(kept.nodes.sum()) < found.n_features
    assert float(edge_scores(found.adjacency, found.logit_weights()).min()) >= 0
    assert float(normalised(found.adjacency).sum(1).max()) == pytest.approx(1.0, abs=1e-5)


def test_bad_input_gets_one_sentence(frozen, per_layer):
    with pytest.raises(UserError, match="the target token 99 is unknown; choose among this model's tokens, 0 to 14"):
        logit_targets(frozen, [99])
    with pytest.raises(UserError, match="a model with 2 layers, this one has 3"):
        attribute(frozen, per_layer[:2])
    with pytest.raises(UserError, match=r"layer 0 was trained on blocks\.1"):
        attribute(frozen, [per_layer[1], per_layer[0], per_layer[2]])
    narrow = dataclasses.replace(per_layer[1], W_enc=torch.zeros(8, 20), W_dec=torch.zeros(20, 8), b_dec=torch.zeros(8))
    with pytest.raises(UserError, match="belongs to another model; train transcoders on this one"):
        attribute(frozen, [per_layer[0], narrow, per_layer[2]])
    skipping = dataclasses.replace(per_layer[1], W_skip=torch.eye(16))
    with pytest.raises(UserError, match="layer 1 has a skip path or gates"):
        attribute(frozen, [per_layer[0], skipping, per_layer[2]])
    dead = dataclasses.replace(per_layer[2], threshold=torch.full((20,), 1e9))
    with pytest.raises(UserError, match="no feature of layer 2 fires"):
        attribute(frozen, [*per_layer[:2], dead])
