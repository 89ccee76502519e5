"""metrics.json: what may be written, what may be read, and that a file that exists is complete."""

import json
import os

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.core.errors import UserError
from common.core.files import atomic, read_json, sweep_temporary_files, write_json
from common.core.metrics import TOLERANCE, Control, Estimate, Metric, read_metrics, write_metrics
from common.core.statistics import with_control, without_interval
from common.core.tables import write_table


def metric(value=0.5, **changes):
    return Metric(
        **{"value": value, "ci_low": value, "ci_high": value, "n": 3, "unit": "1", "formula": "test"} | changes
    )


def exact(value):
    return Estimate(value=value, ci_low=value, ci_high=value)


def compared(effect, control, difference):
    """An effect beside a control, with a difference that may be wrong."""
    one = Control(name="shuffled", n=3, difference=exact(difference), **exact(control).model_dump())
    return metric(effect, controls=[one])


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(1, 10**6))
def test_round_trip(tmp_path_factory, value, n):
    path = tmp_path_factory.mktemp("metrics") / "metrics.json"
    written = {"a_metric": metric(value, n=n, per_seed=[value, value])}
    write_metrics(path, written)
    assert read_metrics(path) == written


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["value", "ci_low", "ci_high"])
def test_nan_and_infinity_are_rejected(field, bad):
    with pytest.raises(ValidationError):
        metric(**{field: bad})


def test_nan_in_a_file_is_rejected_with_file_and_field(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"a": metric().model_dump() | {"value": float("nan")}}))
    with pytest.raises(UserError, match=r"metrics.json breaks the metrics contract at a.value"):
        read_metrics(path)


def test_interval_must_contain_the_value():
    with pytest.raises(ValidationError, match="does not contain"):
        metric(1.0, ci_low=2.0, ci_high=3.0)


def test_a_difference_that_is_not_effect_minus_control_is_refused():
    """As when effect and control were measured on two samples, and the difference on a third."""
    assert compared(0.75, 0.25, 0.5).control("shuffled").difference.value == 0.5
    sentence = "the difference to 'shuffled' is 0.4, but effect - control is 0.5; measure both on the same sample"
    with pytest.raises(ValidationError, match=sentence) as refused:
        compared(0.75, 0.25, 0.4)
    assert len(refused.value.errors()) == 1
    with pytest.raises(ValidationError, match=r"is 0\.5, but effect - control is -0\.5"):
        compared(0.25, 0.75, 0.5)


numbers = st.floats(-1e6, 1e6).filter(lambda x: abs(x) > 1e-3)


@given(numbers, numbers, st.sampled_from([-1, 1]))
def test_a_difference_may_be_off_by_rounding_alone(effect, control, sign):
    step = sign * TOLERANCE * max(abs(effect), abs(control))
    compared(effect, control, effect - control + 0.9 * step)
    with pytest.raises(ValidationError, match="measure both on the same sample"):
        compared(effect, control, effect - control + 1.1 * step)


def test_a_wrong_difference_in_a_file_is_refused_with_file_and_metric(tmp_path):
    path = tmp_path / "metrics.json"
    write_metrics(path, {"a": compared(0.75, 0.25, 0.5)})
    content = read_json(path)
    content["a"]["controls"][0]["value"] = content["a"]["controls"][0]["ci_high"] = 0.5
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"contract at a: .*the difference to 'shuffled' is 0.5, but .* is 0.25"):
        read_metrics(path)


def test_a_control_has_the_unit_of_its_effect(tmp_path):
    """There is no place for another one: neither a control nor its difference holds a unit."""
    given = compared(0.75, 0.25, 0.5).model_dump()
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Control(**given["controls"][0], unit="nats")
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Estimate(**exact(0.5).model_dump(), unit="nats")
    path = tmp_path / "metrics.json"
    given["controls"][0]["unit"] = "nats"
    path.write_text(json.dumps({"a": given}))
    with pytest.raises(UserError, match=r"metrics contract at a.controls.0.unit: Extra inputs are not permitted"):
        read_metrics(path)
    measured = [without_interval(value, 3, unit, "test") for value, unit in ((0.75, "share"), (0.25, "nats"))]
    with pytest.raises(ValueError, match=r"^'shuffled' is measured in nats, the effect in share$"):
        with_control(measured[0], "shuffled", measured[1], exact(0.5))


def test_metric_names_are_plain(tmp_path):
    with pytest.raises(ValidationError):
        write_metrics(tmp_path / "metrics.json", {"Bad Name": metric()})
    assert not (tmp_path / "metrics.json").exists()


def test_a_table_of_a_frame_of_mappings_and_of_lists_has_the_same_bytes(tmp_path):
    rows = [{"name": 'a, "b"', "n": 1, "x": 1 / 3}, {"name": "ü\nc", "n": 20_000_000, "x": float("nan")}]
    frame = pd.concat([pd.DataFrame(rows[:1]), pd.DataFrame(rows[1:])])  # with one index twice
    lists = frame.to_numpy().tolist()
    for kind, content in {"frame": [frame], "mappings": [rows], "lists": [lists, list(rows[0])]}.items():
        write_table(tmp_path / kind, *content)
        assert (tmp_path / kind).read_bytes() == 'name,n,x\n"a, ""b""",1,0.333333\n"ü\nc",20000000,\n'.encode()
    write_table(tmp_path / "digits", rows, digits=8)
    assert ",1,0.33333333\n" in (tmp_path / "digits").read_text()


def test_json_never_holds_nan(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "kept.json"
    write_json(path, {"old": 1})

    def fail_half_way():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["kept.json"]


def test_left_over_temporary_files_are_swept(tmp_path):
    with atomic(tmp_path / "a" / "x.json") as temporary:
        temporary.write_text("{}")
        name = temporary.name
    (tmp_path / "a" / name).write_text("left by a kill")
    sweep_temporary_files(tmp_path)
    assert os.listdir(tmp_path / "a") == ["x.json"]
