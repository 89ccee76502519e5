"""Path patching in one sweep against the paper's four passes, taken literally with hooks; limits and identities."""

import functools

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from common.core.errors import UserError
from common.interp.decoder import Cache, Decoder
from common.interp.path_patching import (
    Receivers,
    first_order,
    kv_heads,
    patch_heads,
    path_patch,
)
from replications.ioi_circuit.dataset import Prompt, Version, draw_prompts, vocabulary
from tests.fixtures.ioi_circuit_tiny import alone, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("no_gradients")

POSITIONS = ("s1_next", "s2", "end")


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    drawn = draw_prompts(vocabulary(tiny_tokenizer(), 40), [0], per_cell=1)
    chosen = [drawn[index] for index in (0, 7, 13)]
    assert len({prompt.positions.end for prompt in chosen}) == 3  # templates of different lengths in one batch
    return chosen


def tensors(prompts: list[Prompt], version: Version) -> tuple[Tensor, Tensor]:
    tokens = torch.tensor([prompt.versions[version].tokens for prompt in prompts])
    return tokens, torch.tensor([prompt.attention for prompt in prompts]).bool()


def index(prompts: list[Prompt], name: str) -> Tensor:
    return torch.tensor([getattr(prompt.positions, name) for prompt in prompts])


@pytest.fixture(scope="module")
def caches(decoder: Decoder, prompts: list[Prompt]) -> dict[Version, Cache]:
    with torch.no_grad():
        versions: tuple[Version, ...] = ("original", "abc")
        return {version: decoder.forward(*tensors(prompts, version), keep=True) for version in versions}


def run(bridge: TransformerBridge, tokens: Tensor, names: list[str], edits: list = []) -> dict[str, Tensor]:  # type: ignore[type-arg]  # noqa: B006
    """One forward pass with edits; returns what passed the named hook points."""
    seen: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: object, name: str) -> None:
        seen[name] = value.clone()

    bridge.run_with_hooks(tokens, fwd_hooks=[*edits, *((name, functools.partial(keep, name=name)) for name in names)])
    return seen


def literal(
    bridge: TransformerBridge, prompt: Prompt, sender: tuple[int, int], position: int, receivers: Receivers | None
) -> Tensor:
    """Passes A to D of appendix B for one sender; the final residual stream at END."""
    layers = range(bridge.cfg.n_layers)
    z_names = [f"blocks.{layer}.attn.hook_z" for layer in layers]
    final = f"blocks.{bridge.cfg.n_layers - 1}.hook_resid_post"
    new = run(bridge, alone(prompt, "abc"), z_names)
    old = run(bridge, alone(prompt, "original"), z_names)

    def freeze(value: Tensor, hook: object, name: str, layer: int) -> Tensor:
        frozen = old[name].clone()
        if layer == sender[0]:
            frozen[0, position, sender[1]] = new[name][0, position, sender[1]]
        return frozen

    frozen = [(name, functools.partial(freeze, name=name, layer=layer)) for layer, name in zip(layers, z_names)]  # noqa: B905
    if receivers is None:
        return run(bridge, alone(prompt, "original"), [final], frozen)[final][0, -1]
    names = {layer: f"blocks.{layer}.attn.hook_{receivers.kind}" for layer in receivers.layers}
    received = run(bridge, alone(prompt, "original"), list(names.values()), frozen)

    def patch(value: Tensor, hook: object, layer: int) -> Tensor:
        value = value.clone()
        for where, head in receivers.heads:
            if where == layer:
                value[0, position, head] = received[names[layer]][0, position, head]
        return value

    patches = [(name, functools.partial(patch, layer=layer)) for layer, name in names.items()]
    return run(bridge, alone(prompt, "original"), [final], patches)[final][0, -1]


