"""The guardrail of one SAE latent: what the latent cannot read, what a shift is made of, and the passes that share a
prefix; on a tiny random model."""

import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from common.saes.sae import About, Sae
from replications.refusal_direction.answers import refusals
from replications.refusal_direction.chat import (
    Batch,
    adding,
    first_token_kl,
    greedy,
    last_logits,
    padded,
    refusal_metric,
    residuals,
    unit,
)
from replications.refusal_direction.guard import (
    Guard,
    answer_logits,
    enter,
    optimised,
    random_shifts,
    removal,
    written,
)
from replications.refusal_direction.guard_conditions import ANSWERED, Judge, attack, clamped_to_zero
from replications.refusal_direction.guardrail import RefuseLatent, aurocs, choose, smallest_clamp, unexplained
from replications.refusal_direction.settings import GuardSettings

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


class Words(PreTrainedTokenizerBase):
    """A tokenizer whose every token is a word of its own; 49 is the end."""

    all_special_ids = (49,)

    def __init__(self):
        pass

    def decode(self, ids):
        return " ".join(f"w{number}" for number in ids)


def judge_of(tokens, texts=()):
    return Judge(tokens, 20.0, Words(), texts)


def literal(model, entered, guard, shift, steps):
    """Greedy tokens by whole passes without a cache: every template token and every written one is guarded and
    shifted, the written ones by the shift of the last template token."""
    grown, found = entered.batch, []
    for step in range(steps):
        stream = residuals(model, grown)[:, :, LAYER].clone()
        last = POST + step
        moved = torch.cat([shift, shift[:, -1:].expand(-1, step, -1)], 1)
        stream[:, -last:] = guard.on(stream[:, -last:]) + moved
        found.append(last_logits(model, grown, resume=(LAYER, stream)).argmax(-1, keepdim=True))
        ids, mask = torch.cat([grown.ids, found[-1]], 1), torch.nn.functional.pad(grown.mask, (0, 1), value=1)
        grown = Batch(ids, mask)
    return torch.cat(found, 1)


def test_answers_are_written_under_the_guard_at_every_step(model, entered, guard):
    shift = 3 * draws(3, POST, WIDTH, seed=11)

    def later(x):
        return guard.on(x) + shift[:, -1:]

    x = guard.on(entered.x) + shift
    found = written(model, entered, x, later, 4)
    assert torch.equal(found, literal(model, entered, guard, shift, 4))
    assert not torch.equal(found, written(model, entered, x, lambda y: y, 4)), "the guard must act on written tokens"
    free = written(model, entered, entered.x, lambda y: y, 4)
    assert torch.equal(free, greedy(model, entered.batch, 4)[0])
    assert not torch.equal(found, free)


def test_draws_are_written_side_by_side(model, entered, guard):
    shift = 4 * draws(2, 3, POST, WIDTH, seed=12)
    both = written(model, entered, guard.on(entered.x) + shift, lambda y: guard.on(y) + shift[:, :, -1:], 3)
    for draw in range(2):
        alone = written(
            model, entered, guard.on(entered.x) + shift[draw], lambda y, d=draw: guard.on(y) + shift[d, :, -1:], 3
        )
        assert torch.equal(both[3 * draw : 3 * draw + 3], alone)


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
        "optimised": optimised(model, entered, guard, bound=2.0, steps=3).expand_as(x),
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


@pytest.mark.parametrize(("bound", "left"), [(1.5, 0.99), (40.0, 0.5)])
def test_the_optimised_shift_goes_back_within_its_bound_and_not_past(model, entered, guard, tokens, bound, left):
    """However much it may move, it ends nearer to the answers without the guard, on both sides of their refusal."""
    shift = optimised(model, entered, guard, bound=bound, steps=40)
    assert float(shift.norm(dim=-1).max()) <= bound + 1e-4
    guarded = guard.on(entered.x)
    free, first, last = (answer_logits(model, entered, x) for x in (entered.x, guarded, guarded + shift))
    assert float(first_token_kl(last, free).mean()) < left * float(first_token_kl(first, free).mean())
    gaps = [(refusal_metric(logits, tokens) - refusal_metric(free, tokens)).abs().mean() for logits in (first, last)]
    assert float(gaps[1]) < left * float(gaps[0])


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
    assert (found.number, found.auroc) == (5, 1.0)
    assert found.on == pytest.approx(float(guard.sae.encode(parts["known"]["on"].x[:, -1])[:, 5].mean()))
    assert found.auroc_permuted < 0.9
    assert set(found.permuted) != {5}


