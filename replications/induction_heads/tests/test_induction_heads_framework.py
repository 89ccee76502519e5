"""Framework measures and models of natural text: identities, planted weights, and a tiny training run."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from common.core.errors import UserError
from common.core.files import read_json, write_json
from common.core.metrics import read_metrics
from common.core.settings import load_replication
from common.core.step import RunInfo
from common.data.bpe import learned, stretches
from common.data.corpora import Document
from common.toys.settings import Architecture, Optimisation
from common.toys.transformer import forward, initial_weights, token_losses
from replications.induction_heads.arm import load_arm
from replications.induction_heads.measure_framework import (
    FrameworkFiles,
    bigram_counts,
    direct_path,
    losses_by_order,
    measure_framework,
    row_correlation,
    skip_trigrams,
)
from replications.induction_heads.settings import Contexts, NaturalText, TextArm, TextTraining, Tokens, TrainText
from replications.induction_heads.tokenise_corpus import TokeniseFiles, tokenise_corpus
from replications.induction_heads.train_text import TrainTextFiles, train_text

BASE = {"n_layers": 2, "keys": "plain", "positions": "shortformer", "mlp": "none", "d_model": 16, "n_heads": 2,
        "d_head": 8, "d_vocab": 24, "n_ctx": 16}  # fmt: skip


def made(**changes):
    shape = Architecture(**{**BASE, **changes})
    return shape, initial_weights(shape, [0, 1])


@pytest.mark.parametrize(
    "changes", [{}, {"n_layers": 1}, {"n_layers": 3}, {"positions": "rotary"}, {"keys": "smeared"}]
)
def test_all_orders_together_are_the_model_and_none_is_the_direct_path(changes):
    shape, weights = made(**changes)
    tokens = torch.randint(24, (5, 16), generator=torch.Generator().manual_seed(0))
    found = losses_by_order(weights, tokens, shape)
    assert found.shape == (2, shape.n_layers + 1)
    whole = token_losses(forward(weights, tokens.expand(2, -1, -1), shape), tokens.expand(2, -1, -1)).mean((1, 2))
    torch.testing.assert_close(found[:, -1], whole, atol=1e-5, rtol=0)
    assert not torch.allclose(found[:, 0], whole, atol=1e-3)


def test_heads_that_do_not_read_heads_leave_nothing_to_the_second_order():
    """Values of layer 1 read other dimensions than layer 0 writes: virtual heads are exactly nothing."""
    shape, weights = made()
    weights["blocks.0.attn.W_O"][..., 1:] = 0
    weights["blocks.0.attn.W_O"][..., 0] -= weights["blocks.0.attn.W_O"][..., 0].mean()
    weights["blocks.1.attn.W_V"][:, :, 0] = weights["blocks.1.attn.W_V"][:, :, 1:].mean(2)  # centring is invisible too
    tokens = torch.randint(24, (5, 16), generator=torch.Generator().manual_seed(0))
    found = losses_by_order(weights, tokens, shape)
    torch.testing.assert_close(found[:, 1], found[:, 2], atol=1e-5, rtol=0)


def test_models_that_are_no_sums_over_paths_are_refused():
    for changes in ({"mlp": "relu"}, {"positions": "standard"}):
        shape, weights = made(**changes)
        with pytest.raises(UserError, match="attention-only model"):
            losses_by_order(weights, torch.zeros(1, 4, dtype=torch.long), shape)


def test_bigram_counts_and_their_correlation():
    stream = np.random.default_rng(0).integers(0, 5, 4000).astype(np.int32)
    counts = bigram_counts(stream, 5)
    assert counts.sum() == 3999
    assert counts[2, 3] == sum(pair == (2, 3) for pair in pairwise(stream.tolist()))
    chain = np.random.default_rng(1).dirichlet(np.full(5, 0.4), 5) * 1000
    assert row_correlation(2 * np.log(chain + 0.5) + 7, chain, 1) == pytest.approx(1)
    assert row_correlation(-np.log(chain + 0.5), chain, 1) == pytest.approx(-1)
    assert row_correlation(chain, chain, 10**6) == 0


def test_direct_path_and_a_planted_skip_trigram():
    """Head 1: token 5 attends to token 3 when it is there, and then says 7."""
    shape, weights = made(n_layers=1, d_model=24, d_head=24)
    weights = {name: torch.zeros_like(value) for name, value in weights.items()}
    weights["embed.W_E"] += torch.eye(24)
    weights["unembed.W_U"] += torch.eye(24)
    assert torch.equal(direct_path(weights)[0].argmax(1), torch.arange(24))
    weights["blocks.0.attn.W_Q"][:, 1, 5, 0] = 1
    weights["blocks.0.attn.W_K"][:, 1, 3, 0] = 1
    weights["blocks.0.attn.W_V"][:, 1, 3, 0] = 1
    weights["blocks.0.attn.W_O"][:, 1, 0, 7] = 1
    [(source, present, following, score)] = skip_trigrams(weights, shape, 0, 1, 1, torch.arange(24))
    assert (source, present, following) == (3, 5, 7)
    assert score > 10


def test_vocabulary_is_learned_and_reproduces_its_text():
    texts = ["the horse and the house", "the mouse and the horse"] * 5
    tokenizer = learned(texts, 40)
    assert tokenizer.get_vocab_size() <= 40
    assert tokenizer.decode(tokenizer.encode(texts[0]).ids) == texts[0]
    assert len(tokenizer.encode("the horse").ids) < 9
    assert tokenizer.encode("x").ids == [1]
    assert tokenizer.get_vocab() == learned(texts, 40).get_vocab()


TOKENS = Tokens(d_vocab=64, characters=10_000, length=16, held_out=6, repeats=6)
CONTEXTS = Contexts(late=9, early=2, width=5)
TRAINING = TextTraining(
    optimisation=Optimisation(
        steps=12, batch=4, learning_rate=0.01, warmup=2, beta1=0.9, beta2=0.98, weight_decay=0.0, clip=1.0
    ),
    measure_every=4, snapshots=[0, 4, 12],
)  # fmt: skip


@pytest.fixture(scope="module")
def framework(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    generator = torch.Generator().manual_seed(0)
    tokens = {"train": torch.randint(64, (4000,), generator=generator).int(),
              "held_out": torch.randint(64, (6, 16), generator=generator).int()}  # fmt: skip
    save_file(tokens, folder / "tokens.safetensors")
    write_json(folder / "vocabulary.json", [f"t{i}" for i in range(64)])
    corpus, run = folder / "tokens.safetensors", RunInfo(scale="smoke", seeds=[0, 1, 2], device="cpu")
    texts = [folder / f"{name}.safetensors" for name in ("one_layer", "two_layers")]
    for layers, path in enumerate(texts, 1):
        arm = TextArm(n_layers=layers, keys="plain", mlp="none", d_model=16, n_heads=2, d_head=8, seeds=2)
        settings = TrainText(arm=arm, tokens=TOKENS, contexts=CONTEXTS, training=TRAINING)
        train_text(TrainTextFiles(tokens=corpus, models=path), settings, run)
    files = FrameworkFiles(
        texts=texts, synthetic=texts[1:], tokens=corpus, vocabulary=folder / "vocabulary.json",
        **{name: folder / f"{name}.out" for name in ("metrics", "orders", "heads", "trigrams")},
    )  # fmt: skip
    measure_framework(files)
    return folder, read_metrics(files.metrics)


def test_text_arms_are_measured_like_synthetic_ones(framework):
    arm = load_arm(framework[0] / "two_layers.safetensors")
    assert arm.seeds == [0, 1]
    assert arm.measure_at == [0, 4, 8, 12]
    assert arm.measured("prefix").shape == (4, 2, 2, 2)
    assert arm.measured("index_loss").shape == (4, 2, 15)


def test_models_of_noise_have_no_bigrams_and_no_copying_heads(framework):
    assert framework[1]["direct_path"].value < 0.3
    assert framework[1]["copying_share"].value < 0.5
    assert set(framework[1]["copying_share"].control("before_training").per_seed) <= {0.0, 0.5}


def test_batches_are_stretches_of_the_stream():
    stream = torch.arange(100)
    found = stretches(stream, 50, 8, seed=1, step=2)
    assert bool((found.diff(dim=1) == 1).all())
    assert int(found.min()) >= 0
    assert int(found.max()) <= 99
    assert len(found[:, 0].unique()) > 20
    assert torch.equal(found, stretches(stream, 50, 8, seed=1, step=2))


def test_tokens_of_a_corpus_and_too_few_documents(tmp_path, monkeypatch):
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    texts = {"train": [" ".join(words[k:] + words[:k]) * 4 for k in range(8)], "held_out": [" ".join(words) * 5, "eta"]}
    texts["validation"] = ["theta " * 30]

    def read(folder, split):
        return [Document(id=str(k), group="g", kind="source", text=text) for k, text in enumerate(texts[split])]

    monkeypatch.setattr("replications.induction_heads.tokenise_corpus.read_corpus", read)
    sizes = Tokens(d_vocab=64, characters=10_000, length=16, held_out=4, repeats=4)
    names = {"corpus": "manifest.json", "tokens": "tokens.safetensors", "vocabulary": "vocabulary.json"}
    files = TokeniseFiles(**{key: tmp_path / name for key, name in names.items()})
    scoring, calibration = (RunInfo(scale="smoke", seeds=seeds, device="cpu") for seeds in ([0], [100]))
    with pytest.raises(UserError, match="only 1 held-out documents have 16 tokens"):
        tokenise_corpus(files, sizes, scoring)
    texts["held_out"] *= 4
    tokenise_corpus(files, sizes, scoring)
    stored, names = load_file(files.tokens), read_json(files.vocabulary)
    assert stored["held_out"].shape == (8, 16)
    assert "".join(names[i] for i in stored["held_out"][0]) in texts["held_out"][0]
    whole = "".join(names[i] for i in stored["train"]).split(names[0])
    assert sorted(whole[1:]) == sorted(texts["train"])
    tokenise_corpus(files, sizes.model_copy(update={"held_out": 1}), calibration)
    assert "theta" in "".join(names[i] for i in load_file(files.tokens)["held_out"][0])


@pytest.mark.parametrize(("kept", "needed"), [("two_layers", "one_layer"), ("one_layer", "two_layers")])
def test_missing_arms_and_contexts_beyond_the_sequence_are_refused(kept, needed):
    good = load_replication("induction_heads", "full").model_dump()["natural_text"]
    NaturalText.model_validate(good)
    without = {**good, "arms": {kept: good["arms"][kept]}}
    with pytest.raises(ValueError, match=f"need the arm '{needed}'"):
        NaturalText.model_validate(without)
    with pytest.raises(ValueError, match="do not fit"):
        NaturalText.model_validate({**good, "contexts": {**good["contexts"], "width": good["tokens"]["length"]}})
