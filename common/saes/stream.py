"""Activations on disk: hashed safetensors shards, written once per model, hook and corpus, and read as a stream.

A folder holds `shard-00000.safetensors`, ... (tensor `activations` [token d_model], `document` [token] and `token_id`
[token]) and `manifest.json`. The manifest has model, hook, corpora, dtype and the SHA-256 of each shard. It says how
many tokens were dropped and why, and which scalar brings the mean squared norm to 1. Shards are shuffled when written.
A reader maps the files into memory and copies the rows of one batch at a time. So what it holds does not grow with the
number of tokens. Each epoch visits them in a new order.
"""

from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeInt
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.core.errors import UserError
from common.core.files import atomic, read_json, sha256, write_json
from common.core.settings import Strict, checked
from common.data.models import Sha256
from common.saes.architectures.base import Batch

SHARD_TOKENS = 65_536


class StreamManifest(Strict):
    """`manifest.json` of a folder of shards."""

    model: str
    hook: str
    corpora: list[str]
    dtype: str
    d_model: Annotated[int, Field(ge=1)]
    tokens: Annotated[int, Field(ge=1)]
    dropped: dict[str, NonNegativeInt] = Field(description="tokens left out, by reason")
    scale: Annotated[float, Field(gt=0)] = Field(description="scale * activation has mean squared norm 1")
    shards: dict[str, Sha256]


class Activations:
    """The shards of a folder, in the dtype they were stored in; `x`, `document` and `token_id` copy all of them.

    Raises:
        UserError: a shard is missing, damaged, of another shape than the manifest says, or holds NaN.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "manifest.json"
        self.manifest = checked(StreamManifest, read_json(path), path)
        remedy = f"delete {folder} and run `make resume`"
        self.parts: list[dict[str, Tensor]] = []  # mapped files: pages come and go with what is read
        for name, expected in self.manifest.shards.items():
            if not (folder / name).is_file():
                raise UserError(f"shard {folder / name} is missing; {remedy}")
            if sha256(folder / name) != expected:
                raise UserError(f"shard {folder / name} is damaged: its SHA-256 is not that of the manifest; {remedy}")
            try:
                self.parts.append(load_file(folder / name))
            except SafetensorError:
                raise UserError(f"shard {folder / name} is no safetensors file; {remedy}") from None
            part = self.parts[-1]["activations"]
            if part.shape[1] != self.manifest.d_model:
                raise UserError(
                    f"shard {folder / name} has width {part.shape[1]}, not {self.manifest.d_model}; {remedy}"
                )
            if not bool(torch.isfinite(part).all()):
                raise UserError(f"the activations in {folder} hold NaN or infinity; {remedy}")
        ends = list(accumulate(len(part["activations"]) for part in self.parts))
        self.starts: Int[Tensor, " shard"] = torch.tensor([0, *ends[:-1]])
        self.tokens: int = ends[-1]

    @cached_property
    def x(self) -> Float[Tensor, "token d_model"]:
        return self._whole("activations")

    @cached_property
    def document(self) -> Int[Tensor, " token"]:
        return self._whole("document")

    @cached_property
    def token_id(self) -> Int[Tensor, " token"]:
        return self._whole("token_id")

    def _whole(self, name: str) -> Tensor:
        return torch.cat([part[name] for part in self.parts])

    def rows(self, at: Int[Tensor, " n"]) -> Float[Tensor, "n d_model"]:
        """Activations at these places, in float32."""
        found = torch.empty(len(at), self.manifest.d_model)
        shard = torch.bucketize(at, self.starts, right=True) - 1
        for number in sorted(set(shard.tolist())):
            here = shard == number
            found[here] = self.parts[number]["activations"][at[here] - self.starts[number]].float()
        return found

    def first(self, most: int) -> Float[Tensor, "n d_model"]:
        """At most that many activations, in float32."""
        return self.rows(torch.arange(min(most, self.tokens)))

    def batch(self, step: int, size: int, seed: int = 0) -> Float[Tensor, "batch d_model"]:
        """The scaled activations of one step in float32: a function of step, size and seed alone.

        Every epoch visits each activation at most once, in its own order.
        """
        per_epoch = self.tokens // size
        if per_epoch == 0:
            raise UserError(f"{self.tokens} activations do not fill one batch of {size}; harvest more tokens")
        epoch, place = divmod(step, per_epoch)
        order = self._order(epoch, seed)
        return self.rows(order[place * size : (place + 1) * size]) * self.manifest.scale

    def _order(self, epoch: int, seed: int) -> Int[Tensor, " token"]:
        if getattr(self, "_cached", (None,))[0] != (epoch, seed):
            generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
            self._cached: Any = ((epoch, seed), torch.randperm(self.tokens, generator=generator))
        order: Tensor = self._cached[1]
        return order


def as_batch(x: Float[Tensor, "batch d"]) -> Batch:
    """One batch shared by all members of an autoencoder group."""
    one = rearrange(x, "batch d -> 1 batch d")
    return Batch(one, one)


def write_shards(
    folder: Path,
    x: Float[Tensor, "token d_model"],
    document: Int[Tensor, " token"],
    token_id: Int[Tensor, " token"],
    *,
    about: dict[str, Any],
    seed: int = 0,
) -> None:
    """Shuffles, writes the shards, then the manifest, which marks the folder as complete.

    `about` gives model, hook, corpora and dropped. UserError if an activation is not finite.
    """
    if not all(bool(torch.isfinite(part).all()) for part in torch.split(x, SHARD_TOKENS)):
        raise UserError(f"activations at {about['hook']} of {about['model']} hold NaN or infinity; nothing was written")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    hashes = {}
    for number, part in enumerate(torch.split(order, SHARD_TOKENS)):
        path = folder / f"shard-{number:05d}.safetensors"
        with atomic(path) as temporary:
            save_file({"activations": x[part], "document": document[part], "token_id": token_id[part]}, temporary)
        hashes[path.name] = sha256(path)
    mean_square = sum(float(part.double().square().sum()) for part in torch.split(x, SHARD_TOKENS)) / len(x)
    manifest = StreamManifest(
        **about,
        dtype=str(x.dtype).removeprefix("torch."),
        d_model=x.shape[1],
        tokens=len(x),
        scale=mean_square**-0.5,
        shards=hashes,
    )
    write_json(folder / "manifest.json", manifest.model_dump(mode="json"))