def receiver_sets(decoder: Decoder) -> list[tuple[str, Receivers | None]]:
    queries = ((1, 0), (2, 0), (2, 2))
    kv = kv_heads(queries, decoder.group)
    assert len(kv) <= len(queries)
    return [
        ("end", None),
        ("end", Receivers("q", queries)),
        ("end", Receivers("k", kv)),
        ("s2", Receivers("q", queries)),
        ("s2", Receivers("k", kv)),
        ("s2", Receivers("v", kv)),
        ("s1_next", Receivers("k", kv)),
        ("s1_next", Receivers("v", kv)),
    ]


def test_one_sweep_equals_four_literal_passes(
    bridge: TransformerBridge, decoder: Decoder, prompts: list[Prompt], caches: dict[Version, Cache]
) -> None:
    end = index(prompts, "end")
    for name, receivers in receiver_sets(decoder):
        position = index(prompts, name)
        fast = path_patch(decoder, caches["original"], caches["abc"], position, end, receivers)
        below = decoder.n_layers if receivers is None else receivers.layers[-1]
        assert fast.shape[:2] == (below * decoder.n_heads, len(prompts))
        clean = torch.stack([caches["original"].final[row, at] for row, at in enumerate(end)])
        assert (fast - clean).abs().max() > 1e-3, (name, receivers)
        for row, prompt in list(enumerate(prompts))[:2]:
            for sender in ((0, 1), (1, 2), (2, 0))[:below]:
                slow = literal(bridge, prompt, sender, int(position[row]), receivers)
                found = fast[sender[0] * decoder.n_heads + sender[1], row]
                torch.testing.assert_close(found, slow, atol=1e-4, rtol=0, msg=lambda m: f"{name} {receivers}: {m}")  # noqa: B023


def test_chosen_senders_are_the_same_rows(
    decoder: Decoder, prompts: list[Prompt], caches: dict[Version, Cache]
) -> None:
    end, senders = index(prompts, "end"), [(0, 1), (1, 0), (1, 2)]
    for name, receivers in receiver_sets(decoder)[:4]:
        position = index(prompts, name)
        every = path_patch(decoder, caches["original"], caches["abc"], position, end, receivers)
        some = path_patch(decoder, caches["original"], caches["abc"], position, end, receivers, senders)
        rows = [layer * decoder.n_heads + head for layer, head in senders]
        torch.testing.assert_close(some, every[rows], atol=1e-5, rtol=1e-5)


def test_first_order_is_the_slope_of_exact_path_patching(
    decoder: Decoder, prompts: list[Prompt], caches: dict[Version, Cache]
) -> None:
    """Central differences: partners three hundredths of the way to the ABC prompt, and as far away from it."""
    end, clean, step = index(prompts, "end"), caches["original"], 3e-2
    direction = torch.randn(decoder.W_O[0].shape[-1], generator=torch.Generator().manual_seed(0))

    def read(final: Tensor) -> Tensor:
        return final @ direction

    def moved(by: float) -> Cache:
        return Cache(z=[one + by * (other - one) for one, other in zip(clean.z, caches["abc"].z, strict=True)])

    for name, receivers in receiver_sets(decoder):
        position = index(prompts, name)
        found = first_order(decoder, clean, caches["abc"], position, end, receivers, read)
        above, below = (path_patch(decoder, clean, moved(by), position, end, receivers) for by in (step, -step))
        slope = (read(above) - read(below)) / (2 * step)
        assert found.shape == slope.shape
        assert (found - slope).norm() < 0.1 * slope.norm(), (name, receivers)


def test_patching_a_prompt_with_itself_changes_nothing(
    decoder: Decoder, prompts: list[Prompt], caches: dict[Version, Cache]
) -> None:
    end, clean = index(prompts, "end"), caches["original"]
    expected = torch.stack([clean.final[row, at] for row, at in enumerate(end)])
    for name, receivers in receiver_sets(decoder):
        found = path_patch(decoder, clean, clean, index(prompts, name), end, receivers)
        torch.testing.assert_close(found, expected.expand_as(found), atol=2e-5, rtol=1e-5)


