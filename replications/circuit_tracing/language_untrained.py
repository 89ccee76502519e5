"""Step: what needs no training in place of the transcoders of a language model, the controls of its graphs.

    untrained   random encoder rows with the threshold that gives the same target L0 on the text they are fitted to, and
                the decoder that reconstructs best from them (dictionaries.py)
    linear      the affine map that reconstructs best, without any feature

Both are ridge regressions on passages that the transcoders were trained on, too, position 0 left out. Their strength is
chosen, layer by layer, on the last fifth of these tokens: in some layers few tokens have huge outputs.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.data.corpora import judging_split
from common.data.models import fast_dtype, load_model, load_tokenizer
from common.saes.harvest import windows
from replications.circuit_tracing.dictionaries import untrained
from replications.circuit_tracing.language_train import judged, load_transcoders, reader, save_transcoders
from replications.circuit_tracing.ridge import STRENGTHS, ridge
from replications.circuit_tracing.settings import Traced


class LanguageUntrainedFiles(Files):
    manifest: Path
    docs: Path
    chat: Path
    transcoders: Path
    untrained: Path
    linear: Path
    """`weight` [layer d_model d_model] and `bias` [layer d_model]"""
    table: Path
    """FVU, L0 and live share by layer, on held-out text"""


@torch.no_grad()
def language_untrained(files: LanguageUntrainedFiles, settings: Traced, run: RunInfo) -> None:
    """Fits all layers, and judges them as the trained ones were."""
    folder, own = files.manifest.parent, settings.language
    bridge, tokenizer = load_model(folder, device=run.device, dtype=fast_dtype()), load_tokenizer(folder)
    trained = load_transcoders(files.transcoders, folder.name, bridge.cfg.n_layers, bridge.cfg.d_model)
    sources = [files.docs.parent, files.chat.parent]
    text = windows(sources, "train", tokenizer, own.window, [own.docs_tokens, own.chat_tokens])
    passage = reader(bridge, text, own.chunk, run.device)
    kept = [[[one.bfloat16() for one in part] for part in passage(at)] for at in range(settings.traces.fitted_passages)]
    found, maps = [], []
    for layer, sae in enumerate(track(trained, "layers")):
        x, y = (torch.cat([passages[part][layer] for passages in kept]).float().cpu() for part in (0, 1))
        found.append(untrained(sae, x, y, own.k, run.seeds[0] * len(trained) + layer, STRENGTHS))
        maps.append(affine(x, y))
    with atomic(files.linear) as temporary:
        weight, bias = (torch.stack(part) for part in zip(*maps, strict=True))
        save_file({"weight": weight, "bias": bias}, temporary)
    save_transcoders(files.untrained, found, folder.name)
    held = windows(sources, judging_split(run.seeds), tokenizer, own.window, [own.held_out_tokens] * 2, per_document=1)
    write_table(files.table, judged(found, reader(bridge, held, own.chunk, run.device), held, own.chunk))


def affine(
    x: Float[Tensor, "token d_in"], y: Float[Tensor, "token d_out"]
) -> tuple[Float[Tensor, "d_in d_out"], Float[Tensor, " d_out"]]:
    """Weight and bias of the ridge regression of y on x."""
    weight = ridge((x - x.mean(0)).double().numpy(), (y - y.mean(0)).double().numpy()).float()
    return weight, y.mean(0) - x.mean(0) @ weight


if __name__ == "__main__":
    run_step(language_untrained)
