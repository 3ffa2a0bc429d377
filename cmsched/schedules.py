"""Noise schedules: model time t <-> noise level, on the host in float64.

A schedule is a *curve* (t <-> ratio, where ratio = sigma / alpha = exp(-lam)) and a *frame*, which
says how the ratio is split into the two coefficients of the marginal x = alpha x0 + sigma eps:

    vp    alpha = 1 / sqrt(1 + ratio^2)    sigma = ratio alpha    (alpha^2 + sigma^2 = 1)
    ve    alpha = 1                        sigma = ratio
    flow  alpha = 1 / (1 + ratio)          sigma = ratio alpha    (alpha + sigma = 1)
    trig  alpha = cos(u)                   sigma = sigma_data sin(u), u = atan(ratio / sigma_data)

Every sampler runs in every frame; samples of two frames differ by the factor between their alphas,
but for those whose noise or rates are a frame's own: ddpm with a large or learned variance, and
euler_maruyama.
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from ._messages import choose, nearest, nonnegative

__all__ = [
    "BETA_SCHEDULES",
    "SCHEDULES",
    "VESDE",
    "VPSDE",
    "Betas",
    "Cosine",
    "Flow",
    "Identity",
    "Logarithmic",
    "Point",
    "Schedule",
    "TrigFlow",
    "betas",
    "make_schedule",
    "rescale_zero_terminal_snr",
]


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


FRAMES: dict[str, Callable[[float, float], tuple[float, float]]] = {
    "vp": lambda r, data: (1 / math.hypot(1, r), r / math.hypot(1, r)),
    "ve": lambda r, data: (1.0, r),
    "flow": lambda r, data: (1 / (1 + r), r / (1 + r)),
    "trig": lambda r, data: (data / math.hypot(data, r), data * (r / math.hypot(data, r))),
}


@dataclass(frozen=True)
class Schedule:
    """Base of all schedules: a curve gives `ratio_at(t)` and `time_at(ratio)`; `at` makes points.

    Args:
        frame: "vp", "ve", "flow" or "trig", see the module's first lines.
        sigma_data: the network sees x / sqrt(alpha^2 sigma_data^2 + sigma^2); 0 for unscaled x.
    """

    frame: str = "vp"
    sigma_data: float = 0.0

    def __post_init__(self) -> None:
        choose("frame", self.frame, FRAMES)
        if nonnegative("sigma_data", self.sigma_data) == 0.0 and self.frame == "trig":
            raise ValueError('frame="trig" needs a sigma_data above 0; 0.5 is usual')

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
        part = sigma / top
        alpha = 1.0 - part if self.frame == "flow" else math.sqrt((1.0 - part) * (1.0 + part))
        return math.inf if alpha == 0.0 else sigma / alpha

    def point(self, ratio: float, t: float) -> Point:
        """Return the point with this ratio, conditioned on model time t."""
        ratio = float(ratio)
        if not math.isinf(ratio):
            alpha, sigma = FRAMES[self.frame](ratio, self.sigma_data)
        elif not math.isfinite(t):
            raise ValueError(
                f"{type(self).__name__} never reaches alpha = 0; start at a finite sigma / alpha"
            )
        elif self.frame == "ve":
            raise ValueError(
                f"sigma is infinite at t={t:g} in the ve frame (zero terminal SNR); use the vp"
                " frame, or a terminal alpha_bar above 0"
            )
        else:
            alpha, sigma = 0.0, self.top
        scale = 1.0
        if self.sigma_data:
            scale = 1.0 / math.hypot(alpha * self.sigma_data, sigma)
        return Point(t, alpha, sigma, scale)

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as plain data; `make_schedule(**data)` gives it back."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        for name, cls in SCHEDULES.items():
            if cls is type(self):
                return {"curve": name, **fields}
        raise TypeError(f"{type(self).__name__} has no name: add it to cmsched.schedules.SCHEDULES")


@dataclass(frozen=True)
class Betas(Schedule):
    """Discrete-time diffusion: ratios of num_train_timesteps betas, interpolated between integers.

    t -> ratio is linear in ratio and ratio -> t linear in log ratio, as the field does it (the two
    are inverse to each other only at integers).

    Args:
        num_train_timesteps: length of the table.
        beta_start: first beta.
        beta_end: last beta.
        beta_schedule: a name in BETA_SCHEDULES.
        trained_betas: betas to use instead, each in (0, 1).
        rescale_betas_zero_snr: shift and scale sqrt(alpha_bar) so that the last one is 0
            (arXiv:2305.08891, algorithm 1).
        terminal: alpha_bar at the last step in that case (0, or a tiny number in the VE frame,
            where 0 is infinity).
        snr_shift_scale: the signal-to-noise ratios alpha_bar / (1 - alpha_bar) are divided by this,
            before they are rescaled (the shifted schedule of arXiv:2301.11093).
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    rescale_betas_zero_snr: bool = False
    terminal: float = 0.0
    snr_shift_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.num_train_timesteps)
        choose("beta_schedule", self.beta_schedule, BETA_SCHEDULES)
        given = self.trained_betas
        if given is not None and len(given) != self.num_train_timesteps:
            raise ValueError(
                f"trained_betas has {len(given)} entries but num_train_timesteps="
                f"{self.num_train_timesteps}; pass num_train_timesteps={len(given)}"
            )
        if self.rescale_betas_zero_snr and self.num_train_timesteps < 2:
            raise ValueError("rescale_betas_zero_snr needs at least two training steps")
        if nonnegative("snr_shift_scale", self.snr_shift_scale) == 0.0:
            raise ValueError("snr_shift_scale must be positive; 1 shifts nothing")

    @property
    def span(self) -> tuple[float, float]:
        """The last and the first training step."""
        return self.num_train_timesteps - 1.0, 0.0

    @cached_property
    def log_alphas_cumprod(self) -> np.ndarray:
        """Log of the cumulative product of 1 - beta, shape (num_train_timesteps,)."""
        if self.trained_betas is None:
            count, ends = self.num_train_timesteps, (self.beta_start, self.beta_end)
            table = betas(self.beta_schedule, count, *ends)
        else:
            table = np.asarray(check_betas(self.trained_betas))
        log_bar = np.cumsum(np.log1p(-table))
        if self.snr_shift_scale != 1.0:
            log_bar = -np.log1p(self.snr_shift_scale * np.expm1(-log_bar))
        if self.rescale_betas_zero_snr:
            log_bar = rescale_zero_terminal_snr(log_bar)
            log_bar[-1] = math.log(self.terminal) if self.terminal else -math.inf
        log_bar.flags.writeable = False
        return log_bar

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """alpha_bar, shape (num_train_timesteps,)."""
        return np.asarray(np.exp(self.log_alphas_cumprod))

    @cached_property
    def ratios(self) -> np.ndarray:
        """sqrt((1 - alpha_bar) / alpha_bar), shape (num_train_timesteps,), increasing."""
        return np.asarray(np.sqrt(np.expm1(-self.log_alphas_cumprod)))

    @cached_property
    def _log_ratios(self) -> np.ndarray:
        return np.asarray(np.log(self.ratios))

    def ratio_at(self, t: float) -> float:
        """Return the ratio at t, linear between integers."""
        last = self.num_train_timesteps - 1
        if not 0 <= t <= last:
            raise ValueError(
                f"timestep {t:g} is outside the {last + 1} training steps 0 ... {last}"
            )
        low = int(t)
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
        if math.isinf(ratio) or ratio == self.ratios[-1]:  # lower than the one before, if terminal
            return float(self.num_train_timesteps - 1)
        logs = self._log_ratios
        if len(logs) == 1:
            return 0.0
        log = math.log(max(ratio, 1e-10))
        low = min(max(int(logs.searchsorted(log, side="right")) - 1, 0), len(logs) - 2)
        a, b = float(logs[low]), float(logs[low + 1])
        if math.isinf(b):
            return low + 1 - math.hypot(1, math.exp(a)) / math.hypot(1, ratio)
        t = low + min(max((a - log) / (a - b), 0.0), 1.0)
        whole = float(round(t))  # a level of the table has its own time, whatever is rounded off
        return whole if abs(t - whole) < 1e-9 else t


