"""Step: fetches the requests of Arditi et al. 2024, at the commit and with the hashes of `released.yaml`.

Only with HUB=1; without it nothing asks the network. The files stay in `resources/`, outside of results and repository.
`draw_requests` takes what one seed of a released model sees. Estimates are from the paper's training split, the choice
from its validation split, effects from its test split. Each seed takes a slice of one shuffled list, round and round:
seeds in a row share requests only where the list has too few for all, others may share some. Risky words are those of
`lists.yaml`.
"""

import hashlib
import http.client
import os
import random
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated

from pydantic import Field

from common.core.errors import UserError
from common.core.files import atomic, read_json, read_yaml, write_json
from common.core.settings import Strict, checked
from common.core.step import Files, run_step
from common.data.models import Sha256, check_file
from replications.refusal_direction.lists import Line, Prompts, Split, draw
from replications.refusal_direction.settings import ReleasedSettings, SplitSettings

RELEASED = Path(__file__).with_name("released.yaml")
MANIFEST = "manifest.json"
SECONDS = 60


class Requests(Strict):
    """Where the requests are."""

    repository: str = Field(description="owner/name on GitHub")
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    folder: str
    licence: str
    files: dict[str, Sha256] = Field(description="file name -> SHA-256")


class Released(Strict):
    """The content of `released.yaml`."""

    models: list[str] = Field(description="names in config/models.yaml")
    requests: Requests


def released(path: Path = RELEASED) -> Released:
    """The checked file."""
    return checked(Released, read_yaml(path), path)


class FetchFiles(Files):
    registry: Path
    """`released.yaml`"""
    manifest: Path
    """the hashes of the files"""
    request_files: list[Path]
    """beside the manifest"""


def fetch(files: FetchFiles) -> None:
    """Writes the requests, each file checked before it gets its name.

    Raises:
        UserError: the network is switched off or does not answer, or a file is not the pinned one.
    """
    if os.environ.get("HUB") != "1":
        raise UserError(
            "the paper's requests come from the network, which is switched off; run with HUB=1, or leave out the "
            f"models that need them: {', '.join(released(files.registry).models)}"
        )
    source = released(files.registry).requests
    host = os.environ.get("REQUESTS_ENDPOINT", "https://raw.githubusercontent.com")
    for name, expected in source.files.items():
        address = f"{host}/{source.repository}/{source.commit}/{source.folder}/{name}"
        try:
            with urllib.request.urlopen(address, timeout=SECONDS) as answer:
                content = answer.read()
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
            raise UserError(f"{address} did not answer as expected ({error}); check the network") from None
        if (found := hashlib.sha256(content).hexdigest()) != expected:
            raise UserError(
                f"{address} gave a file that is not the pinned one (SHA-256 {found[:12]}..., expected "
                f"{expected[:12]}...); look at what it gives, or correct {files.registry.name}"
            )
        with atomic(files.manifest.with_name(name)) as temporary:
            temporary.write_bytes(content)
    write_json(files.manifest, source.files)


def draw_requests(folder: Path, seed: int, sizes: ReleasedSettings) -> Prompts:
    """What one seed sees of the files in `folder`. Nothing is taught, so nothing is there to tune on, and no
    refusal texts."""
    own = SplitSettings(
        tune=1, harmless_tune=1, risky_tune=0, estimate=sizes.estimate, choose=2, test=4, risky_test=sizes.risky
    )
    listed = draw(seed, own)
    return Prompts(
        switch=_split(folder, "harmful", seed, sizes),
        harmless=_split(folder, "harmless", seed, sizes),
        risky=listed.risky,
        other=listed.other,
        refusals=[],
    )


def _split(folder: Path, kind: str, seed: int, sizes: ReleasedSettings) -> Split:
    counts = {"train": sizes.estimate, "val": sizes.choose, "test": sizes.test}
    estimate, choose, test = (_slice(folder / f"{kind}_{part}.json", seed, count) for part, count in counts.items())
    return Split(tune=[], estimate=estimate, choose=choose, test=test)


def _slice(path: Path, seed: int, count: int) -> list[Line]:
    """The requests of one seed. Their topic is the data set's category, or each is one of its own."""
    check_file(path, read_json(path.with_name(MANIFEST))[path.name], remedy=f"delete {path.parent} and run with HUB=1")
    categories = {row["instruction"]: row["category"] for row in read_json(path)}  # some requests stand there twice
    texts = sorted(categories)
    if count > len(texts):
        raise UserError(f"{path} has {len(texts)} requests, {count} are needed; lower the number in config.yaml")
    random.Random(path.stem).shuffle(texts)
    chosen = [texts[place % len(texts)] for place in range(seed * count, (seed + 1) * count)]
    return [Line(categories[text] or text_id(text), text) for text in chosen]


def text_id(text: str) -> str:
    """A name for a request that says nothing of it: results hold topics, and no request."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


if __name__ == "__main__":
    run_step(fetch)
