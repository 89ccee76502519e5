"""The replication: concepts, steering vectors and judges on planted data, and which texts are written."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from common.core.errors import UserError
from common.core.files import write_json
from common.core.settings import load_replication
from common.data.corpora import Document
from common.saes.sae import About, Sae
from common.saes.saelens import save_saelens
from replications.feature_steering import concepts, judge, steering_vectors, writing
from replications.feature_steering.figures import heat_map
from replications.feature_steering.prepare import own_saes
from replications.feature_steering.settings import (
    CHOSEN,
    CURVES,
    METHODS,
    NULL_OF,
    OF_A_SEED,
    RANDOM,
    REMOVALS,
    REMOVING,
    SCORING,
    UNSTEERED,
)

D, CONCEPTS, EACH = 12, 4, 10


def planted(shift=3.0, seed=0):
    """Documents whose tokens are shifted along one axis per concept, in anisotropic noise."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(CONCEPTS).repeat_interleave(EACH)
    scale = torch.linspace(0.3, 2.0, D).flip(0)
    x = torch.randn(len(label), 6, D, generator=generator) * scale + 1
    x[torch.arange(len(label)), :, D - 1 - label] += shift
    return x, label


def test_learned_vectors_find_a_planted_direction_and_nulls_do_not():
    x, label = planted()
    axes = torch.eye(D).flip(0)[:CONCEPTS]
    for make in (steering_vectors.difference_of_means, steering_vectors.probe_directions):
        found = make(x, label)
        assert torch.allclose(found.norm(dim=1), torch.ones(CONCEPTS), atol=1e-5)
        assert torch.equal((found @ axes.T).argmax(1), torch.arange(CONCEPTS)), make.__name__
        assert ((found * axes).sum(1) > 0.5).all(), make.__name__
    sae = Sae(About("relu"), "relu", torch.eye(D), torch.zeros(D), torch.eye(D), torch.zeros(D))
    latent, area = steering_vectors.detectors(x.relu().mean(1), label, torch.ones(D))
    assert latent.tolist() == [11, 10, 9, 8]
    assert area.min() > 0.95
    live = torch.ones(D)
    live[11] = 0
    assert steering_vectors.detectors(x.relu().mean(1), label, live)[0][0] != 11
    made, drawn = steering_vectors.nulls(x, label, sae, torch.ones(D), latent, 0)
    assert not set(drawn.tolist()) & set(latent.tolist())
    again, _ = steering_vectors.nulls(x, label, sae, torch.ones(D), latent, 0)
    assert all(torch.equal(v, again[name]) for name, v in made.items())
    assert not torch.equal(
        made["random_direction"], steering_vectors.nulls(x, label, sae, torch.ones(D), latent, 1)[0]["random_direction"]
    )
    towards = (steering_vectors.difference_of_means(x, label) * axes).sum(1)
    permuted = [
        (steering_vectors.nulls(x, label, sae, torch.ones(D), latent, seed)[0]["permuted_means"] * axes).sum(1)
        for seed in range(20)
    ]
    assert abs(float(torch.stack(permuted).mean())) < 0.1 < 0.5 < float(towards.min())


def test_random_directions_have_the_covariance_of_the_tokens():
    x, _ = planted(0.0)
    v = steering_vectors.matched_directions(x, 4000, torch.Generator().manual_seed(0))
    spread = x.flatten(0, 1).var(0)
    assert np.corrcoef(v.square().mean(0), spread / spread.sum())[0, 1] > 0.98


def test_the_principal_direction_points_to_the_concept():
    x, label = planted()
    x[label == 0] += torch.randn(EACH, 6, 1, generator=torch.Generator().manual_seed(1)) * 6 * torch.eye(D)[3]
    found = steering_vectors.principal_directions(x, label)
    assert abs(found[0, 3]) > 0.9
    assert ((found * steering_vectors.difference_of_means(x, label)).sum(1) >= 0).all()


