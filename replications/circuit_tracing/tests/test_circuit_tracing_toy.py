"""The two-hop task, interventions on its models, names of features and the planted circuit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.saes.recipe import Training
from common.toys.transformer import forward
from replications.circuit_tracing.graph import attribute
from replications.circuit_tracing.interventions import (
    Subject,
    agreement,
    changes,
    edited,
    fall,
    first_order,
    matched,
    predictions,
    reaching,
    shuffled,
    spearman,
    written,
)
from replications.circuit_tracing.middle import most_influential, named, strongest, swap, values
from replications.circuit_tracing.planted import (
    circuit,
    edge_strength,
    freeze_circuit,
    keys,
    matches,
    near,
    planted_edges,
    recovered,
    run_circuit,
    sequences,
    shuffled_edges,
    strongest_edges,
    write_sizes,
)
from replications.circuit_tracing.settings import Dictionaries, Planted
from replications.circuit_tracing.task import LAST, tables, vocabulary
from replications.circuit_tracing.tests.circuit_tracing_tiny import SHAPE, TASK
from replications.circuit_tracing.toy import neurons, normalise, read

TRAINING = Training(steps=1, batch=8, warmup=0, dead_after=100)
PLANTED = Planted(
    d_model=192, voices=3, tokens=8, strings=10, length=7, sequences=256, prompts=8,
    dictionaries=Dictionaries(d_sae=32, k=1, training=TRAINING),
)  # fmt: skip


def test_classes_are_balanced_and_every_relation_permutes_the_answers():
    found = tables(TASK, 1)
    assert torch.bincount(found.classes.flatten()).tolist() == [3, 3, 3]
    assert all(sorted(row) == [0, 1, 2] for row in found.answers.tolist())
    words = vocabulary(TASK)
    assert len(words) == len(set(words)) == 1 + 2 * TASK.names + TASK.relations + 2 * TASK.classes
    for prompt, answer, word, middle in zip(found.prompts, found.correct, found.word, found.middle, strict=True):
        first, last, relation = (words[int(token)].split() for token in prompt[1:])
        assert [first[0], last[0], relation[0]] == ["first", "last", "relation"]
        assert int(found.classes[int(first[1]), int(last[1])]) == int(middle)
        assert words[int(word)] == f"class {int(middle)}"
        assert words[int(answer)] == f"answer {int(found.answers[int(relation[1]), int(middle)])}"


@pytest.fixture(scope="module")
def subject(weights):
    prompts = tables(TASK, 0).prompts
    return Subject(weights, SHAPE, prompts[5], read(weights, prompts, SHAPE), 5, int(tables(TASK, 0).correct[5]))


def test_reading_repeats_the_forward_pass(weights, subject):
    prompts, reading = tables(TASK, 0).prompts, subject.reading
    assert torch.allclose(forward(weights, prompts[None], SHAPE)[0], reading.logits, atol=1e-5)
    for layer in range(3):
        W_in, W_out = (weights[f"blocks.{layer}.mlp.{name}"][0] for name in ("W_in", "W_out"))
        assert torch.allclose((reading.mlp_in[layer] @ W_in).relu() @ W_out, reading.mlp_out[layer], atol=1e-5)


def test_ablating_a_feature_of_the_last_layer_takes_its_decoder_row_off_the_answer(subject, frozen, per_layer):
    graph = attribute(frozen, per_layer, tokens=[subject.answer])
    features = graph.features
    measured = changes(subject, graph, per_layer, frozen=True)[-1]
    last = ((features.layer == 2) & (features.pos == 3)).nonzero()[:, 0].tolist()
    for node in last:  # the last norm's denominator is free, so the edge is corrected for it
        rest = subject.reading.final[5, -1] - written(features, torch.tensor([node]), frozen.mlp_out)[2, 3]
        margin = normalise(rest) @ (frozen.W_U[:, subject.answer] - frozen.W_U.mean(1))
        whole = frozen.logits[subject.answer] - frozen.logits.mean()
        assert measured[node] == pytest.approx(abs(float(margin - whole)), abs=1e-4)
    elsewhere = ((features.layer == 2) & (features.pos < 3)).nonzero()[:, 0].tolist()
    assert measured[elsewhere] == pytest.approx(0, abs=1e-6)


def test_nothing_added_changes_nothing_and_all_neurons_ablated_is_no_mlp(subject, weights, frozen):
    same = edited(subject, torch.zeros(3, 1, 4, 16), frozen=True)
    assert torch.allclose(same.logits[0], subject.reading.logits[5], atol=1e-5)
    graph = attribute(frozen, neurons(weights, SHAPE))
    everything = written(graph.features, torch.arange(graph.n_features), graph.frozen.mlp_out)
    assert torch.allclose(everything[:, 1:], graph.frozen.mlp_out[:, 1:], atol=1e-5)
    assert isinstance(fall(subject, graph, torch.arange(3)), float)


def test_agreement_is_1_for_the_truth_and_0_for_a_constant(frozen, per_layer):
    graph = attribute(frozen, per_layer)
    truth = predictions(graph)
    assert agreement(graph.features, truth, truth) > 0.95
    assert agreement(graph.features, np.ones_like(truth), truth) == 0
    assert spearman(np.array([[1.0, 2, 3]]), np.array([[9.0, 8, 1]])) == pytest.approx([-1.0])


def test_shuffled_edges_keep_what_reaches_a_target_from_each_place(frozen, per_layer):
    graph = attribute(frozen, per_layer)
    mixed, features = shuffled(graph, 1), graph.features
    assert not torch.equal(mixed, graph.adjacency)
    here = ((features.layer == 0) & (features.pos == 2)).nonzero()[:, 0]
    assert torch.equal(mixed[:, here].sort(1).values, graph.adjacency[:, here].sort(1).values)
    count = graph.n_features
    assert torch.equal(mixed[:, count:], graph.adjacency[:, count:])


def test_matched_features_are_others_of_the_same_place_that_can_change_the_answer(frozen, per_layer):
    graph = attribute(frozen, per_layer)
    features, can = graph.features, reaching(graph)
    chosen = most_influential(graph, 2)
    other = matched(graph, chosen)
    assert not set(other.tolist()) & set(chosen.tolist())
    assert places(features, other) == places(features, chosen)
    whole = ((features.layer == 0) & (features.pos == LAST)).nonzero()[:, 0]  # none is left there
    other = matched(graph, whole)
    assert len(set(other.tolist())) == len(whole)
    assert set(features.pos[other[:2]].tolist()) == {LAST}
    assert set(features.layer[other].tolist()) - {0}
    assert can[other].all()
    everything = can.nonzero()[:, 0]
    assert len(matched(graph, everything)) == 0


def places(features, some):
    return list(zip(features.layer[some].tolist(), features.pos[some].tolist(), strict=True))


def test_features_that_cannot_change_the_answer_are_never_among_the_strongest(subject, frozen, per_layer):
    graph = attribute(frozen, per_layer)
    idle = ~reaching(graph)
    assert idle.any()
    assert fall(subject, graph, idle.nonzero()[:, 0]) == pytest.approx(0, abs=1e-5)
    assert abs(fall(subject, graph, (~idle).nonzero()[:, 0])) > 0.01
    size = torch.where(idle, 10.0, 1.0)
    assert not idle[strongest(graph, size, 5)].any()


def test_first_order_is_the_fall_of_a_feature_that_is_made_small(subject, frozen, per_layer):
    graph = attribute(frozen, per_layer)
    small = replace(graph, features=replace(graph.features, activation=1e-3 * graph.features.activation))
    found = first_order(subject, small)
    for at in (0, 20, 30):  # of layers 0, 1, 1
        assert float(found[at]) == pytest.approx(fall(subject, small, torch.tensor([at])), rel=0.05)
    assert not found[~reaching(graph)].any()


def test_a_swap_with_itself_keeps_the_answer(subject, frozen, per_layer):
    graph = attribute(frozen, per_layer)
    top = most_influential(graph, 3, at=LAST)
    assert set(graph.features.pos[top].tolist()) == {LAST}
    assert swap(subject, graph, graph, top, top) == int(subject.reading.logits[5, -1].argmax())


def test_a_feature_is_named_after_what_it_fires_on():
    table = tables(TASK, 0)
    among = values(table, TASK)[LAST]
    name = named(table.middle == 2, among, TASK)
    assert (name.kind, name.value, name.f1) == ("class", "2", 1.0)
    assert named(torch.zeros_like(table.middle, dtype=torch.bool), among, TASK).f1 == 0
    pair = named((table.prompts[:, 1] == 1) & (table.prompts[:, 2] == 4), among, TASK)
    assert str(pair) == "name 0-0"


@pytest.fixture(scope="module")
def planted():
    made = circuit(PLANTED, 3)
    tokens, which = sequences(made, PLANTED, 64, 4)
    return made, tokens, which, run_circuit(made, tokens)


def test_planted_features_fire_where_their_strings_are(planted):
    made, tokens, which, run = planted
    ends = run.active[2][torch.arange(64), -1, which]
    assert float((ends > 0).float().mean()) > 0.4  # what interferes hides some; only those that fire are judged
    assert {int(one) // PLANTED.strings for one in which} == {0, 1, 2}, "every voice is asked"
    pairs = {tuple(row): feature for feature, row in enumerate(made.strings[0].tolist())}
    there = torch.zeros_like(run.active[0][:, 2:], dtype=torch.bool)
    for row, voices in enumerate(tokens.tolist()):
        for voice in voices:
            for at in range(2, 7):
                if (feature := pairs.get(tuple(voice[at - 1 : at + 1]))) is not None:
                    there[row, at - 2, feature] = True
    fired = run.active[0][:, 2:] > 0
    assert float(fired[there].float().mean()) > 0.9
    assert float(there[fired].float().mean()) > 0.75
    assert float((there.sum(2) > 1).float().mean()) > 0.5, "pairs of several voices stand at one place"


def test_hand_written_features_give_the_planted_edges_which_neither_place_nor_shuffled_edges_do(planted):
    made, tokens, which, run = planted
    stands_for, _ = matches(made.mlps, run)
    found, mixed, placed = [], [], []
    for at in range(20):
        answer = int(which[at])
        if float(run.active[2][at, -1, answer]) == 0:
            continue
        frozen_pass = freeze_circuit(made, run, tokens, at)
        reads, _ = frozen_pass.forward(frozen_pass.embeddings, frozen_pass.mlp_out)
        assert torch.allclose(reads, frozen_pass.mlp_in, atol=1e-5)
        graph, truth = (
            attribute(frozen_pass, made.mlps, tokens=[answer]),
            planted_edges(made, run, at, answer),
        )
        names = keys(graph, stands_for, answer)
        assert len(truth) >= 7  # the answer, the string's two triples and their pairs
        found.append(recovered(edge_strength(graph), names, truth))
        mixed.append(recovered(shuffled_edges(graph, at), names, truth))
        placed.append(recovered(write_sizes(graph) * near(graph), names, truth))
        features, inner = graph.features, near(graph)[: graph.n_features, : graph.n_features].nonzero()
        above, behind = (one[inner[:, 0]] - one[inner[:, 1]] for one in (features.layer, features.pos))
        assert set(above.tolist()) == {1}
        assert set(behind.tolist()) <= {0, 1}
        assert truth <= set(strongest_edges(near(graph).float(), names, int(near(graph).sum())))
    assert min(found) > 0.8
    assert np.mean(mixed) < 0.3
    assert np.mean(placed) < 0.5
