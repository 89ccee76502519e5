"""Steps and engines give the same numbers on a pretended GPU, which refuses what a GPU refuses."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.core.settings import ROOT, load_replication
from common.core.step import RunInfo
from common.data.models import load_model
from common.interp.decoder import Decoder
from common.interp.edge_graph import edge_scores
from common.interp.path_patching import Receivers, patch_heads, path_patch
from common.saes.trainer import train as train_saes
from replications.grokking.settings import TrainArm as GrokkingArm
from replications.grokking.train import TrainFiles as GrokkingFiles
from replications.grokking.train import train as train_grokking
from replications.induction_heads.settings import TrainArm
from replications.induction_heads.train import TrainFiles, train_arm
from replications.ioi_circuit.batches import DISCOVERY, Batch, balanced, passes
from replications.ioi_circuit.residual import read_difference
from replications.monosemanticity.dictionaries import Stream
from replications.superposition.train_grids import TrainFiles as FeatureFiles
from replications.superposition.train_grids import train_grids
from tests.common.test_saes_training import SETTINGS, sweep
from tests.fixtures.ioi_circuit_tiny import save_tiny_model, tiny_prompts
from tests.pretended_gpu.device import CUDA, Generator, Pretended

pytestmark = pytest.mark.skipif(torch.Generator is not Generator, reason="`python -m tests.pretended_gpu` runs these")
DEVICES = ("cpu", "cuda")


def test_it_refuses_what_cuda_refuses():
    there, here = torch.ones(3, 4, device="cuda"), torch.ones(3, 4)
    assert there.device == CUDA
    assert here.to("cuda").sum().item() == 12
    refused = [
        lambda: there + here,
        lambda: there @ here.mT,
        lambda: here[there[:, 0].long()],
        lambda: torch.cat([there, here]),
        lambda: here.add_(there),
        lambda: torch.nn.functional.linear(there, here),
        lambda: torch.randn(3, device="cuda", generator=torch.Generator().manual_seed(0)),
        lambda: torch.randn(3, generator=torch.Generator("cuda").manual_seed(0)),
    ]
    for number, operation in enumerate(refused):
        with pytest.raises(RuntimeError, match="device"):
            print(number, operation())
    for operation in (lambda: there.cumsum(0), lambda: there[0].kthvalue(2), lambda: there.median(0)):
        with pytest.raises(RuntimeError, match="deterministic"):
            operation()
    assert there[:, 0].long().cumsum(0).tolist() == [1, 2, 3]
    with pytest.raises(TypeError, match="to numpy"):
        there.numpy()


def test_it_allows_what_cuda_allows():
    there = torch.arange(12.0, device="cuda").reshape(3, 4).requires_grad_()
    rows = there[torch.tensor([0, 2])][:, [1, 3]] * torch.tensor(2.0)
    rows.square().sum().backward()
    assert isinstance(there.grad, Pretended)
    assert there.grad.cpu()[2].tolist() == [0, 72, 0, 88]
    drawn = torch.rand(2, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    drawn[0] = 3
    assert drawn.tolist()[0] == 3
    assert (there[:, 0] @ there.detach()).shape == (4,)


def test_attention_takes_the_type_of_its_queries():
    """As autocast has it, where a mask is of the type of the model."""
    query = torch.ones(1, 1, 2, 4, device="cuda", dtype=torch.bfloat16)
    mask = torch.zeros(1, 1, 2, 2, device="cuda")
    seen = torch.nn.functional.scaled_dot_product_attention(query, query, query, attn_mask=mask)
    assert (seen.dtype, seen.cpu().flatten().tolist()) == (torch.bfloat16, [1.0] * 8)


def test_files_are_read_to_it(tmp_path):
    save_file({"one": torch.ones(2)}, tmp_path / "one.safetensors")
    assert load_file(tmp_path / "one.safetensors", "cuda")["one"].device == CUDA


def test_every_process_of_such_a_run_has_it_and_its_own_folder():
    code = (
        "from common.core.settings import load_scale; from common.engine.config import load_run; import torch; "
        "print(load_run('smoke').results, load_scale('smoke').device, torch.ones(1, device='cuda').device)"
    )
    path = f"{ROOT}:{ROOT / 'tests' / 'pretended_gpu'}"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": path, "PRETEND": "1"}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert told.stdout.split() == ["results/smoke-pretended-gpu", "cuda", "cuda:0"], told.stderr


def test_copies_of_modules_stay_there():
    norm = torch.nn.LayerNorm(4, device="cuda")
    made = copy.deepcopy(norm)
    assert isinstance(made.weight, torch.nn.Parameter)
    assert (made.weight.device, made.weight.requires_grad) == (CUDA, True)
    with torch.no_grad():
        norm.weight.mul_(2)
    assert made(torch.ones(4, device="cuda")).device == CUDA
    assert made.weight.tolist() == [1.0] * 4


def test_steps_write_the_same_numbers(tmp_path):
    arms, grokking = load_replication("induction_heads", "smoke"), load_replication("grokking", "smoke")
    features = load_replication("superposition", "smoke").intro
    for device in DEVICES:
        train_arm(
            TrainFiles(models=tmp_path / f"arm-{device}"),
            TrainArm(arm=arms.arms["two_layers_smeared"], training=arms.training),
            RunInfo(scale="smoke", seeds=[0, 1, 2, 3, 4], device=device),
        )
        run = RunInfo(scale="smoke", seeds=[0, 1], device=device)
        arm = GrokkingArm(arm=grokking.arms.grokking, training=grokking.training)
        train_grokking(GrokkingFiles(models=tmp_path / f"grokking-{device}"), arm, run)
        train_grids(FeatureFiles(models=tmp_path / f"features-{device}"), features.training, run)
    for step in ("arm", "grokking", "features"):
        one, other = (load_file(tmp_path / f"{step}-{device}") for device in DEVICES)
        assert one.keys() == other.keys()
        for name, value in one.items():  # the attention kernels of the two devices round differently
            assert torch.allclose(value, other[name], rtol=1e-3, atol=1e-4), (step, name)


def test_every_architecture_trains_to_the_same_weights(tmp_path):
    x = torch.randn(640, 10, generator=torch.Generator().manual_seed(0))
    ours, theirs = (
        train_saes(sweep(seeds=(0,)), Stream(x, 64, device), SETTINGS, tmp_path / device, device=device)
        for device in DEVICES
    )
    for one, other in zip(ours, theirs, strict=True):
        assert isinstance(other.weights["W_dec"], Pretended)
        assert all(torch.equal(one.weights[name], other.weights[name].cpu()) for name in one.weights), one.recipe


@pytest.mark.parametrize("shape", ["gpt2", "gqa"])
def test_patches_and_edges_are_the_same(shape, tmp_path):
    prompts = balanced(tiny_prompts([0, 1]), DISCOVERY, 4)
    folder, found = save_tiny_model(shape, tmp_path).parent, {}
    for device in DEVICES:
        decoder, batch = Decoder(load_model(folder, device=device), 30), Batch(prompts, device)
        with torch.no_grad():
            clean, partner = passes(decoder, batch)
            end, s2 = batch.at("end"), batch.at("s2")
            logits = path_patch(decoder, clean, partner, end, end, None)
            keys = path_patch(decoder, clean, partner, s2, end, Receivers("k", ((1, 0), (2, 0))))
            heads = patch_heads(decoder, clean, partner, [0, 2], s2, end)
            last = torch.arange(len(prompts), device=end.device)
            edges = edge_scores(
                decoder, clean, partner, batch.mask,
                lambda final, decoder=decoder, batch=batch, last=last, end=end: read_difference(
                    decoder.bridge, final[..., last, end, :], batch.names
                ),
                2,
            )  # fmt: skip
        found[device] = [one.cpu() for one in (logits, keys, heads, *edges)]
    assert all(torch.equal(one, other) for one, other in zip(*found.values(), strict=True))
