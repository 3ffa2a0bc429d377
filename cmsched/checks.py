"""Checks of arguments: errors say the value, the rule, and the nearest name that would do."""

import difflib
import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

V = TypeVar("V")


class Named(dict[str, V]):
    """Things by name, with a docstring of its own for `help`."""

    def __init__(self, doc: str, things: Mapping[str, V] | None = None) -> None:
        """Take what the docstring says, and the things."""
        super().__init__(things or {})
        self.__doc__ = doc


def nearest(name: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return '; did you mean ...?' for a misspelt name, and the known names otherwise.

    cutoff: how alike both are at least, in (0, 1]; names with a part in common need a high one.
    """
    names = sorted(known)
    lower = [n.lower() for n in names]
    close = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=cutoff)
    if close:
        return f"; did you mean {names[lower.index(close[0])]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def check_choice(argument: str, value: object, known: Iterable[object]) -> None:
    """Raise ValueError unless value is one of the known ones, names as a rule."""
    known = tuple(known)
    found = isinstance(value, Hashable) and value in known  # the members of an array compare too
    if not found or (isinstance(value, bool) and not any(value is k for k in known)):
        listed = ", ".join(str(k) for k in known)
        close = nearest(value, (k for k in known if isinstance(k, str)))
        close = "" if close.startswith("; known") else close  # they are listed already
        raise ValueError(f"{argument}={value!r} is not one of {listed}{close}")


def check_nonnegative(argument: str, value: Any) -> float:
    """Return a number of at least 0 as a float; anything else raises."""
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise TypeError(f"{argument} must be a number, got {value!r}")
    if number < 0.0:
        raise ValueError(f"{argument} must be at least 0, got {number}")
    return number


def check_count(name: str, value: Any, largest: int | None = None, why: str = "") -> int:
    """Return a step count as int, or raise.

    Raises:
        TypeError: not an integer.
        ValueError: below 1, or above largest.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer of at least 1, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    if largest is not None and value > largest:
        raise ValueError(f"{name}={value} is more than {largest}{why}")
    return int(value)


def check_name(what: str, name: Any, own: Iterable[str]) -> None:
    """Raise unless this can name a registered thing: a string, and none of cmsched's own names."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"name={name!r}: give a string, which stands for the {what} from now on")
    if name in own:
        raise ValueError(f"name={name!r} is a {what} known already: choose another name")


def host(values: Any) -> Any:
    """Return host numbers of a list or an array of any framework (read once, before the loop)."""
    detach = getattr(values, "detach", None)
    if detach is not None:
        values = detach().cpu()
    return values.get() if hasattr(values, "get") and hasattr(values, "device") else values


def check_decreasing(
    name: str, values: Sequence[float] | np.ndarray, *, reverse: bool = False
) -> list[float]:
    """Return an explicit list as finite, strictly decreasing floats.

    With reverse it was turned round, and the error says that it must increase.

    Raises:
        TypeError: not numbers.
        ValueError: empty, not one-dimensional, not finite, or not decreasing (shown put right).
    """
    try:
        table = np.asarray(host(values))
        table = table if table.dtype.kind in "OUSbc" else table.astype(np.float64)
    except (TypeError, ValueError):
        table = np.array(None)
    if table.dtype.kind != "f":
        raise TypeError(f"{name} must be a list of numbers, got {values!r}")
    if table.ndim != 1 or table.size == 0 or not np.all(np.isfinite(table)):
        raise ValueError(f"{name} must be a non-empty list of finite numbers, got {values!r}")
    items: list[float] = table.tolist()
    if any(b >= a for a, b in itertools.pairwise(items)):
        right = sorted(set(items), reverse=not reverse)
        shown = ", ".join([f"{v:g}" for v in right[:12]] + ["..."] * (len(right) > 12))
        way = "increasing" if reverse else "decreasing"
        raise ValueError(f"{name} must be strictly {way}; the same values in order: [{shown}]")
    return items
