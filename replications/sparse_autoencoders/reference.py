"""Step: harvests and trains the reference dictionary, which the repository ships (`config/saes.yaml`), and judges it.

The corpus `self-chat` has some four conversations a topic, too few for a dictionary to tell 192 topics apart. So the
model writes more: one conversation a topic and round, with the requests of the corpus, end-of-text tokens struck out.
Activations are kept while it writes, so that nothing is read twice. To these come the corpora themselves. Each round
is saved when it is written, and a killed run goes on. `rounds.json` beside the rounds says what they were written
from; rounds of anything else are discarded.

The result is compared with the shipped dictionary by its metrics, not by its bytes, which differ between processors.

    fvu          share of variance that is not explained on a round that was not trained on
    start        median cosine of the decoder rows of living latents with their random start
    purity       as in `measure_latents`, beside an untrained dictionary
    topic_auc    mean over topics: how well the best latent of a topic, chosen on training rounds, tells the topic's
                 answers from all others on the left-out round (area under the curve)
    topic_cosine mean over topics: largest cosine of a decoder row with the topic's difference of means
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.core.files import atomic, read_json, sha256, write_json
from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_clusters
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.data.corpora import SelfChat, corpus_entry
from common.data.models import chat_prompt, encode, fast_dtype, load_model, load_tokenizer
from common.interp.generation import Sampler, edited, generate, load_writer
from common.saes.architectures.base import Batch, random_rows
from common.saes.harvest import OUTLIER, harvest, windows
from common.saes.index import Entry, write_index
from common.saes.metrics import principal
from common.saes.public import load_public, shipped
from common.saes.sae import Sae
from common.saes.saelens import WEIGHTS, load_saelens, save_saelens
from common.saes.stream import Activations, as_batch, write_shards
from common.saes.trainer import first_weights, train
from replications.sparse_autoencoders.baselines import untrained_code
from replications.sparse_autoencoders.describing import described
from replications.sparse_autoencoders.settings import Reference
from replications.sparse_autoencoders.sweep import recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


POOL = 100_000  # training activations on which latents are described
WINDOW, BATCH = 128, 32  # of the corpora


class ReferenceFiles(Files):
    manifest: Path
    """of the language model"""
    docs: Path
    chat: Path
    registry: Path
    """`config/saes.yaml`, which names the shipped dictionary"""
    index: Path
    """lists the one dictionary, whose folder lies beside it"""
    metrics: Path
    topics: Path
    """one row a topic"""


class Written(NamedTuple):
    """Answers of one round, one a topic."""

    tokens: Int[Tensor, "topic pos"]
    x: Float[Tensor, "topic pos d_model"]


def write_round(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", corpus: SelfChat, number: int, hook: str,
    new_tokens: int, topics: list[str],
) -> Written:  # fmt: skip
    """One conversation on every topic, and the activations at `hook` of the tokens that were written.

    In round r, topic t gets request r + t. Answers to one request share their random numbers.
    """
    asked = [(number + place) % len(corpus.requests) for place in range(len(topics))]
    prompts = [
        encode(tokenizer, chat_prompt(tokenizer, corpus.requests[request].format(topic)))
        for request, topic in zip(asked, topics, strict=True)
    ]
    sampler = Sampler(corpus.temperature, torch.tensor(asked), number, list(tokenizer.all_special_ids))
    seen: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        if x.shape[1] == 1:
            seen.append(x[:, 0].bfloat16().cpu())
        return x

    with edited(model, hook, keep):
        tokens = generate(model, prompts, torch.arange(len(prompts)), hook, None, new_tokens, sampler)
    return Written(tokens, torch.stack(seen, 1))


def identity(manifest: Path, corpus: SelfChat, hook: str, new_tokens: int, topics: list[str]) -> str:
    """12 hex digits over the model's manifest and all settings on which a round depends, besides its number."""
    settings = [corpus.requests, corpus.temperature, hook, new_tokens, topics]
    return hashlib.sha256(manifest.read_bytes() + json.dumps(settings).encode()).hexdigest()[:12]


def written_rounds(
    folder: Path, manifest: Path, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rounds: int,
    hook: str, new_tokens: int, most_topics: int | None = None,
) -> list[Written]:  # fmt: skip
    """All rounds; those that lie in `folder` are not written again if they are of the same identity."""
    corpus = corpus_entry("self-chat")
    assert isinstance(corpus, SelfChat)
    topics = corpus.all_topics[:most_topics]
    note, expected = folder / "rounds.json", {"identity": identity(manifest, corpus, hook, new_tokens, topics)}
    if not note.exists() or read_json(note) != expected:
        for path in folder.glob("round-*.safetensors"):
            path.unlink()
        write_json(note, expected)
    found = []
    for number in track(list(range(rounds)), "rounds of conversations"):
        path = folder / f"round-{number:02d}.safetensors"
        if not path.exists():
            one = write_round(model, tokenizer, corpus, number, hook, new_tokens, topics)
            with atomic(path) as temporary:
                save_file({"tokens": one.tokens.contiguous(), "x": one.x.contiguous()}, temporary)
        stored = load_file(path)
        found.append(Written(stored["tokens"], stored["x"]))
    return found


