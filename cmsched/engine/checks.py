"""What arguments must be: each check names the argument, the value, the rule and the usual fix."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..backends import Backend, resolve
from ..plan import Plan
from ..predictions import Prediction
from ..rows import Layout, Row
from ..stacks import Stack
from ..tables import COLUMNS, Table
from ..tracing import MASK
from .values import Program

Array = Any
PROGRAMS = (Plan, Stack, Table)  # a tuple, because torch.compile follows no union


def check_like(backend: Backend, sample: Array, name: str, x: Array) -> None:
    """Raise unless x is a floating array of the sample's framework, shape and device."""
    check_kind(backend, sample, name, x)
    if tuple(x.shape) != tuple(sample.shape):
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, the sample {tuple(sample.shape)}: they must be"
            " equal (broadcasting would hide a mistake)"
        )


def backend_of(name: str, x: Array) -> Backend:
    """Return the backend of an argument, or raise naming it."""
    try:
        return resolve(x)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def check_kind(backend: Backend, sample: Array, name: str, x: Array) -> None:
    """Raise unless x is a floating array of the sample's framework and device."""
    if (other := backend_of(name, x)) is not backend:
        raise TypeError(
            f"{name} is an array of {other.name}, the sample one of {backend.name}: convert one"
        )
    try:
        backend.accumulation(x.dtype)
    except TypeError:
        raise TypeError(
            f"{name} has dtype {x.dtype}, the sample {sample.dtype}: convert it to a floating dtype"
        ) from None
    here, there = backend.device(sample), backend.device(x)
    if here is not None and there is not None and here != there:
        raise ValueError(f"{name} is on {there}, the sample on {here}: move one of them")


def check_output(backend: Backend, sample: Array, output: Array, prediction: Prediction) -> None:
    """Raise unless output is like the sample, or has twice its channels for a variance head."""
    if not hasattr(output, "dtype"):
        raise TypeError(f"the network must return an array, {wrapped(output)}")
    check_kind(backend, sample, "output", output)
    shape, found = tuple(sample.shape), tuple(output.shape)
    if found == shape:
        return
    twice = (shape[0], 2 * shape[1], *shape[2:]) if len(shape) > 1 else shape
    if not prediction.variance_head or found != twice:
        also = f" or {twice}" if prediction.variance_head else ""
        why = "broadcasting would hide a mistake"
        if found == twice:
            why = (
                "with twice the channels the second half is a learned variance: variance_type="
                '"learned_range" of DDPMScheduler, or pass the first half, output[:, :'
                f"{shape[1]}]"
            )
        raise ValueError(
            f"output has shape {found}, the sample {shape}: they must be equal{also} ({why})"
        )


def wrapped(output: Any) -> str:
    """Return what a network returned in place of an array, and how the array is taken out."""
    kind = type(output).__name__
    if output is None:
        return "and returned None: does it end in a return?"
    if isinstance(output, tuple | list):
        return f"and returned a {kind} of {len(output)}: pass lambda x, t: model(x, t)[0]"
    if isinstance(output, Mapping):
        keys = list(output)[:4]
        return f"and returned a {kind} of {keys}: pass lambda x, t: model(x, t)[key]"
    names = [n for n in ("sample", "prev_sample", "logits") if hasattr(output, n)]
    how = f".{names[0]}" if names else ""
    return f"and returned a {kind}: pass lambda x, t: model(x, t){how or ', and what of it is one'}"


def check_program(plan: Any) -> None:
    """Raise unless this is a plan, a table or a stack, and say what is meant instead."""
    if isinstance(plan, PROGRAMS):
        return
    hint = "make one by cmsched.make_plan, or a scheduler's plan(20)"
    if callable(getattr(plan, "plan", None)):
        hint = f"pass scheduler.plan(20), the plan of a run of the {type(plan).__name__}"
    elif callable(plan):
        hint = "the network comes before the plan: sample(model, plan, noise)"
    raise TypeError(f"plan must be a Plan, its table or a stack, got {type(plan).__name__}; {hint}")


