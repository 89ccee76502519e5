"""Graphs of many prompts against untrained encoders, and heads of a graph against those that patching named."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr

from common.core.errors import UserError
from common.core.metrics import read_metrics
from common.core.step import RunInfo
from common.data.models import load_model, load_tokenizer
from common.interp.decoder import Decoder
from common.saes.harvest import Windows
from common.saes.recipe import Training
from replications.circuit_tracing import language_traces as traces_module
from replications.circuit_tracing import language_untrained as untrained_module
from replications.circuit_tracing.graph import attribute
from replications.circuit_tracing.heads import carried, written_at_end
from replications.circuit_tracing.influence import Inputs, influence, normalised
from replications.circuit_tracing.language_frozen import freeze_prompt
from replications.circuit_tracing.language_heads import LanguageHeadsFiles, agreement, language_heads
from replications.circuit_tracing.language_traces import LanguageTracesFiles, language_traces, sure_prompts
from replications.circuit_tracing.language_train import TENSORS
from replications.circuit_tracing.language_untrained import LanguageUntrainedFiles, language_untrained
from replications.circuit_tracing.settings import Language, Traced, Traces
from tests.fixtures.ioi_circuit_tiny import save_tiny_model

LAYERS, WIDTH, FEATURES, K = 3, 32, 24, 4
RUN = RunInfo(scale="smoke", seeds=[0], device="cpu")
TRACES = Traces(fitted_passages=2, prompts=4, length=12, sure=0.0001, most=16, drawn=40)
LANGUAGE = Language(
    window=12, docs_tokens=100, chat_tokens=100, held_out_tokens=100, chunk=20, reuse=1, d_sae=FEATURES, k=K,
    training=Training(steps=1, batch=8, warmup=0, dead_after=100), most=16, prompts={"first": "Then"},
)  # fmt: skip
TRACED = Traced(language=LANGUAGE, traces=TRACES)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return save_tiny_model("gqa", tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def texts(monkeypatch):
    """Forty passages of random tokens stand for the documents of a corpus."""
    tokens = torch.randint(1, 300, (40, 12), generator=torch.Generator().manual_seed(0))
    found = Windows(tokens, torch.ones(40, 12, dtype=torch.bool), torch.arange(40))
    for module in (traces_module, untrained_module):
        monkeypatch.setattr(module, "windows", lambda *arguments, **options: found)
    return tokens


@pytest.fixture
def untrained(manifest, texts, tmp_path) -> Path:
    draw = torch.Generator().manual_seed(1)
    shapes = {"W_enc": (WIDTH, FEATURES), "b_enc": (FEATURES,), "W_dec": (FEATURES, WIDTH), "b_dec": (WIDTH,)}
    trained = {name: torch.randn(LAYERS, *shape, generator=draw) for name, shape in shapes.items()}
    trained["threshold"] = torch.full((LAYERS, FEATURES), 0.1)
    save_file(trained, tmp_path / "trained.safetensors", {"model": manifest.parent.name})
    files = LanguageUntrainedFiles(
        manifest=manifest, docs=tmp_path, chat=tmp_path, transcoders=tmp_path / "trained.safetensors",
        untrained=tmp_path / "untrained.safetensors", table=tmp_path / "layers.csv",
    )  # fmt: skip
    language_untrained(files, TRACED, RUN)
    return files.untrained


def test_untrained_encoders_fire_as_often_and_their_decoders_are_fitted(untrained):
    table, own = pd.read_csv(untrained.parent / "layers.csv"), load_file(untrained)
    assert table["l0"].to_numpy() == pytest.approx(K, rel=0.1)
    assert (table["fvu"] < 0.9).all(), "decoders reconstruct"
    trained = load_file(untrained.parent / "trained.safetensors")
    assert all(own[name].shape == trained[name].shape for name in TENSORS)
    rows = torch.nn.functional.cosine_similarity(own["W_enc"], trained["W_enc"], dim=1)
    assert float(rows.abs().max()) < 0.8, "not the trained encoder"


def test_every_prompt_is_traced_with_both_dictionaries(manifest, untrained, tmp_path):
    files = LanguageTracesFiles(
        manifest=manifest, docs=tmp_path, chat=tmp_path, transcoders=tmp_path / "trained.safetensors",
        untrained=untrained, metrics=tmp_path / "metrics.json", prompts=tmp_path / "prompts.csv",
    )  # fmt: skip
    language_traces(files, TRACED, RUN)
    table, metrics = pd.read_csv(files.prompts), read_metrics(files.metrics)
    assert len(table) == 2 * TRACES.prompts
    trained = table[table["kind"] == "trained"]
    rho = metrics["agreement"]
    assert rho.value == pytest.approx(trained["influence"].mean(), abs=1e-5)
    assert rho.control("direct_edge").value == pytest.approx(trained["direct"].mean(), abs=1e-5)
    assert rho.control("write_norm").value == pytest.approx(trained["write_norm"].mean(), abs=1e-5)
    assert rho.control("untrained").value == pytest.approx(
        table[table["kind"] == "untrained"]["influence"].mean(), abs=1e-5
    )
    same = metrics["replacement_same"]
    assert {one.name for one in same.controls} == {"untrained", "biases"}
    assert 0 <= same.value <= 1 < metrics["replacement_kl"].value * 1e9
    assert metrics["fall"].control("activation_matched").value == pytest.approx(
        trained["fall_matched"].mean(), abs=1e-5
    )


def test_prompts_are_those_after_which_the_model_is_sure(manifest, texts):
    bridge, tokenizer = load_model(manifest.parent), load_tokenizer(manifest.parent)
    sure = [float(bridge(one[None])[0, -1].softmax(-1).max()) for one in texts]
    least = float(np.quantile(sure, 0.8))
    found = list(sure_prompts(bridge, tokenizer, Path("docs"), TRACES.model_copy(update={"sure": least}), [0]))
    expected = [one for one, p in zip(texts, sure, strict=True) if p >= least][:2]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    with pytest.raises(UserError, match="corpus docs has too few documents after whose first 12 tokens"):
        list(sure_prompts(bridge, tokenizer, Path("docs"), TRACES.model_copy(update={"sure": 0.999}), [0]))


def test_influence_of_nodes_with_inputs_is_that_of_the_whole_matrix(frozen, per_layer):
    graph = attribute(frozen, per_layer, most=8)
    found = Inputs.of(graph.adjacency)
    assert len(found.nodes) < len(graph.adjacency) / 2
    whole = influence(normalised(graph.adjacency), graph.logit_weights())
    assert torch.allclose(found.influence(graph.logit_weights()), whole, atol=1e-6)


def test_what_heads_write_at_the_end_carries_what_they_carry(manifest):
    """Along any direction no head carries more than the length of what it writes, and the longest can be attained."""
    bridge = load_model(manifest.parent)
    frozen = freeze_prompt(bridge, torch.arange(1, 11))
    decoder, tokens = Decoder(bridge, frozen.length), frozen.tokens[None]
    z = decoder.forward(tokens, torch.ones_like(tokens, dtype=torch.bool), keep=True).z
    for layer, lengths in enumerate(written_at_end(frozen)):
        literal = torch.einsum("he,hed->hd", z[layer][0, -1], frozen.W_O[layer])
        torch.testing.assert_close(lengths, literal.norm(dim=-1), rtol=1e-4, atol=1e-5)
        for head in range(len(lengths)):
            vector = literal[head] / literal[head].norm() / frozen.gain_final * frozen.scale_final[-1]
            assert float(carried(frozen, vector)[layer, head].sum()) == pytest.approx(float(lengths[head]), rel=1e-3)


def test_named_heads_are_ranked_and_resampled():
    draw = np.random.default_rng(0)
    named = np.arange(60) < 6
    score, other = named + draw.normal(size=60), draw.normal(size=60)
    found = agreement(score, {"write_norm": other}, named, "x")
    pairs = [(a > b) + 0.5 * (a == b) for a in score[named] for b in score[~named]]
    assert found.value == pytest.approx(np.mean(pairs))
    assert found.ci_low < found.value < found.ci_high
    assert found.control("write_norm").difference.value == pytest.approx(
        found.value - found.control("write_norm").value
    )
    assert found.control("shuffled_names").value == pytest.approx(0.5, abs=0.05)


def test_heads_are_compared_with_the_result_files_of_other_replications(tmp_path):
    places = [(layer, head) for layer in range(4) for head in range(5)]
    sizes = np.random.default_rng(1).normal(size=(2, 20))
    rows = [
        {"prompt": prompt, "layer": layer, "head": head, "carried": value, "wrote": 1.0}
        for prompt, own in zip(("ioi", "induction"), sizes, strict=True)
        for (layer, head), value in zip(places, own, strict=True)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "carried.csv", index=False)
    classes = [{7: "name_mover", 9: "unstable", 3: "negative"}.get(at) for at in range(20)]
    table = pd.DataFrame(places, columns=["layer", "head"]).assign(logits_class=classes)
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "ioi.csv", index=False)
    (tmp_path / "roles.json").write_text(json.dumps({"induction": [[2, 1]], "previous": [[0, 0]]}))
    files = LanguageHeadsFiles(
        carried=tmp_path / "carried.csv", ioi=tmp_path / "ioi.csv", induction=tmp_path / "roles.json",
        metrics=tmp_path / "metrics.json",
    )  # fmt: skip
    language_heads(files)
    found = read_metrics(files.metrics)
    for name, row, named in (("named_ioi", sizes[0], [3, 7]), ("named_induction", sizes[1], [11])):
        others = [at for at in range(20) if at not in named]
        expected = np.mean([abs(row[one]) > abs(row[other]) for one in named for other in others])
        assert found[name].value == pytest.approx(expected, abs=1e-6)
        assert found[name].control("write_norm").value == 0.5
    rank = spearmanr(np.abs(sizes[0]), np.abs(sizes[1])).statistic
    assert rank < 0.5, "the prompts differ, so the control does"
    assert found["named_ioi"].control("other_prompt").value != found["named_ioi"].value
