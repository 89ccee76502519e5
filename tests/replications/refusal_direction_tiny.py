"""Chat models of four random blocks, and three prompts for them."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from replications.refusal_direction.chat import padded

VOCABULARY, WIDTH, LAYERS = 50, 16, 4
FAMILIES = ("llama", "qwen2", "gemma")  # plain; queries, keys and values with biases; scaled embeddings, norms of 1 + w


def tiny_model(family="llama"):
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": WIDTH // 4}
    config = AutoConfig.for_model(family, **shape, **heads, tie_word_embeddings=True)
    tiny = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for weight in tiny.parameters():
        weight.copy_(8 * weight if weight.ndim > 1 else torch.rand(weight.shape) + 0.5)  # far from linear; norms scale
    return tiny


def tiny_batch():
    return padded([[1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12]])
