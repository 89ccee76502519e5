"""Step: takes the direction out of the weights, W <- W - r r^T W for all that writes to the residual stream.

Equal to ablating it at every block and sublayer (Arditi et al. 2024, appendix E), and saved as an ordinary model
folder. With tied embeddings the unembedding would lose the direction too, which ablation does not do: the two are
untied first.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.step import Files, run_step
from common.data.models import load_tokenizer, verify_folder
from replications.refusal_direction.chat import layers, unit
from replications.refusal_direction.folders import load, save


class RemoveFiles(Files):
    tuned: Path
    """`manifest.json` of the tuned model"""
    directions: Path
    """`directions.safetensors` of its study"""
    orthogonalised: Path
    """`manifest.json` of the new model"""


def remove(files: RemoveFiles) -> None:
    """Writes the folder of the tuned model without the direction, float32."""
    model = load(files.tuned, torch.float32, "cpu")
    orthogonalise(model, load_file(files.directions)["r"])
    origin, what = verify_folder(files.tuned.parent), "refusal direction orthogonalised away; embeddings untied"
    save(model, load_tokenizer(files.tuned.parent), files.orthogonalised, origin=origin, processing=what)


def untie(model: Any) -> None:
    """Gives the unembedding weights of its own."""
    head = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = False


@torch.no_grad()
def orthogonalise(model: Any, direction: Float[Tensor, " d_model"]) -> None:
    """Edits the model in place: token embeddings, attention and MLP outputs with their biases."""
    untie(model)
    r = unit(direction.double())

    def edit(matrix: Tensor) -> None:
        """Columns of the matrix are what it can write."""
        matrix.copy_(matrix.double() - torch.outer(r, r @ matrix.double()))

    edit(model.get_input_embeddings().weight.T)
    blocks: Any = layers(model)
    for block in blocks:
        for part in (block.self_attn.o_proj, block.mlp.down_proj):
            edit(part.weight)
            if part.bias is not None:
                edit(part.bias[:, None])


if __name__ == "__main__":
    run_step(remove)
