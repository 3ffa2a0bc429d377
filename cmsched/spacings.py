"""Which points to visit: model times or noise levels, on the host in float64, noisiest first.

`SPACINGS` has the rules by name: of times, over the training steps 0 ... N-1, and of noise levels,
between two of them or from a table; `register` adds one, and `place` puts points of any schedule by
any of them.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from . import ramps
from .checks import Named, check_choice, check_count, check_name, nearest
from .names import named
from .schedules import Betas, Point, Schedule

__all__ = [
    "SHIFTS",
    "SPACINGS",
    "Spacing",
    "check_spacing",
    "entry",
    "place",
    "register",
    "shifted",
    "stretched",
    "timesteps",
]


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


@dataclass(frozen=True, eq=False)
class Spacing:
    """A registry entry: a rule, and what its numbers are.

    Args:
        rule: in time `rule(n, train, *, last, extra)` returns n of the training steps 0 ... last
            - 1, highest first; otherwise `rule(n, high, low, **options)` returns n noise levels
            from high down to low. It may leave out last and extra, and ends that are its own.
        in_time: which of the two.
        named: whether the named classes take it as `timestep_spacing`.
        log_linear: whether levels between two training steps are log-linear in sigma / alpha.
    """

    rule: Callable[..., np.ndarray]
    in_time: bool = False
    named: bool = False
    log_linear: bool = False

    @cached_property
    def name(self) -> str:
        """The name that it is registered under, or the function's."""
        own = (name for name, entry in SPACINGS.items() if entry is self)
        return next(own, getattr(self.rule, "__name__", "spacing"))

    @cached_property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.rule).parameters

    @property
    def options(self) -> dict[str, float]:
        """Keywords of the rule and their defaults."""
        own = self._parameters.items()
        return {} if self.in_time else {k: p.default for k, p in own if p.kind is p.KEYWORD_ONLY}

    @property
    def heeds(self) -> set[str]:
        """What it heeds of sigma_max, sigma_min and steps_offset."""
        if self.in_time:
            return {"steps_offset"} if self.rule is leading else set()
        return {name for name, end in ENDS.items() if end in self._parameters}

    def times(self, n: int, train: int, last: int, extra: bool) -> np.ndarray:
        """Return the training steps of a rule in time."""
        given = {"last": last, "extra": extra}
        given = {name: value for name, value in given.items() if name in self._parameters}
        return np.asarray(self.rule(n, train, **given), dtype=np.float64)

    def levels(self, n: int, sigma_max: float, sigma_min: float, **options: float) -> np.ndarray:
        """Return the noise levels of a rule of levels, between ends that it may not heed."""
        given = {"sigma_max": sigma_max, "sigma_min": sigma_min}
        ends = {ENDS[name]: given[name] for name in self.heeds}
        return np.asarray(self.rule(n, **ends, **options), dtype=np.float64)


ENDS = {"sigma_max": "high", "sigma_min": "low"}  # options, and a rule's name for them

SPACINGS: dict[str, Spacing] = Named(
    "The spacings by name; `help(cmsched.Scheduler)` says what each is for.",
    {
        "linspace": Spacing(linspace, in_time=True, named=True),
        "leading": Spacing(leading, in_time=True, named=True),
        "trailing": Spacing(trailing, in_time=True, named=True),
        "simple": Spacing(simple, in_time=True),
        "ddim_uniform": Spacing(ddim_uniform, in_time=True),
        "normal": Spacing(linspace, in_time=True, log_linear=True),  # k-diffusion's linspace
        "sgm_uniform": Spacing(sgm_uniform, in_time=True, log_linear=True),
        "karras": Spacing(ramps.karras),
        "exponential": Spacing(ramps.exponential),
        "polyexponential": Spacing(ramps.polyexponential),
        "beta": Spacing(ramps.beta),
        "lu": Spacing(ramps.exponential),  # uniform in lam: the same under the solvers' name for it
        "laplace": Spacing(ramps.laplace),
        "kl_optimal": Spacing(ramps.kl_optimal),
        "vp": Spacing(ramps.vp),
        "linear_quadratic": Spacing(ramps.linear_quadratic),  # Mochi and LTX-Video
        "ipndm": Spacing(ramps.ipndm),
        **{name: Spacing(ramps.resampled(levels)) for name, levels in ramps.AYS.items()},
    },
)
OWN = frozenset(SPACINGS)


