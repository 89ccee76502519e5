"""The whole study on a model whose circuit is known: every step and figure once, and what they must find there."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from common.core.claims import Definition, Landmark
from common.core.errors import UserError
from common.core.figures import draw_figures
from common.core.files import read_json, sha256, write_json
from common.core.metrics import read_metrics
from common.core.settings import ROOT
from common.core.step import RunInfo
from common.data.models import load_model
from common.interp.decoder import Decoder
from replications.ioi_circuit import figures, head_figures, settings
from replications.ioi_circuit.activation_patching import ActivationPatchingFiles, activation_patching
from replications.ioi_circuit.baseline import BaselineFiles, baseline
from replications.ioi_circuit.batches import balanced
from replications.ioi_circuit.classes import HeadScores
from replications.ioi_circuit.collect import CollectFiles, collect
from replications.ioi_circuit.dataset import read_file, read_prompts
from replications.ioi_circuit.direct_effects import DirectEffectsFiles, direct_effects
from replications.ioi_circuit.edge_attribution import EdgeAttributionFiles, edge_attribution
from replications.ioi_circuit.edge_ground_truth import TRUTH as EDGES
from replications.ioi_circuit.edge_search import EdgeSearchFiles, edge_search
from replications.ioi_circuit.fine_tuned import FineTunedFiles, fine_tuned
from replications.ioi_circuit.mlp_knockout import MlpKnockoutFiles, mlp_knockout
from replications.ioi_circuit.path_patching import PathPatchingFiles, path_patching
from replications.ioi_circuit.planted import N_HEADS, N_LAYERS, TRUTH, save_planted_model
from replications.ioi_circuit.prompt_statistics import SignificantEffects
from replications.ioi_circuit.prompts import PromptsFiles, prompts
from replications.ioi_circuit.robustness import RobustnessFiles, robustness
from replications.ioi_circuit.signals import SignalsFiles, signals
from replications.ioi_circuit.sweeps import discover
from replications.ioi_circuit.transfer import TransferFiles, transfer
from replications.ioi_circuit.verification import VerificationFiles, verification
from tests.fixtures.ioi_circuit_tiny import CLAIMS

RUN = RunInfo(scale="smoke", seeds=[0, 1], device="cpu")
PATCHING = settings.PathPatching(
    end_prompts=14, inner_prompts=7, again_prompts=8, minimum_percent=1.0, period=14, sequences=2, draws=100,
    further_receivers=True, steering_draws=20,
)  # fmt: skip
PATCHED = {"layer_step": 2, "n_prompts": 7, "head_step": 1}


def metrics_of(folder: Path, part: str) -> dict[str, Any]:
    return read_metrics(folder / part / "metrics.json")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All steps on a planted model, in folders as in a run. The model's folder is the results folder's name."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("study") / "planted"
    manifest = save_planted_model(tmp_path_factory.mktemp("models") / "planted", 3, twin=False)
    rows, activations = folder / "prompts.json", folder / "activations.safetensors"
    inputs = {"manifest": manifest, "prompts": rows}

    def outputs(part: str, **names: str) -> dict[str, Path]:
        return {key: folder / part / name for key, name in ({"metrics": "metrics.json"} | names).items()}

    few = settings.Prompts(per_cell=1, circuit_per_cell=1, adversarial=9, minimum_names=20)
    prompts(PromptsFiles(**inputs), few, RUN)
    collect(CollectFiles(**inputs, activations=activations), settings.Collect(batch_size=30, small_group=1), RUN)
    baseline(
        BaselineFiles(prompts=rows, activations=activations, **outputs("baseline", answers="answers.csv")),
        settings.Baseline(shuffles=100),
    )
    lens = outputs("logit_lens", lens="lens.csv")
    direct_effects(
        DirectEffectsFiles(
            **inputs, activations=activations, lens_metrics=lens["metrics"], lens=lens["lens"],
            **outputs("direct_path", heads="heads.csv"),
        ),
        settings.DirectEffects(
            logit_lens=settings.LogitLens(early_depth=0.5),
            direct_path=settings.DirectPath(batch_size=30, top=3, late_depth=0.6, draws=100),
        ),
        RUN,
    )  # fmt: skip
    patched = outputs("path_patching", heads="heads.csv", attention="attention.csv", steered="steered.csv")
    heads = patched["heads"]
    path_patching(PathPatchingFiles(**inputs, activations=activations, **patched), PATCHING, RUN)
    signals(
        SignalsFiles(**inputs, heads=heads, **outputs("signals", signals="signals.csv")),
        settings.Signals(n_prompts=8, draws=20),
        RUN,
    )
    mlp_knockout(
        MlpKnockoutFiles(**inputs, **outputs("mlp_knockout", mlps="mlps.csv")),
        settings.MlpKnockout(n_prompts=8, means_prompts=1),
        RUN,
    )
    tables = {name: f"{name}.csv" for name in ("circuit", "curve", "classes")}
    verification(
        VerificationFiles(**inputs, activations=activations, heads=heads, **outputs("verification", **tables)),
        settings.Verification(
            curve_prompts=7, verify_prompts=8, sizes=[2, 7, 12], largest_share=0.5, smallest_faithfulness=0.5,
            batch_size=500,
        ),
        RUN,
    )  # fmt: skip
    circuit = folder / "verification/circuit.csv"
    tables = {name: f"{name}.csv" for name in ("nodes", "parts", "grid")}
    robustness(
        RobustnessFiles(**inputs, activations=activations, circuit=circuit, **outputs("robustness", **tables)),
        settings.Robustness(
            random_prompts=8, grid_prompts=8, random_sets=20, random_parts=20,
            greedy=settings.Greedy(runs=1, iterations=2, candidates=2), small_group=1, batch_size=500,
        ),
        RUN,
    )  # fmt: skip
    activation_patching(
        ActivationPatchingFiles(**inputs, **outputs("activation_patching", effects="effects.csv")),
        settings.ActivationPatching(**PATCHED),
        RUN,
    )
    curves = {"ig_steps": 3, "shares": [0.05], "random_circuits": 20, "score_prompts": 7, "curve_prompts": 8}
    direct = folder / "direct_path/heads.csv"
    edge_attribution(
        EdgeAttributionFiles(
            **inputs, heads=heads, direct=direct,
            **outputs("edge_attribution", curves="curves.csv", edges="edges.csv", nodes="nodes.csv"),
        ),
        settings.EdgeAttribution(**curves, circuits_per_pass=4, draws=100),
        RUN,
    )  # fmt: skip
    edge_search(
        EdgeSearchFiles(**inputs, **outputs("edge_search", curves="curves.csv", edges="edges.csv")),
        settings.EdgeSearch(**curves, circuits_per_pass=8, exact_prompts=2, candidates=40, threshold=0.1),
        RUN,
    )
    tuned = outputs("fine_tuned", shares="shares.csv", heads="heads.csv", nodes="nodes.csv")
    fine_tuned(
        FineTunedFiles(
            **inputs, circuit=circuit, searched=heads,
            tuned=[renamed_heads(manifest, 0), renamed_heads(manifest, 1)], **tuned,
        ),
        settings.FineTuned(
            models=[], n_seeds=2, verify_prompts=8, random_prompts=8, sweep_prompts=8, random_sets=20,
            means_prompts=2, top=2, draws=20, batch_size=500,
        ),
        RUN,
    )  # fmt: skip
    return folder


def renamed_heads(manifest: Path, shift: int) -> Path:
    """A copy that computes the same with the heads of the last layer `shift` places further: what was 3.0 is 3.1."""
    folder = shutil.copytree(manifest.parent, manifest.parents[1] / f"tuned-{shift}")
    weights = load_file(folder / "model.safetensors")
    attention = f"transformer.h.{N_LAYERS - 1}.attn"
    out = weights[f"{attention}.c_proj.weight"]
    step = shift * (len(out) // N_HEADS)
    weights[f"{attention}.c_proj.weight"] = out.roll(step, 0)
    for key in (f"{attention}.c_attn.weight", f"{attention}.c_attn.bias"):  # queries, keys and values side by side
        weights[key] = torch.cat([part.roll(step, -1) for part in weights[key].chunk(3, -1)], -1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    content = read_json(folder / "manifest.json")
    content["files"]["model.safetensors"] = sha256(folder / "model.safetensors")
    write_json(folder / "manifest.json", content)
    return folder / "manifest.json"


def test_the_planted_heads_are_found_named_and_make_a_small_circuit(study: Path) -> None:
    circuit = pd.read_csv(study / "verification/circuit.csv")
    found = {
        (row["layer"], row["head"], row["place"]): row["class"]
        for _, row in circuit.iterrows()
        if row["class"] not in ("uncounted", "unclassified", "backup")
    }
    assert found.items() <= TRUTH.items()
    assert len(found) >= 6  # so few prompts may leave one head below the bar
    metrics = metrics_of(study, "verification")
    assert metrics["small_circuit"].value == 1
    assert 0.7 < metrics["circuit_faithfulness"].value < 1.5  # without the other heads' noise
    assert metrics_of(study, "robustness")["circuit_against_random_heads"].control("random_heads").ci_high < 0.5
    again = metrics_of(study, "path_patching")["effects_again"]
    assert 0.6 < again.value < 1.8  # eight prompts of other templates


def test_attribution_recovers_the_planted_edges(study: Path) -> None:
    metrics = metrics_of(study, "edge_attribution")
    assert metrics["auroc_named_eap_ig"].value > 0.9
    edges = pd.read_csv(study / "edge_attribution/edges.csv")
    pairs = set(zip(edges["writer"], edges["reader"], strict=True))
    assert {("3.0", "logits"), ("3.1", "logits"), ("2.0", "3.0 q")} <= pairs


def test_searches_over_single_edges_find_planted_ones(study: Path) -> None:
    table = pd.read_csv(study / "edge_search/edges.csv")
    assert len(table) == 40
    strongest = table.reindex(table["exact"].abs().sort_values(ascending=False).index).head(6)
    assert set(zip(strongest["writer"], strongest["reader"], strict=True)) <= set(EDGES)
    kept = table[table["kept"] == 1]
    assert 0 < len(kept) < 40
    assert kept["exact"].abs().mean() > table[table["kept"] == 0]["exact"].abs().mean()
    metrics = metrics_of(study, "edge_search")
    assert 0.9 < metrics["acdc_share"].value < 1
    assert metrics["faithfulness_acdc"].value > 0.7
    assert metrics["eap_ig_agrees_with_exact"].n == 40


def test_activation_patching_has_its_limits(study: Path) -> None:
    """Noising the stream everywhere that counts takes all away; replacing END after the last reader changes all."""
    keys = ["direction", "kind", "place", "layer", "head"]
    table = pd.read_csv(study / "activation_patching/effects.csv").set_index(keys).sort_index()["percent"]
    assert table["noising", "resid", "end", 0, -1] == pytest.approx(0, abs=1e-2)  # END itself is the same word
    assert table["noising", "head", "end", 2, 0] < -30  # S-inhibition steers the movers
    assert len(table[table.index.get_level_values("kind") == "head"]) == 4 * N_LAYERS * N_HEADS
    assert table["noising", "head", "s2"].abs().max() > 5
    assert table["denoising", "head", "s2"].abs().max() < 2  # names that a partner does not hold cannot be singled out
    assert table["denoising", "head", "end", 3, 0] > 20  # but written


def test_s_inhibition_heads_steer_where_the_movers_look(study: Path) -> None:
    """In the planted model nothing but head 2.0 tells the movers which name to leave out."""
    metrics = metrics_of(study, "path_patching")
    assert metrics["attention_steered"].value > 0.3
    assert abs(metrics["attention_steered"].control("other_heads").value) < 0.05
    table = pd.read_csv(study / "path_patching/steered.csv", dtype={"head": str}).set_index(["head", "name"])
    assert table.loc[("3.0", "io"), "before"] > 0.8
    assert table.loc[("3.0", "io"), "after"] < 0.7  # without a name to leave out it looks at both
    assert table.loc[("3.0", "s1"), "after"] > table.loc[("3.0", "s1"), "before"] + 0.1
    assert table["after_random"].to_numpy() == pytest.approx(table["before"].to_numpy(), abs=0.03)
    assert metrics["writing_follows_attention"].value > 0.5
    assert metrics["writing_follows_attention"].control("shuffled_attention").ci_high < 0.5


def test_the_planted_s_inhibition_head_says_which_name_and_not_where(study: Path) -> None:
    """It writes the name that it has read; inverted, the movers leave out IO. A few of the eight prompts fail in this
    model anyway, which makes the interval wide."""
    metrics = metrics_of(study, "signals")
    assert metrics["n_heads"].value == 1
    assert metrics["token_signal"].value > 0.6
    assert abs(metrics["position_signal"].value) < 0.1
    assert max(abs(metrics[f"{name}_signal"].control("other_heads").ci_high) for name in ("token", "position")) < 0.05
    table = pd.read_csv(study / "signals/signals.csv").set_index(["token", "position"])
    assert table.loc[("original", "original"), "left"] == pytest.approx(1, abs=1e-4)
    assert table.loc[("inverted", "original"), "left"] < table.loc[("random", "original"), "left"] < 0.9
    assert table["random"].to_numpy() == pytest.approx(1, abs=0.05)


def test_a_model_without_mlps_loses_nothing_without_them(study: Path) -> None:
    """The MLPs of the planted model add nothing."""
    metrics = metrics_of(study, "mlp_knockout")
    assert metrics["everywhere_all_others"].value == pytest.approx(1, abs=1e-3)
    table = pd.read_csv(study / "mlp_knockout/mlps.csv")
    assert len(table) == 3 * N_LAYERS
    assert table["left"].to_numpy() == pytest.approx(1, abs=1e-3)


def test_further_sweeps_show_who_acts_on_queries_and_name_nobody(study: Path) -> None:
    """Nothing but the embedding feeds the planted induction head's queries, and those of the S-inhibition head."""
    heads = pd.read_csv(study / "path_patching/heads.csv")
    for name, below in (("induction_queries", 1), ("inhibition_queries", 2)):
        assert heads.loc[heads["layer"] < below, name].abs().max() < 2
        assert (heads.loc[heads["layer"] >= below, name] == 0).all()
        assert f"{name}_class" not in heads


