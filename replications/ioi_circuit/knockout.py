"""Knock-outs: a circuit is what is left when every other head is replaced by its mean over ABC prompts.

A node is a head at one position (END, S2 or S1+1). Inside the circuit a head is kept only at its positions; it is
ablated everywhere else, as are all other heads at all positions. MLPs, norms and embeddings are never ablated (Wang et
al. 2022, section 2.1). Means are taken per template, so they keep the sentence and lose the names.

Each prompt of a batch has its own positions. Some published code indexes `mask[:, positions, head]`, which keeps the
union of all prompts' positions for every prompt; here rows and positions are paired, and a test with two templates
of different length holds this.

Only what a knock-out changes is computed (common/interp/partial_forward.py). With everything outside a circuit held at
its mean, no position but S1+1, S2 and END depends on the circuit. And taking nodes out of the whole model changes
nothing before the first of them. A literal version with hooks agrees to 1e-3 logits (test).

Two baselines. `abc`: the template means. `neutral`: on each prompt the mean of a head's output there and on the same
prompt with flipped roles (S2 <- IO): names and sentence stay, only which name came twice is gone.

Besides these, heads can get zero, their output on the ABC partner (resample), or their output when Gaussian noise is
added to the embeddings of the three name tokens (`NOISE` standard deviations of the embeddings, Meng et al. 2022). The
last two are also runs of their own, into which clean outputs can be put back.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from torch import Tensor

from common.interp.decoder import Cache, Decoder
from common.interp.partial_forward import at_position, at_positions, window
from replications.ioi_circuit.batches import Batch, Place, by_template
from replications.ioi_circuit.branching import last_streams
from replications.ioi_circuit.dataset import Prompt, Version
from replications.ioi_circuit.nodes import PLACES, NodeSet
from replications.ioi_circuit.residual import read_answer, read_difference

Means = dict[int, Float[Tensor, "layer pos head d_head"]]
"""By template."""
Ablation = Literal["mean", "zero", "resample", "noise"]
Direction = Literal["destroy", "restore"]
Baseline = Literal["abc", "neutral"]
NOISE = 3.0


def template_means(decoder: Decoder, prompts: list[Prompt]) -> Means:
    """Means over the ABC partners of all prompts of each template."""
    means = {}
    for group in by_template(prompts):
        batch = Batch(group, decoder.W_O[0].device.type)
        cache = decoder.forward(batch.tokens("abc"), batch.mask, keep=True)
        means[group[0].template] = torch.stack([z.mean(0) for z in cache.z])
    return means


def read_means(activations: Path, device: str, *, few: bool = False) -> Means:
    """Mean head outputs over the ABC prompts of each template, or over the first few of them."""
    prefix = "mean_few." if few else "mean."
    with safe_open(activations, framework="pt") as stored:
        names = [name for name in stored.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {int(name.removeprefix(prefix)): stored.get_tensor(name).to(device) for name in names}


class KnockOut:
    """Runs prompts with parts of the model ablated.

    Args:
        decoder: the model.
        prompts: prompts of any templates.
        means: see `template_means`.
        device: where to run.
        batch_size: token positions computed in one pass.
        version: which version of the prompts is run. ABC partners are scored on the names in the slots of IO and S2,
            all others on IO and S of the prompt itself. In flipped prompts a node at S1+1 stands behind the first
            mention of the name that comes twice, IO.
        baseline: what a head's mean is, see the module's docstring; `neutral` needs no `means`.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: list[Prompt],
        means: Means,
        device: str,
        batch_size: int,
        *,
        version: Version = "original",
        baseline: Baseline = "abc",
    ) -> None:
        self.decoder, self.prompts, self.batch_size = decoder, prompts, batch_size
        self.batch = Batch(prompts, device)
        self.version = version
        slots = [[row.abc_ids[0], row.abc_ids[2]] if version == "abc" else [row.io_id, row.s_id] for row in prompts]
        self.names = torch.tensor(slots, device=device)
        length = self.batch.mask.shape[1]
        self.positions = {place: self.batch.at(place) for place in PLACES}
        # in flipped prompts IO comes twice, and S1+1 is the token behind its first mention
        if version == "roles_flipped":
            self.positions["s1_next"] = self.batch.at("io") + 1
        self._bases: dict[str, Cache] = {}
        if baseline == "neutral":
            flipped = self.decoder.forward(self.batch.tokens("roles_flipped"), self.batch.mask, keep=True)
            self.means = (torch.stack(self.clean().z) + torch.stack(flipped.z)) / 2
        else:
            self.means = torch.stack([_fit(means[row.template], length) for row in prompts], 1)

    def clean(self) -> Cache:
        """The whole model."""
        return self._base("clean", lambda: self._forward(self._embedded(self.version)))

    def partner(self) -> Cache:
        """The whole model on the ABC prompts."""
        return self._base("abc", lambda: self._forward(self._embedded("abc")))

    def corrupted(self, ablation: Ablation) -> Cache:
        """The whole model on the ABC prompts, or on the prompts with noisy names."""
        if ablation == "noise":
            return self._base("noise", lambda: self._forward(self._noisy()))
        return self.partner()

    def differences(
        self, sets: list[NodeSet], *, remove: bool = False, ablation: Ablation = "mean"
    ) -> Float[np.ndarray, "set prompt"]:
        """logit(IO) - logit(S) of every prompt with only the nodes of a set kept, or only these removed.

        Args:
            sets: sets of nodes.
            remove: take the nodes of a set out of the whole model instead of keeping only them.
            ablation: what replaces a head: mean over ABC prompts of the template, zero, its output on the prompt's own
                ABC partner, or with noisy names.
        """
        return self._changed(sets, "destroy", ablation, remove)

    def restored(
        self, sets: list[NodeSet], *, remove: bool = False, ablation: Ablation = "resample"
    ) -> Float[np.ndarray, "set prompt"]:
        """The same in a corrupted run, with the nodes of a set set to what they are on the prompt itself.

        With `remove` all nodes but these are set, so that the set alone stays corrupted.
        """
        return self._changed(sets, "restore", ablation, not remove)

    def answers(self, nodes: NodeSet | None = None) -> Float[Tensor, "prompt d_vocab"]:
        """Log-probabilities of the next token with only `nodes` kept (the rest at its mean), or of the whole model."""
        last = at_position(self.clean().final, self.positions["end"])
        if nodes is not None:
            [last] = self._streams(self.all_replaced("destroy", "mean"), self.means, [nodes], self._places(), keep=True)
        return read_answer(self.decoder.bridge, last)

    def run_and_values(
        self, direction: Direction, ablation: Ablation
    ) -> tuple[Cache, Float[Tensor, "layer batch pos head d_head"]]:
        """The run in which head outputs are replaced, and what replaces them."""
        if direction == "restore":
            return self.corrupted(ablation), torch.stack(self.clean().z)
        if ablation == "mean":
            return self.clean(), self.means
        return self.clean(), torch.zeros_like(self.means) if ablation == "zero" else torch.stack(
            self.corrupted(ablation).z
        )

    def all_replaced(self, direction: Direction, ablation: Ablation) -> Cache:
        """That run with every head replaced everywhere."""
        run, values = self.run_and_values(direction, ablation)
        return self._base(
            f"{direction} {ablation}", lambda: self._forward(run.resid_pre[0], lambda layer, z: values[layer])
        )

    def forget(self, direction: Direction, ablation: Ablation) -> None:
        """Drops the run of `all_replaced`, for the sake of memory."""
        self._bases.pop(f"{direction} {ablation}", None)

    def _changed(
        self, sets: list[NodeSet], direction: Direction, ablation: Ablation, remove: bool
    ) -> Float[np.ndarray, "set prompt"]:
        run, values = self.run_and_values(direction, ablation)
        if any(node.place is None for nodes in sets for node in nodes):
            return np.stack([self._everywhere(run, nodes, values, remove) for nodes in sets])
        if remove:
            return self._replaced(run, values, sets)
        return self._read(
            self._streams(self.all_replaced(direction, ablation), values, sets, self._places(), keep=True)
        )

    def _places(self) -> Int[Tensor, "batch place"]:
        return torch.stack([self.positions[place] for place in PLACES], 1)

    def _replaced(
        self, base: Cache, values: Float[Tensor, "layer batch pos head d_head"], sets: list[NodeSet]
    ) -> Float[np.ndarray, "set prompt"]:
        """`base` with the nodes of each set replaced; sets whose first node stands at one place share a window."""
        differences = np.zeros((len(sets), len(self.prompts)))
        for place in PLACES:
            same = [number for number, nodes in enumerate(sets) if _first_place(nodes) == place]
            if same:
                at = window(self.positions[place], self.positions["end"], self.batch.mask.shape[1])
                some = [sets[number] for number in same]
                differences[same] = self._read(self._streams(base, values, some, at, keep=False))
        return differences

    def _streams(
        self,
        base: Cache,
        values: Float[Tensor, "layer batch pos head d_head"],
        sets: list[NodeSet],
        at: Int[Tensor, "batch step"],
        *,
        keep: bool,
    ) -> Float[Tensor, "set batch d_model"]:
        """The residual stream at END."""

        def replace(layer: int, sets: list[NodeSet], z: Tensor) -> Tensor:
            inside = self._inside(sets, at, layer)
            replaced = ~inside if keep else inside
            return torch.where(replaced[..., None], at_positions(values[layer], at), z)

        per_pass = max(1, self.batch_size // at.numel())
        return last_streams(self.decoder, base, sets, at, self.positions["end"], replace, per_pass)

    def _inside(
        self, sets: list[NodeSet], at: Int[Tensor, "batch step"], layer: int
    ) -> Bool[Tensor, "set batch step head"]:
        """True where a node of a set stands in this layer, each prompt at its own positions."""
        inside = torch.zeros(len(sets), *at.shape, self.decoder.n_heads, dtype=torch.bool, device=at.device)
        here = {place: at == position[:, None] for place, position in self.positions.items()}
        for number, nodes in enumerate(sets):
            for node in nodes:
                if node.layer == layer:
                    inside[number, :, :, node.head] |= True if node.place is None else here[node.place]
        return inside

    def _everywhere(
        self, run: Cache, nodes: NodeSet, values: Float[Tensor, "layer batch pos head d_head"], remove: bool
    ) -> Float[np.ndarray, " prompt"]:
        """Nodes at all positions: nothing can be taken from another run."""
        at = torch.arange(self.batch.mask.shape[1], device=self.batch.mask.device).expand(len(self.prompts), -1)

        def edit(layer: int, z: Tensor) -> Tensor:
            [inside] = self._inside([nodes], at, layer)
            return torch.where((inside ^ (not remove))[..., None], values[layer], z)

        differences: np.ndarray = self.read(self._forward(run.resid_pre[0], edit).final[None])[0]
        return differences

    def read(self, final: Float[Tensor, "set batch pos d_model"]) -> Float[np.ndarray, "set prompt"]:
        """logit(IO) - logit(S) at END."""
        rows = torch.arange(len(self.prompts), device=final.device)
        return self._read(final[:, rows, self.positions["end"]])

    def _read(self, last: Float[Tensor, "set batch d_model"]) -> Float[np.ndarray, "set prompt"]:
        return read_difference(self.decoder.bridge, last, self.names).double().cpu().numpy()

    def _base(self, name: str, make: Callable[[], Cache]) -> Cache:
        if name not in self._bases:
            self._bases[name] = make()
        return self._bases[name]

    def _embedded(self, version: Version) -> Float[Tensor, "batch pos d_model"]:
        return self.decoder.embed(self.batch.tokens(version), self.batch.mask)

    def _noisy(self) -> Float[Tensor, "batch pos d_model"]:
        """The embedded prompts, noise added where a name stands."""
        names: tuple[Place, ...] = ("io", "s1", "s2")
        clean = self.clean().resid_pre[0]
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
        at = torch.arange(clean.shape[1], device=clean.device)
        where = torch.stack([at == self.batch.at(name)[:, None] for name in names]).any(0)
        return clean + NOISE * clean[self.batch.mask].std() * noise * where[..., None]

    def _forward(
        self, embedded: Float[Tensor, "batch pos d_model"], edit: Callable[[int, Tensor], Tensor] | None = None
    ) -> Cache:
        tokens = self.batch.tokens(self.version)  # only their number counts
        return self.decoder.forward(tokens, self.batch.mask, edit, keep=True, resume=(0, embedded))


def _first_place(nodes: NodeSet) -> Place:
    """Where in the prompt the first of these nodes stands; END if there is none."""
    places = {node.place for node in nodes}
    return next((place for place in PLACES if place in places), "end")


def _fit(mean: Float[Tensor, "layer pos head d_head"], length: int) -> Float[Tensor, "layer length head d_head"]:
    """Cut or padded to the batch's length; padded positions hold no real token."""
    kept = mean[:, :length]
    missing = length - kept.shape[1]
    return torch.cat([kept, kept[:, -1:].expand(-1, missing, -1, -1)], 1)
