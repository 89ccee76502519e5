"""Settings: a slip is named with its file and the allowed values; schemas are in sync; scales are sound."""

from pathlib import Path

import jsonschema
import pytest
import yaml

import common.core.settings as config
from common.core.claims import ClaimsFile
from common.core.errors import UserError
from common.core.files import read_json, read_yaml
from common.core.settings import SCALES, Strict, load_replication, load_scale, replications
from common.data.corpora import CALIBRATION_SEEDS
from common.engine.config import check_fresh, load_run, need_gpu
from common.engine.schemas import schemas


@pytest.fixture
def copy(tmp_path, monkeypatch, root):
    """The project's settings in a folder of their own, free to be broken."""
    import shutil

    shutil.copytree(root / "config", tmp_path / "config")
    for name in replications():
        (tmp_path / "replications" / name).mkdir(parents=True)
        for file in ("config.yaml", "rules.smk"):
            shutil.copy(root / "replications" / name / file, tmp_path / "replications" / name / file)
    monkeypatch.setattr(config, "ROOT", tmp_path)
    return tmp_path


def edit(path, change):
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def test_every_scale_and_replication_loads():
    assert {"superposition", "ioi_circuit"} <= set(replications())
    for scale in SCALES:
        load_scale(scale)
        for name in replications():
            load_replication(name, scale)


def test_misspelt_key_names_file_key_and_allowed_keys(copy):
    edit(copy / "config/scales/laptop.yaml", lambda content: content.update(seed=[1, 2]))
    with pytest.raises(UserError) as caught:
        load_scale("laptop")
    sentence = str(caught.value)
    assert "config/scales/laptop.yaml" in sentence
    assert "unknown key 'seed'" in sentence
    assert "did you mean 'seeds'" in sentence
    assert "calibration_seeds" in sentence


@pytest.mark.parametrize("name", replications())
def test_misspelt_nested_key(copy, name):
    path = copy / "replications" / name / "config.yaml"
    blocks = read_yaml(path)
    left_out = {key for key, value in (blocks["laptop"] or {}).items() if value is None}
    part = next(key for key, value in blocks["default"].items() if isinstance(value, dict) and key not in left_out)
    edit(path, lambda content: content["default"][part].update(misspelt_key=1))
    with pytest.raises(UserError, match=rf"{name}/config.yaml: unknown key '{part}.misspelt_key'.*Allowed keys: "):
        load_replication(name, "laptop")


def test_misspelt_key_in_a_list_and_in_an_optional_block_names_the_keys_of_its_own_level():
    class Member(Strict):
        width: int
        id: str = ""

    class Control(Strict):
        draws: int = 100

    class Sweep(Strict):
        members: list[Member]
        control: Control | None = None

    def sentence(content):
        with pytest.raises(UserError) as caught:
            config.checked(Sweep, content, Path("sweep.yaml"))
        return str(caught.value)

    assert sentence({"members": [{"width": 4}, {"width": 8, "widht": 8}]}) == (
        "sweep.yaml: unknown key 'members.1.widht'; did you mean 'width'? Allowed keys: id, width"
    )
    assert "'control.drawn'; did you mean 'draws'? Allowed keys: draws" in sentence(
        {"members": [], "control": {"drawn": 1}}
    )
    assert sentence({"members": [{"id": "wide"}]}) == "sweep.yaml: 'members.wide.width': Field required"


def test_a_claim_without_a_key_goes_by_its_id(root):
    claims = read_yaml(root / "replications/grokking/claims.yaml")
    del claims["claims"][1]["metric"]
    with pytest.raises(UserError) as caught:
        config.checked(ClaimsFile, claims, root / "replications/grokking/claims.yaml")
    assert str(caught.value) == (
        f"replications/grokking/claims.yaml: 'claims.{claims['claims'][1]['id']}.metric': Field required"
    )