def test_a_head_of_the_last_layer_has_only_its_direct_path(
    decoder: Decoder, prompts: list[Prompt], caches: dict[Version, Cache]
) -> None:
    end, (clean, other) = index(prompts, "end"), (caches["original"], caches["abc"])
    last = decoder.n_layers - 1
    by_path = path_patch(decoder, clean, other, end, end, None)[last * decoder.n_heads :]
    torch.testing.assert_close(by_path, patch_heads(decoder, clean, other, [last], end, end), atol=1e-5, rtol=0)
    first_layer = patch_heads(decoder, clean, other, [0], end, end)
    both = patch_heads(decoder, clean, other, [0, last], end, end)
    torch.testing.assert_close(both[: decoder.n_heads], first_layer, atol=1e-6, rtol=0)
    assert (path_patch(decoder, clean, other, end, end, None)[: decoder.n_heads] - first_layer).abs().max() > 1e-3


def test_activation_patching_equals_hooks(
    bridge: TransformerBridge, decoder: Decoder, prompts: list[Prompt], caches: dict[Version, Cache]
) -> None:
    """Each head of a layer, noising and denoising, against one hooked forward pass."""
    final, point = f"blocks.{bridge.cfg.n_layers - 1}.hook_resid_post", "blocks.1.attn.hook_z"
    end = index(prompts, "end")
    pairs: list[tuple[Version, Version]] = [("original", "abc"), ("abc", "original")]
    for name in POSITIONS:
        position = index(prompts, name)
        for run_version, source in pairs:
            every = patch_heads(decoder, caches[run_version], caches[source], [0, 1], position, end)
            heads = every[decoder.n_heads : 2 * decoder.n_heads]  # of layer 1
            for row, prompt in enumerate(prompts):
                at = int(position[row])
                new = run(bridge, alone(prompt, source), [point])[point]

                def swap(value: Tensor, hook: object, at: int = at, new: Tensor = new) -> Tensor:
                    value = value.clone()
                    value[0, at, 2] = new[0, at, 2]
                    return value

                slow = run(bridge, alone(prompt, run_version), [final], [(point, swap)])[final][0, -1]
                torch.testing.assert_close(heads[2, row], slow, atol=1e-4, rtol=0)


def test_kv_heads_are_shared_by_their_group() -> None:
    assert kv_heads([(2, 0), (2, 1), (2, 3), (0, 2)], 2) == ((0, 1), (2, 0), (2, 1))
    assert kv_heads([(2, 0), (2, 1)], 1) == ((2, 0), (2, 1))


def test_a_changed_kv_head_reaches_exactly_its_group(decoder: Decoder, caches: dict[Version, Cache]) -> None:
    clean, other = caches["original"], caches["abc"]
    q = decoder.queries(1, decoder.norm(1, 0, clean.resid_pre[1]), torch.arange(clean.final.shape[1]))
    keys = clean.k[1].clone()
    keys[:, :, 1] = other.k[1][:, :, 1]
    changed = (decoder.scores(q, keys) != decoder.scores(q, clean.k[1])).any(0).any(-1).any(-1)
    assert changed.nonzero().flatten().tolist() == list(range(decoder.group, 2 * decoder.group))


def test_decoder_refuses_what_it_does_not_cover(bridge: TransformerBridge) -> None:
    with pytest.raises(UserError, match="longer than the model's context"):
        Decoder(bridge, bridge.cfg.n_ctx + 1)
    with (
        bridge.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", lambda value, hook: 2 * value)]),
        pytest.raises(UserError, match="not that of GPT-2 or Llama"),
    ):
        Decoder(bridge, 10)
    bridge.cfg.parallel_attn_mlp = True
    try:
        with pytest.raises(UserError, match="in sequence"):
            Decoder(bridge, 10)
    finally:
        bridge.cfg.parallel_attn_mlp = False


def test_final_residual_needs_senders_at_end(
    decoder: Decoder, prompts: list[Prompt], caches: dict[Version, Cache]
) -> None:
    with pytest.raises(ValueError, match="must sit at END"):
        path_patch(decoder, caches["original"], caches["abc"], index(prompts, "s2"), index(prompts, "end"), None)
