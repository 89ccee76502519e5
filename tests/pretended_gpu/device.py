"""A pretended GPU: tensors computed on the CPU that say they are on cuda:0 and refuse what CUDA tensors refuse.

Refused, with torch's words: operands on two devices, a generator of the other device, `numpy()`, and some operations
that have no deterministic kernel there. Allowed are single numbers of the other device, and indices on the CPU into a
tensor on the GPU. Everything else gives the bytes of the CPU. What this cannot show: kernels that differ or are missing
on a GPU, its memory, its speed.

A `Pretended` tensor wraps a CPU tensor. To torch's C++ it lies on the device "meta", which needs no driver. Operations
on it, and those that are told a device, arrive in `call`. It looks at the devices, unwraps, computes and wraps. The few
places in which C++ acts by itself on "meta" before an operation arrives are replaced in `install`.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.to.device, aten.to.dtype_layout, aten.copy_.default}
INDEXES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
NOT_DETERMINISTIC = {  # by the documentation of torch.use_deterministic_algorithms
    aten.kthvalue.default,
    aten.median.dim,
    aten.histc.default,
    aten.put_.default,
    aten.nll_loss2d_forward.default,
}
MARK = 2**62  # seeds of pretended generators lie between this and its double; negative seeds count as larger ones
TorchGenerator = torch.Generator


class Pretended(torch.Tensor):
    """A tensor on the pretended GPU; `inside` is where its numbers are."""

    @staticmethod
    def __new__(cls, inside):
        return torch.Tensor._make_wrapper_subclass(
            cls, inside.size(), strides=inside.stride(), storage_offset=inside.storage_offset(), dtype=inside.dtype,
            layout=inside.layout, device="meta",
        )  # fmt: skip

    def __init__(self, inside):
        self.inside = inside

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = is_cpu = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return call(func, args, kwargs or {})

    def __repr__(self):
        return f"Pretended({self.inside})"

    def __getitem__(self, index):
        return torch.Tensor.__getitem__(self, as_index(index))

    def __setitem__(self, index, value):
        return torch.Tensor.__setitem__(self, as_index(index), value)

    def __matmul__(self, other):
        """C++ drops the axis that it adds to a vector in place, which a wrapper would not see."""
        if self.dim() == 1 and other.dim() == 2:
            return (self[None] @ other)[0]
        return torch.Tensor.__matmul__(self, other)

    def tolist(self):
        return self.cpu().tolist()

    def __deepcopy__(self, memo):
        made = memo[id(self)] = Pretended(self.inside.detach().clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            made._is_param = True  # as `torch.nn.Parameter` marks tensors of other classes
        return made

    def data_ptr(self):
        return self.inside.data_ptr()

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy


class Generator(TorchGenerator):
    """Generators of the GPU are told by their seed: what arrives in `call` is a new object."""

    def __new__(cls, device="cpu"):
        found = TorchGenerator.__new__(cls)
        found.on_gpu = torch.device(device).type == "cuda"
        return found

    def __init__(self, device="cpu"):
        pass

    device = property(lambda self: CUDA if self.on_gpu else CPU)

    def manual_seed(self, seed):
        super().manual_seed(seed + MARK if self.on_gpu else seed)
        return self


class Mode(TorchDispatchMode):
    """Sees the operations that have no pretended operand."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return call(func, args, kwargs or {})


def call(func, args, kwargs):
    """One operation on CPU or pretended GPU. RuntimeError where CUDA would refuse."""
    kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}  # of what goes to a GPU later
    leaves = tree_leaves((args, kwargs))
    pretended = any(isinstance(one, Pretended) for one in leaves)
    told = told_device(args, kwargs)
    on_gpu = told.type == "cuda" if told else isinstance(args[0], Pretended) if func in MOVES else pretended
    if pretended and func not in MOVES:
        check_operands(func, args, leaves)
        check_deterministic(func, args, kwargs)
    for one in leaves:
        if isinstance(one, TorchGenerator) and (MARK <= one.initial_seed() < 2 * MARK) != on_gpu:
            raise RuntimeError(f"{func}: expected a generator of the device of the result")
    if on_gpu and told:
        args = tree_map(lambda one: CPU if isinstance(one, torch.device) else one, args)
        kwargs = kwargs | ({"device": CPU} if "device" in kwargs else {})
    plain = tree_map(lambda one: one.inside if isinstance(one, Pretended) else one, (args, kwargs))
    out = func(*plain[0], **plain[1])
    if func in MOVES and out is plain[0][0] and on_gpu != isinstance(args[0], Pretended):
        out = out.clone()
    written = [value for name, value in zip(func._schema.arguments, args, strict=False) if is_written(name)]
    written += [kwargs[one.name] for one in func._schema.arguments if one.name in kwargs and is_written(one)]
    same = {id(one.inside): one for one in tree_leaves(written) if isinstance(one, Pretended)}

    def wrapped(one):
        if not isinstance(one, torch.Tensor) or not on_gpu:
            return one
        return same[id(one)] if id(one) in same else Pretended(one)

    return tree_map(wrapped, out)


