"""Noise schedules: model time t <-> noise level, on the host in float64.

A schedule is a *curve* (t <-> ratio, where ratio = sigma / alpha = exp(-lam)) and a *frame*, which says how the
ratio is split into the two coefficients of the marginal x = alpha x0 + sigma eps:

    vp    alpha = 1 / sqrt(1 + ratio^2)    sigma = ratio alpha    (alpha^2 + sigma^2 = 1)
    ve    alpha = 1                        sigma = ratio
    flow  alpha = 1 / (1 + ratio)          sigma = ratio alpha    (alpha + sigma = 1)

Every sampler runs in every frame; samples of two frames differ by the factor between their alphas.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ._messages import choose, nearest

__all__ = [
    "BETA_SCHEDULES",
    "SCHEDULES",
    "Betas",
    "Flow",
    "Logarithmic",
    "Point",
    "Schedule",
    "VESDE",
    "VPSDE",
    "betas",
    "make_schedule",
    "rescale_zero_terminal_snr",
]


@dataclass(frozen=True, slots=True)
class Point:
    """One noise level: model time t, marginal x = alpha x0 + sigma eps, network input scale * x."""

    t: float
    alpha: float
    sigma: float
    scale: float = 1.0

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


FRAMES: dict[str, Callable[[float], tuple[float, float]]] = {
    "vp": lambda r: (0.0, 1.0) if math.isinf(r) else (1 / math.hypot(1, r), r / math.hypot(1, r)),
    "ve": lambda r: (1.0, r),
    "flow": lambda r: (0.0, 1.0) if math.isinf(r) else (1 / (1 + r), r / (1 + r)),
}


@dataclass(frozen=True)
class Schedule:
    """Base of all schedules: a curve gives `ratio_at(t)` and `time_at(ratio)`; `at` makes points.

    Args:
        frame: "vp", "ve" or "flow", see the module's first lines.
        sigma_data: the network sees x / sqrt(alpha^2 sigma_data^2 + sigma^2); 0 for an unscaled x.
    """

    frame: str = "vp"
    sigma_data: float = 0.0

    def __post_init__(self) -> None:
        choose("frame", self.frame, FRAMES)

    def ratio_at(self, t: float) -> float:
        """Return sigma / alpha at model time t."""
        raise TypeError(f"{type(self).__name__} has no curve: subclass Schedule and define ratio_at")

    def time_at(self, ratio: float) -> float:
        """Return the model time at which sigma / alpha equals ratio."""
        raise TypeError(f"{type(self).__name__} has no curve: subclass Schedule and define time_at")

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

    def ratio_of_sigma(self, sigma: float) -> float:
        """Return sigma / alpha for this frame's own sigma."""
        if self.frame == "ve":
            return sigma
        if not 0.0 <= sigma <= 1.0:
            raise ValueError(f"sigma must lie in [0, 1] in the {self.frame} frame, got {sigma}")
        alpha = 1.0 - sigma if self.frame == "flow" else math.sqrt((1.0 - sigma) * (1.0 + sigma))
        return math.inf if alpha == 0.0 else sigma / alpha

    def point(self, ratio: float, t: float) -> Point:
        """Return the point with this ratio, conditioned on model time t."""
        alpha, sigma = FRAMES[self.frame](ratio)
        scale = 1.0
        if self.sigma_data:
            scale = 1.0 / math.hypot(alpha * self.sigma_data, sigma)
        return Point(float(t), alpha, sigma, scale)

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as plain data; `make_schedule(**data)` gives it back."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        return {"curve": _NAMES[type(self)], **fields}


