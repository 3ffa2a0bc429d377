"""What samplers are worth: the error that they leave, against the network evaluations they take.

The data are a Gaussian mixture in the plane, so that the network is exact and so is the answer.
A deterministic sampler is measured by the root mean square distance of its samples from the
solution of the probability-flow ODE for the same noise; a stochastic one by the sliced
2-Wasserstein distance of its samples from the mixture, whose floor is that of exact samples.

All walk the same levels, sigma / alpha from 80 to 0.002 in equal steps of lam, then to 0. A sampler
that cannot step to 0 stops at 0.002 and takes the network's estimate there, as the others do.
Samplers that jump to the end of the trajectory (order 0) get the exact consistency function, all
others the exact denoiser. A budget counts evaluations: two a step is half the steps.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import samplers
from ..engine import sample
from ..noise import Rng
from ..plan import Plan
from ..schedulers import Scheduler
from .progress import seconds

__all__ = [
    "BUDGETS",
    "CASES",
    "FROM_ONE",
    "SIX",
    "Case",
    "Curve",
    "Mixture",
    "cases",
    "distribution",
    "expected",
    "floor",
    "measure",
    "number",
    "paths",
    "table",
]

Host = npt.NDArray[np.float64]

BUDGETS = (4, 6, 8, 12, 16, 24, 32, 48, 64)  # evaluations
FROM_ONE = (1, 2, *BUDGETS)
HIGH, LOW = 80.0, 0.002  # sigma / alpha of the first and the last evaluation
PATHS = 512  # samples compared with the exact solution
SAMPLES = 2**14  # samples compared with the distribution
JUMPS = 8  # evaluations of samplers that are at the end after one
SOLVED = 16  # steps, of four slopes, of the solver that is their network
TOLERANCES = tuple(0.7**k for k in range(40))  # rtol of what chooses its own steps


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
        square = np.sum(u**2, axis=1, keepdims=True) - 2 * u @ means.T + np.sum(means**2, axis=1)
        log_p = np.log(weights / spread) - 0.5 * square / spread
        p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True) * spread
        out: Host = ratio * (u * p.sum(axis=1, keepdims=True) - p @ means)
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
        low: Host = np.full((len(directions), len(q)), -20.0)
        high: Host = -low
        for _ in range(48):
            middle = 0.5 * (low + high)
            below = np.sum(weights[:, None] * ndtr((middle[:, None] - centre) / std), axis=1) < q
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        out: Host = 0.5 * (low + high)
        return out

    def sample(self, n: int, seed: int) -> Host:
        """Return exact samples (n, 2)."""
        rng = np.random.default_rng(seed)
        weights, means, variances = self._parts
        k = rng.choice(len(weights), n, p=weights)
        out: Host = means[k] + np.sqrt(variances[k])[:, None] * rng.standard_normal((n, 2))
        return out

    def consistency(self, u: Host, start: float) -> Host:
        """Return where the flow ends, to 1e-3: of many samples, and far below their floor."""
        floor = 0.3  # even in log sigma / alpha where it is above the floor
        levels = floor * np.sinh(np.linspace(math.asinh(start / floor), 0.0, SOLVED + 1))
        for a, b in zip(levels.tolist(), levels[1:].tolist(), strict=False):
            h, middle = b - a, 0.5 * (a + b)
            k1 = self.slope(u, a)
            k2 = self.slope(u + 0.5 * h * k1, middle)
            k3 = self.slope(u + 0.5 * h * k2, middle)
            u = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + self.slope(u + h * k3, b))
        return u


# what is compared


class Case(NamedTuple):
    """A sampler with options, and how it is called in tables and pictures."""

    label: str
    sampler: str
    options: Mapping[str, Any] = MappingProxyType({})

    @property
    def stochastic(self) -> bool:
        """Whether it draws, and is measured by its distribution."""
        return bool(samplers.get(self.sampler).trait("stochastic", self.options))

    @property
    def jumps(self) -> bool:
        """Whether its network jumps to the end of the trajectory."""
        return bool(samplers.get(self.sampler).trait("order", self.options) == 0)

    @property
    def family(self) -> str:
        """The file of its loop, which is what lines of one colour have in common."""
        module = samplers.get(self.sampler).loop.__module__.rpartition(".")[2]
        return "unipc" if self.options.get("corrector") else module


THIRD = {"solver_order": 3, "third_order": "exact"}
CHURN = {"s_churn": 10.0, "s_noise": 1.003}
CASES = (
    Case("DDIM, Euler", "ddim"),
    Case("DDIM + UniC", "ddim", {"corrector": "unic"}),
    Case("DPM++ 2M", "dpmpp_multistep"),
    Case("DPM++ 2M heun", "dpmpp_multistep", {"solver_type": "heun"}),
    Case("DPM++ 2M + UniC", "dpmpp_multistep", {"corrector": "unic"}),
    Case("DPM++ 3M published", "dpmpp_multistep", {"solver_order": 3}),
    Case("DPM++ 3M exact", "dpmpp_multistep", THIRD),
    Case("DPM 2M", "dpm_multistep"),
    Case("DPM 3M exact", "dpm_multistep", THIRD),
    Case("UniPC 2", "unipc"),
    Case("UniPC 3", "unipc", {"solver_order": 3}),
    Case("UniP 3", "unipc", {"solver_order": 3, "disable_corrector": True}),
    Case("LMS 2", "lms", {"solver_order": 2}),
    Case("LMS 4", "lms"),
    Case("LMS 4 + UniC", "lms", {"corrector": "unic"}),
    Case("DEIS 2", "deis"),
    Case("DEIS 3", "deis", {"solver_order": 3}),
    Case("DEIS 3 + UniC", "deis", {"solver_order": 3, "corrector": "unic"}),
    Case("iPNDM 4", "ipndm"),
    Case("iPNDM-v 4", "ipndm_v"),
    Case("PLMS", "plms"),
    Case("PNDM", "pndm"),
    Case("Heun", "heun"),
    Case("Heun, flow time", "heun", {"variable": "flow"}),
    Case("DPM2", "dpm2"),
    Case("DPM++ 2S midpoint", "dpmpp_2s_ancestral", {"eta": 0.0}),
    Case("DPM++ 2S", "dpmpp_singlestep"),
    Case("DPM++ 3S", "dpmpp_singlestep", {"solver_order": 3}),
    Case("DPM 3S", "dpm_singlestep", {"solver_order": 3}),
    Case("DPM fast", "dpm_fast"),
    Case("DPM adaptive", "dpm_adaptive"),
    Case("Euler a, DDPM, DDIM eta 1", "ddim", {"eta": 1.0}),
    Case("DDIM eta 0.5", "ddim", {"eta": 0.5}),
    Case("DDPM large variance", "ddpm", {"variance": "fixed_large"}),
    Case("Euler churn", "euler", CHURN),
    Case("Euler late churn", "euler_late_churn", CHURN),
    Case("Euler-Maruyama", "euler_maruyama"),
    Case("Flow SDE", "flow_sde"),
    Case("Predictor-corrector", "predictor_corrector"),
    Case("Heun churn", "heun", CHURN),
    Case("DPM2 churn", "dpm2", CHURN),
    Case("DPM2 a", "dpm2_ancestral"),
    Case("DPM++ 2S a", "dpmpp_2s_ancestral"),
    Case("DPM++ SDE", "dpmpp_sde"),
    Case("DPM++ 2S SDE", "dpmpp_singlestep", {"eta": 1.0}),
    Case("DPM++ 2M SDE", "dpmpp_multistep", {"eta": 1.0}),
    Case("DPM++ 2M SDE heun", "dpmpp_multistep", {"eta": 1.0, "solver_type": "heun"}),
    Case("DPM++ 3M SDE published", "dpmpp_multistep", {"eta": 1.0, "solver_order": 3}),
    Case("DPM++ 3M SDE exact", "dpmpp_multistep", {"eta": 1.0, **THIRD}),
    Case(
        "DPM++ 3M SDE reference",
        "dpmpp_multistep",
        {"eta": 1.0, "solver_order": 3, "third_order": "reference"},
    ),
    Case("DPM 2M SDE", "dpm_multistep", {"eta": 1.0}),
    Case("DPM fast eta 1", "dpm_fast", {"eta": 1.0}),
    Case("DPM adaptive eta 1", "dpm_adaptive", {"eta": 1.0}),
    Case("RePaint, no mask", "repaint", {"jump_length": 2, "jump_n_sample": 2}),
    Case("Consistency model", "consistency"),
    Case("LCM", "lcm"),
    Case("TCD", "tcd"),
)
SAME = ("euler_ancestral",)  # by another name, see the labels
# what most people choose between
SIX = (
    Case("Euler a", "euler_ancestral"),
    Case("DDIM, Euler", "ddim"),
    Case("DPM++ 2M SDE", "dpmpp_multistep", {"eta": 1.0}),
    Case("DPM++ 2M", "dpmpp_multistep"),
    Case("UniPC 3", "unipc", {"solver_order": 3}),
    Case("CM, LCM", "consistency"),
)


def cases() -> list[Case]:
    """Return all cases: those above, and any sampler registered beside them."""
    known = {*SAME, *(case.sampler for case in CASES)}
    return [*CASES, *(Case(name, name) for name in samplers.REGISTRY if name not in known)]


# measuring


class Curve(NamedTuple):
    """What a case leaves within each budget: None where it cannot take so few."""

    case: Case
    points: tuple[tuple[int, float] | None, ...]  # (evaluations taken, error)


@dataclass(frozen=True)
class Problem:
    """The noise that all start from, and how far samples made of it are from the answer."""

    data: Mixture
    noise: Host
    error: Callable[[Host], float]


@lru_cache
def paths(number: int = PATHS) -> Problem:
    """Return the problem of following the probability flow."""
    data, noise = Mixture(), Rng(0).normal((number, 2), dtype="float64")
    first = scheduler(CASES[0]).plan(4).points[0]
    exact = data.solve(noise / first.alpha, first.ratio)
    return Problem(data, noise, lambda x: math.sqrt(np.mean(np.sum((x - exact) ** 2, axis=1))))


@lru_cache
def distribution(number: int = SAMPLES) -> Problem:
    """Return the problem of hitting the distribution, in 32 directions."""
    data = Mixture()
    angles = np.pi * (np.arange(32) + 0.5) / 32
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    exact = data.quantiles(directions, (np.arange(number) + 0.5) / number)

    def distance(x: Host) -> float:
        return math.sqrt(np.mean((np.sort(directions @ x.T, axis=1) - exact) ** 2))

    return Problem(data, Rng(0).normal((number, 2), dtype="float64"), distance)


def floor(problem: Problem, repeats: int = 16) -> float:
    """Return the mean distance of as many exact samples."""
    number = len(problem.noise)
    drawn = (problem.data.sample(number, seed) for seed in range(repeats))
    return float(np.mean([problem.error(x) for x in drawn]))


def scheduler(case: Case, **options: Any) -> Scheduler:
    """Return the scheduler that walks the levels of this comparison."""
    ends: Literal["zero", "sigma_min"]
    ends = "zero" if samplers.get(case.sampler).trait("singular", case.options) else "sigma_min"
    return Scheduler(
        sampler=case.sampler,
        sampler_options={**case.options, **options},
        schedule="vp_sde",
        spacing="exponential",
        sigma_max=HIGH,
        sigma_min=LOW,
        final_sigmas_type=ends,
        prediction_type="sample",
    )


def measure(case: Case, budgets: Sequence[int] = BUDGETS, problem: Problem | None = None) -> Curve:
    """Return a case's errors within budgets of evaluations."""
    problem = problem or (distribution() if case.stochastic else paths())
    if "rtol" in samplers.get(case.sampler).options:  # tolerances instead of steps
        tried = []
        for rtol in TOLERANCES:
            plan = scheduler(case, rtol=rtol, atol=0.1 * rtol).plan(1)
            tried.append(attempt(case, plan, problem))
            if tried[-1][0] > max(budgets):
                break
        found = [max((p for p in tried if p[0] <= b), default=None) for b in budgets]
        return Curve(case, tuple(found))
    made = scheduler(case)
    most = JUMPS if case.jumps else max(budgets)
    plans = [largest(case, made, budget) if budget <= most else None for budget in budgets]
    return Curve(case, tuple(None if p is None else attempt(case, p, problem) for p in plans))


