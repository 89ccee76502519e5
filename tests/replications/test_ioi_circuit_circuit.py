"""Rules, knock-outs and finders: planted truth, limits, the literal version, and claims that fail without a circuit."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from common.claims import ClaimsFile, evaluate
from common.config import ROOT
from common.decoder import Decoder
from common.errors import UserError
from common.models import load_model
from common.rerun import at_position
from replications.ioi_circuit import ground_truth, ground_truth_figures, path_patching_figures, verification_figures
from replications.ioi_circuit.batches import Batch, balanced, family_threshold, t_values
from replications.ioi_circuit.classes import Signs, direct_classes, previous_classes, s2_classes, signs
from replications.ioi_circuit.dataset import Prompt, draw_prompts, vocabulary
from replications.ioi_circuit.knockout import PLACES, KnockOut, Node, node_set, random_like, template_means
from replications.ioi_circuit.labels import PLACE_OF_RECEIVER
from replications.ioi_circuit.planted import TRUTH
from replications.ioi_circuit.residual import direct_residual
from replications.ioi_circuit.self_repair import direct_effects
from replications.ioi_circuit.verification import EVERYTHING, measure, rank_nodes
from tests.replications.ioi_circuit_tiny import SHAPES, save_tiny_model, tiny_tokenizer

CLAIMS = ClaimsFile.model_validate(yaml.safe_load((ROOT / "replications/ioi_circuit/claims.yaml").read_text())).claims


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return draw_prompts(vocabulary(tiny_tokenizer(), 40), [0, 1], per_cell=1)


@pytest.fixture(scope="module", params=SHAPES)
def bridge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TransformerBridge:
    return load_model(save_tiny_model(request.param, tmp_path_factory.mktemp(request.param)).parent)


@pytest.fixture(scope="module")
def knockout(bridge: TransformerBridge, prompts: list[Prompt]) -> KnockOut:
    decoder = Decoder(bridge, 30)
    chosen = [prompts[index] for index in (0, 7, 13)]
    assert len({prompt.positions.end for prompt in chosen}) == 3
    with torch.no_grad():
        return KnockOut(decoder, chosen, template_means(decoder, prompts, "cpu"), "cpu", batch_size=6)


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
    kept = frozenset({Node(0, 1, "s1_next"), Node(1, 0, "s2"), Node(1, 2, "end"), Node(2, 1, "end"), Node(2, 2, None)})
    with torch.no_grad():
        for remove in (False, True):
            fast = knockout.differences([EVERYTHING, kept], remove=remove)
            slow = [literal(bridge, knockout, row, kept, remove=remove) for row in range(3)]
            np.testing.assert_allclose(fast[1], slow, atol=1e-3, rtol=1e-4)
            assert np.abs(fast[0] - fast[1]).max() > 1e-2


def test_mask_keeps_each_prompt_at_its_own_position(knockout: KnockOut) -> None:
    """The known slip keeps the union of the batch's positions: here three positions instead of one."""
    mask = knockout.keep_mask(frozenset({Node(1, 0, "end")}))
    assert mask[1, :, :, 0].sum(1).tolist() == [1, 1, 1]
    assert mask.sum() == 3
    union = torch.zeros_like(mask)
    union[1, :, knockout.batch.at("end"), 0] = True
    assert union.sum() == 9


def test_keeping_everything_is_the_model_and_removing_everything_is_nothing(knockout: KnockOut) -> None:
    nodes = every_node(knockout)
    with torch.no_grad():
        kept = knockout.differences([nodes, EVERYTHING])
        removed = knockout.differences([EVERYTHING, nodes], remove=True)
        np.testing.assert_allclose(kept, removed, atol=1e-5)
        resampled = knockout.differences([nodes], remove=True, ablation="resample")
        zeroed = knockout.differences([nodes], remove=True, ablation="zero")
    assert np.abs(resampled - zeroed).max() > 1e-2


def test_direct_effects_equal_the_direct_residual_path(bridge: TransformerBridge, knockout: KnockOut) -> None:
    """Head by head the same as formula `direct_residual` with means as partner; a head that is out has none left."""
    decoder, batch = knockout.decoder, knockout.batch
    node = frozenset({Node(1, 2, "end")})
    with torch.no_grad():
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


@pytest.mark.parametrize("half", [0, 1])
def test_balanced_prompts_stay_in_their_half(prompts: list[Prompt], half: int) -> None:
    templates = {prompt.template for prompt in prompts if prompt.half == half}
    chosen = balanced(prompts, half, 2 * len(templates))
    assert {prompt.half for prompt in chosen} == {half}
    assert set(Counter(prompt.template for prompt in chosen).values()) == {2}
    assert {prompt.order for prompt in chosen} == {"ABBA", "BABA"}
    assert len({prompt.versions["original"].text for prompt in chosen}) == len(chosen)


