"""A chat model of four random blocks, and three prompts for it."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from replications.refusal_direction.chat import padded

VOCABULARY, WIDTH, LAYERS = 50, 16, 4


def tiny_model():
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY}
    config = LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    tiny = LlamaForCausalLM(config).eval().requires_grad_(False)
    for weight in tiny.parameters():
        weight.mul_(8 if weight.ndim > 1 else torch.rand(weight.shape) + 0.5)  # far from linear; norms that scale
    return tiny


def tiny_batch():
    return padded([[1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12]])
