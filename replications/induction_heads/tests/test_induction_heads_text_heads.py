"""What the heads of natural text write and read, on a circuit that is known."""

import torch
from safetensors.torch import save_file

from common.core.metrics import read_metrics
from common.toys.training import Trained
from replications.induction_heads.arm import ArmResult, save_arm
from replications.induction_heads.measure_text_heads import MeasureTextHeadsFiles, measure_text_heads
from replications.induction_heads.settings import Text, TextHeads
from tests.common.test_head_scores import VOCAB, hand_built

NOISE = 1e-3


def test_a_hand_built_induction_head_copies_and_reads_the_previous_token_head(tmp_path):
    shape, weights = hand_built(loud=3.0)
    shape = shape.model_copy(update={"n_heads": 2})
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in weights if ".attn." in name]:
        other = NOISE * torch.randn(weights[name].shape, generator=generator)
        weights[name] = torch.cat([weights[name], other], 1)
    built = {name: value[:1].expand(2, *value.shape[1:]) for name, value in weights.items()}
    start = {name: torch.randn(value.shape, generator=generator) for name, value in built.items()}
    snapshots = {name: torch.stack([start[name], value]) for name, value in built.items()}
    known = VOCAB - VOCAB // 5 - VOCAB // 20  # random repeats leave out the commonest and the rarest tokens
    text = Text(length=known, d_vocab=known, shortest_block=4, longest_block=6, copies=2)
    arm = ArmResult(shape, text, [0, 1], [0, 9], [0, 9], Trained(snapshots, torch.zeros(1, 2), {}))
    save_arm(tmp_path / "two_layers.safetensors", arm)
    save_file({"train": torch.arange(VOCAB).repeat(50).int()}, tmp_path / "tokens.safetensors")
    files = MeasureTextHeadsFiles(
        arms=[tmp_path / "two_layers.safetensors"], tokens=tmp_path / "tokens.safetensors",
        metrics=tmp_path / "metrics.json", heads=tmp_path / "heads.csv",
    )  # fmt: skip
    measure_text_heads(files, TextHeads(repeats=16))
    found = read_metrics(files.metrics)
    writes, reads = found["ov_eigenvalues_two_layers"], found["k_composition_two_layers"]
    assert writes.value > 0.99
    assert abs(writes.control("other_heads").value) < 0.5
    assert reads.value > 1.5
    assert reads.control("q_composition").value < 0.1
    assert reads.control("v_composition").value < 0.1
