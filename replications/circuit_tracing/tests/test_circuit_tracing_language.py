"""Graphs of a language model: bad prompts and transcoders get one sentence each, and nothing half-written is left."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr

from common.core.errors import UserError
from common.core.settings import ROOT
from common.core.step import RunInfo
from common.data.models import load_model, load_tokenizer
from common.saes.harvest import Windows
from common.saes.recipe import Training
from replications.circuit_tracing import language as language_module
from replications.circuit_tracing.graph import attribute
from replications.circuit_tracing.interventions import written as written_by
from replications.circuit_tracing.language import LanguageFiles, language, prompt_tokens
from replications.circuit_tracing.language_ablations import ablate, ablations, margin_gradient
from replications.circuit_tracing.language_frozen import freeze_prompt
from replications.circuit_tracing.language_train import load_transcoders
from replications.circuit_tracing.settings import Language
from tests.fixtures.ioi_circuit_tiny import save_tiny_model

LAYERS, WIDTH, CONTEXT, FEATURES = 3, 32, 40, 24  # of the tiny model; of its transcoders
GOOD = "Then, Mary and John went to the store"
SETTINGS = Language(
    window=16, docs_tokens=100, chat_tokens=100, held_out_tokens=100, chunk=2, reuse=1, d_sae=FEATURES, k=4,
    training=Training(steps=1, batch=8, warmup=0, dead_after=100), most=16, prompts={"first": GOOD, "second": GOOD},
)  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return save_tiny_model("gqa", tmp_path_factory.mktemp("tiny"))


def transcoders(path: Path, model: str, layers: int = LAYERS, d: int = WIDTH) -> Path:
    draw = torch.Generator().manual_seed(1)
    shapes = {"W_enc": (d, FEATURES), "b_enc": (FEATURES,), "W_dec": (FEATURES, d), "b_dec": (d,)}
    tensors = {name: torch.randn(layers, *shape, generator=draw) for name, shape in shapes.items()}
    save_file(tensors | {"threshold": torch.full((layers, FEATURES), 0.1)}, path, {"model": model})
    return path


@pytest.fixture
def files(manifest, tmp_path) -> LanguageFiles:
    out = {"pages": [tmp_path / f"{name}.html" for name in SETTINGS.prompts]}
    out["tracers"] = [path.with_suffix(".json") for path in out["pages"]]
    return LanguageFiles(
        manifest=manifest, docs=tmp_path, chat=tmp_path, table=tmp_path / "layers.csv", graphs=tmp_path / "graphs.csv",
        heads=tmp_path / "heads.csv", carried=tmp_path / "carried.csv", ablations=tmp_path / "ablations.csv",
        metrics=tmp_path / "metrics.json", template=ROOT / "replications/circuit_tracing/viewer.html",
        transcoders=transcoders(tmp_path / "transcoders.safetensors", manifest.parent.name), **out,
    )  # fmt: skip


def written(files: LanguageFiles) -> list[Path]:
    tables = [files.graphs, files.heads, files.carried, files.ablations, files.metrics]
    return [path for path in [*files.pages, *files.tracers, *tables] if path.exists()]


@pytest.fixture
def few_texts(monkeypatch):
    """Four passages of random tokens stand for the held-out documents."""
    tokens = torch.randint(1, 300, (4, 12), generator=torch.Generator().manual_seed(0))
    held = Windows(tokens, torch.ones(4, 12, dtype=torch.bool), torch.arange(4))
    monkeypatch.setattr(language_module, "windows", lambda *arguments, **options: held)


RUN = RunInfo(scale="smoke", seeds=[0], device="cpu")


def test_ablations_are_those_of_a_hook_that_takes_one_feature_off(manifest, files):
    bridge = load_model(manifest.parent)
    saes = load_transcoders(files.transcoders, manifest.parent.name, LAYERS, WIDTH)
    graph = attribute(freeze_prompt(bridge, prompt_tokens(load_tokenizer(manifest.parent), "x", GOOD, CONTEXT)), saes)
    found = ablate(bridge, graph, 30, 10, 0)
    rows, numbers = ablations(graph, found, 0)
    assert len(rows) > 30
    assert sum(not row["drawn"] for row in rows) == 10
    assert max(abs(row["change"]) for row in rows) > 1e-3, "ablations do something"
    target = int(graph.logit_tokens[0])
    clean = graph.frozen.logits[target] - graph.frozen.logits.mean()
    for row in rows[::9]:
        sae, layer, pos = saes[row["layer"]], row["layer"], row["pos"]
        active = sae.encode(graph.frozen.mlp_in[layer])[pos, row["latent"]]

        def off(value, hook, sae=sae, pos=pos, active=active, latent=row["latent"]):
            value = value.clone()
            value[:, pos] -= active * sae.W_dec[latent]
            return value

        logits = bridge.run_with_hooks(graph.frozen.tokens[None], fwd_hooks=[(f"blocks.{layer}.hook_mlp_out", off)])
        literal = clean - (logits[0, -1, target] - logits[0, -1].mean())
        assert row["change"] == pytest.approx(literal.item(), abs=1e-4)
    drawn = [row for row in rows if row["drawn"]]
    expected = spearmanr([row["influence"] for row in drawn], [abs(row["change"]) for row in drawn]).statistic
    agreement = numbers["agreement"]
    assert agreement.value == pytest.approx(expected)
    assert agreement.ci_low < agreement.value < agreement.ci_high
    assert agreement.control("write_norm").difference.value == pytest.approx(
        agreement.value - agreement.control("write_norm").value
    )
    assert numbers["fall"].value != numbers["fall_matched"].value
    assert found.pooled("influence") == pytest.approx(expected)
    shown = found.feature[found.site >= 0]
    literal = [graph.adjacency[graph.first_logit, one].abs().item() for one in shown]
    expected = spearmanr(literal, [abs(row["change"]) for row in drawn]).statistic
    assert found.pooled("direct_edge") == pytest.approx(expected)
    bound, slope = found.predicted["sizes_alone"], found.predicted["gradient"]
    assert (slope <= bound * (1 + 1e-5)).all(), "sizes without the angle bound the first-order estimate"
    assert float(slope.sum()) < 0.9 * float(bound.sum())


def test_the_gradient_is_the_slope_of_an_ablation(manifest, files):
    bridge = load_model(manifest.parent)
    saes = load_transcoders(files.transcoders, manifest.parent.name, LAYERS, WIDTH)
    graph = attribute(freeze_prompt(bridge, prompt_tokens(load_tokenizer(manifest.parent), "x", GOOD, CONTEXT)), saes)
    features, gradient, target = graph.features, margin_gradient(bridge, graph), int(graph.logit_tokens[0])
    found = torch.zeros(len(features))
    for layer, (which, rows) in enumerate(features.writers):
        found[which] += (rows * gradient[layer, features.pos[which]]).sum(1) * features.activation[which]

    def margin(share: float, one: int) -> float:
        taken = share * written_by(graph.features, torch.tensor([one]), graph.frozen.mlp_out)
        names = [f"blocks.{at}.hook_mlp_out" for at in range(LAYERS)]
        hooks = [(name, lambda value, hook, own=own: value - own) for name, own in zip(names, taken, strict=True)]
        last = bridge.run_with_hooks(graph.frozen.tokens[None], fwd_hooks=hooks)[0, -1].double()
        return float(last[target] - last.mean())

    sizes = found.abs().argsort(descending=True)
    for one in sizes[::40].tolist():
        slope = (margin(-0.005, one) - margin(0.005, one)) / 0.01
        assert slope == pytest.approx(float(found[one]), abs=2e-3, rel=0.03)


def test_good_input_writes_every_file(files, few_texts):
    language(files, SETTINGS, RUN)
    assert len(written(files)) == 9


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("", "the prompt 'x' is empty, and position 0 has no features; give it two tokens or more"),
        ("\n", "the prompt 'x' is a single token, and position 0 has no features; give it two tokens or more"),
        (" Mary" * 41, "the prompt 'x' has 41 tokens, more than the model's context of 40; shorten it"),
    ],
)
def test_a_prompt_of_no_token_or_beyond_the_context(manifest, prompt, sentence):
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
        prompt_tokens(load_tokenizer(manifest.parent), "x", prompt, CONTEXT)
    assert len(prompt_tokens(load_tokenizer(manifest.parent), "x", " Mary" * CONTEXT, CONTEXT)) == CONTEXT


def test_transcoders_of_another_model_are_told_by_name_and_by_shape(tmp_path):
    path = tmp_path / "transcoders.safetensors"
    with pytest.raises(UserError, match=r"does not exist; run `make SCALE=full circuit_tracing`$"):
        load_transcoders(path, "tiny", LAYERS, WIDTH)
    assert len(load_transcoders(transcoders(path, "tiny"), "tiny", LAYERS, WIDTH)) == LAYERS
    with pytest.raises(UserError, match=r"holds transcoders of other, not of tiny; train them on it$"):
        load_transcoders(transcoders(path, "other"), "tiny", LAYERS, WIDTH)
    for layers, width in ((2, WIDTH), (4, WIDTH), (LAYERS, 16)):
        sentence = f"for {layers} layers of width {width}, but tiny has {LAYERS} of width {WIDTH}; delete it"
        with pytest.raises(UserError, match=sentence):
            load_transcoders(transcoders(path, "tiny", layers, width), "tiny", LAYERS, WIDTH)
    stored = load_file(path)
    save_file({name: value for name, value in stored.items() if name != "threshold"}, path)
    with pytest.raises(UserError, match="lacks threshold: it holds no transcoders; delete it"):
        load_transcoders(path, "tiny", LAYERS, WIDTH)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"is not whole .*; delete it"):
        load_transcoders(path, "tiny", LAYERS, WIDTH)


def test_a_dead_layer_leaves_nothing_half_written(files, few_texts):
    stored = load_file(files.transcoders)
    stored["threshold"][1] = 1e9
    save_file(stored, files.transcoders, {"model": files.manifest.parent.name})
    with pytest.raises(UserError, match="no feature of layer 1 fires on this prompt: its transcoder is dead; train it"):
        language(files, SETTINGS, RUN)
    assert written(files) == []


def test_a_failure_in_the_second_prompt_leaves_no_page_of_the_first(files, few_texts, monkeypatch):
    made = []

    def once(*arguments, **options):
        made.append(1)
        if len(made) == 2:
            raise UserError("the second prompt fails; mend it")
        return attribute(*arguments, **options)

    attribute = language_module.attribute
    monkeypatch.setattr(language_module, "attribute", once)
    with pytest.raises(UserError, match="the second prompt fails"):
        language(files, SETTINGS, RUN)
    assert written(files) == []


def test_the_step_ends_with_one_sentence_and_a_nonzero_exit_code(files):
    settings = SETTINGS.model_copy(update={"prompts": {"first": GOOD, "second": " Mary" * 41}})
    words = {"files": files, "settings": settings, "run": RUN}
    arguments = [word for key, value in words.items() for word in (f"--{key}", value.model_dump_json())]
    done = subprocess.run(
        [sys.executable, "-m", "replications.circuit_tracing.language", *arguments], cwd=ROOT, text=True,
        capture_output=True, check=False, env=os.environ | {"PYTHONPATH": "."},
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: the prompt 'second' has 41 tokens, more than the model's context of 40; shorten it")
    assert "Traceback" not in done.stderr
    assert written(files) == []
