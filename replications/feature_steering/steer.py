"""Step: writes the texts of one seed and part, many interventions in one batch; the unsteered model reads them again.

Parts: `choosing` (lengths are tried), `scoring` (needs the choosing texts of all seeds, from which the fluent lengths
are chosen) and `removing`. Out: a table (one line a text: what was done, nats per token, distinct bigrams) and the
score of every text for every concept, by probe and by lexicon. No number comes from a steered pass.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.core.files import atomic, read_json
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.data.models import load_tokenizer
from common.interp.generation import Sampler, generate, load_writer, reread
from common.saes.sae import Sae
from replications.feature_steering.concepts import NEUTRAL, header, neutral_prompts
from replications.feature_steering.fluency import choose_lengths, read_alike
from replications.feature_steering.judge import distinct_bigrams, lexicon_share
from replications.feature_steering.prepare import own_saes
from replications.feature_steering.settings import CHOOSING, REMOVING, Steer, Writing
from replications.feature_steering.writing import Row, as_columns, choosing, removed, scoring, steering

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Writer:
    """Writes rows of one seed under their interventions, with the seed's SAE, and judges them.

    `prompts` are the neutral ones, then the instructed ones concept by concept, then beginnings of documents.
    """

    def __init__(
        self, model: "PreTrainedModel", sae: Sae, prepared: dict[str, Tensor], lexicons: list[list[int]],
        judge: str, prompts: list[list[int]], writing: Writing, special: list[int],
    ) -> None:  # fmt: skip
        self.model, self.sae, self.prepared, self.lexicons = model, sae, prepared, lexicons
        self.judge, self.prompts, self.writing, self.special = judge, prompts, writing, special

    def write(self, rows: list[Row]) -> Tensor:
        """Tokens of every row."""
        written = torch.zeros(len(rows), self.writing.new_tokens, dtype=torch.long)
        device, hook = str(self.model.device), self.sae.about.hook
        for own, intervention in steering(rows, self.prepared, self.sae):
            places = torch.tensor(own)
            for part in track(list(torch.split(torch.arange(len(own)), self.writing.batch)), "written"):
                group = [rows[place] for place in places[part].tolist()]
                asked, at = torch.unique(torch.tensor([row.prompt for row in group]), return_inverse=True)
                streams = torch.tensor([row.stream for row in group])
                written[places[part]] = generate(
                    self.model, [self.prompts[place] for place in asked.tolist()], at, hook,
                    None if intervention is None else intervention.rows(part).to(device), self.writing.new_tokens,
                    Sampler(self.writing.temperature, streams, group[0].seed, self.special),
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


class SteerFiles(Files):
    manifest: Path
    index: Path
    prepared: Path
    concepts: Path
    tried: list[Path]
    """choosing tables of all seeds, from which scoring takes the fluent lengths; none without that part"""
    table: Path
    scores: Path


def steer(files: SteerFiles, settings: Steer, run: RunInfo) -> None:
    """Writes and judges the texts of one part and seed."""
    tokenizer, model = load_tokenizer(files.manifest.parent), load_writer(files.manifest.parent, run.device)
    about, seed, writing, removal = read_json(files.concepts), settings.seed, settings.writing, settings.removal
    concepts, prompts = about["concepts"], neutral_prompts(tokenizer)
    count, texts = len(concepts), len(concepts[0]["texts"])
    for concept in concepts:
        prompts += [header(tokenizer, concept["name"]) + prompt[1:] for prompt in prompts[: len(NEUTRAL)]]
    first = len(prompts)
    if removal:
        prompts += [text[: removal.beginning + 1] for concept in concepts for text in concept["texts"]]
    [sae] = own_saes(files.index, [about["saes"][run.seeds.index(seed)]], about["model"])
    writer = Writer(
        model, sae, load_file(files.prepared), [concept["lexicon"] for concept in concepts], about["judge"], prompts,
        writing, list(tokenizer.all_special_ids),
    )  # fmt: skip
    if settings.part == REMOVING:
        assert removal is not None
        rows = list(removed(count, texts, seed, run.seeds, first, removal.strength))
    elif settings.part == CHOOSING:
        assert settings.fluency is not None
        rows = list(choosing(count, seed, settings.fluency))
    else:
        chosen = {}
        if settings.fluency:
            tried = pd.concat(map(pd.read_csv, files.tried), ignore_index=True)
            chosen = choose_lengths(read_alike(tried), settings.fluency)
        print(f"chosen lengths: {chosen}")
        rows = list(scoring(count, seed, writing, chosen))
    written = writer.write(rows)
    frame, found = writer.read(rows, written)
    frame["text"] = tokenizer.batch_decode(written)
    frame["name"] = [concepts[place]["name"] for place in frame["concept"]]
    write_table(files.table, frame)
    with atomic(files.scores) as temporary:
        save_file({key: value.contiguous() for key, value in found.items()}, temporary)


if __name__ == "__main__":
    run_step(steer)
