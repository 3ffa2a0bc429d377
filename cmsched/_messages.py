"""Error texts: the value, the rule, and the nearest name that would have worked."""

import difflib
import math
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np


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


def choose(argument: str, value: object, known: Iterable[object]) -> None:
    """Raise ValueError unless value is one of the known ones, names as a rule."""
    known = tuple(known)
    found = isinstance(value, Hashable) and value in known  # the members of an array compare too
    if not found or (isinstance(value, bool) and not any(value is k for k in known)):
        listed = ", ".join(str(k) for k in known)
        close = nearest(value, (k for k in known if isinstance(k, str)))
        close = "" if close.startswith("; known") else close  # they are listed already
        raise ValueError(f"{argument}={value!r} is not one of {listed}{close}")


def nonnegative(argument: str, value: Any) -> float:
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
