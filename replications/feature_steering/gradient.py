"""What a topic's words themselves ask for: to first order, the direction along which they become likelier fastest.

It sees no text about the topic but through these words, so what it reaches is reached by pushing towards words. For
every topic it is the gradient, at zero, of the mean over positions of log p(words of the topic), with respect to a
vector added at the hook at every position of prompt and answer but the first; less the mean over the other topics. The
positions are those of unsteered answers to the questions on which latents are chosen, one draw for all topics.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.interp.generation import edited, unembedded
from replications.feature_steering.vectors import over_others, unit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LEAST = 1e-6  # added to the probability, so that words that cannot come ask for nothing


def word_gradient(
    model: "PreTrainedModel",
    prompts: list[list[int]],
    answers: Int[Tensor, "prompt new"],
    hook: str,
    tokens: Float[Tensor, "d_vocab topic"],
) -> Float[Tensor, "topic d_model"]:
    """The gradient of every topic over the mean of the others', unit length. `model` in float32; `answers` follow the
    prompts, `tokens` has 1 where a token begins a word of the topic."""
    found = torch.zeros(tokens.shape[1], model.config.hidden_size)
    for prompt, answer in zip(prompts, answers.tolist(), strict=True):
        added = torch.zeros(model.config.hidden_size, device=model.device, requires_grad=True)

        def add(x: Tensor, v: Tensor = added) -> Tensor:
            return torch.cat([x[:, :1], x[:, 1:] + v], 1)

        with torch.enable_grad(), edited(model, hook, add):
            read = torch.tensor([[*prompt, *answer]], device=model.device)
            hidden = model.base_model(input_ids=read, use_cache=False).last_hidden_state[0, len(prompt) - 1 : -1]
            share = unembedded(model, hidden).softmax(-1) @ tokens.to(read.device)
            for topic, likely in enumerate((share + LEAST).log().mean(0)):
                found[topic] += torch.autograd.grad(likely, added, retain_graph=True)[0].cpu()
    return unit(over_others(found))