@dataclass(frozen=True)
class Flow(Schedule):
    """Rectified flow: ratio = sigma / (1 - sigma), t = num_train_timesteps * sigma.

    arXiv:2210.02747, 2209.03003. Where it is rising, t = num_train_timesteps * (1 - sigma).
    """

    frame: str = "flow"
    num_train_timesteps: int = 1000
    rising: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.num_train_timesteps)

    @property
    def span(self) -> tuple[float, float]:
        """Where sigma is 1 and 1 / num_train_timesteps."""
        ends = float(self.num_train_timesteps), 1.0
        return (0.0, ends[0] - 1.0) if self.rising else ends

    def ratio_at(self, t: float) -> float:
        """Return the ratio at t."""
        sigma = t / self.num_train_timesteps
        sigma = 1 - sigma if self.rising else sigma
        if not 0 <= sigma <= 1:
            raise ValueError(f"timestep {t:g} is outside [0, {self.num_train_timesteps}]")
        return math.inf if sigma == 1 else sigma / (1 - sigma)

    def slope(self, t: float) -> float:
        """Return d lam / dt, exactly."""
        slope = self.num_train_timesteps / (t * (self.num_train_timesteps - t))
        return slope if self.rising else -slope

    def time_at(self, ratio: float) -> float:
        """Return t at this ratio."""
        if self.rising:
            return self.num_train_timesteps / (1 + ratio)
        return self.num_train_timesteps * (1.0 if math.isinf(ratio) else ratio / (1 + ratio))


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2), t in [0, 1] (arXiv:2202.00512, section 2)."""

    def ratio_at(self, t: float) -> float:
        """Return the ratio at t."""
        return tangent(t, 1.0)

    def slope(self, t: float) -> float:
        """Return d lam / dt, exactly."""
        return -math.pi / math.sin(math.pi * t)

    def time_at(self, ratio: float) -> float:
        """Return t at this ratio."""
        return math.atan(ratio) * 2 / math.pi


@dataclass(frozen=True)
class TrigFlow(Schedule):
    """alpha = cos(t), sigma = sigma_data sin(t), t in [0, pi / 2] (arXiv:2410.11081, section 3)."""

    frame: str = "trig"
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_data == 0.0:
            raise ValueError("TrigFlow needs a sigma_data above 0; 0.5 is usual")

    @property
    def span(self) -> tuple[float, float]:
        """EDM's noise levels, sigma / alpha = 80 and 0.002, as in the paper."""
        return self.time_at(80.0), self.time_at(0.002)

    def ratio_at(self, t: float) -> float:
        """Return the ratio at t."""
        return self.sigma_data * tangent(t, math.pi / 2)

    def slope(self, t: float) -> float:
        """Return d lam / dt, exactly."""
        return -2 / math.sin(2 * t)

    def time_at(self, ratio: float) -> float:
        """Return t at this ratio."""
        return math.atan(ratio / self.sigma_data)


