"""Points, frames, and what every schedule has."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import Named, check_choice, check_nonnegative

if TYPE_CHECKING:
    from ..levels import Levels

SCHEDULES: dict[str, type["Schedule"]] = Named(
    "The schedules by name, besides the tables of betas; `cmsched.schedules.register` adds one's"
    " own. `help(cmsched.Scheduler)` says what each is for."
)


@dataclass(frozen=True, slots=True)
class Point:
    """One noise level: time t, marginal x = alpha x0 + sigma eps, network input scale * x."""

    t: float
    alpha: float
    sigma: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        # Python floats raise where NumPy's divide by zero in silence
        for name in ("t", "alpha", "sigma", "scale"):
            if getattr(self, name).__class__ is not float:
                object.__setattr__(self, name, float(getattr(self, name)))
        finite = math.isfinite(self.t) and math.isfinite(self.scale)
        if not (finite and 0.0 <= self.alpha < math.inf and 0.0 <= self.sigma < math.inf):
            raise ValueError(
                f"no such noise level: t={self.t:g}, alpha={self.alpha:g}, sigma={self.sigma:g};"
                " both must be finite and at least 0"
            )
        if self.alpha == self.sigma == 0.0:
            raise ValueError(f"alpha and sigma are both 0 at t={self.t:g}")

    @property
    def lam(self) -> float:
        """Return log(alpha / sigma), infinite at either end."""
        if self.alpha == 0.0:
            return -math.inf
        return math.inf if self.sigma == 0.0 else math.log(self.alpha) - math.log(self.sigma)

    @property
    def ratio(self) -> float:
        """Return sigma / alpha, the noise level of the variance-exploding form."""
        return math.inf if self.alpha == 0.0 else self.sigma / self.alpha


def _vp(a: Any, s: Any, data: float, hypot: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    size = hypot(a, s)
    return a / size, s / size


def _trig(a: Any, s: Any, data: float, hypot: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    size = hypot(data * a, s)
    return data * a / size, data * (s / size)


# alpha and sigma of signal and noise in their proportion, sigma_data and hypot; numbers or arrays
FRAMES: dict[str, Callable[[Any, Any, float, Callable[[Any, Any], Any]], tuple[Any, Any]]] = {
    "vp": _vp,
    "ve": lambda a, s, data, hypot: (1.0, s / a),
    "flow": lambda a, s, data, hypot: (a / (a + s), s / (a + s)),
    "trig": _trig,
}


@dataclass(frozen=True)
class Schedule:
    """Base of all schedules: a curve gives `ratio_at(t)` and `time_at(ratio)`; `at` makes points.

    A curve that shall be used inside `jit` gives `parts_on` and `times_on` for arrays as well.

    Args:
        frame: "vp", "ve", "flow" or "trig", see `cmsched.schedules`.
        sigma_data: the network sees x / sqrt(alpha^2 sigma_data^2 + sigma^2); 0 for unscaled x.
    """

    frame: str = "vp"
    sigma_data: float = 0.0

    def __post_init__(self) -> None:
        check_choice("frame", self.frame, FRAMES)
        if check_nonnegative("sigma_data", self.sigma_data) == 0.0 and self.frame == "trig":
            raise ValueError('frame="trig" needs a sigma_data above 0; 0.5 is usual')
        _ = self._placed

    @property
    def top(self) -> float:
        """The native sigma where alpha is 0."""
        return {"ve": math.inf, "trig": self.sigma_data}.get(self.frame, 1.0)

    @property
    def span(self) -> tuple[float, float]:
        """Model times of the most and the least noise a grid starts steps from."""
        return 1.0, 1e-3

    def ratio_at(self, t: float) -> float:
        """Return sigma / alpha at model time t."""
        raise TypeError(
            f"{type(self).__name__} has no curve: subclass Schedule and define ratio_at"
        )

    def time_at(self, ratio: float) -> float:
        """Return the model time at which sigma / alpha equals ratio."""
        raise TypeError(f"{type(self).__name__} has no curve: subclass Schedule and define time_at")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let a curve of numbers alone not keep its parent's of arrays."""
        super().__init_subclass__(**kwargs)
        for number, array in (("ratio_at", "parts_on"), ("time_at", "times_on")):
            if number in vars(cls) and array not in vars(cls):
                setattr(cls, array, getattr(Schedule, array))

    # the curve on arrays, in the operations of `on`, see `cmsched.levels.Levels`

    @property
    def tables(self) -> Mapping[str, np.ndarray]:
        """The arrays that `parts_on` and `times_on` take from, by name."""
        return {}

    def parts_on(self, on: "Levels", t: Any) -> tuple[Any, Any]:
        """Return signal and noise in the proportion of alpha to sigma at times t, an array."""
        return on.parts(on.by_host(self.ratio_at, t))

    def times_on(self, on: "Levels", ratio: Any) -> Any:
        """Return the model times at ratios sigma / alpha, an array."""
        return on.by_host(self.time_at, ratio)

    def on(self, like: Any) -> "Levels":
        """Return the schedule for arrays: in the framework, on the device, in the dtype of `like`.

        Its methods `ratio(t)`, `alpha_sigma(t)` and `time(ratio)` take arrays of any shape, and
        numbers. It is kept for the next array like this one.
        """
        from ..levels import levels_on

        return levels_on(self, like, self._placed)

    @cached_property
    def _placed(self) -> dict[Any, "Levels"]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """Give the fields, and none of what was made of them."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the fields, and make of them what the constructor makes."""
        vars(self).update(state)
        self.__post_init__()

    def at(
        self,
        *,
        t: float | None = None,
        sigma: float | None = None,
        lam: float | None = None,
        ratio: float | None = None,
    ) -> Point:
        """Return the point at one of: model time, native sigma, lam, or ratio = sigma / alpha."""
        given = [v for v in (t, sigma, lam, ratio) if v is not None]
        if len(given) != 1:
            raise TypeError("at() takes exactly one of t, sigma, lam and ratio")
        if t is not None:
            return self.point(self.ratio_at(float(t)), float(t))
        if lam is not None:
            ratio = math.exp(-lam)
        elif sigma is not None:
            ratio = self.ratio_of_sigma(float(sigma))
        assert ratio is not None
        return self.point(float(ratio), self.time_at(float(ratio)))

    def slope(self, t: float) -> float:
        """Return d lam / dt at model time t, by a difference over what the curve has beside t."""
        step = 1e-5 * abs(self.span[0] - self.span[1])
        beside = []
        for time in (t - step, t, t + step):
            with contextlib.suppress(ValueError):  # past an end
                ratio = self.ratio_at(time)
                beside += [(time, math.log(ratio))] if 0 < ratio < math.inf else []
        if len(beside) < 2:
            raise ValueError(f"lam has no slope at t={t:g}")
        (t0, low), (t1, high) = beside[0], beside[-1]
        return (low - high) / (t1 - t0)

    def rates(self, at: Point) -> tuple[float, float]:
        """Return f and g^2 of the SDE dx = f x dt + g dw with these marginals, at a point.

        f = d log(alpha) / dt, g^2 = d sigma^2 / dt - 2 f sigma^2 = -2 sigma^2 d lam / dt.
        """
        slope = self.slope(at.t)
        part = at.sigma / self.top  # d log(alpha) / d lam is this or its square
        drift = {"ve": 0.0, "flow": part}.get(self.frame, part**2)
        return drift * slope, -2 * at.sigma**2 * slope

    def ratio_of_sigma(self, sigma: float) -> float:
        """Return sigma / alpha for this frame's own sigma."""
        if self.frame == "ve":
            return sigma
        top = self.top
        if not 0.0 <= sigma <= top:
            raise ValueError(
                f"sigma must lie in [0, {top:g}] in the {self.frame} frame, got {sigma}"
            )
        alpha = self.alpha_of_sigma(sigma)
        return math.inf if alpha == 0.0 else sigma / alpha

    def alpha_of_sigma(self, sigma: Any, sqrt: Callable[[Any], Any] = math.sqrt) -> Any:
        """Return alpha where this frame's own sigma is; numbers, or arrays and their sqrt."""
        if self.frame == "ve":
            return 1.0
        part = sigma / self.top
        return 1.0 - part if self.frame == "flow" else sqrt((1.0 - part) * (1.0 + part))

    def split(
        self, signal: Any, noise: Any, hypot: Callable[[Any, Any], Any] = math.hypot
    ) -> tuple[Any, Any]:
        """Return alpha and sigma in this proportion; numbers, or arrays and their hypot."""
        return FRAMES[self.frame](signal, noise, self.sigma_data, hypot)

    def input_scale(
        self, alpha: Any, sigma: Any, hypot: Callable[[Any, Any], Any] = math.hypot
    ) -> Any:
        """Return what the network's input is multiplied by; numbers, or arrays and their hypot."""
        return 1.0 / hypot(alpha * self.sigma_data, sigma) if self.sigma_data else 1.0

    def point(self, ratio: float, t: float) -> Point:
        """Return the point with this ratio, conditioned on model time t."""
        ratio = float(ratio)
        pure = ratio == math.inf
        if pure and not math.isfinite(t):
            raise ValueError(
                f"{type(self).__name__} never reaches alpha = 0; start at a finite sigma / alpha"
            )
        if pure and self.frame == "ve":
            raise ValueError(
                f"sigma is infinite at t={t:g} in the ve frame (zero terminal SNR); use the vp"
                " frame, or a terminal alpha_bar above 0"
            )
        parts = (0.0, 1.0) if pure else (1.0, ratio)
        alpha, sigma = FRAMES[self.frame](*parts, self.sigma_data, math.hypot)
        return Point(t, alpha, sigma, self.input_scale(alpha, sigma) if self.sigma_data else 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as plain data; `make_schedule(**data)` gives it back."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        for name, cls in SCHEDULES.items():
            if cls is type(self):
                return {"curve": name, **fields}
        raise TypeError(
            f"{type(self).__name__} has no name: give it one, cmsched.schedules.register"
        )


def check_size(num_train_timesteps: Any) -> None:
    """Raise unless this is a whole number of at least 1."""
    whole = isinstance(num_train_timesteps, int | np.integer)
    if not whole or isinstance(num_train_timesteps, bool):
        raise TypeError(f"num_train_timesteps must be an integer, got {num_train_timesteps!r}")
    if num_train_timesteps < 1:
        raise ValueError(f"num_train_timesteps must be at least 1, got {num_train_timesteps}")
