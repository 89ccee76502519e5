"""Edge patching and edge scores against TransformerLens hooks, autograd, and their limits."""

import functools

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from common.interp.decoder import Cache, Decoder
from common.interp.edge_graph import Graph, edge_scores, run_circuits, strongest, summed
from common.interp.partial_forward import at_position
from replications.ioi_circuit.batches import Batch
from replications.ioi_circuit.batches import passes as together
from replications.ioi_circuit.dataset import draw_prompts, vocabulary
from replications.ioi_circuit.residual import read_difference
from tests.fixtures.ioi_circuit_tiny import tiny_tokenizer

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def batch() -> Batch:
    drawn = draw_prompts(vocabulary(tiny_tokenizer(), 40), [0], per_cell=1)
    return Batch([drawn[0], drawn[7]], "cpu")


@pytest.fixture(scope="module")
def passes(decoder: Decoder, batch: Batch) -> tuple[Cache, Cache]:
    with torch.no_grad():
        clean, partner = (decoder.forward(batch.tokens(v), batch.mask, keep=True) for v in ("original", "abc"))  # type: ignore[arg-type]
    return clean, partner


def metric_of(decoder: Decoder, batch: Batch, final: Tensor) -> Tensor:
    return read_difference(decoder.bridge, at_position(final, batch.at("end")), batch.names)


