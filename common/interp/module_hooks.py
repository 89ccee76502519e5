"""Hooks on Hugging Face modules: what a module reads or writes is changed, or only looked at."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

Change = Callable[[Tensor], Tensor]


def on_input(change: Change) -> Any:
    """A hook that changes what a module reads, given by place or as `hidden_states`."""

    def hook(_module: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if arguments:
            return (change(arguments[0]), *arguments[1:]), options
        return arguments, {**options, "hidden_states": change(options["hidden_states"])}

    return hook


def on_output(change: Change) -> Any:
    """A hook that changes what a module writes, the first of several outputs."""

    def hook(_module: Any, _arguments: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return hook


@contextlib.contextmanager
def hooked(inputs: Iterable[tuple[Any, Any]], outputs: Iterable[tuple[Any, Any]]) -> Iterator[None]:
    """Modules with their hooks, of inputs and of outputs, while open."""
    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module, hook in inputs]
    handles += [module.register_forward_hook(hook) for module, hook in outputs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def reading(modules: Iterable[Any], keep: int = 0) -> Iterator[list[Tensor]]:
    """What each module reads while open, in the order of running, at the last `keep` positions or at all.
    Interventions that were opened before are seen."""
    seen: list[Tensor] = []

    def take(x: Tensor) -> Tensor:
        seen.append(x[:, -keep:] if keep else x)  # a slice would be a node of its own in the graph of gradients
        return x

    with hooked([(module, on_input(take)) for module in modules], []):
        yield seen