def test_nodes_answers_and_strangers_are_judged(study: Path) -> None:
    metrics = metrics_of(study, "robustness")
    assert metrics["share_minimal"].control("added_random_nodes").difference.value > 0.4
    assert metrics["share_minimal"].n == len(pd.read_csv(study / "verification/circuit.csv"))
    assert metrics["answer_same"].value > metrics["answer_same"].control("random_heads").ci_high
    assert 0 <= metrics["answer_kl"].value < 0.5 * metrics["answer_kl"].control("random_heads").value
    grid = pd.read_csv(study / "robustness/grid.csv")
    assert (grid["smallest_template"] < grid["largest_template"]).all()
    assert grid["share_above_2"].between(0, 1).all()


def test_a_step_over_more_layers_than_the_model_has_is_refused_before_the_computing(study: Path) -> None:
    manifest = save_planted_model(study.parent / "again" / "planted", 3, twin=False)
    files = ActivationPatchingFiles(
        manifest=manifest, prompts=study / "prompts.json", metrics=study / "refused.json", effects=study / "refused.csv"
    )
    said = rf"layer_step is {N_LAYERS}, but this model has {N_LAYERS} layers; set it to 1 to {N_LAYERS - 1} in"
    with pytest.raises(UserError, match=said):
        activation_patching(files, settings.ActivationPatching(**PATCHED | {"layer_step": N_LAYERS}), RUN)
    assert not (study / "refused.json").exists()


