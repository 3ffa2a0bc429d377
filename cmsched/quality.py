"""What samplers are worth: the error that they leave against the network evaluations they take.

The data are a Gaussian mixture in the plane, so the network is exact and so is the answer.
Deterministic samplers are measured by the root mean square distance of their samples to the
solution of the probability-flow ODE from the same noise (in r = sigma / alpha, u = x / alpha,
du/dr = -r grad log p_r(u), integrated to 1e-10); stochastic ones by the sliced Wasserstein distance
of their samples to the mixture. Everybody walks the same levels, those of arXiv:2206.00364, eq. 5,
from r = 80 to 0.002, and from there to 0 in one step. A sampler that cannot step to 0 ends at 0.002
and takes the network's estimate there, which is the first-order step of the others.

Equal cost is the same number of evaluations: a sampler that evaluates twice gets half the steps.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import samplers
from .engine import run
from .noise import Rng
from .plan import Plan
from .schedulers import Scheduler

__all__ = ["BUDGETS", "Case", "Curve", "Mixture", "cases", "curve", "draw", "floor", "table"]

Host = npt.NDArray[np.float64]

BUDGETS = (4, 6, 8, 12, 16, 24, 32, 48, 64)  # evaluations
HIGH, LOW = 80.0, 0.002  # sigma / alpha of the first and the last evaluation
TOLERANCES = tuple(0.5 * 0.6**k for k in range(40))  # of samplers that choose their own steps


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture in the plane, with round components."""

    weights: tuple[float, ...] = (0.3, 0.25, 0.2, 0.15, 0.1)
    radius: float = 1.2
    stds: tuple[float, ...] = (0.25, 0.4, 0.2, 0.3, 0.35)

    @cached_property
    def _parts(self) -> tuple[Host, Host, Host]:
        """Weights (k,), means (k, 2) on a circle and variances (k,)."""
        angle = 2 * np.pi * np.arange(len(self.weights)) / len(self.weights) + 0.3
        means = self.radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return np.array(self.weights), means, np.array(self.stds) ** 2

    def slope(self, u: Host, ratio: float) -> Host:
        """Return du/dr = -r grad log p_r(u) at u (n, 2), which is the mean of eps given u."""
        weights, means, variances = self._parts
        spread = variances + ratio**2
        away = u[:, None] - means
        log_p = np.log(weights / spread) - 0.5 * np.sum(away**2, axis=2) / spread
        p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        out: Host = ratio * np.einsum("nk,nkd->nd", p / spread, away)
        return out

    def solve(self, u: Host, start: float, end: float = 0.0) -> Host:
        """Return where the probability flow takes u (n, 2) from one sigma / alpha to another."""
        from scipy.integrate import solve_ivp

        def slope(ratio: float, flat: Host) -> Host:
            return self.slope(flat.reshape(u.shape), ratio).ravel()

        args = {"method": "DOP853", "rtol": 1e-10, "atol": 1e-11}
        out: Host = solve_ivp(slope, (start, end), u.ravel(), **args).y[:, -1].reshape(u.shape)
        return out

    def quantiles(self, directions: Host, q: Host) -> Host:
        """Return the q quantiles (m, n) of the mixture's projections on directions (m, 2)."""
        from scipy.special import ndtr

        weights, means, variances = self._parts
        centre, std = (directions @ means.T)[..., None], np.sqrt(variances)[:, None]
        low = np.full((len(directions), len(q)), -20.0)
        high = -low
        for _ in range(48):
            middle = 0.5 * (low + high)
            below = np.sum(weights[:, None] * ndtr((middle[:, None] - centre) / std), axis=1) < q
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return 0.5 * (low + high)

    def sample(self, n: int, seed: int) -> Host:
        """Return exact samples (n, 2)."""
        rng = np.random.default_rng(seed)
        weights, means, variances = self._parts
        k = rng.choice(len(weights), n, p=weights)
        out: Host = means[k] + np.sqrt(variances[k])[:, None] * rng.standard_normal((n, 2))
        return out
