"""The steps of the induction-heads replication on planted and tiny models."""

from types import SimpleNamespace

import pytest
import torch

from common.core.metrics import read_metrics
from common.core.step import RunInfo
from common.interp.decoder import Decoder
from common.toys.settings import Optimisation
from common.toys.training import Trained
from common.toys.transformer import initial_weights
from replications.induction_heads.arm import ArmResult, load_arm, save_arm
from replications.induction_heads.data import one_shot
from replications.induction_heads.evaluation import gain, losses_on, lowest, roles, without
from replications.induction_heads.language_model import run_pass
from replications.induction_heads.measure_ablations import MeasureAblationsFiles, measure_ablations, random_others
from replications.induction_heads.measure_heads import MeasureHeadsFiles, measure_heads
from replications.induction_heads.measure_model import writing_metrics
from replications.induction_heads.measure_phase_change import MeasurePhaseChangeFiles, measure_phase_change
from replications.induction_heads.model_heads import DRAWS, choose
from replications.induction_heads.model_weights import after_first_block, final_read, ov_read, writing_scores
from replications.induction_heads.settings import (
    Arm,
    HeldOutSize,
    MeasurePhaseChange,
    Sizes,
    Text,
    TrainArm,
    Training,
)
from replications.induction_heads.train import TrainFiles, train_arm
from tests.common.test_head_scores import LENGTH, VOCAB, hand_built
from tests.fixtures.native_bridge import native_bridge

TEXT = Text(length=LENGTH, d_vocab=VOCAB, shortest_block=4, longest_block=6, copies=3)
SIZES = Sizes(d_model=16, n_heads=2, d_head=8)
TINY = Optimisation(steps=20, batch=4, learning_rate=0.01, warmup=2, beta1=0.9, beta2=0.98, weight_decay=0.01, clip=1.0)
TRAINING = Training(
    sizes=SIZES, text=TEXT, optimisation=TINY, held_out=8, measure_every=5, snapshots=[0, 5, 20]
)  # fmt: skip
RUN = RunInfo(scale="smoke", seeds=[0, 1, 2], device="cpu")


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
    files = MeasureAblationsFiles(
        arms=[tmp_path / "two_layers.safetensors"], metrics=tmp_path / "metrics.json", table=tmp_path / "table.csv"
    )
    measure_ablations(files, HeldOutSize(held_out=32))
    found = {name: metric.value for name, metric in read_metrics(files.metrics).items()}
    assert found["gain_lost_induction_kept_two_layers"] > 0.8
    assert found["gain_lost_previous_full_two_layers"] > 0.8
    assert found["gain_lost_previous_kept_two_layers"] == pytest.approx(0, abs=0.05)
    assert found["gain_lost_other_first_full_two_layers"] == pytest.approx(0, abs=1e-6)
    assert found["gain_lost_random_kept_two_layers"] == pytest.approx(0, abs=1e-6), (
        "the other head of the layer is idle"
    )
    assert found["prefix_lost_previous_full_two_layers"] > 0.5


def test_random_heads_are_others_of_the_same_layers():
    heads = torch.tensor([[[False] * 4, [True, False, True, False]], [[False] * 4, [True, True, True, False]]])
    found = random_others(heads)
    assert not bool((found & heads).any())
    assert found.sum(-1).tolist() == [[0, 2], [0, 1]], "where fewer are left, all of them"


def test_removing_every_head_leaves_no_gain(circuit):
    shape, weights = circuit
    held = one_shot(TEXT, 32, 1)
    everything = torch.ones(1, 2, 2, dtype=torch.bool)
    intact = gain(losses_on(weights, held.tokens, shape), held)
    assert float(intact) > 1.5
    assert float(gain(losses_on(weights, held.tokens, shape, ablation=without(everything)), held)) < 0


def test_lowest_never_takes_excluded_heads():
    score = torch.tensor([[[0.3, torch.inf], [0.1, 0.2]]])
    assert lowest(score, torch.tensor([2]))[0].tolist() == [[False, False], [True, True]]
    assert int(lowest(score, torch.tensor([4])).sum()) == 3


def tiny_arm(folder, name, **changes):
    settings = {"n_layers": 2, "keys": "plain", "positions": "shortformer", "mlp": "none"}
    arm = Arm(**{**settings, "seeds": 2, **changes})
    files = TrainFiles(models=folder / f"{name}.safetensors")
    train_arm(files, TrainArm(arm=arm, training=TRAINING), RUN)
    return files.models


