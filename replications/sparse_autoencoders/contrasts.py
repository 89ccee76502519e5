"""The contrast score of CE-Bench (Gulko et al. 2025), which needs no judge: does one latent tell two stories apart?

Two passages differ in their subject only. V1 and V2 are the mean latents of the two over tokens, in units of the
latent's standard deviation over training tokens, and the score of the pair is max_i |V1_i - V2_i|. CE-Bench writes its
own stories and adds a term for independence; passages and subjects here are our own. Floors are the same number for
random directions that fire as often (`readouts.random_sae`) and for the coordinates of the residual stream.

The largest of many differences is large for anything that varies. So there is a second score: the feature, and the
side on which it is larger, are chosen on the two other stories of the same two subjects. That one can be compared with
a plain linear probe, which is fitted on the tokens of the two other stories.
"""

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from replications.sparse_autoencoders.probing import fitted

PENALTY = 0.01  # C of the plain probe
STORIES = (
    "When the {} arrived early in the morning, everybody stopped to look. Nobody had seen a {} there before. "
    "Some people took pictures of the {}, others only talked about it for the rest of the day.",
    "My favourite topic has always been the {}. I have read many books about the {}, and when I was young I wanted to "
    "know everything about every {} in the world.",
    "Let me explain what a {} is. Most of us have an idea of the {} from films, but a real {} is different, and it "
    "takes some time to understand it.",
)
SUBJECTS = (
    ("dog", "train"), ("king", "computer"), ("river", "guitar"), ("doctor", "mountain"), ("cake", "robot"),
    ("teacher", "volcano"), ("car", "horse"), ("castle", "database"), ("ship", "garden"), ("lawyer", "spider"),
    ("violin", "soldier"), ("planet", "kitchen"),
)  # fmt: skip


def passages() -> list[str]:
    """Both passages of every pair, one after the other; pairs are ordered by story."""
    return [story.format(*[word] * story.count("{}")) for story in STORIES for pair in SUBJECTS for word in pair]


def differences(
    means: Float[Tensor, "passage feature"], spread: Float[Tensor, " feature"]
) -> Float[Tensor, "pair feature"]:
    """V1 - V2 of each pair; 0 for features without spread."""
    scaled = torch.where(spread > 0, means / spread.clamp(min=1e-30), 0.0)
    return scaled[0::2] - scaled[1::2]


def contrast(apart: Float[Tensor, "pair feature"]) -> Float[Tensor, " pair"]:
    """max |V1 - V2| of each pair."""
    return apart.abs().amax(1)


def contrast_elsewhere(apart: Float[Tensor, "pair feature"], stories: int = len(STORIES)) -> Float[Tensor, " pair"]:
    """V1 - V2 of the feature that differs most in the other stories of the same subjects; positive: the same side."""
    by_story = rearrange(apart, "(story subject) feature -> story subject feature", story=stories)
    others = by_story.sum(0, keepdim=True) - by_story
    chosen = others.abs().argmax(-1, keepdim=True)
    return (by_story.gather(-1, chosen) * others.gather(-1, chosen).sign()).flatten()


def plain_contrast(
    resid: Float[Tensor, "passage pos d_model"],
    used: Bool[Tensor, "passage pos"],
    reference: Float[Tensor, "token d_model"],
    stories: int = len(STORIES),
) -> Float[Tensor, " pair"]:
    """The same for a logistic probe on the tokens of the other stories, in standard deviations of what it reads."""
    pairs, found = len(resid) // 2, []
    each = pairs // stories
    for pair in range(pairs):
        others = [one for one in range(pair % each, pairs, each) if one != pair]
        sides = [torch.cat([resid[2 * one + side][used[2 * one + side]] for one in others]).numpy() for side in (0, 1)]
        label = np.repeat([True, False], [len(one) for one in sides])
        probe, _, scale = fitted(np.concatenate(sides), label, PENALTY)
        weight = torch.from_numpy(probe.coef_[0] / scale).float()
        told = [(resid[2 * pair + side][used[2 * pair + side]] @ weight).mean() for side in (0, 1)]
        found.append((told[0] - told[1]) / (reference @ weight).std())
    return torch.stack(found)
