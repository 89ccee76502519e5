"""`make new NAME=my_result`: a replication that already runs, copied from `common/engine/template/`.

It has every file of the contract: steps (data and training, measurement, figure), one claim with a control, section of
the paper, references, page, test. `make SCALE=smoke NAME` runs it at once; then its parts are replaced one by one.
"""

import importlib
import keyword
import re
import sys

import tyro

from common.core.errors import UserError
from common.core.files import write_text
from common.core.settings import ROOT
from common.engine.schemas import schemas

SCAFFOLD = ROOT / "common" / "engine" / "template"
RULE = re.compile(r"^(?:rule|use rule step as) (\w+)", re.MULTILINE)
EXAMPLE, EXAMPLE_TITLE = "my_result", "My result"
RULE_FILES = ("Snakefile", "common/engine/rules.smk", "common/engine/step.smk")


def reserved() -> dict[str, str]:
    """Names that mean something else already, each with what it names: a target of `make`, a rule."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8") if (ROOT / "Makefile").exists() else ""
    phony = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    rules = "\n".join((ROOT / file).read_text(encoding="utf-8") for file in RULE_FILES)
    return {
        "logs": "results/<scale>/logs",
        **{name: f"a rule of the workflow, {name}" for name in RULE.findall(rules)},
        **{name: f"`make {name}`" for line in phony for name in re.findall(r"(?<!\S)[\w-]+", line)},
    }


def new(name: str) -> None:
    """Writes `replications/<name>/`, its test and its JSON schema. UserError if the name is taken or no Python name."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(f"'{name}' cannot name a replication; use small letters, digits and _, as in NAME={EXAMPLE}")
    if name in (meanings := reserved()):
        raise UserError(f"'{name}' cannot name a replication: there is {meanings[name]} already; choose another name")
    folder = ROOT / "replications" / name
    if folder.exists():
        raise UserError(f"{folder.relative_to(ROOT)} exists already; choose another name or remove it first")
    for source in (SCAFFOLD / EXAMPLE).rglob("*.*"):
        if "__pycache__" not in source.parts:
            target = folder / str(source.relative_to(SCAFFOLD / EXAMPLE)).replace(EXAMPLE, name)
            text = source.read_text(encoding="utf-8").replace(EXAMPLE, name)
            write_text(target, text.replace(EXAMPLE_TITLE, name.replace("_", " ").capitalize()))
    importlib.invalidate_caches()
    schema = folder / "config.schema.json"
    write_text(schema, schemas()[schema])
    tests = f"`.venv/bin/python -m pytest replications/{name}`"
    print(f"replications/{name} is ready: `make SCALE=smoke {name}` runs it, {tests} tests it.")
    print(f"Then replace its parts; the claim comes first (replications/{name}/claims.yaml). docs/extend.md says how.")
    print(f"Seal it before it is scored: `make calibrate NAME={name}`, `make freeze NAME={name}`; then `make {name}`.")


def main() -> None:
    """Command line."""
    try:
        tyro.cli(new)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
