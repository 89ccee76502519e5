"""Trains one SAE with SAELens or dictionary_learning and prints seconds and the weights' FVU. For `make bench`.

    .venv-interop/bin/python tests/interop/peers.py JOB.json

The job names library, architecture, width, k, batch, steps, learning rate, threads and a safetensors file with `train`
and `held_out`. Each library runs its own trainer with its defaults, constant rate after a short warm-up; dead latents
are those of 10 million silent activations or 1000 silent steps, so none occurs and no side pays for an auxiliary loss.
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


def saelens(job: dict, batches: Iterator[Tensor], steps: int) -> Callable[[Tensor], Tensor]:
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
    trained: Callable[[Tensor], Tensor] = SAETrainer(config, sae, batches).fit()
    return trained


def dictionary_learning(job: dict, batches: Iterator[Tensor], steps: int) -> Callable[[Tensor], Tensor]:
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
    return lambda x: trainer.ae.decode(trainer.ae.encode(x, use_threshold=False))


LIBRARIES = {"saelens": saelens, "dictionary_learning": dictionary_learning}


def main(path: str) -> None:
    with open(path) as handle:
        job = json.load(handle)
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    data = load_file(job["data"])
    run = LIBRARIES[job["library"]]
    run(job, iter(data["train"].split(job["batch"])), WARMUP)
    start, busy = time.perf_counter(), time.process_time()
    reconstruct = run(job, iter(data["train"].split(job["batch"])), job["steps"])
    seconds, cpu = time.perf_counter() - start, time.process_time() - busy
    x = data["held_out"]
    with torch.no_grad():
        fvu = float((x - reconstruct(x)).square().sum() / (x - x.mean(0)).square().sum())
    print(json.dumps({"seconds": seconds, "cpu": cpu, "fvu": fvu}))


if __name__ == "__main__":
    main(sys.argv[1])