def test_family_threshold_is_crossed_by_an_effect_and_by_luck_one_time_in_twenty() -> None:
    generator = np.random.default_rng(0)
    crossings = []
    for _ in range(60):
        values = generator.normal(size=(30, 14))
        crossings.append(np.abs(t_values(values)).max() > family_threshold(values, 100))
    assert np.mean(crossings) < 0.15
    values[3] += 3
    found = signs(values, 200)
    assert found.sign[3] == 1
    assert np.abs(found.sign).sum() == 1


def of(*values: int) -> Signs:
    array = np.array(values, dtype=float)
    return Signs(mean=array, sign=array, threshold=1.0)


def test_rules_ask_for_effect_and_attention_and_copying() -> None:
    looks = {"to_io": of(1, 1, -1, 1, 0), "to_s2": of(-1, -1, 1, -1, 0)}
    copies = {"copy_io": of(1, -1, -1, -1, 1), "copy_s": of(1, -1, -1, 1, 1)}
    found = direct_classes(of(-1, 1, -1, -1, 0), looks, copies)
    assert found == {0: "name_mover", 1: "negative", 2: "s_suppressing", 3: "unclassified"}

    looks = {"induction": of(1, 0, 1), "duplicate": of(0, 1, 0)}
    repeated = {name: np.array([0.9, 0.9, 0.0]) for name in ("induction", "duplicate")}
    repeated |= {f"{name}_null": np.full(3, 0.1) for name in ("induction", "duplicate")}
    found = s2_classes([of(-1, -1, -1), of(0, 0, 0)], looks, repeated)
    assert found == {0: "induction", 1: "duplicate", 2: "unclassified"}
    assert s2_classes([of(1, 1, 0)], looks, repeated) == {0: "unclassified", 1: "unclassified"}

    repeated = {"previous": np.array([0.9, 0.05, 0.9]), "previous_null": np.full(3, 0.1)}
    found = previous_classes(of(-1, -1, 0), {"previous": of(1, 1, 1)}, repeated)
    assert found == {0: "previous", 1: "unclassified"}


@pytest.fixture(scope="module")
def planted() -> dict[str, tuple[pd.DataFrame, dict[str, float]]]:
    torch.set_num_threads(1)
    return {name: ground_truth.one_model(7, name == "twin", 14, 1.0, 100) for name in ("planted", "twin")}


def test_planted_circuit_is_recovered_and_its_twin_is_empty(
    planted: dict[str, tuple[pd.DataFrame, dict[str, float]]],
) -> None:
    record, twin = planted["planted"][1], planted["twin"][1]
    assert record["named_right"] == 1
    assert record["named_wrong"] == 0
    assert all(record[f"auroc_{finder}"] > 0.95 for finder in ("path_patching", "activation_patching", "attribution"))
    assert twin["named_right"] == twin["named_wrong"] == 0
    assert twin["auroc_path_patching"] < 0.9


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_auroc_limits(seed: int) -> None:
    truth = np.zeros((3, 16))
    for layer, head, place in TRUTH:
        truth[PLACES.index(place), 4 * layer + head] = 1  # type: ignore[arg-type]
    noise = np.random.default_rng(seed).random(truth.shape)
    assert ground_truth.auroc(truth) == 1
    assert ground_truth.auroc(-truth) == 0
    assert ground_truth.auroc(np.zeros_like(truth)) == 0.5
    assert ground_truth.auroc(noise) == pytest.approx(1 - ground_truth.auroc(-noise))


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


def runs_of(prompts: list[Prompt], circuit: float, complement: float) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    sizes = {"model": 5.0, "circuit": circuit, "complement": complement, "nothing": 0.0}
    sizes |= {f"{side}_without_{name}": 1.0 for side in ("model", "circuit") for name in ("previous", "induction")}
    return {name: size + generator.normal(0, 0.2, len(prompts)) for name, size in sizes.items()}


def test_claims_of_the_circuit_fail_when_it_is_no_better_than_random_heads(prompts: list[Prompt]) -> None:
    generator = np.random.default_rng(1)

    def verdicts(circuit: float, complement: float) -> dict[str, str]:
        runs = runs_of(prompts, circuit, complement)
        random = {name: runs[name][None] for name in ("model", "circuit", "complement")}
        random |= {"kept": generator.normal(0, 0.2, (100, len(prompts)))}
        random |= {"removed": generator.normal(5, 0.2, (100, len(prompts)))}
        metrics = measure(runs, random, prompts, prompts, 100)
        claims = [claim for claim in CLAIMS if claim.part == "verification" and "gpt2" not in claim.models]
        return {claim.id: evaluate("ioi_circuit", claim, claim.models[0], metrics).verdict for claim in claims}

    good = verdicts(4.6, -1.0)
    assert set(good.values()) == {"reproduced"}
    assert "reproduced" not in verdicts(0.1, 4.9).values()