def collected(rounds: list[Written], files: ReferenceFiles, settings: Reference, hook: str, device: str) -> Activations:
    """Shards of the activations of written rounds and of both corpora, beside the index."""
    folder, tokenizer = files.index.parent / "activations", load_tokenizer(files.manifest.parent)
    sources = [files.docs.parent, files.chat.parent]
    chosen = windows(sources, "train", tokenizer, WINDOW, [settings.docs_tokens, settings.chat_tokens])
    bridge = load_model(files.manifest.parent, device=device, dtype=fast_dtype())
    special = sorted(set(tokenizer.all_special_ids))
    read = harvest(bridge, chosen, [hook], special, BATCH, device)[hook]
    x = torch.cat([rearrange(one.x, "topic pos d -> (topic pos) d") for one in rounds])
    tokens = torch.cat([one.tokens.flatten() for one in rounds])
    text = torch.arange(len(rounds) * len(rounds[0].tokens)).repeat_interleave(rounds[0].tokens.shape[1])
    good = (norm := x.float().norm(dim=1)) <= OUTLIER * norm.median()
    about = {
        "model": files.manifest.parent.name, "hook": hook, "corpora": ["written", *(one.name for one in sources)],
        "dropped": {**read.dropped, "outlier": read.dropped["outlier"] + int((~good).sum())},
    }  # fmt: skip
    write_shards(
        folder,
        torch.cat([x[good], read.x.to(x.dtype)]),
        torch.cat([text[good], read.document + len(text)]),
        torch.cat([tokens[good], read.token_id]),
        about=about,
    )
    return Activations(folder)


def reference(files: ReferenceFiles, settings: Reference, run: RunInfo) -> None:
    """Writes the dictionary and what it is worth; at a model with a shipped dictionary also how the two compare."""
    torch.set_grad_enabled(False)
    model, hook = files.manifest.parent, f"blocks.{settings.layer}.hook_resid_pre"
    rounds = written_rounds(
        files.index.parent / "written", files.manifest, load_writer(model, run.device), load_tokenizer(model),
        settings.rounds + 1, hook, settings.new_tokens, settings.most_topics,
    )  # fmt: skip
    *trained_on, left_out = rounds
    data = collected(trained_on, files, settings, hook, run.device)
    own = recipe("batch_topk", settings.width, settings.sparsity, settings.seed)

    def batches(step: int, source: str) -> Batch:
        return as_batch(data.batch(step, settings.training.batch).to(run.device))

    start = first_weights([own], batches(0, "activations"), "cpu")["W_dec"][0]
    stamp = sha256(files.index.parent / "activations" / "manifest.json")
    left = files.index.with_suffix(".training")
    with torch.enable_grad():
        [result] = train([own], batches, settings.training, left, data=stamp, device=run.device, keep=True)
    assert result.sae is not None
    sae = result.sae.to("cpu").folded(data.manifest.scale)
    sae = replace(sae, about=replace(sae.about, model=model.name, hook=hook)).unit_decoder()
    name = f"reference-{settings.width}-k{settings.sparsity}-s{settings.seed}"
    save_saelens(sae, files.index.parent / name)
    halve(files.index.parent / name / WEIGHTS)
    sae = load_saelens(files.index.parent / name)
    metrics = worth(sae, start, data, settings) | by_topic(sae, trained_on, left_out, files.topics)
    if known := shipped(model.name, hook):
        metrics["fvu_over_shipped"] = unexplained(sae, left_out, load_public(known))
    write_metrics(files.metrics, metrics)
    write_index(files.index, [Entry(name=name, kind="reference", recipe=own)])
    left.unlink(missing_ok=True)


def halve(path: Path) -> None:
    """Writes the matrices of a file in half precision, as they are shipped; with unit rows their range allows it."""
    stored = {name: value.half() if value.ndim == 2 else value for name, value in load_file(path).items()}
    with atomic(path) as temporary:
        save_file(stored, temporary)


