"""Exchange with SAELens: a folder with `cfg.json`, `sae_weights.safetensors` and `sparsity.safetensors`.

Read and written are its architectures standard, gated, topk, jumprelu and its four kinds of transcoder. BatchTopK and
Matryoshka SAEs, and our transcoders, are exported with a constant threshold, as SAELens does. Old folders may hold
`log_threshold` or a `scaling_factor`, or say `hook_point` or `activation_fn_str`; all are understood. Refused are SAEs
that normalise their input with statistics of the token (layer_norm, constant_norm_rescale). So are those that need a
scale from the training run (expected_average_only_in without a factor). Their latents would be silently wrong.
"""

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.core.errors import UserError
from common.core.files import atomic, read_json, write_json
from common.saes.sae import About, Activation, Sae

FORMAT = "6.54.12"  # version of SAELens whose folders these are; without one it takes a folder for an old one
WEIGHTS, CONFIG, SPARSITY = "sae_weights.safetensors", "cfg.json", "sparsity.safetensors"
NEEDED = {"architecture": str, "d_in": int, "d_sae": int, "metadata": dict}
KINDS: dict[str, Activation] = {
    "standard": "relu",
    "gated": "gated",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}


def save_saelens(sae: Sae, folder: Path, *, density: Float[Tensor, " d_sae"] | None = None) -> None:
    """Writes the folder; `cfg.json` comes last and marks it as complete. UserError for what SAELens cannot hold."""
    names = {"gated": ["W_enc", "W_dec", "b_dec", "r_mag", "b_mag"]}.get(
        sae.activation, ["W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip"]
    )
    found = {name: getattr(sae, name) for name in names}
    tensors = {name: value.float().contiguous() for name, value in found.items() if value is not None}
    if sae.activation == "gated":
        tensors["b_gate"] = sae.b_enc.float().contiguous()
    with atomic(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    if density is not None:
        with atomic(folder / SPARSITY) as temporary:
            save_file({"sparsity": (density.float() + 1e-10).log10().contiguous()}, temporary)
    write_json(folder / CONFIG, config_of(sae))


def config_of(sae: Sae) -> dict[str, Any]:
    """The content of `cfg.json`."""
    if sae.activation == "matching_pursuit":
        raise UserError("no matching pursuit SAE is written in SAELens' format; save its weights as they are")
    if not sae.centred and sae.activation in ("topk", "gated"):
        raise UserError(f"SAELens has no {sae.activation} transcoder; save its weights as they are")
    name = {"relu": "standard"}.get(sae.activation, sae.activation)
    if sae.transcodes:
        name = ("jumprelu_" if sae.activation == "jumprelu" else "") + ("skip_" if sae.W_skip is not None else "")
        name += "transcoder"
    content: dict[str, Any] = {
        "architecture": name,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.centred,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": FORMAT,
            "prepend_bos": False,
            "model_name": sae.about.model,
            "hook_name": sae.about.hook,
            "hook_name_out": sae.about.hook_out or None,
            "training_architecture": sae.about.architecture,
            "seed": sae.about.seed,
            "l0_aimed_at": sae.about.sparsity,
        },
    }
    if sae.activation == "topk":
        content |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    if "transcoder" in name:
        content |= {"d_out": sae.W_dec.shape[1]}
    return content


