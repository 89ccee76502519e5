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

from common.claims import load_claims
from common.models import Manifest, load_tokenizer, verify_folder
from common.records import read_metrics
from replications.refusal_direction.draw import FIGURES, draw
from replications.refusal_direction.filters import ranked, survives
from replications.refusal_direction.folders import save
from replications.refusal_direction.guardrail import guardrail
from replications.refusal_direction.lists import LISTS
from replications.refusal_direction.orthogonalise import remove
from replications.refusal_direction.pictures import Data, tuning
from replications.refusal_direction.settings import EffectSettings, GuardSettings, SearchSettings, SplitSettings
from replications.refusal_direction.study import study
from replications.refusal_direction.summarise import summarise
from replications.refusal_direction.tables import Arm, against, ratios, read_arm, requests

PARTS = ("tuning", "direction", "effects", "surgical", "guardrail")
CAPTIONS = Path(__file__).resolve().parents[2] / "replications" / "refusal_direction" / "captions"


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
    study(
        before=folder / "before" / "manifest.json",
        tuned=folder / "tuned" / "manifest.json",
        lists=LISTS,
        python_docs=corpus_folder / "manifest.json",
        self_chat=chats if chats.exists() else corpus_folder / "manifest.json",
        split=split,
        search=SearchSettings(grid_prompts=2, finalists=2, rows=16, minimum_left=0),
        effects=EffectSettings(
            effect_prompts=6, null_prompts=4, random_draws=4, new_tokens=2, doses=[0.0, 1.0], dose_prompts=2,
            text_tokens=16, texts=2,
        ),
        switch="harmful",
        seed=0,
        device="cpu",
        out=folder / "study" / "numbers.json",
    )  # fmt: skip
    guardrail(
        before=folder / "before" / "manifest.json",
        tuned=folder / "tuned" / "manifest.json",
        directions=folder / "study" / "directions.safetensors",
        lists=LISTS,
        split=split,
        guard=GuardSettings(
            depth=0.64, sae_lines=4, d_sae=32, k=4, steps=6, batch=32, learning_rate=0.004, prompts=4, clamps=[1.0],
            bounds=[0.5], attack_steps=2, random_draws=2,
        ),
        seed=0,
        device="cpu",
        out=folder / "guard" / "guard.json",
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
    conditions = pd.read_csv(arm / "guard" / "conditions.csv")
    assert set(conditions) == {"item", "topic", "model", "condition", "reads", "metric", "refused", "kl"}
    free = conditions[conditions["model"] == "tuned"].set_index("condition")["metric"]
    np.testing.assert_allclose(free["zero, error recomputed"], free["free"], atol=1e-4)  # undoes the clamp
    assert all(
        isinstance(value, (int, float)) for value in json.loads((arm / "study" / "numbers.json").read_text()).values()
    )


@pytest.mark.model
def test_every_claim_finds_its_metrics_and_a_figure_is_drawn(arm):
    numbers = arm / "study" / "numbers.json"
    out = [arm / part / "metrics.json" for part in PARTS]
    guards = [arm / "guard" / "guard.json"] * 2
    summarise(arms=[numbers, numbers], sham=numbers, guards=guards, out=out)
    for claim in load_claims("refusal_direction"):
        if claim.part not in PARTS:
            continue
        metrics = read_metrics(arm / claim.part / "metrics.json")
        assert {claim.metric, claim.control.metric, claim.control.difference} <= set(metrics), claim.id
    drawn = []
    for folder in ("figures", "again"):
        svgs = [arm / folder / f"{name}.svg" for name in ("refusal", "guardrail")]
        captions, published = [CAPTIONS / f"{path.stem}.rst" for path in svgs], LISTS.with_name("published.csv")
        draw(arms=[numbers, numbers], sham=numbers, guards=guards, published=published, captions=captions, out=svgs)
        drawn.append([path.read_bytes() for path in svgs])
    assert all(len(content) > 1000 for content in drawn[0])
    assert drawn[0] == drawn[1], "same data, same bytes"
    assert {path.stem for path in CAPTIONS.glob("*.rst")} == {*FIGURES, "transfer", "cone", "released", "candidates"}


@pytest.mark.model
def test_no_score_is_cut_off(arm):
    one = read_arm(arm / "study" / "numbers.json")
    one.tables["openings"] = one.tables["openings"].assign(auroc=0.05)
    figure, _ = tuning(Data([one], one, pd.DataFrame(), []))
    assert figure.axes[2].get_ylim()[0] <= 0.05
    plt.close(figure)


@pytest.mark.model
def test_the_direction_can_be_taken_out_of_a_saved_model(arm):
    remove(
        tuned=arm / "tuned" / "manifest.json", directions=arm / "study" / "directions.safetensors",
        out=arm / "without" / "manifest.json",
    )  # fmt: skip
    verify_folder(arm / "without")
    stored = load_file(arm / "study" / "directions.safetensors")
    assert {"permuted", "random", "unrelated", "earlier"} < stored.keys()
    r = stored["r"]
    weights = load_file(arm / "without" / "model.safetensors")
    before = load_file(arm / "tuned" / "model.safetensors")
    written = np.abs(r / np.linalg.norm(r) @ weights["model.layers.1.mlp.down_proj.weight"]).max()
    assert written < 1e-6
    np.testing.assert_array_equal(weights["lm_head.weight"], before["model.embed_tokens.weight"])


def planted(shift: float) -> Arm:
    """Ten refused requests, of which ablation spares those of one topic; losses that rise by `shift`."""
    topics = ["a"] * 5 + ["b"] * 5
    rows = [("harmful", "tuned", 1, 4.0), ("harmful", "ablated", 0, -2.0), ("harmful", "random ablated", 1, 3.5)]
    answers = pd.concat(
        pd.DataFrame({"topic": topics, "refused": refused, "metric": metric, "class": kind, "condition": condition})
        for kind, condition, refused, metric in rows
    )
    values = {"tuned": 2.0, "ablated": 1.0, "random": 2.0}
    surgical = pd.DataFrame(
        [("kl", item, condition, value + shift) for item in range(4) for condition, value in values.items()],
        columns=["quantity", "item", "condition", "value"],
    )
    return Arm({"answers": answers, "surgical": surgical}, {}, {})


def test_summaries_by_hand():
    arms = [planted(0.0), planted(2.0)]
    found = against("refused", arms, ("harmful", "ablated"), {"random": ("harmful", "random ablated")})
    assert found["refused"].value == 0
    assert found["refused_random"].value == 1
    assert found["refused_minus_random"].value == -1
    assert found["refused"].per_seed == [0, 0]
    drop = requests(arms, ("harmful", "tuned"), ("harmful", "ablated"), "metric")
    assert (drop.value, drop.n) == (6.0, 20)
    ratio = ratios("back", arms, "kl", "ablated", "random")["back"]
    assert ratio.value == pytest.approx((1 + 3) / (2 + 4))
    assert ratio.per_seed == pytest.approx([0.5, 0.75])


def test_arms_that_share_topics_are_resampled_together():
    """Four seeds with the same two topics: two clusters if they share them, eight if they do not."""
    answers = planted(0.0).tables["answers"].assign(refused=[1] * 5 + [0] * 25)
    apart, shared = (
        requests([Arm({"answers": answers}, {}, {}, topics)] * 4, ("harmful", "tuned")) for topics in (None, "all")
    )
    assert apart.value == shared.value == 0.5
    assert apart.per_seed == shared.per_seed == [0.5] * 4
    assert shared.ci_high - shared.ci_low > apart.ci_high - apart.ci_low


def test_the_choice_follows_the_filters():
    table = pd.DataFrame({"bypass": [-9.0, -7, -4, -3], "kl": [0.05, 0.5, 0.05, 0.1], "induce": [-1.0, 1, 1, 0]})
    assert survives(table).tolist() == [False, False, True, True]
    assert ranked(table)["bypass"].tolist() == [-4, -3, -7, -9]


def test_without_survivors_the_least_kl_among_those_that_work():
    table = pd.DataFrame(
        {
            "bypass": [-9.0, -7.0, -4.0, 1.0, -8.0],
            "kl": [3.0, 0.3, 0.2, 0.15, 0.05],
            "induce": [1.0, 2.0, 3.0, 4.0, -1.0],
        }
    )
    assert not survives(table).any()
    found = ranked(table)
    assert found["bypass"].tolist() == [-4, -7, -9, -8, 1]
    assert list(found.columns) == ["bypass", "kl", "induce"]
