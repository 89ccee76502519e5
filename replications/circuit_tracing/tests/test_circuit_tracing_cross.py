"""A cross-layer transcoder of a tiny language model, and its graphs beside those of per-layer ones."""

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from common.core.metrics import read_metrics
from common.core.step import RunInfo
from common.data.corpora import Document
from common.saes.cross_layer import load_cross_layer
from common.saes.harvest import Windows
from common.saes.recipe import Training
from replications.circuit_tracing import language_cross as cross_module
from replications.circuit_tracing import language_traces as traces_module
from replications.circuit_tracing.graph import attribute
from replications.circuit_tracing.influence import Layout, influence, normalised
from replications.circuit_tracing.language_cross import LanguageCrossFiles, compared, language_cross, paths
from replications.circuit_tracing.settings import Crossed, CrossLayer, Language, Traces
from tests.fixtures.ioi_circuit_tiny import save_tiny_model

LAYERS, WIDTH, FEATURES, PROMPTS = 3, 32, 24, 4
TRAINING = Training(steps=3, batch=32, learning_rate=0.01, warmup=0, dead_after=1000)


def settings():
    language = Language(
        window=12, docs_tokens=100, chat_tokens=100, held_out_tokens=100, chunk=20, reuse=1, d_sae=FEATURES, k=4,
        training=TRAINING, most=16, prompts={"first": "Then"},
    )  # fmt: skip
    traces = Traces(fitted_passages=2, prompts=PROMPTS, length=12, sure=0.0001, most=70, sites=8, each=4)
    return Crossed(language=language, traces=traces, cross=CrossLayer(d_sae=16, training=TRAINING))


@pytest.fixture
def files(tmp_path, monkeypatch):
    tokens = torch.randint(1, 300, (80, 12), generator=torch.Generator().manual_seed(0))
    text = Windows(tokens, torch.ones(80, 12, dtype=torch.bool), torch.arange(80) // 2)
    for module in (cross_module, traces_module):
        monkeypatch.setattr(module, "windows", lambda *_, **__: text)
    documents = [Document(id=str(at), group=f"topic {at}", kind="chat", text="") for at in range(40)]
    monkeypatch.setattr(traces_module, "read_corpus", lambda *_: documents)
    monkeypatch.setattr(cross_module, "CHECKPOINTS", tmp_path)
    manifest = save_tiny_model("gqa", tmp_path / "tiny")
    draw = torch.Generator().manual_seed(1)
    shapes = {"W_enc": (WIDTH, FEATURES), "b_enc": (FEATURES,), "W_dec": (FEATURES, WIDTH), "b_dec": (WIDTH,)}
    one = {name: torch.randn(LAYERS, *shape, generator=draw) for name, shape in shapes.items()}
    one["threshold"] = torch.full((LAYERS, FEATURES), 0.1)
    for name in ("per_layer", "untrained"):
        save_file(one, tmp_path / f"{name}.safetensors", {"model": manifest.parent.name})
        one = one | {"W_dec": -one["W_dec"]}
    return LanguageCrossFiles(
        manifest=manifest, docs=tmp_path, chat=tmp_path, transcoders=tmp_path / "per_layer.safetensors",
        untrained=tmp_path / "untrained.safetensors", cross=tmp_path / "cross.safetensors",
        metrics=tmp_path / "metrics.json", prompts=tmp_path / "prompts.csv",
    )  # fmt: skip


def test_both_dictionaries_make_graphs_of_the_same_prompts(files):
    language_cross(files, settings(), RunInfo(scale="smoke", seeds=[0], device="cpu"))
    assert not list(files.cross.parent.glob("circuit_tracing_cross_*")), "no checkpoint is left"
    cross = load_cross_layer(files.cross)
    assert (cross.layers, cross.k) == (LAYERS, 4)
    assert cross.W_dec.view(LAYERS, 16, LAYERS, WIDTH)[2, :, :2].abs().max() == 0, (
        "nothing is written to earlier layers"
    )
    assert cross.W_dec.abs().max() > 0, "trained: decoders start at zero"
    table, metrics = pd.read_csv(files.prompts), read_metrics(files.metrics)
    assert table.groupby("kind")["prompt"].apply(list).tolist() == [list(range(PROMPTS))] * 3
    assert set(metrics) == {"replacement", "completeness", "path_length", "unexpanded"}
    for name, metric in metrics.items():
        means = table.groupby("kind")[name].mean()
        assert metric.value == pytest.approx(means["cross_layer"], abs=1e-5)
        assert {one.name: one.value for one in metric.controls} == pytest.approx(
            {kind: means[kind] for kind in ("per_layer", "untrained")}, abs=1e-5
        )
        assert metric.control("per_layer").value != metric.control("untrained").value


def test_a_path_is_as_long_as_it_has_edges():
    """Embedding 3 reaches the logit 4 by features 1 and 0 with a weight of 3/4, and by itself with 1/4."""
    adjacency, weights, layout = torch.zeros(5, 5), torch.tensor([0.0, 0, 0, 0, 1]), Layout(2, 3, 4)
    adjacency[4, 0], adjacency[4, 3] = 3, -1
    adjacency[0, 1] = adjacency[1, 3] = 5
    assert paths(adjacency, weights, layout) == pytest.approx((0.75 * 3 + 0.25 * 1, 0))
    adjacency[4, 2] = 4
    assert paths(adjacency, weights, layout) == pytest.approx((0.75 * 3 + 0.25 * 1, 0)), "an error is no path"
    adjacency[4, 2], adjacency[1] = 0, 0
    assert paths(adjacency, weights, layout) == pytest.approx((1, 0.75)), "nor is a feature without inputs"


def test_path_lengths_are_those_of_the_whole_matrix(frozen, per_layer):
    """The derivative of what arrives with respect to the weight of an edge, at 1: a path of n edges counts n times."""
    graph = attribute(frozen, per_layer)
    matrix, weights = normalised(graph.adjacency).double(), graph.logit_weights().double()
    layout = Layout(graph.n_features, graph.first_embedding, graph.first_logit)
    ends = slice(layout.embeddings, layout.logits)
    step = 1e-4
    low, middle, high = (float(influence(scale * matrix, weights)[ends].sum()) for scale in (1 - step, 1, 1 + step))
    found = paths(graph.adjacency, graph.logit_weights(), layout)
    assert found.path_length == pytest.approx((high - low) / (2 * step) / middle, rel=1e-3)


def test_a_comparison_needs_no_order():
    shifts = {"per_layer": 0.0, "cross_layer": 0.25, "untrained": -1.0}
    rows = [{"prompt": at, "kind": kind, "replacement": at + shift, "completeness": 0.5 * shift, "path_length": 2 + at,
             "unexpanded": 0.1 * at} for kind, shift in shifts.items() for at in range(6)]  # fmt: skip
    found = compared(pd.DataFrame(rows).sample(frac=1, random_state=0))["replacement"]
    assert found.value == pytest.approx(2.75)
    assert found.control("per_layer").difference.ci_low == pytest.approx(0.25)