def test_adversarial_prompts_repeat_the_right_name(study: Path) -> None:
    content = read_file(study / "prompts.json")
    assert len(content.adversarial) == 18
    for item in content.adversarial:
        row = content.prompts[item.index]
        words = item.text.replace(",", " ").replace(".", " ").split()
        assert (words.count(row.s), words.count(row.io)) == ((3, 1) if item.extra == "s" else (2, 2))
    metrics = metrics_of(study, "baseline")
    after = metrics["adversarial_logit_difference"]
    plain = after.control("no_sentence").value
    assert metrics["adversarial_drop"].value == pytest.approx(1 - after.value / plain, abs=1e-6)


def test_a_circuit_survives_in_equal_weights_and_not_where_its_heads_changed_places(study: Path) -> None:
    metrics = metrics_of(study, "fine_tuned")
    assert metrics["logit_difference_kept"].per_seed == pytest.approx([1, 1], abs=1e-4)  # both compute the same
    same, moved = metrics["effects_kept"].per_seed or []
    assert same == pytest.approx(1, abs=1e-5)
    assert moved < 0.2
    kept, lost = metrics["circuit_faithfulness"].per_seed or []
    assert kept == pytest.approx(metrics["circuit_faithfulness"].control("before_tuning").value, abs=1e-5)
    assert lost < 0.5 * kept
    assert metrics["same_top_heads"].value < 1
    table = pd.read_csv(study / "fine_tuned/heads.csv")
    before, after = (table.loc[table["layer"] == N_LAYERS - 1, name].to_numpy() for name in ("before", "tuned-1"))
    assert np.roll(before, 1) == pytest.approx(after, abs=1e-2)  # percent
    nodes = pd.read_csv(study / "fine_tuned/nodes.csv")
    assert nodes["tuned-0"].to_numpy() == pytest.approx(nodes["before"].to_numpy(), abs=1e-3)
    writers = nodes[nodes["receiver"] == "logits"]
    every = table.set_index(["layer", "head"])["before"]
    assert writers["before"].tolist() == pytest.approx(
        [every[node] for node in zip(writers["layer"], writers["head"], strict=True)]
    )
    swept = pd.read_csv(study / "path_patching/heads.csv").set_index(
        ["layer", "head"]
    )  # few prompts, other ones: signs and no more
    inner = nodes[nodes["receiver"] != "logits"]
    discovered = [swept.loc[(row["layer"], row["head"]), row["receiver"]] for _, row in inner.iterrows()]
    assert (np.sign(inner["before"]) == np.sign(discovered)).all()
    assert inner["before"].abs().min() > 20
    steering = nodes[nodes["receiver"] == "mover_queries"]
    assert (steering["tuned-1"].abs() < 0.3 * steering["before"].abs()).all()  # those queries belong to no mover now