def test_one_pass_over_prompts_and_partners_is_two(decoder: Decoder, batch: Batch, passes: tuple[Cache, Cache]) -> None:
    for found, expected in zip(together(decoder, batch), passes, strict=True):
        for name, value in vars(expected).items():
            torch.testing.assert_close(getattr(found, name), value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_sums_over_held_writers_are_a_product_however_many_they_are(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    held = torch.rand(2, 5, 30, generator=generator) < share
    change = torch.randn(2, 40, 7, generator=generator)
    found = summed(held, change)
    for circuit in range(2):
        for reader in range(5):
            rows = change[circuit, :30][held[circuit, reader]]
            torch.testing.assert_close(found[circuit, reader], rows.sum(0), atol=1e-5, rtol=1e-5)


def test_all_edges_are_the_model_and_none_the_partner(
    decoder: Decoder, batch: Batch, passes: tuple[Cache, Cache]
) -> None:
    graph = Graph.of(decoder)
    held = torch.stack([graph.edges(), torch.zeros_like(graph.edges())])
    found = run_circuits(decoder, *passes, batch.mask, held)
    for got, cache in zip(found, passes, strict=True):
        torch.testing.assert_close(got[batch.mask], cache.final[batch.mask], atol=1e-4, rtol=1e-4)


def test_one_missing_edge_equals_hooks_on_split_inputs(
    bridge: TransformerBridge, decoder: Decoder, batch: Batch, passes: tuple[Cache, Cache]
) -> None:
    """Head 0.1 into queries, keys, values of layer 2 (keys and values per KV head), and into an MLP's stream."""
    graph = Graph.of(decoder)
    clean, partner = passes
    change = torch.einsum("bpe,ed->bpd", partner.z[0][:, :, 1] - clean.z[0][:, :, 1], decoder.W_O[0][1])
    bridge.set_use_split_qkv_input(True)
    try:
        for kind, head in (("q", 2), ("k", 1), ("v", 1)):
            held = graph.edges()
            held[graph.head(0, 1), graph.reader(2, kind, head)] = False
            fast = run_circuits(decoder, clean, partner, batch.mask, held[None])[0]

            def swap(value: Tensor, hook: object, head: int = head) -> Tensor:
                value = value.clone()
                value[:, :, head] += change
                return value

            seen: list[Tensor] = []
            hooks = [
                (f"blocks.2.attn.hook_{kind}_input", swap),
                ("blocks.2.hook_resid_post", lambda value, hook, seen=seen: seen.append(value)),
            ]
            bridge.run_with_hooks(batch.tokens("original"), attention_mask=batch.mask.long(), fwd_hooks=hooks)
            torch.testing.assert_close(fast[batch.mask], seen[0][batch.mask], atol=1e-4, rtol=1e-4)
            assert (fast - clean.final)[batch.mask].abs().max() > 1e-4, kind
    finally:
        bridge.set_use_split_qkv_input(False)


def test_circuits_that_lack_edges_in_different_layers_do_not_mix(
    decoder: Decoder, batch: Batch, passes: tuple[Cache, Cache]
) -> None:
    """Together the pass starts at the earliest missing edge, alone each starts at its own."""
    graph = Graph.of(decoder)
    held = graph.edges().repeat(3, 1, 1)
    for one, (writer, reader) in zip(
        held, [("embedding", "0.1 q"), ("0.1", "mlp 2"), ("mlp 1", "logits")], strict=True
    ):
        one[graph.writer_names().index(writer), graph.reader_names().index(reader)] = False
    together = run_circuits(decoder, *passes, batch.mask, held)
    for one, found in zip(held, together, strict=True):
        alone = run_circuits(decoder, *passes, batch.mask, one[None])[0]
        torch.testing.assert_close(found[batch.mask], alone[batch.mask], atol=1e-4, rtol=1e-4)
        assert (found - passes[0].final)[batch.mask].abs().max() > 1e-3


def test_a_head_computes_from_its_queries_and_its_groups_keys_and_values() -> None:
    graph = Graph(n_layers=2, n_heads=4, n_kv_heads=2)
    names, feeds = graph.reader_names(), graph.feeds()
    assert [names[r] for r in feeds[:, graph.head(1, 3)].nonzero()[:, 0]] == ["1.3 q", "1.1 k", "1.1 v"]
    assert [names[r] for r in feeds[:, graph.writer_names().index("mlp 1")].nonzero()[:, 0]] == ["mlp 1"]
    assert not feeds[-1].any()
    assert not feeds[:, 0].any()


def test_edges_respect_order_and_count(decoder: Decoder) -> None:
    graph = Graph.of(decoder)
    edges = graph.edges()
    assert edges.shape == (graph.n_writers, graph.n_readers) == (len(graph.writer_names()), len(graph.reader_names()))
    assert edges[0].all()
    assert edges[:, -1].all()
    heads, readers = decoder.n_heads, graph.attention_readers
    expected = sum((1 + n * (heads + 1)) * readers + 1 + n * (heads + 1) + heads for n in range(decoder.n_layers))
    assert int(edges.sum()) == expected + graph.n_writers
    assert not edges[graph.head(1, 0), graph.reader(1, "q")]
    assert edges[graph.head(1, 0), graph.reader(1, "mlp")]
    assert graph.reader_names()[graph.reader(1, "k", 1)] == "1.1 k"
    assert graph.writer_names()[graph.head(2, 1)] == "2.1"


def test_scores_of_a_heads_edges_sum_to_attribution_patching(
    decoder: Decoder, batch: Batch, passes: tuple[Cache, Cache]
) -> None:
    clean, partner = passes
    found = edge_scores(decoder, clean, partner, batch.mask, functools.partial(metric_of, decoder, batch), 1).eap
    assert not found[~Graph.of(decoder).edges()].any()
    seen: list[Tensor] = []

    def watch(layer: int, z: Tensor) -> Tensor:
        seen.append(z if z.requires_grad else z.detach().requires_grad_())
        return seen[-1]

    with torch.enable_grad():
        final = decoder.forward(batch.tokens("original"), batch.mask, watch).final
        gradients = torch.autograd.grad(metric_of(decoder, batch, final).sum(), seen)
    for layer, gradient in enumerate(gradients):
        change = (partner.z[layer] - clean.z[layer]) * gradient * batch.mask[:, :, None, None]
        expected = change.sum((1, 3)).mean(0)
        first = Graph.of(decoder).head(layer, 0)
        torch.testing.assert_close(found[first : first + decoder.n_heads].sum(1), expected, atol=1e-5, rtol=1e-3)


def test_integrated_gradients_of_the_embedding_add_up_to_the_effect(
    decoder: Decoder, batch: Batch, passes: tuple[Cache, Cache]
) -> None:
    """Completeness of integrated gradients: the embedding's edges sum to m(partner) - m(prompt); one step does not."""
    clean, partner = passes
    metric = functools.partial(metric_of, decoder, batch)
    whole = float((metric(partner.final) - metric(clean.final)).mean())
    found = edge_scores(decoder, clean, partner, batch.mask, metric, 160)
    many, one = float(found.eap_ig[0].sum()), float(found.eap[0].sum())
    assert abs(many - whole) < 0.1 * abs(whole)
    assert abs(one - whole) > 2 * abs(many - whole)


def test_strongest_edges_by_size() -> None:
    scores = torch.tensor([[1.0, -5.0], [3.0, 9.0]])
    edges = torch.tensor([[True, True], [True, False]])
    assert strongest(scores, edges, 2).tolist() == [[False, True], [True, False]]


def test_sizes_bound_the_scores_and_leave_the_direction_out(
    decoder: Decoder, batch: Batch, passes: tuple[Cache, Cache]
) -> None:
    """Cauchy and Schwarz position by position; turning the metric round changes the scores' sign and no size."""
    read = functools.partial(metric_of, decoder, batch)
    scores, turned = (edge_scores(decoder, *passes, batch.mask, one, 2) for one in (read, lambda final: -read(final)))
    sizes = scores.sizes_alone
    assert (sizes >= scores.eap.abs() - 1e-6).all()
    assert float(sizes.sum()) > 1.1 * float(scores.eap.abs().sum())
    for found in scores:
        assert not found[~Graph.of(decoder).edges()].any()
    torch.testing.assert_close(turned.eap, -scores.eap)
    torch.testing.assert_close(turned.eap_ig, -scores.eap_ig)
    torch.testing.assert_close(turned.sizes_alone, sizes)
