"""Planted worlds and SynthSAEBench's: samples and codes, what judges say of dictionaries that are known, absorption."""

import pandas as pd
import pytest
import torch

from common.core.metrics import read_metrics
from common.core.settings import load_replication
from common.core.step import RunInfo
from common.saes.architectures.base import unit_rows
from common.saes.architectures.matryoshka import prefixes
from common.saes.metrics import fvu, l0
from common.saes.sae import About, Sae
from replications.sparse_autoencoders import figures
from replications.sparse_autoencoders import planted as step
from replications.sparse_autoencoders import synth_bench as bench
from replications.sparse_autoencoders.forest import BRANCHES, NODES, ForestStream, apart, codes, grow, probabilities
from replications.sparse_autoencoders.settings import Forest, Planted, World
from replications.sparse_autoencoders.worlds import FRESH, Stream, directions, frequencies, mix, scale
from replications.sparse_autoencoders.worlds import codes as world_codes

WORLD = World(d=20, features=60, active=3.0, frequencies="log_uniform", spread=0.25)
FOREST = Forest(d=32, features=300, roots=3)


def test_a_world_has_the_activity_it_promises():
    p = frequencies(WORLD)
    assert float(p.sum()) == pytest.approx(3)
    assert float(p.max() / p.min()) == pytest.approx(10**4.3, rel=1e-6)
    code = world_codes(WORLD, 40_000, 0, 5)
    assert len(code.values) / 40_000 == pytest.approx(3, abs=0.05)
    counts = torch.bincount(code.features, minlength=60) / 40_000
    assert torch.allclose(counts, p.float(), atol=0.01)
    assert code.values.log().std() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(world_codes(WORLD, 100, 0, 5).values, world_codes(WORLD, 100, 0, 5).values)
    assert not torch.equal(world_codes(WORLD, 100, 1, 5).rows[:20], world_codes(WORLD, 100, 0, 5).rows[:20])


def test_samples_are_the_sum_of_their_code_and_normalised():
    stream, table = Stream(WORLD, [0, 1, 0], 64), directions(WORLD, 1)
    code = world_codes(WORLD, 64, 1, 3)
    literal = torch.zeros(64, 20)
    for row, feature, value in zip(*code, strict=True):
        literal[row] += value * table[feature]
    assert torch.allclose(mix(table, code, 64), literal, atol=1e-5)
    x = stream(3, "").x
    assert torch.allclose(x[1], literal * scale(WORLD), atol=1e-5)
    assert torch.equal(x[0], x[2])  # members of one seed
    many = Stream(WORLD, [0], 20_000)(9, "").x
    assert many.square().sum(-1).mean() == pytest.approx(1, rel=0.3)  # frequent features overlap


def true_sae(table, threshold=0.01, encoder=None, k=None):
    W_enc = (table if encoder is None else encoder).mT.contiguous()
    return Sae(About("batch_topk"), "jumprelu", W_enc, torch.zeros(len(table)), table, torch.zeros(table.shape[1]),
               threshold=torch.full((len(table),), threshold))  # fmt: skip


def test_a_dictionary_is_judged_by_the_features_that_it_holds():
    """Forty of sixty true rows, the most frequent three among them, and one latent that never fires."""
    judge = step.Judge(WORLD, 0, 4000)
    kept = torch.arange(60) % 3 != 0
    kept[57:] = True
    rows = torch.cat([judge.truth[kept], -judge.truth[57:58]])
    sae = true_sae(rows, 0.3, torch.cat([judge.truth[kept], torch.zeros(1, 20)]))
    found = judge.sae(sae)
    assert found["recovered"] == pytest.approx(float(kept.double().mean()), abs=0.03)
    assert found["recovered_frequent"] == 1
    assert found["recovered_rest"] < 0.75
    assert found["alive"] == pytest.approx((len(rows) - 1) / len(rows))
    assert found["true_alive"] == 1, "the latent that never fires is no feature, and does not count"
    assert found["explained"] == pytest.approx(1 - fvu(judge.x, sae.reconstruct(judge.x)))
    others = judge.others(3)
    assert others["untrained"]["recovered"] < 0.1 < others["untrained"]["explained"] < 0.9
    assert 0 < others["principal_components"]["explained"] < 1
    assert others["untrained_pursuit"]["explained"] > others["untrained"]["explained"]
    assert others["untrained_pursuit"]["recovered"] == others["untrained"]["recovered"]
    assert others["clusters"]["recovered_frequent"] > 0.5 > others["clusters"]["recovered_rest"]
    table = judge.features(rows)
    assert len(table) == 60
    assert (table["cosine"] > 0.8).mean() == pytest.approx(found["recovered"])
    assert table["frequency"].iloc[-1] == pytest.approx(float(frequencies(WORLD)[-1]), rel=0.1)
    assert figures.FOUND == step.FOUND


