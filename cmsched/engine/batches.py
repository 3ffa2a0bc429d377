"""Rows of a state coming and going: splitting and joining batches."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..backends import A, Backend, resolve
from .values import State

Array = Any


def take(state: State[A], rows: Any) -> State[A]:
    """Return the state of some rows of the batch, in the order given.

    Where the loop draws noise, give `step` a list with one `cmsched.Rng` per row, and take from it
    as well: otherwise a row's noise follows its place in the batch.

    Args:
        state: what `init` or `step` returned; it is not changed.
        rows: a slice, integers (negative ones count from the end), or booleans, one a row; on the
            host, or an integer array on the state's device, which is not looked at.

    Raises:
        TypeError: rows is none of these.
        ValueError: the sample has no batch axis, or no such row.
    """
    sample, memory, index = state
    backend = resolve(sample)
    if not sample.shape:
        raise ValueError("the sample has shape (), and so no rows: use a batch axis, (batch, ...)")
    if isinstance(rows, slice | Sequence | np.ndarray) and not isinstance(rows, str | bytes):
        rows = _numbers(rows, sample.shape[0])
        rows = backend.to_device_of(rows.astype(np.int32), sample)
    elif not _are_integers(backend, rows):
        raise TypeError(
            f"rows={rows!r} does not say which rows: use a slice (one row is slice(k, k + 1)),"
            " integers or booleans on the host, or an int32 or int64 array of"
            f" {backend.name}, along one axis"
        )
    if not isinstance(index, int) and index.shape:
        index = backend.xp.take(index, rows, axis=0)
    return State(
        backend.xp.take(sample, rows, axis=0),
        tuple(backend.xp.take(x, rows, axis=0) for x in memory),
        index,
    )


def join(states: Sequence[State[A]]) -> State[A]:
    """Return one state with the rows of several, which one plan or stack then steps together.

    Their loops may stand anywhere: indices are of shape (batch,) or (batch, frames), as `init` with
    `which=` or `index=` makes them. States with int indices join where these are equal.

    Raises:
        TypeError: no sequence of states; frameworks differ.
        ValueError: none; other shapes, dtypes or devices; other numbers of stored arrays; indices
            that cannot stand beside each other.
    """
    found = tuple(states) if isinstance(states, Iterable) else ()
    if not found or not all(isinstance(state, State) for state in found):
        raise TypeError(f"states must be a sequence of at least one State, got {states!r:.200}")
    states, first = found, found[0]
    backend = resolve(first.sample)
    for i, state in enumerate(states):
        _check_alike(backend, first, state, i)

    def along(parts: list[Array]) -> Array:
        return backend.xp.concat(parts, axis=0)

    return State(
        along([state.sample for state in states]),
        tuple(map(along, map(list, zip(*(state.memory for state in states), strict=True)))),
        first.index if isinstance(first.index, int) else along([s.index for s in states]),
    )


def _are_integers(backend: Backend, rows: Any) -> bool:
    """Tell whether rows is an array of integers of the framework, of one axis."""
    try:
        same = resolve(rows) is backend
    except TypeError:
        return False
    return same and backend.dtype_name(rows.dtype) in ("int32", "int64") and len(rows.shape) == 1


def _numbers(rows: Any, batch: int) -> np.ndarray:
    """Return rows as their numbers."""
    if not isinstance(rows, slice):
        given = rows
        try:
            rows = np.asarray(given)
        except ValueError:  # a ragged list
            rows = np.zeros(())
        rows = rows.astype(int) if rows.shape == (0,) else rows
        if rows.ndim != 1 or rows.dtype.kind not in "iub":
            raise TypeError(f"rows={given!r} must be integers or booleans along one axis")
    try:
        found: np.ndarray = np.arange(batch)[rows]
        return found
    except IndexError:
        raise ValueError(f"rows={rows!r} does not fit a batch of {batch} rows") from None


def _check_alike(backend: Backend, first: State, state: State, i: int) -> None:
    """Raise unless a state's arrays can stand beside those of the first."""
    here, there = first.sample, state.sample
    if resolve(there) is not backend:
        raise TypeError(
            f"states[{i}] is of {resolve(there).name}, states[0] of {backend.name}: convert one"
        )
    if len(here.shape) == 0 or here.shape[1:] != there.shape[1:] or len(there.shape) == 0:
        raise ValueError(
            f"states[{i}] has samples of shape {tuple(there.shape)}, states[0] of"
            f" {tuple(here.shape)}: all axes but the first must be equal"
        )
    if here.dtype != there.dtype or backend.device(here) != backend.device(there):
        raise ValueError(
            f"states[{i}] is {there.dtype} on {backend.device(there)}, states[0] {here.dtype} on"
            f" {backend.device(here)}: convert one"
        )
    if len(first.memory) != len(state.memory):
        raise ValueError(
            f"states[{i}] stores {len(state.memory)} arrays, states[0] {len(first.memory)}: join"
            " states of one plan or stack"
        )
    a, b = first.index, state.index
    if isinstance(a, int) and isinstance(b, int) and a == b:
        return
    shapes = [() if isinstance(k, int) else tuple(k.shape) for k in (a, b)]
    if not all(shapes) or shapes[0][1:] != shapes[1][1:]:
        raise ValueError(
            f"states[{i}] has an index of shape {shapes[1]}, states[0] of {shapes[0]}: rows at"
            " different steps need one index each; start them with"
            " init(stack(plans), noise, which=[k, ...])"
        )
