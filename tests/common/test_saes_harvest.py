"""Harvest: which tokens are dropped. What needs a language model is in the tests of the replication."""

from types import SimpleNamespace

import torch

from common.saes import harvest


def test_tokens_of_outlying_norm_are_dropped_at_every_hook(monkeypatch):
    """Above ten times the median norm at any hook: one of 10.5 goes, one of 9.5 stays, hooks remain aligned."""
    tokens = torch.arange(100, 136).reshape(3, 12)
    hooks = ["blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre"]
    norms = {hook: torch.full((200,), 2.0) for hook in hooks}
    norms[hooks[0]][[105, 117, 112]] = torch.tensor([21.0, 19.0, 999.0])  # the last one is the first of its window
    norms[hooks[1]][130] = 21.0

    def planted(bridge, tokens, real, layers):
        return {hook: torch.stack([norms[hook][tokens], torch.zeros(tokens.shape)], -1) for hook in layers}

    monkeypatch.setattr(harvest, "run_to_hook", planted)
    monkeypatch.setattr(harvest, "AT_ONCE", 4)
    source = harvest.Windows(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.arange(3))
    found = harvest.harvest(SimpleNamespace(hook_dict=dict.fromkeys(hooks)), source, hooks, [0], 2, "cpu")
    left = sorted(set(range(100, 136)) - {100, 112, 124} - {105, 130})
    for hook in hooks:
        assert sorted(found[hook].token_id.tolist()) == left
        assert found[hook].dropped == {"first position": 3, "special token": 0, "outlier": 2}
        assert torch.equal(found[hook].x[:, 0], norms[hook][found[hook].token_id])
