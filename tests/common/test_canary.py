"""`make canary`: passes as things are, and says what is wrong when something is."""

import pytest
import torch

from common.core.errors import UserError
from common.core.files import read_json
from common.data.models import load_model
from common.engine import canary
from common.engine.canary import STORED, Canary, check_device, complaint, deviation, differing, measure


@pytest.fixture(scope="module")
def known():
    return Canary.model_validate(read_json(STORED))


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(model_folder)


@pytest.mark.model
def test_the_stored_values_are_met_and_a_wrong_attention_mask_is_seen(model, known, monkeypatch, capsys):
    """Without the mask the padding is attended to: the padded batch differs, prompts by themselves do not."""
    assert differing(measure(model, known), known, "float32") == []
    monkeypatch.setattr(
        canary, "attention_mask", lambda prompts: torch.ones(len(prompts), max(map(len, prompts))).long().tolist()
    )
    found = measure(model, known)
    bad = differing(found, known, "float32")
    assert "ioi_padded" in bad
    assert {"ioi_single", "generation"}.isdisjoint(bad)
    assert "DIFFERS" in capsys.readouterr().out
    assert "the attention mask is not applied" in complaint({"float32": bad}, "cpu")
    assert "ioi_padded" in differing(found, known, "bfloat16"), "the wider tolerance of bfloat16 must see it, too"


@pytest.mark.parametrize("check", ["ioi_single", "ioi_padded", "direct_path", "sae", "generation"])
@pytest.mark.parametrize("change", [1.5, float("nan")])
def test_every_check_can_fail_alone(known, check, change):
    """1.5 times the stored value is outside the tolerance of either dtype, for each check."""
    found = {name: list(values) for name, values in known.stored.items()}
    found[check][0] *= change
    assert differing(found, known, "float32") == differing(found, known, "bfloat16") == [check]


def test_missing_numbers_are_no_agreement():
    assert deviation([1.0], [1.0, 2.0]) == float("inf")
    assert deviation([1.0, 2.5], [1.0, 2.0]) == 0.5


def test_a_difference_on_a_gpu_sends_to_the_cpu_first():
    assert "DEVICE=cpu`: if that passes, torch computes wrongly on mps" in complaint({"float32": ["sae"]}, "mps")


@pytest.mark.parametrize(
    ("device", "sentence"), [("tpu", "unknown device 'tpu': use DEVICE=cpu"), ("mps", "finds no mps device here")]
)
def test_a_device_that_is_not_there_is_refused(device, sentence):
    with pytest.raises(UserError, match=sentence):
        check_device(device)
