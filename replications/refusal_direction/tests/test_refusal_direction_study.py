"""The refusal direction from model folders to metrics, on tiny random models: what is stored, how it is summed."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from common.core.claims import Landmark, load_claims
from common.core.figures import draw_figures
from common.core.metrics import read_metrics
from common.core.step import RunInfo
from common.data.models import Manifest, load_tokenizer, verify_folder
from replications.refusal_direction.comparisons import read_study
from replications.refusal_direction.effect_figures import Data, spectrum
from replications.refusal_direction.figures import FIGURES, StudyFigures, draw, tuning
from replications.refusal_direction.folders import save
from replications.refusal_direction.guardrail import GuardrailFiles, guardrail
from replications.refusal_direction.lists import LISTS
from replications.refusal_direction.orthogonalise import RemoveFiles, remove
from replications.refusal_direction.part_figures import PLANS
from replications.refusal_direction.settings import (
    CurveSettings,
    EffectSettings,
    Guardrail,
    GuardSettings,
    SearchSettings,
    SideEffectSettings,
    SplitSettings,
    Study,
)
from replications.refusal_direction.study import StudyFiles, study
from replications.refusal_direction.summarise import SummariseFiles, summarise

PARTS = ("tuning", "direction", "effects", "surgical")
CAPTIONS = Path(__file__).resolve().parents[1] / "captions"


@pytest.fixture(scope="module")
def arm(model_folder, corpus_folder, tmp_path_factory):
    """One study of two tiny models."""
    folder = tmp_path_factory.mktemp("refusal")
    tokenizer = load_tokenizer(model_folder)
    origin = Manifest(name="tiny", source="trained", origin="tiny", licence="none", processing="none", files={})
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    for name, seed in (("before", 0), ("tuned", 1)):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **shape))
        save(model, tokenizer, folder / name / "manifest.json", origin=origin, processing="random weights")
    chats = corpus_folder.parent / "self-chat-smoke" / "manifest.json"
    split = SplitSettings(tune=4, harmless_tune=4, risky_tune=2, estimate=6, choose=4, test=8, risky_test=4)
    run, manifest = RunInfo(scale="smoke", seeds=[0, 1], device="cpu"), folder / "before" / "manifest.json"
    out, guard = folder / "study", folder / "guardrail"
    settings = Study(
        switch="harmful",
        seed=0,
        split=split,
        search=SearchSettings(grid_prompts=2, finalists=2, rows=16, minimum_left=0),
        effects=EffectSettings(prompts=4, random_draws=4, new_tokens=2),
        curves=CurveSettings(doses=[0.0, 1.0], dose_prompts=2, text_prompts=8),
        side_effects=SideEffectSettings(text_tokens=16, texts=2, prompts=2),
    )
    files = StudyFiles(
        before=manifest, tuned=folder / "tuned" / "manifest.json", lists=LISTS,
        python_docs=corpus_folder / "manifest.json",
        self_chat=chats if chats.exists() else corpus_folder / "manifest.json",
        numbers=out / "numbers.json", directions=out / "directions.safetensors", tables=[],
    )  # fmt: skip
    study(files, settings, run)
    sizes = GuardSettings(
        depth=0.64, sae_lines=4, d_sae=32, k=4, steps=6, batch=32, learning_rate=0.004, prompts=4, clamps=[1.0],
        bounds=[0.5], attack_steps=2, random_draws=2,
    )  # fmt: skip
    guardrail(
        GuardrailFiles(
            before=manifest, tuned=[files.tuned], directions=[files.directions], lists=LISTS,
            metrics=guard / "metrics.json", conditions=guard / "conditions.csv", numbers=guard / "numbers.csv",
        ),
        Guardrail(seeds=[0], split=split, guard=sizes),
        run,
    )  # fmt: skip
    return folder


@pytest.mark.model
def test_no_answer_is_stored(arm):
    answers = pd.read_csv(arm / "study" / "answers.csv")
    assert set(answers) == {"topic", "refused", "metric", "class", "condition"}
    assert set(answers["refused"]) <= {0, 1}
    for path in (arm / "study").glob("*.csv"):
        texts = pd.read_csv(path).select_dtypes(exclude="number")
        assert all(len(str(cell)) < 30 for cell in texts.to_numpy().flatten()), path.name
    conditions = pd.read_csv(arm / "guardrail" / "conditions.csv")
    columns = {"seed", "item", "topic", "model", "condition", "reads", "metric", "refused", "refused_by_phrase", "kl"}
    assert set(conditions) == columns
    assert set(conditions["refused_by_phrase"].dropna()) <= {0, 1}
    free = conditions[conditions["model"] == "tuned"].set_index("condition")["metric"]
    np.testing.assert_allclose(free["zero, error recomputed"], free["free"], atol=1e-4)  # undoes the clamp
    assert all(
        isinstance(value, (int, float)) for value in json.loads((arm / "study" / "numbers.json").read_text()).values()
    )


@pytest.mark.model
def test_every_claim_finds_its_metrics_and_figures_are_drawn(arm):
    numbers = arm / "study" / "numbers.json"
    metrics = [arm / part / "metrics.json" for part in PARTS]
    summarise(SummariseFiles(studies=[numbers, numbers], shams=[numbers], metrics=metrics))
    for claim in load_claims("refusal_direction"):
        metric = read_metrics(arm / claim.part / "metrics.json")[claim.metric]
        if isinstance(claim, Landmark):
            assert set(claim.controls) == {control.name for control in metric.controls}, claim.id
    drawn = []
    for folder in ("figures", "again"):
        svgs = [arm / folder / f"{name}.svg" for name in ("refusal", "projections", "surgical", "published", "tuning")]
        captions, table = [CAPTIONS / f"{path.stem}.rst" for path in svgs], LISTS.with_name("published.csv")
        about = {"captions": captions, "svg": svgs, "others": []}
        draw(StudyFigures(studies=[numbers, numbers], shams=[numbers], published=table, **about))
        drawn.append([path.read_bytes() for path in svgs])
    assert all(len(content) > 1000 for content in drawn[0])
    assert drawn[0] == drawn[1], "same data, same bytes"
    svg = arm / "guardrail" / "figures" / "guardrail.svg"
    draw_figures(PLANS, [CAPTIONS / "guardrail.rst"], [svg])
    assert svg.stat().st_size > 1000
    published = pd.read_csv(arm / "figures" / "published.csv")
    chosen = json.loads(numbers.read_text())
    ours = published[published["source"] == "this run"]
    assert ours["position"].tolist() == [chosen["position"]] * 2
    assert (len(published), published["position"].max()) == (15, max(-1, chosen["position"]))
    projections = pd.read_csv(arm / "figures" / "projections.csv")
    raw = projections[projections["panel"] == "histograms"]
    assert set(raw["kind"]) == {"harmful", "harmless", "risky"}
    assert chosen["layer"] in set(raw["layer"])
    assert len(raw) == 3 * 4 * raw["layer"].nunique()
    assert {path.stem for path in CAPTIONS.glob("*.rst")} == {
        *FIGURES, *(name.split("/")[1] for name in PLANS), "released", "candidates",
    }  # fmt: skip


@pytest.mark.model
def test_scores_are_those_of_all_test_requests(arm):
    """Pooled, by hand from the answers; every trained first token has a row, scored or not."""
    table, answers = (pd.read_csv(arm / "study" / f"{name}.csv") for name in ("score", "answers"))
    tuned = answers[answers["condition"] == "tuned"]
    on, off = (tuned.loc[tuned["class"] == kind, "metric"].to_numpy() for kind in ("harmful", "harmless"))
    assert len(on) == len(off) == 8
    above = (on[:, None] > off).mean() + 0.5 * (on[:, None] == off).mean()
    assert float(table.loc[table["kind"] == "pooled", "auroc"].iloc[0]) == pytest.approx(above, abs=1e-6)
    trained, tokens = table[table["kind"] == "trained"], table[table["kind"] == "token"]
    assert len(trained) >= 6
    assert (trained["scored"] == trained["token"].isin(tokens["token"]).astype(int)).all()
    assert (tokens["scored"] == 1).all()
    assert trained["share"].between(0, 1).all()


@pytest.mark.model
def test_requests_carry_their_topic_and_texts_do_not(arm):
    table = pd.read_csv(arm / "study" / "surgical.csv", keep_default_na=False)
    answers = pd.read_csv(arm / "study" / "answers.csv")
    for quantity, kind in (("kl harmless", "harmless"), ("kl to before", "harmful")):
        topics = answers[(answers["class"] == kind) & (answers["condition"] == "tuned")]["topic"].tolist()
        for _, part in table[table["quantity"] == quantity].groupby("condition"):
            assert part["topic"].tolist() == topics[: len(part)]
    assert set(table.loc[~table["quantity"].str.startswith("kl"), "topic"]) == {""}


@pytest.mark.model
def test_shares_of_singular_values(arm):
    """Random weights before and after: the 16 squared singular values of a change 16 wide add up to all of it."""
    weights = pd.read_csv(arm / "study" / "weights.csv")
    shares = weights[[f"squared_{rank}" for rank in range(1, 17)]].to_numpy()
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-4)
    assert (np.diff(shares, axis=1) <= 0).all()
    change = [
        load_file(arm / name / "model.safetensors")["model.layers.1.mlp.down_proj.weight"].astype(np.float64)
        for name in ("tuned", "before")
    ]
    squares = np.linalg.svd(change[0] - change[1], compute_uv=False) ** 2
    row = weights[(weights["layer"] == 1) & (weights["part"] == "mlp")]
    assert float(row["squared_2"].iloc[0]) == pytest.approx(squares[1] / squares.sum(), rel=1e-3)
    drawn = spectrum(weights.assign(seed=0)).set_index("rank")
    expected = np.average(weights["squared_3"], weights=weights["norm"] ** 2)
    assert drawn.loc[3, "share"] == pytest.approx(expected)


@pytest.mark.model
def test_no_score_is_cut_off(arm):
    one = read_study(arm / "study" / "numbers.json")
    one.tables["score"] = one.tables["score"].assign(auroc=0.05)
    figure, _ = tuning(Data([one], [one], pd.DataFrame()))
    assert figure.axes[-1].get_ylim()[0] <= 0.05
    plt.close(figure)


@pytest.mark.model
def test_the_direction_can_be_taken_out_of_a_saved_model(arm):
    files = RemoveFiles(
        tuned=arm / "tuned" / "manifest.json", directions=arm / "study" / "directions.safetensors",
        orthogonalised=arm / "without" / "manifest.json",
    )  # fmt: skip
    remove(files)
    verify_folder(arm / "without")
    stored = load_file(arm / "study" / "directions.safetensors")
    assert {"permuted", "random", "unrelated", "earlier"} < stored.keys()
    r = stored["r"]
    weights = load_file(arm / "without" / "model.safetensors")
    before = load_file(arm / "tuned" / "model.safetensors")
    written = np.abs(r / np.linalg.norm(r) @ weights["model.layers.1.mlp.down_proj.weight"]).max()
    assert written < 1e-6
    np.testing.assert_array_equal(weights["lm_head.weight"], before["model.embed_tokens.weight"])
