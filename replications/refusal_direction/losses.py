"""What ablation costs on text: cross-entropy per token on held-out documents, float32, position 0 left out.

Conditions are `tuned`, and the ways to end refusal of `effects.costly`:
- `ablated`
- `weights`: r taken out of the weights
- `subtracted`: r subtracted before its block, the paper's other way
- `least subtracted`: at the shortest length that ends refusal
- `damage ablated`: the permuted candidate that ends most refusals at any KL
- `cheapest ablated`: of the permuted candidates that end refusal the one of least KL
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from common.data.corpora import Split, read_corpus
from common.data.models import encode
from replications.refusal_direction.directions import Directions
from replications.refusal_direction.effects import costly


def texts(
    manifest: Path, tokenizer: PreTrainedTokenizerBase, count: int, length: int, split: Split
) -> Int[Tensor, "text pos"]:
    """The beginnings of `count` documents of one split, all of `length` tokens, spread over the groups, which follow
    each other in the file."""
    ids = [encode(tokenizer, document.text)[:length] for document in read_corpus(manifest.parent, split)]
    long = [row for row in ids if len(row) == length] or [row + row[: length - len(row)] for row in ids]
    places = np.linspace(0, len(long) - 1, min(count, len(long))).round().astype(int)
    shortest = min(len(long[place]) for place in places)
    return torch.tensor([long[place][:shortest] for place in places])


@torch.inference_mode()
def losses(model: Any, ids: Int[Tensor, "text pos"], batch: int = 8) -> Float[Tensor, " text"]:
    """Mean cross-entropy of each text, nats per token, of the tokens that follow another than the first."""
    found = []
    for some in torch.split(ids.to(model.device), batch):
        hidden = model.model(input_ids=some, use_cache=False).last_hidden_state[:, 1:-1]
        logits = model.lm_head(hidden.flatten(0, 1)).float()
        found.append(F.cross_entropy(logits, some[:, 2:].flatten(), reduction="none").reshape(len(some), -1).mean(1))
    return torch.cat(found)


def measure_losses(model: Any, ids: dict[str, Int[Tensor, "text pos"]], found: Directions) -> pd.DataFrame:
    """Long table: corpus, item, condition, value."""
    conditions: dict[str, AbstractContextManager[None]] = {"tuned": nullcontext(), **costly(model, found)}
    rows: list[tuple[str, int, str, float]] = []
    for condition, intervention in conditions.items():
        with intervention:
            for corpus, batch in ids.items():
                rows += [(corpus, item, condition, value) for item, value in enumerate(losses(model, batch).tolist())]
    return pd.DataFrame(rows, columns=["corpus", "item", "condition", "value"])
