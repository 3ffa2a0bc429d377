"""Which points to visit: model times or noise levels, on the host in float64, noisiest first.

`TIMES` are rules over the training steps 0 ... N-1 (`TIMESTEPS` those that the named classes take),
`RAMPS` rules between two noise levels, or tables of them; `place` puts points of any schedule by
any of them. What comes out is a `Grid`: n + 1 points for n steps.
"""

import dataclasses
import inspect
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._messages import check_count, choose, nearest
from .ramps import RAMPS, karras, ramp
from .schedules import Betas, Point, Schedule, make_schedule

__all__ = [
    "RAMPS",
    "SHIFTS",
    "TIMES",
    "TIMESTEPS",
    "Grid",
    "Walk",
    "check_count",
    "check_spacing",
    "decreasing",
    "host",
    "karras",
    "place",
    "ramp",
    "shifted",
    "stretched",
    "timesteps",
]


@dataclass(frozen=True)
class Grid:
    """The points a sampler walks over: n + 1 of them for n steps, noisiest first (or last).

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
        object.__setattr__(self, "points", tuple(self.points))
        object.__setattr__(self, "arrivals", self.arrivals and tuple(self.arrivals))
        if len(self.points) < 2:
            raise ValueError(f"a grid needs at least two points (one step), got {len(self.points)}")
        if self.arrivals is not None and len(self.arrivals) != len(self):
            raise ValueError(f"{len(self)} steps need as many arrivals, got {len(self.arrivals)}")
        upward = self.upward
        for pair in itertools.pairwise(self.points):
            a, b = pair[::-1] if upward else pair
            if b.ratio > a.ratio * (1 + 1e-9):  # equal up to rounding is a step of length zero
                raise ValueError(
                    "a grid runs one way, from noise to data or (inversion) from data to noise, but"
                    f" sigma/alpha turns between t={a.t:g}, where it is {a.ratio:g}, and"
                    f" t={b.t:g}, where it is {b.ratio:g}"
                )

    @property
    def upward(self) -> bool:
        """Whether it runs from data to noise (inversion)."""
        return self.points[-1].ratio > self.points[0].ratio

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.points) - 1

    def steps(self) -> Iterator[tuple[Point, Point]]:
        """Yield the two ends of every step."""
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
            init_scale=self.init_scale if self.upward else self.points[k].sigma,
            arrivals=arrivals,
            skipped=self.skipped + k,
        )

    def until(self, k: int) -> "Grid":
        """Return the first k steps of the grid."""
        arrivals = self.arrivals and self.arrivals[:k]
        return dataclasses.replace(self, points=self.points[: k + 1], arrivals=arrivals)

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
    """A grid as one run of a loop sees it: which step the loop is at, and what it counted."""

    def __init__(self, grid: Grid) -> None:
        self.points, self.at, self.schedule = grid.points, grid.at, grid.schedule
        self._grid, self.step = grid, 0
        self.total = grid.skipped + len(grid)  # steps of the whole run
        self.counts: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self._grid)

    def at_time(self, t: float) -> Point:
        """Return the point at model time t, or at the whole one below where the grid has such."""
        # 1e-6: 0.7 * 700 is 490, and not the next float below
        return self.at(t=math.floor(t + 1e-6) if self._grid.integral else t)

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


def simple(n: int, train: int, *, last: int, extra: bool) -> np.ndarray:
    """Multiples of the real stride train / n, from last - 1 down, rounded up (ComfyUI)."""
    return last - 1.0 - np.arange(n) * train // n


def ddim_uniform(n: int, train: int, *, last: int, extra: bool) -> np.ndarray:
    """Multiples of the integer stride, from 1 up (ComfyUI): leading with steps_offset=1."""
    return leading(n, train, last=last, extra=extra) + 1.0


def sgm_uniform(n: int, train: int, *, last: int, extra: bool) -> np.ndarray:
    """Even in t, n of n + 1 points, the one at 0 left out (Stability-AI generative-models)."""
    return linspace(n, train, last=last, extra=True)


TIMESTEPS: dict[str, Callable[..., np.ndarray]] = {
    "linspace": linspace,
    "leading": leading,
    "trailing": trailing,
}
# normal is k-diffusion's linspace; it and sgm_uniform go log-linearly between training steps
TIMES: dict[str, Callable[..., np.ndarray]] = {
    **TIMESTEPS,
    "simple": simple,
    "ddim_uniform": ddim_uniform,
    "normal": linspace,
    "sgm_uniform": sgm_uniform,
}
LOG_LINEAR = ("normal", "sgm_uniform")


def timesteps(
    spacing: str,
    n: int,
    train: int,
    *,
    last: int | None = None,
    extra: bool = False,
    offset: int = 0,
    whole: bool | None = True,
) -> list[float]:
    """Return n timesteps, decreasing, of a named spacing.

    Args:
        spacing: a name in TIMES.
        n: how many; "trailing" gives fewer where `last` is below train.
        train: number of training steps.
        last: visit only steps below this one (train if None).
        extra: the multistep family's rule: n of n + 1 points, the lowest left out.
        offset: added to the "leading" rule (`steps_offset`).
        whole: round to integers, as the integer-time classes do; False: only trailing, as the
            fractional-time classes do; None: nothing.

    Raises:
        ValueError: too many steps for different timesteps, or an offset past the last one.
    """
    choose("timestep_spacing", spacing, TIMES)
    n = check_count("num_inference_steps", n)
    top = train if last is None else last
    if spacing in ("leading", "ddim_uniform") and top < n + extra:
        raise ValueError(
            f"{n} {spacing} steps need at least {n + extra} training steps, got {top}; use fewer"
            " steps"
        )
    times = TIMES[spacing](n, train, last=top, extra=extra)
    if (
        spacing == "trailing" and whole is not None
    ):  # rounds before the shift by one: half to even, as the field does
        times = np.round(times + 1) - 1
    elif whole:
        times = np.round(times)
    if spacing == "leading":
        times = times + offset
    if times[0] > train - 1:
        raise ValueError(
            f"steps_offset={offset} with {n} {spacing} steps starts at timestep {times[0]:g}, but"
            f" the last training step is {train - 1}; use fewer steps or steps_offset=0"
        )
    out: list[float] = times.tolist()
    if len(set(out)) < len(out):
        raise ValueError(
            f"{n} {spacing} timesteps over {train} training steps are not all different; use fewer"
            " steps"
        )
    return out


ENDS = {"sigma_max": "high", "sigma_min": "low"}  # options, and a ramp's name for them
HIGHEST = 4096.0  # sigma / alpha of alpha_bar = 2^-24, in place of infinity, as the field has it


def check_spacing(spacing: str, options: Mapping[str, Any]) -> set[str]:
    """Return what a spacing heeds of sigma_max, sigma_min and steps_offset.

    Raises:
        ValueError: an unknown spacing, or a number out of range.
        TypeError: an option that it does not have, or that is not a number.
    """
    choose("spacing", spacing, (*TIMES, *RAMPS))
    if spacing in TIMES:
        own, heeds = {}, {"steps_offset"} if spacing == "leading" else set()
    else:
        parameters = inspect.signature(RAMPS[spacing]).parameters
        own = {k: p.default for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
        heeds = {name for name, end in ENDS.items() if end in parameters}
    for name, value in options.items():
        if name not in own:
            raise TypeError(f"spacing {spacing!r} has no option {name!r}{nearest(name, own)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} must be a number, got {value!r}")
        # one whose default is 0 is a place, the others are sizes
        if not (0.0 < value < 1e12 or (own[name] == 0.0 and abs(value) < 1e12)):
            raise ValueError(f"{name} must be a positive, finite number, got {value!r}")
    return heeds


def place(
    spacing: str,
    n: int,
    schedule: Schedule,
    *,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    steps_offset: int = 0,
    train: int = 1000,
    **options: Any,
) -> list[Point]:
    """Return the n points of a schedule where steps start, by any spacing.

    Args:
        spacing: a name in TIMES or RAMPS.
        n: how many.
        schedule: where it is continuous, training steps lie evenly over its `span`.
        sigma_max: first level of a ramp, sigma in the flow frame and otherwise sigma / alpha; by
            default the schedule's, or HIGHEST where that is infinite.
        sigma_min: last level, likewise.
        steps_offset: see `timesteps`.
        train: number of training steps of a schedule that has no such number.
        options: the ramp's own (rho, mu, ...).

    Raises:
        ValueError: no n different points, or ends that the rule or the schedule cannot have.
        TypeError: an option that the spacing does not have.
    """
    heeds, (top, low) = check_spacing(spacing, options), schedule.span
    if spacing in TIMES:
        train = getattr(schedule, "num_train_timesteps", train)
        whole = False if isinstance(schedule, Betas) else None
        times = timesteps(spacing, n, train, offset=steps_offset, whole=whole)
        stride = (top - low) / max(train - 1, 1)
        at = _log_linear if spacing in LOG_LINEAR else _linear
        points = [at(schedule, top - (train - 1 - t) * stride) for t in times]
    else:
        native = schedule.frame == "flow" and bool(heeds)
        first, last = (
            p.sigma if native else min(p.ratio, HIGHEST)
            for p in (schedule.at(t=top), schedule.at(t=low))
        )
        given = {"sigma_max": sigma_max or first, "sigma_min": sigma_min or last}
        ends = {ENDS[name]: given[name] for name in heeds}
        levels = RAMPS[spacing](check_count("num_inference_steps", n), **ends, **options).tolist()
        points = [schedule.at(sigma=v) if native else schedule.at(ratio=v) for v in levels]
    for a, b in itertools.pairwise(points):
        if not b.ratio < a.ratio:
            raise ValueError(
                f"{n} {spacing} levels are not all different: sigma/alpha goes from {a.ratio:g} to"
                f" {b.ratio:g}; use fewer steps, or other options of the spacing"
            )
    return points


def _linear(schedule: Schedule, t: float) -> Point:
    return schedule.at(t=t)


def _log_linear(schedule: Schedule, t: float) -> Point:
    """Return the point at t; between training steps it is log-linear in sigma / alpha."""
    w = t - math.floor(t)
    if w == 0.0 or not isinstance(schedule, Betas):
        return schedule.at(t=t)
    a, b = schedule.at(t=t - w), schedule.at(t=t - w + 1.0)
    return (
        schedule.at(t=t) if b.alpha == 0.0 else schedule.at(ratio=a.ratio ** (1 - w) * b.ratio**w)
    )


SHIFTS: dict[str, Callable[[float], float]] = {"exponential": math.exp, "linear": float}


def shifted(sigmas: Sequence[float] | np.ndarray, shift: float) -> np.ndarray:
    """Return flow sigmas moved to more noise, shift sigma / (shift sigma + 1 - sigma).

    arXiv:2403.03206, eq. 23. Dynamic shifting is the same with shift = SHIFTS[time_shift_type](mu).
    """
    sigma = np.asarray(sigmas, dtype=np.float64)
    return np.asarray(shift * sigma / (shift * sigma + (1 - sigma)))  # 1 stays 1


def stretched(sigmas: Sequence[float] | np.ndarray, terminal: float) -> np.ndarray:
    """Return flow sigmas stretched about 1 so that the last one is terminal (LTX-Video)."""
    away = 1 - np.asarray(sigmas, dtype=np.float64)
    if away[-1] == 0.0 or not 0.0 <= terminal < 1.0:
        raise ValueError(
            f"sigmas that end at {1 - away[-1]:g} cannot be stretched to end at {terminal:g}; both"
            " must lie in [0, 1)"
        )
    return np.asarray(1 - away * ((1 - terminal) / away[-1]))


def decreasing(
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


def host(values: Any) -> Any:
    """Return host numbers of a list or an array of any framework (read once, before the loop)."""
    detach = getattr(values, "detach", None)
    if detach is not None:
        values = detach().cpu()
    return values.get() if hasattr(values, "get") and hasattr(values, "device") else values
