"""Step: chooses concepts and documents, reads them once, and makes steering vectors, judges and records of latents.

Every seed takes its latents from a dictionary of its own. Out: `prepared.safetensors` (vectors, judges, scale of the
residual stream), `concepts.json` (names, lexicons, texts to continue), `latents.json` (of the first dictionary, for the
demonstration and the chat) and `detectors.csv`. The model runs in bfloat16 where the processor computes in it; what is
made from its activations is float32 or float64.
"""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from common.core.errors import UserError
from common.core.files import atomic, read_json, write_json
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.data.models import Manifest, load_tokenizer
from common.interp.generation import edited, layer_and_place, load_writer
from common.saes.browser import output_map
from common.saes.sae import Sae
from common.saes.saelens import load_saelens
from common.saes.stream import Activations
from replications.feature_steering import judge
from replications.feature_steering import steering_vectors as vectors
from replications.feature_steering.concepts import choose
from replications.feature_steering.latents import describe, latents_of, logit_effect, strength
from replications.feature_steering.settings import Prepare

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PARTS = ("training", "judging", "scaling")
PERMUTATIONS = 20  # of the labels, for the null of the judge


class _ReadError(Exception):
    """Raised behind the last layer that is read, to skip the rest."""


@torch.inference_mode()
def read(
    model: "PreTrainedModel", documents: list[list[int]], hook: str, later: str, batch: int
) -> tuple[Float[Tensor, "document pos d_model"], Float[Tensor, "document d_model"]]:
    """Activations at `hook` and mean ones at `later`, of documents of equal length; the first token is left out."""
    here: list[Tensor] = []
    there: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        here.append(x[:, 1:].float().cpu())
        return x

    def stop(x: Tensor) -> Tensor:
        there.append(x[:, 1:].float().mean(1).cpu())
        raise _ReadError

    tokens = torch.tensor(documents, device=model.device)
    with edited(model, hook, keep), edited(model, later, stop):
        for part in track(list(torch.split(tokens, batch)), "documents"):
            with contextlib.suppress(_ReadError):
                model.base_model(input_ids=part, use_cache=False)
    return torch.cat(here), torch.cat(there)


def own_saes(index: Path, names: list[str], model: str) -> list[Sae]:
    """SAEs from the folder of `index`; names of one folder (`released`) share one object.

    UserError if one is missing or of another model, or its hook is not to steer.
    """
    known, loaded, found = [one["name"] for one in read_json(index)], dict[Path, Sae](), list[Sae]()
    for name in names:
        if name not in known:
            raise UserError(f"no SAE '{name}' in {index.parent}; there are {', '.join(known[:6])}, ...")
        folder = (index.parent / name).resolve()
        if folder not in loaded:
            loaded[folder] = sae = load_saelens(folder)
            sae.check_belongs(model, next(iter(loaded.values())).about.hook)
            layer_and_place(sae.about.hook)
        found.append(loaded[folder])
    return found


class PrepareFiles(Files):
    manifest: Path
    """of the model"""
    docs: Path
    """manifest of the corpus"""
    index: Path
    """lists the SAEs, whose folders lie beside it"""
    activations: Path
    """manifest of the shards that the SAEs were trained on"""
    prepared: Path
    concepts: Path
    latents: Path
    detectors: Path


