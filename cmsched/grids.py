"""The points that a sampler walks over, and one run of a loop over them."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from .schedules import Point, Schedule, make_schedule

__all__ = ["Grid", "GridRun"]


@dataclass(frozen=True)
class Grid:
    """The points a sampler walks over: n + 1 of them for n steps, noisiest first (or last).

    Args:
        points: the last one is where the sample ends (usually sigma = 0).
        schedule: makes points between them, `at(t= | sigma= | lam=)`.
        init_scale: the start is init_scale * noise.
        integral: whether the network is conditioned on integers.
        ends: where each step ends, if a rule of its own says so, and not the point the next one
            starts from (the reference's DDIM steps by a fixed stride).
        first_step: how many steps of a longer run come before the first point.
    """

    points: tuple[Point, ...]
    schedule: Schedule
    init_scale: float = 1.0
    integral: bool = False
    ends: tuple[Point, ...] | None = None
    first_step: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", tuple(self.points))
        object.__setattr__(self, "ends", self.ends and tuple(self.ends))
        if len(self.points) < 2:
            raise ValueError(f"a grid needs at least two points (one step), got {len(self.points)}")
        if self.ends is not None and len(self.ends) != len(self):
            raise ValueError(f"{len(self)} steps need as many ends, got {len(self.ends)}")
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
        return zip(self.points[:-1], self.ends or self.points[1:], strict=True)

    def at(self, **level: float) -> Point:
        """Return a point between the grid's: one of t, sigma, lam, ratio."""
        return self.schedule.at(**level)

    def skip(self, k: int) -> "Grid":
        """Return the rest of the grid from step k; its start scale is that point's sigma."""
        if not 0 <= k < len(self):
            raise ValueError(f"cannot skip {k} of {len(self)} steps; at least one must be left")
        if k == 0:
            return self
        ends = self.ends and self.ends[k:]
        return dataclasses.replace(
            self,
            points=self.points[k:],
            init_scale=self.init_scale if self.upward else self.points[k].sigma,
            ends=ends,
            first_step=self.first_step + k,
        )

    def until(self, k: int) -> "Grid":
        """Return the first k steps of the grid."""
        ends = self.ends and self.ends[:k]
        return dataclasses.replace(self, points=self.points[: k + 1], ends=ends)

    def to_dict(self) -> dict[str, Any]:
        """Return the grid as plain data; `Grid.from_dict` gives it back."""
        rows = [dataclasses.astuple(p) for p in self.points]
        ends = self.ends and [dataclasses.astuple(p) for p in self.ends]
        return {
            "points": rows,
            "schedule": self.schedule.to_dict(),
            "init_scale": self.init_scale,
            "integral": self.integral,
            "arrivals": ends,
            "skipped": self.first_step,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Grid":
        """Return the grid that `to_dict` wrote."""
        ends = data["arrivals"] and tuple(Point(*row) for row in data["arrivals"])
        points = tuple(Point(*row) for row in data["points"])
        schedule = make_schedule(**data["schedule"])
        options = (data["init_scale"], data["integral"], ends, data["skipped"])
        return cls(points, schedule, *options)


class Rest(Sequence[Point]):
    """The points from one of them on, without a copy."""

    def __init__(self, points: tuple[Point, ...], first: int) -> None:
        self._points, self._first = points, first

    def __len__(self) -> int:
        return len(self._points) - self._first

    @overload
    def __getitem__(self, key: int) -> Point: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[Point, ...]: ...

    def __getitem__(self, key: int | slice) -> Point | tuple[Point, ...]:
        if isinstance(key, slice):
            return self._points[self._first :][key]
        if not -len(self) <= key < len(self):
            raise IndexError(key)
        return self._points[key + self._first if key >= 0 else key]


class GridRun:
    """A grid as one run of a loop sees it: which step the loop is at, and what it counted.

    Args:
        grid: the grid of the whole run.
        first: the step at which this run begins.
    """

    def __init__(self, grid: Grid, first: int = 0) -> None:
        self.points: Sequence[Point] = Rest(grid.points, first) if first else grid.points
        self.at, self.schedule = grid.at, grid.schedule
        self._grid, self._first, self.step = grid, first, 0
        self.total = grid.first_step + len(grid)  # steps of the whole run
        self.counts: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self._grid) - self._first

    def at_time(self, t: float) -> Point:
        """Return the point at model time t, or at the whole one below where the grid has such."""
        # 1e-6: 0.7 * 700 is 490, and not the next float below
        return self.at(t=math.floor(t + 1e-6) if self._grid.integral else t)

    def steps(self) -> Iterator[tuple[Point, Point]]:
        """Yield the two ends of every step."""
        points, ends = self._grid.points, self._grid.ends
        for step in range(len(self)):
            self.step, at = step, step + self._first
            yield points[at], ends[at] if ends else points[at + 1]
