"""Portable noise on PyTorch in one kernel: `threefry` compiled by torch.compile.

On a GPU the same operation by operation is more than a hundred launches a draw.
"""

import math
import types
import warnings
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import array_api_compat.torch
import numpy as np
import torch

from cmsched.backends import element, jitted, threefry

MOST = 1 << 30  # elements of a row at once: counted in 32 bits


@lru_cache(maxsize=64)
def keys(stream: threefry.Stream, purpose: int, batch: int, device: torch.device) -> Any:
    """Give the keys of a batch, high and low words (batch,)."""
    words = threefry.keys(stream, purpose, batch).view(np.int32).copy()
    with torch.inference_mode(False):
        return tuple(torch.from_numpy(words).to(device, non_blocking=True))


def worthwhile(size: int) -> bool:
    """Tell whether the CPU should compile for samples of this size, which takes some seconds."""
    return size >= element.LEAST_IN_GRAPH and not jitted.installed() and "cpu" not in _uncompiled


def draw(key: torch.Tensor, size: int, dtype: torch.dtype, uniform: bool) -> torch.Tensor:
    """Draw samples of `size` elements from int32 keys (2, batch, ...), in one kernel."""
    batch, parts = key.shape[1], math.prod(key.shape[2:])
    key, rows, n = key.reshape(2, -1, 1), batch * parts, size // max(1, parts)
    # At least two columns, as a single one would be compiled for on its own. So is a single row,
    # and on the CPU large ones are taken one by one: that is one loop, rows together are several.
    out = torch.empty((rows, max(n, 2)), dtype=dtype, device=key.device)
    together = size <= MOST and (n < 1 << 16 or key.device.type != "cpu")
    at_once = max(1, rows) if together else 1
    for i in range(0, rows if n else 0, at_once):
        first = tuple(part % parts * n for part in range(i, i + at_once))
        for start, stop, *_ in element.pieces(first[0], out.shape[1], MOST):
            # No views, or what they are views of is compiled for too.
            given = torch.cat([key[:, i : i + at_once], _places(first, start, key.device)])
            into = out[i : i + at_once, start:stop]
            _compiled(_fill, (0, 1), out if into.shape == out.shape else into.data, given, uniform)
    return out[:, :n]


@lru_cache(maxsize=64)
def _places(first: tuple[int, ...], start: int, device: torch.device) -> torch.Tensor:
    """Give the counter words (2, rows, 1) of elements first[row] + start."""
    numbers = np.array(first, np.int64)[:, None] + start
    words = np.stack([numbers >> 32, numbers & threefry.LOW]).astype(np.uint32)
    return torch.from_numpy(words.view(np.int32)).to(device, non_blocking=True)


def _fill(out: torch.Tensor, given: torch.Tensor, uniform: bool) -> None:
    """Write draws to `out` (rows, n); key and counter of the first column are (4, rows, 1)."""
    k0, k1, high, low = given
    low = low + torch.arange(out.shape[1], dtype=torch.int32, device=out.device)
    mapped = threefry.unit if uniform else threefry.from_bits
    out.copy_(mapped(array_api_compat.torch, threefry.bits((k0, k1), (high, low)), out.dtype))


def fold(key: Any, rank: int, row: torch.Tensor) -> torch.Tensor:
    """Fold keys, two of (batch,), with the draw numbers (batch or 1, ...) of their parts."""
    shape = torch.broadcast_shapes(threefry.ahead(key[0].shape, row.shape), row.shape)
    words = [k.reshape(threefry.ahead(k.shape, shape)) for k in key]
    words += [torch.full_like(row, rank), row]
    given = torch.stack([w.expand(shape) for w in words]).reshape(4, -1, 1)
    out = torch.empty((2, given.shape[1], 1), dtype=torch.int32, device=row.device)
    _compiled(_encrypt, (1,), out, given.clone())
    return out.reshape(2, *shape)


def _encrypt(out: torch.Tensor, given: torch.Tensor) -> None:
    """Write blocks (2, rows, 1) of keys and counters (4, rows, 1)."""
    k0, k1, high, low = given
    out.copy_(torch.stack(threefry.threefry((k0, k1), (high, low))))


_uncompiled: set[str] = set()  # types of device for which there is no compiler


def _compiled(
    fn: Callable[..., None],
    axes: tuple[int, ...],
    out: torch.Tensor,
    given: torch.Tensor,
    *options: bool,
) -> None:
    """Call `fn`, which writes to `out`, compiled where it can be, once for all sizes of `axes`."""
    kind = out.device.type
    if kind not in _uncompiled:
        several = tuple(axis for axis in axes if out.shape[axis] > 1)
        for x, along in ((out, several), (given, (1,) if given.shape[1] > 1 else ())):
            for axis in along:
                torch._dynamo.mark_dynamic(x, axis)
        try:
            _compiler(fn, several, out.dtype, out.device, options)(out, given, *options)
            return
        except torch._dynamo.exc.TorchDynamoException as error:
            _uncompiled.add(kind)
            _warn(kind, error)
        except _limits():  # in too many modes, of threads or autocast: this one goes without
            pass
    fn(out, given, *options)


@cache
def _compiler(fn: Callable[..., None], *variant: Any) -> Any:
    """Give `fn` to be compiled for one variant of its arguments.

    By default the compiler would write the rounds out as one expression, whose size doubles with
    each; from this threshold on it has intermediate values, and makes one loop of them afterwards.
    """
    # A code object of its own: the compiler takes only so many variants of one.
    own = types.FunctionType(fn.__code__.replace(), fn.__globals__)
    try:
        return torch.compile(own, fullgraph=True, options={"realize_opcount_threshold": 8})
    except RuntimeError as error:  # not on this system, or for this version of Python
        raise torch._dynamo.exc.TorchDynamoException(str(error)) from error


def _limits() -> tuple[type[Exception], ...]:
    """Give what is raised where code has been compiled too often, by its names over the years."""
    names = "FailOnRecompileLimitHit", "FailOnCacheLimitHit"
    return tuple(getattr(torch._dynamo.exc, n) for n in names if hasattr(torch._dynamo.exc, n))


def _warn(kind: str, error: Exception) -> None:
    cause = getattr(error, "inner_exception", error)
    cost, remedy = "operation by operation, over a hundred a draw", "Triton and a C compiler"
    if kind == "cpu":
        cost, remedy = "several times slower", "a C++ compiler such as g++, or numba"
    first = next(iter(str(cause).splitlines()), "")
    warnings.warn(
        f"portable noise on {kind!r} is drawn {cost}, as torch.compile failed: install {remedy} "
        f"({type(cause).__name__}: {first})",
        stacklevel=2,
    )