@dataclass(frozen=True)
class Betas(Schedule):
    """Discrete-time diffusion: ratios of num_train_timesteps betas, interpolated between integers.

    t -> ratio is linear in ratio and ratio -> t linear in log ratio, as the field does it (the two are inverse to
    each other only at integers).

    Args:
        beta_schedule: a name in BETA_SCHEDULES.
        trained_betas: betas to use instead, each in (0, 1].
        rescale_betas_zero_snr: shift and scale sqrt(alpha_bar) so that the last one is 0 (arXiv:2305.08891, alg. 1).
        terminal: alpha_bar at the last step in that case (0, or a tiny number in the VE frame, where 0 is infinity).
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    rescale_betas_zero_snr: bool = False
    terminal: float = 0.0

    @cached_property
    def log_alphas_cumprod(self) -> np.ndarray:
        """Log of the cumulative product of 1 - beta, shape (num_train_timesteps,)."""
        if self.trained_betas is None:
            table = betas(self.beta_schedule, self.num_train_timesteps, self.beta_start, self.beta_end)
        else:
            table = np.asarray(self.trained_betas, dtype=np.float64)
        log_bar = np.cumsum(np.log1p(-table))
        if not self.rescale_betas_zero_snr:
            return log_bar
        bar = rescale_zero_terminal_snr(np.exp(log_bar))
        bar[-1] = self.terminal
        with np.errstate(divide="ignore"):
            return np.log(bar)

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """alpha_bar, shape (num_train_timesteps,)."""
        return np.exp(self.log_alphas_cumprod)

    @cached_property
    def ratios(self) -> np.ndarray:
        """sqrt((1 - alpha_bar) / alpha_bar), shape (num_train_timesteps,), increasing."""
        return np.sqrt(np.expm1(-self.log_alphas_cumprod))

    @cached_property
    def _log_ratios(self) -> np.ndarray:
        return np.log(self.ratios)

    def ratio_at(self, t: float) -> float:
        """Return the ratio at t, linear between integers."""
        last = self.num_train_timesteps - 1
        if not 0 <= t <= last:
            raise ValueError(f"timestep {t:g} is outside the {last + 1} training steps 0 ... {last}")
        low = min(int(t), last)
        w = t - low
        if w == 0.0:
            return float(self.ratios[low])
        a, b = float(self.ratios[low]), float(self.ratios[low + 1])
        if math.isinf(b):  # alpha reaches 0 here: linear in alpha instead
            alpha = (1 - w) / math.hypot(1, a)
            return math.sqrt((1 - alpha) * (1 + alpha)) / alpha
        return (1 - w) * a + w * b

    def time_at(self, ratio: float) -> float:
        """Return t at this ratio, linear in log ratio and clipped to the table."""
        if math.isinf(ratio):
            return float(self.num_train_timesteps - 1)
        logs = self._log_ratios
        log = math.log(max(ratio, 1e-10))
        low = int(np.clip(np.searchsorted(logs, log, side="right") - 1, 0, len(logs) - 2))
        a, b = float(logs[low]), float(logs[low + 1])
        if math.isinf(b):
            return low + 1 - math.hypot(1, math.exp(a)) / math.hypot(1, ratio)
        w = min(max((a - log) / (a - b), 0.0), 1.0)
        return (1 - w) * low + w * (low + 1)


@dataclass(frozen=True)
class Flow(Schedule):
    """Rectified flow: ratio = sigma / (1 - sigma), t = num_train_timesteps * sigma (arXiv:2210.02747, 2209.03003)."""

    frame: str = "flow"
    num_train_timesteps: int = 1000

    def ratio_at(self, t: float) -> float:
        """Return the ratio at t."""
        sigma = t / self.num_train_timesteps
        if not 0 <= sigma <= 1:
            raise ValueError(f"timestep {t:g} is outside [0, {self.num_train_timesteps}]")
        return math.inf if sigma == 1 else sigma / (1 - sigma)

    def time_at(self, ratio: float) -> float:
        """Return t at this ratio."""
        return self.num_train_timesteps * (1.0 if math.isinf(ratio) else ratio / (1 + ratio))


@dataclass(frozen=True)
class Logarithmic(Schedule):
    """Continuous levels that condition the network on t = factor * log(ratio) (EDM 0.25, consistency models 250)."""

    frame: str = "ve"
    sigma_data: float = 0.5
    factor: float = 0.25

    def ratio_at(self, t: float) -> float:
        """Return the ratio at t."""
        return math.exp(t / self.factor)

    def time_at(self, ratio: float) -> float:
        """Return t at this ratio; 1e-44 keeps the logarithm finite at 0, as in the published code."""
        return self.factor * math.log(ratio + 1e-44)


@dataclass(frozen=True)
class VPSDE(Schedule):
    """Variance-preserving SDE, t in [0, 1]: log alpha = -t^2 (b1 - b0) / 4 - t b0 / 2 (arXiv:2011.13456, eq. 33)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def ratio_at(self, t: float) -> float:
        """Return the ratio at t."""
        return math.sqrt(math.expm1(t * t * (self.beta_max - self.beta_min) / 2 + t * self.beta_min))

    def time_at(self, ratio: float) -> float:
        """Return t at this ratio, the positive root of the quadratic."""
        c = 2 * math.log1p(ratio * ratio)
        slope = self.beta_max - self.beta_min
        return c / (self.beta_min + math.sqrt(self.beta_min**2 + slope * c))


