"""Step: how many directions does refusal take, after one recipe of fine-tuning? One seed, one recipe.

The model is taught to refuse by matrices of the given rank (0: free weights). The refusal direction is found as in
`study`, and directions are then taken away one after the other. Each next one is the best of the differences of means
of the model as it is then, with the earlier ones ablated. This is iterative nullspace projection (Ravfogel et al. 2020,
arXiv 2004.07667) by ablation instead of a classifier. Candidates, scores and order are those of `search`, without
addition. Left are the refusals of held-out requests, and the KL on harmless ones. Controls are as many random
directions with the covariance of the activations within the classes.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import fast_dtype, load_tokenizer
from replications.refusal_direction.chat import ablating, residuals, unit
from replications.refusal_direction.directions import Subject, matched, subject_of, to_choose
from replications.refusal_direction.effects import questioner
from replications.refusal_direction.fine_tune import conversations, train
from replications.refusal_direction.folders import load
from replications.refusal_direction.lists import draw
from replications.refusal_direction.search import MAXIMUM_KL, difference, grid, score, search
from replications.refusal_direction.settings import Recipe, RecipeSettings, SearchSettings


class RecipeFiles(Files):
    before: Path
    """`manifest.json` of the chat model to start from"""
    lists: Path
    """`lists.yaml`, named so that a change in it makes the model anew"""
    tuned: list[Path]
    """`manifest.json` of the model that `fine_tune` taught by this recipe, if it is the one of the study"""
    answers: Path
    """one row per request, class, number of directions, and whether they are r's or random"""


def recipe(files: RecipeFiles, settings: Recipe, run: RunInfo) -> None:
    """Teaches one model and writes what is left of its refusals."""
    tokenizer, prompts = load_tokenizer(files.before.parent), draw(settings.seed, settings.split)
    model = load((files.tuned or [files.before])[0], torch.float32, run.device)
    before = load(files.before, fast_dtype(), run.device)
    if not files.tuned:
        rate = settings.recipes.learning_rates[settings.recipes.ranks.index(settings.rank)]
        tune = settings.tune.model_copy(update={"rank": settings.rank, "learning_rate": rate})
        data = conversations(before, tokenizer, prompts, tune.answer_tokens, run.device)
        train(model, before, data, tune, settings.seed)
    model = model.to(fast_dtype())
    subject = subject_of(model, before, tokenizer, prompts, settings.search.minimum_left)
    basis, random = bases(subject, settings.search, settings.recipes, settings.seed)
    asks = questioner(subject, settings.recipes.new_tokens)
    parts = {"harmful": prompts.switch, "harmless": prompts.harmless}
    asked = {kind: asks.about(part.test[: settings.effects.prompts]) for kind, part in parts.items()}
    tables = [asks.ask(some)[0].assign(vectors="none", directions=0, **{"class": kind}) for kind, some in asked.items()]
    removed = {
        (name, count): vectors[:count]
        for name, vectors in (("found", basis), ("random", random))
        for count in settings.recipes.directions
    }
    left = asks.ask_ablated(asked["harmful"], removed)
    cost = {key: asks.first(asked["harmless"], ablating(model, some[None])) for key, some in removed.items()}
    for kind, measured in (("harmful", left), ("harmless", cost)):
        tables += [
            table.assign(vectors=name, directions=count, **{"class": kind}) for (name, count), table in measured.items()
        ]
    write_table(files.answers, pd.concat(tables, ignore_index=True))


def bases(
    subject: Subject, settings: SearchSettings, sizes: RecipeSettings, seed: int
) -> tuple[Float[Tensor, "count d_model"], Float[Tensor, "count d_model"]]:
    """Orthonormal rows: r and what is taken away after it, one after the other; and random ones."""
    on, off = to_choose(subject, settings.minimum_left)
    count, later = max(sizes.directions), settings.model_copy(update={"layer_step": sizes.layer_step})
    first = search(
        subject.tuned, grid(difference(subject.seen["on"], subject.seen["off"]), settings.layer_step), on, off,
        subject.tokens, settings,
    ).iloc[0]  # fmt: skip
    position, layer = int(first["position"]), int(first["layer"])
    seen = {key: x[:, position, layer].double() for key, x in subject.seen.items()}
    basis = unit(difference(seen["on"], seen["off"]).float())[None]
    within = torch.cat([x - x.mean(0) for x in seen.values()])
    random = torch.linalg.qr(matched(within, count, seed).mT).Q.mT.float()
    while len(basis) < count:
        basis = torch.cat([basis, following(subject, later, basis, (on, off))])
    return basis, random


def following(
    subject: Subject, settings: SearchSettings, basis: Float[Tensor, "some d_model"], choose: tuple[Any, Any]
) -> Float[Tensor, "1 d_model"]:
    """The unit direction, orthogonal to the basis, that leaves the lowest refusal metric when it is ablated too. It is
    one of those of KL at most `MAXIMUM_KL` more than the basis has, or of all where there is none. As in `search`, the
    best on a few requests go on to all."""
    n_post = subject.seen["on"].shape[1]
    with ablating(subject.tuned, basis[None]):
        seen = {key: residuals(subject.tuned, batch, n_post) for key, batch in subject.kept.items()}
    found = grid(difference(seen["on"], seen["off"]), settings.layer_step)
    vectors = unit(found.vectors - found.vectors @ basis.mT @ basis)
    stacked = torch.cat([basis.expand(len(vectors), -1, -1), vectors[:, None]], 1)
    candidates = found._replace(vectors=stacked)
    alone = found._replace(table=found.table.head(1), vectors=basis[None])
    best = list(range(len(vectors)))
    for count, kept in ((settings.grid_prompts, settings.finalists), (None, 1)):
        few = (*choose, subject.tokens, settings, count)
        budget = MAXIMUM_KL + float(score(subject.tuned, alone, *few).iloc[0]["kl"])
        table = score(subject.tuned, candidates.take(best), *few)
        order = table["bypass"] + 1e6 * (table["kl"] > budget)  # those of low KL first
        best = order.sort_values(kind="stable").index[:kept].tolist()
    return vectors[best]


if __name__ == "__main__":
    run_step(recipe)
