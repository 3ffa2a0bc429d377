"""Schedules that are tables of betas."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_choice, check_nonnegative
from .base import Schedule, check_size

if TYPE_CHECKING:
    from ..levels import Levels


LEAST = 1e-10  # ratio, below which times are not told apart


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
        single: whether alpha_bar has the values of float32 arithmetic, those of diffusers' tables.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    rescale_betas_zero_snr: bool = False
    terminal: float = 0.0
    snr_shift_scale: float = 1.0
    single: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.num_train_timesteps)
        check_choice("beta_schedule", self.beta_schedule, BETA_SCHEDULES)
        given = self.trained_betas
        if given is not None and len(given) != self.num_train_timesteps:
            raise ValueError(
                f"trained_betas has {len(given)} entries but num_train_timesteps="
                f"{self.num_train_timesteps}; pass num_train_timesteps={len(given)}"
            )
        if self.rescale_betas_zero_snr and self.num_train_timesteps < 2:
            raise ValueError("rescale_betas_zero_snr needs at least two training steps")
        if check_nonnegative("snr_shift_scale", self.snr_shift_scale) == 0.0:
            raise ValueError("snr_shift_scale must be positive; 1 shifts nothing")
        if given is not None:
            object.__setattr__(self, "trained_betas", tuple(given))
        # now: torch.compile cannot trace the lock that a cached property takes
        vars(self).update(_arrays(self))

    @property
    def span(self) -> tuple[float, float]:
        """The last and the first training step."""
        return self.num_train_timesteps - 1.0, 0.0

    @property
    def _given(self) -> np.ndarray:
        """The betas before they are shifted and rescaled."""
        if self.trained_betas is not None:
            return np.asarray(check_betas(self.trained_betas))
        ends = self.beta_start, self.beta_end
        return betas(self.beta_schedule, self.num_train_timesteps, *ends, single=self.single)

    @cached_property
    def _rounded(self) -> tuple[np.ndarray, np.ndarray]:
        """Betas and alpha_bar of float32 arithmetic, after they are shifted and rescaled."""
        table, terminal = self._given.astype(np.float32), self.terminal
        table, bar = in_single(table, self.snr_shift_scale, self.rescale_betas_zero_snr)
        if self.rescale_betas_zero_snr:
            bar[-1] = terminal
        return table.astype(np.float64), bar.astype(np.float64)

    @cached_property
    def log_alphas_cumprod(self) -> np.ndarray:
        """Log of the cumulative product of 1 - beta, shape (num_train_timesteps,)."""
        log_bar: np.ndarray
        if self.single:
            with np.errstate(divide="ignore"):
                log_bar = np.log(self._rounded[1])
        else:
            log_bar = np.cumsum(np.log1p(-self._given))
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
        return self._rounded[1] if self.single else np.asarray(np.exp(self.log_alphas_cumprod))

    @cached_property
    def betas(self) -> np.ndarray:
        """The betas after they are shifted and rescaled, shape (num_train_timesteps,)."""
        if self.single:
            return self._rounded[0]
        with np.errstate(invalid="ignore"):  # of so many steps that nothing is left of alpha_bar
            table = -np.expm1(np.diff(self.log_alphas_cumprod, prepend=0.0))
        table[np.isnan(table)] = 1.0
        if self.rescale_betas_zero_snr:
            table[-1] = 1.0  # even where sigmas need an alpha
        return table

    @cached_property
    def ratios(self) -> np.ndarray:
        """sqrt((1 - alpha_bar) / alpha_bar), shape (num_train_timesteps,), increasing."""
        with np.errstate(over="ignore"):  # of so many steps that nothing is left of alpha_bar
            return np.asarray(np.sqrt(np.expm1(-self.log_alphas_cumprod)))

    @cached_property
    def log_ratios(self) -> np.ndarray:
        """Logs of the ratios, of those below LEAST that of LEAST."""
        return np.asarray(np.log(np.maximum(self.ratios, LEAST)))

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
        logs = self.log_ratios
        if len(logs) == 1:
            return 0.0
        log = math.log(max(ratio, LEAST))
        low = min(max(int(logs.searchsorted(log, side="right")) - 1, 0), len(logs) - 2)
        a, b = float(logs[low]), float(logs[low + 1])
        if math.isinf(b):
            return low + max(0.0, 1 - math.hypot(1, math.exp(a)) / math.hypot(1, ratio))
        t = low + min(max((a - log) / (a - b), 0.0), 1.0)
        whole = float(round(t))  # a level of the table has its own time, whatever is rounded off
        return whole if abs(t - whole) < 1e-9 else t

    @cached_property
    def tables(self) -> Mapping[str, np.ndarray]:
        """Ratios and their logs, finite: an infinite last one is as good as any larger number."""
        ratios = np.maximum(self.ratios, LEAST)
        if rest := np.count_nonzero(np.isinf(ratios)):
            ratios[-rest:] = ratios[-rest - 1] * math.e * np.arange(1, rest + 1)
        return {"ratios": ratios, "logs": np.log(ratios), "search": np.log(ratios[:-1])}

    @cached_property
    def _terminal(self) -> bool:
        """Whether alpha is 0 at the last step."""
        return math.isinf(float(self.ratios[-1]))

    def parts_on(self, on: "Levels", t: Any) -> tuple[Any, Any]:
        """Return signal and noise, whose ratio is linear between integers."""
        last = self.num_train_timesteps - 1
        t = on.clip(t, 0.0, float(last))
        low = on.xp.floor(t)
        w = t - low
        after = on.clip(low + 1, 0.0, float(last))
        ratio = (1 - w) * on.take("ratios", low) + w * on.take("ratios", after)
        if not self._terminal:
            return 1.0, ratio
        # to alpha = 0: linear in alpha instead, and sigma^2 = 1 - alpha^2 without cancellation
        w, before = on.clip(t - (last - 1), 0.0, 1.0), on.take("ratios", on.full(t, last - 1.0))
        signal, noise = (1 - w), on.xp.sqrt(before**2 + w * (2 - w))
        inside = t > last - 1
        return on.where(inside, signal, on.full(t, 1.0)), on.where(inside, noise, ratio)

    def times_on(self, on: "Levels", ratio: Any) -> Any:
        """Return t, linear in log ratio and clipped to the table."""
        last = self.num_train_timesteps - 1
        ratio = on.clip(ratio, LEAST, on.huge)
        t = log_linear_time(on, ratio, last + 1)
        highest = on.take("ratios", on.full(ratio, float(last)))
        if not self._terminal:  # lower than the one before, if terminal is given
            return on.where(ratio == highest, on.full(ratio, float(last)), t)
        before = on.take("ratios", on.full(ratio, last - 1.0))
        part = 1 - ((1 + before * before) / (1 + ratio * ratio)) ** 0.5
        return on.where(ratio > before, last - 1 + part, t)


def log_linear_time(on: "Levels", ratio: Any, count: int) -> Any:
    """Return where ratios lie among those of a table, linear in their logs and clipped to it.

    The table has their logs as "logs", and as "search" all but the last of these, increasing.
    """
    if count == 1:
        return on.full(ratio, 0.0)
    log = on.xp.log(on.clip(ratio, LEAST, on.huge))
    low = on.clip(on.search("search", log) - 1, 0.0, count - 2.0)
    a, b = on.take("logs", low), on.take("logs", low + 1)
    return low + on.clip((log - a) / (b - a), 0.0, 1.0)


@lru_cache(maxsize=64)
def _arrays(schedule: Betas) -> dict[str, Any]:
    """Return what is made of the betas, once for all equal schedules."""
    first = "log_alphas_cumprod", "alphas_cumprod", "betas"
    names = *first, "ratios", "log_ratios", "tables", "_terminal"
    return {name: getattr(schedule, name) for name in names}


def _alpha_bar(name: str) -> Callable[[float], float]:
    """Return alpha_bar(t), t in [0, 1], of the schedules that are given by it."""

    def laplace(t: float) -> float:
        snr = math.exp(-0.5 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * abs(0.5 - t) + 1e-6))
        return math.sqrt(snr / (1 + snr))

    return {
        "squaredcos_cap_v2": lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2,
        "exp": lambda t: math.exp(-12 * t),
        "laplace": laplace,
    }[name]


BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp")


@lru_cache(maxsize=32)
def _betas(name: str, count: int, start: float, end: float, single: bool) -> np.ndarray:
    even = linspace_in_single if single else np.linspace
    if name == "linear":
        table = even(start, end, count)
    elif name == "scaled_linear":
        table = even(start**0.5, end**0.5, count) ** 2
    elif name == "sigmoid":
        decays = np.exp(-even(-6.0, 6.0, count).astype(np.float64)).astype(even(0, 1, 2).dtype)
        table = 1 / (1 + decays) * (end - start) + start
    else:
        bar = [_alpha_bar(name)(i / count) for i in range(count + 1)]
        table = np.minimum([1 - after / before for before, after in itertools.pairwise(bar)], 0.999)
    if not np.all((table > 0) & (table < 1)):
        raise ValueError(
            f"betas must lie in (0, 1); {name} from beta_start={start:g} to beta_end={end:g} goes"
            f" from {table.min():g} to {table.max():g}"
        )
    table = table.astype(np.float64)
    table.flags.writeable = False
    return table


def betas(
    beta_schedule: str,
    num_train_timesteps: int,
    beta_start: float,
    beta_end: float,
    *,
    single: bool = False,
) -> np.ndarray:
    """Return the betas of a named schedule, shape (num_train_timesteps,), read-only float64.

    single: those of float32 arithmetic.
    """
    check_choice("beta_schedule", beta_schedule, BETA_SCHEDULES)
    ends = float(beta_start), float(beta_end)
    return _betas(beta_schedule, int(num_train_timesteps), *ends, single)


def linspace_in_single(start: float, end: float, count: int) -> np.ndarray:
    """Return float32 numbers as torch.linspace makes them: from either end, rounded once."""
    low, high = np.float32(start), np.float32(end)
    step = float((high - low) / np.float32(max(count - 1, 1)))
    i = np.arange(count)
    up, down = float(low) + i * step, float(high) - (count - 1 - i) * step
    return np.asarray(np.where((i < count // 2) | (count == 1), up, down), dtype=np.float32)


def in_single(
    table: np.ndarray, snr_shift_scale: float, rescale: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 betas and their alpha_bar, shifted and rescaled in diffusers' float32 steps.

    Rescaled ones become betas on the way, shifted ones stay what they are. Products are of float64,
    rounded one by one, as those of torch.cumprod.
    """

    def products(factors: np.ndarray) -> np.ndarray:
        return np.cumprod(factors, dtype=np.float64).astype(np.float32)

    bar = products(1 - table)
    if shifted := snr_shift_scale != 1.0:
        bar = bar / (snr_shift_scale + (1 - snr_shift_scale) * bar)
    if not rescale:
        return table, bar
    root = np.sqrt(bar)
    bar = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
    left = np.divide(bar[1:], bar[:-1], out=np.zeros_like(bar[1:]), where=bar[:-1] > 0)
    table = 1 - np.concatenate([bar[:1], left])
    return table, bar if shifted else products(1 - table)


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
