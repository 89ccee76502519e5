"""The push towards a topic's words through all layers: the steepest way, the sink left out."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from common.interp.generation import edited
from replications.feature_steering.gradient import LEAST, word_gradient
from replications.feature_steering.vectors import unit

HOOK, WIDTH = "blocks.1.hook_resid_pre", 16
PROMPTS, ANSWERS = [[1, 5, 9], [2, 7]], torch.tensor([[3, 4, 8, 6], [11, 3, 2, 10]])
TOKENS = torch.zeros(20, 3)
TOKENS[[4, 7, 12, 3], [0, 0, 1, 2]] = 1.0


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, initializer_range=0.4, **shape)).double().requires_grad_(False)


def likely(model, vector):
    """Mean over answers of the mean log-probability of each topic's words, as written out by hand."""
    found = []
    for prompt, answer in zip(PROMPTS, ANSWERS.tolist(), strict=True):
        ids = torch.tensor([prompt + answer])

        def add(x):
            x = x.clone()
            x[0, 1:] += vector
            return x

        with torch.no_grad(), edited(model, HOOK, add):
            p = model(ids).logits[0].double().softmax(-1)
        found.append((p[len(prompt) - 1 : -1] @ TOKENS.double() + LEAST).log().mean(0))
    return torch.stack(found).mean(0)


def test_the_gradient_is_the_slope_over_that_of_the_other_topics(model):
    found = word_gradient(model, PROMPTS, ANSWERS, HOOK, TOKENS).double()
    eye, step = torch.eye(WIDTH, dtype=torch.float64), 1e-2
    slopes = torch.stack([(likely(model, step * e) - likely(model, -step * e)) / (2 * step) for e in eye], 1)
    expected = unit(torch.stack([slopes[k] - slopes[[j for j in range(3) if j != k]].mean(0) for k in range(3)]))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert float(expected[0] @ expected[1]) < 0.5, "topics differ"
