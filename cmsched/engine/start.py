"""The state before the first evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..backends import A, Backend
from ..plan import Plan
from ..stacks import Stack
from ..tables import Table
from .checks import (
    backend_of,
    check_given,
    check_index,
    check_like,
    check_program,
    given_names,
)
from .draws import start_draws
from .table import first_columns, table_start
from .values import Program, State

Array = Any


def init(
    plan: Program,
    noise: A,
    /,
    *,
    x0: A | None = None,
    given: Mapping[str, A] | None = None,
    rng: Any = None,
    index: Any = None,
    which: Any = None,
) -> State[A]:
    """Return the state before the first evaluation, with arrays of its own.

    It takes unit normals, which it scales. Latents of step k that are at hand, of a replay buffer
    or a loop that was cut short, are a state as they are, `State(latents, (), k)`, with the arrays
    that the sampler stored, if it stores any, in place of (); k may be one for each row.

    Args:
        plan: the plan, its table (`plan.on(noise)`), or a stack of plans.
        noise: unit normals of the sample's shape, floating dtype and device.
        x0: a clean sample like noise: start from alpha x0 + sigma noise at the plan's first point
            (image to image).
        given: arrays the sampler asks for, {"image": ..., "mask": ...}.
        rng: where a plan that draws before its first evaluation takes its noise, see `draw`.
        index: 0, or an array of zeros, to choose the execution; by default an int, for JAX arrays,
            tables and stacks an array.
        which: which plan of a stack each row runs: integers of shape (batch,), (batch, frames) or
            (). Integers on the host are checked, an array on a device is not looked at.

    Raises:
        TypeError: noise is not a floating array, or x0 is of another framework.
        ValueError: another shape, device or dtype; missing rng; no such plan in the stack.
    """
    check_program(plan)
    layout = plan.layout
    backend = backend_of("noise", noise)
    backend.accumulation(noise.dtype)
    if x0 is not None:
        check_like(backend, noise, "x0", x0)
    check_given(backend, noise, given_names(layout), given)
    index = _first_index(plan, noise, backend, index, which)
    z = start_draws(layout, noise, rng)
    if isinstance(index, int):
        assert isinstance(plan, Plan)
        start = _start(plan, backend, noise, x0, z)
    else:
        start = backend.execute(table_start, None, plan.on(noise), index, noise, x0, z)
    memory = tuple(backend.zeros_like(noise) for _ in layout.slots)
    return State(start, memory, index)


def _start(
    plan: Plan, backend: Backend, noise: Array, x0: Array | None, z: Sequence[Array]
) -> Array:
    """Return the first sample, by the plan's own numbers."""
    first = plan.grid.points[0]
    acc = backend.accumulation(noise.dtype)
    if x0 is None:
        start = backend.combine([noise], [plan.grid.init_scale], acc)
    else:
        start = backend.combine([x0, noise], [first.alpha, first.sigma], acc)
    if z:
        values = [start, *z]
        terms = plan.start.terms
        start = backend.combine([values[v] for v, _, _ in terms], [c for _, c, _ in terms], acc)
    return backend.astype(start, noise.dtype)


def _first_index(plan: Program, noise: Array, backend: Backend, index: Any, which: Any) -> Any:
    """Return the index a loop starts with: 0, or an array."""
    if which is not None:
        if index is not None:
            raise ValueError("pass either which= or index=: rows of a stack start by which=")
        return _begins(plan, noise, backend, which)
    if isinstance(plan, Stack) and len(plan.plans) > 1:
        raise ValueError(
            f"a stack of {len(plan.plans)} plans starts by init(stack, noise, which=k), where"
            " integers k of shape (batch,) say which one each row runs"
        )
    if index is None:
        if isinstance(plan, Plan) and not backend.index_on_device:
            return 0
        return backend.to_device_of(np.zeros((), np.int32), noise)
    if isinstance(index, int):
        if not isinstance(plan, Plan):
            raise TypeError(
                "a table or a stack needs an array index; pass the plan itself for an int index"
            )
        if index != 0 or isinstance(index, bool):
            raise ValueError(
                f"index={index!r}: a loop starts at 0; plan.skip(k) starts it at a later grid step"
            )
        return 0
    if backend_of("index", index) is not backend or "int" not in backend.dtype_name(index.dtype):
        raise TypeError(
            f"index must be an int or an integer array of {backend.name}, got"
            f" {type(index).__name__} of dtype {index.dtype}"
        )
    check_index(backend, noise, index)
    return index


def _begins(plan: Program, noise: Array, backend: Backend, which: Any) -> Array:
    """Return the index at which the plan of each row begins."""
    if isinstance(plan, Plan):
        raise TypeError("which= names a plan of a stack: pass cmsched.stack([...]) or its table")
    if isinstance(which, bool | int | Sequence | np.ndarray | np.generic):
        host = np.asarray(which)
        if host.dtype.kind not in "iu" and host.shape != (0,):  # [] is of floats to NumPy
            raise TypeError(f"which must hold integers, the numbers of plans, got {which!r}")
        count = _plans_of(plan, backend)
        if host.size and not 0 <= host.min() <= host.max() < count:
            raise ValueError(
                f"which={which!r} names a plan that is not there: use 0 to {count - 1}"
            )
        which = backend.to_device_of(host.astype(np.int32), noise)
    elif backend_of("which", which) is not backend or "int" not in backend.dtype_name(which.dtype):
        raise TypeError(
            "which must hold integers, the numbers of plans, on the host or in an array of"
            f" {backend.name}; got {type(which).__name__} of dtype {which.dtype}"
        )
    check_index(backend, noise, which, "which")
    table = plan.on(noise)
    return backend.execute(first_columns, None, table, which)


def _plans_of(plan: Stack | Table, backend: Backend) -> int:
    """Return how many plans there are; for a table this looks at the device, if it can."""
    if isinstance(plan, Stack):
        return len(plan.plans)
    begins = plan.first_columns
    if backend.traced(begins):
        return int(begins.shape[0])
    return int(backend.xp.sum(backend.astype(begins >= 0, begins.dtype)))
