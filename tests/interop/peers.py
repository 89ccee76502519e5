"""Trains one SAE with SAELens or dictionary_learning and prints seconds and the weights' FVU. For `make bench`.

    .venv-interop/bin/python tests/interop/peers.py JOB.json

The job names library, architecture, width, k, batch, steps, learning rate and threads. It also names the numbers of
steps after which FVU is asked for, and a safetensors file with `train` and `held_out`. Each library runs its own
trainer with its defaults, constant rate after a short warm-up. Dead latents are those of 10 million silent activations
or 1000 silent steps, so none occurs and no side pays for an auxiliary loss. What measuring FVU takes is not part of the
seconds.
"""

import json
import sys
import time
import types
from collections.abc import Callable, Iterator

import torch
from safetensors.torch import load_file
from torch import Tensor

WARMUP = 3  # steps in advance, not timed

Reconstruct = Callable[[Tensor], Tensor]


class Curve:
    """FVU on held-out data after some numbers of steps, and the time that it took to measure it."""

    def __init__(self, held_out: Tensor, after: list[int]) -> None:
        self.x, self.after = held_out, after
        self.fvu: dict[int, float] = {}
        self.seconds = self.cpu = 0.0

    def look(self, done: int, reconstruct: Reconstruct) -> None:
        """Measures if FVU after this number of steps is asked for."""
        if done not in self.after:
            return
        start, busy = time.perf_counter(), time.process_time()
        with torch.no_grad():
            apart = (self.x - reconstruct(self.x)).square().sum()
        self.fvu[done] = float(apart / (self.x - self.x.mean(0)).square().sum())
        self.seconds += time.perf_counter() - start
        self.cpu += time.process_time() - busy


def saelens(job: dict, batches: Iterator[Tensor], steps: int, curve: Curve) -> None:
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.registry import get_sae_training_class
    from sae_lens.training.sae_trainer import SAETrainer

    sae_class, config_class = get_sae_training_class(job["architecture"].replace("_", ""))
    sae = sae_class(config_class(d_in=job["d"], d_sae=job["d_sae"], k=job["k"], device="cpu"))
    config = SAETrainerConfig(
        total_training_samples=steps * job["batch"],
        train_batch_size_samples=job["batch"],
        lr=job["learning_rate"],
        lr_end=job["learning_rate"],
        lr_warm_up_steps=job["warmup"],
        logger=LoggingConfig(log_to_wandb=False),
    )

    def watched() -> Iterator[Tensor]:
        for done, batch in enumerate(batches):
            curve.look(done, sae)
            yield batch

    SAETrainer(config, sae, watched()).fit()
    curve.look(steps, sae)


def dictionary_learning(job: dict, batches: Iterator[Tensor], steps: int, curve: Curve) -> None:
    sys.modules.setdefault("nnsight", types.SimpleNamespace(LanguageModel=None))  # only its activation buffer needs it
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer_class = {"topk": TopKTrainer, "batch_topk": BatchTopKTrainer}[job["architecture"]]
    trainer = trainer_class(
        steps=10**9, activation_dim=job["d"], dict_size=job["d_sae"], k=job["k"], layer=0, lm_name="",
        lr=job["learning_rate"], warmup_steps=job["warmup"], seed=0, device="cpu",
    )  # fmt: skip
    for step in range(steps):
        trainer.update(step, next(batches))
        curve.look(step + 1, lambda x: trainer.ae.decode(trainer.ae.encode(x, use_threshold=False)))


LIBRARIES = {"saelens": saelens, "dictionary_learning": dictionary_learning}


def main(path: str) -> None:
    with open(path) as handle:
        job = json.load(handle)
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    data = load_file(job["data"])
    run = LIBRARIES[job["library"]]
    run(job, iter(data["train"].split(job["batch"])), WARMUP, Curve(data["held_out"], []))
    curve = Curve(data["held_out"], job["after"])
    start, busy = time.perf_counter(), time.process_time()
    run(job, iter(data["train"].split(job["batch"])), job["steps"], curve)
    seconds, cpu = time.perf_counter() - start - curve.seconds, time.process_time() - busy - curve.cpu
    print(json.dumps({"seconds": seconds, "cpu": cpu, "fvu": [curve.fvu[done] for done in job["after"]]}))


if __name__ == "__main__":
    main(sys.argv[1])
