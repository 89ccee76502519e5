"""Directions found by gradient, on tiny random models: the loss, what is kept, and the numbers of a cone."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from common.core.errors import UserError
from replications.refusal_direction import gradient as gradient_module
from replications.refusal_direction.answers import Asked, Questioner
from replications.refusal_direction.chat import (
    ablating,
    first_token_kl,
    greedy,
    last_logits,
    padded,
    refusal_metric,
    residuals,
)
from replications.refusal_direction.comparisons import Studied
from replications.refusal_direction.directions import Subject
from replications.refusal_direction.gradient import between, cosines, measured, spanned, worst
from replications.refusal_direction.gradient_controls import BESIDE, LAYERS, least_bypass, unembedding
from replications.refusal_direction.gradient_search import (
    ROWS,
    Place,
    _order,
    learn,
    lessons_of,
    loss_of,
    place_of,
    without,
)
from replications.refusal_direction.lists import Line
from replications.refusal_direction.nulls import Choosing
from replications.refusal_direction.search import Candidates
from replications.refusal_direction.settings import EffectSettings, GradientSettings, SearchSettings
from replications.refusal_direction.summarise_gradient import by_gradient
from replications.refusal_direction.tests.tiny import FAMILIES, WIDTH, tiny_model

ON, OFF = padded([[1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12]]), padded([[13, 14, 15], [16, 17, 18, 19]])
NOTHING = torch.zeros(0, WIDTH)


def direction(seed, away=NOTHING):
    return without(torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)), away)


R = direction(1)
PLACE = Place(R, 2, -2, torch.tensor([0.0, 0.5]), torch.tensor([1.0, 2.0]))  # distances 1 and 1.5
SETTINGS = GradientSettings(steps=12, learning_rate=0.05, target_tokens=3)
NO_STOP = -1


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny_model(request.param)


def along(model, prompts):
    """Where the residual stream lies along r, from its layer on, one request at a time."""
    return torch.stack([residuals(model, padded([one]))[0, PLACE.position, PLACE.layer :] @ R for one in prompts])


def lessons(model, stop=NO_STOP):
    return lessons_of(model, ON, OFF, R, along(model, ON.prompts), 3, stop)


def by_hand(model, v, answers, keep):
    """The loss, one request at a time, without padding."""
    losses, counted = 0.0, 0
    for prompt, answer in zip(ON.prompts, answers, strict=True):
        whole = padded([[*prompt, *answer]])
        with ablating(model, v):
            logits = model(input_ids=whole.ids, position_ids=whole.places).logits[0].float()
        losses += float(F.cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(answer), reduction="sum"))
        counted += len(answer)
    with ablating(model, v):
        changed = along(model, ON.prompts)
    moved = (changed - along(model, ON.prompts)) / 1.25
    kls = []
    for prompt in OFF.prompts:
        with ablating(model, v):
            after = last_logits(model, padded([prompt]))
        kls.append(float(first_token_kl(last_logits(model, padded([prompt])), after)))
    return losses / counted + sum(kls) / len(kls) + keep * float(moved.square().mean())


@pytest.mark.parametrize("keep", [False, True])
def test_the_loss_equals_one_request_at_a_time(model, keep):
    given = lessons(model)
    found = loss_of(model, given, PLACE, direction(2), torch.arange(3), torch.arange(2), keep=keep)
    assert float(found) == pytest.approx(by_hand(model, direction(2), given.answers.tolist(), keep), rel=1e-3)


def test_answers_are_those_with_r_ablated_up_to_the_stop(model):
    with ablating(model, R):
        expected, _ = greedy(model, ON, 3)
    found = lessons(model, stop=int(expected[0, 0]))
    assert found.answers.tolist() == expected.tolist()
    assert found.counts[0].tolist() == [1, 0, 0]  # the stop itself is to be said
    assert [row[-3:] for row in found.answered.ids.tolist()] == expected.tolist()


def test_the_place_of_r_and_of_the_classes_by_hand():
    """Two tokens, three layers, three dimensions; the classes differ by 2 along the first one, and by 3 at the end."""
    on, off = torch.zeros(2, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    on[:, 1, 1, 0], on[:, 1, 2, 0] = torch.tensor([1.0, 3.0]), 3.0
    place, lies = place_of({"on": on, "off": off}, 1, -1)
    assert place.r.tolist() == [1, 0, 0]
    assert (place.harmless.tolist(), place.harmful.tolist()) == ([0, 0], [2, 3])
    assert (place.distance, lies.tolist()) == (2.5, [[1, 3], [3, 3]])


def test_learning_lowers_the_loss_and_has_nothing_along_the_vectors(model):
    given = lessons(model)

    def loss(v):
        return float(loss_of(model, given, PLACE, v, torch.arange(3), torch.arange(2), keep=False))

    for away in (NOTHING, R[None], spanned(torch.stack([R, direction(4)]))):
        found = learn(model, given, PLACE, SETTINGS, torch.Generator().manual_seed(3), away=away)
        assert float(found.norm()) == pytest.approx(1, abs=1e-5)
        assert loss(found) < loss(direction(3, away))
        assert (abs(float(found @ R)) < 1e-5) is (len(away) > 0)


def test_what_is_to_be_kept_changes_less():
    model, moves = tiny_model(), []
    given = lessons(model)
    for keep in (False, True):
        v = learn(model, given, PLACE, SETTINGS, torch.Generator().manual_seed(3), away=R[None], keep=keep)
        with ablating(model, v):
            changed = along(model, ON.prompts)
        moves.append(float((changed - given.along).square().mean()))
    assert moves[1] < moves[0]


def test_a_search_that_leaves_the_finite_numbers_says_so():
    model = tiny_model()
    given = lessons(model)._replace(tuned=torch.full((2, 50), torch.inf))
    with pytest.raises(UserError, match="lower gradient"):
        learn(model, given, PLACE, SETTINGS, torch.Generator(), away=NOTHING)


def test_a_basis_of_what_vectors_span_whatever_their_lengths():
    x, y, z = torch.eye(3)
    basis = spanned(torch.stack([100 * x, x + 1e-3 * y, 0 * z]))
    assert basis.shape == (2, 3)
    assert (basis @ basis.mT).flatten().tolist() == pytest.approx([1, 0, 0, 1], abs=1e-6)
    assert (basis @ z).tolist() == pytest.approx([0, 0], abs=1e-6)


def choosing(model):
    sizes = SearchSettings(
        grid_prompts=2, finalists=1, permutations=2, permuted_step=2, null_finalists=2, rows=8, minimum_left=0
    )
    return Choosing(model, ON, OFF, torch.tensor([4, 9]), sizes)


def bypass(model, vector):
    with ablating(model, vector):
        return float(refusal_metric(last_logits(model, ON), torch.tensor([4, 9])).mean())


def test_between_lie_three_directions_on_the_side_that_leaves_less(model):
    v = direction(5, R[None])
    found = between(choosing(model), R, v)
    assert [round(float(one @ R), 3) for one in found] == [0.924, 0.707, 0.383]
    sides = [[float(one @ R) * R + sign * float((one @ v).abs()) * v for one in found] for sign in (1, -1)]
    metrics = [sum(bypass(model, one) for one in side) for side in sides]
    assert sum(bypass(model, one) for one in found) == pytest.approx(min(metrics), rel=1e-3)
    assert metrics[0] != pytest.approx(metrics[1], rel=1e-3)
    opposite = between(choosing(model), R, -v)
    assert torch.allclose(torch.stack(found), torch.stack(opposite))


def test_least_bypass_is_the_best_that_can_be_afforded(model):
    vectors = torch.stack([direction(seed) for seed in range(6)])
    whole = choosing(model).ablated(Candidates(pd.DataFrame({"layer": [0] * 6}), vectors[:, None]))
    best = int(whole["bypass"].argmin())
    assert torch.equal(least_bypass(choosing(model), vectors[[best, best]], 1e9), vectors[best])
    dear = float(whole["kl"][best]) - 1e-6
    chosen = least_bypass(choosing(model), vectors, dear)
    assert not torch.equal(chosen, vectors[best])


class Tokenizer:
    """Refuses where the number of the first token is a multiple of four."""

    eos_token_id = -1

    def batch_decode(self, turns, **_):
        return ["I cannot" if turn[0] % 4 == 0 else "Yes" for turn in turns]


def refused(model, prompt, vector):
    with ablating(model, vector):
        return int(greedy(model, padded([prompt]), 1)[0][0, 0] % 4 == 0)


def test_measured_equals_one_request_and_one_direction_at_a_time(monkeypatch):
    """With a control of two draws: the first half of the requests has the first of them."""
    model, lines = tiny_model(), [Line("a", ""), Line("b", ""), Line("c", ""), Line("d", "")]
    batches = {"on": padded([[1, 2, 3, 4], [6, 7, 8, 3], [9, 1, 2, 5], [9, 8, 7]]), "off": ON}
    asker = Questioner(model, None, Tokenizer(), torch.tensor([4, 9]), ["x"], 2)
    given = iter([Asked(lines, batches["on"], last_logits(model, batches["on"]), None),
                  Asked(lines[:3], batches["off"], last_logits(model, batches["off"]), None)])  # fmt: skip
    monkeypatch.setattr(Questioner, "about", lambda *_: next(given))
    monkeypatch.setattr(gradient_module, "questioner", lambda *_: asker)
    drawn, v = torch.stack([direction(7), direction(8)]), direction(9)
    part = SimpleNamespace(test=lines)
    subject = Subject(model, None, None, SimpleNamespace(switch=part, harmless=part), asker.tokens, {}, {})
    effects = EffectSettings(prompts=4, random_draws=4, new_tokens=2, weights=False, transcripts=1, transcript_tokens=1)
    cones = {"cone": ("v", [direction(10), direction(11)]), "drawn cone": ("drawn", [drawn.roll(1, 0), drawn])}
    table = measured(subject, PLACE, {"r": R, "v": v, "drawn": drawn}, cones, effects).set_index(["class", "condition"])
    for number, prompt in enumerate(batches["on"].prompts):
        one, metrics = padded([prompt]), {}
        for name, vector in {"r": R, "v": v, "drawn": drawn[number // 2]}.items():
            with ablating(model, vector):
                metrics[name] = float(refusal_metric(last_logits(model, one), asker.tokens))
                changed = along(model, [prompt])
            row = table.loc[("harmful", name)].iloc[number]
            moved = (changed - along(model, [prompt])).abs().mean() / 1.25
            assert (row["metric"], row["moved"]) == pytest.approx((metrics[name], float(moved)), rel=2e-3, abs=1e-3)
            assert row["refused"] == refused(model, prompt, vector)
        half, answers = number // 2, {"cone": [R, v, *cones["cone"][1]]}
        answers["drawn cone"] = [R, drawn[half], drawn[1 - half]]
        for name, members in answers.items():
            expected = max(refused(model, prompt, vector) for vector in members)
            assert table.loc[("harmful", name)].iloc[number]["refused"] == expected
    assert table.loc[("harmful", "cone")]["refused"].nunique() == 2, "both happen"
    for number, prompt in enumerate(batches["off"].prompts):
        kls = []
        for vector in (R, v, *cones["cone"][1]):
            with ablating(model, vector):
                changed = last_logits(model, padded([prompt]))
            kls.append(float(first_token_kl(last_logits(model, padded([prompt])), changed)))
        found = table.loc[("harmless", "cone")].iloc[number]["kl_tuned"]
        assert found == pytest.approx(max(kls), rel=2e-3, abs=1e-3)
    assert len(table.loc[("harmless", "cone")]) == 3


def test_every_request_is_read_before_any_is_read_again():
    batches = _order(5, 3, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in batches] == [ROWS] * 3
    assert sorted(torch.cat(batches)[:10].tolist()) == sorted([*range(5)] * 2)


def test_a_cone_is_as_bad_as_its_worst_direction():
    one = pd.DataFrame({"topic": ["a", "b"], "refused": [0, 1], "metric": [-1.0, 2.0], "moved": [0.5, 0.5]})
    other = pd.DataFrame({"topic": ["a", "b"], "refused": [0, 0], "metric": [-3.0, 4.0]})
    found = worst([one, other])
    assert found[["topic", "refused", "metric"]].values.tolist() == [["a", 0, -1], ["b", 1, 4]]


def test_the_unembedding_of_tokens_is_what_their_logits_gain_by(model):
    """The direction is the derivative of their mean logit over the mean of all, up to the scale of the norm."""
    tokens, x = torch.tensor([4, 9]), torch.randn(WIDTH, generator=torch.Generator().manual_seed(5))
    scale = model.model.norm.weight + (1 if model.config.model_type == "gemma" else 0)
    logits = model.lm_head.weight @ (x * scale)
    expected = logits[tokens].mean() - logits.mean()
    assert float(unembedding(model, tokens) @ x) == pytest.approx(float(expected), rel=1e-4)


def test_cosines_of_every_pair():
    x, y = torch.eye(2)
    assert cosines({"r": x, "free": x + y, "orthogonal": y}) == pytest.approx(
        {"r__free": 0.5**0.5, "r__orthogonal": 0, "free__orthogonal": 0.5**0.5}
    )


def test_metrics_by_hand():
    """Learned directions end every refusal, and the independent one moves little; controls end half of the refusals
    alone and, in a cone, none. Of the other layers, one moves little."""
    columns = ["class", "condition", "topic", "refused", "moved"]
    moved = {"r": 1.0, "free": 1.0, "orthogonal": 0.75, "independent": 0.25, "layer_below": 0.75, "layer_above": 0.25}
    moved["unembedding"] = 0.0
    rows = []
    for topic in "abcd":
        for name in (*BESIDE, *moved):
            left = int(topic < "c") if name in BESIDE else 0
            rows += [("harmful", name, topic, left, moved.get(name, 0.0)), ("harmless", name, topic, 0, 0.0)]
        for name in (*BESIDE, *LAYERS, ""):
            left = int(name in BESIDE)
            rows += [(kind, f"{name} cone".strip(), topic, left, 0.0) for kind in ("harmful", "harmless")]
    table = pd.DataFrame(rows, columns=columns).assign(metric=0.0, kl_tuned=0.5, surprise=1.0)
    found = by_gradient([Studied({"answers": table}, {"r__free": 0.4}, {})] * 2)
    halves, whole = dict.fromkeys(BESIDE, 0.5), dict.fromkeys(BESIDE, 1)
    assert found["orthogonal_refused"].value == 0
    assert {one.name: one.value for one in found["orthogonal_refused"].controls} == halves
    assert {one.name: one.value for one in found["cone_refused"].controls} == whole
    assert found["layer_above_cone_refused"].value == 0
    aside = halves | {"r": 0, "orthogonal": 0, "layer_below": 0, "layer_above": 1}
    assert found["independent_aside"].value == 1
    assert {one.name: one.value for one in found["independent_aside"].controls} == aside
    assert found["orthogonal_kl"].control("r").difference.value == 0
    assert found["cosine_r__free"].per_seed == [0.4, 0.4]
