"""Discretizations: where the steps of a run lie. Frozen values that make a grid.

A `Discretization` makes the grid of a number of steps, of explicit times or of explicit levels:

    TrainingSteps   spaced model times of a table ("leading", "trailing", "linspace")
    Ramp            noise levels between two ends ("karras", "exponential", ...)
    RampOfSteps     the same between the first and the last of spaced model times
    FlowSigmas      sigmas of a flow, shifted
    Spaced          any rule of `cmsched.spacings`

Each may be followed by functions of the grid: `where.then(Upward())`.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from . import checks, spacings
from .changes import Change, Quirk
from .frozen import FrozenDict
from .grids import Grid
from .schedules import Point, Schedule
from .spacings import SPACINGS

__all__ = [
    "Discretization",
    "FlowSigmas",
    "Ramp",
    "RampOfSteps",
    "Spaced",
    "TrainingSteps",
]

Array = Any
MOST = 1_000_000  # steps, of training or of a run

SAME = 1e-12  # how far entries of a list that are one number may be apart, by rounding


@dataclass(frozen=True, kw_only=True)
class Discretization:
    """Where the steps of a run start, and where the last one ends.

    Args:
        schedule: the noise levels of model times.
        end: the point where the sample ends.
        train: the number of training steps.
        limited: whether there can be no more steps than training steps.
        whole: whether the network knows whole model times only.
        repeats_end: whether a run whose last level is the end has a last step of length zero, as
            in the reference, in place of n steps that lead there.
        upward: whether runs go from data to noise (inversion); explicit lists then increase.
        evaluations: network calls per step, by which an explicit list of all of them is known.
        reading: what an explicit list of the user's means, a function of its name and values.
        quirks: what the reference does to the grid of a run, in turn.
        changes: what is done to every grid after that, in turn.
    """

    schedule: Schedule
    end: Point
    train: int = 1000
    limited: bool = False
    whole: bool = False
    repeats_end: bool = False
    upward: bool = False
    evaluations: int = 1
    reading: Callable[[str, Any], Any] | None = None
    quirks: tuple[Quirk, ...] = ()
    changes: tuple[Change, ...] = ()

    def then(self, change: Change) -> "Discretization":
        """Return this discretization with a change of its grids."""
        return replace(self, changes=(*self.changes, change))

    def with_quirk(self, quirk: Quirk) -> "Discretization":
        """Return this discretization with what the reference does to the grid of a run."""
        return replace(self, quirks=(*self.quirks, quirk))

    # what a kind of discretization says

    def points(self, n: int) -> list[Point]:
        """Return the n points where steps start, noisiest first."""
        raise ValueError(
            f"{type(self).__name__} has no rule for a number of steps; pass timesteps or sigmas"
        )

    def training(self) -> list[Point]:
        """Return the points where steps would start that visit all training steps."""
        return [self.schedule.at(t=float(t)) for t in range(self.train - 1, -1, -1)]

    def at_times(self, times: list[float]) -> list[Point]:
        """Return the points at explicit model times."""
        if self.whole and any(t != int(t) for t in times):
            raise ValueError(
                f"timesteps must be integers here, got {times}; pass sigmas for levels between"
            )
        return [self.schedule.at(t=t) for t in times]

    def at_levels(self, levels: list[float], end: Point) -> list[Point]:
        """Return the points at explicit levels; a last entry at the end is not doubled."""
        low = self.level(end)
        values = levels[:-1] if math.isclose(levels[-1], low, rel_tol=1e-6) else levels
        if not values or values[-1] <= low:
            way = "start" if self.upward else "end"
            raise ValueError(
                f"sigmas must {way} above {low:g}, where the sample {way}s; got {levels}"
            )
        return [self.at_level(value) for value in values]

    def entries(self, name: str, values: Any) -> list[float]:
        """Return an explicit list from noise to data; one of all evaluations becomes the steps."""
        values = values if self.reading is None else self.reading(name, values)
        items = list(values) if isinstance(values, range) else checks.host(values)
        try:
            table = np.asarray(items, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be a list of numbers, got {values!r}") from error
        if self.evaluations > 1 and table.ndim == 1 and table.size:
            table = self._of_steps(table)
        turned = self.turned(name)
        table = table[::-1] if turned and table.ndim else table
        if name == "sigmas" and table.ndim == 1 and math.inf in table[:1]:  # zero terminal SNR
            rest = checks.check_decreasing(name, table[1:]) if table.size > 1 else []
            return [math.inf, *rest]
        found = checks.check_decreasing(name, table, reverse=turned)
        return found[::-1] if turned != self.upward else found

    def turned(self, name: str) -> bool:
        """Return whether an explicit list increases, as it does in an inversion."""
        return self.upward

    def _of_steps(self, table: np.ndarray) -> np.ndarray:
        """Return a list with an entry of every evaluation as one of steps, others as they are.

        Entries are alike that differ by rounding; a final 0 may stand any number of times.
        """
        heads, counts = [table[0]], [1]
        for before, value in itertools.pairwise(table.tolist()):
            if math.isclose(before, value, rel_tol=SAME):
                counts[-1] += 1
            else:
                heads, counts = [*heads, value], [*counts, 1]
        inner = counts[:-1] if heads[-1] == 0.0 else counts
        # only as evaluations are listed: the first is of one step, later ones may be of two
        if counts[0] == 1 and all(count <= self.evaluations for count in inner):
            return np.array(heads)
        return table

    def ignored(self, timesteps: Any = None, sigmas: Any = None) -> tuple[str, ...]:
        """Return what has no effect on the grid of these lists, one sentence each."""
        return ()

    # levels as users see them

    def level(self, point: Point) -> float:
        """Return a point's level as `sigmas` has it: sigma / alpha, of a flow sigma.

        Of a flow whose time is rising it is 1 - sigma, as its network is told.
        """
        if self.schedule.frame != "flow":
            return point.ratio
        return point.alpha if getattr(self.schedule, "rising", False) else point.sigma

    def at_level(self, level: float) -> Point:
        """Return the point at a native sigma of a flow, of another frame at sigma / alpha."""
        name = "sigma" if self.schedule.frame == "flow" else "ratio"
        return self.schedule.at(**{name: level})

    # grids

    def grid(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | Array | None = None,
        sigmas: Sequence[float] | Array | None = None,
    ) -> Grid:
        """Return the grid of a run: exactly one of a number of steps, model times and levels.

        Raises:
            ValueError: none or several of them; too many steps; a list that does not go down (up,
                in an inversion), or past the end.
            TypeError: values of another kind.
        """
        given = {
            "num_inference_steps": num_inference_steps,
            "timesteps": timesteps,
            "sigmas": sigmas,
        }
        have = [name for name, value in given.items() if value is not None]
        if len(have) != 1:
            found = " and ".join(have) or "none"
            raise ValueError(f"pass exactly one of {', '.join(given)}; got {found}")
        (asked,), end = have, self.end
        if num_inference_steps is not None:
            most, why = MOST, ""
            if self.limited:
                most, why = self.train, ", the number of training steps"
            points = self._starts(
                checks.check_count("num_inference_steps", num_inference_steps, most, why)
            )
        elif timesteps is not None:
            points = self.at_times(self.entries("timesteps", timesteps))
        else:
            points, end = self.listed_levels(sigmas)
        return self.over((*points, end), asked=asked)

    def listed(self, sigmas: Any) -> tuple[list[float], bool]:
        """Return the entries of a list of levels, and whether its last one stands there twice."""
        table = np.asarray(checks.host(sigmas))
        if table.ndim != 1 or table.size < 3 or table.dtype.kind not in "fiu":
            return self.entries("sigmas", sigmas), False
        last, low = 0, self.level(self.end)
        for value in table[::-1].tolist():
            if not math.isclose(value, table[-1], rel_tol=SAME):
                break
            last += 1
        # of a step that goes nowhere, at the end, all evaluations are listed
        twice = last == 2 if self.evaluations == 1 else last > self.evaluations and low > 0
        if twice and (self.evaluations == 1 or math.isclose(table[-1], low, rel_tol=1e-6)):
            return self.entries("sigmas", table[: 1 - last]), True
        return self.entries("sigmas", sigmas), False

    def listed_levels(self, sigmas: Any) -> tuple[list[Point], Point]:
        """Return the points at explicit levels and the end: that of the list, if it has one.

        A list ends at 0, or where its last level stands twice, as `sigmas` may in the reference.
        """
        levels, twice = self.listed(sigmas)
        if not twice:
            end = self.schedule.point(0.0, 0.0) if levels[-1] == 0.0 else self.end
            return self.at_levels(levels, end), end
        points = [self.at_level(level) for level in levels]
        points = points[::-1] if self.upward else points
        end = replace(points[-1], t=self.end.t)
        return points if self.repeats_end else points[:-1], end

    def training_points(self) -> list[Point]:
        """Return the points of all training steps and the end, in the order of a run."""
        points = [*self.training(), self.end]
        for change in self.changes:
            points = change.listed(points)
        return points

    def over(self, points: Sequence[Point], *, asked: str | None = None) -> Grid:
        """Return the grid over the starts of steps and the end, with what changes it.

        asked: what a run was asked by; None where it is no run of the user's.
        """
        integral = self.whole and all(p.t == int(p.t) for p in points[:-1])
        grid = Grid(tuple(points), self.schedule, integral=integral)
        for quirk in self.quirks if asked else ():
            grid = quirk(grid, asked or "")
        for change in self.changes:
            grid = change(grid)
        return grid

    def _starts(self, n: int) -> list[Point]:
        """Return the points where n steps start, none at the end."""
        points, end = self.points(n), self.end
        if not (end.ratio > 0 and math.isclose(points[-1].ratio, end.ratio, rel_tol=1e-9)):
            return points
        if not self.repeats_end:
            with contextlib.suppress(ValueError):  # there may be no n + 1 levels
                return self.points(n + 1)[:-1]
        points[-1] = replace(end, t=points[-1].t)  # a last step of length zero, exactly
        return points

    def part(self, grid: Grid, strength: float) -> Grid:
        """Return the last int(n strength) steps of a run, in an inversion the first ones."""
        n = len(grid)
        kept = int(n * strength)
        if kept == 0:
            raise ValueError(
                f"strength={strength} of {n} steps leaves none; use more steps or a larger strength"
            )
        if kept == n:
            return grid
        return grid.until(kept) if self.upward else grid.skip(n - kept)


@dataclass(frozen=True, kw_only=True)
class TrainingSteps(Discretization):
    """Spaced model times among the training steps.

    Args:
        spacing: a spacing in time of `spacings.SPACINGS`.
        offset: added to "leading" times (`steps_offset`).
        among: spread steps over only so many of the first training steps.
        below: visit only training steps below this one.
        extra: leave out the lowest of n + 1 times, as the multistep family does.
        crowded: what to do where whole numbers do not suffice: "between" goes between them,
            "repeat" takes some of them twice, as in the reference, by steps of length zero.
        one_is_least: whether one "linspace" step starts at time 0, as in the reference.
    """

    spacing: str
    offset: int = 0
    among: int | None = None
    below: int | None = None
    extra: bool = False
    crowded: str | None = None
    one_is_least: bool = False

    def points(self, n: int) -> list[Point]:
        """Return the points at spaced times."""
        if n == 1 and self.spacing == "linspace" and self.one_is_least:
            return [self.schedule.at(t=0.0)]
        train = self.among or self.train
        rule: Any = {"last": self.below, "extra": self.extra, "offset": self.offset}
        try:
            times = spacings.timesteps(self.spacing, n, train, whole=self.whole, **rule)
        except ValueError:
            if self.crowded is None or n > 10 * train:
                raise
            times = spacings.timesteps(self.spacing, n, train, whole=False, **rule)
            times = [float(round(t)) for t in times] if self.crowded == "repeat" else times
        return [self.schedule.at(t=t) for t in times]


def no_times(rule: str) -> ValueError:
    """Return the error of explicit times where a rule places the levels."""
    return ValueError(
        f"timesteps cannot be set with {rule} sigmas; pass sigmas, or leave that option out"
    )


@dataclass(frozen=True, kw_only=True)
class Ramp(Discretization):
    """Noise levels between two ends.

    Args:
        rule: a name in `spacings.SPACINGS`.
        high: the first level, sigma / alpha.
        low: the last one.
        told: how the model time of a level is made whole, a name in TOLD; None leaves it.
    """

    rule: str
    high: float
    low: float
    told: str | None = None

    def points(self, n: int) -> list[Point]:
        """Return the points at the levels of the rule."""
        levels = SPACINGS[self.rule].rule(n, self.high, self.low)
        return retold([self.schedule.at(ratio=r) for r in levels.tolist()], self.told)

    def at_times(self, times: list[float]) -> list[Point]:
        """Raise: the rule places the levels."""
        raise no_times(self.rule)


@dataclass(frozen=True, kw_only=True)
class RampOfSteps(TrainingSteps):
    """Noise levels between the first and the last of spaced model times.

    Args:
        rule: a name in `spacings.SPACINGS`.
        high: the first level in place of that, sigma / alpha.
        low: the last one.
        told: how the model time of a level is made whole, a name in TOLD; None leaves it.
    """

    rule: str
    high: float | None = None
    low: float | None = None
    told: str | None = None

    def points(self, n: int) -> list[Point]:
        """Return the points at the levels of the rule."""
        spaced = super().points(n)
        ends = self.high or spaced[0].ratio, self.low or spaced[-1].ratio
        levels = SPACINGS[self.rule].rule(n, *ends)
        return retold([self.schedule.at(ratio=r) for r in levels.tolist()], self.told)

    def at_times(self, times: list[float]) -> list[Point]:
        """Raise: the rule places the levels."""
        raise no_times(self.rule)


TOLD: Mapping[str, Callable[[float], float]] = {"rounded": round, "cut": math.trunc}


def retold(points: list[Point], told: str | None) -> list[Point]:
    """Return points whose network is told whole model times, as the reference does."""
    return points if told is None else [replace(p, t=float(TOLD[told](p.t))) for p in points]


@dataclass(frozen=True, kw_only=True)
class FlowSigmas(Discretization):
    """Sigmas of a flow, even and then shifted: shift s / (1 + (shift - 1) s).

    arXiv:2403.03206, eq. 23. Explicit sigmas are those before the shift, as pipelines pass them; a
    list to the end, as `sigmas` is, has the levels themselves. In the reference one to 0 does not,
    and the network is asked there as well.

    Args:
        shift: 1 shifts nothing; None where it is dynamic and mu is not known yet.
        terminal: stretch the shifted sigmas about 1 to end there.
        mu: what a dynamic shift was made of, to say where it is without effect.
    """

    shift: float | None = 1.0
    terminal: float | None = None
    mu: float | None = field(default=None, compare=False)

    def even(self, n: int) -> np.ndarray:
        """Return n sigmas before the shift."""
        return np.linspace(1.0, 1.0 / self.train, n)

    @property
    def unsaid(self) -> str | None:
        """What shifts, and would be without effect, by its name; None where nothing does."""
        return "mu" if self.mu is not None else "shift" if self.shift not in (None, 1.0) else None

    def points(self, n: int) -> list[Point]:
        """Return the points at n shifted sigmas."""
        return self.at_sigmas(self.moved(self.even(n)))

    def moved(self, sigmas: np.ndarray) -> np.ndarray:
        """Return sigmas shifted and stretched."""
        if self.shift is None:
            raise ValueError(
                "use_dynamic_shifting needs mu=, the shift of this resolution; pipelines compute it"
                " from the image's size with base_shift and max_shift"
            )
        sigmas = spacings.shifted(sigmas, self.shift)
        return spacings.stretched(sigmas, self.terminal) if self.terminal else sigmas

    def at_sigmas(self, sigmas: np.ndarray) -> list[Point]:
        """Return the points at these sigmas."""
        return [self.schedule.at(sigma=s) for s in sigmas.tolist()]


@dataclass(frozen=True, kw_only=True)
class Spaced(Discretization):
    """Any rule of `cmsched.spacings` on any schedule.

    Args:
        spacing: a registered spacing, or a rule of one's own.
        spacing_options: its keywords.
        sigma_max: the first level of a ramp, by default the schedule's.
        sigma_min: the last one.
        offset: of "leading" times.
        shift: of the sigmas of a flow.
    """

    spacing: str | Callable[..., Any]
    spacing_options: Mapping[str, Any] = FrozenDict()
    sigma_max: float | None = None
    sigma_min: float | None = None
    offset: int = 0
    shift: float = 1.0

    def points(self, n: int) -> list[Point]:
        """Return the points of the rule."""
        points = spacings.place(
            self.spacing,
            n,
            self.schedule,
            train=self.train,
            sigma_max=self.sigma_max,
            sigma_min=self.sigma_min,
            steps_offset=self.offset,
            **self.spacing_options,
        )
        if self.shift != 1.0:
            levels = spacings.shifted([p.sigma for p in points], self.shift)
            points = [self.schedule.at(sigma=s) for s in levels.tolist()]
        low, end = points[-1].ratio, self.end.ratio
        if low < end * (1 - 1e-9):
            name = spacings.entry(self.spacing).name
            raise ValueError(
                f"{n} {name} steps go to sigma/alpha = {low:g}, below the {end:g} where the"
                " sample ends; use fewer steps, a smaller sigma_min or another spacing"
            )
        return points

    def at_times(self, times: list[float]) -> list[Point]:
        """Return the points at explicit model times, whole or not."""
        return [self.schedule.at(t=t) for t in times]

    def turned(self, name: str) -> bool:
        """Return whether an explicit list increases: in an inversion, or where time does."""
        high, low = self.schedule.span
        return self.upward != (name == "timesteps" and high < low)

    def training(self) -> list[Point]:
        """Return the points of training steps, even over the schedule's times if it has none."""
        train = getattr(self.schedule, "num_train_timesteps", self.train)
        return spacings.place("linspace", train, self.schedule, train=train)