def load_saelens(folder: Path, device: str = "cpu") -> Sae:
    """Reads a folder that SAELens or `save_saelens` wrote.

    Raises:
        UserError: a file is missing or damaged, the architecture is unknown, shapes do not fit, or inputs need a
            normalisation that the folder lacks.
    """
    content = _modern(_settings(folder / CONFIG))
    for key, wanted in NEEDED.items():
        if not isinstance(content.get(key), wanted):
            raise UserError(
                f"{folder / CONFIG} must say '{key}' (found {content.get(key)!r}); fetch or train this SAE again"
            )
    name = content["architecture"]
    if name not in KINDS:
        raise UserError(f"{folder / CONFIG}: architecture '{name}' is not covered; known are {', '.join(KINDS)}")
    kind = KINDS[name]
    if kind == "topk" and not isinstance(content.get("k"), int):
        raise UserError(f"{folder / CONFIG} does not say k, how many latents of this TopK SAE are active; add it there")
    bias = "b_gate" if kind == "gated" else "b_enc"
    tensors = _tensors(folder / WEIGHTS, "W_enc", "W_dec", "b_dec", bias)
    shape = (content["d_in"], content["d_sae"])
    if shape != tuple(tensors["W_enc"].shape):
        raise UserError(f"{folder}: cfg.json says {shape} for W_enc, the weights are {tuple(tensors['W_enc'].shape)}")
    about = content["metadata"]
    transcoder = "transcoder" in name
    try:
        sae = Sae(
            About(
                about.get("training_architecture") or name,
                about.get("model_name") or "",
                about.get("hook_name") or "",
                (about.get("hook_name_out") or "") if transcoder else "",
                about.get("seed") or 0,
                float(about.get("l0_aimed_at") or 0.0),
            ),
            kind,
            tensors["W_enc"],
            tensors[bias],
            tensors["W_dec"],
            tensors["b_dec"],
            threshold=_threshold(tensors) if kind == "jumprelu" else None,
            k=content.get("k") if kind == "topk" else None,
            r_mag=tensors.get("r_mag"),
            b_mag=tensors.get("b_mag"),
            W_skip=tensors.get("W_skip"),
            centred=bool(content.get("apply_b_dec_to_input", not transcoder)),
        )
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    if content.get("rescale_acts_by_decoder_norm"):
        sae = sae.unit_decoder()  # SAELens selects on, and multiplies latents by, the decoder norm
    return _normalised(sae, content, tensors, folder).to(device)


def _modern(content: dict[str, Any]) -> dict[str, Any]:
    """`cfg.json` of any version with the keys of today's; before version 6 there was no `metadata`."""
    content = {"architecture": "standard", **content}
    if "hook_point" in content:
        content.setdefault("hook_name", content["hook_point"])
    if content.get("activation_fn_str", content.get("activation_fn")) == "topk":
        k = (content.get("activation_fn_kwargs") or {}).get("k")
        content |= {"architecture": "topk", "k": content.get("k") or k}
    if isinstance(content.get("normalize_activations"), bool):
        content["normalize_activations"] = "expected_average_only_in" if content["normalize_activations"] else "none"
    return {"metadata": content, **content}


def _settings(path: Path) -> dict[str, Any]:
    """What a JSON file of the folder says."""
    _need(path)
    try:
        content = read_json(path)
    except UserError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged; fetch or train this SAE again")
    return content


def _tensors(path: Path, *needed: str) -> dict[str, Tensor]:
    """All tensors of a file of the folder; those in `needed` are there."""
    _need(path)
    try:
        found = {name: value.float() for name, value in load_file(path).items()}
    except SafetensorError:
        raise UserError(f"{path} is damaged; fetch or train this SAE again") from None
    if absent := [name for name in needed if name not in found]:
        raise UserError(f"{path} lacks the tensor '{absent[0]}'; fetch or train this SAE again")
    return found


def _need(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} does not exist; is {path.parent} a SAELens folder?")


def _threshold(tensors: dict[str, Tensor]) -> Tensor:
    if "log_threshold" in tensors:
        return tensors["log_threshold"].exp()
    if "threshold" not in tensors:
        raise UserError("a JumpReLU SAE without a threshold would act as a plain ReLU; fetch or train it again")
    return tensors["threshold"]


def _normalised(sae: Sae, content: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> Sae:
    """Folds what the folder says about input scaling and latent scaling into the weights."""
    if "scaling_factor" in tensors:  # old: latents are multiplied after the activation function
        factor = tensors["scaling_factor"]
        if factor.shape != (sae.d_sae,) or not bool(torch.isfinite(factor).all()):
            raise UserError(
                f"{folder / WEIGHTS}: the scaling factor is not one finite number per latent; fetch this SAE again"
            )
        sae = Sae(**{**vars(sae), "W_dec": sae.W_dec * factor[:, None]})
    how = content.get("normalize_activations", "none")
    if how == "none":
        return sae
    scaler = folder / "activation_scaler.json"
    if how == "expected_average_only_in" and scaler.is_file():
        scale = _settings(scaler).get("scaling_factor")
        if isinstance(scale, int | float):
            return sae.folded(float(scale))
    hint = f" ({math.sqrt(sae.d_in):.1f} over the mean norm)" if how == "expected_average_only_in" else ""
    raise UserError(
        f"{folder}: inputs are normalised by '{how}'{hint}, which the folder does not describe; fold it into the "
        "weights with SAELens before saving"
    )
