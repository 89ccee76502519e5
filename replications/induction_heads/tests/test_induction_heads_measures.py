"""The steps of the induction-heads replication on planted and tiny models."""

import numpy as np
import pytest
import torch

from common.core.claims import evaluate, load_claims
from common.core.metrics import read_metrics
from common.core.statistics import over_seeds
from common.toys.settings import Optimisation
from common.toys.training import Trained
from common.toys.transformer import initial_weights
from replications.induction_heads.arm import ArmResult, load_arm, save_arm
from replications.induction_heads.arm_settings import Arm, Sizes, Text
from replications.induction_heads.circuits import lowest, roles, without
from replications.induction_heads.data import one_shot
from replications.induction_heads.evaluation import gain, losses_on
from replications.induction_heads.language_model import run_pass
from replications.induction_heads.measure_ablations import measure_ablations
from replications.induction_heads.measure_heads import measure_heads
from replications.induction_heads.measure_phase_change import measure_phase_change
from replications.induction_heads.score_model import choose
from replications.induction_heads.train import train_arm
from tests.common.test_heads import LENGTH, VOCAB, hand_built
from tests.fixtures.native_bridge import native_bridge

TEXT = Text(length=LENGTH, d_vocab=VOCAB, shortest=4, longest=9, shortest_block=4, longest_block=6)
SIZES = Sizes(d_model=16, n_heads=2, d_head=8)
TINY = Optimisation(steps=20, batch=4, learning_rate=0.01, warmup=2, beta1=0.9, beta2=0.98, weight_decay=0.01, clip=1.0)
CLAIMS = {claim.id: claim for claim in load_claims("induction_heads")}


def planted(weights, shape):
    """The same weights at every snapshot but the first two, which are random: an arm that changes and then stays."""
    early = initial_weights(shape, [0, 1])
    snapshots = {
        name: torch.stack([early[name], early[name], value.expand(2, *value.shape[1:])])
        for name, value in weights.items()
    }
    return ArmResult(shape, TEXT, [0, 1], [0, 1, 2], [0, 1, 2], Trained(snapshots, torch.zeros(2, 2), {}))


@pytest.fixture(scope="module")
def circuit():
    """The hand-built circuit with a second, idle head in each layer."""
    shape, weights = hand_built(loud=3.0)
    wide = shape.model_copy(update={"n_heads": 2})
    for name in [name for name in weights if ".attn." in name]:
        weights[name] = torch.cat([weights[name], torch.zeros_like(weights[name])], 1)
    return wide, weights


def test_roles_of_the_hand_built_circuit(circuit):
    shape, weights = circuit
    who = roles(weights, shape, one_shot(TEXT, 32, 1))
    assert who.induction[0].tolist() == [[False, False], [True, False]]
    assert who.previous[0].tolist() == [[True, False], [False, False]]
    assert who.other_first[0].tolist() == [[False, True], [False, False]]
    assert not bool((who.others & who.induction).any())
    assert int(who.others.sum()) == int(who.induction.sum())


def test_ablations_of_the_hand_built_circuit(circuit, tmp_path):
    save_arm(tmp_path / "two_layers.safetensors", planted(circuit[1], circuit[0]))
    files = {"metrics": tmp_path / "metrics.json", "table": tmp_path / "table.csv"}
    measure_ablations(arms=[tmp_path / "two_layers.safetensors"], held_out=32, **files)
    found = {name: metric.value for name, metric in read_metrics(files["metrics"]).items()}
    assert found["gain_lost_induction_kept_two_layers"] > 0.8
    assert found["gain_lost_previous_full_two_layers"] > 0.8
    assert found["gain_lost_previous_kept_two_layers"] == pytest.approx(0, abs=0.05)
    assert found["gain_lost_other_first_full_two_layers"] == pytest.approx(0, abs=1e-6)
    assert found["prefix_lost_previous_full_two_layers"] > 0.5
    assert found["along_induction_kept_two_layers"] < 0


def test_removing_every_head_leaves_no_gain(circuit):
    shape, weights = circuit
    held = one_shot(TEXT, 32, 1)
    everything = torch.ones(1, 2, 2, dtype=torch.bool)
    intact = gain(losses_on(weights, held, shape), held)
    assert float(intact) > 1.5
    assert float(gain(losses_on(weights, held, shape, ablation=without(everything)), held)) < 0


def test_lowest_never_takes_excluded_heads():
    score = torch.tensor([[[0.3, torch.inf], [0.1, 0.2]]])
    assert lowest(score, torch.tensor([2]))[0].tolist() == [[False, False], [True, True]]
    assert int(lowest(score, torch.tensor([4])).sum()) == 3


def tiny_arm(folder, name, **changes):
    settings = {"n_layers": 2, "keys": "plain", "positions": "shortformer", "mlp": "none", "rate": 1.0, "duration": 1.0}
    train_arm(
        name=name, arm=Arm(**{**settings, "seeds": 2, **changes}), sizes=SIZES, text=TEXT, optimisation=TINY,
        held_out=8, measure_every=5, snapshots=[0, 5, 20], seeds=[0, 1, 2], device="cpu",
        out=folder / f"{name}.safetensors",
    )  # fmt: skip
    return folder / f"{name}.safetensors"