def test_circuit_prompts_are_a_draw_of_their_own(study: Path) -> None:
    content = read_file(study / "prompts.json")
    first, second = (
        {row.versions["original"].text for row in part} for part in (content.prompts, content.circuit_prompts)
    )
    assert not first & second
    assert {row.seed for row in content.circuit_prompts} == {1000, 1001}


def test_figures_are_drawn_from_tables(study: Path) -> None:
    names = [name for name in figures.PLANS if "ground_truth" not in name]
    svg = [(study / name.replace("/", "/figures/")).with_suffix(".svg") for name in names]
    captions = [ROOT / f"replications/ioi_circuit/captions/{path.stem}.rst" for path in svg]
    draw_figures(figures.PLANS, captions, svg)
    assert all(len(list(path.parent.glob(f"{path.stem}.*"))) == 5 for path in svg)


def test_a_model_without_s_inhibition_heads_has_a_figure_that_says_so() -> None:
    empty = pd.DataFrame(columns=["head", "class", "name", "before", "after", "after_random"])
    figure, drawn = head_figures.steered(empty)
    assert drawn["class"].tolist() == [figure.axes[0].texts[0].get_text()] == ["no mover, or no S-inhibition head"]


def test_models_stand_side_by_side(study: Path) -> None:
    """The same model twice, as two, each with the models that are fine-tuned from it."""
    out = study / "figures" / "transfer.svg"
    transfer(
        TransferFiles(
            circuits=[study / "verification/circuit.csv"] * 2,
            metrics=[study / "verification/metrics.json"] * 2,
            heads=[study / "path_patching/heads.csv"] * 2,
            tuned=[study / "fine_tuned/nodes.csv"],
            caption=ROOT / "replications/ioi_circuit/captions/transfer.rst",
            svg=out,
            others=[],
        )
    )
    table = pd.read_csv(out.with_suffix(".csv"))
    assert set(table["model"]) == {"planted", "planted, fine-tuned to refuse", "GPT-2 small, as published"}
    paper = table[table["model"] == "GPT-2 small, as published"].set_index("class")
    assert paper["nodes"].sum() == paper["heads"].iloc[0] == 26
    assert (paper.loc["backup", "nodes"], paper.loc["s_suppressing", "nodes"]) == (8, 0)
    assert paper.loc["s_inhibition", "mean_depth"] == pytest.approx((7 + 7 + 8 + 8) / 4 / 11)
    assert paper.loc["name_mover", "drop"] == pytest.approx(-0.008, abs=1e-3)  # they are made up for
    ours = table[table["model"] != "GPT-2 small, as published"]
    assert ours.groupby("class")["nodes"].sum()["name_mover"] == 4
    before, after = (table[table["model"] == name] for name in ours["model"].unique())
    one, other = (
        part.set_index("class").loc["name_mover", "summed_effect_percent"].iloc[0] for part in (before, after)
    )
    assert abs(other) < 0.75 * abs(one)  # in one of the two fine-tuned models another head stands at its place


