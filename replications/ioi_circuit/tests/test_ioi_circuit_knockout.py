"""Knock-outs against hooks, limits, what only the changed positions cost, completeness, self-repair, the size rule."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from common.core.tables import write_table
from common.interp.decoder import Decoder
from common.interp.partial_forward import at_position
from replications.ioi_circuit.completeness import (
    EVERYTHING,
    by_class,
    gaps,
    grown_parts,
    measure_greedy,
    minimality,
    random_parts,
    read_steps,
    steps_table,
)
from replications.ioi_circuit.direct_path import direct_residual
from replications.ioi_circuit.knockout import KnockOut, template_means
from replications.ioi_circuit.name_movers import direct_effects, find_backups
from replications.ioi_circuit.nodes import PLACE_OF_RECEIVER, PLACES, Node, node_set, random_like
from replications.ioi_circuit.settings import Greedy
from replications.ioi_circuit.trivial_circuits import (
    TRIVIAL,
    circuits_of,
    measure_faithfulness,
    measure_roles,
    random_upstream,
    trivial_circuits,
)
from replications.ioi_circuit.verification import choose, label_backups, rank_nodes
from tests.fixtures.ioi_circuit_tiny import NODES, alone, tiny_prompts

pytestmark = pytest.mark.usefixtures("no_gradients")


def every_node(knockout: KnockOut) -> frozenset[Node]:
    decoder = knockout.decoder
    return frozenset(Node(layer, head, None) for layer, head in np.ndindex(decoder.n_layers, decoder.n_heads))


def literal(bridge: TransformerBridge, knockout: KnockOut, row: int, kept: frozenset[Node], *, remove: bool) -> float:
    """One prompt without padding, heads replaced one by one in hooks."""
    prompt = knockout.prompts[row]
    tokens = torch.tensor([prompt.versions["original"].tokens[: prompt.positions.end + 1]])

    def edit(value: Tensor, hook: object, layer: int) -> Tensor:
        value = value.clone()
        for head in range(value.shape[2]):
            for at in range(value.shape[1]):
                inside = any(
                    node.place is None or getattr(prompt.positions, node.place) == at
                    for node in kept
                    if (node.layer, node.head) == (layer, head)
                )
                if inside == remove:
                    value[0, at, head] = knockout.means[layer, row, at, head]
        return value

    hooks = [
        (f"blocks.{layer}.attn.hook_z", lambda value, hook, layer=layer: edit(value, hook, layer))
        for layer in range(bridge.cfg.n_layers)
    ]
    logits = bridge.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1]
    return float(logits[prompt.io_id] - logits[prompt.s_id])


def test_knockout_equals_literal_hooks_with_templates_of_different_length(
    bridge: TransformerBridge, knockout: KnockOut
) -> None:
    """Kept and removed, from each first position on, and nodes at all positions."""
    late = frozenset(node for node in NODES if node.place == "end")
    middle = late | {Node(1, 0, "s2")}
    for remove in (False, True):
        for sets in ([EVERYTHING, NODES, middle, late], [NODES | {Node(2, 2, None)}]):
            fast = knockout.differences(sets, remove=remove)
            slow = [[literal(bridge, knockout, row, kept, remove=remove) for row in range(3)] for kept in sets]
            np.testing.assert_allclose(fast, slow, atol=1e-3, rtol=1e-4)
        assert np.abs(fast[-1] - knockout.differences([EVERYTHING], remove=remove)[0]).max() > 1e-2


def test_each_prompt_has_its_own_positions(knockout: KnockOut) -> None:
    """The known slip keeps the union of the batch's positions: here three positions instead of one."""
    at = torch.arange(knockout.batch.mask.shape[1]).expand(3, -1)
    inside, elsewhere = (knockout._inside([frozenset({Node(1, 0, "end")})], at, layer) for layer in (1, 0))
    assert inside[0, :, :, 0].sum(1).tolist() == [1, 1, 1]
    assert inside.sum() == 3
    assert not elsewhere.any()
    union = torch.zeros_like(inside)
    union[:, :, knockout.batch.at("end"), 0] = True
    assert union.sum() == 9


def test_keeping_everything_is_the_model_and_removing_everything_is_nothing(knockout: KnockOut) -> None:
    nodes = every_node(knockout)
    kept = knockout.differences([nodes, frozenset({Node(0, 0, None)}) & EVERYTHING])
    removed = np.concatenate(
        [knockout.differences([EVERYTHING], remove=True), knockout.differences([nodes], remove=True)]
    )
    np.testing.assert_allclose(kept, removed, atol=1e-4)
    resampled = knockout.differences([nodes], remove=True, ablation="resample")
    zeroed = knockout.differences([nodes], remove=True, ablation="zero")
    assert np.abs(resampled - zeroed).max() > 1e-2


