"""Models that refuse by their own training: the paper's requests, fetched and drawn, and the steps on a tiny model."""

import json

import pandas as pd
import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from common.core.claims import load_planned
from common.core.errors import UserError
from common.core.files import sha256
from common.core.metrics import read_metrics
from common.core.step import RunInfo
from common.data.models import Manifest, load_tokenizer, registry
from replications.refusal_direction.folders import save
from replications.refusal_direction.lists import LISTS
from replications.refusal_direction.paper_requests import RELEASED, FetchFiles, draw_requests, fetch, released
from replications.refusal_direction.released import StudyFiles, study_released
from replications.refusal_direction.released_figures import ReleasedFigures, draw_released
from replications.refusal_direction.settings import (
    EffectSettings,
    LossSettings,
    ReleasedSettings,
    SearchSettings,
    StudyReleased,
)
from replications.refusal_direction.summarise_released import SummariseFiles, summarise_released
from tests.hub import stand_in

SIZES = ReleasedSettings(estimate=6, choose=4, test=8, risky=4, new_tokens=3)
CAPTIONS = LISTS.with_name("captions")
SERVED = "{0}/{1}/dataset/splits"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Files of the names and the form of the paper's, and a registry that pins them."""
    folder = tmp_path_factory.mktemp("requests")
    for name in released().requests.files:
        kind, part = name.removesuffix(".json").split("_")
        category = f"{kind} kind" if part == "test" and kind == "harmful" else None
        rows = [{"instruction": f"{kind} {part} request {number}", "category": category} for number in range(12)]
        (folder / name).write_text(json.dumps([*rows, rows[0]]))
    registry = yaml.safe_load(RELEASED.read_text())
    registry["requests"]["files"] = {name: sha256(folder / name) for name in registry["requests"]["files"]}
    (folder / "released.yaml").write_text(yaml.safe_dump(registry))
    (folder / "manifest.json").write_text(json.dumps(registry["requests"]["files"]))
    return folder


@pytest.fixture(scope="module")
def studied(model_folder, corpus_folder, served, tmp_path_factory):
    """Two seeds of the study of one tiny model of random weights."""
    folder = tmp_path_factory.mktemp("released")
    tokenizer = load_tokenizer(model_folder)
    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "initializer_range": 0.2,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **shape))
    origin = Manifest(name="tiny", source="local", origin="tiny", licence="none", processing="none", files={})
    save(model, tokenizer, folder / "model" / "manifest.json", origin=origin, processing="random weights")
    for seed in (0, 1):
        out = folder / str(seed)
        files = StudyFiles(
            model=folder / "model" / "manifest.json", requests=served / "manifest.json", lists=LISTS,
            corpora=[corpus_folder / "manifest.json"], request_files=[],
            numbers=out / "numbers.json", directions=out / "directions.safetensors", tables=[],
        )  # fmt: skip
        settings = StudyReleased(
            seed=seed,
            released=SIZES,
            search=SearchSettings(
                grid_prompts=2, finalists=2, permutations=2, permuted_step=1, null_finalists=1, rows=16, minimum_left=0
            ),
            effects=EffectSettings(
                prompts=8, random_draws=4, new_tokens=1, weights=False, transcripts=1, transcript_tokens=1
            ),
            losses=LossSettings(text_tokens=16, texts=2),
        )
        study_released(files, settings, RunInfo(scale="smoke", seeds=[0, 1], device="cpu"))
    return folder


def test_the_registries_name_the_same_models():
    assert set(released().models) <= set(registry())
    assert {model for claim in load_planned("refusal_direction") for model in claim.models} == set(released().models)


def files_at(registry, manifest):
    return FetchFiles(registry=registry, manifest=manifest, request_files=[])


