"""How the options of a named scheduler become a recipe, plans, and times."""

import copy
import functools
import inspect
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np

from .. import samplers
from ..backends import resolve
from ..checks import nearest
from ..engine.checks import check_like
from ..grids import Grid
from ..levels import Levels
from ..plan import Plan
from ..predictions import Prediction
from ..recipe import Recipe, finite
from ..schedules import Schedule
from .config import ConfigMixin
from .options import RULES, check_kind, check_step_option
from .timeline import Timeline, along, times_beside, tolerance

__all__ = ["TIMES", "UNSET", "PlanMixin", "by_name", "like_single", "mix", "signed"]

Array = Any
UNSET = inspect.Parameter.empty
# the last recipe of a scheduler and what it was made of, beside it: asking changes no scheduler
RECIPES: WeakKeyDictionary[Any, tuple[Any, Recipe]] = WeakKeyDictionary()
SINGLE = "float32"  # what the reference draws some noise in, whatever the sample is of
# what people call the number of steps
COUNTS = dict.fromkeys(("steps", "num_steps", "n_steps", "n"), "num_inference_steps")
TIMES: Mapping[str, Any] = {"num_inference_steps": None, "device": None}  # of `set_timesteps`


def by_name(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str], method: str
) -> dict[str, Any]:
    """Return positional arguments under their names."""
    if len(args) > len(names):
        raise TypeError(f"{method}() takes {len(names)} arguments by position, got {len(args)}")
    given = dict(zip(names, args, strict=False))
    if twice := given.keys() & kwargs.keys():
        raise TypeError(f"{method}() got {', '.join(sorted(twice))} both by position and by name")
    return given | kwargs


def signed(
    function: Callable[..., Any],
    names: Sequence[str],
    options: Mapping[str, Any],
    extra: Sequence[str],
) -> Any:
    """Return a copy of a method whose signature shows these parameters, for code that looks."""
    p = inspect.Parameter
    shown = [p(name, p.POSITIONAL_OR_KEYWORD) for name in ("self", *names)]
    shown += [p(k, p.POSITIONAL_OR_KEYWORD, default=v) for k, v in options.items()]
    shown += [p(k, p.KEYWORD_ONLY, default=None) for k in extra if k not in options]
    parts = function.__code__, function.__globals__, function.__name__
    twin = types.FunctionType(*parts, function.__defaults__, function.__closure__)
    twin.__doc__, twin.__qualname__ = function.__doc__, function.__qualname__
    twin.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    return twin


@functools.cache
def run_options(meaning: Callable[..., Recipe]) -> tuple[str, ...]:
    """Return the keywords that a recipe takes of a run, beside the configuration."""
    parameters = inspect.signature(meaning).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def like_single(like: Array) -> Array:
    """Return an array in float32, what noise that is drawn in float32 is like."""
    backend = resolve(like)
    return backend.astype(like, backend.dtype(SINGLE))