def expected(
    work: Sequence[Case], budgets: Sequence[int] = BUDGETS, problem: Problem | None = None
) -> float:
    """Return about how many seconds it takes to measure: a slope and an error are timed."""
    total = 0.0
    for stochastic in (False, True):
        some = [case for case in work if case.stochastic is stochastic]
        if not some:
            continue
        asked = problem or (distribution() if stochastic else paths())
        slope = seconds(partial(asked.data.slope, asked.noise, 1.0))
        error = seconds(partial(asked.error, asked.noise))
        for case in some:
            taken = [b for b in budgets if not case.jumps or b <= JUMPS]
            slopes = sum(taken) * (4 * SOLVED if case.jumps else 1)
            total += 1.5 * slope * slopes + error * len(taken)  # a step takes half as long
    return total


def largest(case: Case, made: Scheduler, budget: int) -> Plan | None:
    """Return the plan of the most steps that keeps to a budget of evaluations."""
    entry = samplers.get(case.sampler)
    for n in range(budget // entry.evaluations + 1, 0, -1):
        plan = made.plan(n)
        count = len(plan) or entry.evaluations * n
        if count + (plan.grid.points[-1].sigma > 0) <= budget:
            return plan
    return None


def attempt(case: Case, plan: Plan, problem: Problem) -> tuple[int, float]:
    """Run a plan; return the evaluations it took and the error it left."""
    data, evaluations = problem.data, 0
    last = plan.grid.points[-1]

    def model(x: Host, t: Any) -> Host:
        nonlocal evaluations
        evaluations += 1
        at = plan.grid.schedule.at(t=float(t))
        u = x / at.alpha
        if case.jumps:
            return data.consistency(u, at.ratio)
        return u - at.ratio * data.slope(u, at.ratio)

    zeros = np.zeros_like(problem.noise)  # a mask of nothing
    given = {name: zeros for name in samplers.get(case.sampler).given}
    with np.errstate(over="ignore", invalid="ignore"):
        x = sample(model, plan, problem.noise, rng=1, given=given or None)
        if last.sigma > 0:
            x = model(x, last.t)
        error = problem.error(x)
    return evaluations, error if math.isfinite(error) else math.inf


# showing


def merged(curves: Sequence[Curve]) -> list[tuple[str, Curve]]:
    """Return curves with their labels; those that are one another by two names are one."""
    out: list[tuple[str, Curve]] = []
    for curve in curves:
        for i, (label, other) in enumerate(out):
            if alike(curve, other):
                out[i] = (f"{label}, {curve.case.label}", other)
                break
        else:
            out.append((curve.case.label, curve))
    return out


def alike(one: Curve, other: Curve) -> bool:
    """Whether two curves are equal but for rounding."""
    a, b = ([(0, 0.0) if p is None else p for p in c.points] for c in (one, other))
    same = np.allclose(a, b, rtol=1e-6, atol=0)
    return bool(same) and one.case.stochastic == other.case.stochastic


def number(error: float) -> str:
    """Return an error in two digits."""
    return f"{error:.2g}" if 0.01 <= error < 100 else f"{error:.1e}".replace("e-0", "e-")


def table(curves: Sequence[Curve], budgets: Sequence[int] = BUDGETS) -> str:
    """Return the errors as a Markdown table, the three best of each budget bold."""
    columns = zip(*(curve.points for curve in curves), strict=True)
    places = [sorted(p[1] for p in column if p is not None) for column in columns]
    lines = [
        f"| evaluations | {' | '.join(map(str, budgets))} |",
        "|---" * (len(budgets) + 1) + "|",
    ]
    for label, curve in merged(curves):
        cells = []
        for point, place in zip(curve.points, places, strict=True):
            text = "" if point is None else number(point[1])
            cells.append(f"**{text}**" if point and point[1] <= place[:3][-1] else text)
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)
