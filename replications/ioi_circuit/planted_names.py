"""The rules that name heads, on planted models: the classes, and the backup name movers (Wang et al. 2022, section 3).

A backup does nothing that counts while the name mover is there, so it needs models of its own: with a fifth layer that
holds one (`backup` in planted.py), and with a fifth layer of noise (`no_backup`). Growth is measured on other prompts.
"""

import numpy as np
import torch

from common.core.metrics import Metric
from common.core.statistics import over_seeds
from common.interp.decoder import Decoder
from replications.ioi_circuit.batches import DISCOVERY, VERIFICATION, balanced
from replications.ioi_circuit.classes import HeadClasses, HeadScores, head_scores, random_token_scores
from replications.ioi_circuit.dataset import Prompt, Vocabulary
from replications.ioi_circuit.knockout import KnockOut, template_means
from replications.ioi_circuit.name_movers import backups_by_rule, growth
from replications.ioi_circuit.nodes import PLACES, Node
from replications.ioi_circuit.passes import shared_passes
from replications.ioi_circuit.planted import BACKUP, LENGTH, TRUTH, Kind, load_planted
from replications.ioi_circuit.settings import GroundTruth
from replications.ioi_circuit.sweeps import Effects, NothingToFollowError, Rules, add_sweep, discover

BATCH_SIZE = 4096
"""Token positions in one pass of the knock-outs."""
MOVERS = frozenset(Node(layer, head, place) for (layer, head, place), kind in TRUTH.items() if kind == "name_mover")
FORMULAS = {
    "backup_found": "1 if the rule names the planted backup name mover; control: 1 if it names any head",
    "backup_wrong": "heads that are none and that the rule names backup name mover",
    "backup_growth": "growth of the planted head's direct effect without the name mover, on other prompts / F(M)",
}


def name_heads(
    decoder: Decoder, prompts: list[Prompt], words: Vocabulary, settings: GroundTruth, seed: int
) -> tuple[HeadScores, Effects, HeadClasses]:
    """Scores, effects and classes of all heads; no class where no head acts on the logits and attends to the names."""
    random_tokens = random_token_scores(decoder, LENGTH // 2 - 2, 8, seed)
    shared = shared_passes(decoder, prompts)
    scores = head_scores(decoder, shared, torch.tensor(sorted(words.names.values())), random_tokens, settings.draws)
    every = dict.fromkeys(PLACES, decoder.n_layers * decoder.n_heads)
    rules = Rules(settings.minimum_percent, settings.draws, every, settings.resamples)
    try:
        effects, classes = discover(decoder, shared, shared, scores, rules)
    except NothingToFollowError:
        print(f"seed {seed}: no head acts on the logits and attends to the names")
        effects, classes = Effects(), HeadClasses()
        add_sweep(decoder, effects, "logits", shared, None)
    return scores, effects, classes


def backup_record(seed: int, settings: GroundTruth) -> dict[str, float]:
    """The quantities of `FORMULAS` with a planted backup, and under `<name>_without` in the model without one."""
    record = {}
    kinds: tuple[tuple[Kind, str], ...] = (("backup", ""), ("no_backup", "_without"))
    for kind, end in kinds:
        decoder, drawn, words = load_planted(seed, settings.n_prompts, kind)
        planted = BACKUP[0] * decoder.n_heads + BACKUP[1]
        prompts = balanced(drawn, DISCOVERY, settings.n_prompts)
        means = template_means(decoder, drawn)
        scores, effects, classes = name_heads(decoder, prompts, words, settings, seed)
        named = np.zeros(decoder.n_layers * decoder.n_heads, dtype=bool)
        if classes:
            where = KnockOut(decoder, prompts, means, "cpu", BATCH_SIZE)
            named = backups_by_rule(where, effects, classes, scores, settings.draws, settings.minimum_percent)[1]
        fresh = KnockOut(decoder, balanced(drawn, VERIFICATION, settings.n_prompts), means, "cpu", BATCH_SIZE)
        whole = fresh.differences([frozenset()], remove=True).mean()
        record[f"backup_found{end}"] = float(named[planted] if kind == "backup" else named.any())
        record[f"backup_wrong{end}"] = float(named.sum() - (kind == "backup") * named[planted])
        record[f"backup_growth{end}"] = float(growth(fresh, MOVERS)[1][planted].mean() / whole)
    return record


def measure_backups(records: list[dict[str, float]]) -> dict[str, Metric]:
    """Over seeds, against the models without a backup."""
    return {
        name: over_seeds(
            [record[name] for record in records],
            unit="heads" if name == "backup_wrong" else "1",
            formula=formula,
            controls={"no_backup": [record[f"{name}_without"] for record in records]},
        )
        for name, formula in FORMULAS.items()
    }
