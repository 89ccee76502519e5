"""`make canary`: does this machine's torch compute what the others do? Five small measurements against stored values.

A wrong device backend or attention kernel seldom stops a run; it changes its numbers (TransformerLens issue 1178). The
measurements use the embedded model, so that nothing else has to be made first:

    ioi_single   logit(IO) - logit(S) at END of each prompt, one prompt at a time
    ioi_padded   the same for all prompts in one batch, padded on the left; the attention mask hides the padding
    direct_path  change of that difference when one head's output at END comes from a prompt with three other names
                 (23.3, the head with the strongest direct path; replications/ioi_circuit)
    sae          sum of latents and norm of the error at END of a TopK autoencoder with 1024 random unit directions,
                 encoder = decoder^T, drawn by NumPy from seed 0: a test of arithmetic, which explains nothing
    generation   tokens of a greedy continuation, with cached keys and values; the leader is ahead by 1.9 logits or more

`config/canary.json` holds prompts, stored values (float32, CPU) and a tolerance for each dtype. On a CPU float32 is
measured, on a GPU bfloat16 too. `--renew` measures the stored values anew.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from common.core.errors import UserError
from common.core.files import read_json, write_json
from common.core.settings import ROOT, Strict, checked
from common.core.step import run
from common.data.materialise import materialise
from common.data.models import encode, load_model
from common.saes.sae import About, Sae

if TYPE_CHECKING:
    from torch import Tensor
    from transformer_lens.model_bridge import TransformerBridge

STORED = ROOT / "config" / "canary.json"
DEVICES = ("cpu", "cuda", "mps")
NEW_TOKENS = 6
D_SAE, ACTIVE = 1024, 32
Check = Literal["ioi_single", "ioi_padded", "direct_path", "sae", "generation"]
Dtype = Literal["float32", "bfloat16"]
Values = dict[Check, list[float]]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
TITLES: dict[Check, str] = {
    "ioi_single": "IOI logit difference, prompt by prompt",
    "ioi_padded": "IOI logit difference, padded batch",
    "direct_path": "direct path of the strongest head",
    "sae": "one SAE, encoded and decoded",
    "generation": "greedy continuation",
}
REMEDIES: dict[Check, str] = {
    "ioi_single": "the forward pass itself is wrong: take another attention implementation or version of torch",
    "ioi_padded": "single prompts are right and the padded batch is not: the attention mask is not applied",
    "direct_path": "logits are right and one head is not: hooks or W_O do not belong to the pass that was run",
    "sae": "the model is right: matrix products, top-k or scatter of this backend are not",
    "generation": "single passes are right: cached keys and values, or their positions, are not",
}


class CanaryPrompt(Strict):
    """One IOI prompt, its two names, and the prompt of equal length with three other names."""

    text: str
    partner: str
    io: str
    s: str


class Canary(Strict):
    """The content of `config/canary.json`."""

    model: str
    head: list[int] = Field(min_length=2, max_length=2, description="layer and head")
    hook: str = Field(description="where the autoencoder reads")
    prompts: list[CanaryPrompt]
    begun: str = Field(description="what the model continues greedily")
    stored: Values
    tolerances: dict[Dtype, dict[Check, float]]


def check_device(device: str) -> None:
    """UserError unless torch knows the device and this machine has it."""
    import torch

    if device not in DEVICES:
        raise UserError(f"unknown device '{device}': use DEVICE={', DEVICE='.join(DEVICES)}")
    if device != "cpu" and not getattr(torch, "cuda" if device == "cuda" else "mps").is_available():
        raise UserError(
            f"torch {torch.__version__} finds no {device} device here; use DEVICE=cpu or install its driver"
        )


def attention_mask(prompts: list[list[int]]) -> list[list[int]]:
    """1 where a token is real: prompts are padded on the left, so that END is the last position of all."""
    wide = max(map(len, prompts))
    return [[0] * (wide - len(prompt)) + [1] * len(prompt) for prompt in prompts]


def padded(prompts: list[list[int]], device: str) -> "tuple[Int[Tensor, 'batch pos'], Int[Tensor, 'batch pos']]":
    """Tokens and their attention mask."""
    import torch

    wide = max(map(len, prompts))
    tokens = torch.tensor([[0] * (wide - len(prompt)) + prompt for prompt in prompts], device=device)
    return tokens, torch.tensor(attention_mask(prompts), device=device)


def random_sae(d_model: int, canary: Canary) -> Sae:
    """The autoencoder of the check `sae`: the same bytes on every machine."""
    import torch

    rows = np.random.default_rng(0).standard_normal((D_SAE, d_model)).astype(np.float32)
    W_dec = torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    about = About("topk", model=canary.model, hook=canary.hook)
    return Sae(about, "topk", W_dec.T.contiguous(), torch.zeros(D_SAE), W_dec, torch.zeros(d_model), k=ACTIVE)


def gap(logits: "Float[Tensor, 'batch d_vocab']", names: "Int[Tensor, 'batch two']") -> "Float[Tensor, ' batch']":
    """logit(IO) - logit(S) of each prompt, in float32."""
    found = logits.float().gather(1, names)
    return found[:, 0] - found[:, 1]


def measure(bridge: "TransformerBridge", canary: Canary) -> Values:
    """All measurements in the model's own dtype and on its device; a list of numbers for each check."""
    import torch

    device = str(bridge.W_U.device)
    texts, partners = (
        [encode(bridge.tokenizer, getattr(one, side)) for one in canary.prompts] for side in ("text", "partner")
    )
    rows = [[encode(bridge.tokenizer, name)[0] for name in (one.io, one.s)] for one in canary.prompts]
    names = torch.tensor(rows, device=device)
    (layer, head), last = canary.head, bridge.cfg.n_layers - 1
    z, final = f"blocks.{layer}.attn.hook_z", f"blocks.{last}.hook_resid_post"
    with torch.inference_mode():
        single = torch.cat([bridge(torch.tensor([text], device=device))[:, -1] for text in texts])
        tokens, mask = padded(texts, device)
        logits, cache = bridge.run_with_cache(tokens, attention_mask=mask, names_filter=[z, final, canary.hook])
        tokens, mask = padded(partners, device)
        _, other = bridge.run_with_cache(tokens, attention_mask=mask, names_filter=[z], stop_at_layer=layer + 1)
        written = (other[z] - cache[z])[:, -1, head] @ bridge.blocks[layer].attn.W_O[head]
        intact, patched = (
            bridge.ln_final(resid) @ bridge.W_U + bridge.b_U
            for resid in (cache[final][:, -1], cache[final][:, -1] + written)
        )
        sae, x = random_sae(bridge.cfg.d_model, canary).to(device), cache[canary.hook][:, -1].float()
        latents = sae.encode(x)
        begun = torch.tensor([encode(bridge.tokenizer, canary.begun)], device=device)
        answer = bridge.original_model.generate(
            begun, attention_mask=torch.ones_like(begun), max_new_tokens=NEW_TOKENS, do_sample=False
        )
    return {
        "ioi_single": gap(single, names).tolist(),
        "ioi_padded": gap(logits[:, -1], names).tolist(),
        "direct_path": (gap(patched, names) - gap(intact, names)).tolist(),
        "sae": [*latents.sum(-1).tolist(), *(x - sae.decode(latents)).norm(dim=-1).tolist()],
        "generation": [float(token) for token in answer[0, begun.shape[1] :].tolist()],
    }


