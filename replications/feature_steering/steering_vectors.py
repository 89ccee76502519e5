"""Steering vectors: unit vectors added to the residual stream, all made from the same training documents.

    sae               decoder row of the latent whose mean tells the concept's documents from the others best (AUROC)
    diff_means        mean token of the concept minus mean token of the others (Marks and Tegmark 2023; CAA)
    probe             weights of a logistic regression on document means
    pca               first principal component of the concept's tokens, pointing from the others to the concept
    random_latent     decoder row of another live latent
    random_direction  Gaussian with the covariance of all tokens
    permuted_means    difference of means after the labels of the documents were permuted

The last three are nulls, drawn anew for every seed; an isotropic random vector would be too weak a null.
"""

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor

from common.core.statistics import auroc
from common.saes.sae import Sae

LIVE = 1e-3
RIDGE = 1.0


def own_auroc(scores: Float[Tensor, "document concept"], concept: Int[Tensor, " document"]) -> list[float]:
    """How well each concept's score tells its documents from the others."""
    return [float(auroc(scores[:, one].numpy(), (concept == one).numpy())) for one in range(scores.shape[1])]


def unit(v: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
    """Rows of length 1."""
    return torch.nn.functional.normalize(v, dim=-1)


def detectors(
    means: Float[Tensor, "document d_sae"], concept: Int[Tensor, " document"], live: Float[Tensor, " d_sae"]
) -> tuple[Int[Tensor, " concept"], Float[Tensor, " concept"]]:
    """The best live latent of each concept and its AUROC on the training documents."""
    chosen, scores = [], []
    for one in torch.unique(concept):
        area = auroc(means.numpy(), (concept == one).numpy())
        area[live.numpy() < LIVE] = 0
        chosen.append(int(area.argmax()))
        scores.append(float(area.max()))
    return torch.tensor(chosen), torch.tensor(scores)


def difference_of_means(
    x: Float[Tensor, "document pos d_model"], concept: Int[Tensor, " document"]
) -> Float[Tensor, "concept d_model"]:
    """Mean token of each concept minus mean token of all others, as unit vectors."""
    means = reduce(x, "document pos d -> document d", "mean")
    own = torch.stack([means[concept == one].mean(0) for one in torch.unique(concept)])
    rest = torch.stack([means[concept != one].mean(0) for one in torch.unique(concept)])
    return unit(own - rest)


def probe_directions(
    x: Float[Tensor, "document pos d_model"], concept: Int[Tensor, " document"]
) -> Float[Tensor, "concept d_model"]:
    """Weights of a multinomial logistic regression on standardised document means, back in activation units."""
    from sklearn.linear_model import LogisticRegression

    means = reduce(x, "document pos d -> document d", "mean").double().numpy()
    scale = means.std(0) + 1e-6
    fitted = LogisticRegression(C=RIDGE / 100, max_iter=200).fit((means - means.mean(0)) / scale, concept.numpy())
    return unit(torch.tensor(fitted.coef_ / scale).float())


def principal_directions(
    x: Float[Tensor, "document pos d_model"], concept: Int[Tensor, " document"]
) -> Float[Tensor, "concept d_model"]:
    """First principal component of each concept's tokens, signed towards the concept."""
    towards, found = difference_of_means(x, concept), []
    for place, one in enumerate(torch.unique(concept)):
        tokens = rearrange(x[concept == one], "document pos d -> (document pos) d").double()
        centred = tokens - tokens.mean(0)
        axis = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1].float()
        found.append(axis * (1.0 if float(axis @ towards[place]) >= 0 else -1.0))
    return torch.stack(found)


def matched_directions(
    x: Float[Tensor, "document pos d_model"], count: int, generator: torch.Generator
) -> Float[Tensor, "count d_model"]:
    """Unit vectors from a Gaussian with the covariance of all tokens."""
    tokens = rearrange(x, "document pos d -> (document pos) d").double()
    centred = tokens - tokens.mean(0)
    values, axes = torch.linalg.eigh(centred.T @ centred / len(tokens))
    normal = torch.randn(count, len(values), generator=generator, dtype=torch.float64)
    return unit(einsum(normal * values.clamp(min=0).sqrt(), axes, "n k, d k -> n d").float())


def nulls(
    x: Float[Tensor, "document pos d_model"],
    concept: Int[Tensor, " document"],
    sae: Sae,
    live: Float[Tensor, " d_sae"],
    chosen: Int[Tensor, " concept"],
    seed: int,
) -> tuple[dict[str, Float[Tensor, "concept d_model"]], Int[Tensor, " concept"]]:
    """The nulls of one seed, and which random latents were drawn."""
    generator = torch.Generator().manual_seed(seed)
    candidates = live >= LIVE
    candidates[chosen] = False
    alive = candidates.nonzero()[:, 0] if bool(candidates.any()) else chosen
    latents = alive[torch.randint(len(alive), (len(chosen),), generator=generator)]
    made = {
        "random_latent": unit(sae.W_dec[latents]),
        "random_direction": matched_directions(x, len(chosen), generator),
        "permuted_means": difference_of_means(x, concept[torch.randperm(len(concept), generator=generator)]),
    }
    return made, latents