def test_restoring_all_three_positions_differs_from_the_partner_and_nothing_is_the_partner(knockout: KnockOut) -> None:
    partner = knockout.restored([EVERYTHING])[0]
    final = at_position(knockout.partner().final, knockout.batch.at("end"))
    np.testing.assert_allclose(partner, knockout._read(final[None])[0], atol=1e-5)
    assert np.abs(knockout.restored([NODES])[0] - partner).max() > 1e-2


def test_without_roles_the_partner_is_run_and_its_own_names_are_read(decoder: Decoder, knockout: KnockOut) -> None:
    means = {prompt.template: knockout.means[:, row] for row, prompt in enumerate(knockout.prompts)}
    blind = KnockOut(decoder, knockout.prompts, means, "cpu", 50, version="abc")
    for row, prompt in enumerate(knockout.prompts):
        words = prompt.versions["abc"].text.replace(",", "").replace(".", "").split()
        assert words.count(prompt.abc[0]) == 1
        assert blind.names[row].tolist() == [prompt.abc_ids[0], prompt.abc_ids[2]]
        logits = decoder.bridge(torch.tensor([prompt.versions["abc"].tokens[: prompt.positions.end + 1]]))[0, -1]
        expected = float(logits[prompt.abc_ids[0]] - logits[prompt.abc_ids[2]])
        assert blind.differences([EVERYTHING], remove=True)[0, row] == pytest.approx(expected, abs=1e-4)


def test_direct_effects_equal_the_direct_residual_path(bridge: TransformerBridge, knockout: KnockOut) -> None:
    """Head by head the same as formula `direct_residual` with means as partner; a head that is out has none left."""
    decoder, batch = knockout.decoder, knockout.batch
    node = frozenset({Node(1, 2, "end")})
    cache = decoder.forward(batch.tokens("original"), batch.mask, keep=True)
    end = batch.at("end")
    z, mean = (torch.stack([at_position(x, end) for x in layers], 1) for layers in (cache.z, knockout.means))
    expected = direct_residual(bridge, at_position(cache.final, end), z, mean, batch.names, 2)
    together, alone = direct_effects(knockout, node, EVERYTHING)
    _, after = direct_effects(knockout, node, node)
    difference = (expected[..., 0] - expected[..., 1]).flatten(1).T.double().numpy()
    np.testing.assert_allclose(alone, difference, atol=1e-4)
    number = decoder.n_heads + 2
    np.testing.assert_allclose(together, alone[number], atol=1e-4)
    assert np.abs(alone[number]).max() > 1e-2
    np.testing.assert_allclose(after[number], 0, atol=1e-5)
    assert np.abs(after - alone)[-decoder.n_heads :].max() > 1e-4  # heads after it noticed


def test_backup_heads_are_heads_whose_effect_grows(knockout: KnockOut) -> None:
    movers = frozenset({Node(0, 0, "end"), Node(0, 1, "end")})
    every = np.ones(knockout.decoder.n_layers * knockout.decoder.n_heads, dtype=bool)
    growth, backups = find_backups(knockout, movers, every, draws=100, minimum=0.0)
    _, before = direct_effects(knockout, movers, EVERYTHING)
    _, after = direct_effects(knockout, movers, movers)
    whole = knockout.differences([EVERYTHING], remove=True)[0].mean()
    np.testing.assert_allclose(growth, 100 * (before - after).mean(1) / whole, atol=1e-6)
    assert not backups[[0, 1]].any()
    assert not find_backups(knockout, movers, ~every, draws=100, minimum=0.0)[1].any()
    assert not find_backups(knockout, EVERYTHING, every, draws=100, minimum=0.0)[1].any()


def test_the_neutral_baseline_is_half_of_prompt_and_flip(decoder: Decoder, knockout: KnockOut) -> None:
    """Roles exchanged throughout, a neutral head writes the same; here all heads are neutral."""
    neutral = KnockOut(decoder, knockout.prompts, {}, "cpu", 50, baseline="neutral")
    for row, prompt in enumerate(knockout.prompts):
        z = [
            decoder.forward(
                torch.tensor([prompt.versions[version].tokens[: prompt.positions.end + 1]]),
                torch.ones(1, prompt.positions.end + 1, dtype=torch.bool),
                keep=True,
            ).z
            for version in ("original", "roles_flipped")
        ]
        for layer, (one, other) in enumerate(zip(*z, strict=True)):
            mean = neutral.means[layer, row, : prompt.positions.end + 1]
            torch.testing.assert_close(mean, (one + other)[0] / 2, atol=1e-5, rtol=1e-5)
    [kept], [model] = neutral.differences([EVERYTHING]), neutral.differences([EVERYTHING], remove=True)
    assert np.abs(kept - model).max() > 1e-2