def deviation(found: list[float], stored: list[float]) -> float:
    """The largest difference; infinite where numbers are missing or are none."""
    if len(found) != len(stored) or not np.isfinite(found).all():
        return float("inf")
    return max(abs(one - other) for one, other in zip(found, stored, strict=True))


def differing(found: Values, canary: Canary, dtype: Dtype) -> list[Check]:
    """Prints one line a check and returns those that differ by more than their tolerance."""
    bad: list[Check] = []
    for name, title in TITLES.items():
        far, allowed = deviation(found[name], canary.stored[name]), canary.tolerances[dtype][name]
        bad += [] if far <= allowed else [name]
        print(f"  {dtype:8}  {title:39} {'ok' if far <= allowed else 'DIFFERS':8} by {far:.2g} (allowed {allowed:g})")
    return bad


def canary(device: str = "cpu", dtype: Dtype | None = None, renew: bool = False) -> None:
    """Measures and compares with the stored values.

    Args:
        device: cpu, cuda or mps.
        dtype: only this one; by default float32, and bfloat16 too if the device is no CPU.
        renew: store what float32 gives here instead of comparing.

    Raises:
        UserError: an unknown or missing device, or what differs and what to do.
    """
    check_device(device)
    import torch

    known = checked(Canary, read_json(STORED), STORED)
    folder = ROOT / "resources" / "models" / known.model
    if not (folder / "manifest.json").exists():
        materialise(known.model, folder / "manifest.json")
    bridge = load_model(folder, device=device)
    if renew:
        write_json(STORED, known.model_dump() | {"stored": measure(bridge, known)})
        return
    chosen = (dtype,) if dtype else DTYPES[:1] if device == "cpu" else DTYPES
    bad: dict[Dtype, list[Check]] = {}
    for one in chosen:
        if one != "float32":  # as it was loaded
            bridge.to(getattr(torch, one))
        bad[one] = differing(measure(bridge, known), known, one)
    if any(bad.values()):
        raise UserError(complaint(bad, device))
    print(f"all that was measured on {device} with torch {torch.__version__} agrees with the stored values")


def complaint(bad: dict[Dtype, list[Check]], device: str) -> str:
    """What differs on this device, what that points to, and what to do."""
    checks = next(checks for checks in bad.values() if checks)
    named = "; ".join(f"{', '.join(checks)} ({dtype})" for dtype, checks in bad.items() if checks)
    other = (
        f"run `make canary DEVICE=cpu`: if that passes, torch computes wrongly on {device}, so take another version of "
        "torch or another device"
        if device != "cpu"
        else "run `make clean-env` and again, which installs the locked versions; if it still differs, report it with "
        "the processor's name"
    )
    return f"not the stored values: {named}; {REMEDIES[checks[0]]}; {other}"


if __name__ == "__main__":
    run(canary)
