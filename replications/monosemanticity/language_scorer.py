"""Step: can a language model score the explanations, in place of looking tokens up?

Surprisal scoring (Paulo et al. 2024): an explanation is good if it makes contexts in which the latent fires more
likely, and other contexts not. For a context c and an explanation e, read by a language model,

    score(c, e) = log P(c | "Words: e. Text:") - log P(c | "Text:")

and the AUROC of this score tells contexts in which the latent fires, as many from each quarter of its activations, from
contexts in which it does not. Control: the explanation of another latent of similar rate, on the same contexts. Beside
it the lexical scorer of `explain.py` on the same latents and contexts. Explanations are made on half of the documents,
contexts come from the other half.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from common.core.errors import UserError
from common.core.files import read_json
from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.data.models import load_tokenizer
from common.interp.generation import load_writer, reread
from common.saes.saelens import load_saelens
from replications.monosemanticity.explain import (
    QUARTERS,
    Explanations,
    exchanged,
    explain,
    explanation_text,
    grouped,
    peaks,
    summed,
)
from replications.monosemanticity.model import activations, load_models
from replications.monosemanticity.settings import ScoreByModel, Scorer
from replications.monosemanticity.units import Firings, Text, living_latents, read_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BARE = "Text:\n"
SHOWN = 6  # tokens of an explanation in the table


class Question(NamedTuple):
    """A latent, one of similar rate whose explanation is the control, and the contexts to be told apart."""

    latent: int
    other: int
    contexts: Int[np.ndarray, " context"]
    fires: Bool[np.ndarray, " context"]


class LanguageScorerFiles(Files):
    manifest: Path
    """of the language model that reads"""
    tokens: Path
    vocabulary: Path
    models: Path
    index: Path
    metrics: Path
    table: Path
    """one row per latent"""


def language_scorer(files: LanguageScorerFiles, settings: ScoreByModel, run: RunInfo) -> None:
    """Scores latents of the dictionaries of the compared width on trained networks; intervals are over networks."""
    measures, scorer = settings.measures, settings.scorer
    stored, trained, words = load_file(files.tokens), load_models(files.models), read_json(files.vocabulary)
    text = read_text(stored["held_out"], stored["document"])
    tokenizer, model = load_tokenizer(files.manifest.parent), load_writer(files.manifest.parent, run.device)
    rows: list[dict[str, Any]] = []
    for place, seed in enumerate(trained.seeds):
        sae = load_saelens(files.index.parent / f"trained-{settings.dictionaries.width}-s{seed}")
        x = activations(trained.one(place), stored["held_out"].long(), trained.shape)[:, 1:].flatten(0, 1)
        firings, _ = living_latents(sae, x, text, measures.least_firings)
        explained = explain(firings, text, len(words), measures.set_size)
        asked = questions(firings, text, measures.context, scorer, seed)
        texts = context_texts(text, words, measures.context, asked)
        nats = read_contexts(model, tokenizer, asked, prompts_of(explained, words, asked, scorer.words), texts, scorer)
        lexical = looked_up(explained, text, measures.context)
        for question, (bare, own, other) in zip(asked, nats, strict=True):
            scores = {
                "model": bare - own,
                "exchanged": bare - other,
                "lexical": lexical[question.latent, question.contexts],
            }
            told = {name: float(roc_auc_score(question.fires, score)) for name, score in scores.items()}
            shown = explanation_text(explained, question.latent, words, SHOWN)
            rows.append({"seed": seed, "latent": question.latent, "explanation": shown, **told})
        print(f"seed {seed}: {len(asked)} latents", flush=True)
    write_table(files.table, rows)
    write_metrics(files.metrics, scorer_metrics(rows, trained.seeds))


def scorer_metrics(rows: list[dict[str, Any]], seeds: list[int]) -> dict[str, Metric]:
    """Means over latents, one value per network."""
    means = {
        name: [float(np.mean([row[name] for row in rows if row["seed"] == seed])) for seed in seeds]
        for name in ("model", "exchanged", "lexical")
    }
    by_model = "contexts ranked by how much likelier the explanation makes them to the language model"
    by_tokens = "contexts ranked by how many tokens of the explanation they hold"
    area = "mean over latents of the AUROC"
    controls = {"exchanged_explanations": means["exchanged"]}
    return {
        "auroc_model": over_seeds(means["model"], unit="1", formula=f"{area}; {by_model}", controls=controls),
        "auroc_lexical": over_seeds(means["lexical"], unit="1", formula=f"{area}; {by_tokens}"),
    }


def questions(firings: Firings, text: Text, context: int, scorer: Scorer, seed: int) -> list[Question]:
    """Latents drawn at random among those with enough contexts, each with as many contexts from every quarter of its
    activations and as many in which it does not fire. UserError if no latent has enough."""
    groups, rng = grouped(text, context), np.random.default_rng(seed)
    strongest = peaks(firings, text, groups)
    judged = np.zeros(strongest.shape[1], dtype=bool)
    judged[groups[text.scored]] = True
    wanted = QUARTERS * scorer.per_quarter
    enough = np.flatnonzero(((strongest > 0).sum(1) >= wanted) & (((strongest == 0) & judged).sum(1) >= wanted))
    if not len(enough):
        raise UserError(f"no latent fires in {wanted} contexts of the scored documents; lower 'scorer.per_quarter'")
    partner = exchanged(np.bincount(firings.unit, minlength=firings.units) / text.size(), rng)
    found = []
    for latent in np.sort(rng.choice(enough, min(scorer.latents, len(enough)), replace=False)):
        firing = np.flatnonzero(strongest[latent])
        parts = np.array_split(firing[np.argsort(-strongest[latent][firing], kind="stable")], QUARTERS)
        yes = [rng.choice(part, scorer.per_quarter, replace=False) for part in parts]
        no = rng.choice(np.flatnonzero((strongest[latent] == 0) & judged), wanted, replace=False)
        fires = np.repeat([True, False], wanted)
        found.append(Question(int(latent), int(partner[latent]), np.concatenate([*yes, no]), fires))
    return found


def context_texts(text: Text, words: list[str], context: int, asked: list[Question]) -> dict[int, str]:
    """The contexts that are asked about, as text."""
    groups = grouped(text, context)
    wanted = np.unique(np.concatenate([question.contexts for question in asked]))
    return {int(group): "".join(words[token] for token in text.token[groups == group]) for group in wanted}


def prompts_of(found: Explanations, words: list[str], asked: list[Question], most: int) -> list[tuple[str, str]]:
    """What stands before a context: the latent's own explanation, and its partner's."""

    def prompt(latent: int) -> str:
        tokens = [words[token].strip() or repr(words[token]) for token in found.ranked[latent][:most] if token >= 0]
        return f"Words: {', '.join(tokens)}\n{BARE}"

    return [(prompt(question.latent), prompt(question.other)) for question in asked]


def read_contexts(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    asked: list[Question],
    prompts: list[tuple[str, str]],
    texts: dict[int, str],
    scorer: Scorer,
) -> Float[np.ndarray, "question three context"]:
    """Nats of each context of each question without an explanation, with its own, and with its partner's.

    Contexts of like length are read together, whatever stands before them.
    """

    def encode(one: str) -> list[int]:
        ids: list[int] = tokenizer(one, add_special_tokens=False).input_ids
        return ids

    before = [encode(one) for one in (BARE, *(prompt for pair in prompts for prompt in pair))]
    ids = {group: torch.tensor(encode(one) or encode(" ")) for group, one in texts.items()}
    contexts = [ids[int(group)] for question in asked for _ in range(3) for group in question.contexts]
    three = torch.tensor([[0, 2 * place + 1, 2 * place + 2] for place in range(len(asked))])
    which = three.flatten().repeat_interleave(len(asked[0].contexts))
    lengths = torch.tensor([len(one) for one in contexts])
    total = torch.zeros(len(contexts), dtype=torch.float64)
    for part in track(list(torch.split(lengths.argsort(stable=True), scorer.batch)), "contexts"):
        used, at = torch.unique(which[part], return_inverse=True)
        written = torch.nn.utils.rnn.pad_sequence([contexts[row] for row in part.tolist()], batch_first=True)
        real = torch.arange(written.shape[1]) < lengths[part, None]
        nats, _ = reread(model, [before[place] for place in used.tolist()], at, written, "blocks.0.hook_resid_pre")
        total[part] = (nats.double() * real).sum(1)
    found: Float[np.ndarray, "question three context"] = total.reshape(len(asked), 3, -1).numpy()
    return found


def looked_up(found: Explanations, text: Text, context: int) -> Float[np.ndarray, "latent context"]:
    """Tokens of each context that are in each explanation."""
    groups = grouped(text, context)
    return summed(found.members.astype(np.float32), found.previous, text, groups, text.scored)


if __name__ == "__main__":
    run_step(language_scorer)
