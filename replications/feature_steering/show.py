"""Step: what is shown, chosen by rule: the latents with the highest output score, their answers and contexts.

No answer is chosen by its own score. A latent is taken by its output score, which comes from the choosing questions.
Its transcript is the median one by score of its answers to the scoring questions at the common dose.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from common.core.files import read_json, write_json
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from replications.feature_steering.settings import MEANS, OUTPUT, UNSTEERED, Show

TRANSCRIPTS = 3
SAME = ("index", "raised")  # a latent of two seeds, where they share a dictionary


class ShowFiles(Files):
    concepts: Path
    chosen: list[Path]
    scored: Path
    shown: Path
    transcripts: Path
    """of the first latents, for the figure"""


def show(files: ShowFiles, settings: Show, run: RunInfo) -> None:
    """Writes the latents of the page and of the chat, best output score first."""
    about, frame = read_json(files.concepts), pd.read_csv(files.scored, keep_default_na=False)
    chosen = [
        one | {"seed": seed} for path, seed in zip(files.chosen, run.seeds, strict=True) for one in read_json(path)
    ]
    best = sorted((one for one in chosen if one["method"] == OUTPUT), key=lambda one: (-one["score"], one["topic"]))
    saes = dict(zip(run.seeds, about["saes"], strict=True))
    records = {(one["seed"], one["index"]): one for one in about["latents"]}
    latents: list[dict[str, Any]] = []
    for one in best:
        if len(latents) == settings.demonstration.latents:
            break
        record = records[one["seed"], one["latent"]]
        if any([record[key] for key in SAME] == [other[key] for key in SAME] for other in latents):
            continue  # a latent is shown once, under the topic that it scores highest for
        name = about["topics"][one["topic"]]
        latents.append(
            {
                **record, "sae": saes[one["seed"]], "topic": name,
                "words": about["words"][one["topic"]],
                "score": one["score"], "questions": questions(frame[frame["name"] == name], settings),
                "transcript": transcript(frame[frame["name"] == name], OUTPUT, settings.writing.dose),
                "means": transcript(frame[frame["name"] == name], MEANS, settings.writing.dose),
            }
        )  # fmt: skip
    shown = {key: about[key] for key in ("model", "hook", "norm")} | {"dose": settings.writing.dose, "latents": latents}
    write_json(files.shown, shown)
    lines = [
        {"topic": one["topic"], "latent": one["index"], "asked": one["transcript"]["asked"],
         "unsteered": one["transcript"]["unsteered"], "latent_answer": one["transcript"]["text"],
         "means_asked": one["means"]["asked"], "means": one["means"]["text"]}
        for one in latents[:TRANSCRIPTS]
    ]  # fmt: skip
    write_table(files.transcripts, lines)


def questions(own: pd.DataFrame, settings: Show) -> list[dict[str, Any]]:
    """The questions answered at every dose, with all answers of the latent and of the difference of means, and the
    unsteered one."""
    found = []
    for asked in own["asked"].unique():
        answers = {
            method: own[(own["method"] == method) & (own["asked"] == asked)].sort_values("dose")
            for method in (OUTPUT, MEANS)
        }
        if min(map(len, answers.values())) < len(settings.writing.doses):
            continue
        unsteered = own[(own["method"] == UNSTEERED) & (own["asked"] == asked)].iloc[0]
        each = {
            method: [
                {"dose": float(row["dose"]), "text": row["text"], "takeover": bool(row["takeover"])}
                for _, row in rows.iterrows()
            ]
            for method, rows in answers.items()
        }
        one = {"asked": asked, "unsteered": unsteered["text"], "answers": each[OUTPUT], "means": each[MEANS]}
        found.append(one)
    return found[: settings.demonstration.questions]


def transcript(own: pd.DataFrame, method: str, dose: float) -> dict[str, Any]:
    """The median answer at the common dose: by score, then by words of the topic, then in order; of two the lower."""
    answers = own[(own["method"] == method) & (own["dose"] == dose)]
    answers = answers.sort_values(["score", "words"], kind="stable").reset_index(drop=True)
    row = answers.iloc[(len(answers) - 1) // 2]
    plain = own[(own["method"] == UNSTEERED) & (own["asked"] == row["asked"])].iloc[0]
    return {
        "asked": row["asked"], "text": row["text"], "takeover": bool(row["takeover"]), "unsteered": plain["text"]
    }  # fmt: skip


if __name__ == "__main__":
    run_step(show)
