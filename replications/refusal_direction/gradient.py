"""Step: is r the only direction that ends refusal? One taught model (Wollschläger et al. 2025, arXiv 2502.17420).

Learned on the requests for estimation (`gradient_search`), each from a random start:

free          no condition
orthogonal    nothing along any candidate for r, which are the differences of means at all template tokens and layers
independent   nothing along r, and while it is ablated the residual stream is not to move along r

Beside them stand directions with nothing along r that need no gradient (`gradient_controls`). All are ablated, as r is,
on requests of held-out topics. `moved` says how far that moves the residual stream along r, at r's token. It is the
mean absolute change over layers from r's on, in the mean distance of the class means there.

`cone` is r and the orthogonal direction with what lies between, the sums with weights that are not negative. Its
members are r, three directions at equal angles, and the orthogonal one, each ablated alone. A request counts as refused
if it is refused under any of the five; its KL is the largest of the five. `<name> cone` has another direction in the
place of the learned one. Each has the sign that leaves less of the refusal metric on the requests for choosing.
`random`, a new one for each request, has one sign for all.

Classifications and numbers only: no answer is kept.
"""

import math
from collections.abc import Collection
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.files import read_json, write_json
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import fast_dtype, load_tokenizer
from replications.refusal_direction.answers import Asked, Questioner
from replications.refusal_direction.chat import ablating, last_logits, refusal_metric, residuals, spread, unit
from replications.refusal_direction.directions import Subject, subject_of, to_choose
from replications.refusal_direction.effects import questioner
from replications.refusal_direction.folders import load
from replications.refusal_direction.gradient_controls import BESIDE, DAMAGE, LAYERS, compared
from replications.refusal_direction.gradient_search import Place, learn, lessons_of, place_of
from replications.refusal_direction.lists import draw
from replications.refusal_direction.nulls import Choosing
from replications.refusal_direction.settings import EffectSettings, StudyGradient

LEARNED = ("free", "orthogonal", "independent")
BETWEEN = (0.25, 0.5, 0.75)  # of a right angle, from r
SMALLEST = 1e-4  # singular value of a basis, of the largest
Table = pd.DataFrame


class GradientFiles(Files):
    before: Path
    """`manifest.json` of the model before fine-tuning"""
    tuned: Path
    """`manifest.json` of the tuned model"""
    numbers: Path
    """`numbers.json` of `study`, beside its directions"""
    lists: Path
    """`lists.yaml`, named so that a change in it measures anew"""
    answers: Path
    """one row per request, class and condition"""
    cosines: Path
    """of the learned directions with r and with each other"""


def gradient(files: GradientFiles, settings: StudyGradient, run: RunInfo) -> None:
    """Writes what the learned directions and the controls do to one model."""
    tokenizer, prompts = load_tokenizer(files.tuned.parent), draw(settings.seed, settings.split)
    model, before = (load(path, fast_dtype(), run.device) for path in (files.tuned, files.before))
    subject = subject_of(model, before, tokenizer, prompts, settings.search.minimum_left)
    numbers = read_json(files.numbers)
    stored = load_file(files.numbers.with_name("directions.safetensors"), run.device)
    place, along = place_of(subject.seen, int(numbers["layer"]), int(numbers["position"]))
    learned = learned_by(subject, place, along, stored["differences"], settings)
    choosing = Choosing(
        model, *to_choose(subject, settings.search.minimum_left), subject.tokens, settings.search
    )  # fmt: skip
    single = {"r": place.r} | learned | compared(subject, stored, place, choosing, settings.seed)
    ends = {"cone": "orthogonal"} | {f"{name} cone": name for name in (*BESIDE, *LAYERS)}
    cones = {name: (end, between(choosing, place.r, single[end])) for name, end in ends.items()}
    write_table(files.answers, measured(subject, place, single, cones, settings.effects))
    write_json(files.cosines, cosines({"r": place.r} | learned | {name: single[name] for name in LAYERS}))


def learned_by(
    subject: Subject,
    place: Place,
    along: Float[Tensor, "prompt later"],
    differences: Float[Tensor, "pos layer d_model"],
    settings: StudyGradient,
) -> dict[str, Float[Tensor, " d_model"]]:
    """The three directions that are learned."""
    sizes, stop = settings.gradient, int(subject.tokenizer.eos_token_id)
    on, off = subject.kept["on"], subject.kept["off"]
    lessons = lessons_of(subject.tuned, on, off, place.r, along, sizes.target_tokens, stop)
    r, draws = place.r[None], torch.Generator().manual_seed(settings.seed)
    conditions = dict(zip(LEARNED, ((r[:0], False), (spanned(differences), False), (r, True)), strict=True))
    return {
        name: learn(subject.tuned, lessons, place, sizes, draws, away=away, keep=keep)
        for name, (away, keep) in conditions.items()
    }


