"""Attribution graphs (Ameisen et al. 2025): which features, embeddings and errors a prompt's logits come from.

Nodes, in circuit-tracer's order: active features, errors [layer pos], embeddings [pos], logits. An edge s -> t is

    A[t, s] = a_s sum_l W_dec_s^l . J^T r_t

where r_t is what t reads with (an encoder row, or an unembedding column less the mean column). J is the Jacobian of the
frozen pass. Hence the defining identity, a test: the edges into t and its bias path sum to t's pre-activation.

All targets of a batch share one backward sweep. From the last layer down, a gradient [target pos d_model] is contracted
with what is written at each layer. Targets join at the layer that they read. Where there are too many features for all
to be targets, those that matter most for the logits are expanded first, as in circuit-tracer. Which these are is asked
anew after every `ROUND`, since the first ones known are those with the largest direct edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.core.errors import UserError
from common.saes.cross_layer import CrossLayerTranscoder
from common.saes.sae import Sae
from replications.circuit_tracing.frozen import FrozenPass
from replications.circuit_tracing.influence import Inputs

LOGIT_SHARE, MOST_LOGITS = 0.95, 10
BATCH = 512  # targets of a sweep
ROUND = 64  # of a sweep, where not all features are expanded
Dictionary = Sequence[Sae] | CrossLayerTranscoder


@dataclass(frozen=True)
class Features:
    """Active features of one prompt; position 0, the attention sink, has none."""

    layer: Int[Tensor, " feature"]
    pos: Int[Tensor, " feature"]
    latent: Int[Tensor, " feature"]
    activation: Float[Tensor, " feature"]
    readers: Float[Tensor, "feature d_model"]
    bias: Float[Tensor, " feature"]
    """of the pre-activation"""
    writers: list[tuple[Int[Tensor, " _"], Float[Tensor, "_ d_model"]]]
    """for each layer, the features that write there, and their decoder rows"""
    constant: Float[Tensor, "layer d_model"]
    """decoder biases"""
    errors: Float[Tensor, "layer pos d_model"]

    def __len__(self) -> int:
        return len(self.layer)

    def write_norm(self) -> Float[Tensor, " feature"]:
        """Length of what each feature writes, over all layers."""
        square = torch.zeros_like(self.activation)
        for which, rows in self.writers:
            square.index_add_(0, which, rows.square().sum(1))
        return self.activation.abs() * square.sqrt()


@dataclass(frozen=True)
class Graph:
    """`adjacency[t, s]` is the edge from s to t. `expanded` features have incoming edges; the others were left out."""

    frozen: FrozenPass
    features: Features
    logit_tokens: Int[Tensor, " logit"]
    probabilities: Float[Tensor, " logit"]
    adjacency: Float[Tensor, "node node"]
    bias: Float[Tensor, " node"]
    """what reaches a feature or logit from no node: biases, and the decoders'"""
    expanded: Int[Tensor, " some"]

    @property
    def n_features(self) -> int:
        return len(self.features)

    @property
    def n_errors(self) -> int:
        return self.frozen.n_layers * self.frozen.length

    @property
    def first_embedding(self) -> int:
        return self.n_features + self.n_errors

    @property
    def first_logit(self) -> int:
        return self.first_embedding + self.frozen.length

    def logit_weights(self) -> Float[Tensor, " node"]:
        """Probabilities at the logit nodes, zero elsewhere."""
        weights = torch.zeros(len(self.adjacency))
        weights[self.first_logit :] = self.probabilities
        return weights

    def kind(self, node: int) -> Literal["feature", "error", "embedding", "logit"]:
        """Which kind of node this is."""
        if node < self.n_features:
            return "feature"
        if node < self.first_embedding:
            return "error"
        return "embedding" if node < self.first_logit else "logit"