def register(
    name: str,
    rule: Callable[..., Any],
    *,
    in_time: bool = False,
    log_linear: bool = False,
) -> None:
    """Enter a rule of one's own under a name, for `cmsched.Scheduler(spacing=name)`.

    Args:
        name: none of those that are here already.
        rule: returns where steps start, noisiest first, see `Spacing`; its keywords with defaults
            are the `spacing_options`.
        in_time: whether these are training steps, otherwise noise levels.
        log_linear: see `Spacing`.

    Raises:
        TypeError: name is no string, or rule no function.
        ValueError: the name of another spacing.
    """
    check_name("spacing", name, OWN)
    if not callable(rule):
        raise TypeError(f"rule={rule!r} cannot be called: pass a function (n, high, low)")
    SPACINGS[name] = Spacing(rule, in_time=in_time, log_linear=log_linear)


def timesteps(
    spacing: str | Spacing,
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
        spacing: a name in SPACINGS, of a rule in time, or such an entry.
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
    if not isinstance(spacing, Spacing):
        check_choice("timestep_spacing", spacing, (k for k, v in SPACINGS.items() if v.in_time))
    rule, n = entry(spacing), check_count("num_inference_steps", n)
    spacing = rule.name
    top = train if last is None else last
    if spacing in ("leading", "ddim_uniform") and top < n + extra:
        raise ValueError(
            f"{n} {spacing} steps need at least {n + extra} training steps, got {top}; use fewer"
            " steps"
        )
    times = rule.times(n, train, top, extra)
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


def entry(spacing: Any) -> Spacing:
    """Return the spacing of a name, of a rule (n, high, low) of one's own, or itself.

    Raises:
        ValueError: an unknown name.
        TypeError: neither name nor rule.
    """
    if isinstance(spacing, Spacing):
        return spacing
    if callable(spacing):
        return _of_rule(spacing)
    if not isinstance(spacing, str):
        raise TypeError(f"spacing must be a name, or a function (n, high, low), got {spacing!r}")
    return SPACINGS[named("spacing", spacing, SPACINGS)]


@cache
def _of_rule(rule: Callable[..., Any]) -> Spacing:
    return next((known for known in SPACINGS.values() if known.rule is rule), Spacing(rule))


HIGHEST = 4096.0  # sigma / alpha of alpha_bar = 2^-24, in place of infinity, as the field has it


def check_spacing(spacing: Any, options: Mapping[str, Any]) -> set[str]:
    """Return what a spacing heeds of sigma_max, sigma_min and steps_offset.

    Raises:
        ValueError: an unknown spacing, or a number out of range.
        TypeError: an option that it does not have, or that is not a number.
    """
    found = entry(spacing)
    own = found.options
    for name, value in options.items():
        if name not in own:
            raise TypeError(f"spacing {found.name!r} has no option {name!r}{nearest(name, own)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} must be a number, got {value!r}")
        # one whose default is 0 is a place, the others are sizes
        if not (0.0 < value < 1e12 or (own[name] == 0.0 and abs(value) < 1e12)):
            raise ValueError(f"{name} must be a positive, finite number, got {value!r}")
    return found.heeds


def place(
    spacing: str | Spacing | Callable[..., Any],
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
        spacing: a name in SPACINGS, or a rule of one's own, see `entry`.
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
    found, n = entry(spacing), check_count("num_inference_steps", n)
    if top == low and n > 1:
        raise ValueError(
            f"the schedule has one training step, which has no {n} levels; a flow on t in [0, 1] is"
            ' schedule_options={"length": 1.0} with the usual num_train_timesteps=1000'
        )
    if found.in_time:
        train = getattr(schedule, "num_train_timesteps", train)
        whole = False if isinstance(schedule, Betas) else None
        times = timesteps(found, n, train, offset=steps_offset, whole=whole)
        stride = (top - low) / max(train - 1, 1)
        at = _log_linear if found.log_linear else _linear
        points = [at(schedule, top - (train - 1 - t) * stride) for t in times]
    else:
        native = schedule.frame == "flow" and bool(heeds)

        def own(t: float) -> float:
            return schedule.at(t=t).sigma if native else min(schedule.ratio_at(t), HIGHEST)

        ends = sigma_max or own(top), sigma_min or own(low)
        levels = found.levels(n, *ends, **options).tolist()
        points = [schedule.at(sigma=v) if native else schedule.at(ratio=v) for v in levels]
    if len(points) != n:
        raise ValueError(
            f"spacing {found.name!r} gave {len(points)} points where {n} were asked for"
        )
    for a, b in itertools.pairwise(points):
        if not b.ratio < a.ratio:
            raise ValueError(
                f"{n} {found.name} levels are not all different: sigma/alpha goes from {a.ratio:g}"
                f" to {b.ratio:g}; use fewer steps, or other options of the spacing"
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


SHIFTS: dict[str, Callable[[float], float]] = Named(
    "What mu of dynamic shifting becomes, by name: e^mu, or mu itself.",
    {"exponential": math.exp, "linear": float},
)


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
