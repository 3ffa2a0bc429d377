"""What a loop yields: evaluations of the network, and what else it may ask for or tell."""

from typing import Any, NamedTuple

from ..schedules import Point

__all__ = ["Evaluate", "Rms", "Store", "Trial"]


class Evaluate(NamedTuple):
    """An evaluation of the network; (x, point) is short for one.

    The reply is (x, x0), with `eps` also the noise estimate, from before x0 was projected.
    """

    x: Any
    point: Point
    eps: bool = False


class Store(NamedTuple):
    """A combination to be stored as one array, which is the reply; a hint, it changes no result."""

    x: Any


class Rms(NamedTuple):
    """The root mean square over "all", each "sample", or the mean over a "batch"."""

    x: Any
    over: str = "all"


class Trial(NamedTuple):
    """A step that an adaptive loop tried: where it is now, and what comes next; no reply."""

    x: Any
    point: Point
    error: float  # of the step, in units of what was allowed
    h: float  # the length in lam that is tried next
    accepted: bool
