"""One model pass, logit lens and direct residual path against literal slow versions, on tiny models of three shapes."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from common.core.errors import UserError
from common.data.models import load_model, load_tokenizer
from common.interp.decoder import Decoder
from replications.ioi_circuit.batches import Batch
from replications.ioi_circuit.collect import after_prefix, last_of, run_versions
from replications.ioi_circuit.dataset import Prompt, Version, draw_prompts, vocabulary
from replications.ioi_circuit.direct_path import direct_residual
from replications.ioi_circuit.residual import check_architecture, read_names
from tests.fixtures.ioi_circuit_tiny import alone, tiny_prompts

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    drawn = tiny_prompts([0])
    return [drawn[index] for index in (0, 7, 13, 20, 29)]  # both orders, templates of several lengths


@pytest.fixture(scope="module")
def collected(decoder: Decoder, prompts: list[Prompt]) -> dict[str, Tensor]:
    with torch.no_grad():
        return run_versions(decoder, prompts, batch_size=4, small_group=1)


def names_of(prompts: list[Prompt]) -> Tensor:
    return torch.tensor([[prompt.io_id, prompt.s_id] for prompt in prompts])


def centred(bridge: TransformerBridge, logits: Tensor, prompt: Prompt) -> Tensor:
    last = logits[0, -1]
    return torch.stack([last[prompt.io_id], last[prompt.s_id]]) - last.mean()


def head_results(bridge: TransformerBridge, tokens: Tensor) -> list[Tensor]:
    """What each head writes at END, as TransformerLens computes it: [layer][head, d_model]."""
    seen: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: object, name: str) -> None:
        seen[name] = value[0, -1].clone()

    names = [f"blocks.{layer}.attn.hook_result" for layer in range(bridge.cfg.n_layers)]
    bridge.set_use_attn_result(True)
    try:
        bridge.run_with_hooks(tokens, fwd_hooks=[(name, functools.partial(keep, name=name)) for name in names])
    finally:
        bridge.set_use_attn_result(False)
    return [seen[name] for name in names]


def literal_effects(
    bridge: TransformerBridge, prompt: Prompt, partner: Version, heads: list[tuple[int, int]]
) -> list[Tensor]:
    """Head by head: a forward pass in which the final residual at END swaps one head's result for the partner's."""
    own, other = (head_results(bridge, alone(prompt, version)) for version in ("original", partner))
    tokens = alone(prompt, "original")
    clean = centred(bridge, bridge(tokens), prompt)
    effects = []
    for layer, head in heads:

        def swap(value: Tensor, hook: object, layer: int = layer, head: int = head) -> Tensor:
            value = value.clone()
            value[0, -1] = value[0, -1] - own[layer][head] + other[layer][head]
            return value

        hooks = [(f"blocks.{bridge.cfg.n_layers - 1}.hook_resid_post", swap)]
        effects.append(centred(bridge, bridge.run_with_hooks(tokens, fwd_hooks=hooks), prompt) - clean)
    return effects


def fast_effects(
    bridge: TransformerBridge, prompts: list[Prompt], collected: dict[str, Tensor], partner: str
) -> Tensor:
    final = collected["final.original"]
    return direct_residual(
        bridge, final, collected["z.original"], collected[f"z.{partner}"], names_of(prompts), batch_size=4
    )


@pytest.mark.parametrize("partner", ["abc", "roles_flipped"])
def test_direct_residual_equals_the_literal_version(
    bridge: TransformerBridge, prompts: list[Prompt], collected: dict[str, Tensor], partner: Version
) -> None:
    fast = fast_effects(bridge, prompts, collected, partner)
    assert fast.shape == (len(prompts), bridge.cfg.n_layers, bridge.cfg.n_heads, 2)
    assert fast.abs().max() > 0.1
    heads = list(np.ndindex(bridge.cfg.n_layers, bridge.cfg.n_heads))
    for row, prompt in enumerate(prompts[:2]):
        slow = literal_effects(bridge, prompt, partner, heads)
        torch.testing.assert_close(fast[row].flatten(0, 1), torch.stack(slow), atol=1e-4, rtol=0)


def test_patching_a_prompt_with_itself_is_exactly_zero(
    bridge: TransformerBridge, prompts: list[Prompt], collected: dict[str, Tensor]
) -> None:
    effects = fast_effects(bridge, prompts, collected, "original")
    assert torch.equal(effects, torch.zeros_like(effects))


def test_all_heads_together_are_not_the_sum_because_the_norm_is_recomputed(
    bridge: TransformerBridge, prompts: list[Prompt], collected: dict[str, Tensor]
) -> None:
    """With a frozen norm single effects would add up; here they must not, or the norm was not recomputed."""
    singly = fast_effects(bridge, prompts, collected, "abc").sum((1, 2))
    change = torch.einsum("nlhe,lhed->nd", collected["z.abc"] - collected["z.original"], bridge.W_O)
    final = collected["final.original"]
    both = read_names(bridge, torch.stack([final, final + change], 1), names_of(prompts))
    assert (singly - (both[:, 1] - both[:, 0])).abs().max() > 1e-2


def test_padding_changes_nothing(
    bridge: TransformerBridge, decoder: Decoder, prompts: list[Prompt], collected: dict[str, Tensor]
) -> None:
    assert len({prompt.positions.end for prompt in prompts[:3]}) > 1
    for row, prompt in enumerate(prompts[:3]):
        lonely = run_versions(decoder, [prompt], batch_size=1, small_group=1)
        for name, tensor in lonely.items():
            if name.startswith("mean"):  # of other prompts
                continue
            torch.testing.assert_close(collected[name][row : row + 1], tensor, atol=1e-5, rtol=1e-5)
        logits = bridge(alone(prompt, "original"))
        torch.testing.assert_close(
            collected["logits.original"][row], centred(bridge, logits, prompt), atol=1e-5, rtol=0
        )
        probability = logits[0, -1].softmax(-1)[prompt.io_id]
        torch.testing.assert_close(collected["probs.original"][row, 0], probability, atol=1e-6, rtol=0)


def test_outputs_of_mlps_are_those_of_the_hooks(
    bridge: TransformerBridge, prompts: list[Prompt], collected: dict[str, Tensor]
) -> None:
    for version in ("original", "abc"):
        _, cache = bridge.run_with_cache(alone(prompts[0], version))
        for layer, written in enumerate(collected[f"mlp.{version}"][0]):
            expected = cache[f"blocks.{layer}.hook_mlp_out"][0, -1]
            torch.testing.assert_close(written, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("version", ["roles_flipped", "nouns_redrawn", "abc"])
def test_what_follows_a_shared_prefix_is_that_of_a_whole_pass(decoder: Decoder, version: Version) -> None:
    batch = Batch(tiny_prompts([0])[:9], "cpu")
    clean, other = (decoder.forward(batch.tokens(one), batch.mask, keep=True) for one in ("original", version))
    found, whole = after_prefix(decoder, clean, batch, version), last_of(other, batch.at("end"))
    for one, expected in ((found.final, whole.final), (found.z, whole.z)):
        torch.testing.assert_close(one, expected, atol=1e-4, rtol=1e-4)
    assert found.mlp is None
    assert (whole.z - last_of(clean, batch.at("end")).z).abs().max() > 1e-2


def test_means_of_a_template_are_means_of_its_prompts_alone(decoder: Decoder) -> None:
    drawn = tiny_prompts([0])
    rows = [row for row in drawn if row.template in (0, 3)]
    found = run_versions(decoder, rows, batch_size=3, small_group=1)
    for template in (0, 3):
        own = [row for row in rows if row.template == template]
        passes = [
            decoder.forward(alone(row, "abc"), torch.ones_like(alone(row, "abc")).bool(), keep=True) for row in own
        ]
        z = torch.stack([torch.stack(cache.z)[:, 0] for cache in passes])
        torch.testing.assert_close(found[f"mean.{template}"], z.mean(0), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[f"mean_few.{template}"], z[0], atol=1e-5, rtol=1e-5)


def test_without_the_mask_padding_on_the_left_would_matter(bridge: TransformerBridge, prompts: list[Prompt]) -> None:
    """Shows that the check above has teeth: the same prompt, padded on the wrong side, gives other logits."""
    tokens = alone(prompts[0], "original")
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), tokens], 1)
    assert (bridge(padded)[0, -1] - bridge(tokens)[0, -1]).abs().max() > 1e-2


def test_planted_name_mover_is_found(bridge: TransformerBridge, prompts: list[Prompt]) -> None:
    """A head whose output on the partner prompt lies along W_U[S] - W_U[IO] must be the most negative one."""
    names = names_of(prompts)
    shape = (len(prompts), bridge.cfg.n_layers, bridge.cfg.n_heads, bridge.cfg.d_head)
    z = torch.zeros(shape)
    final = torch.randn(len(prompts), bridge.cfg.d_model, generator=torch.Generator().manual_seed(0))
    towards_s = bridge.W_U.T[names[:, 1]] - bridge.W_U.T[names[:, 0]]
    planted = z.clone()
    planted[:, 2, 1] = 0.3 * towards_s @ bridge.W_O[2, 1].T  # z W_O has a positive product with towards_s
    effects = direct_residual(bridge, final, z, planted, names, batch_size=4)
    difference = (effects[..., 0] - effects[..., 1]).mean(0)
    assert divmod(int(difference.argmin()), bridge.cfg.n_heads) == (2, 1)
    others = difference.clone()
    others[2, 1] = 0
    assert torch.equal(others, torch.zeros_like(others))


def test_batch_size_and_repetition_change_no_bit(
    bridge: TransformerBridge, decoder: Decoder, prompts: list[Prompt], collected: dict[str, Tensor]
) -> None:
    again = run_versions(decoder, prompts, batch_size=4, small_group=1)
    assert all(torch.equal(again[name], collected[name]) for name in collected)
    effects = [
        direct_residual(
            bridge,
            collected["final.original"],
            collected["z.original"],
            collected["z.abc"],
            names_of(prompts),
            batch_size=size,
        )
        for size in (1, 5)
    ]
    torch.testing.assert_close(*effects, atol=1e-5, rtol=0)


def test_architectures_that_do_not_fit_are_refused(bridge: TransformerBridge, prompts: list[Prompt]) -> None:
    tokens = torch.cat([alone(prompts[0], version) for version in ("original", "abc")])
    check_architecture(bridge, tokens, torch.ones_like(tokens))

    cap = bridge.cfg.output_logits_soft_cap
    bridge.cfg.output_logits_soft_cap = 30.0
    try:
        with pytest.raises(UserError, match="caps its logits"):
            check_architecture(bridge, tokens, torch.ones_like(tokens))
    finally:
        bridge.cfg.output_logits_soft_cap = cap

    last = bridge.cfg.n_layers - 1
    with (
        bridge.hooks(fwd_hooks=[(f"blocks.{last}.hook_attn_out", lambda value, hook: 2 * value)]),
        pytest.raises(UserError, match="rescales"),
    ):
        check_architecture(bridge, tokens, torch.ones_like(tokens))


@pytest.mark.model
def test_embedded_tokenizer(model_folder: Path) -> None:
    words = vocabulary(load_tokenizer(model_folder), minimum_names=100)
    scored, calibration = (draw_prompts(words, seeds, per_cell=2) for seeds in ([0, 1, 2, 3, 4], [100, 101, 102]))
    assert len(scored) >= 256
    texts = [
        {version.text for prompt in part for version in prompt.versions.values()} for part in (scored, calibration)
    ]
    assert not texts[0] & texts[1]
    assert {prompt.versions["original"].tokens[0] for prompt in scored}.isdisjoint({0, 1, 2})  # no special token


@pytest.mark.model
def test_embedded_model_against_the_literal_version(model_folder: Path) -> None:
    bridge = load_model(model_folder)
    words = vocabulary(load_tokenizer(model_folder), minimum_names=40)
    prompts = draw_prompts(words, [0], per_cell=1)[:1]
    collected = run_versions(Decoder(bridge, 30), prompts, batch_size=1, small_group=1)
    check_architecture(bridge, alone(prompts[0], "original"), torch.ones_like(alone(prompts[0], "original")))
    fast = fast_effects(bridge, prompts, collected, "abc")[0]
    flat = (fast[..., 0] - fast[..., 1]).flatten().numpy()
    heads = [divmod(int(index), bridge.cfg.n_heads) for index in (flat.argmin(), flat.argmax(), 0)]
    slow = literal_effects(bridge, prompts[0], "abc", heads)
    for (layer, head), effect in zip(heads, slow, strict=True):
        torch.testing.assert_close(fast[layer, head], effect, atol=1e-4, rtol=0)