@dataclass(frozen=True)
class VESDE(Schedule):
    """Variance-exploding SDE, t in [0, 1]: sigma = sigma_min (sigma_max / sigma_min)^t (arXiv:2011.13456, eq. 31)."""

    frame: str = "ve"
    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def ratio_at(self, t: float) -> float:
        """Return the ratio at t."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def time_at(self, ratio: float) -> float:
        """Return t at this ratio; 0 for noise below sigma_min."""
        low = math.log(self.sigma_min)
        return max(math.log(max(ratio, self.sigma_min)) - low, 0.0) / (math.log(self.sigma_max) - low)


def _alpha_bar(name: str) -> Callable[[float], float]:
    """Return alpha_bar(t), t in [0, 1], of the schedules that are given by it."""

    def laplace(t: float) -> float:
        lam = -0.5 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * abs(0.5 - t) + 1e-6)
        return math.sqrt(1 / (1 + math.exp(-lam)))

    return {
        "squaredcos_cap_v2": lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2,
        "exp": lambda t: math.exp(-12 * t),
        "laplace": laplace,
    }[name]


BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp")


@lru_cache(maxsize=32)
def _betas(name: str, count: int, start: float, end: float) -> np.ndarray:
    if name == "linear":
        table = np.linspace(start, end, count)
    elif name == "scaled_linear":
        table = np.linspace(math.sqrt(start), math.sqrt(end), count) ** 2
    elif name == "sigmoid":
        table = (end - start) / (1 + np.exp(-np.linspace(-6, 6, count))) + start
    else:
        bar = _alpha_bar(name)
        table = np.array([min(1 - bar((i + 1) / count) / bar(i / count), 0.999) for i in range(count)])
    table.flags.writeable = False
    return table


def betas(beta_schedule: str, num_train_timesteps: int, beta_start: float, beta_end: float) -> np.ndarray:
    """Return the float64 betas of a named schedule, shape (num_train_timesteps,), read-only."""
    choose("beta_schedule", beta_schedule, BETA_SCHEDULES)
    return _betas(beta_schedule, int(num_train_timesteps), float(beta_start), float(beta_end))


def rescale_zero_terminal_snr(alphas_cumprod: np.ndarray) -> np.ndarray:
    """Return alpha_bar shifted to end at 0 and scaled to keep its first entry (arXiv:2305.08891, algorithm 1)."""
    root = np.sqrt(alphas_cumprod)
    first, last = root[0], root[-1]
    return np.square((root - last) * (first / (first - last)))


_NAMES: dict[type, str] = {
    Betas: "betas",
    Flow: "flow",
    Logarithmic: "logarithmic",
    VPSDE: "vp_sde",
    VESDE: "ve_sde",
}
SCHEDULES: dict[str, type[Schedule]] = {name: cls for cls, name in _NAMES.items()}


def make_schedule(curve: str, **options: Any) -> Schedule:
    """Return a schedule by name: a curve of SCHEDULES, or a name in BETA_SCHEDULES for its betas.

    Raises:
        ValueError: unknown name or option; the message names the nearest known one.
    """
    if curve in BETA_SCHEDULES:
        curve, options = "betas", {"beta_schedule": curve, **options}
    choose("schedule", curve, (*SCHEDULES, *BETA_SCHEDULES))
    cls = SCHEDULES[curve]
    known = [f.name for f in dataclasses.fields(cls)]
    for name in options:
        if name not in known:
            raise ValueError(f"schedule {curve!r} has no option {name!r}{nearest(name, known)}")
    if options.get("trained_betas") is not None:
        options["trained_betas"] = check_betas(options["trained_betas"])
    return cls(**options)


def check_betas(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    """Return trained betas as a tuple of floats; each must lie in (0, 1)."""
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 1 or table.size < 2 or not np.all((table > 0) & (table < 1)):
        raise ValueError(
            f"trained_betas must be a list of at least two numbers in (0, 1), got shape {table.shape}"
            + (f" with values from {table.min():g} to {table.max():g}" if table.size else "")
        )
    return tuple(table.tolist())
