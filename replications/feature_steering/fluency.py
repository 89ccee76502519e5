"""When an answer is fluent, and when it speaks of its topic. Works on tables; no model is asked.

An answer is *fluent* if its perplexity is at most `perplexity` times that of the unsteered answers to the same
question. Enough of its bigrams must be distinct, too: loops are easy to predict. It *takes the topic up* if it is
fluent and has at least `least_words` different words of the topic. Both are asked of every answer by itself: no average
hides gibberish.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from replications.feature_steering.settings import UNSTEERED, Fluency

ASKED = ["part", "question"]
HALVES = (0, 1)


def nats_added(frame: pd.DataFrame) -> Float[np.ndarray, " row"]:
    """Nats a token beyond the mean of the unsteered answers to the same question."""
    unsteered = frame[frame["method"] == UNSTEERED].groupby(ASKED)["nats"].mean()
    base = unsteered.reindex(pd.MultiIndex.from_frame(frame[ASKED])).to_numpy()
    return np.asarray(frame["nats"].to_numpy() - base)


def is_fluent(frame: pd.DataFrame, limits: Fluency) -> Bool[np.ndarray, " row"]:
    near = nats_added(frame) <= np.log(limits.perplexity)
    return np.asarray(near & (frame["distinct"].to_numpy() >= limits.distinct))


def with_scores(frame: pd.DataFrame, limits: Fluency) -> pd.DataFrame:
    """The answers with what is measured on them.

    Added columns:

        added                     nats a token
        takeover                  takes the topic up, 0 or 1
        takeover_0, takeover_1    takes the topic up, with a word of that half
        judged                    fluent, and the judge names the topic
        recognised                both of these
        gain                      words of the topic beyond mean words of others
        gain_0, gain_1            by that half alone, each word counted double: the mean of both is `gain`
        concept                   rating of AxBench, 0 to 2: words of the topic
        fluency                   rating of AxBench: 2 up to half of the allowed nats, 1 up to all
        score                     harmonic mean of these two and the third, `follows` (Wu et al. 2025)
    """
    own = frame.copy()
    fluent = is_fluent(own, limits)
    own["added"] = nats_added(own)
    own["takeover"] = (fluent & (own["words"] >= limits.least_words)).astype(float)
    own["judged"] = (fluent & (own["named"] == 1)).astype(float)
    own["recognised"] = own["takeover"] * own["judged"]
    own["gain"] = own["words"] - own["others"]
    for half in HALVES:
        own[f"takeover_{half}"] = own["takeover"] * (own[f"words_{half}"] > 0)
        own[f"gain_{half}"] = 2 * (own[f"words_{half}"] - own[f"others_{half}"])
    own["concept"] = own["words"].clip(upper=2).astype(float)
    smooth = own["added"] <= np.log(limits.perplexity) / 2
    own["fluency"] = np.where(fluent, np.where(smooth, 2.0, 1.0), 0.0)
    own["score"] = harmonic(own[["concept", "follows", "fluency"]].to_numpy())
    return own


def harmonic(ratings: Float[np.ndarray, "row rating"]) -> Float[np.ndarray, " row"]:
    """Harmonic mean of each row's ratings; 0 if one of them is 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(ratings.shape[1] / (1 / ratings).sum(1))
