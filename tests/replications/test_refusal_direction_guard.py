"""The guardrail of one SAE latent: what the latent cannot read, what a shift is made of, and the passes that share a
prefix; on a tiny random model."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import LlamaConfig, LlamaForCausalLM

from common.saes.sae import About, Sae
from replications.refusal_direction.chat import adding, last_logits, padded, refusal_metric, residuals, unit
from replications.refusal_direction.guard import (
    Guard,
    answer_logits,
    enter,
    optimised,
    random_shifts,
    removal,
)
from replications.refusal_direction.guard_metrics import Guarded, guardrail
from replications.refusal_direction.guardrail import Found, aurocs, choose, clamped_to_zero, smallest_clamp

WIDTH, LAYERS, POST, LAYER = 16, 4, 2, 2


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": LAYERS, "vocab_size": 50}
    tiny = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2)).eval()
    for weight in tiny.requires_grad_(False).parameters():
        weight.mul_(8 if weight.ndim > 1 else 1)
    return tiny


@pytest.fixture(scope="module")
def entered(model):
    return enter(model, padded([[1, 2, 3, 4, 5, 9], [6, 7, 5, 9], [9, 10, 11, 5, 9]]), LAYER, POST)


@pytest.fixture(scope="module")
def guard():
    sae = Sae(
        About("batch_topk"),
        "jumprelu",
        W_enc=draws(WIDTH, 24),
        b_enc=draws(24, seed=1) * 0.1,
        W_dec=unit(draws(24, WIDTH, seed=2)),
        b_dec=draws(WIDTH, seed=3) * 0.1,
        threshold=torch.full((24,), 0.2),
    )
    return Guard(sae, 5, 40.0)


@pytest.fixture(scope="module")
def tokens(model, entered, guard):
    """What the clamp makes likelier."""
    free, guarded = (answer_logits(model, entered, x).softmax(-1).mean(0) for x in (entered.x, guard.on(entered.x)))
    return (guarded - free).topk(2).indices


def test_the_shared_prefix_changes_nothing(model, entered):
    torch.testing.assert_close(
        answer_logits(model, entered, entered.x), last_logits(model, entered.batch), atol=1e-4, rtol=1e-4
    )
    shift = torch.stack([torch.zeros(3, POST, WIDTH), draws(3, POST, WIDTH)])
    both = answer_logits(model, entered, entered.x + shift)
    torch.testing.assert_close(both[0], last_logits(model, entered.batch), atol=1e-4, rtol=1e-4)
    alone = answer_logits(model, entered, entered.x + shift[1])
    torch.testing.assert_close(both[1], alone, atol=1e-4, rtol=1e-4)
    assert float((both[1] - both[0]).abs().max()) > 0.1
    assert len(model.model.layers) == LAYERS


def test_only_template_tokens_change(model, entered):
    """As in a whole pass in which they alone are shifted; a shift of every position is another thing."""
    vector = 3 * draws(WIDTH, seed=4)
    found = answer_logits(model, entered, entered.x + vector)
    stream = residuals(model, entered.batch)[:, :, LAYER].clone()
    stream[:, -POST:] += vector
    expected = last_logits(model, entered.batch, resume=(LAYER, stream))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with adding(model, LAYER, vector):
        everywhere = last_logits(model, entered.batch)
    assert float((found - everywhere).abs().max()) > 0.01


def test_the_latent_does_not_read_the_attacks(model, entered, guard, tokens):
    x, guarded = entered.x, guard.on(entered.x)
    shifts = {
        "removed": removal(guard, x, draws(WIDTH, seed=5)),
        "optimised": optimised(model, entered, guard, tokens, bound=2.0, steps=3).expand_as(x),
    }
    for shift in shifts.values():
        assert float(shift.norm()) > 0.1
        torch.testing.assert_close(guard.reads(guarded + shift), guard.reads(guarded), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(guard.on(x + shift), guarded + shift, atol=1e-4, rtol=1e-4)  # nor does the clamp
        latents, error = guard.parts(x, shift)
        torch.testing.assert_close(latents + error, shift, atol=1e-4, rtol=1e-4)
        moved = guard.sae.encode(x + shift) - guard.sae.encode(x)
        torch.testing.assert_close(latents, moved @ guard.sae.W_dec, atol=1e-3, rtol=1e-3)
        random = random_shifts(guard, x, shift, 5, 0)
        torch.testing.assert_close(random.norm(dim=-1), shift.norm(dim=-1).expand(5, -1, -1), atol=1e-4, rtol=1e-4)
        assert float((random @ guard.row).abs().max()) < 1e-4
    seen = guarded + 2 * guard.row
    assert float((guard.reads(seen) - guard.reads(guarded)).abs().min()) > 1


def test_removal_takes_out_what_the_latent_misses(entered, guard):
    r = draws(WIDTH, seed=5)
    left = guard.on(entered.x) + removal(guard, entered.x, r)
    assert float((left @ unit(guard.unseen(r))).abs().max()) < 1e-3
    assert float((left @ r).abs().max()) > 0.1  # the part along the encoder row stays


def test_the_optimised_shift_lowers_refusal_within_its_bound(model, entered, guard, tokens):
    shift = optimised(model, entered, guard, tokens, bound=1.5, steps=8)
    assert float(shift.norm(dim=-1).max()) <= 1.5 + 1e-4
    guarded = guard.on(entered.x)
    free, first, last = (
        refusal_metric(answer_logits(model, entered, x), tokens) for x in (entered.x, guarded, guarded + shift)
    )
    assert float((first - free).relu().mean()) > 0
    assert float((last - free).relu().mean()) < float((first - free).relu().mean())


def test_areas_of_many_latents():
    latents, label = draws(40, 6).relu(), torch.arange(40) % 3 == 0
    expected = [roc_auc_score(label.numpy(), column.numpy()) for column in latents.T]
    assert aurocs(latents, label).tolist() == pytest.approx(expected)


def test_a_planted_latent_is_chosen_and_permuted_labels_miss_it(entered, guard):
    """Requests of one class have more along the encoder row of latent 5."""
    parts = {}
    for name, seed in (("known", 7), ("new", 8)):
        x = 0.1 * draws(12, POST, WIDTH, seed=seed)
        parts[name] = {"on": entered._replace(x=x[:6] + 2 * guard.row), "off": entered._replace(x=x[6:])}
    found = choose(guard.sae, parts["known"], parts["new"], guard.sae.W_dec[5], seed=0)
    assert (found.latent, found.auroc) == (5, 1.0)
    assert found.on == pytest.approx(float(guard.sae.encode(parts["known"]["on"].x[:, -1])[:, 5].mean()))
    assert found.auroc_permuted < 0.9
    assert set(found.permuted) != {5}


def test_the_smallest_clamp_that_suffices(model, entered, guard):
    free, held = (answer_logits(model, entered, x).softmax(-1) for x in (entered.x, guard.on(entered.x)))
    tokens = (held - free).mean(0).topk(20).indices
    found = Found(guard.latent, 1.0, 1.0, 0.5, [0])

    def refused(multiple):
        clamped = guard._replace(value=multiple).on(entered.x)
        return float((refusal_metric(answer_logits(model, entered, clamped), tokens) > 0).double().mean())

    clamps = [0.0, 10.0, 40.0, 80.0]
    chosen = smallest_clamp(model, guard.sae, found, entered, tokens, clamps)
    enough = [clamp for clamp in clamps if refused(clamp) >= 0.9]
    assert chosen == (enough[0] if enough else max(clamps, key=lambda clamp: (refused(clamp), -clamp)))
    assert refused(chosen) > refused(0.0)


def test_computing_the_error_again_undoes_the_clamp(model, entered, guard, tokens):
    table = clamped_to_zero(model, guard, [0, 1], entered, tokens).groupby("condition")["metric"].mean()
    assert table["zero, error recomputed"] == pytest.approx(table["free"], abs=1e-3)
    assert abs(table["zero, error dropped"] - table["free"]) > 0.01


def planted(refused: dict[str, int], seed: int) -> Guarded:
    """Tables in which every request of a condition has the same outcome."""
    names = ["free", "guarded", "guarded: permuted", "guarded, error dropped"]
    for attack in ("removed", "optimised 0.25", "optimised 0.5"):
        names += [attack, *(f"{attack}{end}" for end in (": latents", ": error", ", error dropped", ": random"))]
    rows = [("before", name) for name in names]
    zero = ("zero, error kept", "zero, error dropped", "zero, error recomputed", "zero: permuted", "reconstruction")
    rows += [("tuned", name) for name in ("free", *zero)]
    tables = [
        pd.DataFrame({"item": range(6), "topic": ["a", "b"] * 3}).assign(
            model=model,
            condition=name,
            refused=refused.get(name, 0),
            metric=2.0 * refused.get(name, 0),
            kl=1.0 + 3 * refused.get(name, 0) + seed,
            reads=1.0,
        )
        for model, name in rows
        for _ in range(2 if name.endswith(("random", "permuted")) else 1)
    ]
    keys = ("auroc", "auroc_permuted", "fvu", "multiple", "row_and_r")
    return Guarded(pd.concat(tables, ignore_index=True), {key: 0.5 + 0.1 * seed for key in keys})


def test_metrics_of_a_planted_leak():
    refused = {"guarded": 1, "removed: random": 1, "optimised 0.5: random": 1, "optimised 0.5: latents": 1}
    guards = [planted(refused, seed) for seed in range(2)]
    assert guards[0].attacks == ["removed", "optimised 0.5"]
    found = guardrail(guards)
    values = {name: metric.value for name, metric in found.items()}
    assert (values["guarded_refused"], values["removed_refused"], values["removed_refused_random"]) == (1, 0, 1)
    assert values["removed_refused_minus_random"] == -1
    assert (values["optimised_by_error"], values["optimised_by_latents"]) == pytest.approx((1, 0))
    assert values["removed_return"] == pytest.approx(np.mean([1, 2]) / np.mean([4, 5]))
    assert found["removed_refused"].per_seed == [0, 0]
    assert found["removed_refused"].n == 12