def active_features(frozen: FrozenPass, dictionary: Dictionary) -> Features:
    """Features that fire. UserError for a dictionary of another width or depth, or a layer in which none fires."""
    depth, d_model = frozen.n_layers, frozen.embeddings.shape[1]
    count = dictionary.layers if isinstance(dictionary, CrossLayerTranscoder) else len(dictionary)
    if count != depth:
        raise UserError(f"these transcoders are of a model with {count} layers, this one has {depth}; train them on it")
    if isinstance(dictionary, CrossLayerTranscoder):
        wide = frozen.mlp_in.transpose(0, 1).flatten(1)
        acts = list(dictionary.encode(wide).transpose(0, 1))
        encoders, b_enc = list(dictionary.W_enc), list(dictionary.b_enc)
        constant = dictionary.b_dec.reshape(depth, d_model)
    else:
        for place, one in enumerate(dictionary):
            _check(one, place, d_model)
        acts = [one.encode(x) for one, x in zip(dictionary, frozen.mlp_in, strict=True)]
        encoders, b_enc = [one.W_enc.mT for one in dictionary], [one.b_enc for one in dictionary]
        constant = torch.stack([one.b_dec for one in dictionary])
    firing = [one.nonzero() for one in acts]
    firing = [one[one[:, 0] > 0] for one in firing]
    layer = torch.cat([torch.full((len(one),), at) for at, one in enumerate(firing)])
    pos, latent = torch.cat(firing).unbind(1)
    if len(dead := [one for one in range(depth) if not bool((layer == one).any())]):
        raise UserError(f"no feature of layer {dead[0]} fires on this prompt: its transcoder is dead; train it longer")
    readers = torch.stack([encoders[one][at] for one, at in zip(layer.tolist(), latent.tolist(), strict=True)])
    bias = torch.stack([b_enc[one][at] for one, at in zip(layer.tolist(), latent.tolist(), strict=True)])
    writers = []
    for out in range(depth):
        if isinstance(dictionary, CrossLayerTranscoder):
            which = (layer <= out).nonzero()[:, 0]
            rows = dictionary.W_dec.reshape(depth, -1, depth, d_model)[layer[which], latent[which], out]
        else:
            which = (layer == out).nonzero()[:, 0]
            rows = dictionary[out].W_dec[latent[which]]
        writers.append((which, rows))
    errors = frozen.mlp_out - constant[:, None]
    activation = torch.cat([one[at[:, 0], at[:, 1]] for one, at in zip(acts, firing, strict=True)])
    for out, (which, rows) in enumerate(writers):
        errors[out].index_add_(0, pos[which], rows * activation[which, None], alpha=-1)
    return Features(layer, pos, latent, activation, readers, bias, writers, constant, errors)


def _check(sae: Sae, layer: int, d_model: int) -> None:
    if sae.W_enc.shape[0] != d_model or sae.W_dec.shape[1] != d_model:
        raise UserError(
            f"the transcoder of layer {layer} maps {sae.W_enc.shape[0]} to {sae.W_dec.shape[1]} dimensions, this model "
            f"has {d_model}: it belongs to another model; train transcoders on this one"
        )
    named = sae.about.hook.split(".")
    if len(named) > 1 and named[0] == "blocks" and named[1] != str(layer):
        raise UserError(f"the transcoder given for layer {layer} was trained on {sae.about.hook}; put them in order")
    if sae.W_skip is not None or sae.activation == "gated":
        raise UserError(
            f"the transcoder of layer {layer} has a skip path or gates, which a graph does not cover; use a plain one"
        )


def logit_targets(
    frozen: FrozenPass, tokens: Sequence[int] | None = None
) -> tuple[Int[Tensor, " logit"], Float[Tensor, " logit"]]:
    """The likeliest next tokens, up to 95 % of the probability and at most ten; or those asked for.

    UserError for a token that the model lacks.
    """
    p = frozen.logits.softmax(0)
    if tokens is not None:
        if bad := [one for one in tokens if not 0 <= one < len(p)]:
            raise UserError(
                f"the target token {bad[0]} is unknown; choose among this model's tokens, 0 to {len(p) - 1}"
            )
        chosen = torch.tensor(list(tokens))
        return chosen, p[chosen]
    best, order = p.topk(min(MOST_LOGITS, len(p)))
    count = min(len(best), int((best.cumsum(0) < LOGIT_SHARE).sum()) + 1)
    return order[:count], best[:count]