ARMS = {
    "one_layer": {"n_layers": 1},
    "one_layer_smeared": {"n_layers": 1, "keys": "smeared"},
    "two_layers": {},
    "two_layers_smeared": {"keys": "smeared"},
    "two_layers_two_back": {"keys": "smeared_two_back"},
    "two_layers_added": {"positions": "standard"},
    "three_layers": {"n_layers": 3},
    "two_layers_mlp": {"mlp": "relu"},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Every arm, far too small to learn anything, and the metrics of all parts."""
    folder = tmp_path_factory.mktemp("arms")
    arms = [tiny_arm(folder, name, **changes) for name, changes in ARMS.items()]
    two = folder / "two_layers.safetensors"
    tables = {name: folder / f"{name}.csv" for name in ("curves", "heads", "paths")}
    phase_change = MeasurePhaseChangeFiles(arms=arms, metrics=folder / "phase_change.json", **tables)
    measure_phase_change(phase_change, MeasurePhaseChange(warmup=2))
    heads = MeasureHeadsFiles(
        arms=arms, example=two, metrics=folder / "heads.json", heads=folder / "by_head.csv",
        attention=folder / "attention.csv",
    )  # fmt: skip
    measure_heads(heads, HeldOutSize(held_out=8))
    return folder, read_metrics(phase_change.metrics), read_metrics(heads.metrics)


def test_untrained_models_show_nothing(tiny):
    _, change, heads = tiny
    for name in ARMS:
        assert change[f"gain_{name}"].ci_high < 2
        assert change[f"bump_{name}"].value < 0.4
        assert change[f"prefix_best_{name}"].value < 0.6
        assert change[f"plateau_{name}"].value == 0
    assert change["smeared_over_plain"].value == 1  # nobody changes, so all count with the last step
    assert change["smeared_over_plain"].control("smeared_two_back").value == 1
    for what in ("k_composition", "q_composition", "v_composition"):
        assert heads[f"{what}_two_layers"].value < 1.3
    assert "k_composition_one_layer" not in heads


def test_controls_share_the_seeds_of_their_effect(tiny):
    _, change, heads = tiny
    gain_of = change["gain_two_layers"]
    assert gain_of.control("one_layer").per_seed == change["gain_one_layer"].per_seed
    assert "one_layer" not in [control.name for control in change["gain_one_layer"].controls]
    k = heads["k_composition_two_layers"]
    assert [control.name for control in k.controls] == ["before_training", "q_composition", "v_composition"]
    assert k.control("v_composition").value == heads["v_composition_two_layers"].value


def test_the_same_seed_gives_the_same_bytes_and_files_are_read_back(tiny, tmp_path):
    again = tiny_arm(tmp_path, "two_layers")
    assert again.read_bytes() == (tiny[0] / "two_layers.safetensors").read_bytes()
    arm = load_arm(again)
    assert arm.seeds == [0, 1]
    assert arm.measure_at == [0, 5, 10, 15, 20]
    assert arm.measured("prefix").shape == (5, 2, 2, 2)


def test_head_choice_of_a_language_model():
    score = {name: torch.zeros(4, 5) for name in ("induction", "previous", "duplicate")}
    score["induction"][2, 1], score["induction"][3, 4], score["induction"][3, 0] = 0.9, 0.5, 0.3
    score["previous"][0, 3], score["previous"][3, 2] = 0.8, 0.95  # the second lies above the first induction head
    writes = torch.arange(5.0).expand(4, 5)
    found = choose(score, writes)
    assert found["induction"] == [(2, 1), (3, 4)]
    assert found["previous"] == [(0, 3)]
    assert [layer for layer, _ in found["induction_others"]] == [2, 3]
    assert found["induction_writers"] == [(2, 4), (3, 3)]  # (3, 4) is an induction head
    assert found["previous_writers"] == [(0, 4)]
    taken = {(2, 1), (3, 4), (0, 3)}
    for role, layers in (("induction", [2, 3]), ("previous", [0])):
        for other in ("others", "writers", *(f"random_{k}" for k in range(DRAWS))):
            assert [layer for layer, _ in found[f"{role}_{other}"]] == layers
            assert not set(found[f"{role}_{other}"]) & taken


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


@pytest.mark.parametrize("given", [False, True], ids=["full", "kept"])
def test_an_ablation_above_an_intact_pass_is_a_whole_pass_to_the_bit(bridge, given):
    tokens = torch.randint(11, (3, 10), generator=torch.Generator().manual_seed(0))
    intact = run_pass(bridge, tokens, keep=[0, 1])
    options = {"removed": [(1, 0)], "keep": [0, 1], "given": intact.patterns if given else None}
    whole = run_pass(bridge, tokens, **options)
    unwanted = bridge.blocks[0].register_forward_pre_hook(lambda *_: pytest.fail("a block below ran"))
    short = run_pass(bridge, tokens, **options, intact=intact)
    unwanted.remove()
    assert torch.equal(short.losses, whole.losses)
    assert not torch.equal(whole.losses, intact.losses)
    assert all(torch.equal(short.patterns[layer], whole.patterns[layer]) for layer in (0, 1))
    assert torch.equal(run_pass(bridge, tokens, **options).losses, whole.losses)  # every block runs again


def test_writing_scores_see_a_head_that_copies(bridge, monkeypatch):
    """One head's OV circuit is made the inverse of embedding and unembedding, another's its opposite."""
    module = "replications.induction_heads.model_weights"
    monkeypatch.setattr(f"{module}.SAMPLES", 2)
    monkeypatch.setattr(f"{module}.PART", 4)
    monkeypatch.setattr(f"{module}.final_read", lambda bridge, ids: torch.eye(11, 16).T[:, ids])
    decoder, read = Decoder(bridge, 10), torch.eye(16)[:, :8]
    decoder.bridge = SimpleNamespace(W_E=torch.eye(11, 16))
    monkeypatch.setattr(f"{module}.after_first_block", lambda bridge, ids: -torch.eye(11, 16)[ids])
    decoder.W_V = [read.expand(2, 16, 8), *decoder.W_V[1:]]
    decoder.W_O = [torch.stack([read.T, -read.T]), *decoder.W_O[1:]]
    left, right = ov_read(decoder, 0, torch.eye(11, 16)[:8]), decoder.W_O[0] @ torch.eye(11, 16).T[:, :8]
    assert (left[0] @ right[0]).argmax(-1).tolist() == list(range(8))
    found = writing_scores(decoder, torch.arange(8))
    assert found["copying"].shape == found["ov_eigenvalues"].shape == (2, 2, 2)
    assert float(found["ov_eigenvalues"][:, 0, 0].min()) > 0.9
    assert float(found["ov_eigenvalues"][:, 0, 1].max()) < -0.9
    assert float(found["copying"][:, 0, 0].min()) > 0.9
    assert float(found["copying"][:, 0, 1].max()) == pytest.approx(-1)
    assert float(found["copying_after_first_block"][:, 0, 1].min()) > 0.9  # two signs cancel
    metrics = writing_metrics(found, [(0, 0)])
    assert metrics["copying"].value > 0.9
    assert metrics["copying"].control("other_heads").value == pytest.approx(-1)


def test_the_direct_path_of_every_head_equals_what_the_model_itself_would_write(bridge):
    """Layer 0 attends to the token itself: its heads' shares of the logits, up to the scale of the final norm."""
    decoder, ids = Decoder(bridge, 10), torch.arange(11)
    embedded = bridge.W_E[ids]
    z = decoder.values(0, decoder.norm(0, 0, embedded))
    for head in range(2):
        alone = torch.zeros_like(z)
        alone[:, head] = z[:, head]
        wrote = decoder.write(0, alone) - decoder.output_bias(0)
        scale = (wrote - wrote.mean(-1, keepdim=True)).square().mean(-1, keepdim=True).add(bridge.cfg.eps).sqrt()
        expected = (bridge.ln_final(wrote) - bridge.ln_final.bias) * scale @ bridge.W_U
        bias = decoder._v[0][1]
        left, right = ov_read(decoder, 0, embedded), decoder.W_O[0] @ final_read(bridge, ids)
        read = 0 if bias is None else bias.reshape(2, 8)[head]
        torch.testing.assert_close((left[head] + read) @ right[head], expected, atol=1e-4, rtol=1e-4)


def test_a_token_after_the_first_block_is_that_of_a_pass_behind_the_document_token(bridge):
    found = after_first_block(bridge, torch.tensor([4, 7]))
    seen = []
    hooks = [("blocks.0.hook_resid_post", lambda value, hook: seen.append(value))]
    bridge.run_with_hooks(torch.tensor([[0, 4, 1], [0, 7, 2]]), fwd_hooks=hooks)
    torch.testing.assert_close(found, seen[0][:, 1], atol=1e-5, rtol=0)