ARMS = {
    "one_layer": {"n_layers": 1},
    "one_layer_smeared": {"n_layers": 1, "keys": "smeared"},
    "two_layers": {},
    "two_layers_smeared": {"keys": "smeared"},
    "two_layers_added": {"positions": "standard"},
    "three_layers": {"n_layers": 3, "duration": 2.0},
    "two_layers_mlp": {"mlp": "relu"},
}


TINY_PARTS = ("phase_change", "heads", "ablations")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Every arm, far too small to learn anything, and the metrics of all parts."""
    folder = tmp_path_factory.mktemp("arms")
    arms = [tiny_arm(folder, name, **changes) for name, changes in ARMS.items()]
    paths = {part: folder / f"{part}.json" for part in TINY_PARTS}
    measure_phase_change(
        arms=arms, warmup=2, late=[14, 15], early=[3], metrics=paths["phase_change"], curves=folder / "curves.csv",
        indices=folder / "indices.csv", heads=folder / "heads_path.csv", paths=folder / "paths.csv",
    )  # fmt: skip
    two = folder / "two_layers.safetensors"
    measure_heads(
        arms=arms, example=two, held_out=8, metrics=paths["heads"], heads=folder / "heads.csv",
        attention=folder / "attention.csv",
    )  # fmt: skip
    measure_ablations(arms=[two], held_out=8, metrics=paths["ablations"], table=folder / "ablations.csv")
    return folder, {part: read_metrics(path) for part, path in paths.items()}


@pytest.mark.parametrize(
    "name", [name for name, claim in CLAIMS.items() if claim.models == ["toy"] and claim.part in TINY_PARTS]
)
def test_untrained_models_fail_every_claim(tiny, name):
    claim = CLAIMS[name]
    found = evaluate("induction_heads", claim, "toy", tiny[1][claim.part])
    if name in (
        "one_layer_does_not",
        "previous_token_heads_only_steer",
    ):  # absence is asserted: the control must fail it
        assert found.control.fails_assertion is not True
    assert found.verdict != "reproduced"


def test_the_same_seed_gives_the_same_bytes_and_files_are_read_back(tiny, tmp_path):
    again = tiny_arm(tmp_path, "two_layers")
    assert again.read_bytes() == (tiny[0] / "two_layers.safetensors").read_bytes()
    arm = load_arm(again)
    assert arm.seeds == [0, 1]
    assert arm.measure_at == [0, 5, 10, 15, 20]
    assert arm.measured("prefix").shape == (5, 2, 2, 2)
    assert load_arm(tiny[0] / "three_layers.safetensors").measure_at[-1] == 40


def test_timing_claim_on_planted_times():
    claim = CLAIMS["smeared_keys_come_earlier"]

    def verdict(ours):
        theirs = [200.0, 220.0, 190.0, 210.0, 205.0]
        names = {"smeared_over_plain": [a / 205 for a in ours], "plain_over_plain": [b / 205 for b in theirs]}
        metrics = {name: over_seeds(values, unit="1", formula="planted") for name, values in names.items()}
        gap = np.subtract(names["smeared_over_plain"], names["plain_over_plain"]).tolist()
        metrics["smeared_over_plain_minus_plain"] = over_seeds(gap, unit="1", formula="planted")
        return evaluate("induction_heads", claim, "toy", metrics).verdict

    assert verdict([90.0, 95.0, 88.0, 92.0, 91.0]) == "reproduced"
    assert verdict([205.0, 200.0, 199.0, 221.0, 190.0]) == "not reproduced"


def test_head_choice_of_a_language_model():
    score = {name: torch.zeros(4, 5) for name in ("induction", "previous", "duplicate")}
    score["induction"][2, 1], score["induction"][3, 4], score["induction"][3, 0] = 0.9, 0.5, 0.3
    score["previous"][0, 3], score["previous"][3, 2] = 0.8, 0.95  # the second lies above the first induction head
    found = choose(score)
    assert found["induction"] == [(2, 1), (3, 4)]
    assert found["previous"] == [(0, 3)]
    assert [layer for layer, _ in found["induction_others"]] == [2, 3]
    assert not set(found["induction_others"]) & {(2, 1), (3, 4)}


@pytest.fixture(scope="module")
def bridge():
    return native_bridge(2)


def test_ablation_of_a_language_model(bridge):
    tokens = torch.randint(11, (3, 10), generator=torch.Generator().manual_seed(0))
    intact = run_pass(bridge, tokens, keep=[0, 1])
    logits = bridge(tokens)
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    torch.testing.assert_close(intact.losses.flatten(), expected)
    assert torch.equal(run_pass(bridge, tokens, given=intact.patterns).losses, intact.losses)
    full = run_pass(bridge, tokens, removed=[(0, 0), (0, 1)], keep=[1])
    kept = run_pass(bridge, tokens, removed=[(0, 0), (0, 1)], keep=[1], given=intact.patterns)
    assert torch.equal(kept.patterns[1], intact.patterns[1])
    assert not torch.allclose(full.patterns[1], intact.patterns[1], atol=1e-6)
    assert not torch.allclose(full.losses, kept.losses, atol=1e-6)
