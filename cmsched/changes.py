"""Changes of the grid of a run, and what the reference does to it."""

import itertools
from dataclasses import dataclass, replace
from typing import Protocol

from .grids import Grid
from .schedules import Point

__all__ = ["Change", "Quirk", "Strided", "Upward"]


class Change(Protocol):
    """A change of every grid that a discretization makes."""

    def __call__(self, grid: Grid) -> Grid:
        """Return the grid changed."""

    def listed(self, points: list[Point]) -> list[Point]:
        """Return the starts of steps and the end as they are then; no grid, for any levels."""


class Quirk(Protocol):
    """What the reference does to the grid of a run, and would not by the paper."""

    def __call__(self, grid: Grid, asked: str) -> Grid:
        """Return the grid changed; `asked` names what the run was asked by, as in `grid`."""


@dataclass(frozen=True)
class Strided:
    """Steps end a fixed stride below their timestep, whatever comes next, as the reference's do.

    Past timestep 0 they end where the sample ends. The first `warm` steps of a run of more are left
    as they are. The steps of a list, which the reference does not take, go to its next entry.
    """

    train: int
    warm: int = 0

    def __call__(self, grid: Grid, asked: str) -> Grid:
        """Return the grid with the ends of its steps."""
        if asked != "num_inference_steps":
            return grid
        stride, last = self.train // len(grid), grid.points[-1]
        ends = [p.t - stride for p in grid.points[:-1]]
        found = tuple(grid.at(t=t) if t >= 0 else last for t in ends)
        if self.warm and len(grid) > self.warm:
            found = grid.points[1 : 1 + self.warm] + found[self.warm :]
        return replace(grid, ends=found)


@dataclass(frozen=True)
class Upward:
    """The steps of a run taken from data to noise; the network is told where each one goes."""

    def __call__(self, grid: Grid) -> Grid:
        """Return the grid turned round."""
        steps = [*grid.steps()][::-1]
        starts = [replace(low, t=high.t) for high, low in steps]
        ends = tuple(high for high, _ in steps)
        return replace(grid, points=(*starts, ends[-1]), ends=ends)

    def listed(self, points: list[Point]) -> list[Point]:
        """Return the points turned round."""
        pairs = [*itertools.pairwise(points)][::-1]
        return [*(replace(low, t=high.t) for high, low in pairs), points[0]]
