"""The two-hop task: a name of two tokens stands for a class, and a relation asks for the class's answer.

    <start> first last relation  ->  answer = ANSWERS[relation, CLASSES[first, last]]

The shape of "the capital of the state containing Dallas" (Lindsey et al. 2025). The first hop is a lookup of the pair
(first, last), the second one of the pair (class, relation). CLASSES is a random table in which every class has as many
names; in ANSWERS each relation is a permutation of the answers. Some triples are held out. All names and all pairs of
class and relation occur in training. So a model that answers the held-out ones has found the class in between.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from replications.circuit_tracing.settings import Task

START, FIRST, LAST, RELATION = range(4)  # positions
LENGTH = 4


class Tables(NamedTuple):
    """The tables of one seed, all prompts, and which of them are held out."""

    classes: Int[Tensor, "first last"]
    answers: Int[Tensor, "relation class"]
    prompts: Int[Tensor, "prompt 4"]
    correct: Int[Tensor, " prompt"]
    """token of the right answer"""
    word: Int[Tensor, " prompt"]
    """token of the class of the name"""
    middle: Int[Tensor, " prompt"]
    """class of the name"""
    held_out: Bool[Tensor, " prompt"]


def vocabulary(task: Task) -> list[str]:
    """Words of all tokens, in order."""
    named = [
        ("first", task.names), ("last", task.names), ("relation", task.relations), ("answer", task.classes),
        ("class", task.classes),
    ]  # fmt: skip
    return ["<start>", *(f"{kind} {at}" for kind, count in named for at in range(count))]


def tables(task: Task, seed: int) -> Tables:
    """The task of one seed."""
    draw = torch.Generator().manual_seed(seed)
    names, classes, relations = task.names, task.classes, task.relations
    flat = torch.arange(names * names) % classes
    table = flat[torch.randperm(names * names, generator=draw)].reshape(names, names)
    answers = torch.stack([torch.randperm(classes, generator=draw) for _ in range(relations)])
    first, last, relation = torch.meshgrid(
        torch.arange(names), torch.arange(names), torch.arange(relations), indexing="ij"
    )
    first, last, relation = first.flatten(), last.flatten(), relation.flatten()
    middle = table[first, last]
    start = torch.zeros_like(first)
    prompts = torch.stack([start, 1 + first, 1 + names + last, 1 + 2 * names + relation], dim=1)
    correct = 1 + 2 * names + relations + answers[relation, middle]
    word = 1 + 2 * names + relations + classes + middle
    held = torch.zeros(len(first), dtype=torch.bool)
    held[torch.randperm(len(first), generator=draw)[: round(task.held_out * len(first))]] = True
    return Tables(table, answers, prompts, correct, word, middle, held)
