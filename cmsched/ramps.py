"""Noise levels between two ends, noisiest first, on the host in float64.

Rules of (n, high, low) with keywords of their own; those without ends give sigma / alpha.
"""

import math
from collections.abc import Callable
from functools import wraps

import numpy as np

from .checks import check_count
from .schedules import VPSDE

__all__ = [
    "AYS",
    "beta",
    "exponential",
    "ipndm",
    "karras",
    "kl_optimal",
    "laplace",
    "linear_quadratic",
    "polyexponential",
    "ramp",
    "resampled",
    "vp",
]

Rule = Callable[..., np.ndarray]


def check_ends(n: int, high: float, low: float, *, positive: bool) -> None:
    """Raise unless a ramp can be made of n levels from high to low."""
    check_count("num_inference_steps", n)
    if not (0.0 < high < math.inf and (low > 0.0 if positive else low >= 0.0)):
        raise ValueError(f"noise levels must be positive and finite, got {high:g} to {low:g}")
    if low > high or (low == high and n > 1):
        raise ValueError(f"noise levels must go down, got {n} from {high:g} to {low:g}")


def between(*, positive: bool) -> Callable[[Rule], Rule]:
    """Return a decorator of rules of (n, high, low): ends are checked, and met exactly."""

    def enter(rule: Rule) -> Rule:
        @wraps(rule)
        def ramp(n: int, high: float, low: float, **options: float) -> np.ndarray:
            check_ends(n, high, low, positive=positive)
            levels = np.array(rule(n, high, low, **options))
            levels[-1] = low
            levels[0] = high
            return levels

        return ramp

    return enter


@between(positive=False)
def karras(n: int, high: float, low: float, *, rho: float = 7.0) -> np.ndarray:
    """(high^(1/rho) + i/(n-1) (low^(1/rho) - high^(1/rho)))^rho (arXiv:2206.00364, eq. 5)."""
    return ramp(np.linspace(0, 1, n), high, low, rho=rho)


def ramp(fractions: np.ndarray, high: float, low: float, *, rho: float) -> np.ndarray:
    """Karras levels at given fractions of the way from high to low."""
    a, b = high ** (1 / rho), low ** (1 / rho)
    return np.asarray((a + fractions * (b - a)) ** rho)


@between(positive=True)
def exponential(n: int, high: float, low: float) -> np.ndarray:
    """Even in log sigma, which is uniform in lam."""
    return np.asarray(np.exp(np.linspace(math.log(high), math.log(low), n)))


@between(positive=False)
def beta(n: int, high: float, low: float, *, a: float = 0.6, b: float = 0.6) -> np.ndarray:
    """Quantiles of the Beta(a, b) distribution (arXiv:2407.12173); needs SciPy."""
    try:
        from scipy.stats import beta as distribution  # an extra, loaded only here
    except ImportError:
        raise ImportError("beta sigmas need SciPy: pip install scipy") from None
    quantiles = np.asarray(distribution.ppf(1 - np.linspace(0, 1, n), a, b))
    return low + quantiles * (high - low)


@between(positive=True)
def polyexponential(n: int, high: float, low: float, *, rho: float = 1.0) -> np.ndarray:
    """Log sigma is the power rho of an even ramp (k-diffusion get_sigmas_polyexponential)."""
    return np.asarray(low * np.exp(np.linspace(1, 0, n) ** rho * math.log(high / low)))


@between(positive=True)
def laplace(n: int, high: float, low: float, *, mu: float = 0.0, beta: float = 0.5) -> np.ndarray:
    """Quantiles of Laplace(mu, beta) in log sigma, restricted to the ends (arXiv:2407.03297).

    The published code clamps to the ends instead, which makes equal levels.
    """
    part = np.linspace(0, 1, n)
    sides = []  # the share of the distribution above each level, and below it
    for sign in (1, -1):
        a, b = (sign * (math.log(level) - mu) / beta for level in (high, low))
        tails = [math.exp(-v) / 2 if v > 0 else 1 - math.exp(v) / 2 for v in (a, b)]
        sides.append((1 - part) * tails[0] + part * tails[1])
    above, below = sides  # of the smaller one a logarithm keeps its digits
    return np.exp(mu + beta * np.where(above < below, -np.log(2 * above), np.log(2 * below)))


@between(positive=True)
def kl_optimal(n: int, high: float, low: float) -> np.ndarray:
    """Even in atan sigma (arXiv:2404.14507, theorem 3.1)."""
    part = np.linspace(0, 1, n)
    angle = (1 - part) * math.atan(high) + part * math.atan(low)
    rest = (1 - part) * math.atan(1 / high) + part * math.atan(
        1 / low
    )  # keeps a small one's digits
    return np.where(angle < rest, np.tan(angle), 1 / np.tan(rest))


@between(positive=False)
def vp(
    n: int, high: float, low: float, *, beta_d: float = 19.9, beta_min: float = 0.1
) -> np.ndarray:
    """Even in the time of the VP SDE with beta = beta_min + beta_d t (k-diffusion)."""
    sde = VPSDE(beta_min=beta_min, beta_max=beta_min + beta_d)
    times = np.linspace(sde.time_at(high), sde.time_at(low), n)
    return np.array([sde.ratio_at(t) for t in times.tolist()])


def linear_quadratic(
    n: int, high: float, *, threshold: float = 0.025, linear_steps: int | None = None
) -> np.ndarray:
    """Of n + 1 levels from high to 0 all but that, even to 1 - threshold of it, then quadratic."""
    check_ends(n, high, 0.0, positive=False)
    if n == 1:
        return np.array([high])
    even = n // 2 if linear_steps is None else check_count("linear_steps", linear_steps, n - 1)
    i, slope = np.arange(n), threshold / even
    bend = (1 - slope * n) / (n - even) ** 2  # so that it meets 1 at n
    levels = high * (1 - slope * i - bend * np.maximum(i - even, 0) ** 2)
    if np.any(np.diff([*levels, 0.0]) >= 0):
        raise ValueError(
            f"threshold={threshold:g} is too large for {even} even steps of {n}, the levels would"
            " not go down; use a smaller one"
        )
    return levels


def ipndm(n: int) -> np.ndarray:
    """Where sigma is sin(pi s / 2)^2 in the vp frame, s even from 1 (reference IPNDMScheduler)."""
    s = np.linspace(1, 0, n + 1)[1:-1] * (math.pi / 2)
    sigma = np.sin(s) ** 2
    return np.array([math.inf, *(sigma / (np.cos(s) * np.sqrt(1 + sigma)))])


def resampled(levels: str) -> Callable[[int], np.ndarray]:
    """Return the ramp of n of n + 1 levels log-linear in a table, its last left out."""
    table = np.log([float(level) for level in levels.split()])

    def ramp(n: int) -> np.ndarray:
        places = np.linspace(0, len(table) - 1, n + 1)
        return np.asarray(np.exp(np.interp(places, np.arange(len(table)), table))[:n])

    return ramp


# Align Your Steps (arXiv:2404.14507), ten steps; sigma / alpha
AYS = {
    "ays_sd15": "14.6146412293 6.4745760956 3.8636745985 2.6946151520 1.8841921177 1.3943805092"
    " 0.9642583904 0.6523686016 0.3977456272 0.1515232662 0.0291671582",
    "ays_sdxl": "14.6146412293 6.3184485287 3.7681790315 2.1811480769 1.3405244945 0.8620721141"
    " 0.5550693289 0.3798540708 0.2332364134 0.1114188177 0.0291671582",
    "ays_svd": "700 54.5 15.886 7.977 4.248 1.789 0.981 0.403 0.173 0.034 0.002",
}
