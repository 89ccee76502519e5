"""Signals of S-inhibition heads: versions of the prompt, patches against a literal run, published numbers."""

import numpy as np
import pytest
import torch
from torch import Tensor

from common.interp.decoder import Decoder
from replications.ioi_circuit.batches import Batch
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.place_or_token import PATCHES, edited_tokens, patch_edits, run_edits
from replications.ioi_circuit.residual import read_difference
from replications.ioi_circuit.signals import PUBLISHED, VERSIONS, Version, coefficients, measure, patch, tokens_of
from tests.fixtures.ioi_circuit_tiny import bridge as bridge
from tests.fixtures.ioi_circuit_tiny import decoder as decoder
from tests.fixtures.ioi_circuit_tiny import no_gradients as no_gradients
from tests.fixtures.ioi_circuit_tiny import tiny_prompts


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    drawn = tiny_prompts([0])
    return [drawn[index] for index in (0, 7, 13, 16)]


def test_versions_change_the_three_names_and_nothing_else(prompts: list[Prompt]) -> None:
    batch = Batch(prompts, "cpu")
    found = {kind: tokens_of(batch, kind) for kind in VERSIONS}
    assert torch.equal(found[Version(1, 1)], batch.tokens("original"))
    assert torch.equal(found[Version(-1, -1)], edited_tokens(batch)["flipped"])
    for number, row in enumerate(prompts):
        slots = [row.positions.io, row.positions.s1, row.positions.s2]
        a, b, (c, d, _) = row.io_id, row.s_id, row.abc_ids
        names = {kind: tokens[number, slots].tolist() for kind, tokens in found.items()}
        assert names[Version(1, -1)] == [b, a, b]
        assert names[Version(-1, -1)] == [a, b, a]
        assert names[Version(0, 1)] == [d, c, c]
        assert names[Version(0, -1)] == [c, d, c]
        rest = [at for at in range(row.positions.end + 1) if at not in slots]
        for tokens in found.values():
            assert torch.equal(tokens[number, rest], batch.tokens("original")[number, rest])