def prepare(files: PrepareFiles, settings: Prepare, run: RunInfo) -> None:
    """Writes the steering vectors and judges, the concepts, and a record of every latent of the first dictionary."""
    torch.set_grad_enabled(False)
    concepts, seeds, folder = settings.concepts, run.seeds, files.manifest.parent
    tokenizer, model = load_tokenizer(folder), load_writer(folder, run.device)
    name, stored = Manifest.model_validate(read_json(files.manifest)).name, Activations(files.activations.parent)
    names = [f"{settings.sae}-s{seed}" for seed in seeds]
    saes, special = own_saes(files.index, names, name), list(tokenizer.all_special_ids)
    hook, later = saes[0].about.hook, f"blocks.{concepts.judge_layer}.hook_resid_pre"
    chosen = choose(files.docs.parent, tokenizer, concepts)
    documents = {part: [tokens for one in chosen for tokens in one.parts[part]] for part in PARTS}
    label = {part: torch.arange(len(chosen)).repeat_interleave(len(chosen[0].parts[part])) for part in PARTS}
    every = [tokens[: concepts.tokens + 1] for part in PARTS for tokens in documents[part]]
    here, there = read(model, every, hook, later, concepts.batch)
    sizes = [len(documents[part]) for part in PARTS]
    means = dict(zip(PARTS, torch.split(there, sizes), strict=True))

    x, concept = here[: sizes[0]], label["training"]
    learned = {
        "diff_means": vectors.difference_of_means(x, concept),
        "probe": vectors.probe_directions(x, concept),
        "pca": vectors.principal_directions(x, concept),
    }
    tensors = {"norm": here.norm(dim=-1).mean()[None]}
    unembedding, gain = output_map(model)
    frames, last = [], None
    for seed, own in zip(seeds, saes, strict=True):
        if own is not last:
            largest, density = strength(own, stored)
            read_out, last = latents_of(own, here, concepts.batch), own
        live = density * (largest > 0)
        latent, detection = vectors.detectors(read_out.mean[: sizes[0]], concept, live)
        learned[f"sae.{seed}"] = vectors.unit(own.W_dec[latent])
        made, drawn = vectors.nulls(x, concept, own, live, latent, seed)
        tensors |= {f"vector.{method}.{seed}": v for method, v in made.items()}
        tensors |= {f"latent.sae.{seed}": latent, f"latent.random_latent.{seed}": drawn}
        frames.append(
            pd.DataFrame({"seed": seed, "latent": latent, "density": density[latent], "detection": detection})
        )
        if seed == seeds[0]:
            raised = logit_effect(vectors.unit(own.W_dec), unembedding, gain)
            records = describe(read_out, every, raised, largest, density, tokenizer, concepts.contexts)
            shown = {"model": name, "sae": names[0], "hook": hook}
            write_json(files.latents, {**shown, "latents": [one.model_dump() for one in records]})
    tensors |= {f"vector.{method}": v for method, v in learned.items()}

    ridge = judge.choose_ridge(means["judging"], label["judging"])
    weights, offset = judge.fit_probe(means["judging"], label["judging"], ridge)
    weights, offset = judge.standardised(weights, offset, means["scaling"], label["scaling"])
    scores = means["scaling"].double() @ weights + offset
    generator = torch.Generator().manual_seed(seeds[0])
    permuted = np.mean(
        [
            vectors.own_auroc(scores, label["scaling"][torch.randperm(sizes[2], generator=generator)])
            for _ in range(PERMUTATIONS)
        ],
        axis=0,
    )

    direct = [
        {token for v in learned.values() for token in judge.direct_logits(v[place : place + 1], unembedding, gain)[0]
         .topk(judge.DIRECT_LOGITS).indices.tolist()}
        for place in range(len(chosen))
    ]  # fmt: skip
    reading = [[tokens[1:] for tokens in one.parts["judging"] + one.parts["scaling"]] for one in chosen]
    lexicons = judge.lexicons(reading, direct, concepts.lexicon, special)

    tensors |= {"judge.weights": weights, "judge.offset": offset}
    with atomic(files.prepared) as temporary:
        save_file({key: value.contiguous() for key, value in tensors.items()}, temporary)
    write_json(
        files.concepts,
        {
            "model": name,
            "saes": names,
            "hook": hook,
            "judge": later,
            "concepts": [
                {"name": one.name, "lexicon": lexicons[at], "texts": one.parts["texts"]}
                for at, one in enumerate(chosen)
            ],
        },
    )
    inside = [float(scores[label["scaling"] == one, one].mean()) for one in range(len(chosen))]
    judged = {"judge": vectors.own_auroc(scores, label["scaling"]), "judge_permuted": permuted}
    judged |= {"inside": np.array(inside), "ridge": np.full(len(chosen), ridge)}
    write_table(
        files.detectors, pd.concat([frame.assign(concept=[one.name for one in chosen], **judged) for frame in frames])
    )


if __name__ == "__main__":
    run_step(prepare)