def test_a_misspelt_key_of_a_claim_is_named_before_the_missing_one(root):
    path = root / "replications/grokking/claims.yaml"
    claims = read_yaml(path)
    claims["claims"][1]["metrik"] = claims["claims"][1].pop("metric")
    with pytest.raises(UserError) as caught:
        config.checked(ClaimsFile, claims, path)
    key = f"claims.{claims['claims'][1]['id']}.metrik"
    assert f"unknown key '{key}'; did you mean 'metric'? Allowed keys: " in str(caught.value)
    assert "needs" not in str(caught.value).partition("Allowed")[2], "a key of planned claims alone"


def test_a_scale_without_a_block_is_refused(copy):
    edit(copy / "replications/grokking/config.yaml", lambda content: content.pop("smoke"))
    with pytest.raises(UserError, match=r"grokking/config.yaml: there is no block 'smoke'; write .* or `smoke: {}`"):
        load_replication("grokking", "smoke")
    load_replication("grokking", "laptop")


def test_full_is_laid_over_default_and_without_a_block_it_is_laptop(copy):
    path = copy / "replications/grokking/config.yaml"
    edit(path, lambda content: content["laptop"].update(training={"learning_rate": 0.5, "d_model": 96}))
    edit(path, lambda content: content.pop("full", None))
    assert load_replication("grokking", "full") == load_replication("grokking", "laptop")
    edit(path, lambda content: content.update(full={"training": {"learning_rate": 0.25}}))
    full, laptop = (load_replication("grokking", scale) for scale in ("full", "laptop"))
    assert (full.training.learning_rate, laptop.training.learning_rate) == (0.25, 0.5)
    assert full.training.d_model != 96


def test_mistyped_value(copy):
    edit(copy / "config/scales/laptop.yaml", lambda content: content.update(seeds="0, 1"))
    with pytest.raises(UserError, match=r"config/scales/laptop.yaml: 'seeds'.*valid list.*'0, 1'"):
        load_scale("laptop")


def test_unknown_block(copy):
    edit(copy / "replications/superposition/config.yaml", lambda content: content.update(lapptop={}))
    with pytest.raises(UserError, match="unknown block 'lapptop'; allowed are default, smoke, laptop, full, gpu"):
        load_replication("superposition", "laptop")


def test_scoring_seeds_are_kept_apart_from_calibration(copy):
    scored = load_scale("laptop").seeds[-1]
    edit(copy / "config/scales/laptop.yaml", lambda content: content.update(calibration_seeds=[scored, 100]))
    with pytest.raises(UserError, match="keep them apart"):
        load_scale("laptop")


def test_a_replication_can_have_scoring_seeds_of_its_own(copy):
    path = copy / "config/scales/laptop.yaml"
    edit(copy / "config/scales/full.yaml", lambda content: content.pop("own_seeds", None))
    shared = load_scale("laptop").seeds
    edit(path, lambda content: content.update(own_seeds={"superposition": [71, 72]}))
    assert load_scale("laptop", "superposition").seeds == [71, 72]
    assert load_scale("laptop").seeds == load_scale("laptop", "grokking").seeds == shared
    scored, calibrated = load_run("laptop"), load_run("laptop", calibrate=True)
    assert (scored.of("superposition").seeds, scored.of("grokking").seeds) == ([71, 72], shared)
    assert calibrated.of("superposition").seeds == calibrated.seeds[:2]  # as many as are scored
    assert calibrated.of("grokking").seeds == calibrated.seeds
    with pytest.raises(UserError, match=r"71 .*a scoring seed of superposition at scale laptop"):
        check_fresh([71, 73], ["superposition"])
    edit(path, lambda content: content.update(own_seeds={"superposition": [71, content["calibration_seeds"][0]]}))
    with pytest.raises(UserError, match="keep them apart"):
        load_scale("laptop")
    edit(path, lambda content: content.update(own_seeds={"superposition": [71, CALIBRATION_SEEDS.start + 50]}))
    with pytest.raises(UserError, match=r"scoring seed 150 would be measured on calibration documents; .* or from 200"):
        load_run("laptop")
    edit(path, lambda content: content.update(own_seeds={"superposition": [71, CALIBRATION_SEEDS.stop]}))
    assert load_run("laptop").of("superposition").seeds == [71, 200]
    edit(path, lambda content: content.update(calibration_seeds=[110, 111, 112, 113, 250]))
    with pytest.raises(
        UserError, match=r"calibration seed 250 would be measured on what scores are made on; .* to 199"
    ):
        load_run("laptop")
    edit(path, lambda content: content.update(own_seeds={"superpositoin": [71, 72]}))
    with pytest.raises(UserError, match=r"own_seeds names 'superpositoin'; there is .*superposition"):
        load_scale("laptop")


