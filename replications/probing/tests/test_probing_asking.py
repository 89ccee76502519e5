"""probing: statements in parts against full passes, and effects by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from common.core.settings import ROOT
from replications.probing.asking import BEFORE, QUESTION, Asked, Batch, Model
from replications.probing.statements import TOPICS, statements
from replications.probing.trivial import trivial_reader
from replications.probing.truth import across, both_polarities, effects, metrics, read

FOLDER = ROOT / "resources" / "models" / "smollm2-135m-shallow"


@pytest.fixture(scope="module")
def model():
    if not (FOLDER / "manifest.json").is_file():
        pytest.skip("the shallow model is made by the workflow")
    return Model(FOLDER, "cpu")


@pytest.fixture(scope="module")
def rows():
    return [row for row in statements(2, 2) if row.topic in ("capitals", "larger") and row.split == "held_out"]


def literal(model, text):
    """Residual streams before every block and behind the last, of one prompt, in one pass."""
    row = torch.tensor([model.encode(text)])
    with torch.no_grad():
        cache = model.decoder.forward(row, torch.ones_like(row, dtype=torch.bool), keep=True)
        scores = model.decoder.bridge(row)[0].log_softmax(-1)
    return torch.stack([*cache.resid_pre, cache.final])[:, 0], scores


def test_statements_in_parts_are_full_passes(model, rows):
    first = [5, 4]
    read = model.read(rows, first=first)
    assert read.parts[0].places == first
    assert sorted(place for part in read.parts for place in part.places) == list(range(len(rows)))
    asked, tail = model.ask(read)
    yes, no = model.answers.tolist()
    begun = len(model.encode(BEFORE))
    for place, row in enumerate(rows):
        tokens = model.encode(row.text)
        stream, scores = literal(model, BEFORE + row.text)
        assert (read.batch.stop[:, place] - stream[:, -1]).abs().max() < 1e-4 * stream[:, 1:].abs().max()
        assert torch.allclose(read.batch.words[place], stream[0, begun:].mean(0), atol=1e-5)
        expected = sum(float(scores[begun + at - 1, tokens[at]]) for at in range(1, len(tokens)))
        assert float(asked.log_probability[place]) == pytest.approx(expected, abs=2e-3)
        _, scores = literal(model, BEFORE + row.text + QUESTION)
        assert float(asked.answer[place]) == pytest.approx(float(scores[-1, yes] - scores[-1, no]), abs=2e-3)
    assert len(tail.at) == len(first)
    assert torch.equal(model.log_probability(read), asked.log_probability)


def test_patches_are_those_of_hooks(model, rows):
    """Behind the last block nothing but the full stop is left to patch, so nothing moves."""
    plain = [place for place, row in enumerate(rows) if row.topic == "capitals" and not row.negated]
    read = model.read(rows, first=plain)
    _, tail = model.ask(read)
    layer, move = 1, 50 * torch.randn(model.decoder.bridge.cfg.d_model, generator=torch.Generator().manual_seed(0))
    late = model.patch(read, tail, move, model.decoder.n_layers, [0])
    streams = ["whole_stream", "other_item"]
    assert late[["truth", "random", "logit_lens", *streams, "truth_probability"]].abs().max().max() < 1e-4
    early = model.patch(read, tail, move, 0, [0])
    assert early[streams].abs().max().max() < 1e-4, "before the first block every full stop is the same"
    found = model.patch(read, tail, move, layer, [0])
    assert found["gap"].tolist()[::2] == found["gap"].tolist()[1::2], "one gap an item"
    assert found["logit_gap"].tolist()[::2] == found["logit_gap"].tolist()[1::2]
    assert found["whole_stream"].abs().max() > 1e-3
    assert (found["whole_stream"] - found["other_item"]).abs().max() > 5e-4
    columns = len(model.encode(QUESTION)) + 1
    for place, moved in zip(plain, found["truth"], strict=True):
        row = rows[place]
        sign = -1 if row.true else 1

        def edit(value, hook, sign=sign):
            value[:, -columns] += sign * move
            return value

        tokens = torch.tensor([model.encode(BEFORE + row.text + QUESTION)])
        with torch.no_grad():
            before = model.decoder.bridge(tokens)[0, -1, model.answers]
            with model.decoder.bridge.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", edit)]):
                after = model.decoder.bridge(tokens)[0, -1, model.answers]
        expected = sign * float((after - before) @ torch.tensor([1.0, -1.0]))
        assert moved == pytest.approx(expected, abs=2e-3)
    assert found["truth"].abs().max() > 0.1


def test_readers_of_planted_streams_and_probabilities():
    """Streams say nothing and log-probabilities all: then so does the trivial reader. Labels are permuted anew for
    each topic."""
    rows = statements(6, 6)
    draw = torch.Generator().manual_seed(0)
    stream = torch.randn(1, 24, 8, generator=draw)
    trained, judged, asked, trivial = {}, {}, {}, {}
    for topic in TOPICS:
        for negated in (False, True):
            own = [row for row in rows if (row.topic, row.negated) == (topic, negated)]
            part = {split: [row for row in own if row.split == split] for split in ("train", "held_out")}
            assert len(part["train"]) == len(part["held_out"]) == 12
            trained[topic, negated] = Batch(part["train"], stream[:, :12], stream[0, :12])
            judged[topic, negated] = Batch(part["held_out"], stream[:, 12:], stream[0, 12:])
            sure = torch.tensor([float(row.true) for row in part["held_out"]])
            asked[topic, negated] = Asked(torch.zeros(12), sure)
        plain = trained[topic, False].rows
        trivial[topic] = trivial_reader(plain, np.array([float(row.correct) for row in plain]))
    readings = read(trained, judged, asked, trivial, 0, [(10, 0), (11, 0)])
    shuffled = [
        tuple(rows["shuffled_labels"]) for (_, negated), rows in readings.groupby(["topic", "negated"]) if not negated
    ]
    assert len(set(shuffled)) == len(TOPICS)
    found = metrics(readings, across(trained, judged, asked, 0))
    assert found["reads"].control("trivial_reader").value == 1
    assert found["reads_negated"].control("trivial_reader").value == 1
    assert found["reads_negated"].control("log_probability").value == 1
    assert found["transfers"].control("log_probability").value == 1
    assert {"reads_both", "reads_negated_both", "transfers_both"} <= set(found)
    assert found["transfers"].n == 12 * len(TOPICS) * (len(TOPICS) - 1)


def test_what_turns_under_negation_drops_out_of_a_direction_fitted_to_both_polarities():
    """Coordinate 0 says whether the answer is the expected one, coordinate 1 whether the statement is true."""
    rows = [row for row in statements(6, 6) if row.topic == "capitals" and row.split == "train"]

    def batch(*, negated):
        own = [row for row in rows if row.negated == negated]
        true = torch.tensor([1.0 if row.true else -1.0 for row in own])
        stop = torch.stack([-true if negated else true, true, torch.zeros(len(own))], 1)
        return Batch(own, stop[None], stop)

    fitted = both_polarities(batch(negated=False), batch(negated=True), 0)
    assert fitted.tolist() == pytest.approx([0, 2, 0])


def test_effect_of_a_patch_that_carries_half_of_the_gap():
    draw = np.random.default_rng(0)
    gap = np.repeat(draw.uniform(0.2, 0.6, 20), 2)
    table = {"topic": "sums", "item": np.repeat(np.arange(20), 2), "gap": gap}
    between = np.repeat(draw.normal(0, 2, 20), 2)
    for name, part in {"truth": 0.5, "random": 0.0, "logit_lens": -0.1, "whole_stream": 1.0}.items():
        table |= {name: np.full(40, 3 * part), f"{name}_probability": part * gap}
    table |= {"logit_gap": between, "whole_stream": 0.7 * between, "other_item": -0.1 * between}
    found = effects(pd.DataFrame(table), 2.0)
    assert found["acts"].value == pytest.approx(0.75)
    assert found["indirect_effect"].value == pytest.approx(0.5)
    assert found["indirect_effect"].control("whole_stream").value == pytest.approx(1)
    assert found["answer_gap"].value == pytest.approx(gap.mean())
    carried = found["stream_carries_answer"]
    assert (carried.value, carried.control("other_item").value) == pytest.approx((0.7, -0.1))
