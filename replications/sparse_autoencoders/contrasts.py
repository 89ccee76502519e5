"""The contrast score of CE-Bench (Gulko et al. 2025), which needs no judge: does one latent tell two stories apart?

Two passages differ in their subject only. V1 and V2 are the mean latents of the two over tokens, in units of the
latent's standard deviation over training tokens, and the score of the pair is max_i |V1_i - V2_i|. CE-Bench writes its
own stories and adds a term for independence; passages and subjects here are our own. The floor is the same number for
random directions that fire as often (`codes.random_sae`).
"""

import torch
from jaxtyping import Float
from torch import Tensor

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


def contrast(means: Float[Tensor, "passage d_sae"], spread: Float[Tensor, " d_sae"]) -> Float[Tensor, " pair"]:
    """max |V1 - V2| of each pair; latents without spread are left out."""
    scaled = torch.where(spread > 0, means / spread.clamp(min=1e-30), 0.0)
    return (scaled[0::2] - scaled[1::2]).abs().amax(1)