class PlanMixin(ConfigMixin):
    """A configuration that means a recipe, and a run of it.

    Class attributes of a scheduler, beside those of `ConfigMixin`:
        meaning: the function (filled config, whether as the reference, options of the run) that
            returns the recipe.
        timesteps_options: what `set_timesteps` takes, in the reference's order.
        renamed: options of the sampler that this class has under names of its own.
        order: evaluations per requested step, as the reference counts them.
        ready: whether a new object is at the start of a run over all training steps.
        entries_are: whether `timesteps` has an entry per network evaluation ("evaluations") or per
            step ("steps").
        training_entries_are: the same before `set_timesteps`, of all training steps.
        sigmas_are: whether `sigmas` has a level per entry ("entries") or both ends of every step
            ("ends").
    """

    meaning: ClassVar[Callable[..., Recipe]]
    rules = RULES
    timesteps_options: ClassVar[Mapping[str, Any]] = {"num_inference_steps": UNSET, "device": None}
    renamed: ClassVar[Mapping[str, str]] = {}
    order: ClassVar[int] = 1
    ready: ClassVar[bool] = False
    entries_are: ClassVar[str] = "evaluations"
    training_entries_are: ClassVar[str] = "steps"
    sigmas_are: ClassVar[str] = "entries"

    custom_timesteps: bool = False
    timeline: Timeline | None = None  # of the present run
    said: frozenset[str] = frozenset()  # warnings that were given
    changed_since: Mapping[str, Any] = {}  # what methods set in place of options

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the class `set_timesteps` with its own signature."""
        super().__init_subclass__(**kwargs)
        base = PlanMixin  # a method of the class's own, or of a parent, stays as it is
        if cls.set_timesteps.__code__ is base.set_timesteps.__code__:
            options, extra = cls.timesteps_options, ["timesteps", "sigmas", "xp"]
            cls.set_timesteps = signed(base.set_timesteps, (), options, extra)  # type: ignore[method-assign]

    # what the configuration means

    @property
    def as_reference(self) -> bool:
        """Whether numbers are those of the reference, also where it departs from the paper."""
        return self.compatibility == "diffusers"

    def recipe(self, **run: Any) -> Recipe:
        """Return what the present configuration means: a frozen value that prints.

        Args:
            **run: options of the run that say where its steps lie (mu, original_inference_steps,
                ...), as in `plan`.

        Raises:
            ValueError, TypeError: a value that an option cannot have; an unknown option.
        """
        key = self.filled_config, self.as_reference, self.changed_since, run
        kept = RECIPES.get(self)
        if kept is not None and kept[0] == key:
            return kept[1]
        config = self.filled_config
        self.check(config)  # `_internal_dict` may have been replaced
        meaning = type(self).meaning
        known = run_options(meaning)
        for name, value in run.items():
            if name not in known:
                raise TypeError(f"recipe() has no option {name!r}{nearest(name, known)}")
            check_kind(name, value, None)
        config = self.meant(config)
        if self.changed_since:
            config = type(config)({**config, **self.changed_since})
        with finite():
            recipe = meaning(config, self.as_reference, **run)
        RECIPES[self] = key, recipe
        return recipe

    @property
    def schedule(self) -> Schedule:
        """The noise schedule of the present configuration."""
        return self.recipe().discretization.schedule

    @property
    def prediction(self) -> Prediction:
        """What the network's output means, of the present configuration."""
        return self.recipe().prediction

    def grid(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | Array | None = None,
        sigmas: Sequence[float] | Array | None = None,
        **options: Any,
    ) -> Grid:
        """Return the grid of a run; arguments as in `plan`, of which options are the grid's."""
        recipe = self.recipe(**options)
        return recipe.grid(num_inference_steps, timesteps=timesteps, sigmas=sigmas)

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
        placing = run_options(type(self).meaning)
        run = {k: options.pop(k) for k in placing if k in options}
        run = {k: v for k, v in run.items() if v is not None}
        check_kind("strength", strength, 1.0)
        if not 0.0 < strength <= 1.0:
            raise ValueError(f"strength must lie in (0, 1], got {strength}")
        if "strength" in placing and timesteps is None and sigmas is None:
            run["strength"], strength = strength, 1.0
        recipe = self.recipe(**run)
        known = samplers.get(recipe.sampler).options
        options = {self.renamed.get(name, name): value for name, value in options.items()}
        for name, value in options.items():
            if name not in known:
                own = (*placing, *self.renamed)
                have = {*inspect.signature(self.plan).parameters, *own, *known} - {"options"}
                meant = COUNTS.get(name, name)
                raise TypeError(f"plan() has no option {name!r}{nearest(meant, have)}")
            check_step_option(name, value, known[name])
        lists = {"timesteps": timesteps, "sigmas": sigmas}
        plan = recipe.plan(num_inference_steps, **lists, strength=strength, **options)
        for text in (*recipe.idle, *recipe.discretization.ignored(**lists)):
            self.say_once(text)
        return plan

    # the run

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Set the discrete times of a run, before the loop.

        Exactly one of `num_inference_steps`, `timesteps` and `sigmas`, the lists decreasing;
        `device`: where `timesteps` go (a string or torch.device means PyTorch, a JAX or CuPy device
        its framework); `xp`: their framework, a name or namespace, by default the constructor's,
        else the device's, else NumPy; and the options of `plan`.

        Raises:
            ValueError, TypeError: see `plan`; the scheduler is unchanged then.
        """
        kwargs = by_name(args, kwargs, tuple(self.timesteps_options), "set_timesteps")
        device, xp = kwargs.pop("device", None), kwargs.pop("xp", None)
        backend = self.framework(device, xp)
        plan = self.plan(kwargs.pop("num_inference_steps", None), **kwargs)
        timeline = self.timeline_of(plan)
        self.set_times(backend, timeline.times, device)
        self.restart(timeline)
        self.custom_timesteps = kwargs.get("timesteps") is not None

    def timeline_of(self, plan: Plan) -> Timeline:
        """Return the entries that `timesteps` has of a plan."""
        each = {"evaluations": Timeline.of_evaluations, "steps": Timeline.of_steps}
        return each[self.entries_are](plan)

    def restart(self, timeline: Timeline | None) -> None:
        """Begin a run over these entries, or none."""
        self.timeline = timeline
        self.num_inference_steps = None if timeline is None else len(timeline.plan.grid)

    def with_plan(self, plan: Plan | None) -> Any:
        """Return a copy of this scheduler at the beginning of a run of a plan, or of none."""
        at = copy.copy(self)
        at.restart(None if plan is None else at.timeline_of(plan))
        at._timesteps = None if at.timeline is None else at.timeline.times
        return at

    def required(self) -> Timeline:
        """Return the entries of the run; ValueError before `set_timesteps`."""
        if self.timeline is None:
            if not self.ready:
                raise ValueError(
                    "the scheduler has no timesteps yet: call set_timesteps(num_inference_steps)"
                    " before the loop"
                )
            self.timeline = self.timeline_of(self.recipe().training_plan())
        return self.timeline

    @property
    def timesteps(self) -> Array:
        """Model times, one per entry; before `set_timesteps` all training steps, if it has such."""
        if self._timesteps is not None or "num_train_timesteps" not in self.options:
            return self._timesteps
        recipe = self.recipe()
        if self.training_entries_are == "evaluations":
            return self.show(recipe.training_plan().timesteps)
        times = np.array([p.t for p in recipe.discretization.training_points()[:-1]])
        whole = recipe.discretization.whole and not np.any(times % 1)
        return self.show(times.astype(np.int64) if whole else times)

    @property
    def init_noise_sigma(self) -> float:
        """The scale of the unit normal noise a run starts from."""
        if self.timeline is None:
            recipe = self.recipe()
            return recipe.start(recipe.discretization.training_points()[0])
        plan = self.timeline.plan
        start = [c for _, c, _ in plan.start.terms]
        if self.entries_are == "steps":  # their first draw is the caller's
            return plan.grid.init_scale
        return float(np.hypot.reduce([plan.grid.init_scale * start[0], *start[1:]]))

    def say_once(self, text: str) -> None:
        """Warn, if this was not said of this scheduler."""
        if text not in self.said:
            warnings.warn(f"{type(self).__name__}: {text}", stacklevel=3)
            self.said = self.said | {text}

    # noise levels at any time

    def alpha_sigma(self, like: Array, timesteps: Any) -> tuple[Array, Array]:
        """Return alpha and sigma at timesteps, one, or one per row or frame, to multiply `like`.

        At the times of the run's entries they are those of its points, elsewhere the schedule's.
        """
        if resolve(like).compiling() and self not in RECIPES:
            raise RuntimeError(
                "the schedule is made at the first call, which torch.compile cannot trace: call"
                " add_noise or get_velocity of this scheduler once before, outside of it"
            )
        if self.timeline is None:
            schedule, own = self.schedule, np.zeros((3, 0))
        else:
            schedule, own = self.timeline.plan.grid.schedule, self.timeline.own_levels

        def check(host: np.ndarray) -> None:
            for t in np.unique([host.min(), host.max()]).tolist() if host.size else []:
                if np.any(np.abs(own[0] - t) <= tolerance(t)):
                    continue
                try:
                    ratio = schedule.at(t=t).ratio
                    if Levels.huge < ratio < np.inf:  # of a schedule that goes on for ever
                        raise ValueError(f"sigma / alpha would be {ratio:g} at {t:g}")
                except (ValueError, OverflowError) as error:
                    low, high = sorted(schedule.span)
                    raise ValueError(
                        f"timesteps must lie in [{low:g}, {high:g}], got {timesteps}: {error}"
                    ) from error

        backend, t = resolve(like), times_beside(like, timesteps, check)
        alpha, sigma = schedule.on(like).alpha_sigma(t)
        if own.size:
            assert self.timeline is not None
            nearest_own, here = self.timeline.nearest_own(like, t)
            alpha = backend.where(here, nearest_own[0], alpha)
            sigma = backend.where(here, nearest_own[1], sigma)
        return along(like, alpha), along(like, sigma)

    def add_noise(self, original_samples: Array, noise: Array, timesteps: Any) -> Array:
        """Return alpha x0 + sigma noise at timesteps: one, or (batch,), or (batch, frames) of them.

        Any framework, inside jit too; noise is like original_samples. Timesteps outside of the
        schedule raise ValueError where they are in host memory; on a device they are clipped.
        """
        alpha, sigma = self.alpha_sigma(original_samples, timesteps)
        return mix(original_samples, noise, alpha, sigma)

    def get_velocity(self, sample: Array, noise: Array, timesteps: Any) -> Array:
        """Return v = alpha noise - sigma sample, where alpha^2 + sigma^2 = 1; see `add_noise`."""
        alpha, sigma = self.alpha_sigma(sample, timesteps)
        size = resolve(sample).xp.sqrt(alpha * alpha + sigma * sigma)
        return mix(sample, noise, -sigma / size, alpha / size)

    def __len__(self) -> int:
        """Return the number of training steps."""
        return int(self.filled_config.num_train_timesteps)


def mix(x: Array, noise: Array, a: Array, b: Array) -> Array:
    """Return a x + b noise, in the dtype of x."""
    backend = resolve(x)
    check_like(backend, x, "noise", noise)
    mixed = backend.combine([x, noise], [a, b], backend.accumulation(x.dtype))
    return backend.astype(mixed, x.dtype)
