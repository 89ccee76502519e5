"""`make crate`: a finished run as a Workflow Run RO-Crate, for an archive (results/<scale>/crate/).

    RO-Crate 1.1, Workflow RO-Crate 1.0, Process and Workflow Run Crate 0.5 (Leo et al. 2024)

It holds the workflow with its locks, scale and claims as inputs, and verdicts, metrics, figures, report and paper as
outputs. `ro-crate-metadata.json` describes them; `manifest-sha256.txt` has the hash of every file. `make crate` then
lets `tools/validate_crate.py` judge it by the profiles.
"""

import mimetypes
import shutil
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tyro

from common.core.errors import UserError
from common.core.events import EVENTS, read_events
from common.core.files import TEMPORARY_SUFFIX, read_json, read_yaml, sha256, write_json, write_text
from common.core.settings import ROOT, load_scale
from common.publish.reference import seed_list
from common.publish.site import from_results
from common.publish.site_pages import Source, of_present_claims

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
LICENCE = "https://spdx.org/licenses/MIT"
WORKFLOW = "Snakefile"
DEVELOPERS = "#developers"
WHOLE = ("claims.json", "cost.json", "provenance.json", "claims.html", "report.html", "paper.pdf")
Entity = dict[str, Any]


def ref(name: str) -> Entity:
    """A reference to another entity."""
    return {"@id": name}


def refs(names: Iterable[str]) -> Entity | list[Entity]:
    """References, in order; a single one by itself."""
    found = [ref(name) for name in names]
    return found[0] if len(found) == 1 else found


def inputs(names: list[str], scale: str) -> dict[str, str]:
    """What the run was made from: file of the project -> what it is."""
    found = {f"config/scales/{scale}.yaml": "Seeds, device and models of the scale", "config/models.yaml": "Models"}
    for name in names:
        for file, what in (("config.yaml", "Settings"), ("claims.yaml", "Claims"), ("claims.lock", "Sealed bounds")):
            if (ROOT / "replications" / name / file).exists():
                found[f"replications/{name}/{file}"] = f"{what} of {name}"
    return found


def outputs(source: Source, scale: str) -> dict[str, str]:
    """What the run has made: file of the project -> what it is."""
    assert source.results is not None
    root = source.results
    whole = of_present_claims(root, WHOLE, source.claims)
    found = {f"results/{scale}/{name}": f"{name} of the run" for name in whole}
    for name in source.claims:
        patterns = ("claims.json", "provenance.json", "*/*/metrics.json", "*/*/figures/*.svg", "*/*/figures/*.json")
        for path in [path for pattern in patterns for path in sorted((root / name).glob(pattern))]:
            what = path.relative_to(root / name)
            found[path.relative_to(ROOT).as_posix()] = f"{name}: {what}"
    return found


def times(source: Source) -> tuple[str, str]:
    """Begin and end of the run, from its events; from its provenance where there are none."""
    assert source.results is not None
    events = [event.time for event in read_events(source.results / EVENTS)]
    if not events:
        written = sorted(str(record["written"]) for record in source.records.values())
        return written[0], written[-1]
    first, last = (
        datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds") for moment in (min(events), max(events))
    )
    return first, last


def parameter(name: str, kind: str, examples: Iterable[str], about: str) -> Entity:
    """One input or output of the workflow and what stood there in this run."""
    return {
        "@id": f"#{name}",
        "@type": "FormalParameter",
        "additionalType": kind,
        "name": name,
        "description": about,
        "workExample": refs(examples),
    }


def file_entity(folder: Path, name: str, about: str, of: str = "") -> Entity:
    """One file of the crate."""
    kind = mimetypes.guess_type(name)[0] or "text/plain"
    size = str((folder / name).stat().st_size)
    entity = {"@id": name, "@type": "File", "name": about, "encodingFormat": kind, "contentSize": size}
    return entity | ({"exampleOfWork": ref(f"#{of}")} if of else {})


