"""Graphs of many prompts against untrained encoders, and heads of a graph against those that patching named."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_array
from scipy.stats import spearmanr

from common.core.errors import UserError
from common.core.metrics import read_metrics
from common.core.step import RunInfo
from common.data.corpora import Document
from common.data.models import load_model, load_tokenizer
from common.interp.decoder import Decoder
from common.saes.harvest import Windows
from common.saes.recipe import Training
from replications.circuit_tracing import graph as graph_module
from replications.circuit_tracing import language_traces as traces_module
from replications.circuit_tracing import language_untrained as untrained_module
from replications.circuit_tracing.dictionaries import untrained as untrained_dictionary
from replications.circuit_tracing.graph import attribute
from replications.circuit_tracing.heads import carried, written_at_end
from replications.circuit_tracing.influence import Inputs, influence, node_influence, normalised
from replications.circuit_tracing.language_ablations import Ablated, ablate, draw_features
from replications.circuit_tracing.language_frozen import freeze_prompt
from replications.circuit_tracing.language_heads import LanguageHeadsFiles, agreement, language_heads
from replications.circuit_tracing.language_traces import LanguageTracesFiles, language_traces, sure_prompts
from replications.circuit_tracing.language_train import TENSORS
from replications.circuit_tracing.language_untrained import LanguageUntrainedFiles, language_untrained
from replications.circuit_tracing.ridge import ridge
from replications.circuit_tracing.settings import Language, Traced, Traces
from replications.circuit_tracing.tests.circuit_tracing_tiny import transcoder
from tests.fixtures.ioi_circuit_tiny import save_tiny_model

LAYERS, WIDTH, FEATURES, K = 3, 32, 24, 4
RUN = RunInfo(scale="smoke", seeds=[0], device="cpu")
TRACES = Traces(fitted_passages=2, prompts=4, length=12, sure=0.0001, most=70, sites=8, each=4)
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
    """Forty documents of two passages of random tokens; topics are asked for once, so every other one counts."""
    tokens = torch.randint(1, 300, (80, 12), generator=torch.Generator().manual_seed(0))
    asked = []

    def windows(folders, split, tokenizer, length, budgets, **options):
        asked.append(split)
        return Windows(tokens, torch.ones(80, 12, dtype=torch.bool), torch.arange(80) // 2)

    def read_corpus(folder, split):
        return [Document(id=str(at), group=f"topic {at // 2}", kind="chat", text="") for at in range(40)]

    for module in (traces_module, untrained_module):
        monkeypatch.setattr(module, "windows", windows)
    monkeypatch.setattr(traces_module, "read_corpus", read_corpus)
    return tokens, asked


@pytest.fixture
def untrained(manifest, texts, tmp_path) -> Path:
    draw = torch.Generator().manual_seed(1)
    shapes = {"W_enc": (WIDTH, FEATURES), "b_enc": (FEATURES,), "W_dec": (FEATURES, WIDTH), "b_dec": (WIDTH,)}
    trained = {name: torch.randn(LAYERS, *shape, generator=draw) for name, shape in shapes.items()}
    trained["threshold"] = torch.full((LAYERS, FEATURES), 0.1)
    save_file(trained, tmp_path / "trained.safetensors", {"model": manifest.parent.name})
    files = LanguageUntrainedFiles(
        manifest=manifest, docs=tmp_path, chat=tmp_path, transcoders=tmp_path / "trained.safetensors",
        untrained=tmp_path / "untrained.safetensors", linear=tmp_path / "linear.safetensors",
        table=tmp_path / "layers.csv",
    )  # fmt: skip
    language_untrained(files, TRACED, RUN)
    assert texts[1] == ["train", "held_out"], "fitted on training text, judged on other text"
    texts[1].clear()
    return files.untrained


def test_untrained_encoders_fire_as_often_and_their_decoders_are_fitted(untrained):
    table, own = pd.read_csv(untrained.parent / "layers.csv"), load_file(untrained)
    assert table["l0"].to_numpy() == pytest.approx(K, rel=0.1)
    assert (table["fvu"] < 0.9).all(), "decoders reconstruct"
    trained = load_file(untrained.parent / "trained.safetensors")
    assert all(own[name].shape == trained[name].shape for name in TENSORS)
    assert float(own["W_enc"].norm(dim=1).sub(1).abs().max()) < 1e-5, "random directions of length one"


def test_the_affine_map_and_the_sparse_decoder_are_least_squares():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=draw) + 3
    y = x @ torch.randn(6, 4, generator=draw) + 0.1 * torch.randn(400, 4, generator=draw)
    weight, bias = untrained_module.affine(x, y)
    design = torch.cat([x, torch.ones(400, 1)], 1)
    exact = torch.linalg.lstsq(design, y).solution
    assert torch.allclose(torch.cat([weight, bias[None]]), exact, atol=0.02)
    sae = transcoder(0, x, 0, width=10, d=6)
    found = untrained_dictionary(sae, x, x @ torch.randn(6, 6, generator=draw), 3.0, 0)
    latents = found.encode(x)
    assert float((latents > 0).sum(1).float().mean()) == pytest.approx(3, abs=0.1)
    target = x @ torch.randn(6, 6, generator=torch.Generator().manual_seed(9))
    again = untrained_dictionary(sae, x, target, 3.0, 0)
    dense = torch.linalg.lstsq(again.encode(x).double(), (target - target.mean(0)).double()).solution
    assert torch.allclose(again.W_dec, dense.float(), atol=0.05 * float(dense.abs().max()))


def test_the_strength_of_a_ridge_is_chosen_on_other_rows():
    """The last rows have no outlier: a strong penalty loses what the weak one finds; with one they turn round."""
    draw = np.random.default_rng(0)
    x, weight = draw.normal(size=(500, 4)), draw.normal(size=(4, 3))
    y = x @ weight + 0.1 * draw.normal(size=(500, 3))
    for inputs in (x, csr_array(x)):
        assert ridge(inputs, y, (1e-6,)).numpy() == pytest.approx(np.linalg.lstsq(x, y)[0], abs=1e-4)
        assert ridge(inputs, y).numpy() == pytest.approx(ridge(inputs, y, (1e-3,)).numpy())
    y[7] += 1e4
    assert np.abs(ridge(x, y).numpy()).max() < np.abs(ridge(x, y, (1e-3,)).numpy()).max() / 5


def test_every_prompt_is_traced_with_both_dictionaries(manifest, untrained, texts, tmp_path, monkeypatch):
    files = LanguageTracesFiles(
        manifest=manifest, docs=tmp_path, chat=tmp_path, transcoders=tmp_path / "trained.safetensors",
        untrained=untrained, linear=tmp_path / "linear.safetensors", metrics=tmp_path / "metrics.json",
        prompts=tmp_path / "prompts.csv",
    )  # fmt: skip
    seeds = []

    def noted(*arguments):
        seeds.append(arguments[-1])
        return ablate(*arguments)

    monkeypatch.setattr(traces_module, "ablate", noted)
    language_traces(files, TRACED, RUN)
    assert seeds == [at for at in range(TRACES.prompts) for _ in range(2)], "sites are drawn anew in every prompt"
    assert set(texts[1]) == {"held_out"}, "no prompt from training text"
    table, metrics = pd.read_csv(files.prompts), read_metrics(files.metrics)
    assert len(table) == 2 * TRACES.prompts
    of = {kind: table[table["kind"] == kind] for kind in ("trained", "untrained")}
    expected = {name: of["trained"][name].mean() for name in ("direct_edge", "write_norm", "sizes_alone", "gradient")}
    expected |= {
        "untrained": of["untrained"]["influence"].mean(),
        "permuted_within_sites": of["trained"]["permuted"].mean(),
    }
    rho = metrics["agreement"]
    assert rho.value == pytest.approx(of["trained"]["influence"].mean(), abs=1e-5)
    assert {one.name: one.value for one in rho.controls} == pytest.approx(expected, abs=1e-5)
    assert of["trained"]["gradient"].mean() > of["trained"]["write_norm"].mean() + 0.1
    same = metrics["replacement_same"]
    assert [one.name for one in same.controls] == ["untrained", "linear", "means"]
    assert metrics["replacement_kl"].value > metrics["replacement_kl"].control("linear").value > 0, (
        "random transcoders are no replacement, the fitted map is better"
    )
    assert ((table["unexpanded"] > 0) & (table["unexpanded"] < 1)).all()


def test_a_prediction_that_knows_the_site_alone_is_told_from_one_that_knows_the_feature():
    draw = np.random.default_rng(0)
    sites = np.repeat(np.arange(12), 8)
    importance, own = np.exp(2 * draw.normal(size=12))[sites], draw.random(96)
    change = importance * own

    def found(prediction):
        one = torch.tensor(prediction)
        return Ablated(torch.arange(96), torch.tensor(sites), {"influence": one}, torch.tensor(change), 0.0, 0.0)

    where, which = found(importance * draw.random(96)), found(own)
    assert where.pooled("influence") > 0.6
    assert abs(where.within_sites("influence")) < 0.25
    assert where.permuted("influence") == pytest.approx(where.pooled("influence"), abs=0.1)
    assert which.within_sites("influence") == pytest.approx(1)
    assert which.permuted("influence") < which.pooled("influence") - 0.2


def test_features_are_drawn_from_sites_that_can_matter(frozen, per_layer):
    graph = attribute(frozen, per_layer)
    features = graph.features
    chosen, site = draw_features(graph, 50, 4, 0)
    assert len(chosen) == len(set(chosen.tolist())) == len(site)
    for number in set(site.tolist()):
        layer, pos = features.layer[chosen[site == number]], features.pos[chosen[site == number]]
        assert len(set(layer.tolist())) == len(set(pos.tolist())) == 1
        assert layer[0] < frozen.n_layers - 1 or pos[0] == frozen.length - 1
        assert 3 <= len(layer) <= 4
    some = [draw_features(graph, 3, 4, seed)[0] for seed in range(12)]
    drawn = [{(int(features.layer[at]), int(features.pos[at])) for at in one} for one in some]
    assert all(len(one) == 3 for one in drawn)
    assert len(set(map(frozenset, drawn))) > 4, "other sites on another seed"


def test_features_are_expanded_by_influence_and_not_by_direct_edges_alone(frozen, per_layer, monkeypatch):
    whole = attribute(frozen, per_layer)
    monkeypatch.setattr(graph_module, "ROUND", 2)
    half = attribute(frozen, per_layer, most=whole.n_features // 2)
    assert len(half.expanded) == whole.n_features // 2
    assert torch.allclose(half.adjacency[half.expanded], whole.adjacency[half.expanded], atol=1e-5)
    direct = (whole.probabilities @ normalised(whole.adjacency)[whole.first_logit :])[: whole.n_features]
    by_edges = set(direct.topk(len(half.expanded)).indices.tolist())
    assert set(half.expanded.tolist()) != by_edges
    influence = node_influence(whole.adjacency, whole.logit_weights())[: whole.n_features]
    by_influence = set(influence.topk(len(half.expanded)).indices.tolist())
    chosen = set(half.expanded.tolist())
    assert len(chosen & by_influence) > len(by_edges & by_influence)


def test_prompts_are_those_after_which_the_model_is_sure_of_a_word(manifest, texts):
    tokens, asked = texts
    bridge, tokenizer = load_model(manifest.parent), load_tokenizer(manifest.parent)
    p = torch.stack([bridge(one[None])[0, -1].softmax(-1) for one in tokens[1::2]])  # second passages
    words = [tokenizer.decode([int(one.argmax())]) for one in p]
    fits = [word[:1].isspace() and word[1:2].isalpha() for word in words]
    assert 4 < sum(fits) < 40
    least = float(p.max(1).values.median())
    expected, used = [], set()
    for at in range(40):
        if fits[at] and float(p[at].max()) >= least and at // 2 not in used and len(expected) < 2:
            used.add(at // 2)
            expected.append(tokens[2 * at + 1])
    found = list(sure_prompts(bridge, tokenizer, Path("chat"), TRACES.model_copy(update={"sure": least}), [0]))
    assert len(found) == 2
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    with pytest.raises(
        UserError, match="corpus chat has too few documents with 12 tokens after which the model is sure of a word"
    ):
        list(sure_prompts(bridge, tokenizer, Path("chat"), TRACES.model_copy(update={"sure": 0.999}), [0]))
    asked.clear()
    list(sure_prompts(bridge, tokenizer, Path("chat"), TRACES, [110]))
    assert asked == ["validation"], "calibration looks at other documents"


def test_another_seed_has_other_prompts(manifest, monkeypatch):
    orders = []

    def windows(*arguments, seed, **options):
        orders.append(seed)
        raise UserError("asked")

    monkeypatch.setattr(traces_module, "windows", windows)
    bridge, tokenizer = load_model(manifest.parent), load_tokenizer(manifest.parent)
    for seed in (3, 4):
        with pytest.raises(UserError, match="asked"):
            next(sure_prompts(bridge, tokenizer, Path("chat"), TRACES, [seed, 9]))
    assert orders == [3, 4]


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
