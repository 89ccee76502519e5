"""A suffix behind a request that ends refusal, by greedy coordinate gradient (Zou et al. 2023, arXiv 2307.15043).

Minimised is the mean refusal metric of the answer's first token over some requests; there is no target text. Each step
tries swaps of one token of the suffix and keeps the best of them, at a place drawn at random. With the gradient, tokens
come from those that lower the objective most to first order; without it, from all. The best suffix of all steps is
returned. Tokens are put together by their numbers: the text that they spell may be encoded otherwise.
"""

from typing import Any, NamedTuple

import torch
from einops import reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from replications.refusal_direction.chat import padded, refusal_metric
from replications.refusal_direction.prefixes import trees
from replications.refusal_direction.search import TREE, end_logits
from replications.refusal_direction.settings import SuffixSettings


class Asking(NamedTuple):
    """Requests in chat format, without padding, and the number of template tokens behind the instruction."""

    prompts: list[list[int]]
    tail: int

    def ending(self, suffix: list[int]) -> list[list[int]]:
        """With the suffix behind the instruction."""
        return [ids[: -self.tail] + suffix + ids[-self.tail :] for ids in self.prompts]


class Suffix(NamedTuple):
    """Token ids, and the mean refusal metric of the requests that they were chosen on, in nats."""

    ids: list[int]
    metric: float


def plain_tokens(tokenizer: PreTrainedTokenizerBase, size: int) -> Bool[Tensor, " token"]:
    """Of `size` tokens, those that spell printable ASCII and are not special, with or without a role in chats."""
    texts = tokenizer.batch_decode([[number] for number in range(len(tokenizer))])
    added = {at for at, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = added | set(tokenizer.all_special_ids)
    plain = [text.isascii() and text.isprintable() and at not in special for at, text in enumerate(texts)]
    return torch.tensor((plain + [False] * size)[:size])


def find_suffix(
    model: Any,
    asking: Asking,
    tokens: Int[Tensor, " refusal"],
    allowed: Bool[Tensor, " token"],
    settings: SuffixSettings,
    draws: torch.Generator,
    *,
    guided: bool,
) -> Suffix:
    """The best suffix that was tried, from `random_suffix` on; `guided` by the gradient, or by none."""
    now = random_suffix(allowed, settings.tokens, draws)
    best = Suffix(now, float(objective(model, asking, [now], tokens)[0]))
    everything = torch.nonzero(allowed)[:, 0].expand(settings.tokens, -1)
    for _ in range(settings.steps):
        pool = everything
        if guided:
            slopes = gradient(model, asking, now, tokens).cpu().masked_fill(~allowed, torch.inf)
            pool = slopes.topk(min(settings.top, int(allowed.sum())), largest=False).indices
        places = torch.randint(settings.tokens, (settings.swaps,), generator=draws)
        chosen = pool[places, torch.randint(pool.shape[1], (settings.swaps,), generator=draws)]
        tried = torch.tensor(now).repeat(settings.swaps, 1).scatter(1, places[:, None], chosen[:, None]).tolist()
        metrics = objective(model, asking, tried, tokens)
        least = int(metrics.argmin())
        now = tried[least]
        best = min(best, Suffix(now, float(metrics[least])), key=lambda suffix: suffix.metric)
    return best


def random_suffix(allowed: Bool[Tensor, " token"], length: int, draws: torch.Generator) -> list[int]:
    """Tokens drawn alike from those that are allowed."""
    plain = torch.nonzero(allowed)[:, 0]
    return plain[torch.randint(len(plain), (length,), generator=draws)].tolist()


def objective(
    model: Any, asking: Asking, suffixes: list[list[int]], tokens: Int[Tensor, " refusal"]
) -> Float[Tensor, " suffix"]:
    """Mean refusal metric over the requests behind which each suffix stands, float64."""
    prompts = [ids for suffix in suffixes for ids in asking.ending(suffix)]
    found = torch.empty(len(prompts), dtype=torch.float64)
    for tree in trees(model, prompts, TREE):
        found[tree.prompts.cpu()] = refusal_metric(end_logits(model, tree), tokens)[0].cpu()
    return reduce(found, "(suffix request) -> suffix", "mean", suffix=len(suffixes))


def gradient(
    model: Any, asking: Asking, suffix: list[int], tokens: Int[Tensor, " refusal"]
) -> Float[Tensor, "place token"]:
    """Derivative of the objective with respect to the share of every token at every place of the suffix (one-hot)."""
    batch = padded(asking.ending(suffix), model.device)
    read = model.get_input_embeddings()
    table = read(torch.arange(read.num_embeddings, device=model.device)).detach()  # some models scale what they read
    one_hot = torch.nn.functional.one_hot(torch.tensor(suffix, device=model.device), len(table)).to(table.dtype)
    with torch.enable_grad():
        one_hot.requires_grad_()
        x = read(batch.ids).detach().clone()
        x[:, -asking.tail - len(suffix) : -asking.tail] = one_hot @ table
        states = model.model(
            inputs_embeds=x, attention_mask=batch.mask, position_ids=batch.places, use_cache=False
        ).last_hidden_state
        refusal_metric(model.lm_head(states[:, -1]).float(), tokens).mean().backward()  # type: ignore[no-untyped-call]
    assert one_hot.grad is not None
    return one_hot.grad
