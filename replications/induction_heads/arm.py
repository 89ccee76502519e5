"""The file that holds one trained arm: weights at some steps, measurements at many, and how they came about."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.toys.settings import Architecture
from common.toys.training import Trained
from common.toys.transformer import Weights
from replications.induction_heads.settings import Arm, Sizes, Text


class ArmResult(NamedTuple):
    """One arm. Snapshots have a leading axis over `snapshots_at`, measurements over `measure_at`; then instances."""

    shape: Architecture
    text: Text
    seeds: list[int]
    measure_at: list[int]
    snapshots_at: list[int]
    trained: Trained

    def weights(self, index: int) -> Weights:
        """The weights of one snapshot: 0 the first, -1 the end of training."""
        return {name: value[index] for name, value in self.trained.snapshots.items()}

    def measured(self, name: str) -> Tensor:
        """One measurement, [step instance ...]."""
        return self.trained.measured[name]


def architecture(arm: Arm, sizes: Sizes, text: Text) -> Architecture:
    """The full shape of an arm's models."""
    return Architecture(
        **arm.model_dump(exclude={"seeds"}),
        **sizes.model_dump(),
        d_vocab=text.d_vocab,
        n_ctx=text.length,
    )


def save_arm(path: Path, result: ArmResult) -> None:
    """Writes one arm."""
    tensors = {"losses": result.trained.losses}
    tensors |= {f"snapshot.{name}": value for name, value in result.trained.snapshots.items()}
    tensors |= {f"measured.{name}": value for name, value in result.trained.measured.items()}
    about = {
        "shape": result.shape.model_dump(),
        "text": result.text.model_dump(),
        **{name: getattr(result, name) for name in ("seeds", "measure_at", "snapshots_at")},
    }
    with atomic(path) as temporary:
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(plain, temporary, {"about": json.dumps(about, sort_keys=True)})


def load_arm(path: Path, device: str = "cpu") -> ArmResult:
    """Reads one arm."""
    with safe_open(path, framework="pt", device=device) as stored:
        about: dict[str, Any] = json.loads(stored.metadata()["about"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    return ArmResult(
        shape=Architecture.model_validate(about["shape"]),
        text=Text.model_validate(about["text"]),
        seeds=about["seeds"],
        measure_at=about["measure_at"],
        snapshots_at=about["snapshots_at"],
        trained=Trained(part("snapshot."), tensors["losses"], part("measured.")),
    )