def test_claims_name_metrics_that_exist_and_landmarks_every_control(study: Path) -> None:
    for claim in (claim for claim in CLAIMS if isinstance(claim, Definition) and "toy" not in claim.models):
        metric = metrics_of(study, claim.part)[claim.metric]
        measured = {control.name for control in metric.controls}
        assert set(claim.controls) <= measured, claim.id
        assert set(claim.controls) == measured or not isinstance(claim, Landmark), claim.id


def test_bad_input_is_a_clear_error(study: Path, tmp_path: Path) -> None:
    manifest = sorted(study.parent.parent.glob("models*/planted/manifest.json"))[0]
    many = settings.Prompts(per_cell=1, circuit_per_cell=1, adversarial=9, minimum_names=60)
    with pytest.raises(UserError, match="names as one token and needs 60"):
        prompts(PromptsFiles(manifest=manifest, prompts=tmp_path / "p.json"), many, RUN)
    files = PathPatchingFiles(
        manifest=manifest, prompts=study / "prompts.json", activations=study / "activations.safetensors",
        metrics=tmp_path / "m.json", heads=tmp_path / "h.csv", attention=tmp_path / "a.csv",
        steered=tmp_path / "s.csv",
    )  # fmt: skip
    with pytest.raises(UserError, match="longer than the context"):
        path_patching(files, PATCHING.model_copy(update={"period": 40}), RUN)
    decoder = Decoder(load_model(manifest.parent), 30)
    rows = balanced(read_prompts(study / "prompts.json", "circuit_prompts"), 1, 7)
    zeros = np.zeros(N_LAYERS * N_HEADS)
    nothing = SignificantEffects(zeros, zeros, 1.0)
    contrasts = {name: nothing for name in ("to_io", "to_s2", "duplicate", "induction", "previous")}
    scores = HeadScores(contrasts, {"copy_io": nothing, "copy_s": nothing}, {}, {})
    with torch.no_grad(), pytest.raises(UserError, match="no circuit to follow back"):
        discover(decoder, rows, rows, scores, 1.0, 100)
