"""A noise schedule on one device: model time <-> noise level, for arrays of any shape.

`schedule.on(like)` makes one, `Levels`, in the framework, on the device and in the accumulation
dtype of an array. Between times and levels stands a pair (signal, noise) in the proportion of alpha
to sigma, so that the end where alpha is 0 is a number like any other.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .backends import resolve
from .checks import host

__all__ = ["Levels", "levels_on"]

Array = Any
# tuples, because torch.compile follows no union
NUMBERS = (int, float, np.integer, np.floating)
ON_HOST = (np.ndarray, np.generic)


class Levels:
    """A schedule for the arrays of one framework, device and dtype.

    Times and levels are arrays of that framework, numbers, or NumPy arrays; what is returned has
    their shape. What lies in host memory and is out of range raises ValueError, as `schedule.at`
    does. Arrays on a device are not looked at: of a built-in schedule times are clipped to its
    range, and nothing waits for the device.

    Args:
        schedule: the one that this is of.
        like: an array.
    """

    huge = 1e18  # as good as infinity, and its square is a float32

    def __init__(self, schedule: Any, like: Array) -> None:
        self.schedule, self.backend = schedule, resolve(like)
        self.xp, self.dtype = self.backend.xp, self.backend.accumulation(like.dtype)
        self._zero = self.backend.to_device_of(np.zeros(()), like, self.dtype)
        self._tables = {name: self._put(table) for name, table in schedule.tables.items()}

    def ratio(self, t: Array) -> Array:
        """Return sigma / alpha at model times; infinite where alpha is 0."""
        if isinstance(t, NUMBERS):
            return self._put(self.schedule.ratio_at(float(t)))
        t = self._array(t, self.schedule.ratio_at)
        return self._quotient(*self.schedule.parts_on(self, t))

    def alpha_sigma(self, t: Array) -> tuple[Array, Array]:
        """Return alpha and sigma at model times."""
        if isinstance(t, NUMBERS):
            point = self.schedule.at(t=float(t))
            return self._put(point.alpha), self._put(point.sigma)
        t = self._array(t, lambda edge: self.schedule.at(t=edge))
        alpha, sigma = self._split(*self.schedule.parts_on(self, t))
        return alpha, self._apart(sigma, t)

    def split(self, ratio: Array) -> tuple[Array, Array]:
        """Return alpha and sigma of a ratio sigma / alpha, which may be infinite."""
        return self._split(*self.parts(self._array(ratio)))

    def input_scale(self, alpha: Array, sigma: Array) -> Array | float:
        """Return what the network's input is multiplied by, 1.0 where nothing is."""
        return self.schedule.input_scale(alpha, sigma, hypot)

    def time(self, ratio: Array = None, *, sigma: Array = None) -> Array:
        """Return the model times at ratios sigma / alpha, or at the frame's own sigmas."""
        if (ratio is None) == (sigma is None):
            raise TypeError("time() takes exactly one of ratio and sigma")
        if isinstance(sigma, NUMBERS):
            ratio = self.schedule.ratio_of_sigma(float(sigma))
        elif sigma is not None:
            sigma = self._array(sigma, self.schedule.ratio_of_sigma)
            ratio = self._quotient(self.schedule.alpha_of_sigma(sigma, self.xp.sqrt), sigma)
        if isinstance(ratio, NUMBERS):
            return self._put(self.schedule.time_at(float(ratio)))
        ratio = self._array(ratio)
        return self._apart(self.schedule.times_on(self, ratio), ratio)

    def _apart(self, found: Array, given: Array) -> Array:
        """Return a result that is not the array given, where the level is the time."""
        return self.backend.copy(found) if found is given else found

    # what the schedules' own formulas take

    def clip(self, x: Array, lo: float, hi: float) -> Array:
        """Limit to [lo, hi]."""
        return self.backend.clip(x, lo, hi)

    def where(self, condition: Array, a: Array, b: Array) -> Array:
        """Choose elementwise."""
        return self.backend.where(condition, a, b)

    def full(self, x: Array, value: float) -> Array:
        """Return an array like x with one value everywhere."""
        return self.backend.zeros_like(x) + value

    def below(self, number: float, x: Array) -> Array:
        """Return number - x with the digits of the number that the dtype does not hold."""
        most = float(np.asarray(number, self.backend.dtype_name(self.dtype)))
        return most - x + (number - most)

    def take(self, table: str, index: Array) -> Array:
        """Return a table's entries at whole numbers, which are floats."""
        found = self.xp.take(self._tables[table], _flat(self.xp, self._whole(index)))
        return _shaped(self.xp, found, index)

    def search(self, table: str, values: Array) -> Array:
        """Return how many entries of an increasing table are at most these values, as floats."""
        found = self.xp.searchsorted(self._tables[table], _flat(self.xp, values), side="right")
        return _shaped(self.xp, self.backend.astype(found, self.dtype), values)

    def parts(self, ratio: Array) -> tuple[Array, Array]:
        """Return signal and noise of a ratio, which may be infinite."""
        finite, one = ratio < math.inf, self.full(ratio, 1.0)
        return self.where(finite, one, self.full(ratio, 0.0)), self.where(finite, ratio, one)

    def by_host(self, rule: Callable[[float], float], values: Array) -> Array:
        """Return what a function of numbers says of each value, which is read on the host."""
        if self.backend.traced(values):
            name = type(self.schedule).__name__
            raise TypeError(
                f"{name} knows numbers only, and the values of this array are not known yet, inside"
                f" jit: define {name}.parts_on(on, t) and times_on(on, ratio), as"
                " cmsched.schedules.VESDE does, or call this outside"
            )
        table = np.asarray(host(values), np.float64)
        found = np.array([rule(v) for v in table.reshape(-1).tolist()])
        return self._put(found.reshape(table.shape))

    def _put(self, value: Any) -> Array:
        return self.backend.to_device_of(np.asarray(value, np.float64), self._zero, self.dtype)

    def _array(self, values: Array, check: Callable[[float], Any] | None = None) -> Array:
        """Return values in this framework and dtype; `check` sees the ends of those on the host."""
        if not hasattr(values, "shape") or isinstance(values, ON_HOST):
            table = np.asarray(values, np.float64)
            if check is not None and table.size and not self.backend.traced():
                check(float(table.min()))
                check(float(table.max()))
            return self._put(table)
        if (other := resolve(values)) is not self.backend:
            raise TypeError(
                f"this schedule is on {self.backend.name} and got an array of {other.name}:"
                " convert it"
            )
        if check is not None and (found := self.backend.known(values)) is not None and found.size:
            check(float(found.min()))
            check(float(found.max()))
        return self.backend.astype(values, self.dtype)

    def _whole(self, index: Array) -> Array:
        return self.backend.astype(index, self.backend.default_int)

    def _quotient(self, signal: Array | float, noise: Array) -> Array:
        if isinstance(signal, float):
            return noise / signal
        pure = signal == 0
        found = noise / self.where(pure, self.full(signal, 1.0), signal)
        return self.where(pure, self.full(signal, math.inf), found)

    def _split(self, signal: Array | float, noise: Array) -> tuple[Array, Array]:
        if self.schedule.frame != "ve":
            noise = self.clip(noise, 0.0, self.huge)
        alpha, sigma = self.schedule.split(signal, noise, hypot)
        return self.full(noise, alpha) if isinstance(alpha, float) else alpha, sigma


def levels_on(schedule: Any, like: Array, kept: dict[Any, Levels]) -> Levels:
    """Return a schedule beside `like`; made once a framework, dtype and device, then kept."""
    backend = resolve(like)
    key = backend.name, str(backend.accumulation(like.dtype)), str(backend.device(like))
    if key not in kept:
        levels = Levels(schedule, like)
        if backend.traced(levels._zero):
            return levels  # made inside a trace: must not outlive it
        kept[key] = levels
    return kept[key]


def hypot(a: Any, b: Any) -> Any:
    """Return sqrt(a^2 + b^2) of numbers or arrays."""
    return (a * a + b * b) ** 0.5


def _flat(xp: Any, x: Array) -> Array:
    return x if len(x.shape) == 1 else xp.reshape(x, (-1,))


def _shaped(xp: Any, x: Array, like: Array) -> Array:
    return x if len(like.shape) == 1 else xp.reshape(x, like.shape)