def test_patched_heads_are_those_of_a_literal_run(
    decoder: Decoder, prompts: list[Prompt], no_gradients: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replications.ioi_circuit.signals.ROWS", 2 * len(VERSIONS) * len(prompts))  # two sets at once
    batch = Batch(prompts, "cpu")
    sets = [[1, decoder.n_heads + 2], [decoder.n_heads], []]
    clean, found = patch(decoder, run_edits(decoder, batch), sets)
    end, rows = batch.at("end"), torch.arange(len(prompts))
    for heads, of_set in zip(sets, found, strict=True):
        for kind, values in zip(VERSIONS, of_set, strict=True):
            other = decoder.forward(tokens_of(batch, kind), batch.mask, keep=True).z

            def edit(layer: int, z: Tensor, heads: list[int] = heads, other: list[Tensor] = other) -> Tensor:
                z = z.clone()
                for head in heads:
                    if head // decoder.n_heads == layer:
                        z[rows, end, head % decoder.n_heads] = other[layer][rows, end, head % decoder.n_heads]
                return z

            final = decoder.forward(batch.tokens("original"), batch.mask, edit).final
            literal = read_difference(decoder.bridge, final[rows, end], batch.names).double().numpy()
            assert values == pytest.approx(literal, abs=1e-4)
    assert np.abs(found[:2, 1:] - clean).max() > 1e-3  # these heads do something
    assert found[:, 0] == pytest.approx(np.tile(clean, (3, 1)), abs=1e-4)  # its own output changes nothing
    assert found[2] == pytest.approx(np.tile(clean, (6, 1)), abs=1e-4)  # no head, no change


def test_edits_exchange_the_tokens_behind_the_names_and_the_second_mention(prompts: list[Prompt]) -> None:
    batch = Batch(prompts, "cpu")
    found, plain = edited_tokens(batch), batch.tokens("original")
    assert torch.equal(found["flipped"], batch.tokens("roles_flipped"))
    for number, row in enumerate(prompts):
        io, s1, s2 = row.positions.io, row.positions.s1, row.positions.s2
        moved = {io + 1: int(plain[number, s1 + 1]), s1 + 1: int(plain[number, io + 1])}
        assert moved[io + 1] != moved[s1 + 1]
        first = int(plain[number, min(io, s1) + 1])
        alike = {io + 1: first, s1 + 1: first}
        edits = {"exchanged": moved, "both": moved | {s2: row.io_id}}
        for name, changed in (edits | {"alike": alike, "alike_flipped": alike | {s2: row.io_id}}).items():
            expected = [changed.get(at, int(token)) for at, token in enumerate(plain[number])]
            assert found[name][number].tolist() == expected


def test_edits_are_patched_as_in_a_literal_run(decoder: Decoder, prompts: list[Prompt], no_gradients: None) -> None:
    batch = Batch(prompts, "cpu")
    heads = [1, decoder.n_heads + 2]
    runs = run_edits(decoder, batch)
    found = patch_edits(decoder, runs, "s2", heads)
    at, end, rows = batch.at("s2"), batch.at("end"), torch.arange(len(prompts))
    others = [decoder.forward(tokens, batch.mask, keep=True).z for tokens in edited_tokens(batch).values()]
    others.append([(one + other) / 2 for one, other in zip(runs.clean.z, others[0], strict=True)])
    assert len(found) == len(others) == len(PATCHES)
    for number, other in enumerate(others):

        def edit(layer: int, z: Tensor, other: list[Tensor] = other) -> Tensor:
            z = z.clone()
            for head in heads:
                if head // decoder.n_heads == layer:
                    z[rows, at, head % decoder.n_heads] = other[layer][rows, at, head % decoder.n_heads]
            return z

        final = decoder.forward(batch.tokens("original"), batch.mask, edit).final
        literal = read_difference(decoder.bridge, final[rows, end], batch.names).double().numpy()
        assert found[number] == pytest.approx(literal, abs=1e-4)
    plain = read_difference(decoder.bridge, runs.clean.final[rows, end], batch.names).numpy()
    assert np.abs(found - plain).max() > 1e-3
    both = patch_edits(decoder, runs, "s2", heads, ("flipped", "both"))
    assert both == pytest.approx(found[[0, 2]], abs=1e-4)


def test_the_fit_gives_the_published_coefficients(prompts: list[Prompt]) -> None:
    """2.31 for position and 0.99 for token, seven percent of the baseline away on average."""
    values = np.tile(np.array(PUBLISHED)[:, None], len(prompts))
    position, token = coefficients(values)
    assert position == pytest.approx(2.31, abs=0.01)
    assert token == pytest.approx(0.99, abs=0.01)
    metrics = measure(values[0], values, np.tile(values[:1], (20, 6, 1)), {"movers": values / 2}, prompts)
    assert metrics["position_signal"].value == pytest.approx(2.31 / 3.55, abs=0.01)
    assert metrics["token_signal"].control("other_heads").difference.value == pytest.approx(0.99 / 3.55, abs=0.01)
    assert metrics["position_signal"].control("other_heads").value == pytest.approx(0, abs=1e-9)
    assert metrics["token_signal"].control("movers").value == pytest.approx(0.99 / 7.1, abs=0.01)
    assert 0.06 < metrics["fit_error"].value < 0.085


def test_signals_of_other_heads_are_taken_off_and_errors_are_those_of_means(prompts: list[Prompt]) -> None:
    """F = 4, 6, 2, 8 on the prompts; these heads lose it all with the place, others a quarter of it with the name."""
    clean = np.array([4.0, 6.0, 2.0, 8.0])
    token, position = np.array(VERSIONS).T
    values = position[:, None] * clean
    other = (0.75 + 0.25 * token)[:, None] * clean
    metrics = measure(clean, values, np.tile(other, (20, 1, 1)), {}, prompts)
    assert metrics["position_signal"].control("other_heads").difference.value == pytest.approx(1)
    assert metrics["token_signal"].control("other_heads").value == pytest.approx(0.25)
    assert metrics["token_signal"].control("other_heads").difference.value == pytest.approx(-0.25)
    assert metrics["fit_error"].value == pytest.approx(0, abs=1e-9)
    wobble = np.array([3.0, -3.0, 3.0, -3.0])  # which means do not see
    assert measure(clean, values + wobble, np.tile(other, (20, 1, 1)), {}, prompts)["fit_error"].value < 1e-9
