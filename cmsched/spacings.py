"""Which points to visit: model times or noise levels, on the host in float64, noisiest first.

`TIMESTEPS` are rules over the training steps 0 ... N-1, `RAMPS` rules between two noise levels
(sigma / alpha). What comes out is a `Grid`: n + 1 points for n steps.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._messages import choose
from .schedules import Point, Schedule, make_schedule

__all__ = [
    "RAMPS",
    "TIMESTEPS",
    "Grid",
    "Walk",
    "check_count",
    "decreasing",
    "host",
    "karras",
    "ramp",
    "timesteps",
]


@dataclass(frozen=True)
class Grid:
    """The points a sampler walks over: n + 1 of them for n steps, noisiest first.

    Args:
        points: the last one is where the sample ends (usually sigma = 0).
        schedule: makes points between them, `at(t= | sigma= | lam=)`.
        init_scale: the start is init_scale * noise.
        integral: whether the network is conditioned on integers.
        arrivals: where each step ends, if that is not the point the next one starts from (the
            reference's DDIM steps by a fixed stride over timesteps of another one).
        skipped: how many steps of a longer run come before the first point.
    """

    points: tuple[Point, ...]
    schedule: Schedule
    init_scale: float = 1.0
    integral: bool = False
    arrivals: tuple[Point, ...] | None = None
    skipped: int = 0

    def __post_init__(self) -> None:
        if len(self.points) < 2:
            raise ValueError(f"a grid needs at least two points (one step), got {len(self.points)}")
        if self.arrivals is not None and len(self.arrivals) != len(self):
            raise ValueError(f"{len(self)} steps need as many arrivals, got {len(self.arrivals)}")
        for a, b in itertools.pairwise(self.points):
            if b.ratio > a.ratio * (1 + 1e-9):  # equal up to rounding is a step of length zero
                raise ValueError(
                    f"a grid runs from noise to data, but sigma/alpha goes from {a.ratio:g} up to"
                    f" {b.ratio:g} (t={a.t:g} to t={b.t:g})"
                )

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.points) - 1

    def steps(self) -> Iterator[tuple[Point, Point]]:
        """Yield the two ends of every step, from noise to data."""
        return zip(self.points[:-1], self.arrivals or self.points[1:], strict=True)

    def at(self, **level: float) -> Point:
        """Return a point between the grid's: one of t, sigma, lam, ratio."""
        return self.schedule.at(**level)

    def skip(self, k: int) -> "Grid":
        """Return the rest of the grid from step k; its start scale is that point's sigma."""
        if not 0 <= k < len(self):
            raise ValueError(f"cannot skip {k} of {len(self)} steps; at least one must be left")
        if k == 0:
            return self
        arrivals = self.arrivals and self.arrivals[k:]
        return dataclasses.replace(
            self,
            points=self.points[k:],
            init_scale=self.points[k].sigma,
            arrivals=arrivals,
            skipped=self.skipped + k,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the grid as plain data; `Grid.from_dict` gives it back."""
        rows = [dataclasses.astuple(p) for p in self.points]
        arrivals = self.arrivals and [dataclasses.astuple(p) for p in self.arrivals]
        return {
            "points": rows,
            "schedule": self.schedule.to_dict(),
            "init_scale": self.init_scale,
            "integral": self.integral,
            "arrivals": arrivals,
            "skipped": self.skipped,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Grid":
        """Return the grid that `to_dict` wrote."""
        arrivals = data["arrivals"] and tuple(Point(*row) for row in data["arrivals"])
        points = tuple(Point(*row) for row in data["points"])
        schedule = make_schedule(**data["schedule"])
        options = (data["init_scale"], data["integral"], arrivals, data["skipped"])
        return cls(points, schedule, *options)


class Walk:
    """A grid as one run of a loop sees it; remembers which step the loop is at."""

    def __init__(self, grid: Grid) -> None:
        self.points, self.at, self._grid, self.step = grid.points, grid.at, grid, 0
        self.total = grid.skipped + len(grid)  # steps of the whole run

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self._grid)

    def steps(self) -> Iterator[tuple[Point, Point]]:
        """Yield the two ends of every step."""
        for step, ends in enumerate(self._grid.steps()):
            self.step = step
            yield ends


def linspace(n: int, train: int, *, last: int, extra: bool) -> np.ndarray:
    """Even in t from last - 1 down to 0; with extra n of n + 1 points, the one at 0 left out."""
    if n + extra == 1:
        return np.array([last - 1.0])
    return np.linspace(0, last - 1, n + extra)[::-1][:n]


def leading(n: int, train: int, *, last: int, extra: bool) -> np.ndarray:
    """Multiples of the integer stride, from 0 up (with extra: from the second one up)."""
    return np.arange(n + extra)[::-1][:n] * float(last // (n + extra))


def trailing(n: int, train: int, *, last: int, extra: bool) -> np.ndarray:
    """Multiples of the real stride train / n, from last - 1 down (arXiv:2305.08891, table 2)."""
    return np.arange(last, 0, -train / n)[:n] - 1.0


TIMESTEPS: dict[str, Callable[..., np.ndarray]] = {
    "linspace": linspace,
    "leading": leading,
    "trailing": trailing,
}


def timesteps(
    spacing: str,
    n: int,
    train: int,
    *,
    last: int | None = None,
    extra: bool = False,
    offset: int = 0,
    whole: bool = True,
) -> list[float]:
    """Return n timesteps, decreasing, of a named spacing.

    Args:
        spacing: a name in TIMESTEPS.
        n: how many; "trailing" gives fewer where `last` is below train.
        train: number of training steps.
        last: visit only steps below this one (train if None).
        extra: the multistep family's rule: n of n + 1 points, the lowest left out.
        offset: added to the "leading" rule (`steps_offset`).
        whole: round linspace to integers, as the integer-time classes do; trailing and leading
            are always whole.

    Raises:
        ValueError: too many steps for different timesteps, or an offset past the last one.
    """
    choose("timestep_spacing", spacing, TIMESTEPS)
    n = check_count("num_inference_steps", n)
    top = train if last is None else last
    if spacing == "leading" and top < n + extra:
        raise ValueError(
            f"{n} leading steps need at least {n + extra} training steps, got {top}; use fewer"
            " steps"
        )
    times = TIMESTEPS[spacing](n, train, last=top, extra=extra)
    if spacing == "trailing":  # rounds before the shift by one: half to even, as the field does
        times = np.round(times + 1) - 1
    elif whole:
        times = np.round(times)
    if spacing == "leading":
        times = times + offset
        if times[0] > train - 1:
            raise ValueError(
                f"steps_offset={offset} with {n} leading steps starts at timestep {times[0]:g}, but"
                f" the last training step is {train - 1}; use fewer steps or steps_offset=0"
            )
    out: list[float] = times.tolist()
    if len(set(out)) < len(out):
        raise ValueError(
            f"{n} {spacing} timesteps over {train} training steps are not all different; use fewer"
            " steps"
        )
    return out


def check_ends(n: int, high: float, low: float, *, positive: bool) -> None:
    """Raise unless a ramp can be made of n levels from high to low."""
    check_count("num_inference_steps", n)
    if not (0.0 < high < math.inf and (low > 0.0 if positive else low >= 0.0)):
        raise ValueError(f"noise levels must be positive and finite, got {high:g} to {low:g}")
    if low > high or (low == high and n > 1):
        raise ValueError(f"noise levels must go down, got {n} from {high:g} to {low:g}")


def karras(n: int, high: float, low: float, *, rho: float = 7.0) -> np.ndarray:
    """(high^(1/rho) + i/(n-1) (low^(1/rho) - high^(1/rho)))^rho (arXiv:2206.00364, eq. 5)."""
    check_ends(n, high, low, positive=False)
    return ramp(np.linspace(0, 1, n), high, low, rho=rho)


def ramp(fractions: np.ndarray, high: float, low: float, *, rho: float) -> np.ndarray:
    """Karras levels at given fractions of the way from high to low."""
    a, b = high ** (1 / rho), low ** (1 / rho)
    return np.asarray((a + fractions * (b - a)) ** rho)


def exponential(n: int, high: float, low: float) -> np.ndarray:
    """Even in log sigma, which is uniform in lam."""
    check_ends(n, high, low, positive=True)
    return np.asarray(np.exp(np.linspace(math.log(high), math.log(low), n)))


def beta(n: int, high: float, low: float, *, a: float = 0.6, b: float = 0.6) -> np.ndarray:
    """Quantiles of the Beta(a, b) distribution (arXiv:2407.12173); needs SciPy."""
    try:
        from scipy.stats import beta as distribution  # an extra, loaded only here
    except ImportError:
        raise ImportError('beta sigmas need SciPy: pip install "cmsched[scipy]"') from None
    check_ends(n, high, low, positive=False)
    quantiles = np.asarray(distribution.ppf(1 - np.linspace(0, 1, n), a, b))
    return low + quantiles * (high - low)


RAMPS: dict[str, Callable[..., np.ndarray]] = {
    "karras": karras,
    "exponential": exponential,
    "beta": beta,
    "lu": exponential,  # uniform in lam: the same curve under the multistep solvers' name for it
}


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


def decreasing(name: str, values: Sequence[float] | np.ndarray) -> list[float]:
    """Return an explicit list as finite, strictly decreasing floats.

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
        right = sorted(set(items), reverse=True)
        shown = ", ".join([f"{v:g}" for v in right[:12]] + ["..."] * (len(right) > 12))
        raise ValueError(f"{name} must be strictly decreasing; the same values in order: [{shown}]")
    return items


def host(values: Any) -> Any:
    """Return host numbers of a list or an array of any framework (read once, before the loop)."""
    detach = getattr(values, "detach", None)
    if detach is not None:
        values = detach().cpu()
    return values.get() if hasattr(values, "get") and hasattr(values, "device") else values