def test_random_upstream_keeps_the_writers_and_draws_the_rest_in_its_layers() -> None:
    writers = frozenset({Node(3, 1, "end"), Node(2, 0, "end")})
    circuits = {"circuit": writers | {Node(1, 2, "s2"), Node(0, 1, "s1_next")}, "writers_only": writers}
    drawn = random_upstream(circuits, 5, 40)
    assert all(writers <= nodes for nodes in drawn)
    assert {(node.layer, node.place) for nodes in drawn for node in nodes - writers} == {(1, "s2"), (0, "s1_next")}
    assert {node.head for nodes in drawn for node in nodes - writers} == set(range(5))


def test_the_greedy_part_is_measured_on_other_prompts(knockout: KnockOut) -> None:
    greedy, rival = Greedy(runs=1, iterations=2, candidates=4), frozenset({Node(2, 0, "end"), Node(1, 1, "end")})
    steps, of_rival = (grown_parts(knockout, nodes, greedy) for nodes in (NODES, rival))
    metrics, part = measure_greedy(knockout, NODES, steps, {"favouring_writers": (rival, of_rival)}, 20)
    metric, opened = metrics["greedy_gap"], metrics["greedy_opened"]
    gap = knockout.differences([part], remove=True)[0] - knockout.differences([NODES - part])[0]
    whole = knockout.differences([EVERYTHING], remove=True)[0].mean()
    assert abs(metric.value) == pytest.approx(abs(gap.mean() / whole), abs=1e-4)
    nothing = metric.control("nothing_removed").value
    kept = knockout.differences([NODES])[0].mean()
    assert abs(nothing) == pytest.approx(abs(1 - kept / whole), abs=1e-4)
    assert opened.value == pytest.approx(metric.value - nothing, abs=1e-6)
    of_rivals, _ = measure_greedy(knockout, rival, of_rival, {"circuit": (NODES, steps)}, 20)
    alone = of_rivals["greedy_gap"]
    assert metric.control("favouring_writers").value == pytest.approx(alone.value, abs=1e-4)
    assert opened.control("favouring_writers").value == pytest.approx(of_rivals["greedy_opened"].value, abs=1e-4)
    assert alone.control("circuit").value == pytest.approx(metric.value, abs=1e-4)
    assert alone.value != pytest.approx(metric.value, abs=1e-3)


def test_grown_parts_come_back_from_their_table(knockout: KnockOut, tmp_path: Path) -> None:
    grown = grown_parts(knockout, NODES, Greedy(runs=2, iterations=3, candidates=2))
    write_table(tmp_path / "grown.csv", steps_table(grown))
    for (part, values), (expected, of_expected) in zip(read_steps(tmp_path / "grown.csv"), grown, strict=True):
        assert part == expected
        np.testing.assert_allclose(values, of_expected, rtol=1e-5)


def test_suppressors_are_one_way_to_hold_the_subject_down_with_all_that_comes_before() -> None:
    rows = [
        (3, 1, "end", "s_suppressing"),
        (3, 0, "end", "name_mover"),
        (2, 0, "s2", "induction"),
        (1, 1, "s1_next", ""),
    ]
    chosen = pd.DataFrame(rows, columns=["layer", "head", "place", "class"]).assign(receiver="logits")
    assert circuits_of(chosen)["suppressors"] == {Node(3, 1, "end"), Node(2, 0, "s2"), Node(1, 1, "s1_next")}


def trivial_sets(circuit: frozenset[Node]) -> dict[str, frozenset[Node]]:
    return dict.fromkeys(TRIVIAL, NODES) | {"circuit": circuit}


