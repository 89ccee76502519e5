"""Sparse probes, contrast scores and the labelled windows: identities and planted truths."""

import itertools
import random
import re

import numpy as np
import pandas as pd
import pytest
import torch

from common.data.corpora import Document
from common.saes.architectures.base import random_rows
from common.saes.sae import About, Sae
from replications.sparse_autoencoders.contrasts import (
    SUBJECTS,
    contrast,
    contrast_elsewhere,
    differences,
    passages,
    plain_contrast,
)
from replications.sparse_autoencoders.latents_figures import contrasts as draw_contrasts
from replications.sparse_autoencoders.probes import CONTROLS, contrast_metrics, probe_metrics, views
from replications.sparse_autoencoders.probing import (
    VIEWS,
    balanced,
    best_features,
    dense_score,
    halves,
    sparse_score,
    splittable,
)
from replications.sparse_autoencoders.readouts import components, density_matched, pooled, random_sae
from replications.sparse_autoencoders.texts import FLAGGED, Window, flagged_calls, ordinary_call, tasks

GROUPS = [f"g{row % 8}" for row in range(160)]
LABEL = np.random.default_rng(0).random(160) < 0.5


class Characters:
    """A tokenizer whose tokens are single characters."""

    def __call__(self, text, **_):
        return {"input_ids": [ord(one) for one in text], "offset_mapping": [(i, i + 1) for i in range(len(text))]}


def planted(shift):
    """Noise with the label in feature 7."""
    x = np.random.default_rng(1).normal(size=(160, 20))
    x[:, 7] += shift * LABEL
    return x


def test_no_group_is_on_both_sides_and_both_classes_are():
    for seed in range(5):
        cut = halves(GROUPS, LABEL, seed)
        train, test = ({GROUPS[row] for row in rows} for rows in cut)
        assert not train & test
        assert sorted([*cut.train, *cut.test]) == list(range(160))
        assert all(0 < LABEL[rows].mean() < 1 for rows in cut)
    assert halves(GROUPS, LABEL, 0).test.tolist() != halves(GROUPS, LABEL, 1).test.tolist()
    with pytest.raises(ValueError, match="no split"):
        halves(["one"] * 160, LABEL, 0)
    assert splittable(GROUPS, LABEL)
    assert not splittable(["a", "b"] * 80, LABEL)


def test_one_feature_answers_what_was_planted_in_one():
    cut = halves(GROUPS, LABEL, 0)
    assert best_features(planted(6), LABEL, 1).tolist() == [7]
    assert sparse_score(planted(6), LABEL, cut, 1) > 0.97
    assert dense_score(planted(6), LABEL, GROUPS, cut, 0) > 0.9
    assert sparse_score(planted(0), LABEL, cut, 5) == pytest.approx(0.5, abs=0.2)  # nothing planted: the claims fail


def test_scale_of_a_feature_does_not_decide_which_is_chosen():
    x = planted(3)
    x[:, 2] *= 1000
    x[:, 5] = 4  # constant
    assert best_features(x, LABEL, 1).tolist() == [7]
    assert 5 not in best_features(x, LABEL, 19)


def test_balanced_accuracy_of_a_constant_answer_is_chance():
    assert balanced(np.ones(160, dtype=bool), LABEL) == 0.5
    assert balanced(LABEL, LABEL) == 1


