"""Step: attribution graphs of a language model on single prompts, as pages, JSON and tables."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from common.core.errors import UserError
from common.core.files import write_json, write_text
from common.core.metrics import Metric, write_metrics
from common.core.statistics import without_interval
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.corpora import judging_split
from common.data.models import encode, load_model, load_tokenizer
from common.saes.browser import filled
from common.saes.harvest import Windows, run_to_hook, windows
from common.saes.sae import Sae
from replications.circuit_tracing.export import Described, view
from replications.circuit_tracing.graph import attribute
from replications.circuit_tracing.heads import carried, strongest_heads, written_at_end
from replications.circuit_tracing.influence import Layout, scores
from replications.circuit_tracing.language_ablations import ablate, ablations, of_prompt
from replications.circuit_tracing.language_frozen import freeze_prompt
from replications.circuit_tracing.language_train import load_transcoders
from replications.circuit_tracing.settings import Language

CONTEXTS, BEFORE, AFTER = 4, 8, 3
HEADS = 8  # of each logit
SITES, EACH = 30, 10  # layers and positions from which features are drawn, and features of each


class LanguageFiles(Files):
    manifest: Path
    docs: Path
    chat: Path
    transcoders: Path
    table: Path
    template: Path
    metrics: Path
    graphs: Path
    """numbers of each graph"""
    heads: Path
    """heads that carry most to each logit of a graph"""
    carried: Path
    """what every head carries to the likeliest token's logit, and how much it writes"""
    ablations: Path
    """features ablated one by one"""
    pages: list[Path]
    tracers: list[Path]


@torch.no_grad()
def language(files: LanguageFiles, settings: Language, run: RunInfo) -> None:
    """Writes a page and a JSON for each prompt, and the metrics, when all are made."""
    folder = files.manifest.parent
    bridge, tokenizer = load_model(folder), load_tokenizer(folder)
    prompts = {name: prompt_tokens(tokenizer, name, text, bridge.cfg.n_ctx) for name, text in settings.prompts.items()}
    saes = load_transcoders(files.transcoders, folder.name, bridge.cfg.n_layers, bridge.cfg.d_model)
    words = [tokenizer.decode([token]) for token in range(bridge.cfg.d_vocab)]
    sources = [files.docs.parent, files.chat.parent]
    held = windows(
        sources, judging_split(run.seeds), tokenizer, settings.window, [settings.held_out_tokens] * 2, per_document=1
    )
    texts = activations(bridge, held, saes)
    rows, views, heads, every, ablated = [], [], [], [], []
    metrics: dict[str, Metric] = {}
    for number, (name, tokens) in enumerate(prompts.items()):
        graph = attribute(freeze_prompt(bridge, tokens), saes, most=settings.most)
        describe = describer(graph.features.layer, graph.features.latent, texts, held, words)
        made = view(
            graph, words, slug=name, title=f"{folder.name}: {name}", scan=f"{folder.name}-transcoders",
            d_sae=saes[0].d_sae, describe=describe,
        )  # fmt: skip
        views.append(made)
        found = scores(
            graph.adjacency, graph.logit_weights(), Layout(graph.n_features, graph.first_embedding, graph.first_logit)
        )
        rows.append({
            "prompt": name, "features": graph.n_features, "kept": int(made.pruned.nodes[: graph.n_features].sum()),
            "completeness": found.completeness, "replacement": found.replacement,
            "top": words[int(graph.logit_tokens[0])], "probability": float(graph.probabilities[0]),
        })  # fmt: skip
        print(rows[-1], flush=True)
        middle = graph.frozen.W_U.mean(1)
        for logit in graph.logit_tokens.tolist():
            found_heads = strongest_heads(graph.frozen, graph.frozen.W_U[:, logit] - middle, words, HEADS)
            heads += [{"prompt": name, "logit": words[logit], **one} for one in found_heads]
        whole = carried(graph.frozen, graph.frozen.W_U[:, graph.logit_tokens[0]] - middle).sum(-1)
        wrote = written_at_end(graph.frozen)
        every += [
            {"prompt": name, "layer": layer, "head": head, "carried": float(value), "wrote": float(wrote[layer, head])}
            for (layer, head), value in np.ndenumerate(whole.numpy())
        ]
        single, own = ablations(graph, ablate(bridge, graph, SITES, EACH, of_prompt(run.seeds, number)), run.seeds[0])
        ablated += [{"prompt": name, **one} for one in single]
        metrics |= {f"{key}_{name}": metric for key, metric in own.items()}
        for key in ("completeness", "replacement"):
            value = float(str(rows[-1][key]))
            metrics[f"{key}_{name}"] = without_interval(value, 1, "share", f"{key} of one graph")
    template = files.template.read_text("utf-8")
    for made, page, tracer in zip(views, files.pages, files.tracers, strict=True):
        write_text(page, filled(template, made.page))
        write_json(tracer, made.tracer.model_dump(mode="json"))
    write_table(files.graphs, rows)
    write_table(files.heads, heads)
    write_table(files.carried, every)
    write_table(files.ablations, ablated)
    write_metrics(files.metrics, metrics)


