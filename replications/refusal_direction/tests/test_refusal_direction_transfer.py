"""A dictionary one fine-tune away: the shuffled change, planted dictionaries, and the whole step on tiny models."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from common.core.figures import draw_figures
from common.core.files import write_json
from common.core.metrics import read_metrics
from common.core.settings import ROOT
from common.core.step import RunInfo
from common.data.models import Manifest, load_tokenizer
from common.saes.sae import About, Sae
from common.saes.saelens import save_saelens
from replications.refusal_direction.chat import Batch, layers
from replications.refusal_direction.folders import save
from replications.refusal_direction.part_figures import PLANS
from replications.refusal_direction.part_figures import transfer as draw_models
from replications.refusal_direction.settings import MeasureTransfer, TransferSettings
from replications.refusal_direction.transfer import (
    Held,
    TransferFiles,
    cross_entropy,
    described,
    own_loss,
    shuffled,
    spaced,
    stream,
    summary,
    transfer,
    windows,
)

D, LAYER, SIZES = 16, 2, TransferSettings(sae="batch_topk-32-k4", windows=5, loss_windows=3, batch=2)


def model(seed, vocabulary=50):
    torch.manual_seed(seed)
    shape = {"hidden_size": D, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=True, **shape)).eval()


def projecting(rank):
    """Reconstructions are projections on the first `rank` coordinates, each carried by two latents."""
    rows = torch.cat([torch.eye(D)[:rank], -torch.eye(D)[:rank]])
    about = About("relu", "tiny", f"blocks.{LAYER}.hook_resid_pre")
    return Sae(about, "relu", rows.T.contiguous(), torch.zeros(len(rows)), rows, torch.zeros(D))


def stored(vocabulary=50):
    real = torch.arange(9) < torch.tensor([9, 9, 6, 9, 7])[:, None]
    used = real.clone()
    used[:, 0] = False
    tokens = torch.randint(vocabulary, (5, 9), generator=torch.Generator().manual_seed(3)) * real
    return {"tokens": tokens, "real": real, "used": used}


@pytest.fixture
def held():
    return windows(stored(), 5, "cpu")


def test_a_shuffled_change_has_the_same_singular_values_in_the_same_places():
    before, tuned = model(0), model(0)
    with torch.no_grad():
        for name, weight in layers(tuned).named_parameters():
            if weight.ndim == 2 and name.startswith("1."):
                weight += torch.randn(len(weight), 1) @ torch.randn(1, weight.shape[1])
    found = shuffled(model(0), tuned, 7)
    pairs = zip(before.named_parameters(), tuned.parameters(), found.parameters(), strict=True)
    for (name, old), learned, other in pairs:
        change, drawn = learned - old, other - old
        if ".layers.1." in name and old.ndim == 2:
            left, right = (torch.linalg.svdvals(one.detach()) for one in (change, drawn))
            assert torch.allclose(left, right, atol=1e-4)
            overlap = (change * drawn).sum() / change.square().sum()
            assert abs(float(overlap.detach())) < 0.5
        else:
            assert torch.equal(old, other)


def test_what_is_measured_is_known_where_reconstructions_are_projections(held):
    before, tuned = model(0), model(1)
    clean, x = (stream(one, held, LAYER, 2) for one in (before, tuned))
    losses = [own_loss(one, held, LAYER, y, SIZES) for one, y in ((before, clean), (tuned, x))]
    same = described(before, projecting(D), held, LAYER, clean, clean, losses[0], SIZES)
    assert same["fvu"] == pytest.approx(0, abs=1e-9)
    assert same["delta_ce"] == pytest.approx(0, abs=1e-5)
    assert (same["moved"], same["missed"]) == (0, 0)
    found = described(tuned, projecting(6), held, LAYER, x, clean, losses[1], SIZES)
    own, shift = x[held.used], (x - clean)[held.used]
    spread = (own - own.mean(0)).square().sum()
    assert found["fvu"] == pytest.approx(float(own[:, 6:].square().sum() / spread), rel=1e-4)
    assert found["missed"] == pytest.approx(float(shift[:, 6:].square().sum() / shift.square().sum()), rel=1e-4)
    old = clean[held.used]
    assert found["moved"] == pytest.approx(float(shift.square().sum() / (old - old.mean(0)).square().sum()), rel=1e-4)
    assert found["l0"] == pytest.approx(6, abs=0.01)
    assert abs(found["delta_ce"]) > 1e-5


@torch.no_grad()
def test_the_loss_is_that_of_the_whole_model_at_used_positions(held):
    one = model(0)
    x = stream(one, held, LAYER, 2)
    logits = one(input_ids=held.batch.ids, attention_mask=held.batch.mask).logits.log_softmax(-1)
    losses = [
        -logits[row, at, held.batch.ids[row, at + 1]]
        for row in range(5) for at in range(8)
        if held.used[row, at] and held.batch.mask[row, at + 1]
    ]  # fmt: skip
    assert cross_entropy(one, held, LAYER, x, 2) == pytest.approx(float(torch.stack(losses).mean()), abs=1e-5)
    assert int(held.scored().sum()) == len(losses) == 8 + 8 + 5 + 8 + 6 - 5


def test_windows_come_evenly_from_all_corpora():
    assert spaced(10, 4).tolist() == [0, 3, 6, 9]
    assert spaced(3, 40).tolist() == [0, 1, 2]
    found = windows(stored(), 3, "cpu")
    assert torch.equal(found.batch.ids, stored()["tokens"][[0, 2, 4]])
    assert torch.equal(found.take(slice(1, 2)).used, stored()["used"][[2]])
    assert isinstance(found, Held)
    assert isinstance(found.batch, Batch)


@pytest.fixture(scope="module")
def done(model_folder, tmp_path_factory):
    """The step on two tiny tuned models and a sham one."""
    folder = tmp_path_factory.mktemp("transfer")
    tokenizer = load_tokenizer(model_folder)
    origin = Manifest(name="tiny", source="trained", origin="tiny", licence="none", processing="none", files={})
    for seed, name in enumerate(("tiny", "tuned0", "tuned1", "food")):
        own = model(seed, len(tokenizer))
        save(own, tokenizer, folder / name / "manifest.json", origin=origin, processing="random weights")
    for seed in (0, 1):
        save_saelens(projecting(6 + seed), folder / "saes" / f"{SIZES.sae}-s{seed}")
    write_json(folder / "saes" / "index.json", [])
    save_file({**stored(len(tokenizer)), "document": torch.arange(5)}, folder / "held_out.safetensors")
    files = TransferFiles(
        before=folder / "tiny" / "manifest.json",
        tuned=[folder / f"tuned{seed}" / "manifest.json" for seed in (0, 1)],
        sham=folder / "food" / "manifest.json",
        index=folder / "saes" / "index.json",
        held_out=folder / "held_out.safetensors",
        metrics=folder / "transfer" / "metrics.json",
        models=folder / "transfer" / "models.csv",
    )
    run = RunInfo(scale="smoke", seeds=[0, 1], device="cpu")
    transfer(files, MeasureTransfer(seeds=[0, 1], transfer=SIZES), run)
    return folder / "transfer"


@pytest.mark.model
def test_metrics_table_and_figure(done):
    rows = pd.read_csv(done / "models.csv")
    assert rows.groupby("model").size().to_dict() == {"before": 2, "sham": 2, "shuffled": 2, "tuned": 2}
    found = read_metrics(done / "metrics.json")
    mean = rows.groupby("model")["fvu"].mean()
    assert found["fvu_tuned"].value == pytest.approx(mean["tuned"], rel=1e-4)
    rise, gap = (found["fvu_tuned"].control(name).difference.value for name in ("untouched", "shuffled"))
    assert rise == pytest.approx(mean["tuned"] - mean["before"], rel=1e-3)
    assert gap == pytest.approx(mean["tuned"] - mean["shuffled"], rel=1e-3)
    assert found["moved_before"].value == 0
    svg = done / "figures" / "transfer.svg"
    draw_figures(PLANS, [ROOT / "replications/refusal_direction/captions/transfer.rst"], [svg])
    assert svg.stat().st_size > 1000


def test_one_seed_has_no_interval():
    rows = [
        {"model": name, "seed": 0, "fvu": 0.5, "l0": 3.0, "delta_ce": 0.1, "ce": 2.0, "moved": 0.2, "missed": 0.4}
        for name in ("before", "tuned", "sham", "shuffled")
    ]
    found = summary(pd.DataFrame(rows))
    assert (found["fvu_tuned"].n, found["fvu_tuned"].control("untouched").difference.value) == (1, 0)


def test_no_mark_of_the_figure_is_cut_off():
    lines = [
        {
            "model": model,
            "seed": seed,
            "moved": 0.001 + seed,
            "fvu": 0.25 + place / 100,
            "missed": 3 - seed,
            "delta_ce": 0,
        }
        for seed in range(3)
        for place, model in enumerate(("before", "tuned", "sham", "shuffled"))
    ]
    figure, rows = draw_models(pd.DataFrame(lines))
    for axis, name in zip(figure.axes[:3], ("moved", "fvu", "missed"), strict=True):
        assert axis.get_ylim()[1] > 1.05 * rows[name].max()
    plt.close(figure)