def test_claims_of_the_ground_truth_hold_and_fail_with_it(
    planted: dict[str, tuple[pd.DataFrame, dict[str, float]]],
) -> None:
    """Two seeds with the planted record and its twin; then with the twin on both sides."""
    record, twin = planted["planted"][1], planted["twin"][1]
    claims = [claim for claim in CLAIMS if claim.part == "ground_truth"]
    assert {claim.metric for claim in claims} >= {"named_right", "auroc_path_patching"}
    for claim in claims:
        rows = [{**found, "seed": float(seed)} for seed in (0, 1) for found in (record, twin)]
        broken = [{**twin, "seed": float(seed), "twin": side} for seed in (0, 1) for side in (0.0, 1.0)]
        good, bad = (ground_truth.measure(pd.DataFrame(content)) for content in (rows, broken))
        assert evaluate("ioi_circuit", claim, "toy", good).verdict == "reproduced", claim.id
        assert evaluate("ioi_circuit", claim, "toy", bad).verdict == "not reproduced", claim.id


def test_figures_of_the_circuit_are_drawn_from_tables(
    planted: dict[str, tuple[pd.DataFrame, dict[str, float]]], prompts: list[Prompt], tmp_path: Path
) -> None:
    heads_table().to_csv(tmp_path / "heads.csv", index=False)
    looked = pd.DataFrame({"head": ["1.2"] * 4, "class": "name_mover", "name": ["IO", "S"] * 2})
    looked["attention"] = looked["written"] = [0.1, 0.2, 0.3, 0.4]
    looked.to_csv(tmp_path / "attention.csv", index=False)
    for name in ("sweeps", "attention"):
        path_patching_figures.path_patching(
            heads=tmp_path / "heads.csv",
            attention=tmp_path / "attention.csv",
            figure=name,
            out=tmp_path / f"{name}_figure.svg",
        )
    pd.concat([table for table, _ in planted.values()]).to_csv(tmp_path / "scores.csv", index=False)
    ground_truth_figures.planted(scores=tmp_path / "scores.csv", out=tmp_path / "planted_figure.svg")

    circuit = pd.DataFrame([(*node, name) for node, name in TRUTH.items()], columns=["layer", "head", "place", "class"])
    circuit["effect"], circuit["minimality"] = -np.arange(1.0, 8), np.arange(1, 8) / 10
    receiver = {place: name for name, place in reversed(PLACE_OF_RECEIVER.items())}
    circuit["receiver"] = circuit["place"].map(receiver)
    circuit.to_csv(tmp_path / "circuit.csv", index=False)
    pd.DataFrame(
        {"nodes": [2, 4], "heads": [2, 4], "of_heads": 16, "discovery": [0, 1], "verification": [0, 1]}
    ).to_csv(tmp_path / "curve.csv", index=False)
    pd.DataFrame({"class": ["none", "induction"], "circuit": [3.0, 1.0], "model": [4.0, 2.0]}).to_csv(
        tmp_path / "knockouts.csv", index=False
    )
    ratios = {"ratio_of_averages": 0.5, "average_of_ratios": 0.7, "median_of_ratios": 0.6}
    grid = pd.DataFrame(
        [{"ablation": "mean", "positions": "all", "prompts_per_mean": group} | ratios for group in "7a"]
    )
    grid.to_csv(tmp_path / "grid.csv", index=False)
    runs = runs_of(prompts, 4.0, 0.0)
    random = {name: runs[name][None] for name in ("model", "circuit", "complement")}
    random |= {name: np.zeros((20, len(prompts))) for name in ("kept", "removed")}
    from common.records import write_metrics
    from replications.ioi_circuit.clustering import exact

    found = measure(runs, random, prompts, prompts, 20) | {"circuit_heads_share": exact(0.4, "share", "made up", 16)}
    write_metrics(tmp_path / "metrics.json", found)
    for name in ("curve", "completeness", "minimality", "grid", "diagram"):
        verification_figures.verification(
            metrics=tmp_path / "metrics.json",
            circuit=tmp_path / "circuit.csv",
            curve=tmp_path / "curve.csv",
            knockouts=tmp_path / "knockouts.csv",
            grid=tmp_path / "grid.csv",
            figure=name,
            out=tmp_path / f"{name}_figure.svg",
        )
    assert len(list(tmp_path.glob("*_figure.*"))) == 8 * 5


def test_a_model_without_separable_heads_is_a_clear_error(bridge: TransformerBridge, prompts: list[Prompt]) -> None:
    from replications.ioi_circuit.path_patching import discover

    decoder = Decoder(bridge, 30)
    few = balanced(prompts, 1, 7)
    total = decoder.n_layers * decoder.n_heads
    nothing = of(*[0] * total)
    looks = {name: nothing for name in ("to_io", "to_s2", "duplicate", "induction", "previous")}
    with torch.no_grad(), pytest.raises(UserError, match="no circuit to follow back"):
        discover(decoder, few, few, looks, {"copy_io": nothing, "copy_s": nothing}, {}, 1.0, 100)
    assert Batch(few, "cpu").tokens("original").shape == Batch(few, "cpu").mask.shape