def sweep(
    frozen: FrozenPass,
    features: Features,
    layer: Int[Tensor, " target"],
    pos: Int[Tensor, " target"],
    vectors: Float[Tensor, "target d_model"],
) -> Float[Tensor, "target source"]:
    """Edges into targets that read `vectors` at (layer, pos); layer = n_layers stands for the unembedding."""
    depth, length = frozen.n_layers, frozen.length
    order = layer.argsort(descending=True, stable=True)
    layer, pos, vectors = layer[order], pos[order], vectors[order]
    first_error, first_embedding = len(features), len(features) + depth * length
    rows = torch.zeros(len(layer), first_embedding + length)
    g = torch.zeros(len(layer), length, vectors.shape[1])
    joined = int((layer == depth).sum())
    at = torch.arange(joined)
    g[at, pos[:joined]] = frozen.back_norm(vectors[:joined], frozen.gain_final, frozen.scale_final[pos[:joined]])
    for now in reversed(range(depth)):
        own = g[:joined]
        errors = features.errors[now]
        rows[:joined, first_error + now * length : first_error + (now + 1) * length] = (own * errors).sum(-1)
        which, written = features.writers[now]
        for place in sorted(set(features.pos[which].tolist())):
            here = features.pos[which] == place
            scaled = written[here] * features.activation[which[here], None]
            rows[:joined, which[here]] += own[:, place] @ scaled.mT
        end = int((layer >= now).sum())
        new = torch.arange(joined, end)
        g[new, pos[new]] = frozen.back_norm(vectors[new], frozen.gain_mlp[now], frozen.scale_mlp[now, pos[new]])
        joined = end
        if joined:
            g[:joined] += frozen.back_attention(now, g[:joined])
    rows[:, first_embedding:] = (g * frozen.embeddings).sum(-1)
    back = torch.empty_like(rows)
    back[order] = rows
    return back


def attribute(
    frozen: FrozenPass, dictionary: Dictionary, *, tokens: Sequence[int] | None = None, most: int | None = None
) -> Graph:
    """The graph of a prompt. `tokens`: logits to explain; `most`: features at most that get incoming edges."""
    features = active_features(frozen, dictionary)
    targets, probabilities = logit_targets(frozen, tokens)
    depth, count = frozen.n_layers, len(features)
    vectors = (frozen.W_U[:, targets] - frozen.W_U.mean(1, keepdim=True)).mT
    size = count + depth * frozen.length + frozen.length + len(targets)
    sources, wanted = size - len(targets), count if most is None else min(most, count)
    last = torch.full((len(targets),), frozen.length - 1)
    nodes = torch.cat([torch.arange(sources, size), torch.zeros(wanted, dtype=torch.long)])
    rows, known = torch.zeros(len(nodes), size), len(targets)
    rows[:known, :sources] = sweep(frozen, features, torch.full_like(last, depth), last, vectors)
    weights = torch.zeros(size)
    weights[sources:] = probabilities
    done = torch.zeros(count, dtype=torch.bool)
    while known < len(nodes):
        if wanted == count:
            chosen = (~done).nonzero()[:BATCH, 0]
        else:
            score = Inputs.of_rows(nodes[:known], rows[:known]).influence(weights)[:count].masked_fill(done, -1.0)
            chosen = score.topk(min(ROUND, len(nodes) - known)).indices
        new = slice(known, known + len(chosen))
        nodes[new] = chosen
        rows[new, :sources] = sweep(
            frozen, features, features.layer[chosen], features.pos[chosen], features.readers[chosen]
        )
        done[chosen] = True
        known += len(chosen)
    adjacency = torch.zeros(size, size)
    adjacency[nodes] = rows
    return Graph(
        frozen, features, targets, probabilities, adjacency, _bias(frozen, features, vectors), done.nonzero()[:, 0]
    )


def _bias(frozen: FrozenPass, features: Features, vectors: Float[Tensor, "logit d_model"]) -> Float[Tensor, " node"]:
    """What biases alone give each feature and logit."""
    silent = torch.zeros_like(frozen.embeddings)
    writes = features.constant[:, None].expand_as(frozen.mlp_out)
    read, final = frozen.forward(silent, writes)
    own = (read[features.layer, features.pos] * features.readers).sum(-1) + features.bias
    others = torch.zeros(frozen.n_layers * frozen.length + frozen.length)
    return torch.cat([own, others, vectors @ final[-1]])
