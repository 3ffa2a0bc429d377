"""Recipe: what a configuration means. Options become a recipe, and a recipe becomes plans."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from inspect import isfunction
from typing import Any

import numpy as np

from .discretizations import Discretization
from .frozen import FrozenDict
from .grids import Grid
from .plan import Plan, make_plan
from .predictions import Prediction
from .schedules import Point

__all__ = ["Fixed", "OnShortRuns", "Recipe", "Start", "finite"]

Array = Any


@dataclass(frozen=True)
class Start:
    """The scale of the unit normals that a run starts from, by its first point.

    Args:
        rule: "unit", where samples are of size 1; "sigma"; "spread", sqrt(alpha^2 + sigma^2), the
            size of a sample of unit data; "native", that where alpha is below 1, else sigma.
    """

    rule: str

    def __call__(self, first: Point) -> float:
        """Return the scale."""
        size = math.hypot(first.alpha, first.sigma)
        rules = {
            "unit": 1.0,
            "sigma": first.sigma,
            "spread": size,
            "native": size if first.alpha < 1.0 else first.sigma,
        }
        return rules[self.rule]


@dataclass(frozen=True)
class Fixed:
    """One scale, where the first point's sigma is this level; elsewhere sigma.

    Without a level it is the scale of every run.
    """

    scale: float
    sigma: float | None = None

    def __call__(self, first: Point) -> float:
        """Return the scale."""
        return self.scale if self.sigma in (None, first.sigma) else first.sigma


@dataclass(frozen=True)
class OnShortRuns:
    """A sampler's option that is on in runs of fewer steps than this."""

    below: int

    def __call__(self, grid: Grid) -> bool:
        """Return whether a run is short."""
        return len(grid) < self.below


@contextmanager
def finite() -> Iterator[None]:
    """Let numbers that overflow be an error that says of what."""
    try:
        with np.errstate(over="raise", divide="raise", invalid="raise"):
            yield
    except ArithmeticError as error:
        raise ValueError(
            f"the coefficients of this configuration are not finite ({error}); its noise levels"
            " lie too far apart or too close together"
        ) from error


def written(value: Any) -> str:
    """Return the text of a value, of dataclasses without what is their default."""
    if isinstance(value, tuple):
        return f"({''.join(f'{written(v)}, ' for v in value)[:-1]})"
    if isfunction(value):
        return value.__name__
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    shown = []
    for f in fields(value):
        found = getattr(value, f.name)
        if found is not f.default and found != f.default:
            shown.append(f"{f.name}={written(found)}")
    return f"{type(value).__name__}({', '.join(shown)})"


@dataclass(frozen=True, repr=False)
class Recipe:
    """What a configuration means: a sampler, where its steps lie, what the network says.

    A recipe prints as what it means, and two configurations that mean the same have equal recipes.

    Args:
        sampler: a registered name (`cmsched.samplers.REGISTRY`).
        discretization: where steps lie, on which schedule, and where they end.
        prediction: what the network's output is.
        options: the sampler's options; one that depends on the run is a function of its grid.
        start: the scale of the unit normals that a run starts from, a function of its first point.
        idle: options of the configuration that have no effect on this recipe, one sentence each.
    """

    sampler: str
    discretization: Discretization
    prediction: Prediction
    options: Mapping[str, Any] = FrozenDict()
    start: Callable[[Point], float] = Start("unit")
    idle: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", FrozenDict(self.options))

    def __repr__(self) -> str:
        """Show what is not as by default."""
        return written(self)

    def grid(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | Array | None = None,
        sigmas: Sequence[float] | Array | None = None,
    ) -> Grid:
        """Return the grid of a run; see `Discretization.grid`."""
        grid = self.discretization.grid(num_inference_steps, timesteps=timesteps, sigmas=sigmas)
        return replace(grid, init_scale=self.start(grid.points[0]))

    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | Array | None = None,
        sigmas: Sequence[float] | Array | None = None,
        strength: float = 1.0,
        **options: Any,
    ) -> Plan:
        """Return the plan of a run.

        Args:
            num_inference_steps: the number of steps; exactly one of this and the next two.
            timesteps: explicit model times, decreasing.
            sigmas: explicit noise levels, decreasing.
            strength: the part of the steps to take, the last int(n * strength) (image to image), in
                an inversion the first ones.
            **options: of the sampler, in place of the recipe's.

        Raises:
            ValueError, TypeError: see `Discretization.grid` and `make_plan`; coefficients that are
                not finite.
        """
        with finite():
            whole = self.grid(num_inference_steps, timesteps=timesteps, sigmas=sigmas)
            return self.over(whole, strength, **options)

    def over(self, grid: Grid, strength: float = 1.0, **options: Any) -> Plan:
        """Return the plan over a grid, or over its last part."""
        fixed = {k: v(grid) if callable(v) else v for k, v in self.options.items()}
        if strength < 1.0:
            part = self.discretization.part(grid, strength)
            grid = replace(part, init_scale=self.start(part.points[0]))
        return make_plan(self.sampler, grid, self.prediction, {**fixed, **options})

    def training_plan(self) -> Plan:
        """Return the plan over all training steps."""
        where = self.discretization
        grid = where.over((*where.training(), where.end))
        return self.over(replace(grid, init_scale=self.start(grid.points[0])))
