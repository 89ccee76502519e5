"""Step: writes all texts, many interventions in one batch, and reads every text again with the unsteered model.

First every multiplier on the choosing prompts; then the common and the chosen ones on the scoring prompts, and the
removal. Out: `rows.csv` (one line a text: what was done, nats per token, distinct bigrams), `scores.safetensors`
(score of every text for every concept, by probe and by lexicon) and `chosen.json`. No number comes from a steered pass.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.cli import run, track
from common.files import atomic, read_json, write_json
from common.generation import Sampler, generate, load_writer, reread
from common.models import load_tokenizer
from common.saes.sae import Sae
from common.tables import write_table
from replications.feature_steering.choice import choose_multipliers, compared
from replications.feature_steering.concepts import header, neutral_prompts
from replications.feature_steering.judge import distinct_bigrams, lexicon_share
from replications.feature_steering.prepare import own_saes
from replications.feature_steering.settings import REMOVING, Fluency, Writing
from replications.feature_steering.writing import Row, as_columns, choosing, removal, scoring, steering, unsteered

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Writer:
    """Writes rows under their interventions and judges them. Each seed has its own SAE.

    `prompts` are the neutral ones, then the instructed ones concept by concept, then beginnings of documents.
    """

    def __init__(
        self, model: "PreTrainedModel", saes: dict[int, Sae], prepared: dict[str, Tensor], lexicons: list[list[int]],
        judge: str, prompts: list[list[int]], writing: Writing, special: list[int],
    ) -> None:  # fmt: skip
        self.model, self.saes, self.prepared, self.lexicons = model, saes, prepared, lexicons
        self.judge, self.prompts, self.writing, self.special = judge, prompts, writing, special

    def write(self, rows: list[Row]) -> Tensor:
        """Tokens of every row."""
        written = torch.zeros(len(rows), self.writing.new_tokens, dtype=torch.long)
        device = str(self.model.device)
        for seed, sae in self.saes.items():
            own = torch.tensor([place for place, row in enumerate(rows) if row.seed == seed])
            for places, intervention in steering([rows[place] for place in own.tolist()], self.prepared, sae):
                where = own[places]
                for part in track(list(torch.split(torch.arange(len(places)), self.writing.batch)), f"seed {seed}"):
                    group = [rows[place] for place in where[part].tolist()]
                    asked, at = torch.unique(torch.tensor([row.prompt for row in group]), return_inverse=True)
                    streams = torch.tensor([row.stream for row in group])
                    written[where[part]] = generate(
                        self.model, [self.prompts[place] for place in asked.tolist()], at, sae.about.hook,
                        None if intervention is None else intervention.rows(part).to(device), self.writing.new_tokens,
                        Sampler(self.writing.temperature, streams, seed, self.special),
                        whole_prompt=group[0].part == REMOVING,
                    )  # fmt: skip
        return written

    def read(self, rows: list[Row], written: Tensor) -> tuple[pd.DataFrame, dict[str, Tensor]]:
        """What the unsteered model and the lexicons make of the texts, each after its neutral prompt."""
        nats, scores = [], []
        for part in track(list(torch.split(torch.arange(len(rows)), self.writing.batch)), "read again"):
            neutral = torch.tensor([rows[place].neutral for place in part.tolist()])
            asked, at = torch.unique(neutral, return_inverse=True)
            prompts = [self.prompts[place] for place in asked.tolist()]
            of_token, mean = reread(self.model, prompts, at, written[part], self.judge)
            nats.append(of_token.mean(1))
            scores.append(mean.double() @ self.prepared["judge.weights"] + self.prepared["judge.offset"])
        frame = pd.DataFrame(as_columns(rows))
        frame["nats"], frame["distinct"] = torch.cat(nats).numpy(), distinct_bigrams(written).numpy()
        lexical = torch.stack([lexicon_share(written, lexicon) for lexicon in self.lexicons], 1)
        return frame, {"probe": torch.cat(scores).float(), "lexicon": lexical}


def steer(
    *,
    manifest: Path,
    index: Path,
    prepared: Path,
    listed: Path,
    writing: Writing,
    fluency: Fluency,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    table: Path,
    scores: Path,
    chosen: Path,
) -> None:
    """`prepared` and `listed` come from `prepare`."""
    tokenizer, model = load_tokenizer(manifest.parent), load_writer(manifest.parent, device)
    about = read_json(listed)
    concepts, neutral = about["concepts"], neutral_prompts(tokenizer)
    count, texts = len(concepts), len(concepts[0]["texts"])
    prompts = list(neutral)
    for concept in concepts:
        prompts += [header(tokenizer, concept["name"]) + prompt[1:] for prompt in neutral]
    first = len(prompts)
    prompts += [text[: writing.beginning + 1] for concept in concepts for text in concept["texts"]]
    saes = dict(zip(seeds, own_saes(index, about["saes"], about["model"]), strict=True))
    writer = Writer(
        model, saes, load_file(prepared),
        [concept["lexicon"] for concept in concepts], about["judge"], prompts, writing, list(tokenizer.all_special_ids),
    )  # fmt: skip

    rows = [row for seed in seeds for row in unsteered(seed, writing)]
    rows += [row for seed in seeds for row in choosing(count, seed, writing)]
    written = writer.write(rows)
    frame, found = writer.read(rows, written)
    best = choose_multipliers(compared(frame, {key: value.numpy() for key, value in found.items()}), fluency)
    print(f"chosen multipliers: {best}")

    more = [row for seed in seeds for row in scoring(count, seed, writing, best)]
    more += [row for seed in seeds for row in removal(count, texts, seed, seeds, first, writing.removal)]
    written_more = writer.write(more)
    frame_more, found_more = writer.read(more, written_more)
    frame = pd.concat([frame, frame_more], ignore_index=True)
    frame["text"] = tokenizer.batch_decode(torch.cat([written, written_more]))
    frame["name"] = [concepts[place]["name"] if place >= 0 else "" for place in frame["concept"]]
    write_table(table, frame)
    with atomic(scores) as temporary:
        save_file({key: torch.cat([found[key], found_more[key]]) for key in found}, temporary)
    write_json(chosen, best)


if __name__ == "__main__":
    run(steer)