def test_the_smallest_clamp_that_suffices(model, entered, guard):
    free, held = (answer_logits(model, entered, x).softmax(-1) for x in (entered.x, guard.on(entered.x)))
    tokens = (held - free).mean(0).topk(20).indices
    found = RefuseLatent(guard.latent, 1.0, 1.0, 0.5, [0])

    def refused(multiple):
        clamped = guard._replace(value=multiple).on(entered.x)
        return float((refusal_metric(answer_logits(model, entered, clamped), tokens) > 0).double().mean())

    clamps = [0.0, 10.0, 40.0, 80.0]
    chosen = smallest_clamp(model, guard.sae, found, entered, tokens, clamps)
    enough = [clamp for clamp in clamps if refused(clamp) >= 0.9]
    assert chosen == (enough[0] if enough else max(clamps, key=lambda clamp: (refused(clamp), -clamp)))
    assert refused(chosen) > refused(0.0)


def test_computing_the_error_again_undoes_the_clamp(model, entered, guard, tokens):
    table = clamped_to_zero(model, guard, [0, 1], entered, judge_of(tokens)).groupby("condition")["metric"].mean()
    assert table["zero, error recomputed"] == pytest.approx(table["free"], abs=1e-3)
    assert abs(table["zero, error dropped"] - table["free"]) > 0.01


def test_clamped_to_zero_is_measured(model, entered, guard, tokens):
    """What the latent reads and the KL are of the edited activation, against the same model without the edit."""
    guard = guard._replace(latent=int(guard.sae.encode(entered.x[:, -1]).mean(0).argmax()))
    table = clamped_to_zero(model, guard, [0, 1], entered, judge_of(tokens)).set_index("condition")
    free = answer_logits(model, entered, entered.x)
    for name, x in {
        "free": entered.x,
        "zero, error dropped": guard._replace(value=0.0).on(entered.x, keep_error=False),
        "reconstruction": guard.sae.reconstruct(entered.x),
    }.items():
        logits = answer_logits(model, entered, x)
        assert table.loc[name, "kl"].tolist() == pytest.approx(first_token_kl(logits, free).tolist(), abs=1e-5)
        assert table.loc[name, "reads"].tolist() == pytest.approx((guard.reads(x) / 20.0).tolist())
    assert table.loc["zero, error dropped", "kl"].min() > 1e-4
    assert table.loc["free", "reads"].max() > 0


def test_answers_are_classified_by_phrase(model, entered, guard, tokens):
    """A text that begins as the guarded answer does is a refusal of that request under the guard, and of no other
    condition whose tokens differ; conditions that were not answered have no classification."""
    under = written(model, entered, guard.on(entered.x), guard.on, 4)
    texts = [f"{Words().decode(under[0].tolist())} and more"]
    settings = GuardSettings(
        depth=0.5, sae_lines=1, d_sae=24, k=4, steps=1, batch=2, learning_rate=0.1, prompts=4, clamps=[1.0],
        bounds=[0.5], attack_steps=2, random_draws=ANSWERED + 2,
    )  # fmt: skip
    r, permuted = draws(WIDTH, seed=5), list(range(ANSWERED + 1))
    table = attack(model, guard, permuted, entered, entered, judge_of(tokens, texts), r, settings, 0)
    found = table.groupby("condition", sort=False)["refused_by_phrase"].apply(list)
    assert found["guarded"] == refusals(Words(), under, texts)
    assert found["guarded"][0] == 1
    free = written(model, entered, entered.x, lambda x: x, 4)
    assert found["free"] == refusals(Words(), free, texts)
    answered = {"free", "guarded", "guarded: permuted"}
    answered |= {f"{name}{end}" for name in ("removed", "optimised 0.5") for end in ("", ": random")}
    counts = table.groupby("condition")["refused_by_phrase"].count()
    assert set(counts[counts > 0].index) == answered
    assert counts["removed: random"] == counts["guarded: permuted"] == 3 * ANSWERED
    random = table[table["condition"] == "removed: random"]
    assert len(random) == 3 * (ANSWERED + 2)
    shift = random_shifts(guard, entered.x, removal(guard, entered.x, r), ANSWERED + 2, 0)[1]
    rows = written(model, entered, guard.on(entered.x) + shift, lambda x: guard.on(x) + shift[:, -1:], 4)
    assert random["refused_by_phrase"].tolist()[3:6] == refusals(Words(), rows, texts)


def test_variance_left_by_the_reconstruction(entered, guard):
    x = entered.x.flatten(0, 1)
    error = (x - guard.sae.reconstruct(x)).square().sum()
    spread = (x - x.mean(0)).square().sum()
    found = unexplained(guard.sae, [entered.x[:1], entered.x[1:]])
    assert found == pytest.approx(float(error / spread), rel=1e-4)
