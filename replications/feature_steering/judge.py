"""Judges of a text that ask no other model: a linear probe, a lexicon, and how fluent the text is.

The probe reads the mean residual stream of the *unsteered* model over a text, at another layer than the one steered. It
is fitted to documents that no steering vector was made from. The strength of its ridge is the one that tells held-out
parts of these documents best, so texts that a model writes have no say in it. Scores are scaled on documents that the
fit has not seen: 0 is the mean of documents on other concepts, 1 their standard deviation. (A scale by the distance
between the concept's documents and others would rest on few documents.) The lexicon holds tokens frequent in the
concept's documents and rare in others, without those that a vector raises through its own direct effect on the logits.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from replications.feature_steering.steering_vectors import own_auroc

RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)  # times the number of documents, on the diagonal of the Gram matrix
FOLDS = 4
DIRECT_LOGITS = 20
LEAST_DOCUMENTS = 3


def fit_probe(
    x: Float[Tensor, "document d_model"], concept: Int[Tensor, " document"], strength: float
) -> tuple[Float[Tensor, "d_model concept"], Float[Tensor, " concept"]]:
    """Ridge regression of each concept's indicator on standardised activations: weights and offsets, float64."""
    x = x.double()
    mean, scale = x.mean(0), x.std(0) + 1e-6
    z = (x - mean) / scale
    target = (concept[:, None] == torch.unique(concept)).double()
    gram = z.T @ z + strength * len(z) * torch.eye(z.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, z.T @ (target - target.mean(0))) / scale[:, None]
    return weights, target.mean(0) - mean @ weights


def choose_ridge(x: Float[Tensor, "document d_model"], concept: Int[Tensor, " document"]) -> float:
    """The strength of `RIDGES` whose probe tells documents left out of its fit best: mean AUROC over folds, concepts.

    Fold f holds every `FOLDS`-th document of each concept, from the f-th on. At least 2 documents of each concept.
    """
    place = torch.cat([torch.arange(int((concept == one).sum())) for one in torch.unique(concept)])
    fold = torch.empty_like(concept)
    fold[torch.argsort(concept, stable=True)] = place % min(FOLDS, int(place.max()) + 1)

    def left_out(strength: float) -> float:
        found = []
        for one in torch.unique(fold):
            weights, offset = fit_probe(x[fold != one], concept[fold != one], strength)
            found.append(np.mean(own_auroc(x[fold == one].double() @ weights + offset, concept[fold == one])))
        return float(np.mean(found))

    return max(RIDGES, key=left_out)


def standardised(
    weights: Float[Tensor, "d_model concept"],
    offset: Float[Tensor, " concept"],
    x: Float[Tensor, "document d_model"],
    concept: Int[Tensor, " document"],
) -> tuple[Float[Tensor, "d_model concept"], Float[Tensor, " concept"]]:
    """The same probe with mean 0 and standard deviation 1 on the documents `x` of other concepts."""
    scores = x.double() @ weights + offset
    others = [scores[concept != one, place] for place, one in enumerate(torch.unique(concept))]
    mean, deviation = torch.stack([one.mean() for one in others]), torch.stack([one.std() for one in others])
    return weights / deviation, (offset - mean) / deviation


def lexicons(
    documents: list[list[list[int]]], direct: list[set[int]], size: int, special: Iterable[int]
) -> list[list[int]]:
    """For each concept the `size` tokens of highest log odds of document frequency, without `direct` and `special`."""
    counts = [Counter(token for document in one for token in set(document)) for one in documents]
    total = sum(counts, Counter[int]())
    everyone = sum(map(len, documents))
    barred = set(special)
    found = []
    for one, count, own in zip(documents, counts, direct, strict=True):
        odds = {
            token: log_odds(there, len(one)) - log_odds(total[token] - there, everyone - len(one))
            for token, there in count.items()
            if there >= LEAST_DOCUMENTS and token not in own and token not in barred
        }
        found.append(sorted(sorted(odds), key=lambda token: -odds[token])[:size])
    return found


def log_odds(count: int, of: int) -> float:
    """Smoothed."""
    return float(np.log((count + 0.5) / (of - count + 0.5)))


def lexicon_share(tokens: Int[Tensor, "row new"], lexicon: Iterable[int]) -> Float[Tensor, " row"]:
    """Share of tokens that are in the lexicon."""
    return torch.isin(tokens, torch.tensor(sorted(lexicon), dtype=tokens.dtype)).float().mean(1)


def distinct_bigrams(tokens: Int[Tensor, "row new"]) -> Float[Tensor, " row"]:
    """Distinct pairs of neighbouring tokens over all such pairs, of each row."""
    pairs = torch.stack([tokens[:, :-1], tokens[:, 1:]], -1)
    return torch.tensor([len({tuple(pair) for pair in row}) / len(row) for row in pairs.tolist()])


def direct_logits(
    v: Float[Tensor, "n d_model"], unembedding: Float[Tensor, "d_vocab d_model"], gain: Float[Tensor, " d_model"]
) -> Float[Tensor, "n d_vocab"]:
    """What a vector adds to the logits straight through the last norm's gain and the unembedding, up to a factor."""
    return (v * gain) @ unembedding.T
