"""Removal: how far the words of a topic fall in answers about it, beside controls that cost as much perplexity.

Damage alone takes words out of an answer. Each control is therefore read off its own curve of words over nats, at the
nats that the topic's own latent or direction costs. The curve joins the control's doses by straight lines and begins at
no dose. Its weights are those of the means over topics, and every topic's words are averaged with them.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

from common.core.metrics import Metric
from replications.feature_steering.evidence import ByTopic, by_topic, over_topics
from replications.feature_steering.settings import (
    RANDOM_LATENT,
    REMOVERS,
    REMOVING_NULLS,
    UNSTEERED,
    WORDS,
    Removal,
)

FALL = "words of the topic in answers to a request about it, unsteered minus steered"


def doses_of(settings: Removal) -> dict[str, list[float]]:
    """At which strengths each method and control is pushed below zero."""
    strong = [*settings.doses, settings.strongest]
    return (
        {method: settings.doses for method in REMOVERS}
        | dict.fromkeys(REMOVING_NULLS, strong)
        | {WORDS: [*strong, 2 * settings.strongest]}
    )


def at_nats(
    falls: Float[np.ndarray, "dose topic"], paid: Float[np.ndarray, " dose"], nats: float
) -> Float[np.ndarray, " topic"]:
    """Falls of a control where it costs `nats` a token on average, by linear interpolation between its doses, which
    rise, from nothing on. Beyond its strongest dose it falls as far as there."""
    curve = np.maximum.accumulate(np.append(0.0, paid))
    weights = [np.interp(nats, curve, own) for own in np.eye(len(curve))]
    return np.asarray(np.array(weights[1:]) @ falls)


def removal(frame: pd.DataFrame, settings: Removal) -> dict[str, Metric]:
    """Of every method and dose: the fall of the topic's words beside that of controls at equal perplexity, and nats.

    `remove_<method>_excess` is the mean over doses of the fall beyond that of a random latent. Controls: the same
    latent or direction of another topic in its place, and a push against the logits of the topic's words.
    """
    unsteered = by_topic(frame, UNSTEERED, 0.0, "words")
    doses = doses_of(settings)
    falls = {
        method: np.stack([unsteered - by_topic(frame, method, -dose, "words") for dose in own])
        for method, own in doses.items()
    }
    nats = {
        method: np.stack([by_topic(frame, method, -dose, "added") for dose in own]) for method, own in doses.items()
    }
    paid = {method: own.mean(1) for method, own in nats.items()}

    def beside(control: str, method: str) -> list[ByTopic]:
        return [at_nats(falls[control], paid[control], float(one)) for one in paid[method]]

    found = {}
    for method, own in doses.items():
        controls = {control: beside(control, method) for control in REMOVERS.get(method, ())}
        for place, dose in enumerate(own):
            name = f"remove_{method}_{round(100 * dose)}"
            at_dose = {control: each[place] for control, each in controls.items()}
            found[f"{name}_fall"] = over_topics(falls[method][place], "words", FALL, at_dose)
            found[f"{name}_nats"] = over_topics(nats[method][place], "nats", "nats per token, steered minus unsteered")
        if controls:
            null = np.mean(controls.pop(RANDOM_LATENT), axis=0)
            said = f"{FALL}; beyond that under a random latent at equal nats, mean over doses"
            others = {control: np.mean(each, axis=0) - null for control, each in controls.items()}
            found[f"remove_{method}_excess"] = over_topics(falls[method].mean(0) - null, "words", said, others)
    return found