def given_names(layout: Layout) -> set[str]:
    """Return the names of the arrays that a plan is given."""
    return {*layout.given, *([MASK] if layout.masked else [])}


def check_given(
    backend: Backend, sample: Array, wanted: set[str], given: Mapping[str, Array] | None
) -> dict[str, Array]:
    """Return given, the mask in the accumulation dtype; raise unless it holds what is wanted."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f'given must be a mapping such as {{"image": array}}, got {type(given)}')
    have = dict(given or {})
    if wanted != set(have):
        raise ValueError(
            f"given must hold the arrays {sorted(wanted)} of this sampler, got {sorted(have)}"
        )
    for name, x in have.items():
        if name != MASK:
            check_like(backend, sample, f"given[{name!r}]", x)
            have[name] = backend.astype(x, sample.dtype)
            continue
        check_kind(backend, sample, "given['mask']", x)
        shape, fits = tuple(x.shape), tuple(sample.shape)
        pairs = zip(shape[::-1], fits[::-1], strict=False)
        if len(shape) > len(fits) or not all(m in (1, n) for m, n in pairs):
            raise ValueError(
                f"given['mask'] has shape {shape}, which does not broadcast to the sample's {fits}"
            )
        have[name] = backend.astype(x, backend.accumulation(sample.dtype))
    return have


def check_index(backend: Backend, sample: Array, index: Array, name: str = "index") -> None:
    """Raise unless index is an array whose shape begins the sample's."""
    shape, fits = tuple(index.shape), tuple(sample.shape)
    if shape != fits[: len(shape)]:
        raise ValueError(
            f"{name} has shape {shape}, which does not begin the sample's {fits}: use (), (batch,)"
            " or (batch, frames)"
        )


def at_hand(backend: Backend, x: Array) -> bool:
    """Return whether looking at the values of x waits for no device."""
    here = backend.kernel_applies(x) and str(backend.device(x)) == "cpu"
    return backend.name == "numpy" or (here and not backend.traced(x))


def check_rows(backend: Backend, plan: Program, sample: Array, index: Array) -> None:
    """Raise where a row is not of this stack, if that is known without waiting for a device."""
    if plan.layout.stacked and not backend.traced() and at_hand(backend, index):
        check_marks(np.asarray(index), np.asarray(plan.on(sample).next_columns))


def check_marks(index: np.ndarray, following: np.ndarray) -> None:
    """Raise where an index has the mark of a plan that does not begin there in this stack."""
    marks, columns = index // COLUMNS, index % COLUMNS
    known = columns < len(following)
    wrong = (marks != 0) & ~(known & (following[columns * known] // COLUMNS == marks))
    if np.any(wrong):
        raise ValueError(
            f"rows {np.argwhere(wrong)[:, 0].tolist()} of the state run plans that are not at their"
            " places in this stack: use the stack that the state began with, one that begins with"
            " its plans, or move(state, old, new)"
        )


def checked_noise(
    backend: Backend, sample: Array, count: int, noise: Array | Sequence[Array]
) -> tuple[Array, ...]:
    """Return noise= as a tuple of `count` arrays like the sample."""
    drawn = tuple(noise) if isinstance(noise, tuple | list) else (noise,)
    if len(drawn) != count:
        rule = (
            f"draws {count}" if count else "draws none: leave noise out (cmsched.draw gives None)"
        )
        raise ValueError(f"noise has {len(drawn)} arrays, but this step {rule}")
    for z in drawn:
        check_like(backend, sample, "noise", z)
    return tuple(backend.astype(z, sample.dtype) for z in drawn)


def row_at(plan: Program, index: int) -> Row:
    """Return the row at an int index, or say why there is none."""
    if not isinstance(plan, Plan):
        raise TypeError(
            "a table or a stack needs an array index; pass the plan itself for an int index"
        )
    rows = plan.rows
    if 0 <= index < len(rows):
        return rows[index]
    raise ValueError(
        f"the loop is over: index {index} of a plan with {len(rows)} evaluations"
        if index >= 0
        else f"index must not be negative, got {index}"
    )