def prompt_tokens(tokenizer: "object", name: str, prompt: str, most: int) -> Int[Tensor, " pos"]:
    """Tokens of a prompt. UserError for one of less than two tokens, and one longer than the context, `most`."""
    found = encode(tokenizer, prompt)
    if len(found) < 2:
        raise UserError(
            f"the prompt '{name}' is {'a single token' if found else 'empty'}, and position 0 has no features; give it "
            "two tokens or more (language.prompts in config.yaml)"
        )
    if len(found) > most:
        raise UserError(
            f"the prompt '{name}' has {len(found)} tokens, more than the model's context of {most}; shorten it "
            "(language.prompts in config.yaml)"
        )
    return torch.tensor(found)


def activations(bridge: "object", text: Windows, saes: list[Sae]) -> list[Tensor]:
    """Of each layer, features [window pos feature] on held-out text, in half precision, 0 where nothing is read."""
    found = [torch.zeros(*text.tokens.shape, sae.d_sae, dtype=torch.float16) for sae in saes]
    hooks = {f"blocks.{layer}.mlp.hook_in": layer for layer in range(len(saes))}
    for row in range(len(text.tokens)):
        tokens = text.tokens[row][text.real[row]][None]
        seen = run_to_hook(bridge, tokens, torch.ones_like(tokens, dtype=torch.bool), hooks)
        for layer, (name, sae) in enumerate(zip(hooks, saes, strict=True)):
            acts = sae.encode(seen[name][0].float()).half()
            acts[0] = 0
            found[layer][row, : len(acts)] = acts
    return found


def describer(
    layers: Tensor, latents: Tensor, texts: list[Tensor], held: Windows, words: list[str]
) -> Callable[[int], Described]:
    """Names features by the tokens on which they fire most, with contexts from held-out text."""

    def describe(node: int) -> Described:
        acts = texts[int(layers[node])][..., int(latents[node])].float()
        best = acts.flatten().topk(CONTEXTS)
        contexts, tokens = [], []
        for value, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if value <= 0:
                continue
            row, at = divmod(place, acts.shape[1])
            start, end = max(0, at - BEFORE), min(int(held.real[row].sum()), at + AFTER + 1)
            ids = held.tokens[row, start:end].tolist()
            contexts.append({"words": [words[token] for token in ids], "at": at - start, "value": round(value, 3)})
            tokens.append(words[int(held.tokens[row, at])].strip() or "␣")
        label = " / ".join(dict.fromkeys(tokens)) or "silent on held-out text"
        return Described(label, label if len(set(tokens)) == 1 and len(tokens) == CONTEXTS else "", contexts)

    return describe


if __name__ == "__main__":
    run_step(language)
