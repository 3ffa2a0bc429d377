"""A row of a plan on PyTorch: as source text, or through NumPy's view of tensors on the CPU."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from cmsched.backends.base import Array, containers

# Private, hence the defaults: without them every combination takes the functional path.
transform = getattr(torch._C._functorch, "peek_interpreter_stack", lambda: True)
modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)

ALL = (slice(None),)
# Threads of PyTorch up to which numba's loop, which has one, is the faster: at two it still is, see
# benchmarks/one_pass.py; more were not measured.
THREADS = 2

NATIVE = {torch.float32, torch.float64, torch.int32, torch.int64, torch.bool}


def nonzero_rows(weight: Array) -> tuple[slice, ...] | None:
    """Give the rows whose weight is not 0, neighbours as one slice; None where a row has several.

    The weight is on the host. Where rows are over, or at their first step, this costs nothing;
    hiding them by `torch.where` takes longer than the rest of the step.
    """
    if bool(weight.all()):
        return ALL
    if weight.numel() == 1:
        return ()
    if weight.numel() != weight.shape[0]:
        return None
    keep = (weight != 0).flatten().tolist()
    edges = [i for i, (a, b) in enumerate(pairwise(keep), 1) if a != b]
    runs = pairwise([0, *edges, len(keep)])
    return tuple([slice(a, b) for a, b in runs if keep[a]])


@lru_cache(maxsize=256)
def compile_source(
    structure: tuple[tuple[int, tuple[int, ...], bool], ...],
    copies: tuple[tuple[int, int], ...],
    results: tuple[int, tuple[int, ...], int | None],
) -> Callable[..., Callable[..., Any]]:
    """Compile rows alike but for their numbers: (value, sources, is the first one plain)."""
    lines: list[str] = []
    names: dict[int, str] = {}
    given = [f"w{k}" for k in range(sum(len(sources) for _, sources, _ in structure))]
    weights = iter(given)
    for value, sources, plain in structure:
        terms = [(names.get(v, f"v[{v}]"), next(weights)) for v in sources]
        (text, scale), *rest = terms
        if not plain:
            text = f"{text}.mul({scale})"
        elif rest:
            (other, alpha), *rest = rest
            text = f"add({text}, {other}, alpha={alpha})"
        names[value] = f"t{value}"
        text += "".join(f".add_({other}, alpha={alpha})" for other, alpha in rest)
        lines.append(f"    t{value} = {text}")
    for value, source in copies:
        lines.append(f"    t{value} = {names.get(source, f'v[{source}]')}.clone()")
        names[value] = f"t{value}"
    following, *stored, x0 = (
        "None" if value is None else names.get(value, f"v[{value}]")
        for value in (results[0], *results[1], results[2])
    )
    lines = [f"def bound({', '.join(given)}):", "  def kernel(v):", *lines]
    lines += [f"    return {following}, ({''.join(f'{v}, ' for v in stored)}), {x0}"]
    lines.append("  return kernel")
    space: dict[str, Any] = {"add": torch.add}
    exec("\n".join(lines), space)
    return space["bound"]  # type: ignore[no-any-return]


def number(factor: float, dtype: torch.dtype) -> Any:
    """Give a factor as `mul` takes it in half the time of a Python float, which it is in a trace.

    There, what is made and kept would outlive it.
    """
    return factor if watched() else _number(factor, dtype)


@lru_cache(maxsize=1024)
def _number(factor: float, dtype: torch.dtype) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.tensor(factor, dtype=dtype, device="cpu")


def watched() -> bool:
    """Tell whether something follows what is done to tensors: a trace, a mode, a transform."""
    return bool(
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or modes()
        or transform() is not None
        or getattr(forward_ad, "_current_level", 0) >= 0
    )


def on_host(values: Sequence[Any]) -> bool:
    """Tell whether NumPy may see what these tensors hold, and gains by it; nobody else watching."""
    if torch.get_num_threads() > THREADS or watched():
        return False
    return all(
        v is None
        or (
            type(v) is torch.Tensor
            and v.device.type == "cpu"
            and v.layout is torch.strided
            and not v.requires_grad
            and v.dtype in NATIVE
            and not v.is_neg()
        )
        for v in values
    )


def as_numpy(x: Any, seen: dict[int, Any]) -> Any:
    """Give a tensor as NumPy sees it, and remember which it was."""
    if x is None:
        return None
    view = x.numpy()
    seen[id(view)] = view, x
    return view


def from_numpy(x: Any, seen: dict[int, Any]) -> Any:
    """Give the tensor that was seen, or one of what is new."""
    if x is None:
        return None
    if isinstance(x, tuple):
        return tuple([from_numpy(y, seen) for y in x])
    return seen[id(x)][1] if id(x) in seen else torch.from_numpy(np.asarray(x))


def tree_map(fn: Callable[[Array], Any], tree: Any) -> Any:
    """Apply fn to the arrays of a tree: tuples, mappings and registered containers; not to ints."""
    if tree is None or type(tree) is int:
        return tree
    if type(tree) in containers:
        flatten, unflatten = containers[type(tree)]
        children, static = flatten(tree)
        return unflatten(static, [tree_map(fn, x) for x in children])
    if isinstance(tree, dict):
        return {name: tree_map(fn, x) for name, x in tree.items()}
    if isinstance(tree, list | tuple):
        parts = [tree_map(fn, x) for x in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return fn(tree)