def test_the_part_that_repeats_is_0_without_a_node_and_1_for_the_model(decoder: Decoder) -> None:
    drawn = tiny_prompts([0, 1])
    means, rows = template_means(decoder, drawn), [drawn[index] for index in (0, 1, 12, 13)]
    knockout, blind = (KnockOut(decoder, rows, means, "cpu", 50, version=name) for name in ("original", "abc"))
    for circuit in (NODES, every_node(knockout)):
        kept = measure_faithfulness(knockout, blind, knockout, trivial_sets(circuit), 20, 20)["repetition_kept"]
        of = [where.differences([circuit])[0] - where.differences([EVERYTHING])[0] for where in (knockout, blind)]
        model = [
            where.differences([EVERYTHING], remove=True)[0] - where.differences([EVERYTHING])[0]
            for where in (knockout, blind)
        ]
        assert kept.value == pytest.approx((of[0] - of[1]).sum() / (model[0] - model[1]).sum(), abs=1e-3)
        assert "no_node" not in [control.name for control in kept.controls], "0 by construction"
        upstream = random_upstream({"circuit": circuit, "writers_only": NODES}, decoder.n_heads, 20)
        gain = np.stack([where.differences(upstream) - where.differences([EVERYTHING]) for where in (knockout, blind)])
        expected = (gain[0] - gain[1]).mean(0).sum() / (model[0] - model[1]).sum()
        assert kept.control("random_upstream").value == pytest.approx(expected, abs=1e-3)
    assert kept.value == pytest.approx(1, abs=1e-3)


def test_what_turns_with_the_roles_keeps_the_names_in_the_first_clause(decoder: Decoder, knockout: KnockOut) -> None:
    """Without a node nothing carries S2 to END, so a flip changes nothing there."""
    means = {prompt.template: knockout.means[:, row] for row, prompt in enumerate(knockout.prompts)}
    flipped = KnockOut(decoder, knockout.prompts, means, "cpu", 50, version="roles_flipped")
    for row, prompt in enumerate(knockout.prompts):
        logits = decoder.bridge(alone(prompt, "roles_flipped"))[0, -1]
        expected = float(logits[prompt.io_id] - logits[prompt.s_id])
        assert flipped.differences([EVERYTHING], remove=True)[0, row] == pytest.approx(expected, abs=1e-4)
    every = torch.arange(knockout.batch.mask.shape[1]).expand(len(knockout.prompts), -1)
    # S1+1 follows the first mention of the name that comes twice
    for where, name in ((knockout, "s1"), (flipped, "io")):
        node = where._inside([frozenset({Node(1, 0, "s1_next")})], every, 1)[0, :, :, 0]
        assert node.nonzero()[:, 1].tolist() == [getattr(prompt.positions, name) + 1 for prompt in knockout.prompts]
    of_nodes, of_model = (measure_roles(knockout, flipped, trivial_sets(one)) for one in (NODES, every_node(knockout)))
    assert of_model["roles_kept"].value == pytest.approx(1, abs=1e-3)
    assert of_nodes["roles_kept"].control("no_node").value == pytest.approx(0, abs=1e-4)
    gain = knockout.differences([NODES])[0] - flipped.differences([NODES])[0]
    whole = [where.differences([EVERYTHING], remove=True)[0] for where in (knockout, flipped)]
    assert of_nodes["roles_kept"].value == pytest.approx(gain.sum() / (whole[0] - whole[1]).sum(), abs=1e-3)