def told_device(args, kwargs):
    """The device that an operation is told. C++ says "meta" where it makes something beside a pretended tensor."""
    given = [kwargs.get("device"), *args]
    found = next((one for one in given if isinstance(one, torch.device)), None)
    made_here = found is not None and found.type == "meta" and torch.get_default_device().type != "meta"
    return CUDA if made_here else found


def is_written(argument):
    return argument.alias_info is not None and argument.alias_info.is_write


def check_operands(func, args, leaves):
    """RuntimeError for operands on two devices."""
    strangers = [
        one for one in leaves if isinstance(one, torch.Tensor) and not isinstance(one, Pretended) and one.dim()
    ]
    if func in INDEXES and isinstance(args[0], Pretended):
        strangers = [one for one in strangers if func is not aten.index.Tensor and one is args[2]]
    if strangers or (func._schema.is_mutable and not isinstance(args[0], Pretended | list | tuple)):
        shapes = [tuple(one.shape) for one in leaves if isinstance(one, torch.Tensor)]
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu: {func} {shapes}")


def check_deterministic(func, args, kwargs):
    """RuntimeError for an operation that CUDA refuses when deterministic algorithms are asked for."""
    summed = func is aten.cumsum.default and args[0].is_floating_point()
    weighted = func is aten.bincount.default and [*args[1:2], kwargs.get("weights")][0] is not None
    if func in NOT_DETERMINISTIC or summed or weighted:
        raise RuntimeError(f"{func} does not have a deterministic implementation on a GPU")


def as_index(index):
    """Lists and ranges as CPU tensors, since C++ would make tensors of them on the device "meta"."""
    if isinstance(index, tuple):
        return tuple(map(as_index, index))
    if isinstance(index, list | range):
        with _disable_current_modes():
            return torch.as_tensor(list(index), dtype=None if len(index) else torch.long)
    return index


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """torch's reference for `scaled_dot_product_attention`, which looks at devices before any operation arrives."""
    if enable_gqa:
        group = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(group, -3), value.repeat_interleave(group, -3)
    scores = query @ key.mT * (scale or query.shape[-1] ** -0.5)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask.to(scores.dtype)  # as autocast does
    return aten._safe_softmax(scores, -1) @ value


def inference_mode(mode=True):
    """`torch.no_grad` in its place, because wrappers have no version counter in inference mode; as context manager and
    as decorator, with or without parentheses."""
    if callable(mode):
        return torch.no_grad()(mode)
    return torch.no_grad() if mode else torch.enable_grad()


def install():
    """Makes `torch` of this process believe in a GPU, for good."""
    from transformers.modeling_utils import PreTrainedModel

    torch.cuda._lazy_init = torch.cuda.synchronize = torch.cuda.empty_cache = lambda *args: None
    torch.cuda.is_available = torch.cuda.is_initialized = torch.cuda.is_bf16_supported = lambda *args: True
    torch.cuda.get_device_capability = lambda *args: (9, 0)
    torch.cuda.device_count, torch.cuda.current_device = lambda: 1, lambda: 0
    torch.cuda.get_device_properties = lambda *args: SimpleNamespace(total_memory=1)
    torch.cuda.max_memory_allocated = lambda *args: 1
    torch.cuda.get_device_name = lambda *args: "pretended GPU"
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.inference_mode = inference_mode
    torch.Generator = Generator
    make, move, attend, load = (
        torch.tensor,
        torch.Tensor.to,
        F.scaled_dot_product_attention,
        PreTrainedModel.from_pretrained,
    )

    def placed(one):
        given = torch.device(one) if isinstance(one, str) else one
        return CUDA if isinstance(given, torch.device) and given.type == "cuda" else given  # C++ asks for the index

    def to(self, *args, **kwargs):
        if args and isinstance(args[0], torch.Tensor):
            args = (args[0].device, args[0].dtype)
        return move(self, *map(placed, args), **{name: placed(one) for name, one in kwargs.items()})

    def tensor(data, *, device=None, requires_grad=False, **kwargs):
        made = make(data, **kwargs)
        return (made if device is None else to(made, device)).requires_grad_(requires_grad)

    def attended(query, *args, **kwargs):
        return (attention if isinstance(query, Pretended) else attend)(query, *args, **kwargs)

    def from_pretrained(cls, *args, **kwargs):
        torch.tensor = make  # models are made on torch's own "meta" before their weights are read
        try:
            with _disable_current_modes():
                return load.__func__(cls, *args, **kwargs)
        finally:
            torch.tensor = tensor

    torch.Tensor.to, torch.tensor = to, tensor
    torch.Tensor.cuda = lambda self, *args, **kwargs: to(self, CUDA)
    F.scaled_dot_product_attention = torch._C._nn.scaled_dot_product_attention = attended
    PreTrainedModel.from_pretrained = classmethod(from_pretrained)
    Mode().__enter__()