def test_pooling_is_a_mean_over_the_mask():
    x = torch.randn(70, 5, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(70, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[0] = False
    found = pooled(lambda values: 2 * values, x, [mask])[0]
    assert torch.equal(found[0], torch.zeros(3))
    assert torch.allclose(found[3], 2 * x[3][mask[3]].mean(0), atol=1e-6)


def test_the_random_dictionary_fires_as_often_and_points_elsewhere():
    rows = random_rows(60, 40, torch.Generator().manual_seed(0))
    sae = Sae(About("t"), "jumprelu", rows.T.contiguous(), torch.zeros(60), rows, torch.zeros(40),
              threshold=torch.linspace(0.5, 3, 60))  # fmt: skip
    x = torch.randn(2000, 40, generator=torch.Generator().manual_seed(2))
    drawn = random_sae(sae, x, 1)
    often, as_often = ((one.encode(x) > 0).sum(0) for one in (sae, drawn))
    assert torch.equal(often, as_often)
    assert torch.allclose(drawn.W_dec.norm(dim=1), torch.ones(60), atol=1e-5)
    assert float((drawn.W_dec * rows).sum(1).abs().mean()) < 0.4
    assert components(x)(x).T.cov().diagonal().argmax() == 0


def test_contrast_is_zero_for_equal_passages_and_counts_standard_deviations():
    means = torch.tensor([[1.0, 5.0, 9.0], [1.0, 5.0, 9.0], [3.0, 0.0, 9.0], [0.0, 0.0, 2.0]])
    spread = torch.tensor([0.5, 1.0, 0.0])
    assert contrast(differences(means, spread)).tolist() == [0, 6]
    told = passages()
    assert len(told) == 6 * len(SUBJECTS) == len(set(told))
    assert all("{" not in one for one in told)
    first, second = SUBJECTS[0]
    assert told[0].replace(first, second) == told[1]


def test_a_contrast_chosen_elsewhere_needs_a_feature_that_keeps_its_side():
    """Two stories of two subjects: feature 0 tells the first subject in both, noise is larger but changes sides."""
    apart = torch.tensor([[2.0, 9.0, 0.0], [0.0, 0.0, 1.0], [3.0, -9.0, 0.0], [0.0, 0.0, -1.0]])
    assert contrast(apart).tolist() == [9, 1, 9, 1]
    assert contrast_elsewhere(apart, 2).tolist() == [-9, -1, -9, -1]
    apart[:, 1] = 0
    assert contrast_elsewhere(apart, 2).tolist() == [2, -1, 3, -1]
    noise = torch.randn(300, 50, generator=torch.Generator().manual_seed(0))
    assert float(contrast(noise).mean()) > 2  # the largest of fifty is large whatever it is
    assert abs(float(contrast_elsewhere(noise, 3).mean())) < 0.2


def test_a_plain_probe_is_fitted_on_the_other_stories():
    generator = torch.Generator().manual_seed(0)
    resid = torch.randn(12, 30, 16, generator=generator)  # three stories, two subjects, two passages each
    used = torch.rand(12, 30, generator=generator) < 0.8
    reference = torch.randn(500, 16, generator=generator)
    nothing = plain_contrast(resid, used, reference)
    assert float(nothing.abs().mean()) < 0.6
    resid[0::4, :, 5] += 3.0  # first passage of the first subject, in every story
    found = plain_contrast(resid, used, reference)
    assert float(found[0::2].min()) > 1.5
    assert float(found[1::2].abs().max()) < 1
    resid[8, :, 5] -= 6.0  # the other way round in the last story: its score turns, as its own tokens are not fitted on
    assert float(plain_contrast(resid, used, reference)[4]) < -1


def test_matched_latents_are_others_of_like_density():
    density = torch.linspace(0.001, 0.5, 300)
    chosen = np.array([10, 100, 200])
    drawn = density_matched(density, chosen, np.random.default_rng(0))
    assert not set(drawn) & set(chosen)
    assert np.abs(drawn - chosen).max() <= 22


def spelled(parsed):
    """All texts of a parsed pattern, without what it only looks at."""
    ways = {"BRANCH": lambda own: [*itertools.chain(*map(spelled, own[1]))], "LITERAL": lambda own: [chr(own)],
            "SUBPATTERN": lambda own: spelled(own[-1]), "MAX_REPEAT": lambda own: ["", *spelled(own[2])]}  # fmt: skip
    parts = [ways.get(str(kind), lambda _: [""])(own) for kind, own in parsed]
    return ["".join(one) for one in itertools.product(*parts)]


@pytest.mark.parametrize(
    ("code", "yes"),
    [("x = eval(text)", True), ("def eval(cls, x):", False), ("model.eval()", False), ("pickle.loads(b)", True),
     ("cPickle.loads(b)", True),
     ("yaml.safe_load(f)", False), ("yaml.load(f)", True), ("subprocess.run(c)", True), ("random.seed(0)", False),
     ("hashlib.sha256(b)", False), ("retrieval(x)", False),
     *((f"x = {call}y)", True) for call in spelled(re._parser.parse(FLAGGED.pattern)))],
)  # fmt: skip
def test_flagged_calls(code, yes):
    assert bool(FLAGGED.search(code)) == yes
    assert len(flagged_calls(source("a = 1\n" * 20 + code + "\nb = 2" * 20), Characters(), 40)) == yes


def source(text, name="a"):
    return Document(id=name, group="g", kind="source", text=text)


def test_a_call_begins_at_its_place_of_the_window():
    text = "a = 1\n" * 20 + "eval(x)\n" + "b = 2\n" * 20
    (window,) = flagged_calls(source(text), Characters(), 40)
    first, end = window.call
    assert (first, end) == (24, 29)
    assert "".join(map(chr, window.tokens[first:end])) == "eval("
    assert window.text == "".join(map(chr, window.tokens))
    assert ordinary_call(source(text), Characters(), 40, random.Random(0)) is None
    other = ordinary_call(source(text + "print(y)\n" + "c = 3\n" * 10), Characters(), 40, random.Random(0))
    assert "".join(map(chr, other.tokens[other.call[0] : other.call[1]])) == "print("
    used = torch.ones(1, 40, dtype=torch.bool)
    assert [int(one.sum()) for one in views([window], used)] == [40, 35, 24]  # whole, without the name, before it


def test_labels_of_the_tasks():
    made = [Window([1], "class A:\n  raise X", "p", "1", "source"), Window([1], "for x in y:", "q", "2", "source"),
            Window([1], "says", "p", "3", "docstring"), Window([1], "Hello", "topic", "4", "chat"),
            Window([1], "eval(", "p", "5", "flagged", (0, 1))]  # fmt: skip
    found = {one.name: one for one in tasks(made, ["p"])}
    assert found["from p"].label.tolist() == [True, False, True]
    assert found["from p"].group == ["1", "2", "3"]
    assert found["code, not docstring"].label.tolist() == [True, True, False]
    assert found["has a class"].label.tolist() == [True, False]
    assert found["has a loop"].label.tolist() == [False, True]
    assert found["flagged call"].rows.tolist() == [4]


def test_metrics_of_tables():
    asked = [("x", "whole window"), *(("flagged call", view) for view in VIEWS)]
    kinds = ("latents", *CONTROLS, "coordinates, shuffled", "latents, shuffled")
    frame = pd.DataFrame(
        {"seed": seed, "task": task, "view": view, "features": own, "k": k, "accuracy": 0.6 + 0.3 * (own == "latents")}
        for seed in (0, 1) for task, view in asked for own in kinds for k in (0, 1, 2, 5)
    )  # fmt: skip
    frame.loc[(frame["features"] == "coordinates") & (frame["k"] == 0), "accuracy"] = 0.97
    found = probe_metrics(frame)
    assert found["probe_latents_k1"].control("random_directions").difference.value == pytest.approx(0.3)
    assert found["probe_latents_k1"].n == 2
    assert found["probe_plain_gain"].value == pytest.approx(0.07)
    assert found["probe_plain_gain"].control("shuffled_labels").value == pytest.approx(0)
    arms = ("latents", "random", "coordinates")
    whats = [f"contrast of {arm}{end}" for arm in arms for end in ("", ", chosen elsewhere")]
    whats += ["contrast of a plain probe, chosen elsewhere"]
    others = pd.DataFrame(
        [{"what": what, "seed": seed, "value": 1.0 + seed + ("random" in what) + 2 * ("coordinates" in what)}
         for what in whats for seed in (0, 1)]
    )  # fmt: skip
    told = contrast_metrics(others)
    assert [told[name].control("random_directions").difference.value for name in told] == [-1, -1]
    assert told["contrast"].control("coordinates").difference.value == -2
    assert [control.name for control in told["contrast"].controls] == ["random_directions", "coordinates"]
    assert told["contrast_elsewhere"].control("plain_probe").difference.value == 0
    figure, data = draw_contrasts(frame, others)
    assert [len(axis.collections) for axis in figure.axes] == [12, 7]  # one mean for each arm and place
    assert len(data) == len(others) + sum(frame["task"] == "flagged call")
