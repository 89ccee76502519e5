"""Knock-outs of MLPs: against hooks on the whole model, and with nothing changed."""

import numpy as np
import pytest
import torch
from torch import Tensor

from common.interp.decoder import Decoder
from replications.ioi_circuit.batches import VERIFICATION, Batch, balanced
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.mlp_knockout import knock_out, mean_outputs, measure, unseen
from tests.fixtures.ioi_circuit_tiny import bridge as bridge
from tests.fixtures.ioi_circuit_tiny import decoder as decoder
from tests.fixtures.ioi_circuit_tiny import no_gradients as no_gradients
from tests.fixtures.ioi_circuit_tiny import tiny_prompts


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    """One of each of three templates, two of which differ in length."""
    drawn = tiny_prompts([0])
    chosen = [drawn[index] for index in (0, 13, 16)]
    assert len({row.positions.end for row in chosen}) > 1
    return chosen


def with_hooks(
    decoder: Decoder, prompts: list[Prompt], values: dict[int, Tensor], layers: list[int], where: str
) -> np.ndarray:
    """logit(IO) - logit(S), one prompt at a time without padding, through TransformerLens."""
    found = []
    for row in prompts:
        length = row.positions.end + 1

        def replace(
            output: Tensor, hook: object, *, layer: int, mean: Tensor = values[row.template], n: int = length
        ) -> Tensor:
            output = output.clone()
            at = slice(0, n) if where == "everywhere" else slice(n - 1, n)
            output[0, at] = mean[layer, at]
            return output

        hooks = [
            (f"blocks.{layer}.hook_mlp_out", lambda output, hook, layer=layer: replace(output, hook, layer=layer))
            for layer in layers
        ]
        tokens = torch.tensor([row.versions["original"].tokens[:length]])
        logits = decoder.bridge.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1]
        found.append(float(logits[row.io_id] - logits[row.s_id]))
    return np.array(found)


def test_knock_outs_are_those_of_hooks(decoder: Decoder, prompts: list[Prompt], no_gradients: None) -> None:
    means = mean_outputs(decoder, tiny_prompts([0, 1]), 3)
    clean, found, later = knock_out(decoder, Batch(prompts, "cpu"), means)
    assert clean == pytest.approx(with_hooks(decoder, prompts, means, [], "end"), abs=1e-3)
    for layer in range(decoder.n_layers):
        for way in ("everywhere", "end"):
            literal = with_hooks(decoder, prompts, means, [layer], way)
            assert found[way][layer] == pytest.approx(literal, abs=1e-3)
    rest = list(range(1, decoder.n_layers))
    assert later == pytest.approx(with_hooks(decoder, prompts, means, rest, "everywhere"), abs=1e-3)
    assert found["direct"][-1] == pytest.approx(found["end"][-1], abs=1e-4)  # no later layer that could see it
    assert np.abs(found["direct"][0] - found["end"][0]).max() > 1e-3
    assert np.abs(found["everywhere"] - clean).max() > 1e-3


def test_own_outputs_in_place_of_means_change_nothing(
    decoder: Decoder, prompts: list[Prompt], no_gradients: None
) -> None:
    batch, own = Batch(prompts, "cpu"), []

    def keep(layer: int, output: Tensor) -> Tensor:
        own.append(output)
        return output

    decoder.forward(batch.tokens("original"), batch.mask, mlp_edit=keep)
    means = {row.template: torch.stack(own)[:, number] for number, row in enumerate(prompts)}
    clean, found, later = knock_out(decoder, batch, means)
    for values in (*(row for way in found.values() for row in way), later):
        assert values == pytest.approx(clean, abs=1e-3)
    metrics = measure(clean, found, later, prompts)
    assert metrics["everywhere_first"].control("other_mlps").difference.value == pytest.approx(0, abs=1e-3)


def test_means_are_those_of_hooks_on_abc_prompts(decoder: Decoder, no_gradients: None) -> None:
    every = [row for row in tiny_prompts([0, 1, 2]) if row.template == tiny_prompts([0])[0].template]
    assert len(every) > 2
    outputs = []
    for row in every[:2]:
        _, cache = decoder.bridge.run_with_cache(torch.tensor([row.versions["abc"].tokens]))
        outputs.append(torch.stack([cache[f"blocks.{layer}.hook_mlp_out"][0] for layer in range(decoder.n_layers)]))
    found = mean_outputs(decoder, every, 2)[every[0].template]
    length = min(found.shape[1], outputs[0].shape[1])
    torch.testing.assert_close(found[:, :length], torch.stack(outputs).mean(0)[:, :length], atol=1e-4, rtol=1e-3)


def test_the_first_mlp_is_set_against_the_mean_of_the_others(prompts: list[Prompt]) -> None:
    clean = np.array([2.0, 4.0, 2.0])
    values = np.outer([0.1, 0.5, 0.6, 1.0], clean)
    metrics = measure(clean, {"everywhere": values, "end": 2 * values}, 0.3 * clean, prompts)
    assert metrics["everywhere_first"].value == pytest.approx(0.1)
    assert metrics["everywhere_first"].control("other_mlps").value == pytest.approx(0.7)
    assert metrics["end_first"].control("other_mlps").difference.value == pytest.approx(-1.2)
    assert metrics["everywhere_all_others"].value == pytest.approx(0.3)


def test_means_are_taken_over_other_prompts_of_the_same_templates() -> None:
    every = tiny_prompts([0, 1])
    rows = balanced(every, VERIFICATION, 4)
    others = unseen(every, rows)
    assert {row.template for row in others} == {row.template for row in rows}
    texts = {row.versions["original"].text for row in rows}
    assert not texts & {row.versions["original"].text for row in others}
    assert unseen(rows, rows) == rows