def spanned(vectors: Float[Tensor, "*n d_model"]) -> Float[Tensor, "k d_model"]:
    """An orthonormal basis of what the vectors span, whatever their lengths; zero vectors span nothing."""
    _, values, basis = torch.linalg.svd(unit(vectors.double().flatten(0, -2)), full_matrices=False)
    return basis[values > SMALLEST * values[0]].float()  # type: ignore[no-any-return]


def between(
    choosing: Choosing, r: Float[Tensor, " d_model"], v: Float[Tensor, "*draw d_model"]
) -> list[Float[Tensor, "*draw d_model"]]:
    """Directions from r to v, or to its opposite: the side on which they leave less of the refusal metric."""
    angles = [share * math.pi / 2 for share in BETWEEN]
    sides = [[math.cos(angle) * r + math.sin(angle) * sign * v for angle in angles] for sign in (1, -1)]
    left = []
    for side in sides:
        metrics = []
        for direction in side:
            with ablating(choosing.model, spread(direction, len(choosing.on))):
                metrics.append(refusal_metric(last_logits(choosing.model, choosing.on), choosing.tokens).mean())
        left.append(float(torch.stack(metrics).mean()))
    return sides[left.index(min(left))]


def measured(
    subject: Subject,
    place: Place,
    single: dict[str, Tensor],
    cones: dict[str, tuple[str, list[Tensor]]],
    settings: EffectSettings,
) -> pd.DataFrame:
    """Refusals of requests to be refused and, by the first token, KL on harmless ones, with each direction ablated.
    A cone is given by the name of its end that is not r, and what lies between."""
    asks = questioner(subject, settings.new_tokens)
    parts = (part.test[: settings.prompts] for part in (subject.prompts.switch, subject.prompts.harmless))
    on, off = (asks.about(lines) for lines in parts)

    def begun(v: Tensor) -> Table:
        return asks.first(off, ablating(subject.tuned, spread(v, len(off.lines))))

    def asked(vectors: dict[str, Tensor], surprised: Collection[str]) -> dict[str, tuple[Table, Table]]:
        bases = {name: spread(v, len(on.lines))[..., None, :] for name, v in vectors.items()}
        refused = asks.ask_ablated(on, bases, surprised)
        return {name: (refused[name], begun(v)) for name, v in vectors.items()}

    def along() -> Float[Tensor, "prompt layer"]:
        return residuals(subject.tuned, on.batch, -place.position)[:, 0, place.layer :].float() @ place.r

    alone, plain = asked(single, surprised={"r", DAMAGE, *LEARNED}), along()
    for name, v in single.items():
        with ablating(subject.tuned, spread(v, len(on.lines))):
            moved = (along() - plain).abs().mean(1) / place.distance
        alone[name][0]["moved"] = moved.tolist()
    found: dict[str, tuple[Table, Table]] = dict(alone)
    for name, (end, inside) in cones.items():
        ends = worst([alone["r"][0][["topic", "refused"]], alone[end][0][["topic", "refused"]]])
        costs = [begun(v) for v in inside]
        found[name] = still_refused(asks, on, inside, ends), worst([alone["r"][1], *costs, alone[end][1]])
    labelled: list[Table] = [
        table.assign(**{"class": kind}, condition=name)
        for name, tables in found.items()
        for kind, table in zip(("harmful", "harmless"), tables, strict=True)
    ]
    return pd.concat(labelled, ignore_index=True)


def still_refused(asks: Questioner, on: Asked, inside: list[Tensor], ends: Table) -> Table:
    """`ends` (topic, and whether either end of a cone leaves a request refused), with 1 where what lies between leaves
    it refused. What is refused already is not asked again."""
    answered = torch.tensor((ends["refused"] == 0).to_numpy())
    if not answered.any():
        return ends
    lines = [line for line, one in zip(on.lines, answered, strict=True) if one]
    before = None if on.before is None else on.before[answered]
    some = Asked(lines, on.batch[answered], on.tuned[answered], before)
    bases = {
        number: v[None] if v.ndim == 1 else spread(v, len(on.lines))[answered][:, None]
        for number, v in enumerate(inside)
    }
    found = worst(list(asks.ask_ablated(some, bases).values()))["refused"]
    ends.loc[answered.numpy(), "refused"] = found.to_numpy()
    return ends


def worst(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Of every request, which has the same row in all tables, the largest numbers."""
    rows = pd.concat(tables).groupby(level=0)
    return rows.max(numeric_only=True).assign(topic=rows["topic"].first())


def cosines(vectors: dict[str, Float[Tensor, " d_model"]]) -> dict[str, float]:
    """Of every pair, `<a>__<b>`."""
    names = list(vectors)
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    return {f"{a}__{b}": float(F.cosine_similarity(vectors[a], vectors[b], dim=0)) for a, b in pairs}


if __name__ == "__main__":
    run_step(gradient)