def test_the_probe_is_0_on_other_documents_it_has_not_seen_and_counts_in_their_deviations():
    x, label = planted()
    fresh, _ = planted(seed=5)
    weights, offset = judge.fit_probe(x.mean(1), label, 0.1)
    literal = torch.linalg.lstsq(
        torch.cat([x.mean(1).double(), torch.ones(len(x), 1)], 1), (label[:, None] == torch.arange(CONCEPTS)).double()
    ).solution
    unridged, constant = judge.fit_probe(x.mean(1), label, 1e-9)
    assert torch.allclose(unridged, literal[:-1], atol=1e-4)
    assert torch.allclose(constant, literal[-1], atol=1e-4)
    weights, offset = judge.standardised(weights, offset, fresh.mean(1), label)
    scores = fresh.mean(1).double() @ weights + offset
    for one in range(CONCEPTS):
        assert scores[label != one, one].mean() == pytest.approx(0, abs=1e-9)
        assert scores[label != one, one].std() == pytest.approx(1)
        assert scores[label == one, one].mean() > 1
    assert min(steering_vectors.own_auroc(scores, label)) > 0.95


def test_the_ridge_is_the_one_that_tells_left_out_documents_best(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(CONCEPTS).repeat_interleave(EACH)
    x = torch.randn(len(label), 200, generator=generator)
    x[torch.arange(len(label)), label] += 2.0
    chosen = judge.choose_ridge(x, label)
    parts = [torch.arange(len(label)) % EACH % judge.FOLDS == fold for fold in range(judge.FOLDS)]

    def left_out(strength):
        found = []
        for part in parts:
            weights, offset = judge.fit_probe(x[~part], label[~part], strength)
            found.append(np.mean(steering_vectors.own_auroc(x[part].double() @ weights + offset, label[part])))
        return np.mean(found)

    assert chosen == max(judge.RIDGES, key=left_out)
    order = torch.randperm(len(label), generator=generator)
    monkeypatch.setattr(judge, "RIDGES", (1e-6, 3.0))
    assert judge.choose_ridge(x, label) == 3.0
    assert judge.choose_ridge(x[order], label[order]) == 3.0, "documents may come in any order"


def test_lexicons_hold_telling_tokens_and_leave_out_what_a_vector_raises_directly():
    documents = [[[1, 2, 9], [1, 2, 9], [1, 3, 9], [1, 2, 5]], [[4, 9], [4, 9], [4, 1], [4, 9, 0]]]
    assert judge.lexicons(documents, [set(), set()], 2, [0]) == [[1, 2], [4, 9]]
    assert judge.lexicons(documents, [{2}, {9}], 2, [0]) == [[1, 9], [4]]
    tokens = torch.tensor([[1, 1, 2, 7], [7, 7, 7, 7]])
    assert judge.lexicon_share(tokens, [1, 2]).tolist() == [0.75, 0.0]
    assert judge.distinct_bigrams(tokens).tolist() == pytest.approx([1.0, 1 / 3])


@pytest.mark.parametrize("scale", ["smoke", "full", "gpu"])
def test_rows_pair_with_unsteered_ones_and_every_group_has_its_intervention(scale):
    settings = load_replication("feature_steering", scale)
    plan, fluency = settings.writing, settings.fluency
    chosen = dict.fromkeys(CHOSEN, fluency.lengths[0])
    tried = list(writing.choosing(5, 3, fluency))
    rows = [*tried, *writing.scoring(5, 3, plan, chosen)]
    rows += list(writing.removed(5, 6, 3, [2, 3, 4], 1000, settings.removal.strength))
    assert len(set(rows)) == len(rows), "no text is written twice"
    base = {(row.part, row.neutral) for row in rows if row.method == UNSTEERED}
    assert {(row.part, row.neutral) for row in rows} == base
    assert {row.method for row in tried} == {UNSTEERED, *CHOSEN}
    assert {row.multiplier for row in tried if row.method != UNSTEERED} == {*fluency.lengths, *fluency.beyond}
    scored = [row for row in rows if row.part == SCORING and row.method != UNSTEERED]
    for method in CURVES:
        texts = [{row[5:] for row in scored if (row.method, row.multiplier) == (method, dose)} for dose in plan.doses]
        assert all(one == texts[0] for one in texts), "equal texts from equal random numbers at every dose"
        assert len(texts[0]) == 5 * plan.scoring
        assert texts[0] == {row[5:] for row in rows if (row.part, row.method) == (SCORING, UNSTEERED)}, "length 0, too"
    for method, null in NULL_OF.items():
        at_chosen = {one for one, length in writing.scored(plan, chosen) if length == chosen[method]}
        assert at_chosen >= {method, null, RANDOM}
    left_alone = writing.scored(plan, dict.fromkeys(CHOSEN, 0.0))
    assert all(length > 0 for _, length in left_alone)
    sae = Sae(About("relu"), "relu", torch.eye(D), torch.zeros(D), 2 * torch.eye(D), torch.zeros(D))
    prepared = {"norm": torch.tensor([10.0]), "latent.sae.3": torch.arange(5)}
    prepared |= {f"vector.{one}.3" if one in OF_A_SEED else f"vector.{one}": torch.eye(D)[:5] for one in METHODS}
    prepared["latent.random_latent.3"] = torch.arange(5) + 5
    groups = writing.steering(rows, prepared, sae)
    assert sorted(place for places, _ in groups for place in places) == list(range(len(rows)))
    x = torch.zeros(1, 1, D)
    for places, steering in groups:
        for number, place in enumerate(places[:40]):
            row = rows[place]
            assert (steering is None) == (row.method in (UNSTEERED, "instruction"))
            if steering is not None and row.method != "project":
                change = steering.rows(torch.tensor([number]))(x) - x
                assert change.norm() == pytest.approx(abs(row.multiplier) * 10, rel=1e-5)  # equal length
    assert {row.method for row in rows} >= set(REMOVALS)


def test_every_seed_steers_with_the_latents_of_its_own_dictionary():
    saes = {
        seed: Sae(About("relu"), "relu", torch.eye(D), torch.zeros(D), torch.eye(D).roll(2 * seed, 0), torch.zeros(D))
        for seed in (3, 4)
    }
    prepared = {"norm": torch.tensor([10.0])}
    for seed, sae in saes.items():
        prepared[f"latent.sae.{seed}"] = torch.tensor([seed])
        prepared[f"vector.sae.{seed}"] = sae.W_dec[[seed]]
    for seed, sae in saes.items():
        arms = ((SCORING, "sae"), (REMOVING, "clamp"))
        rows = [writing.Row(seed, part, 0, method, 0.2, 0, 0, 0) for part, method in arms]
        for _, steering in writing.steering(rows, prepared, sae):
            assert torch.equal(steering(torch.zeros(1, 1, D))[0, 0], 2 * sae.W_dec[seed])
    assert not torch.equal(saes[3].W_dec[3], saes[4].W_dec[4])


def test_dictionaries_of_the_seeds_must_be_there_and_sit_at_one_hook(tmp_path):
    for name, hook in (("a-s0", "blocks.1.hook_resid_pre"), ("a-s1", "blocks.2.hook_resid_pre")):
        about = About("relu", model="m", hook=hook)
        save_saelens(Sae(about, "relu", torch.eye(D), torch.zeros(D), torch.eye(D), torch.zeros(D)), tmp_path / name)
    write_json(tmp_path / "index.json", [{"name": "a-s0"}, {"name": "a-s1"}])
    assert [sae.about.hook for sae in own_saes(tmp_path / "index.json", ["a-s0"], "m")] == ["blocks.1.hook_resid_pre"]
    with pytest.raises(UserError, match=r"no SAE 'a-s2' in .*; there are a-s0, a-s1"):
        own_saes(tmp_path / "index.json", ["a-s0", "a-s2"], "m")
    with pytest.raises(UserError, match=r"belongs to blocks\.2\.hook_resid_pre of m, not to blocks\.1"):
        own_saes(tmp_path / "index.json", ["a-s0", "a-s1"], "m")


def test_modules_are_read_from_the_place_of_a_docstring():
    def at(path):
        return concepts.module_of(Document(id=path, group="g", kind="docstring", text="x"))

    assert at("sympy/geometry/line.py#Line:12") == "sympy.geometry"
    assert at("click/core.py#module:1") == "click.core"


def test_the_map_of_specificity_shows_the_diagonal_of_scores_that_rise_under_any_latent():
    names = ["a", "b", "c"]
    gains = pd.DataFrame(np.eye(3) + np.array([0.0, 50.0, -8.0]), columns=names)  # by column: what any latent adds
    gains["c"] *= 0.01
    figure, shown = heat_map(gains.assign(steered=names)[["steered", *names]])
    plt.close(figure)
    assert np.allclose(shown[names], np.where(np.eye(3), np.sqrt(2), -np.sqrt(0.5)))
    constant = gains.assign(steered=names, a=1.0)[["steered", *names]]
    assert (heat_map(constant)[1]["a"] == 0).all()
    plt.close("all")
