"""Step: new conversations on every topic; from them steering vectors, latents, nulls, the topics' words and the judge.

The unsteered model answers the same requests about every topic; its activations and next-token probabilities are kept
while it writes. Out: `prepared.safetensors` (vectors, pools, judge, words, norm of the residual stream). And
`concepts.json` (names, words, records of the latents that may be shown, checks of words and judge).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic, read_json, write_json
from common.core.step import Files, RunInfo, run_step
from common.data.models import Manifest, load_tokenizer
from common.interp.generation import Sampler, edited, generate, layer_and_place, load_writer
from common.saes.browser import output_map
from common.saes.index import read_index
from common.saes.sae import Sae
from common.saes.saelens import load_saelens
from replications.feature_steering import vectors
from replications.feature_steering.concepts import CHOOSING_QUESTIONS, REQUESTS, asked, own_topics, topics
from replications.feature_steering.gradient import word_gradient
from replications.feature_steering.latents import describe, raised_tokens
from replications.feature_steering.settings import GRADIENT, TOGETHER, WORDS, Prepare
from replications.feature_steering.words import distinct_words, topic_words, vocabulary, word_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEMPERATURE = 0.7


class Expecting(Sampler):
    """A sampler that adds up the next-token probabilities of the three judging rows of each topic, their mean."""

    def __init__(self, topics: int, per_topic: int, seed: int, forbidden: list[int]) -> None:
        super().__init__(TEMPERATURE, torch.arange(topics * per_topic), seed, forbidden)
        self.topics, self.steps, self.expected = topics, 0, torch.zeros(1)
        self.rows = slice(len(REQUESTS["training"]), per_topic - len(REQUESTS["checking"]))

    def __call__(self, logits: Float[Tensor, "row d_vocab"], step: int) -> Int[Tensor, "row 1"]:
        own = rearrange(logits, "(topic text) token -> topic text token", topic=self.topics)[:, self.rows]
        self.expected = self.expected + own.softmax(-1).mean(1).cpu()
        self.steps += 1
        return super().__call__(logits, step)


@contextmanager
def kept(model: "PreTrainedModel", hooks: list[str]) -> Iterator[dict[str, list[Tensor]]]:
    """While open, keeps the activations at some hooks of all passes over a single position. They are those of the last
    token of the prompt, then of all written tokens but the last.
    """
    seen: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
    with ExitStack() as stack:
        for hook in hooks:

            def keep(x: Tensor, own: list[Tensor] = seen[hook]) -> Tensor:
                if x.shape[1] == 1:
                    own.append(x[:, 0].float().cpu())
                return x

            stack.enter_context(edited(model, hook, keep))
        yield seen


def own_saes(index: Path, names: list[str], model: str) -> list[Sae]:
    """SAEs from the folder of `index`; names of one folder (`released`) share one object.

    UserError if one is missing or of another model, or its hook is not to steer.
    """
    listed, loaded, found = read_index(index), dict[Path, Sae](), list[Sae]()
    for name in names:
        folder = listed.path(name).resolve()
        if folder not in loaded:
            loaded[folder] = sae = load_saelens(folder)
            sae.check_belongs(model, next(iter(loaded.values())).about.hook)
            layer_and_place(sae.about.hook)
        found.append(loaded[folder])
    return found


class PrepareFiles(Files):
    manifest: Path
    """of the model"""
    index: Path
    """lists the SAEs, whose folders lie beside it"""
    prepared: Path
    concepts: Path


def prepare(files: PrepareFiles, settings: Prepare, run: RunInfo) -> None:
    """Writes vectors, pools, judge and words, and the record of every latent that a topic puts into a pool."""
    torch.set_grad_enabled(False)
    concepts, seeds, folder = settings.concepts, run.seeds, files.manifest.parent
    tokenizer, model = load_tokenizer(folder), load_writer(folder, run.device)
    name = Manifest.model_validate(read_json(files.manifest)).name
    names = [f"{settings.sae}-s{seed}" for seed in seeds]
    saes, special = own_saes(files.index, names, name), list(tokenizer.all_special_ids)
    hook, later = saes[0].about.hook, f"blocks.{concepts.judge_layer}.hook_resid_pre"
    chosen, requests = topics(seeds, concepts.count), [one for part in REQUESTS.values() for one in part]

    prompts = [asked(tokenizer, request.format(topic)) for topic in chosen for request in requests]
    sampler = Expecting(len(chosen), len(requests), seeds[0], special)
    with kept(model, [hook, later]) as seen:
        ids = torch.arange(len(prompts))
        written = generate(model, prompts, ids, hook, None, concepts.held_out_tokens, sampler)
    written = rearrange(written, "(topic text) pos -> topic text pos", topic=len(chosen))
    here, there = (
        rearrange(torch.stack(seen[place], 1), "(topic text) pos d -> topic text pos d", topic=len(chosen))
        for place in (hook, later)
    )
    first, last = len(REQUESTS["training"]), len(requests) - len(REQUESTS["checking"])
    training, tokens = here[:, :first], here.flatten(0, 2)

    known = vocabulary(tokenizer, sampler.expected.shape[1])
    words = topic_words(sampler.expected / sampler.steps, known.of_token, concepts.words)
    weights, offset = vectors.fit_probe(there[:, first:last].mean(2))
    probe, _ = vectors.fit_probe(training.mean(2))
    output, tokens_of = output_map(model), word_tokens(known.of_token, words)
    asking, plain = [asked(tokenizer, one) for one in CHOOSING_QUESTIONS], torch.arange(len(CHOOSING_QUESTIONS))
    answers = generate(
        model, asking, plain, hook, None, concepts.held_out_tokens, Sampler(TEMPERATURE, plain, seeds[0], special)
    )
    exact = load_writer(folder, run.device, torch.float32).requires_grad_(False)
    tensors = {
        "norm": tokens.norm(dim=-1).mean()[None],
        "diff_means": vectors.difference_of_means(training),
        "probe": vectors.unit(probe.T.float()),
        WORDS: vectors.word_vector(*output, tokens_of),
        GRADIENT: word_gradient(exact, asking, answers, hook, tokens_of),
        "judge.weights": weights,
        "judge.offset": offset,
        "words": words,
        "of_token": known.of_token,
    }
    tensors |= {method: torch.zeros_like(tensors["diff_means"]) for method in TOGETHER}
    records, nearest = [], torch.zeros(len(chosen))
    for place, (seed, sae) in enumerate(zip(seeds, saes, strict=True)):
        latents = sae.encode(here)
        own, generator = own_topics(len(chosen), place, len(seeds)), torch.Generator().manual_seed(seed)
        best = vectors.candidates(latents[:, :first], sae.W_dec, concepts.candidates)[own]
        for method, count in TOGETHER.items():
            tensors[method][own] = vectors.sum_of_rows(latents[:, :first], sae.W_dec, count)[own]
        nearest[own] = (tensors["diff_means"] @ vectors.unit(sae.W_dec).T).amax(1)[own]
        live = (latents[:, :first].flatten(0, 2) > 0).sum(0) > first
        live[best.flatten()] = False
        tensors |= {
            f"pool.sae_output.{seed}": best.flatten(),
            f"sae_input.{seed}": best[:, 0],
            f"pool.random_latent.{seed}": vectors.random_latents(live, best.numel(), generator),
            f"pool.random_direction.{seed}": vectors.random_directions(tokens, best.numel(), generator),
        }
        for latent in dict.fromkeys(best.flatten().tolist()):
            raised = raised_tokens(sae, latent, *output, tokenizer)
            values, fired_on = (x.flatten(0, 1) for x in (latents[..., 1:, latent], written[..., :-1]))
            records.append(describe(latent, seed, values, fired_on, raised, tokenizer).model_dump())
    along = {
        method: (tensors["diff_means"] * tensors[method]).sum(1).tolist() for method in (*TOGETHER, WORDS, GRADIENT)
    }
    left_out = [*range(first), *range(last, len(requests))]  # neither words nor judge come from these
    checked = written[:, left_out].flatten(0, 1)
    judged = there[:, left_out].mean(2).flatten(0, 1).double() @ weights + offset
    with atomic(files.prepared) as temporary:
        save_file({key: value.contiguous() for key, value in tensors.items()}, temporary)
    write_json(
        files.concepts,
        {
            "model": name,
            "saes": names,
            "hook": hook,
            "judge": later,
            "norm": float(tensors["norm"]),
            "topics": chosen,
            "words": [[known.stems[one] for one in own if one >= 0] for own in words.tolist()],
            "latents": records,
            "cosines": {"nearest_row": nearest.tolist(), **along},
            "checked": {"words": distinct_words(checked, known.of_token, words).tolist(), "judge": judged.tolist()},
        },
    )


if __name__ == "__main__":
    run_step(prepare)