def test_requests_are_fetched_once_and_only_whole(served, tmp_path, monkeypatch):
    source = released(served / "released.yaml").requests
    out = tmp_path / "manifest.json"
    monkeypatch.delenv("HUB", raising=False)
    with pytest.raises(UserError, match="run with HUB=1"):
        fetch(files_at(served / "released.yaml", out))
    monkeypatch.setenv("HUB", "1")
    with stand_in(source.repository, source.commit, served, SERVED) as address:
        monkeypatch.setenv("REQUESTS_ENDPOINT", address)
        fetch(files_at(served / "released.yaml", out))
        assert json.loads(out.read_text()) == source.files
        assert all(sha256(tmp_path / name) == expected for name, expected in source.files.items())
        with pytest.raises(UserError, match=r"harmful_train\.json gave a file that is not the pinned one"):
            fetch(files_at(RELEASED, tmp_path / "other" / "manifest.json"))
    assert not list((tmp_path / "other").glob("*"))
    monkeypatch.setenv("REQUESTS_ENDPOINT", address)
    with pytest.raises(UserError, match="did not answer as expected"):
        fetch(files_at(served / "released.yaml", tmp_path / "other" / "manifest.json"))


def test_seeds_draw_from_the_papers_splits(served):
    first, second = (draw_requests(served, seed, SIZES) for seed in (0, 1))
    for part, name, shared in (("estimate", "train", 0), ("choose", "val", 0), ("test", "test", 4)):
        lines, others = getattr(first.switch, part), getattr(second.switch, part)
        assert len(lines) == len(set(lines)) == getattr(SIZES, part)
        assert all(line.text.startswith(f"harmful {name} ") for line in lines)
        assert len(set(lines) & set(others)) == shared, "two slices of eight of twelve must share four"
        assert lines == getattr(draw_requests(served, 0, SIZES).switch, part)
    assert {line.topic for line in first.switch.test} == {"harmful kind"}
    assert len({line.topic for line in first.harmless.test}) == SIZES.test
    assert (first.switch.tune, first.refusals, len(first.risky.test)) == ([], [], SIZES.risky)
    with pytest.raises(UserError, match=r"harmful_train\.json has 12 requests, 13 are needed"):
        draw_requests(served, 0, SIZES.model_copy(update={"estimate": 13}))
    path = served / "harmless_val.json"
    content = path.read_text()
    path.write_text(content + " ")
    with pytest.raises(UserError, match="damaged or was changed"):
        draw_requests(served, 0, SIZES)
    path.write_text(content)


@pytest.mark.model
def test_steps_of_a_released_model(studied, tmp_path):
    studies = [studied / seed / "numbers.json" for seed in ("0", "1")]
    answers = pd.read_csv(studied / "0" / "answers.csv")
    assert not answers["condition"].str.contains("other_topic").any(), "its topics are of our own lists"
    assert set(answers) == {"topic", "refused", "metric", "kl_tuned", "class", "condition"}
    assert not [name for name in answers["condition"].unique() if "before" in name or "earlier" in name]
    for path in studied.glob("0/*.csv"):
        texts = pd.read_csv(path).select_dtypes(exclude="number")
        assert all("request" not in str(cell) for cell in texts.to_numpy().flatten()), path.name
    out = tmp_path / "metrics.json"
    summarise_released(SummariseFiles(studies=studies, metrics=out))
    metrics = read_metrics(out)
    asked = [pd.read_csv(path.with_name("answers.csv")) for path in studies]
    ablated = [one.query("`class` == 'harmful' and condition == 'ablated'")["metric"].mean() for one in asked]
    assert ablated[0] != ablated[1]
    assert metrics["ablated_metric"].per_seed == pytest.approx(ablated)
    assert metrics["ablated_metric"].value == pytest.approx(sum(ablated) / 2)
    assert metrics["refused_harmful"].n == 2 * SIZES.test
    figures = [tmp_path / f"{name}.svg" for name in ("released", "candidates")]
    captions = [CAPTIONS / f"{path.stem}.rst" for path in figures]
    draw_released(ReleasedFigures(studies=studies, captions=captions, svg=figures, others=[]))
    assert all(path.stat().st_size > 1000 for path in figures)
