"""Step: judges claims. `replication` writes one replication's `claims.json`; `all` merges them.

A failed claim is not a failed job: everything is written, and the last line of `make` sets the exit code from
`claims.json` (see `common.engine.launch`).
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import tyro
from pydantic import ValidationError

from common.core.claims import Claim, ClaimDefinition, evaluate, load_claims, verdicts
from common.core.errors import UserError
from common.core.files import read_json, write_json
from common.core.metrics import Metric, read_metrics
from common.core.settings import Scale
from common.core.step import run_command


def replication(scale: Scale, replication: str, results: Path, models: list[str], out: Path) -> None:
    """Judges every claim of one replication from its metrics and writes `out` (JSON)."""
    judged = verify_replication(replication, scale, models, results)
    write_json(out, [claim.model_dump(mode="json") for claim in judged])
    for claim in judged:
        print(f"{claim.verdict}: {claim.id} on {claim.model} ({claim.reason})")


def verify_replication(replication: str, scale: str, models: list[str], results: Path) -> list[Claim]:
    """Judges every claim of one replication from the metrics below `results/<replication>/`.

    `models` are the language models of this run; claims on the model `toy` always run.
    """
    judged = []
    for definition, model in ((one, model) for one in load_claims(replication) for model in one.models):
        metrics: Mapping[str, Metric] | str
        if scale not in definition.scales:
            metrics = f"needs scale {' or '.join(definition.scales)}; this is {scale}"
        elif model not in ("toy", *models):
            metrics = f"model {model} is not part of this run"
        else:
            metrics = _metrics_of(replication, definition, results / replication / model)
        judged.append(evaluate(replication, definition, model, metrics))
    return judged


def _metrics_of(replication: str, definition: ClaimDefinition, folder: Path) -> Mapping[str, Metric]:
    """The metrics of the part that a claim names. UserError naming the parts that there are."""
    path = folder / definition.part / "metrics.json"
    if not path.exists() and (parts := sorted(file.parent.name for file in folder.glob("*/metrics.json"))):
        raise UserError(
            f"claim {replication}.{definition.id} names the part '{definition.part}', which does not exist; there is "
            f"{', '.join(parts)}; correct replications/{replication}/claims.yaml"
        )
    return read_metrics(path)


def merge(claims: list[Path], out: Path) -> None:
    """Merges the files of all replications into `out` (JSON)."""
    merged = [claim for path in claims for claim in read_claims(path)]
    write_json(out, [claim.model_dump(mode="json") for claim in merged])


def read_claims(path: Path) -> list[Claim]:
    """The content of a `claims.json`. UserError if it is missing, damaged or of another version."""
    content = read_json(path)
    try:
        return [Claim.model_validate(item) for item in content]
    except (TypeError, ValidationError):
        raise UserError(f"{path} is damaged or of another version; delete it and run `make resume`") from None


def summary(claims: list[Claim]) -> str:
    """`12 reproduced, 1 not reproduced, 3 not run here`."""
    found = Counter[str](claim.verdict for claim in claims)
    return ", ".join(f"{found[verdict]} {verdict}" for verdict in verdicts() if found[verdict])


def main() -> None:
    """Chooses the sub-command from the command line."""
    tyro.extras.subcommand_cli_from_dict({"replication": replication, "all": merge})


if __name__ == "__main__":
    run_command(main)
