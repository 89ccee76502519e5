"""Step: a transcoder for every MLP of a language model from one stream of text (Dunefsky et al. 2024).

Each forward pass gives inputs and outputs of all MLPs at once; some optimiser steps are taken on its tokens, and they
are dropped. Nothing is stored. Position 0, the attention sink, is left out. A passage is a pure function of its number,
so training resumes from a checkpoint. The pass runs in bfloat16 where the processor computes in it.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.core.errors import UserError
from common.core.files import atomic
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.corpora import judging_split
from common.data.models import fast_dtype, load_model, load_tokenizer
from common.saes.architectures.base import Batch
from common.saes.harvest import Windows, run_to_hook, windows
from common.saes.metrics import fvu, l0
from common.saes.recipe import Recipe
from common.saes.sae import About, Sae
from common.saes.trainer import train as train_saes
from common.toys.training import CHECKPOINTS
from replications.circuit_tracing.settings import Language

TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
Chunk = tuple[list[Float[Tensor, "token d_model"]], list[Float[Tensor, "token d_model"]]]


class LanguageTrainFiles(Files):
    manifest: Path
    docs: Path
    chat: Path
    transcoders: Path
    table: Path


def language_train(files: LanguageTrainFiles, settings: Language, run: RunInfo) -> None:
    """Trains, and judges on held-out text: FVU, L0 and live share by layer."""
    folder = files.manifest.parent
    bridge, tokenizer = load_model(folder, device=run.device, dtype=fast_dtype()), load_tokenizer(folder)
    layers = range(bridge.cfg.n_layers)
    sources = [files.docs.parent, files.chat.parent]
    text = windows(sources, "train", tokenizer, settings.window, [settings.docs_tokens, settings.chat_tokens])
    passage = reader(bridge, text, settings.chunk, run.device)
    x, y = passage(0)
    to_unit, out_unit = ([float(1 / one.square().sum(-1).mean().sqrt()) for one in part] for part in (x, y))

    def batches(step: int, source: str) -> Batch:
        layer = int(source)
        x, y = passage(step // settings.reuse)
        draw = torch.Generator().manual_seed(step)
        chosen = torch.randint(len(x[layer]), (settings.training.batch,), generator=draw)
        return Batch(x[layer][chosen][None] * to_unit[layer], y[layer][chosen][None] * out_unit[layer])

    recipes = [
        Recipe.model_validate(
            {
                "architecture": "transcoder",
                "d_sae": settings.d_sae,
                "sparsity": settings.k,
                "seed": run.seeds[0],
                "source": f"{at:03}",
            }
        )
        for at in layers
    ]
    checkpoint = CHECKPOINTS / f"circuit_tracing_{run.scale}_{folder.name}_{run.seeds[0]}.safetensors"
    data = f"{folder.name} {text.tokens.sum()}"
    done = train_saes(recipes, batches, settings.training, checkpoint, data=data, device=run.device)
    found = [one.sae.to("cpu").folded(to_unit[at], out_unit[at]) for at, one in enumerate(done) if one.sae is not None]
    save_transcoders(files.transcoders, found, folder.name)
    held = windows(
        sources, judging_split(run.seeds), tokenizer, settings.window, [settings.held_out_tokens] * 2, per_document=1
    )
    write_table(files.table, judged(found, reader(bridge, held, settings.chunk, run.device), held, settings.chunk))


def reader(bridge: "object", text: Windows, size: int, device: str) -> Callable[[int], Chunk]:
    """Given a number, inputs and outputs of all MLPs on a passage of text, float32; the last one is kept in memory."""
    layers = range(bridge.cfg.n_layers)  # type: ignore[attr-defined]
    hooks = {f"blocks.{at}.{name}": at for at in layers for name in ("mlp.hook_in", "hook_mlp_out")}
    count = -(-len(text.tokens) // size)
    order = torch.randperm(len(text.tokens), generator=torch.Generator().manual_seed(0))

    @lru_cache(maxsize=1)
    @torch.no_grad()
    def passage(number: int) -> Chunk:
        rows = order[(number % count) * size : (number % count + 1) * size]
        tokens, real = text.tokens[rows].to(device), text.real[rows].to(device)
        seen = run_to_hook(bridge, tokens, real, hooks)
        use = real.clone()
        use[:, 0] = False
        x, y = ([seen[f"blocks.{at}.{name}"][use].float() for at in layers] for name in ("mlp.hook_in", "hook_mlp_out"))
        return x, y

    return passage


@torch.no_grad()
def judged(saes: list[Sae], passage: Callable[[int], Chunk], text: Windows, size: int) -> list[dict[str, int | float]]:
    """One row a layer."""
    chunks = [passage(number) for number in range(-(-len(text.tokens) // size))]
    rows = []
    for layer, sae in enumerate(saes):
        x, y = (torch.cat([chunk[part][layer] for chunk in chunks]).cpu() for part in (0, 1))
        latents = sae.encode(x)
        live = float((latents > 0).any(0).float().mean())
        rows.append({"layer": layer, "fvu": fvu(y, sae.decode(latents)), "l0": l0(latents), "live": live})
    return rows


def save_transcoders(path: Path, saes: list[Sae], model: str) -> None:
    """Writes all layers into one file, with the name of the model they belong to."""
    tensors = {name: torch.stack([getattr(sae, name) for sae in saes]).contiguous() for name in TENSORS}
    with atomic(path) as temporary:
        save_file(tensors, temporary, {"model": model})


def load_transcoders(path: Path, model: str, layers: int, d_model: int) -> list[Sae]:
    """All layers. UserError if the file is missing or broken, or belongs to another model, by its name or its shape."""
    remedy = "delete it and run `make SCALE=full circuit_tracing`"
    if not path.exists():
        raise UserError(f"{path} does not exist; run `make SCALE=full circuit_tracing`")
    try:
        with safe_open(path, framework="pt") as handle:
            owner = (handle.metadata() or {}).get("model", "")
        stored = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is not whole ({error}); {remedy}") from None
    if lost := [name for name in TENSORS if name not in stored]:
        raise UserError(f"{path} lacks {', '.join(lost)}: it holds no transcoders; {remedy}")
    if owner != model:
        raise UserError(f"{path} holds transcoders of {owner or 'an unknown model'}, not of {model}; train them on it")
    if (found_shape := tuple(stored["b_dec"].shape)) != (layers, d_model):
        raise UserError(
            f"{path} holds transcoders for {found_shape[0]} layers of width {found_shape[1]}, but {model} has {layers} "
            f"of width {d_model}; {remedy}"
        )
    found = []
    for layer in range(layers):
        about = About("transcoder", model, f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.hook_mlp_out")
        own = {name: value[layer] for name, value in stored.items()}
        found.append(Sae(about, "jumprelu", **own, centred=False))
    return found


if __name__ == "__main__":
    run_step(language_train)
