"""The refusal direction from model folders to metrics, on tiny random models: what is stored, how it is summed."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_safetensors
from transformers import LlamaConfig, LlamaForCausalLM

from common.core.claims import Landmark, load_claims
from common.core.figures import draw_figures
from common.core.metrics import read_metrics
from common.core.step import RunInfo
from common.data.models import Manifest, load_tokenizer, verify_folder
from replications.refusal_direction.chat import (
    ablating,
    adding,
    chat_batch,
    first_token_kl,
    last_logits,
    refusal_metric,
)
from replications.refusal_direction.cross import CrossFiles, cross
from replications.refusal_direction.figures import FIGURES, StudyFigures, draw
from replications.refusal_direction.folders import load, save
from replications.refusal_direction.gradient import GradientFiles, gradient
from replications.refusal_direction.gradient_figures import PLANS as GRADIENT_PLANS
from replications.refusal_direction.lists import LISTS
from replications.refusal_direction.lists import draw as draw_requests
from replications.refusal_direction.loss_figures import LossFigures, draw_losses
from replications.refusal_direction.orthogonalise import RemoveFiles, remove
from replications.refusal_direction.recipe import RecipeFiles, recipe
from replications.refusal_direction.recipe_figures import PLANS
from replications.refusal_direction.settings import (
    Cross,
    EffectSettings,
    GradientSettings,
    LossSettings,
    Recipe,
    RecipeSettings,
    SearchSettings,
    SplitSettings,
    Study,
    StudyGradient,
    StudySuffix,
    SuffixSettings,
    TuneSettings,
)
from replications.refusal_direction.study import StudyFiles, study
from replications.refusal_direction.suffix import SuffixFiles, suffix
from replications.refusal_direction.suffix_figures import PLANS as SUFFIX_PLANS
from replications.refusal_direction.summarise import CONTROLS, SummariseFiles, summarise
from replications.refusal_direction.summarise_gradient import SummariseGradientFiles, summarise_gradient
from replications.refusal_direction.summarise_recipes import SummariseRecipesFiles, summarise_recipes
from replications.refusal_direction.summarise_suffix import SummariseSuffixFiles, summarise_suffix

PARTS = ("tuning", "direction", "effects", "cross", "losses", "recipes")
CAPTIONS = Path(__file__).resolve().parents[1] / "captions"
SPLIT = SplitSettings(tune=4, harmless_tune=4, risky_tune=2, estimate=6, choose=4, test=8, risky_test=4)
SEARCH = SearchSettings(
    grid_prompts=2, finalists=2, permutations=3, permuted_step=1, null_finalists=1, rows=16, minimum_left=0
)
EFFECTS = EffectSettings(
    prompts=4, random_draws=4, new_tokens=2, weights=True, transcripts=1, transcript_tokens=3
)  # fmt: skip
RUN = RunInfo(scale="smoke", seeds=[0, 1], device="cpu")


@pytest.fixture(scope="module")
def arm(model_folder, corpus_folder, tmp_path_factory):
    """One study of two tiny models, of which the tuned one also stands for the sham model."""
    folder = tmp_path_factory.mktemp("refusal")
    tokenizer = load_tokenizer(model_folder)
    origin = Manifest(name="tiny", source="trained", origin="tiny", licence="none", processing="none", files={})
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    for name, seed in (("before", 0), ("tuned", 1)):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **shape))
        save(model, tokenizer, folder / name / "manifest.json", origin=origin, processing="random weights")
    before, tuned = (folder / name / "manifest.json" for name in ("before", "tuned"))
    for switch in ("harmful", "food"):
        out = folder / switch
        files = StudyFiles(
            before=before, tuned=tuned, lists=LISTS, corpora=[corpus_folder / "manifest.json"],
            numbers=out / "numbers.json", directions=out / "directions.safetensors", tables=[],
        )  # fmt: skip
        losses = LossSettings(text_tokens=16, texts=2)
        study(files, Study(switch=switch, seed=0, split=SPLIT, search=SEARCH, effects=EFFECTS, losses=losses), RUN)
    numbers = [folder / switch / "numbers.json" for switch in ("harmful", "food")]
    exchanged = folder / "cross" / "0-0.csv"
    files = CrossFiles(tuned=[tuned, tuned], numbers=numbers, lists=LISTS, exchanged=exchanged)
    cross(files, Cross(seeds=[0, 0], split=SPLIT, effects=EFFECTS), RUN)
    recipes = RecipeSettings(
        n_seeds=1, ranks=[1, 0], learning_rates=[0.01, 0.001], directions=[1, 2], layer_step=1, new_tokens=2
    )  # fmt: skip
    tune = TuneSettings(epochs=1, batch_size=8, learning_rate=0.1e-2, answer_tokens=2, blocks=[0.3, 1.0], rank=4)
    for rank in recipes.ranks:
        settings = Recipe(
            seed=0, rank=rank, split=SPLIT, tune=tune, search=SEARCH, effects=EFFECTS, recipes=recipes
        )  # fmt: skip
        answers = folder / "recipes" / f"0-{rank}.csv"
        own = [tuned] if rank == 1 else []  # as for the recipe of the study
        recipe(RecipeFiles(before=before, lists=LISTS, tuned=own, answers=answers), settings, RUN)
    sizes = SuffixSettings(n_seeds=1, prompts=2, tokens=2, steps=1, swaps=3, top=4, new_tokens=2)
    settings = StudySuffix(seed=0, split=SPLIT, search=SEARCH, effects=EFFECTS, suffix=sizes)
    files = SuffixFiles(tuned=tuned, numbers=numbers[0], lists=LISTS, answers=folder / "suffix" / "0.csv")
    suffix(files, settings, RUN)
    sizes = GradientSettings(steps=1, learning_rate=0.01, target_tokens=2)
    settings = StudyGradient(seed=0, split=SPLIT, search=SEARCH, effects=EFFECTS, gradient=sizes)
    out = {"answers": folder / "gradient" / "0.csv", "cosines": folder / "gradient" / "0.json"}
    gradient(GradientFiles(before=before, tuned=tuned, numbers=numbers[0], lists=LISTS, **out), settings, RUN)
    return folder


@pytest.mark.model
def test_no_answer_is_stored(arm):
    columns = {"topic", "refused", "metric", "kl_tuned", "kl_before", "surprise", "class", "condition"}
    tables = {
        "harmful/answers.csv": columns,
        "cross/0-0.csv": {*columns - {"kl_before", "surprise"}, "model"},
        "recipes/0-1.csv": {*columns - {"condition", "surprise"}, "vectors", "directions"},
        "suffix/0.csv": {
            *columns - {"kl_before", "surprise"},
            "projection",
            "cosine",
            "attention",
            "attention_others",
            "attention_suffix",
        },
        "gradient/0.csv": {*columns, "moved"},
    }
    for name, expected in tables.items():
        table = pd.read_csv(arm / name)
        assert set(table) == expected
        assert set(table["refused"].dropna()) <= {0, 1}
    for path in [
        *(arm / "harmful").glob("*.csv"),
        *(arm / "recipes").glob("*.csv"),
        arm / "cross" / "0-0.csv",
        arm / "suffix" / "0.csv",
        arm / "gradient" / "0.csv",
    ]:
        texts = pd.read_csv(path).select_dtypes(exclude="number")
        assert all(len(str(cell)) < 30 for cell in texts.to_numpy().flatten()), path.name
    numbers = json.loads((arm / "harmful" / "numbers.json").read_text())
    assert all(isinstance(value, (int, float)) for value in numbers.values())
    assert not (arm / "harmful" / "transcripts.csv").exists()
    assert set(pd.read_csv(arm / "food" / "transcripts.csv")["class"]) == {"food", "harmless"}


@pytest.mark.model
def test_every_claim_finds_its_metrics_and_figures_are_drawn(arm):
    studies, shams = ([arm / switch / "numbers.json"] * 2 for switch in ("harmful", "food"))
    exchanged = [arm / "cross" / "0-0.csv"] * 2
    metrics = [arm / part / "metrics.json" for part in PARTS if part != "recipes"]
    summarise(SummariseFiles(studies=studies, shams=shams, exchanged=exchanged, metrics=metrics))
    answers, out = sorted((arm / "recipes").glob("*.csv")), arm / "recipes" / "metrics.json"
    summarise_recipes(SummariseRecipesFiles(answers=answers, metrics=out))
    summarise_suffix(SummariseSuffixFiles(answers=[arm / "suffix" / "0.csv"] * 2, metrics=arm / "suffix/metrics.json"))
    parts = {"answers": [arm / "gradient" / "0.csv"] * 2, "cosines": [arm / "gradient" / "0.json"] * 2}
    summarise_gradient(SummariseGradientFiles(**parts, metrics=arm / "gradient" / "metrics.json"))
    for claim in load_claims("refusal_direction"):
        metric = read_metrics(arm / claim.part / "metrics.json")[claim.metric]
        if isinstance(claim, Landmark) and claim.part != "recipes":
            assert set(claim.controls) == {control.name for control in metric.controls}, claim.id
    effects = read_metrics(arm / "effects" / "metrics.json")
    pushed = {"no_intervention", *CONTROLS, "permuted_push", "earlier_push"}
    assert {control.name for control in effects["subtracted_refused"].controls} == pushed
    assert effects["surprise_harmless_added"].value > 0 < effects["surprise_harmful_weights"].value
    svgs = [arm / "figures" / f"{name}.svg" for name in FIGURES]
    captions, table = [CAPTIONS / f"{path.stem}.rst" for path in svgs], LISTS.with_name("published.csv")
    about = {"captions": captions, "svg": svgs, "others": []}
    draw(StudyFigures(studies=studies, shams=shams, exchanged=exchanged, published=table, **about))
    assert all(path.stat().st_size > 1000 for path in svgs)
    svg = arm / "losses" / "figures" / "losses.svg"
    draw_losses(LossFigures(studies=studies, captions=[CAPTIONS / "losses.rst"], svg=[svg], others=[]))
    assert svg.stat().st_size > 1000
    for name, plans in (("recipes", PLANS), ("suffix", SUFFIX_PLANS), ("gradient", GRADIENT_PLANS)):
        svg = arm / name / "figures" / f"{name}.svg"
        draw_figures(plans, [CAPTIONS / f"{name}.rst"], [svg])
        assert svg.stat().st_size > 1000
    published = pd.read_csv(arm / "figures" / "published.csv")
    chosen = json.loads(studies[0].read_text())
    assert published[published["source"] == "this run"]["position"].tolist() == [chosen["position"]] * 2
    assert {path.stem for path in CAPTIONS.glob("*.rst")} == {
        *FIGURES,
        "losses",
        "recipes",
        "suffix",
        "gradient",
        "released",
        "candidates",
    }


@pytest.mark.model
def test_exchanged_directions_differ_and_requests_are_those_of_the_study(arm):
    """Both models are the same here, but their directions are of other requests."""
    answers, exchanged = (pd.read_csv(arm / name) for name in ("harmful/answers.csv", "cross/0-0.csv"))
    foreign = exchanged.query("model == 'harmful' and condition == 'foreign ablated'")
    own = answers.query("`class` == 'harmful' and condition == 'ablated'")
    assert foreign["topic"].tolist() == own["topic"].tolist()
    assert not np.allclose(foreign["metric"], own["metric"], rtol=1e-3)
    vectors = [load_file(arm / name / "directions.safetensors") for name in ("harmful", "food")]
    assert not np.allclose(vectors[0]["r"], vectors[1]["r"])


@pytest.mark.model
def test_controls_of_an_exchange_are_directions_of_the_other_model(arm):
    tuned, tokenizer = load(arm / "tuned" / "manifest.json", torch.float32, "cpu"), load_tokenizer(arm / "tuned")
    lines = draw_requests(0, SPLIT).switch.test[: EFFECTS.prompts]
    batch = chat_batch(tokenizer, [line.text for line in lines])
    own, other = (load_safetensors(arm / name / "directions.safetensors") for name in ("harmful", "food"))
    exchanged = pd.read_csv(arm / "cross" / "0-0.csv").query("model == 'harmful'")
    for name in ("random", "permuted", "other_topic", "earlier"):
        with ablating(tuned, other[name]):
            expected = refusal_metric(last_logits(tuned, batch), own["refusal_tokens"])
        measured = exchanged.query(f"condition == 'foreign {name} ablated'")["metric"]
        np.testing.assert_allclose(measured, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.model
def test_pushes_and_edits_are_those_of_the_study(arm):
    """Conditions measured in the study against hooks set by hand, with what the study stored."""
    tuned, tokenizer = load(arm / "tuned" / "manifest.json", torch.float32, "cpu"), load_tokenizer(arm / "tuned")
    lines = draw_requests(0, SPLIT).harmless.test[: EFFECTS.prompts]
    batch = chat_batch(tokenizer, [line.text for line in lines])
    stored = load_safetensors(arm / "harmful" / "directions.safetensors")
    numbers = json.loads((arm / "harmful" / "numbers.json").read_text())
    answers = pd.read_csv(arm / "harmful" / "answers.csv").query("`class` == 'harmless'")
    shorter = -numbers["least_subtraction"] * stored["r"]
    clean = last_logits(tuned, batch)
    for condition, intervention in (
        ("least subtracted", adding(tuned, int(numbers["layer"]), shorter)),
        ("cheapest ablated", ablating(tuned, stored["cheapest"])),
    ):
        with intervention:
            expected = first_token_kl(clean, last_logits(tuned, batch))
        measured = answers.query(f"condition == '{condition}'")["kl_tuned"]
        np.testing.assert_allclose(measured, expected, rtol=1e-3, atol=1e-4)
    harmful = pd.read_csv(arm / "harmful" / "answers.csv").query("`class` == 'harmful'")
    conditions = {"token_ban", "permuted_push", "earlier_push", "permuted weights", "earlier subtracted"}
    assert conditions <= set(harmful["condition"])
    banned = harmful.query("condition == 'token_ban'")
    assert (banned["metric"] < -18).all()
    assert np.isfinite(banned["kl_before"]).all()


@pytest.mark.model
def test_permuted_candidates_keep_the_limit_on_kl(arm):
    """For ablation the least bypass of those at the KL of r; the damage is the least bypass of all."""
    scores, answers = (pd.read_csv(arm / "harmful" / f"{name}.csv") for name in ("scores", "answers"))
    final = scores[(scores["stage"] == "final") & (scores["labels"] == "permuted")]
    chosen = scores[(scores["stage"] == "final") & (scores["labels"] == "true")].iloc[0]
    assert final["permutation"].nunique() <= 3
    vectors = load_file(arm / "harmful" / "directions.safetensors")
    norms = [float(np.linalg.norm(vectors[name])) for name in ("r", "permuted", "damage", "other_topic", "earlier")]
    np.testing.assert_allclose(norms, norms[0], rtol=1e-4)
    cosine = vectors["other_topic"] @ vectors["r"] / norms[0] ** 2
    assert abs(cosine) < 0.1
    cheap = final[final["kl"] <= max(0.1, chosen["kl"])]
    best = (cheap if len(cheap) else final.sort_values("kl").head(1)).sort_values("bypass").iloc[0]
    assert final["bypass"].min() <= best["bypass"]
    assert set(answers["condition"]) >= {"permuted ablated", "permuted added", "permuted weights", "damage ablated"}


@pytest.mark.model
def test_the_direction_can_be_taken_out_of_a_saved_model(arm):
    files = RemoveFiles(
        tuned=arm / "tuned" / "manifest.json", directions=arm / "harmful" / "directions.safetensors",
        orthogonalised=arm / "without" / "manifest.json",
    )  # fmt: skip
    remove(files)
    verify_folder(arm / "without")
    r = load_file(arm / "harmful" / "directions.safetensors")["r"]
    weights = load_file(arm / "without" / "model.safetensors")
    before = load_file(arm / "tuned" / "model.safetensors")
    written = np.abs(r / np.linalg.norm(r) @ weights["model.layers.1.mlp.down_proj.weight"]).max()
    assert written < 1e-6
    np.testing.assert_array_equal(weights["lm_head.weight"], before["model.embed_tokens.weight"])
