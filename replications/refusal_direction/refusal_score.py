"""Does the refusal score measure refusal? AUROC of requests to be refused against harmless ones, on held-out topics.

pooled      the refusal metric: log odds of all refusal tokens together
token       log probability of one refusal token alone, for each token
trained     log probability of one first token of the refusal texts that the model was shown, for each token; with
            `scored` 0 where it is none of the refusal tokens, and `share`, its mean probability on requests to be
            refused
held out    log probability of the first tokens of refusal texts that the model was never shown, on a few requests
permuted    the refusal metric with labels permuted

All but `held out` need no pass of their own: they read the first tokens of the answers.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from common.core.statistics import auroc
from common.data.models import encode
from replications.refusal_direction.chat import chat_ids, padded, refusal_metric
from replications.refusal_direction.directions import Subject
from replications.refusal_direction.lists import Line, first_word

PERMUTATIONS = 20
TEXT_TOKENS = 4


def area(positive: Tensor, negative: Tensor) -> float:
    """Area under the ROC curve."""
    scores = torch.cat([positive, negative])
    return float(auroc(scores.cpu().numpy(), np.arange(len(scores)) < len(positive)))


def measure_score(
    subject: Subject, on: Float[Tensor, "line d_vocab"], off: Float[Tensor, "other d_vocab"], text_prompts: int
) -> pd.DataFrame:
    """One row per score: kind, token, auroc, share, scored.

    Args:
        subject: the refusing model.
        on: logits of the first tokens on held-out requests to be refused.
        off: the same on harmless requests.
        text_prompts: requests per class for `held out`, which is left out with 0.
    """
    tokenizer, prompts, tokens = subject.tokenizer, subject.prompts, subject.tokens
    pooled = [refusal_metric(logits, tokens) for logits in (on, off)]
    alone = [F.log_softmax(logits, -1) for logits in (on, off)]
    rows: list[dict[str, str | float]] = [{"kind": "pooled", "token": "all", "auroc": area(*pooled)}]
    trained = dict.fromkeys(encode(tokenizer, text)[0] for text in prompts.refusals)
    for kind, some in (("token", tokens.tolist()), ("trained", list(trained))):
        for token in some:
            row = {"kind": kind, "token": tokenizer.decode([token]), "scored": int(token in tokens)}
            scores = [log_p[:, token] for log_p in alone]
            rows.append(row | {"auroc": area(*scores), "share": float(scores[0].exp().mean())})
    lines = [part.test[:text_prompts] for part in (prompts.switch, prompts.harmless)]
    unseen = {first_word(text): text for text in prompts.refusals_held_out} if text_prompts else {}
    for word, text in unseen.items():
        scores = [continuation(subject.tuned, tokenizer, part, text) for part in lines]
        rows.append({"kind": "held out", "token": word, "auroc": area(*scores)})
    both, draws, mixed = torch.cat(pooled).cpu(), np.random.default_rng(0), []
    for _ in range(PERMUTATIONS):
        order = torch.from_numpy(draws.permutation(len(both)))
        mixed.append(area(both[order[: len(on)]], both[order[len(on) :]]))
    rows.append({"kind": "permuted", "token": "all", "auroc": float(np.mean(mixed))})
    return pd.DataFrame(rows)


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
