"""How the configuration of a named scheduler becomes a plan."""

import contextlib
import inspect
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, ClassVar

import numpy as np

from .. import samplers, spacings
from .._messages import nearest
from ..plan import Plan, make_plan
from ..predictions import Prediction
from ..schedules import Point, Schedule
from ..spacings import Grid
from .config import ConfigMixin, FrozenDict

__all__ = ["PlanMixin", "check_kind", "check_option"]

Array = Any

# One value of the kind that options with the default None take.
KINDS: Mapping[str, Any] = {
    "sigma_min": 1.0,
    "sigma_max": 1.0,
    "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": 1.0,
    "variance_type": "",
    "mu": 1.0,
    "shift_terminal": 0.1,
    "original_inference_steps": 1,
    "num_train_timesteps": 1,
    "sampler_options": {},
    "schedule_options": {},
    "spacing_options": {},
}
MOST = 1_000_000  # steps, of training or of a run
LARGEST = 1e12  # its cube is still a float32


def check_kind(name: str, value: Any, default: Any) -> None:
    """Raise unless an option's value is of its default's kind, and a number within float32."""
    if default is None and value is not None:
        default = KINDS.get(name)
    if default is None or value is default:
        return
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a string, got {value!r}")
    elif isinstance(default, dict):
        if not isinstance(value, dict):
            raise TypeError(f"{name} must be a dict, got {value!r}")
    elif isinstance(default, int | float):
        kinds, kind = (int, "an integer") if isinstance(default, int) else (int | float, "a number")
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise TypeError(f"{name} must be {kind}, got {value!r}")
        if value != default and not abs(value) <= LARGEST:
            raise ValueError(f"{name} must be a finite number up to {LARGEST:g}, got {value!r}")


def check_option(name: str, value: Any, default: Any) -> None:
    """Do the same for a sampler's option, whose numbers are not negative."""
    check_kind(name, value, default)
    if isinstance(value, int | float) and value < 0:
        raise ValueError(f"{name} must not be negative, got {value}")


