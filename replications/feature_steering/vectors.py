"""Steering vectors, all made from the same conversations on the topics; latents and nulls; the linear judge.

diff_means        mean token of the topic minus mean token of the others (Marks and Tegmark 2023; CAA)
probe             weights of a ridge regression on conversation means
word_vector       what raises the logits of the topic's words most, over those of other topics' words, straight through
                  the unembedding: the trivial way to make a model say them
word_gradient     along which these words become likelier fastest, through all layers between (`gradient`)
sae_input         the latent that reads the topic best: share of its value that falls on the topic's conversations,
                  times the share of these on which it fires
sae_output        of a pool of latents, such ones and those that topics raise most, the one that makes the model write
                  about the topic (`steer`)
sae_sum_<n>       sum of the n decoder rows that the topic raises most, each as far as the topic raises its latent
random_latent     of a pool of random live latents of equal size, chosen in the same way
random_direction  of a pool of Gaussian directions with the covariance of the tokens, chosen in the same way
"""

import torch
from einops import reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

RIDGE = 1.0
OTHERS, LEAST = 3.0, 1e-3  # weight of the other topics in the reading score; keeps silent latents at 0


def unit(v: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
    """Rows of length 1."""
    return torch.nn.functional.normalize(v, dim=-1)


def over_others(means: Float[Tensor, "topic n"]) -> Float[Tensor, "topic n"]:
    """Each topic's values minus the mean of the other topics'."""
    return means - (means.sum(0) - means) / (len(means) - 1)


def difference_of_means(x: Float[Tensor, "topic text pos d_model"]) -> Float[Tensor, "topic d_model"]:
    """Of every topic against the mean of the others, unit length."""
    means = reduce(x, "topic text pos d_model -> topic d_model", "mean")
    return unit(over_others(means))


def word_vector(
    unembedding: Float[Tensor, "d_vocab d_model"],
    gain: Float[Tensor, " d_model"],
    tokens: Float[Tensor, "d_vocab topic"],
) -> Float[Tensor, "topic d_model"]:
    """Mean unembedding row of the tokens that begin a topic's words minus that of other topics, through the last norm's
    gain; unit length."""
    return unit(over_others(tokens.T @ unembedding / tokens.sum(0)[:, None].clamp(min=1.0)) * gain)


def fit_probe(
    x: Float[Tensor, "topic text d_model"], strength: float = RIDGE
) -> tuple[Float[Tensor, "d_model topic"], Float[Tensor, " topic"]]:
    """Ridge regression of each topic's indicator on standardised text means: weights and offsets, float64."""
    topics, texts = x.shape[:2]
    flat = x.double().flatten(0, 1)
    mean, scale = flat.mean(0), flat.std(0) + 1e-6
    z = (flat - mean) / scale
    target = torch.eye(topics, dtype=torch.float64).repeat_interleave(texts, 0)
    gram = z.T @ z + strength * len(z) * torch.eye(z.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, z.T @ (target - target.mean(0))) / scale[:, None]
    return weights, target.mean(0) - mean @ weights


def reading(latents: Float[Tensor, "topic text pos d_sae"]) -> Float[Tensor, "topic d_sae"]:
    """How well each latent reads each topic."""
    texts = latents.mean(2)
    means, fires = texts.mean(1), (texts > 0).float().mean(1)
    others = (means.sum(0) - means) / (len(means) - 1)
    return fires * means / (means + OTHERS * others + LEAST * means.max())


def raised(
    latents: Float[Tensor, "topic text pos d_sae"], rows: Float[Tensor, "d_sae d_model"]
) -> Float[Tensor, "topic d_sae"]:
    """How far each topic raises each latent over the other topics, as a length in the residual stream."""
    means = reduce(latents, "topic text pos d_sae -> topic d_sae", "mean")
    return over_others(means).relu() * rows.norm(dim=1)  # type: ignore[no-any-return]


def candidates(
    latents: Float[Tensor, "topic text pos d_sae"], rows: Float[Tensor, "d_sae d_model"], count: int
) -> Int[Tensor, "topic candidate"]:
    """For each topic the latent that reads it best, and the others that it raises most."""
    best = reading(latents).argmax(1, keepdim=True)
    others = raised(latents, rows).scatter(1, best, -1.0).topk(count - 1, 1).indices
    return torch.cat([best, others], 1)


def sum_of_rows(
    latents: Float[Tensor, "topic text pos d_sae"], rows: Float[Tensor, "d_sae d_model"], count: int
) -> Float[Tensor, "topic d_model"]:
    """What the `count` latents that the topic raises most, over the other topics, write together; unit length.

    With all latents, falling ones too, this would be the difference of means but for the SAE's error.
    """
    up = raised(latents, rows)
    best = up.topk(min(count, up.shape[1]), dim=1)
    return unit(torch.zeros_like(up).scatter(1, best.indices, best.values) @ unit(rows))


def random_latents(live: Bool[Tensor, " d_sae"], count: int, generator: torch.Generator) -> Int[Tensor, " count"]:
    """Different live latents; they repeat if there are too few."""
    places = live.nonzero()[:, 0]
    return places[torch.randperm(len(places), generator=generator)].repeat(count)[:count]


def random_directions(
    x: Float[Tensor, "token d_model"], count: int, generator: torch.Generator
) -> Float[Tensor, "count d_model"]:
    """Gaussian with the covariance of the tokens, unit length."""
    return unit(torch.randn(count, len(x), generator=generator) @ (x - x.mean(0)))