def metadata(folder: Path, source: Source, scale: str, given: dict[str, str], made: dict[str, str]) -> Entity:
    """The content of `ro-crate-metadata.json`."""
    citation = read_yaml(ROOT / "CITATION.cff")
    record = next(iter(source.records.values()))
    origin = read_json(ROOT / "results" / scale / next(iter(source.claims)) / "provenance.json")
    begin, end = times(source)
    locks = sorted(f"envs/{path.name}" for path in (ROOT / "envs").glob("lock*.txt"))
    extra = {name: f"Lock file {Path(name).name}" for name in locks}
    extra |= {"CITATION.cff": "How to cite", "LICENSE": "Licence", "manifest-sha256.txt": "SHA-256 of every file"}
    extra["README.md"] = "What Landmarks is"
    values = {"scale": scale, "seeds": "; ".join(sorted({seed_list(one["seeds"]) for one in source.records.values()}))}
    programs = {name: version for name, version in origin["versions"].items()}
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Landmarks, scale {scale}: {', '.join(source.claims)}",
        "description": "A run of the Landmarks workflow: which landmark results of mechanistic interpretability were "
        "reproduced, how strongly, and against which control.",
        "datePublished": end,
        "license": ref(LICENCE),
        "author": ref(DEVELOPERS),
        "publisher": ref(DEVELOPERS),
        "conformsTo": refs(PROFILES),
        "mainEntity": ref(WORKFLOW),
        "hasPart": refs([WORKFLOW, *extra, *given, *made]),
        "mentions": [ref("#run")],
    }
    workflow = file_entity(folder, WORKFLOW, "Landmarks workflow") | {
        "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
        "description": "One Snakemake DAG that reproduces landmark results and judges them against controls.",
        "conformsTo": ref("https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"),
        "programmingLanguage": ref("#snakemake"),
        "version": str(citation["version"]),
        "license": ref(LICENCE),
        "author": ref(DEVELOPERS),
        "dateCreated": str(citation["date-released"]),
        "input": refs(["#scale", "#seeds", "#settings"]),
        "output": refs(["#results"]),
        "softwareRequirements": refs(f"#{name}" for name in programs),
    }
    action = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"Run at scale {scale}",
        "description": f"Commit {record['commit'] or 'unknown'}{' with changes' if record['dirty'] else ''}, "
        f"{origin['device']} ({origin['instructions']}), {origin['platform']}",
        "instrument": ref(WORKFLOW),
        "agent": ref(DEVELOPERS),
        "startTime": begin,
        "endTime": end,
        "actionStatus": "http://schema.org/CompletedActionStatus",
        "object": refs(["#scale-value", "#seeds-value", *given]),
        "result": refs(made),
    }
    about = {
        "name": "Snakemake",
        "version": programs["snakemake"],
        "identifier": ref("https://doi.org/10.1093/bioinformatics/bts480"),
    }
    graph: list[Entity] = [
        {
            "@id": "ro-crate-metadata.json",
            "@type": "CreativeWork",
            "about": ref("./"),
            "conformsTo": refs(["https://w3id.org/ro/crate/1.1", "https://w3id.org/workflowhub/workflow-ro-crate/1.0"]),
        },
        root,
        workflow,
        action,
        {"@id": "#snakemake", "@type": "ComputerLanguage", "url": ref("https://snakemake.github.io")} | about,
        {"@id": DEVELOPERS, "@type": "Organization", "name": citation["authors"][0]["name"]},
        {"@id": LICENCE, "@type": "CreativeWork", "name": "MIT License", "identifier": LICENCE},
    ]  # fmt: skip
    graph += [{"@id": one, "@type": "CreativeWork", "name": name, "version": v} for one, (name, v) in PROFILES.items()]
    graph += [
        {"@id": f"#{name}", "@type": "SoftwareApplication", "name": name, "version": version}
        for name, version in programs.items()
        if name != "snakemake"
    ]
    graph += [parameter(name, "Text", [f"#{name}-value"], f"The {name} of the run") for name in values]
    graph += [
        {
            "@id": f"#{name}-value",
            "@type": "PropertyValue",
            "name": name,
            "value": text,
            "exampleOfWork": ref(f"#{name}"),
        }
        for name, text in values.items()
    ]
    graph.append(parameter("settings", "File", given, "Settings, claims and seals of each replication"))
    graph.append(parameter("results", "File", made, "Verdicts, metrics, figures and pages"))
    graph += [file_entity(folder, name, about, "settings") for name, about in given.items()]
    graph += [file_entity(folder, name, about, "results") for name, about in made.items()]
    graph += [file_entity(folder, name, about) for name, about in extra.items()]
    graph[-1] |= {"about": ref("./"), "encodingFormat": "text/markdown"}
    return {"@context": CONTEXT, "@graph": graph}


def crate(scale: str = "laptop") -> None:
    """Writes `results/<scale>/crate/` anew. UserError for missing or stale results, as `make site`."""
    load_scale(scale)
    source, out = from_results(scale), ROOT / "results" / scale / "crate"
    given, made = inputs(list(source.claims), scale), outputs(source, scale)
    folder = out.with_name(f".crate{TEMPORARY_SUFFIX}")
    shutil.rmtree(folder, ignore_errors=True)
    locks = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "envs").glob("lock*.txt"))]
    try:
        names = [WORKFLOW, "README.md", "CITATION.cff", "LICENSE", *locks, *given, *made]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
        write_text(folder / "manifest-sha256.txt", "".join(f"{sha256(folder / name)}  {name}\n" for name in names))
        write_json(folder / "ro-crate-metadata.json", metadata(folder, source, scale, given, made))
        shutil.rmtree(out, ignore_errors=True)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{out.relative_to(ROOT)} holds {len(names)} files of {', '.join(source.claims)}")


if __name__ == "__main__":
    try:
        tyro.cli(crate)
    except UserError as error:
        sys.exit(f"error: {error}")