class PlanMixin(ConfigMixin):
    """A configuration that says which sampler, grid and prediction it means.

    Class attributes of a scheduler:
        options: constructor options and defaults, in the reference's order.
        grid_options: what `plan` takes beside the sampler's own options.
        whole_times: whether the network is conditioned on integers, where the grid has only such.
        renamed: options of the sampler that this class has under names of its own.
        limited: whether there can be no more steps than training steps.
        upward: whether it goes from data to noise (inversion): `_finish` turns the grid round, and
            explicit lists are increasing.
    """

    grid_options: ClassVar[tuple[str, ...]] = ()
    renamed: ClassVar[Mapping[str, str]] = {}
    whole_times: ClassVar[bool] = True
    limited: ClassVar[bool] = True
    upward: ClassVar[bool] = False

    # what a named class says

    def _validate(self, config: FrozenDict) -> None:
        """Raise where an option's value is of the wrong kind; classes add rules of their own."""
        for name, default in (*self.options.items(), *self.hidden_options.items()):
            # the field's files write null where a switch is off
            if not (config[name] is None and default is False):
                check_kind(name, config[name], default)
        spacings.check_count("num_train_timesteps", config.get("num_train_timesteps", 1), MOST)

    @abstractmethod
    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        """Return the sampler's registered name and its options for n steps."""

    @abstractmethod
    def _schedule(self, config: FrozenDict) -> Schedule:
        """Return the noise schedule."""

    @abstractmethod
    def _prediction(self, config: FrozenDict) -> Prediction:
        """Return what the network's output means."""

    @abstractmethod
    def _points(self, config: FrozenDict, n: int, **options: Any) -> list[Point]:
        """Return the n points where steps start."""

    def _last(self, config: FrozenDict, **options: Any) -> Point:
        """Return the point where the sample ends; options are the grid's, as for `_points`."""
        return self._schedule(config).point(0.0, 0.0)

    def _init_scale(self, config: FrozenDict, first: Point) -> float:
        """Return the scale of the noise a run starts from."""
        return 1.0

    def _finish(self, config: FrozenDict, grid: Grid) -> Grid:
        """Return the grid with what only this class knows of it."""
        return grid

    def _takes_strength(self, timesteps: Any, sigmas: Any) -> bool:
        """Whether this class's own spacing has used strength already."""
        return False

    # plans

    def _filled(self, config: Mapping[str, Any]) -> FrozenDict:
        """Return every option of this class; keys that a config keeps for others have no effect."""
        known = {**self.options, **self.hidden_options}
        return FrozenDict({name: config.get(name, value) for name, value in known.items()})

    @property
    def _options(self) -> FrozenDict:
        return self._filled(self.config)

    @property
    def _copies(self) -> bool:
        return self.compatibility == "diffusers"

    @property
    def schedule(self) -> Schedule:
        """The noise schedule of the present configuration."""
        return self._schedule(self._options)

    @property
    def prediction(self) -> Prediction:
        """What the network's output means, of the present configuration."""
        return self._prediction(self._options)

    def grid(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | Array | None = None,
        sigmas: Sequence[float] | Array | None = None,
        **options: Any,
    ) -> Grid:
        """Return the grid of a run, from a number of steps, or decreasing timesteps or sigmas."""
        given = {
            "num_inference_steps": num_inference_steps,
            "timesteps": timesteps,
            "sigmas": sigmas,
        }
        have = [name for name, value in given.items() if value is not None]
        if len(have) != 1:
            found = " and ".join(have) or "none"
            raise ValueError(f"pass exactly one of {', '.join(given)}; got {found}")
        config = self._options
        self._validate(config)  # `_internal_dict` may have been replaced
        schedule, last = self._schedule(config), self._last(config, **options)
        if num_inference_steps is not None:
            train = config.num_train_timesteps if self.limited else MOST
            why = ", the number of training steps" if self.limited else ""
            n = spacings.check_count("num_inference_steps", num_inference_steps, train, why)
            points = self._points(config, n, **options)
            ends = last.ratio > 0 and math.isclose(points[-1].ratio, last.ratio, rel_tol=1e-9)
            if ends and not self._copies:
                with contextlib.suppress(ValueError):  # there may be no n + 1 levels
                    points = self._points(config, n + 1, **options)[:-1]
                    ends = False
            if ends:  # a last step of length zero, exactly
                points[-1] = replace(last, t=points[-1].t)
        elif timesteps is not None:
            points = self._at_timesteps(config, self._entries("timesteps", timesteps), **options)
        else:
            levels = self._entries("sigmas", sigmas)
            if levels[-1] == 0.0:  # a list to the end says where that is
                last = schedule.point(0.0, 0.0)
            points = self._at_sigmas(config, levels, last, **options)
        scale = self._init_scale(config, points[0])
        integral = self.whole_times and all(p.t == int(p.t) for p in points)
        return self._finish(config, Grid((*points, last), schedule, scale, integral))

    def _entries(self, name: str, values: Any) -> list[float]:
        """Return an explicit list from noise to data; one of all evaluations becomes the steps."""
        items = list(values) if isinstance(values, range) else spacings.host(values)
        try:
            table = np.asarray(items, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be a list of numbers, got {values!r}") from error
        sampler = samplers.get(self._sampler(self._options, 1)[0])
        if sampler.evaluations > 1 and table.ndim == 1 and table.size:
            runs = [(value, len([*same])) for value, same in groupby(table.tolist())]
            # only as evaluations are listed: the first is of one step, later ones may be of two
            if runs[0][1] == 1 and all(count <= sampler.evaluations for _, count in runs):
                table = np.array([value for value, _ in runs])
        table = table[::-1] if self.upward and table.ndim else table
        if name == "sigmas" and table.ndim == 1 and math.inf in table[:1]:  # zero terminal SNR
            rest = spacings.decreasing(name, table[1:]) if table.size > 1 else []
            return [math.inf, *rest]
        return spacings.decreasing(name, table, reverse=self.upward)

    def _at_timesteps(
        self, config: FrozenDict, timesteps: list[float], **options: Any
    ) -> list[Point]:
        """Return the points at explicit timesteps."""
        if self.whole_times and any(t != int(t) for t in timesteps):
            raise ValueError(
                f"timesteps of {type(self).__name__} must be integers, got {timesteps}; pass sigmas"
                " for levels between"
            )
        schedule = self._schedule(config)
        return [schedule.at(t=t) for t in timesteps]

    def _at_sigmas(
        self, config: FrozenDict, sigmas: list[float], last: Point, **options: Any
    ) -> list[Point]:
        """Return the points at explicit sigmas; a last entry at the end is not doubled."""
        end = self._exposed(last)
        values = sigmas[:-1] if math.isclose(sigmas[-1], end, rel_tol=1e-6) else sigmas
        if not values or values[-1] <= end:
            way = "start" if self.upward else "end"
            raise ValueError(
                f"sigmas must {way} above {end:g}, where the sample {way}s; got {sigmas}"
            )
        schedule = self._schedule(config)
        if schedule.frame == "flow":
            return [schedule.at(sigma=s) for s in values]
        return [schedule.at(ratio=s) for s in values]

    def _exposed(self, point: Point) -> float:
        """Return a point's level as `sigmas` has it: sigma / alpha, in the flow frame sigma."""
        return point.sigma if self.schedule.frame == "flow" else point.ratio

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
            strength: the part of the steps to take, the last int(n * strength) (image to image;
                start with `init(plan, noise, x0=image)`), in an inversion the first ones.
            **options: the sampler's own (eta, s_churn, ...) and the grid's (as in `set_timesteps`).

        Raises:
            ValueError: not exactly one of the three; too many or too few steps; an order that is
                not decreasing; options whose coefficients are not finite.
            TypeError: an unknown option, or a value of the wrong kind.
        """
        config = self._options
        self._validate(config)
        known = samplers.get(self._sampler(config, 1)[0]).options
        options = {self.renamed.get(name, name): value for name, value in options.items()}
        for name, value in options.items():
            if name in known:
                check_option(name, value, known[name])
            elif name not in self.grid_options:
                own = (*self.grid_options, *self.renamed)
                have = (*inspect.signature(self.plan).parameters, *own, *known)
                raise TypeError(f"plan() has no option {name!r}{nearest(name, have)}")
        shaping = {k: options.pop(k) for k in self.grid_options if k in options}
        shaping = {k: v for k, v in shaping.items() if v is not None}
        for name, value in shaping.items():
            check_kind(name, value, None)
        check_kind("strength", strength, 1.0)
        if not 0.0 < strength <= 1.0:
            raise ValueError(f"strength must lie in (0, 1], got {strength}")
        if self._takes_strength(timesteps, sigmas):
            shaping["strength"] = strength
        try:
            with np.errstate(over="raise", divide="raise", invalid="raise"):
                grid = self.grid(num_inference_steps, timesteps=timesteps, sigmas=sigmas, **shaping)
                n = len(grid)
                if strength < 1.0 and not self._takes_strength(timesteps, sigmas):
                    kept = int(n * strength)
                    if kept == 0:
                        raise ValueError(
                            f"strength={strength} of {n} steps leaves none; use more steps or a"
                            " larger strength"
                        )
                    grid = grid.until(kept) if self.upward else grid.skip(n - kept)
                    scale = self._init_scale(config, grid.points[0])
                    grid = replace(grid, init_scale=scale)
                sampler, fixed = self._sampler(config, n)
                return make_plan(sampler, grid, self._prediction(config), {**fixed, **options})
        except ArithmeticError as error:
            raise ValueError(
                f"the coefficients of this configuration are not finite ({error}); its noise levels"
                " lie too far apart or too close together"
            ) from error
