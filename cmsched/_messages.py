"""Error texts: the value, the rule, and the nearest name that would have worked."""

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[str]) -> str:
    """Return '; did you mean ...?' for a misspelt name, and the known names otherwise."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name).lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    if close:
        return f"; did you mean {next(n for n in names if n.lower() == close[0])!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def choose(argument: str, value: object, known: Iterable[str]) -> None:
    """Raise ValueError unless value is one of the known names."""
    known = tuple(known)
    if value not in known:
        raise ValueError(f"{argument}={value!r} is not one of {', '.join(known)}{nearest(value, known)}")