def tangent(t: float, quarter: float) -> float:
    """Return tan(t) where a quarter turn is so long, and infinity at its end (but for rounding)."""
    part = t / quarter
    if not 0.0 <= part <= 1.0 + 1e-5:  # 1.5708 is pi / 2 as the field writes it
        raise ValueError(f"time {t:g} is outside [0, {quarter:g}]")
    if part >= 1.0:
        return math.inf
    # next to the end the other angle keeps its digits
    return (
        math.tan(t / quarter * (math.pi / 2))
        if part < 0.5
        else 1 / math.tan((1.0 - part) * (math.pi / 2))
    )


@dataclass(frozen=True)
class Logarithmic(Schedule):
    """Any level, t = factor * log(ratio): factor 0.25 for EDM, 250 for consistency models."""

    frame: str = "ve"
    sigma_data: float = 0.5
    factor: float = 0.25

    @property
    def span(self) -> tuple[float, float]:
        """EDM's noise levels, sigma = 80 and 0.002 (arXiv:2206.00364, table 1)."""
        return self.time_at(80.0), self.time_at(0.002)

    def ratio_at(self, t: float) -> float:
        """Return the ratio at t."""
        most = 700.0 * self.factor  # e^700 is next to the largest float
        if t > most:
            raise ValueError(f"time {t:g} is outside what this schedule has, at most {most:g}")
        return math.exp(t / self.factor)

    def time_at(self, ratio: float) -> float:
        """Return t at this ratio; 1e-44 keeps it finite at 0, as in the published code."""
        return self.factor * math.log(ratio + 1e-44)


@dataclass(frozen=True)
class Identity(Schedule):
    """Any level, t = factor * ratio: networks told the noise level itself (arXiv:2206.00364)."""

    frame: str = "ve"
    factor: float = 1.0

    @property
    def span(self) -> tuple[float, float]:
        """EDM's noise levels, sigma = 80 and 0.002."""
        return self.time_at(80.0), self.time_at(0.002)

    def ratio_at(self, t: float) -> float:
        """Return the ratio at t."""
        return t / self.factor

    def time_at(self, ratio: float) -> float:
        """Return t at this ratio."""
        return self.factor * ratio


