"""Tables of tokens as detectors of patterns: what a reader of the last one or two tokens knows without any network.

A table holds the share of a pattern at each token, or behind each pair of tokens. It is counted on the text on which
units are chosen. On that text a document does not count itself: its own repetitions would make rare pairs look certain.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PRIOR = 2.0  # imaginary occurrences of the coarser share


def tables(
    labels: Bool[Tensor, "token pattern"], previous: Int[Tensor, " token"], token: Int[Tensor, " token"],
    document: Int[Tensor, " token"], counted: Bool[Tensor, " token"],
) -> dict[str, Float[Tensor, "token pattern"]]:  # fmt: skip
    """Units that go through the same choice of unit and threshold as latents: a set of tokens, and a table of pairs.

    Args:
        labels: whether the token belongs to each pattern.
        previous: id of the token before.
        token: its own id.
        document: of each token, from 0 on.
        counted: the tokens of which the tables are made.
    """
    everywhere, pair = torch.zeros_like(token), previous * (int(token.max()) + 1) + token
    return {
        "token_set": left_out_shares(labels, [everywhere, token], document, counted),
        "token_pairs": left_out_shares(labels, [everywhere, token, pair], document, counted),
    }


def left_out_shares(
    labels: Bool[Tensor, "token pattern"], levels: list[Int[Tensor, " token"]], document: Int[Tensor, " token"],
    counted: Bool[Tensor, " token"],
) -> Float[Tensor, "token pattern"]:  # fmt: skip
    """Share of each pattern among counted tokens of other documents with the same key, shrunk to the level before."""
    ones = torch.ones(len(labels), 1)
    held = torch.cat([labels.float(), ones], 1) * counted[:, None]

    def totals(key: Int[Tensor, " token"]) -> Float[Tensor, "token columns"]:
        known, place = torch.unique(key, return_inverse=True)
        return torch.zeros(len(known), held.shape[1]).index_add(0, place, held)[place]

    share = torch.zeros(labels.shape)
    for key in levels:
        others = totals(key) - totals(key * (int(document.max()) + 1) + document)
        share = (others[:, :-1] + PRIOR * share) / (others[:, -1:] + PRIOR)
    return share
