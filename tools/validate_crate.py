"""Judges a crate by the Workflow Run Crate profile and those that it builds on. Runs in `.venv-tools`.

    .venv-tools/bin/python tools/validate_crate.py results/laptop/crate

The validator reads the JSON-LD context of RO-Crate 1.1 from the web. Where that cannot be reached, the terms below
stand for it, as the context defines them, and the output says so. Exit code 1 with one line for each
requirement that fails.
"""

import json
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.exceptions import RequestException
from rocrate_validator import services
from rocrate_validator.models import Severity, ValidationSettings
from urllib3 import HTTPResponse

PROFILE = "workflow-run-crate-0.5"
CONTEXT = "https://w3id.org/ro/crate/1.1/context"
SCHEMA = """
    CreativeWork Dataset CreateAction ComputerLanguage Organization SoftwareApplication SoftwareSourceCode
    PropertyValue about name description datePublished dateCreated license author publisher mainEntity hasPart mentions
    version url identifier programmingLanguage softwareRequirements instrument agent startTime endTime actionStatus
    object result additionalType workExample exampleOfWork value encodingFormat contentSize
"""
TERMS = {name: f"http://schema.org/{name}" for name in SCHEMA.split()} | {
    "File": "http://schema.org/MediaObject",
    "conformsTo": "http://purl.org/dc/terms/conformsTo",
    "ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow",
    "FormalParameter": "https://bioschemas.org/FormalParameter",
    "input": "https://bioschemas.org/ComputationalWorkflow#input",
    "output": "https://bioschemas.org/ComputationalWorkflow#output",
}


def stand_in_for_the_web() -> None:
    """Gives the terms above where the context cannot be fetched."""
    send, said = HTTPAdapter.send, []

    def sent(self: HTTPAdapter, request: PreparedRequest, *args: object, **options: object) -> Response:
        try:
            return send(self, request, *args, **options)
        except RequestException:
            if request.url != CONTEXT:
                raise
        if not said:
            said.append(CONTEXT)
            print("the context of RO-Crate 1.1 cannot be fetched; the terms in tools/validate_crate.py stand for it")
        found = Response()
        found.status_code, found.url, found.request = 200, CONTEXT, request
        found.headers["Content-Type"] = "application/ld+json"
        found.raw = HTTPResponse(BytesIO(json.dumps({"@context": TERMS}).encode()), status=200, preload_content=False)
        return found

    HTTPAdapter.send = sent


def main(folder: str) -> int:
    """Prints what fails; 0 if nothing does."""
    if not Path(folder, "ro-crate-metadata.json").exists():
        print(f"error: {folder} is no crate: ro-crate-metadata.json is missing; run `make crate`", file=sys.stderr)
        return 1
    stand_in_for_the_web()
    settings = ValidationSettings(
        rocrate_uri=folder,
        cache_path=Path(tempfile.mkdtemp(), "cache"),
        profile_identifier=PROFILE,
        requirement_severity=Severity.REQUIRED,
        skip_availability_check=True,
    )
    result = services.validate(settings)
    for issue in result.get_issues(Severity.REQUIRED):
        print(f"{issue.check.identifier}: {issue.message}", file=sys.stderr)
    print(f"{folder} is {'a valid' if result.passed() else 'NO valid'} Workflow Run Crate ({PROFILE})")
    return 0 if result.passed() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