@pytest.mark.parametrize("key", ["seeds", "calibration_seeds"])
def test_the_same_seed_twice_is_refused(copy, key):
    path = copy / "config/scales/laptop.yaml"
    edit(path, lambda content: content.update({key: [200, 201, 200]}))
    with pytest.raises(UserError, match=rf"laptop.yaml: '{key}': the same seed stands here twice.*\[200, 201, 200\]"):
        load_scale("laptop")
    with pytest.raises(jsonschema.ValidationError, match="non-unique"):
        jsonschema.validate(read_yaml(path), read_json(copy / "config/schemas/scale.json"))


def test_a_key_written_twice_and_another_encoding_are_refused(copy):
    path = copy / "config/scales/laptop.yaml"
    written = path.read_text().rstrip()
    last = written.count("\n") + 2
    twice = {"device: cuda": f"'device' is in lines [0-9] and {last}", "x: {a: 1, a: 1}": "'a' is in lines"}
    for more, said in twice.items():
        path.write_text(f"{written}\n{more}\n")
        with pytest.raises(UserError, match=f"laptop.yaml is not valid YAML: the key {said}.*; keep one of the two"):
            load_scale("laptop")
    path.write_bytes(f"{written} # Zürich\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"laptop.yaml is not UTF-8 text .*save it as UTF-8"):
        load_scale("laptop")
    path.write_text("first: &one {a: 1, 2: b}\nsecond: {<<: *one, a: 3, '2': c}\n")
    assert read_yaml(path) == {"first": {"a": 1, 2: "b"}, "second": {"a": 3, 2: "b", "2": "c"}}


def test_unknown_scale_and_model_and_hub_model():
    with pytest.raises(UserError, match="unknown scale 'huge': use SCALE=smoke, SCALE=laptop, SCALE=full, SCALE=gpu"):
        load_run("huge")
    with pytest.raises(UserError, match=r"unknown model 'gpt5': config/models.yaml has smollm2"):
        load_run("smoke", models="gpt5")
    with pytest.raises(UserError, match="'gpt2' comes from a model hub, which is switched off"):
        load_run("smoke", models="gpt2")
    assert load_run("laptop", hub=True).models[-1] == "gpt2"


def test_gpu_scale_without_a_gpu():
    import torch

    run = load_run("gpu")
    if torch.cuda.is_available():
        need_gpu(run)
    else:
        with pytest.raises(UserError, match="SCALE=gpu needs an NVIDIA GPU"):
            need_gpu(run)
    need_gpu(load_run("smoke"))


def test_calibration_has_its_own_seeds_and_folder():
    scored, calibrated = load_run("laptop"), load_run("laptop", calibrate=True)
    assert not set(scored.seeds) & set(calibrated.seeds)
    assert (scored.results, calibrated.results) == ("results/laptop", "results/laptop-calibration")
    assert len(scored.seeds) >= 5


def test_schemas_are_in_sync_and_accept_the_files(root):
    """If this fails, run `make schemas`."""
    for path, text in schemas().items():
        assert path.read_text() == text, f"{path.name} is out of date"
        assert path.is_relative_to(root)
    for name in replications():
        schema = read_json(root / f"replications/{name}/config.schema.json")
        jsonschema.validate(read_yaml(root / f"replications/{name}/config.yaml"), schema)
        jsonschema.validate(
            read_yaml(root / f"replications/{name}/claims.yaml"), read_json(root / "config/schemas/claims.json")
        )
    for name in ("models", "corpora"):
        jsonschema.validate(read_yaml(root / f"config/{name}.yaml"), read_json(root / f"config/schemas/{name}.json"))
