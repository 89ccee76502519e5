"""Does the refusal score measure refusal? AUROC of requests to be refused against harmless ones, on held-out topics.

pooled      the refusal metric: log odds of all refusal tokens together
opening     log probability of one refusal token alone, for each token
held out    log probability of the first tokens of refusal texts that the model was never shown
permuted    the refusal metric with labels permuted
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from common.models import encode
from common.statistics import auroc
from replications.refusal_direction.chat import chat_ids, last_logits, padded, refusal_metric
from replications.refusal_direction.directions import Subject
from replications.refusal_direction.lists import Line, first_word

PERMUTATIONS = 20
TEXT_TOKENS = 4
TEXT_PROMPTS = 12


def area(positive: Tensor, negative: Tensor) -> float:
    """Area under the ROC curve."""
    scores = torch.cat([positive, negative])
    return float(auroc(scores.cpu().numpy(), np.arange(len(scores)) < len(positive)))


def measure_openings(subject: Subject, count: int) -> pd.DataFrame:
    """One row per score: kind, opening, auroc. On the first `count` held-out requests of each class."""
    model, tokenizer, prompts, tokens = subject.tuned, subject.tokenizer, subject.prompts, subject.tokens
    lines = {"on": prompts.switch.test[:count], "off": prompts.harmless.test[:count]}
    logits = {key: last_logits(model, subject.batch(part)) for key, part in lines.items()}
    pooled = {key: refusal_metric(value, tokens) for key, value in logits.items()}
    rows = [("pooled", "all", area(pooled["on"], pooled["off"]))]
    alone = {key: F.log_softmax(value, -1)[:, tokens] for key, value in logits.items()}
    for place, token in enumerate(tokens.tolist()):
        rows.append(("opening", tokenizer.decode([token]), area(alone["on"][:, place], alone["off"][:, place])))
    texts = {first_word(text): text for text in prompts.refusals_held_out}
    for word, text in texts.items():
        scores = {key: continuation(model, tokenizer, part[:TEXT_PROMPTS], text) for key, part in lines.items()}
        rows.append(("held out", word, area(scores["on"], scores["off"])))
    both, draws = torch.cat([pooled["on"], pooled["off"]]).cpu(), np.random.default_rng(0)
    mixed = []
    for _ in range(PERMUTATIONS):
        order = torch.from_numpy(draws.permutation(len(both)))
        mixed.append(area(both[order[: len(pooled["on"])]], both[order[len(pooled["on"]) :]]))
    rows.append(("permuted", "all", float(np.mean(mixed))))
    return pd.DataFrame(rows, columns=["kind", "opening", "auroc"])


@torch.inference_mode()
def continuation(
    model: Any, tokenizer: PreTrainedTokenizerBase, lines: list[Line], text: str
) -> Float[Tensor, " line"]:
    """Log probability of the first tokens of `text` as the answer to each request."""
    ids = encode(tokenizer, text)[:TEXT_TOKENS]
    batch = padded([chat_ids(tokenizer, line.text) + ids for line in lines], model.device.type)
    out = model.model(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.places, use_cache=False)
    hidden = out.last_hidden_state[:, -len(ids) - 1 : -1]
    log_p = F.log_softmax(model.lm_head(hidden.flatten(0, 1)).float(), -1).reshape(len(lines), len(ids), -1)
    return log_p.gather(-1, batch.ids[:, -len(ids) :, None])[..., 0].sum(-1)