def worth(sae: Sae, start: Float[Tensor, "d_sae d"], data: Activations, settings: Reference) -> dict[str, Metric]:
    """How far the rows have gone from their start, how pure latents are, and how many live."""
    pool, tokens = data.first(POOL), data.token_id[:POOL]
    found = described(sae.encode, pool, tokens, sae.d_sae)
    alive = found["fires"].to_numpy() > 0
    cosine = np.sort(torch.cosine_similarity(sae.W_dec, start, dim=1).numpy()[alive])
    half, beside = len(cosine) / 2, 0.98 * len(cosine) ** 0.5
    mean, _ = principal(pool)
    rows = random_rows(sae.d_sae, pool.shape[1], torch.Generator().manual_seed(settings.seed))
    random = described(untrained_code(mean, rows, settings.sparsity), pool, tokens, sae.d_sae)
    pure, null = (one["purity"].fillna(one["purity"].mean()).to_numpy() for one in (found, random))
    return {
        "start_cosine": Metric(
            value=float(np.median(cosine)), ci_low=float(cosine[max(0, int(half - beside))]),
            ci_high=float(cosine[min(len(cosine) - 1, int(half + beside))]), n=len(cosine), unit="1",
            formula="median over living latents of the cosine of a decoder row with its random start",
        ),
        "purity": over_clusters(
            pure, np.arange(len(pure)), unit="share", cluster="latents", controls={"random_dictionary": null},
            formula="share of the commonest token among the 20 strongest, mean over latents",
        ),
        "live": over_clusters(
            alive.astype(float), np.arange(len(alive)), unit="share", cluster="latents",
            formula="share of latents that fire on the pool",
        ),
    }  # fmt: skip


def unexplained(sae: Sae, left_out: Written, other: Sae | None = None) -> Metric:
    """FVU on the left-out round, over topics; with `other`, squared error over that of this dictionary."""
    x = left_out.x.float()
    error = (x - sae.reconstruct(x)).square().sum((1, 2))
    beside = x - (x.mean((0, 1)) if other is None else other.reconstruct(x))
    return over_clusters(
        error.numpy(), np.arange(len(x)), unit="1", cluster="topics", denominators=beside.square().sum((1, 2)).numpy(),
        formula="squared error over " + ("variance" if other is None else "that of the shipped dictionary"),
    )  # fmt: skip


def by_topic(sae: Sae, rounds: list[Written], left_out: Written, table: Path) -> dict[str, Metric]:
    """Whether single latents tell topics apart, and whether their rows point where the topic's mean does."""
    texts = torch.stack([reduce(sae.encode(one.x.float()), "topic pos f -> topic f", "mean") for one in rounds])
    held = reduce(sae.encode(left_out.x.float()), "topic pos f -> topic f", "mean")
    means = torch.stack([reduce(one.x.float(), "topic pos d -> topic d", "mean") for one in rounds]).mean(0)
    apart = means - (means.sum(0) - means) / (len(means) - 1)
    best = reading(texts).argmax(1)
    cosine = torch.nn.functional.normalize(apart, dim=1) @ sae.W_dec.T
    own = held[:, best]  # [text, topic of the latent]
    above = (own.diag()[None] > own).float() + 0.5 * (own.diag()[None] == own).float()
    auc = (above.sum(0) - 0.5) / (len(own) - 1)
    order = np.arange(len(means))
    random = random_rows(sae.d_sae, means.shape[1], torch.Generator().manual_seed(0))
    null = (torch.nn.functional.normalize(apart, dim=1) @ random.T).amax(1)
    write_table(
        table,
        [
            {"topic": topic, "latent": int(best[topic]), "auc": float(auc[topic]),
             "cosine": float(cosine[topic, best[topic]]), "largest_cosine": float(cosine[topic].max()),
             "nearest": int(cosine[topic].argmax())}
            for topic in order.tolist()
        ],
    )  # fmt: skip
    return {
        "fvu": unexplained(sae, left_out),
        "topic_auc": over_clusters(
            auc.numpy(), order, unit="1", cluster="topics", controls={"next_topic": next_auc(own)},
            formula="how well a topic's latent tells its left-out answer from the others, area under the curve",
        ),
        "topic_cosine": over_clusters(
            cosine.amax(1).numpy(), order, unit="1", cluster="topics", controls={"random_dictionary": null.numpy()},
            formula="largest cosine of a decoder row with the topic's difference of means",
        ),
    }  # fmt: skip


def reading(texts: Float[Tensor, "round topic f"]) -> Float[Tensor, "topic f"]:
    """How well each latent reads each topic: share of the answers on which it fires, times a share of its value. That
    is what falls on the topic, over this plus three times what falls on the mean other topic."""
    mean, fires = texts.mean(0), (texts > 0).float().mean(0)
    others = (mean.sum(0) - mean) / (len(mean) - 1)
    return fires * mean / (mean + 3 * others + 1e-3 * mean.max())


def next_auc(own: Float[Tensor, "text topic"]) -> np.ndarray:
    """The same for the answer to the next topic's request."""
    after = own.roll(-1, 0).diag()[None]
    above = (after > own).float() + 0.5 * (after == own).float()
    return ((above.sum(0) - 0.5) / (len(own) - 1)).numpy()


if __name__ == "__main__":
    run_step(reference)
