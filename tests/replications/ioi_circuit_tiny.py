"""Tiny random models with a tokenizer that knows the words of the IOI task: minutes of real model in milliseconds."""

import itertools
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from common.claims import ClaimsFile
from common.config import ROOT
from common.decoder import Decoder
from common.files import read_yaml, sha256, write_json
from common.models import Manifest, load_model
from common.records import Metric
from replications.ioi_circuit.dataset import Prompt, Version, draw_prompts, vocabulary
from replications.ioi_circuit.knockout import KnockOut
from replications.ioi_circuit.means import template_means
from replications.ioi_circuit.nodes import Node, NodeSet
from replications.ioi_circuit.wording import NAMES, OBJECTS, PLACES, TEMPLATES

CLAIMS = ClaimsFile.model_validate(read_yaml(ROOT / "replications/ioi_circuit/claims.yaml")).claims
SHAPES = ("gpt2", "llama", "gqa")


@cache
def tiny_tokenizer(names: tuple[str, ...] = NAMES) -> PreTrainedTokenizerFast:
    """A byte-level BPE that writes each of `names` and each noun as one token after a space."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    words = itertools.cycle(names)
    texts = [
        template.format(first=next(words), second=next(words), subject=next(words), place=place, object=thing)
        for template in TEMPLATES
        for place, thing in itertools.product(PLACES, OBJECTS)
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def save_tiny_model(shape: str, folder: Path, seed: int = 0) -> Path:
    """Saves a random model of the given shape, with random norms and biases, and returns its `manifest.json`."""
    tokenizer = tiny_tokenizer()
    size = len(tokenizer)
    model: GPT2LMHeadModel | LlamaForCausalLM
    if shape == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(n_layer=3, n_head=3, n_embd=24, vocab_size=size, n_positions=40, bos_token_id=0, eos_token_id=0)
        )
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads={"llama": 4, "gqa": 2}[shape],
                hidden_size=32,
                intermediate_size=48,
                vocab_size=size,
                max_position_embeddings=40,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name or ("ln_" in name and name.endswith("weight")) else 0.0
            parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    manifest = Manifest(
        name=f"tiny-{shape}", source="local", origin="random", licence="none", processing="random weights", files=files
    )
    write_json(folder / "manifest.json", manifest.model_dump())
    return folder / "manifest.json"


@pytest.fixture(scope="session", params=SHAPES)
def bridge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TransformerBridge:
    return load_model(save_tiny_model(request.param, tmp_path_factory.mktemp(request.param)).parent)


@pytest.fixture(scope="session")
def decoder(bridge: TransformerBridge) -> Decoder:
    return Decoder(bridge, 30)


@pytest.fixture
def no_gradients() -> Iterator[None]:
    """One thread and no gradients, as in the steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


def alone(prompt: Prompt, version: Version) -> Tensor:
    """The prompt without padding, as a batch of one."""
    return torch.tensor([prompt.versions[version].tokens[: prompt.positions.end + 1]])


def tiny_prompts(seeds: list[int]) -> list[Prompt]:
    """One prompt of every template and order for each seed, in the tiny tokenizer's words."""
    return draw_prompts(vocabulary(tiny_tokenizer(), 40), seeds, per_cell=1)


def within(metric: Metric, expected: float, tolerance: float) -> bool:
    return abs(metric.value - expected) < tolerance and metric.ci_high - metric.ci_low < 4 * tolerance


NODES: NodeSet = frozenset({Node(0, 1, "s1_next"), Node(1, 0, "s2"), Node(1, 2, "end"), Node(2, 1, "end")})


@pytest.fixture(scope="session")
def knockout(decoder: Decoder) -> KnockOut:
    """Three prompts of different length."""
    prompts = tiny_prompts([0, 1])
    chosen = [prompts[index] for index in (0, 7, 13)]
    assert len({prompt.positions.end for prompt in chosen}) == 3
    with torch.no_grad():
        return KnockOut(decoder, chosen, template_means(decoder, prompts), "cpu", batch_size=50)
