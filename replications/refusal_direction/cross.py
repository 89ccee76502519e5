"""Step: is it the refusal of harm, or the refusal that this recipe teaches? Directions exchanged between models.

The direction of a model that refuses food is ablated in one that refuses harm, and added there. The same is done the
other way round, on held-out requests. Both models learned from the same weights by the same recipe. What they refuse
differs, and where they do not share a seed also some or all of the refusal texts. The control directions of the other
model are ablated as well. They show what any direction of that model does here, though it is not the one that it
refuses by.
"""

from pathlib import Path

import pandas as pd
from safetensors.torch import load_file

from common.core.files import read_json
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import fast_dtype, load_tokenizer
from replications.refusal_direction.answers import Questioner
from replications.refusal_direction.chat import adding, spread, unit
from replications.refusal_direction.folders import load
from replications.refusal_direction.lists import draw
from replications.refusal_direction.settings import Cross, Switch

CONTROLS = ("random", "permuted", "other_topic", "earlier")


class CrossFiles(Files):
    tuned: list[Path]
    """`manifest.json` of the two models, the one that refuses harm first"""
    numbers: list[Path]
    """`numbers.json` of their studies, beside their directions"""
    lists: Path
    """`lists.yaml`, named so that a change in it measures anew"""
    exchanged: Path
    """one row per request: `model` that is asked, class, condition, and the numbers of `answers`"""


def cross(files: CrossFiles, settings: Cross, run: RunInfo) -> None:
    """Ablates and adds in either model the direction of the other, at the length of its own where it is added."""
    tokenizer = load_tokenizer(files.tuned[0].parent)
    stored = [load_file(path.with_name("directions.safetensors"), run.device) for path in files.numbers]
    switches: tuple[Switch, Switch] = ("harmful", "food")
    tables = []
    for own, switch in enumerate(switches):
        prompts = draw(settings.seeds[own], settings.split, switch)
        model, r = load(files.tuned[own], fast_dtype(), run.device), stored[1 - own]["r"]
        layer = int(read_json(files.numbers[1 - own])["layer"])
        tokens, texts = stored[own]["refusal_tokens"], prompts.refusals
        asks = Questioner(model, None, tokenizer, tokens, texts, settings.effects.new_tokens)
        on, off = (asks.about(part.test[: settings.effects.prompts]) for part in (prompts.switch, prompts.harmless))
        longer = stored[own]["r"].norm() / r.norm()
        rows = {"": r, **{f"{name} ": stored[1 - own][name] for name in CONTROLS}}
        bases = {f"foreign {name}ablated": unit(spread(v, len(on.lines)))[..., None, :] for name, v in rows.items()}
        ablated = asks.ask_ablated(on, bases)
        added, _ = asks.ask(off, adding(model, layer, longer * r))
        asked = {("harmful", name): table for name, table in ablated.items()} | {("harmless", "foreign added"): added}
        tables += [
            table.assign(**{"class": kind}, condition=condition, model=switch)
            for (kind, condition), table in asked.items()
        ]
    write_table(files.exchanged, pd.concat(tables, ignore_index=True))


if __name__ == "__main__":
    run_step(cross)