@dataclass(frozen=True)
class VPSDE(Schedule):
    """Variance-preserving SDE, t in [0, 1]: -log alpha = t^2 (b1 - b0) / 4 + t b0 / 2.

    arXiv:2011.13456, eq. 33.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.beta_min <= self.beta_max < math.inf:
            raise ValueError(
                "beta_min and beta_max must be positive and in order, got"
                f" {self.beta_min} and {self.beta_max}"
            )

    def ratio_at(self, t: float) -> float:
        """Return the ratio at t."""
        if not t >= 0:
            raise ValueError(f"time {t:g} is below 0, where there is no noise")
        slope = self.beta_max - self.beta_min
        return math.sqrt(math.expm1(t * t * slope / 2 + t * self.beta_min))

    def slope(self, t: float) -> float:
        """Return d lam / dt, exactly."""
        rate = self.beta_min + t * (self.beta_max - self.beta_min)
        return -0.5 * rate * (1 + 1 / self.ratio_at(t) ** 2)

    def time_at(self, ratio: float) -> float:
        """Return t at this ratio, the positive root of the quadratic."""
        c = 2 * math.log1p(ratio * ratio)
        slope = self.beta_max - self.beta_min
        return c / (self.beta_min + math.sqrt(self.beta_min**2 + slope * c))


@dataclass(frozen=True)
class VESDE(Schedule):
    """Variance-exploding SDE, t in [0, 1]: ratio = sigma_min (sigma_max / sigma_min)^t.

    arXiv:2011.13456, eq. 31.
    """

    frame: str = "ve"
    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                "sigma_min and sigma_max must be positive and in order, got"
                f" {self.sigma_min} and {self.sigma_max}"
            )

    def ratio_at(self, t: float) -> float:
        """Return the ratio at t."""
        return float(self.sigma_min * (self.sigma_max / self.sigma_min) ** t)

    def time_at(self, ratio: float) -> float:
        """Return t at this ratio; 0 for noise below sigma_min."""
        low = self.sigma_min
        return math.log(max(ratio, low) / low) / math.log(self.sigma_max / low)


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
        bar = [_alpha_bar(name)(i / count) for i in range(count + 1)]
        table = np.minimum([1 - after / before for before, after in itertools.pairwise(bar)], 0.999)
    if not np.all((table > 0) & (table < 1)):
        raise ValueError(
            f"betas must lie in (0, 1); {name} from beta_start={start:g} to beta_end={end:g} goes"
            f" from {table.min():g} to {table.max():g}"
        )
    table.flags.writeable = False
    return table


def betas(
    beta_schedule: str, num_train_timesteps: int, beta_start: float, beta_end: float
) -> np.ndarray:
    """Return the float64 betas of a named schedule, shape (num_train_timesteps,), read-only."""
    choose("beta_schedule", beta_schedule, BETA_SCHEDULES)
    return _betas(beta_schedule, int(num_train_timesteps), float(beta_start), float(beta_end))


def rescale_zero_terminal_snr(log_alphas_cumprod: np.ndarray) -> np.ndarray:
    """Return log alpha_bar, its square root shifted to end at 0 and scaled to keep its first entry.

    arXiv:2305.08891, algorithm 1, written so that an alpha_bar next to 1 keeps its digits.
    """
    first = log_alphas_cumprod[0]
    drop = np.expm1(
        (log_alphas_cumprod - first) / 2
    )  # sqrt(alpha_bar) / that of the first, minus 1
    with np.errstate(divide="ignore"):
        return np.asarray(first + 2 * np.log1p(-drop / drop[-1]))


SCHEDULES: dict[str, type[Schedule]] = {
    "betas": Betas,
    "cosine": Cosine,
    "flow": Flow,
    "identity": Identity,
    "logarithmic": Logarithmic,
    "trigflow": TrigFlow,
    "vp_sde": VPSDE,
    "ve_sde": VESDE,
}


def check_size(num_train_timesteps: Any) -> None:
    """Raise unless this is a whole number of at least 1."""
    whole = isinstance(num_train_timesteps, int | np.integer)
    if not whole or isinstance(num_train_timesteps, bool):
        raise TypeError(f"num_train_timesteps must be an integer, got {num_train_timesteps!r}")
    if num_train_timesteps < 1:
        raise ValueError(f"num_train_timesteps must be at least 1, got {num_train_timesteps}")


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
            "trained_betas must be a list of at least two numbers in (0, 1), got shape"
            f" {table.shape}"
            + (f" with values from {table.min():g} to {table.max():g}" if table.size else "")
        )
    return tuple(table.tolist())
