"""The whole study on a model whose circuit is known: every step and figure once, and what they must find there."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from common.core.claims import Definition, Landmark
from common.core.errors import UserError
from common.core.figures import draw_figures
from common.core.metrics import read_metrics
from common.core.settings import ROOT
from common.core.step import RunInfo
from common.data.models import load_model
from common.interp.decoder import Decoder
from replications.ioi_circuit import figures, settings
from replications.ioi_circuit.baseline import BaselineFiles, baseline
from replications.ioi_circuit.batches import balanced
from replications.ioi_circuit.classes import CONTRASTS, HeadScores
from replications.ioi_circuit.collect import CollectFiles, collect
from replications.ioi_circuit.dataset import read_file, read_prompts
from replications.ioi_circuit.direct_path import DirectPathFiles, direct_path
from replications.ioi_circuit.edge_attribution import EdgeAttributionFiles, edge_attribution
from replications.ioi_circuit.nodes import CLASSES, PLACES
from replications.ioi_circuit.other_half import OtherHalfFiles, other_half
from replications.ioi_circuit.passes import shared_passes
from replications.ioi_circuit.path_patching import PathPatchingFiles, path_patching
from replications.ioi_circuit.planted import N_HEADS, N_LAYERS, TRUTH, save_planted_model
from replications.ioi_circuit.prompt_statistics import SignificantEffects
from replications.ioi_circuit.prompts import PromptsFiles, prompts
from replications.ioi_circuit.receivers_apart import ReceiversApartFiles, receivers_apart
from replications.ioi_circuit.robustness import RobustnessFiles, robustness
from replications.ioi_circuit.sensitivity import SensitivityFiles, sensitivity
from replications.ioi_circuit.signals import SignalsFiles, signals
from replications.ioi_circuit.subject_or_repeat import SubjectOrRepeatFiles, subject_or_repeat
from replications.ioi_circuit.sweeps import Rules, discover
from replications.ioi_circuit.templates import FORMS, NAMES
from replications.ioi_circuit.verification import VerificationFiles, verification
from tests.fixtures.ioi_circuit_tiny import CLAIMS

RUN = RunInfo(scale="smoke", seeds=[0, 1], device="cpu")
PATCHING = settings.PathPatching(
    end_prompts=28, inner_step=1, screened=16, screened_inner=12, again_prompts=8, minimum_percent=1.0, period=14,
    sequences=2, draws=100, resamples=20,
)  # fmt: skip


def metrics_of(folder: Path, part: str) -> dict[str, Any]:
    return read_metrics(folder / part / "metrics.json")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All steps on a planted model, in folders as in a run. The model's folder is the results folder's name."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("study") / "planted"
    manifest = save_planted_model(tmp_path_factory.mktemp("models") / "planted", 3)
    rows, activations = folder / "prompts.json", folder / "activations.safetensors"
    inputs = {"manifest": manifest, "prompts": rows}

    def outputs(part: str, **names: str) -> dict[str, Path]:
        return {key: folder / part / name for key, name in ({"metrics": "metrics.json"} | names).items()}

    few = settings.Prompts(per_cell=1, circuit_per_cell=2, minimum_names=20, templates=FORMS)
    with pytest.MonkeyPatch.context() as patch:  # the planted models know the words of these templates and names alone
        patch.setattr("replications.ioi_circuit.prompts.names_for", lambda seeds: NAMES)
        prompts(PromptsFiles(**inputs), few, RUN)
    collect(CollectFiles(**inputs, activations=activations), settings.Collect(batch_size=30, small_group=1), RUN)
    baseline(
        BaselineFiles(prompts=rows, activations=activations, **outputs("baseline", answers="answers.csv")),
        settings.Baseline(shuffles=100),
    )
    direct_path(
        DirectPathFiles(**inputs, activations=activations, **outputs("direct_path", heads="heads.csv")),
        settings.DirectPath(batch_size=30, draws=100),
        RUN,
    )
    patched = outputs("path_patching", heads="heads.csv", attention="attention.csv")
    heads = patched["heads"]
    path_patching(PathPatchingFiles(**inputs, activations=activations, **patched), PATCHING, RUN)
    of_heads = inputs | {"heads": heads}
    other_half(OtherHalfFiles(**of_heads, **outputs("other_half", classes="classes.csv")), PATCHING, RUN)
    receivers_apart(
        ReceiversApartFiles(**of_heads, **outputs("receivers_apart", senders="senders.csv")),
        settings.ReceiversApart(n_prompts=14, again_prompts=14, screened=4),
        RUN,
    )
    subject_or_repeat(
        SubjectOrRepeatFiles(**of_heads, **outputs("subject_or_repeat", answers="answers.csv")),
        settings.SubjectOrRepeat(n_prompts=14, batch_size=9),
        RUN,
    )
    signals(
        SignalsFiles(**inputs, heads=heads, **outputs("signals", signals="signals.csv")),
        settings.Signals(n_prompts=8, draws=20, edit_draws=20),
        RUN,
    )
    tables = {name: f"{name}.csv" for name in ("circuit", "curve", "classes", "grown")}
    verification(
        VerificationFiles(**inputs, activations=activations, heads=heads, **outputs("verification", **tables)),
        settings.Verification(
            curve_prompts=7, verify_prompts=8, sizes=[4, 7, 8, 12], largest_share=0.5, smallest_faithfulness=0.5,
            random_sets=20, blind_sets=20, greedy_prompts=7,
            greedy=settings.Greedy(runs=1, iterations=2, candidates=2), batch_size=500,
        ),
        RUN,
    )  # fmt: skip
    chosen = {name: folder / f"verification/{name}.csv" for name in ("circuit", "grown")}
    tables = {name: f"{name}.csv" for name in ("nodes", "parts", "grid")}
    robustness(
        RobustnessFiles(**inputs, **chosen, activations=activations, **outputs("robustness", **tables)),
        settings.Robustness(
            verify_prompts=8, random_prompts=8, greedy_prompts=7, grid_prompts=8, random_sets=20, random_parts=20,
            greedy=settings.Greedy(runs=1, iterations=2, candidates=2), small_group=1, batch_size=500,
        ),
        RUN,
    )  # fmt: skip
    sensitivity(
        SensitivityFiles(**inputs, **outputs("sensitivity", heads="heads.csv")),
        settings.Sensitivity(batch_size=20),
        RUN,
    )
    curves = {"ig_steps": 3, "shares": [0.05], "random_circuits": 20, "score_prompts": 7, "curve_prompts": 8}
    direct = folder / "direct_path/heads.csv"
    edge_attribution(
        EdgeAttributionFiles(
            **inputs, heads=heads, direct=direct,
            **outputs("edge_attribution", curves="curves.csv", edges="edges.csv", nodes="nodes.csv"),
        ),
        settings.EdgeAttribution(**curves, small=curves["shares"][0], circuits_per_pass=4, draws=100),
        RUN,
    )  # fmt: skip
    return folder


def test_the_planted_heads_are_found_named_and_make_a_small_circuit(study: Path) -> None:
    circuit = pd.read_csv(study / "verification/circuit.csv")
    found = {
        (row["layer"], row["head"], row["place"]): row["class"]
        for _, row in circuit.iterrows()
        if row["class"] in CLASSES
    }
    assert found.items() <= TRUTH.items()
    assert len(found) >= 6  # so few prompts may leave one head below the bar
    metrics = metrics_of(study, "verification")
    assert metrics["small_circuit"].value == 1
    assert 0.7 < metrics["circuit_faithfulness"].value < 1.5  # without the other heads' noise
    random = metrics_of(study, "robustness")["circuit_against_random_heads"].control("random_heads")
    assert random.value < 0.2 < random.difference.ci_low  # draws of eight of sixteen heads hold some of the circuit
    trivial = {one.name: one.value for one in metrics["repetition_kept"].controls}
    assert trivial["two_heads"] < 0.5 < metrics["repetition_kept"].value
    again = metrics_of(study, "path_patching")["effects_again"]
    assert 0.6 < again.value < 1.8  # eight prompts of other templates


def test_the_other_half_gives_the_same_names(study: Path) -> None:
    metrics = metrics_of(study, "other_half")
    assert metrics["named_again"].value > metrics["named_again"].control("names_dealt_out").value
    assert metrics["named_again"].value > 0.6  # of six heads, on eight prompts a template at most
    table = pd.read_csv(study / "other_half/classes.csv", dtype={"head": str}).set_index(["receivers", "head"])
    for at, kind in {("logits", "3.2"): "s_suppressing", ("induction_keys", "0.0"): "previous"}.items():
        assert table.loc[at, ["class", "class_again"]].tolist() == [kind, kind]
        assert table.loc[at, "effect_again"] < -50


def test_each_planted_head_reads_the_one_that_informs_it(study: Path) -> None:
    table = pd.read_csv(study / "receivers_apart/senders.csv", dtype={"receiver": str, "sender": str})
    first = table.drop_duplicates(["receiver", "input"]).set_index(["receiver", "input"])
    assert first.loc[("3.0", "q at end"), "sender"] == "2.0"
    assert first.loc[("3.0", "q at end"), "effect_again"] < -20
    assert first.loc[("2.0", "v at s2"), "sender"] in ("1.0", "1.1")
    assert abs(first.loc[("2.0", "q at end"), "effect_again"]) < 2  # it looks for a name whatever END says


def test_the_planted_model_leaves_out_what_came_twice_whoever_is_the_subject(study: Path) -> None:
    metrics = metrics_of(study, "subject_or_repeat")
    assert metrics["repeated_alone"].value > 0.8
    assert abs(metrics["repeated_alone"].control("neither").value) < 0.2
    assert metrics["subject_below_repeated"].value < 0  # the subject comes once, and stays
    assert abs(metrics["subject_below_mention"].value) < 0.2 * metrics["difference"].value
    alone = metrics["subject_alone"]
    assert alone.value < 0.2, "nobody comes twice, and few prompts leave it below 0"
    beyond = metrics["subject_below_mention"].value / metrics["difference"].value
    assert alone.value - alone.control("mention").value == pytest.approx(beyond, abs=1e-6)
    answers = pd.read_csv(study / "subject_or_repeat/answers.csv")
    assert len(answers) == 3 * (2 + 2 + 3)
    mention = [metrics[f"subject_below_mention_{form}"].value for form in ("clause", "unlike", "in_front")]
    assert np.mean(mention) == pytest.approx(metrics["subject_below_mention"].value, abs=1e-6)


def test_attribution_recovers_the_planted_edges(study: Path) -> None:
    metrics = metrics_of(study, "edge_attribution")
    assert metrics["auroc_named_eap_ig"].value > 0.9
    edges = pd.read_csv(study / "edge_attribution/edges.csv")
    pairs = set(zip(edges["writer"], edges["reader"], strict=True))
    assert {("3.0", "logits"), ("3.1", "logits"), ("2.0", "3.0 q")} <= pairs
    small = metrics["small_eap_ig"]
    assert {one.name for one in small.controls} == {"eap", "sizes_alone", "random_rankings"}
    curves = pd.read_csv(study / "edge_attribution/curves.csv").set_index(["draw", "share"])["f"]
    share = curves.index[0][1]
    assert "eap_ig" in {one.name for one in metrics["small_eap_ig_signed"].controls}
    found = {"eap_ig": small.value, **{name: small.control(name).value for name in ("eap", "sizes_alone")}}
    assert found == pytest.approx({name: curves[name, share] for name in found}, abs=1e-4)
    random = np.mean([curves[f"random {number}", share] for number in range(20)])
    assert small.control("random_rankings").value == pytest.approx(random, abs=1e-4)


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


def test_an_induction_head_that_writes_the_name_needs_neither_place_nor_token(study: Path) -> None:
    """The planted head writes S itself, whatever stands behind it, so a flip keeps nothing in either case."""
    metrics = metrics_of(study, "signals")
    assert metrics["n_induction"].value == 1
    assert metrics["induction_flip"].value > 0.1
    assert abs(metrics["induction_token_alone"].value) < 0.2
    assert metrics["induction_token_alone"].control("place_alone").value > 0.6
    nothing = metrics["induction_token_alone"].control("says_nothing")
    assert nothing.value > 0.6  # its duplicate-token head stands in for it, so a high share alone shows no place
    assert metrics["induction_place_only"].value > 0.6  # one token behind both names does not take the name away
    others = metrics["induction_place_only"].control("other_heads")
    assert abs(others.ci_low) < 0.1  # heads with nothing planted in them
    assert others.ci_high > 0.6  # the third of this layer is the duplicate-token head, which a flip turns as well


def test_a_model_without_such_heads_has_a_figure_that_says_so() -> None:
    _, drawn = figures.place_or_token({})
    assert drawn["heads"].tolist() == ["no head was named"]


def test_nodes_answers_and_strangers_are_judged(study: Path) -> None:
    metrics = metrics_of(study, "robustness")
    assert metrics["share_minimal"].control("added_random_nodes").difference.value > 0.4
    assert metrics["share_minimal"].n == len(pd.read_csv(study / "verification/circuit.csv"))
    assert metrics["answer_same"].value > metrics["answer_same"].control("random_heads").ci_high
    assert 0 <= metrics["answer_kl"].value < 0.5 * metrics["answer_kl"].control("random_heads").value
    grid = pd.read_csv(study / "robustness/grid.csv")
    assert (grid["smallest_template"] < grid["largest_template"]).all()
    assert grid["share_above_2"].between(0, 1).all()


def test_the_strongest_head_is_the_same_under_each_choice(study: Path) -> None:
    heads = pd.read_csv(study / "sensitivity/heads.csv", dtype={"head": str}).set_index("head")
    assert set(heads.idxmin()) == {"3.0"}  # the name mover
    assert metrics_of(study, "sensitivity")["heads_agree_bfloat16_weights"].value > 0.9


def test_circuit_prompts_are_a_draw_of_their_own(study: Path) -> None:
    content = read_file(study / "prompts.json")
    first, second = (
        {row.versions["original"].text for row in part} for part in (content.prompts, content.circuit_prompts)
    )
    assert not first & second
    assert {row.seed for row in content.circuit_prompts} == {1000, 1001}


@pytest.mark.usefixtures("unsaved_figures")
def test_figures_are_drawn_from_tables(study: Path) -> None:
    names = [name for name in figures.PLANS if "ground_truth" not in name]
    svg = [(study / name.replace("/", "/figures/")).with_suffix(".svg") for name in names]
    captions = [ROOT / f"replications/ioi_circuit/captions/{path.stem}.rst" for path in svg]
    draw_figures(figures.PLANS, captions, svg)
    assert all(len(list(path.parent.glob(f"{path.stem}.*"))) == 5 for path in svg)


def test_claims_name_metrics_that_exist_and_landmarks_every_control(study: Path) -> None:
    for claim in (claim for claim in CLAIMS if isinstance(claim, Definition) and "toy" not in claim.models):
        metric = metrics_of(study, claim.part)[claim.metric]
        measured = {control.name for control in metric.controls}
        assert set(claim.controls) <= measured, claim.id
        assert set(claim.controls) == measured or not isinstance(claim, Landmark), claim.id


def test_bad_input_is_a_clear_error(study: Path, tmp_path: Path) -> None:
    manifest = sorted(study.parent.parent.glob("models*/planted/manifest.json"))[0]
    many = settings.Prompts(per_cell=1, circuit_per_cell=1, minimum_names=60)
    with pytest.raises(UserError, match="names as one token and needs 60"):
        prompts(PromptsFiles(manifest=manifest, prompts=tmp_path / "p.json"), many, RUN)
    files = PathPatchingFiles(
        manifest=manifest, prompts=study / "prompts.json", activations=study / "activations.safetensors",
        metrics=tmp_path / "m.json", heads=tmp_path / "h.csv", attention=tmp_path / "a.csv",
    )  # fmt: skip
    with pytest.raises(UserError, match="longer than the context"):
        path_patching(files, PATCHING.model_copy(update={"period": 40}), RUN)
    decoder = Decoder(load_model(manifest.parent), 30)
    rows = balanced(read_prompts(study / "prompts.json", "circuit_prompts"), 1, 7)
    zeros = np.zeros(N_LAYERS * N_HEADS)
    nothing = SignificantEffects(np.stack([zeros, zeros], 1), 1.0)
    contrasts = dict.fromkeys(CONTRASTS, nothing)
    scores = HeadScores(contrasts, {"copy_io": nothing, "copy_s": nothing}, {}, {})
    rules = Rules(1.0, 100, dict.fromkeys(PLACES, 16), 20)
    with torch.no_grad():
        shared = shared_passes(decoder, rows)
        with pytest.raises(UserError, match="no circuit to follow back"):
            discover(decoder, shared, shared, scores, rules)
