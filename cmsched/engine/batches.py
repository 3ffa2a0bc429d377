"""Rows of a state coming and going: splitting and joining batches."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from ..backends import A, Backend, resolve
from .values import State

Array = Any
Tree = TypeVar("Tree")
NOTHING: Any = object()  # None may be carried


@overload
def take(state: State[A], rows: Any) -> State[A]: ...
@overload
def take(state: State[A], rows: Any, carry: Tree) -> tuple[State[A], Tree]: ...
def take(state: State, rows: Any, carry: Any = NOTHING) -> Any:
    """Return the state of some rows of the batch, in the order given; and what belongs to them.

    Where the loop draws noise, give `step` a list with one `cmsched.Rng` per row, and carry it:
    otherwise a row's noise follows its place in the batch.

    Args:
        state: what `init` or `step` returned; it is not changed.
        rows: a slice, integers (negative ones count from the end), or booleans, one a row; on the
            host, or an integer array on the state's device, which is not looked at.
        carry: whatever of the caller's has one entry a row, to be taken along: arrays of the
            state's framework or of NumPy, batch first (conditioning, guidance scales), lists (keys,
            requests), and dictionaries and tuples of these. If given, (state, carry) is returned.

    Raises:
        TypeError: rows is none of these; lists and NumPy arrays, and rows on a device.
        ValueError: the sample has no batch axis, or no such row; something carried has another
            number of rows.
    """
    sample, memory, index = state
    backend = resolve(sample)
    if not sample.shape:
        raise ValueError("the sample has shape (), and so no rows: use a batch axis, (batch, ...)")
    host = None
    if isinstance(rows, slice | Sequence | np.ndarray) and not isinstance(rows, str | bytes):
        host = _numbers(rows, sample.shape[0])
        rows = backend.to_device_of(host.astype(np.int32), sample)
    elif not _are_integers(backend, rows):
        raise TypeError(
            f"rows={rows!r} does not say which rows: use a slice (one row is slice(k, k + 1)),"
            " integers or booleans on the host, or an int32 or int64 array of"
            f" {backend.name}, along one axis"
        )

    def along(x: Any) -> Any:
        if not isinstance(x, list) and not (isinstance(x, np.ndarray) and backend.name != "numpy"):
            return backend.xp.take(x, rows, axis=0)
        if host is None:
            raise TypeError(
                f"carry has a {type(x).__name__}, and rows is on a device: give rows on the host,"
                f" or carry arrays of {backend.name} only"
            )
        return [x[k] for k in host.tolist()] if isinstance(x, list) else x[host]

    if not isinstance(index, int) and index.shape:
        index = along(index)
    taken = State(along(sample), tuple(map(along, memory)), index)
    if carry is NOTHING:
        return taken
    return taken, _carried(lambda x: along(_checked(x, sample.shape[0], "carry")), carry)


@overload
def join(states: Sequence[State[A]]) -> State[A]: ...
@overload
def join(states: Sequence[State[A]], carry: Sequence[Tree]) -> tuple[State[A], Tree]: ...
def join(states: Sequence[State], carry: Any = NOTHING) -> Any:
    """Return one state with the rows of several, which one plan or stack then steps together.

    Their loops may stand anywhere: indices are of shape (batch,) or (batch, frames), as `init` with
    `which=` or `index=` makes them. States with int indices join where these are equal.

    Args:
        states: what `init`, `step` and `take` returned.
        carry: what belongs to the rows of each, as in `take`, one tree a state, all alike. If
            given, (state, carry) is returned.

    Raises:
        TypeError: no sequence of states; frameworks differ; trees are not alike.
        ValueError: none; other shapes, dtypes or devices; other numbers of stored arrays; indices
            that cannot stand beside each other; something carried has another number of rows.
    """
    found = tuple(states) if isinstance(states, Iterable) else ()
    if not found or not all(isinstance(state, State) for state in found):
        raise TypeError(f"states must be a sequence of at least one State, got {states!r:.200}")
    states, first = found, found[0]
    backend = resolve(first.sample)
    for i, state in enumerate(states):
        _check_alike(backend, first, state, i)

    def along(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], list):
            return [x for part in parts for x in part]
        if isinstance(parts[0], np.ndarray):
            return np.concatenate(parts)
        return backend.xp.concat(list(parts), axis=0)

    joined = State(
        along([state.sample for state in states]),
        tuple(map(along, zip(*(state.memory for state in states), strict=True))),
        first.index if isinstance(first.index, int) else along([s.index for s in states]),
    )
    if carry is NOTHING:
        return joined
    trees = list(carry)
    if len(trees) != len(states):
        raise ValueError(f"carry holds {len(trees)} trees for {len(states)} states: give one each")

    def beside(*parts: Any) -> Any:
        counts = [state.sample.shape[0] for state in states]
        named = [
            _checked(x, n, f"carry[{i}]")
            for i, (x, n) in enumerate(zip(parts, counts, strict=True))
        ]
        return along(named)

    return joined, _carried(beside, *trees)


def _carried(fn: Callable[..., Any], *trees: Any) -> Any:
    """Apply fn to what has rows in trees that are alike: all but dictionaries and tuples."""
    first = trees[0]
    if first is None or isinstance(first, dict | tuple):
        names = [set(t) if isinstance(t, dict) else len(t or ()) for t in trees]
        if any(type(t) is not type(first) for t in trees) or any(n != names[0] for n in names):
            raise TypeError(f"carry holds trees that are not alike: {trees!r:.200}")
    if first is None:
        return None
    if isinstance(first, dict):
        return {name: _carried(fn, *(t[name] for t in trees)) for name in first}
    if isinstance(first, tuple):
        parts = [_carried(fn, *column) for column in zip(*trees, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    return fn(*trees)


def _checked(x: Any, rows: int, name: str) -> Any:
    """Return what is carried, or raise unless it has an entry for each row."""
    count = len(x) if isinstance(x, list) else (*getattr(x, "shape", ()), None)[0]
    if count != rows:
        found = f"{count} entries" if count is not None else "no rows"
        raise ValueError(
            f"{name} has a {type(x).__name__} with {found} for a batch of {rows}: carry lists and"
            " arrays with one entry a row, in dictionaries or tuples"
        )
    return x


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