def test_trivial_circuits_are_chosen_by_strength_alone() -> None:
    heads = heads_table()
    found = trivial_circuits(rank_nodes(heads), heads, 4)
    by_effect = heads.sort_values("logits")
    strongest = [(int(layer), int(head)) for layer, head in zip(by_effect["layer"], by_effect["head"], strict=True)]
    assert found["favouring_writers"] == {Node(layer, head, "end") for layer, head in strongest[:4]}
    every = trivial_circuits(rank_nodes(heads), heads, 12)["favouring_writers"]
    assert len(every) == (heads["logits"] < 0).sum() < 12  # heads against the answer are none of them
    ranked = rank_nodes(heads).iloc[:4]
    assert found["top_four_nodes"] == node_set(ranked)
    assert found["top_four_nodes"] != found["favouring_writers"]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_random_sets_have_the_same_layers_and_positions(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    nodes = frozenset(
        Node(int(generator.integers(4)), int(generator.integers(5)), PLACES[generator.integers(3)])
        for _ in range(count)
    )
    expected = Counter((node.layer, node.place) for node in nodes)
    for other in random_like(nodes, 5, 3, seed):
        assert Counter((node.layer, node.place) for node in other) == expected


def test_completeness_takes_the_same_part_out_of_circuit_and_model(knockout: KnockOut) -> None:
    part = frozenset({Node(1, 2, "end")})
    removed, kept = by_class(knockout, {"circuit": NODES, "other": part}, {"mover": part})
    np.testing.assert_allclose(removed["mover"], knockout.differences([part], remove=True)[0], atol=1e-5)
    np.testing.assert_allclose(kept["circuit"]["mover"], knockout.differences([NODES - part])[0], atol=1e-4)
    np.testing.assert_allclose(kept["other"]["mover"], knockout.differences([EVERYTHING])[0], atol=1e-4)


def test_greedy_takes_the_worst_candidate_of_each_step(knockout: KnockOut) -> None:
    """With all nodes as candidates the first step is the largest gap of any single node."""
    single = [frozenset({node}) for node in sorted(NODES)]
    left, gone = knockout.differences([NODES - one for one in single]), knockout.differences(single, remove=True)
    both = left.mean(1) - gone.mean(1)
    grown = grown_parts(knockout, NODES, Greedy(runs=1, iterations=9, candidates=9))
    assert [len(part) for part, _ in grown] == list(range(1, len(NODES) + 1))
    steps = np.stack([values for _, values in grown])
    assert abs(steps[0, 0] - steps[0, 1]) == pytest.approx(np.abs(both).max(), abs=1e-4)
    np.testing.assert_allclose(steps[-1, 0], knockout.differences([EVERYTHING])[0].mean(), atol=1e-4)
    assert len(random_parts(knockout, NODES, 5, seed=0)) == 5
    assert gaps(np.array([[1.0, 3.0]]), 4.0).tolist() == [0.5]


def test_minimality_is_the_change_by_one_node_after_its_class(knockout: KnockOut) -> None:
    rows = [(node.layer, node.head, node.place, "name_mover") for node in sorted(NODES)]
    table = pd.DataFrame(rows, columns=["layer", "head", "place", "class"])
    table.loc[0, "class"] = "uncounted"
    found = minimality(knockout, table)
    whole = knockout.differences([EVERYTHING], remove=True)[0].mean()
    first, second = (node_set(table.loc[[index]]) for index in (0, 1))
    rest = node_set(table.loc[[2, 3]])
    changes = [
        knockout.differences([NODES, NODES - first]),
        knockout.differences([NODES - rest, NODES - rest - second]),
    ]
    for score, (before, after) in zip(found, [x.mean(1) for x in changes], strict=False):
        assert score == pytest.approx(abs(before - after) / abs(whole) * np.sign(whole), abs=2e-3)


def heads_table() -> pd.DataFrame:
    grid = pd.DataFrame([(layer, head) for layer in range(4) for head in range(3)], columns=["layer", "head"])
    for number, name in enumerate(PLACE_OF_RECEIVER):
        grid[name] = np.linspace(-1, 1, len(grid)) * (number + 1)
        grid[f"{name}_io"] = grid[f"{name}_s"] = grid[name] / 2
        grid[f"{name}_class"] = ["name_mover" if index == 0 else "" for index in range(len(grid))]
    return grid


def test_nodes_are_ranked_by_their_largest_effect() -> None:
    ranked = rank_nodes(heads_table())
    assert len(ranked) == 12 * 3
    assert ranked["effect"].abs().is_monotonic_decreasing
    assert ranked.iloc[0]["place"] == "s1_next"
    assert len(node_set(ranked)) == len(ranked)


def test_the_size_rule_and_its_verdict() -> None:
    ranked = rank_nodes(heads_table())
    least = int(ranked.index[ranked["class"] == "name_mover"].max()) + 1
    points = pd.DataFrame({"nodes": [2, least, 36], "heads": [2, 6, 12], "discovery": [0.9, 0.6, 0.7]})
    assert choose(points, ranked, 12, 0.5, 0.5) == (least, True)
    assert choose(points, ranked, 12, 1.0, 0.5) == (36, True)
    assert choose(points, ranked, 12, 0.5, 0.65) == (least, False)  # holds the named heads, keeps too little
    assert choose(points, ranked, 12, 0.2, 0.5) == (2, False)  # no size holds the named heads in so few
    assert choose(points, ranked, 12, 0.1, 0.5) == (2, False)


def test_backups_are_labelled_after_the_choice_and_named_heads_keep_their_class() -> None:
    heads = heads_table().assign(backup=0.0)
    heads.loc[[1, 0], "backup"] = 1.0
    chosen = rank_nodes(heads)
    label_backups(chosen, heads)
    backup = chosen[chosen["class"] == "backup"]
    assert set(zip(backup["layer"], backup["head"], backup["place"], strict=True)) == {(0, 1, "end")}