def test_an_easy_world_is_found_and_a_hard_one_is_not(tmp_path, monkeypatch):
    """End to end, small: the same training; the trap's controls on their sides."""
    monkeypatch.setattr(step, "SAMPLES", 4096)
    easy = World(d=24, features=24, active=2.0, frequencies="equal", spread=0.25)
    hard = World(d=24, features=240, active=4.0, frequencies="log_uniform", spread=0.25)
    training = load_replication("sparse_autoencoders", "laptop").planted.training
    training = training.model_copy(update={"steps": 400, "batch": 256, "learning_rate": 0.003})
    settings = Planted(easy=easy, hard=hard, sparsities=[8.0], training=training, longer=3, evaluation=4000)
    files = step.PlantedFiles(**{name: tmp_path / name for name in ("metrics", "features", "kinds")})
    step.planted(files, settings, RunInfo(scale="smoke", seeds=[0, 1], device="cpu"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features", "kinds", "metrics"]
    found = read_metrics(files.metrics)["hard_recovered"]
    assert found.control("easy_world").value > 0.7 > 0.3 > found.value > found.control("equal_frequencies").value
    assert found.control("untrained").value < 0.01
    kinds = pd.read_csv(files.kinds)
    trained = kinds[(kinds["world"] == "hard") & (kinds["kind"] == "trained")]
    assert sorted(trained["k"].unique()) == [4, 8]
    assert trained[trained["k"] == 8]["l0"].mean() == pytest.approx(8, rel=0.2)
    assert len(pd.read_csv(files.features)) == 2 * (24 + 240 + 240 + 240)
    longer = read_metrics(files.metrics)["hard_longer_recovered"]
    assert longer.value > found.value + 0.02, "more training finds more"
    assert [one.name for one in longer.controls] == ["untrained", "clusters"]
    fresh = kinds[kinds["kind"] == "untrained"].pivot_table(index="world", values="recovered")["recovered"]
    assert fresh["hard_longer"] == fresh["hard"], "the same worlds"
    without = settings.model_copy(update={"longer": None})
    assert list(step.worlds(without)) == ["easy", "hard", "equal"]


def test_probabilities_are_zipfs_between_the_published_ends():
    p = probabilities(16_384)
    assert (float(p[0]), float(p[-1])) == pytest.approx((0.4, 5e-4))
    assert float((p[3] - p[-1]) / (p[0] - p[-1])) == pytest.approx((0.5 - 1 / 128) / (1 - 1 / 128))


def test_a_forest_keeps_its_rules_and_its_frequencies():
    n, world = 60_000, grow(FOREST, 1)
    code = codes(world, n, 1, 5)
    active = bench.active(code, n, 300)
    roots, parents, tree = 3, 3 * 21, 3 * NODES
    assert bool((code.rows.diff() >= 0).all())
    for parent in range(parents):
        child = active[:, roots + BRANCHES * parent :][:, :BRANCHES]
        assert int(child.sum(1).max()) <= 1
        assert not bool((child.any(1) & ~active[:, parent]).any())
    share = active.double().mean(0)
    p = probabilities(300)
    assert torch.allclose(share[:roots], p[:roots], atol=0.01)
    assert torch.allclose(share[tree:], p[tree:], atol=0.002)
    given = [float(active[active[:, root], roots + 4 * root :][:, :4].any(1).double().mean()) for root in range(roots)]
    expected = [min(0.75, float(p[roots + 4 * root :][:4].sum() / p[root])) for root in range(roots)]
    assert given == pytest.approx(expected, abs=0.02)
    again = codes(world, n, 1, 5)
    assert torch.equal(code.values, again.values)


def test_a_childs_magnitude_follows_its_parents():
    world = grow(FOREST, 0)._replace(spreads=torch.full((300,), 0.5))
    code = codes(world, 20_000, 0, 2)
    value = torch.zeros(20_000, 300)
    value[code.rows, code.features] = code.values
    both = (value[:, 0] > 0) & (value[:, 3] > 0)
    ratio = torch.corrcoef(torch.stack([value[both, 0], value[both, 3]]))[0, 1]
    assert ratio > 0.5
    alone = value[:, 1][value[:, 1] > 0]
    assert alone.mean() == pytest.approx(float(world.means[1]), rel=0.02)


def test_directions_are_pushed_apart_and_samples_are_their_sums():
    start = unit_rows(torch.randn(60, 32, generator=torch.Generator().manual_seed(0)))
    pushed = apart(start)
    assert torch.allclose(pushed.norm(dim=1), torch.ones(60), atol=1e-5)
    cosine = [float((rows @ rows.mT - torch.eye(60)).square().mean()) for rows in (start, pushed)]
    assert cosine[1] < 0.9 * cosine[0]
    stream = ForestStream(FOREST, [0, 4], 16)
    assert torch.equal(stream(3, "").x[1], stream.samples(4, 16, 3)[0])
    x, code = stream.samples(4, 5000, FRESH)
    assert x.square().sum(1).mean() == pytest.approx(1, abs=0.1)
    world, literal = stream.worlds[4], torch.zeros(50, 32)
    for row, feature, value in zip(*(part[code.rows < 50] for part in code), strict=True):
        literal[row] += value * world.directions[feature]
    assert torch.allclose(x[:50], (literal + world.bias) * world.scale, atol=1e-4)


def test_no_prefix_of_matryoshka_has_the_width_of_a_level():
    for name in ("laptop", "full", "gpu"):
        settings = load_replication("sparse_autoencoders", name).synth_bench
        levels = {settings.forest.roots * sum(BRANCHES**level for level in range(depth)) for depth in range(1, 5)}
        assert not levels & set(prefixes(settings.d_sae)), name
        assert settings.forest.roots * NODES < settings.forest.features


@pytest.fixture(scope="module")
def judge():
    settings = load_replication("sparse_autoencoders", "smoke").synth_bench.model_copy(
        update={"forest": Forest(d=300, features=300, roots=3), "evaluation": 8000}
    )
    stream = ForestStream(settings.forest, [0], 8)
    [table] = [torch.linalg.qr(torch.randn(300, 300, generator=torch.Generator().manual_seed(1)))[0]]
    stream.worlds[0] = stream.worlds[0]._replace(directions=table, bias=torch.zeros(300))
    return bench.Judge(stream, 0, settings)


def test_the_true_dictionary_has_no_holes(judge):
    found = judge.sae(true_sae(judge.truth, 1e-4))
    assert (found["recall"], found["alone"], found["missed"], found["mcc"]) == pytest.approx((1, 1, 0, 1), abs=1e-3)
    assert (found["foreign"], found["false_positives"]) == pytest.approx((0, 0), abs=1e-3)
    assert found["f1"] > 0.99
    assert found["explained"] > 0.999


def test_an_absorbed_root_is_seen_as_such(judge):
    """Latents of children write their root too, and the root's latent is switched off by them."""
    table, roots = judge.truth, 3
    children = table[roots : roots + 4 * roots]
    rows, encoder = table.clone(), table.clone()
    rows[roots : roots + 4 * roots] = unit_rows(children + table[:roots].repeat_interleave(4, 0))
    encoder[:roots] -= 10 * children.unflatten(0, (roots, 4)).sum(1)
    found = judge.sae(true_sae(rows, 1e-4, encoder))
    assert (found["recall"], found["alone"], found["missed"]) == pytest.approx((0, 1, 1), abs=1e-3)
    assert abs(found["shuffled"]) < 0.05
    assert found["foreign"] == pytest.approx(0, abs=1e-3)


def test_a_root_that_any_child_silences_is_no_absorbed_one(judge):
    """Latents of roots are switched off by all children, whoever's, and one of them also fires without its root."""
    table, roots = judge.truth, 3
    encoder = table.clone()
    encoder[:roots] -= 10 * table[roots : roots + 4 * roots].sum(0)
    found = judge.sae(true_sae(table, 1e-4, encoder))
    assert found["missed"] > 0.1
    child = judge.active[:, roots : roots + 4 * roots].reshape(-1, roots, 4).any(2)
    quiet = []  # the root fires where neither other root has a child
    for root, other, third in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        here = judge.active[:, root] & ~child[:, root] & ~child[:, other]
        quiet.append(float((~child[here, third]).double().mean()))
    assert found["foreign"] == pytest.approx(sum(quiet) / 6, abs=1e-3)
    assert found["false_positives"] == pytest.approx(0, abs=1e-3)
    encoder[0] = table[:roots].sum(0) + table[-1]
    share = (judge.active[:, [1, 2, -1]].any(1))[~judge.active[:, 0]].double().mean()
    found = judge.sae(true_sae(table, 1e-4, encoder))
    assert found["false_positives"] == pytest.approx(float(share) / roots, abs=0.01)


def test_summary_pairs_seeds_and_keeps_every_control():
    rows = [
        {"name": name, "seed": seed, **dict.fromkeys(bench.FORMULA, 0.1 * place + 0.01 * seed)}
        for place, name in enumerate((*bench.NAMES, *bench.NULLS, "true_rows"))
        for seed in (0, 1, 2)
    ]
    frame = pd.DataFrame(rows).drop(columns="ahead")
    frame.loc[frame["name"] == "matching_pursuit", "f1"] = 0.1
    found = bench.summary(frame)
    ahead = found["matching_pursuit_ahead"]
    assert ahead.per_seed == pytest.approx([0.4, 0.41, 0.42])
    assert {one.name: one.value for one in ahead.controls} == {
        name: pytest.approx(0) for name in ("l1", "topk", "batch_topk", "jumprelu", "matryoshka", *bench.NULLS)
    }
    missed = found["batch_topk_missed"]
    assert missed.value == pytest.approx(0.21)
    assert [one.value for one in missed.controls] == pytest.approx([0.41, 0.21, 0.21, 0.61, 1.01])


def test_untrained_rows_are_the_same_however_they_are_read():
    settings = load_replication("sparse_autoencoders", "smoke").synth_bench
    stream = ForestStream(settings.forest, [0], settings.training.batch, "cpu")
    largest, pursuit = (bench.untrained(stream, name, 0, settings) for name in bench.UNTRAINED.values())
    assert torch.equal(largest.W_dec, pursuit.W_dec)
    x, _ = stream.samples(0, 200, 7)
    latents, left, expected = pursuit.encode(x), x - pursuit.b_dec, torch.zeros(200, settings.d_sae)
    for _ in range(settings.sparsity):  # one sample after the other, by hand
        for row in range(200):
            products = pursuit.W_dec @ left[row]
            best = int(products.argmax())
            expected[row, best] += products[best].relu()
            left[row] -= products[best].relu() * pursuit.W_dec[best]
    assert torch.allclose(latents, expected, atol=1e-5)


def test_rows_from_the_data_are_samples_and_centres_of_their_clusters():
    settings = load_replication("sparse_autoencoders", "smoke").synth_bench
    stream = ForestStream(settings.forest, [0], settings.training.batch, "cpu")
    samples, centres, truth = bench.other_rows(stream, 0, settings).values()
    x = torch.cat([stream.batch([0], step).x[0] for step in range(bench.SEEN)]) - samples.b_dec
    assert torch.allclose(samples.W_dec, torch.nn.functional.normalize(x[: settings.d_sae]), atol=1e-6)
    near = [float((x @ one.W_dec.mT).amax(1).relu().square().sum()) for one in (samples, centres)]
    assert near[1] > 1.05 * near[0]  # what k-means raises
    assert torch.allclose(centres.W_dec.norm(dim=1), torch.ones(settings.d_sae), atol=1e-5)
    assert torch.equal(truth.W_dec, stream.worlds[0].directions[: settings.d_sae])
    seen, _ = stream.samples(0, stream.size, 0)  # the batch that sets its threshold
    assert l0(truth.encode(seen)) == pytest.approx(settings.sparsity, rel=0.01)


def test_the_step_writes_all_architectures(tmp_path):
    settings = load_replication("sparse_autoencoders", "smoke").synth_bench
    files = bench.SynthBenchFiles(metrics=tmp_path / "metrics.json", table=tmp_path / "table.csv")
    bench.synth_bench(files, settings, RunInfo(scale="smoke", seeds=[0, 1], device="cpu"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "table.csv"]
    table = pd.read_csv(files.table)
    assert len(table) == 2 * (len(bench.NAMES) + len(bench.NULLS) + 1)  # true rows
    assert table[table["name"] != "l1"]["l0"].between(1, 4).all()  # its price has not risen after so few steps
