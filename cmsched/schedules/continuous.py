"""Schedules that are given by a formula."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..checks import check_nonnegative
from .base import Schedule, check_size

if TYPE_CHECKING:
    from ..levels import Levels


@dataclass(frozen=True)
class Flow(Schedule):
    """Rectified flow: ratio = sigma / (1 - sigma), t = length * sigma; where rising 1 - sigma.

    arXiv:2210.02747, 2209.03003.

    Args:
        num_train_timesteps: of how many steps the spacings in time take some.
        rising: whether time goes from the noise, t = 0, to data, as in flow_matching and torchcfm.
        length: the time at the other end, by default num_train_timesteps; 1.0 for t in [0, 1].
    """

    frame: str = "flow"
    num_train_timesteps: int = 1000
    rising: bool = False
    length: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.num_train_timesteps)
        if not isinstance(self.rising, bool):
            raise TypeError(f"rising must be True or False, got {self.rising!r}")
        if self.length is not None:
            if not 0.0 < check_nonnegative("length", self.length) < math.inf:
                raise ValueError(f"length must be positive and finite, got {self.length}")
            object.__setattr__(self, "length", float(self.length))

    @cached_property
    def end(self) -> float:
        """The time at one end, where it is 0 at the other."""
        return float(self.num_train_timesteps) if self.length is None else self.length

    @property
    def span(self) -> tuple[float, float]:
        """Where sigma is 1 and 1 / num_train_timesteps."""
        least = self.end / self.num_train_timesteps
        return (0.0, self.end - least) if self.rising else (self.end, least)

    def ratio_at(self, t: float) -> float:
        """Return the ratio at t."""
        sigma = t / self.end
        sigma = 1 - sigma if self.rising else sigma
        if not 0 <= sigma <= 1:
            raise ValueError(f"timestep {t:g} is outside [0, {self.end:g}]")
        return math.inf if sigma == 1 else sigma / (1 - sigma)

    def slope(self, t: float) -> float:
        """Return d lam / dt, exactly."""
        slope = self.end / (t * (self.end - t))
        return slope if self.rising else -slope

    def time_at(self, ratio: float) -> float:
        """Return t at this ratio."""
        if self.rising:
            return self.end / (1 + ratio)
        return self.end * (1.0 if math.isinf(ratio) else ratio / (1 + ratio))

    def parts_on(self, on: "Levels", t: Any) -> tuple[Any, Any]:
        """Return signal and noise."""
        t = on.clip(t, 0.0, self.end)
        rest = self.end - t
        return (t, rest) if self.rising else (rest, t)

    def times_on(self, on: "Levels", ratio: Any) -> Any:
        """Return t."""
        if self.rising:
            return self.end / (1 + ratio)
        ratio = on.clip(ratio, 0.0, 1e30)
        return self.end * (ratio / (1 + ratio))


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

    def parts_on(self, on: "Levels", t: Any) -> tuple[Any, Any]:
        """Return signal and noise."""
        t = on.clip(t, 0.0, 1.0)
        return on.xp.sin((1 - t) * (math.pi / 2)), on.xp.sin(t * (math.pi / 2))

    def times_on(self, on: "Levels", ratio: Any) -> Any:
        """Return t."""
        return on.xp.atan(ratio) * (2 / math.pi)


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

    def parts_on(self, on: "Levels", t: Any) -> tuple[Any, Any]:
        """Return signal and noise."""
        t = on.clip(t, 0.0, math.pi / 2)
        return on.xp.sin(on.clip(on.below(math.pi / 2, t), 0.0, 2.0)), self.sigma_data * on.xp.sin(
            t
        )

    def times_on(self, on: "Levels", ratio: Any) -> Any:
        """Return t."""
        return on.xp.atan(ratio / self.sigma_data)


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
        least = self.time_at(0.0) - 1e-6 * abs(self.time_at(0.0))
        if not least <= t <= most:
            raise ValueError(
                f"time {t:g} is outside what this schedule has, from {least:g} to {most:g}"
            )
        return math.exp(t / self.factor)

    def time_at(self, ratio: float) -> float:
        """Return t at this ratio; 1e-44 keeps it finite at 0, as in the published code."""
        return self.factor * math.log(ratio + 1e-44)

    def parts_on(self, on: "Levels", t: Any) -> tuple[Any, Any]:
        """Return signal and noise."""
        return 1.0, on.xp.exp(on.clip(t, -math.inf, 700.0 * self.factor) / self.factor)

    def times_on(self, on: "Levels", ratio: Any) -> Any:
        """Return t; a float32 does not hold the 1e-44, but its logarithm."""
        some, lowest = ratio > 0, math.log(1e-44)
        log = on.xp.log(on.where(some, ratio, on.full(ratio, 1.0)))
        log = on.where(some, on.clip(log, lowest, math.inf), on.full(ratio, lowest))
        return self.factor * log


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

    def parts_on(self, on: "Levels", t: Any) -> tuple[Any, Any]:
        """Return signal and noise."""
        return 1.0, on.clip(t, 0.0, math.inf) / self.factor

    def times_on(self, on: "Levels", ratio: Any) -> Any:
        """Return t."""
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

    def parts_on(self, on: "Levels", t: Any) -> tuple[Any, Any]:
        """Return signal and noise."""
        t = on.clip(t, 0.0, math.inf)
        q = t * (t * ((self.beta_max - self.beta_min) / 2) + self.beta_min)
        return on.xp.exp(q / -2), on.xp.sqrt(-on.xp.expm1(-q))

    def times_on(self, on: "Levels", ratio: Any) -> Any:
        """Return t."""
        c = 2 * on.xp.log1p(ratio * ratio)
        slope = self.beta_max - self.beta_min
        return c / (self.beta_min + on.xp.sqrt(self.beta_min**2 + slope * c))


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

    def parts_on(self, on: "Levels", t: Any) -> tuple[Any, Any]:
        """Return signal and noise."""
        return 1.0, self.sigma_min * on.xp.exp(t * math.log(self.sigma_max / self.sigma_min))

    def times_on(self, on: "Levels", ratio: Any) -> Any:
        """Return t; 0 for noise below sigma_min."""
        low = self.sigma_min
        return on.xp.log(on.clip(ratio / low, 1.0, math.inf)) / math.log(self.sigma_max / low)
