"""First-order samplers: DDIM, DDPM, Euler, consistency models, LCM, TCD, and SDE solvers."""

import math
from typing import Any

from ..predictions import PREDICTION_TYPES, Prediction
from ..schedules import Point
from .formulas import ancestral, decay, flow_coordinates, langevin_step
from .registry import register
from .requests import Evaluate, Rms


@register(
    "euler_ancestral",
    paper="k-diffusion sample_euler_ancestral; DDIM (arXiv:2010.02502, eq. 12) at eta = 1",
    stochastic=lambda o: o["eta"] > 0,
    variants=({}, {"eta": 0.4}),
    defaults={"eta": 1.0},
)
@register(
    "ddim",
    paper="arXiv:2010.02502, eq. 12",
    stochastic=lambda o: o["eta"] > 0,
    variants=(
        {},
        {"eta": 0.6},
        {"eta": 1.0},
        {"use_clipped_model_output": True, "eta": 0.3},
        {"corrector": "unic"},
    ),
)
def ddim(x, grid, noise, *, eta=0.0, use_clipped_model_output=False):
    """DDIM: x_b = alpha_b x0 + sqrt(sigma_b^2 - std^2) eps + std z.

    std = eta sigma_b sqrt(1 - rho^2), rho = e^(lam_a - lam_b). With eta = 0 it is Euler's method in
    sigma / alpha, with eta = 1 the ancestral step; a larger eta is cut where std reaches sigma_b.
    """
    for a, b in grid.steps():
        x, x0, eps = yield Evaluate(x, a, eps=True)
        if use_clipped_model_output:
            eps = (x - a.alpha * x0) / a.sigma
        down, up = ancestral(a, b, eta)
        x = b.alpha * x0 + down * eps
        if up > 0:
            x = x + up * noise(a, b)
    return x


VARIANCES = (
    "fixed_small",
    "fixed_small_log",
    "fixed_large",
    "fixed_large_log",
    "learned",
    "learned_range",
)


def variance_bounds(a: Point, b: Point) -> tuple[float, float]:
    """Return the bounds of DDPM's variance, the posterior's and beta, above 0 for their logs."""
    _, fresh = decay(a, b)
    return max(b.sigma**2 * fresh, 1e-20), max(a.sigma**2 * fresh, 1e-20)


@register(
    "ddpm",
    paper="arXiv:2006.11239, algorithm 2; learned variance arXiv:2102.09672, eq. 15",
    stochastic=True,
    exact=lambda o: o["variance"].startswith("fixed_small"),
    choices={"variance": VARIANCES},
    variants=tuple({"variance": v} for v in VARIANCES),
)
def ddpm(x, grid, noise, *, variance="fixed_small", draw_last=False):
    """DDPM: x_b = alpha_b (1 - rho^2) x0 + (sigma_b / sigma_a) rho x + std z.

    rho = e^(lam_a - lam_b). std^2 is the posterior's sigma_b^2 (1 - rho^2) (fixed_small), or
    beta = sigma_a^2 (1 - rho^2) (fixed_large), or between the two as the network says. The last
    step draws nothing (with draw_last it does, as in the reference, which tests t > 0).
    """
    for a, b in grid.steps():
        x, x0 = yield x, a
        rho, fresh = decay(a, b)
        small, large = variance_bounds(a, b)
        x = (b.alpha * fresh) * x0 + (b.sigma / a.sigma * rho) * x
        if b.sigma > 0 or (draw_last and a.t > 0):
            if variance == "learned_range":
                x = x + noise(a, b, log_range=(math.log(small), math.log(large)))
            elif variance == "learned":  # the network says the log variance itself
                x = x + noise(a, b, log_range=(-1.0, 1.0))
            else:
                std = math.sqrt(small if variance.startswith("fixed_small") else large)
                x = x + std * noise(a, b)
    return x


def churn(x, a, grid, noise, s_churn, s_tmin, s_tmax, s_noise):
    """Return (x, a) noised up from level r = sigma / alpha to (1 + gamma) r, if r is in range.

    gamma = min(s_churn / n, sqrt 2 - 1): arXiv:2206.00364, algorithm 2, lines 4 to 6.
    """
    gamma = min(s_churn / grid.total, math.sqrt(2) - 1) if s_tmin <= a.ratio <= s_tmax else 0.0
    if gamma == 0.0 or a.alpha == 0.0:
        return x, a
    hat = grid.at(ratio=a.ratio * (1 + gamma))
    std = s_noise * hat.alpha * a.ratio * math.sqrt(gamma * (2 + gamma))
    return (hat.alpha / a.alpha) * x + std * noise(), hat


def churns(options):
    """Whether these options add noise at all."""
    return options["s_churn"] > 0


def exact_churn(options):
    """Whether the noise that is added, if any, has the variance that the level asks for."""
    return options["s_noise"] == 1 or not churns(options)


@register(
    "euler",
    paper="arXiv:2206.00364, algorithm 2 without its second stage",
    stochastic=churns,
    exact=exact_churn,
    variants=(
        {},
        {"s_churn": 5.0},
        {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003},
    ),
)
def euler(x, grid, noise, *, s_churn=0.0, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0):
    """Euler's method in sigma / alpha: x_b = alpha_b x0 + (sigma_b / sigma_a) (x - alpha_a x0)."""
    for a, b in grid.steps():
        x, a = churn(x, a, grid, noise, s_churn, s_tmin, s_tmax, s_noise)
        x, x0 = yield x, a
        x = b.alpha * x0 + (b.sigma / a.sigma) * (x - a.alpha * x0)
    return x


@register(
    "euler_late_churn",
    paper="the reference EulerDiscreteScheduler, which noises up after the evaluation",
    stochastic=churns,
    exact=lambda o: not churns(o),
    choices={"prediction_type": PREDICTION_TYPES},
    variants=({}, {"s_churn": 5.0}, {"s_churn": 40.0, "prediction_type": "v_prediction"}),
)
def euler_late_churn(
    x,
    grid,
    noise,
    *,
    s_churn=0.0,
    s_tmin=0.0,
    s_tmax=math.inf,
    s_noise=1.0,
    prediction_type="epsilon",
    sigma_data=0.5,
    spare=0.0,
):
    """Euler whose noise is added after the network saw the sample: its output is of less noise.

    spare: how many levels the reference counts as steps, which it does not take.
    """
    says = Prediction(prediction_type, sigma_data=sigma_data)
    s_churn *= grid.total / (grid.total + spare)
    for a, b in grid.steps():
        x, x0 = yield x, a
        eps = (x - a.alpha * x0) / a.sigma
        hat, top = churn(x, a, grid, noise, s_churn, s_tmin, s_tmax, s_noise)
        if top is not a:
            at = a if prediction_type == "v_prediction" else top  # the reference's v, of less noise
            (p, q), (p_hat, q_hat) = says.linear(a), says.linear(at)
            x0 = p_hat * (at.alpha / top.alpha) * hat + (q_hat / q) * (x0 - p * x)
            eps = (hat - top.alpha * x0) / top.sigma
        x = b.alpha * x0 + b.sigma * eps
    return x


@register(
    "lcm",
    paper="arXiv:2310.04378, algorithm 3",
    order=0,
    jumps=True,
    stochastic=True,
    exact=lambda o: o["s_noise"] == 1,
)
@register(
    "consistency",
    paper="arXiv:2303.01469, algorithm 1",
    order=0,
    jumps=True,
    stochastic=True,
    exact=lambda o: o["s_noise"] == 1,
    variants=({}, {"s_noise": 1.007}),
)
def consistency(x, grid, noise, *, s_noise=1.0):
    """Consistency models, LCM: to the end in one jump, then noised up again to the next level.

    x_b = alpha_b (x0 + s_noise sqrt(r_b^2 - r_end^2) z), r = sigma / alpha.
    """
    end = grid.points[-1].ratio
    for a, b in grid.steps():
        x, x0 = yield x, a
        x = b.alpha * x0
        if b.ratio > end:
            x = x + (s_noise * b.alpha * math.sqrt(b.ratio**2 - end**2)) * noise()
    return x


def tcd_target(grid: Any, b: Point, eta: float) -> Point:
    """Return the point at the time (1 - eta) t_b, to which TCD's step to b is deterministic."""
    if b == grid.points[-1] or not eta:
        return b
    if eta > 1:
        raise ValueError(f"eta is the part of a time, in [0, 1], got {eta}")
    target: Point = grid.at_time((1 - eta) * b.t)
    if target.ratio > b.ratio:
        raise ValueError("tcd needs model times that are 0 where there is no noise")
    return target


@register(
    "tcd",
    paper="arXiv:2402.19159, algorithm 4 (strategic stochastic sampling)",
    order=lambda o: 0 if o["eta"] else 1,
    stochastic=lambda o: o["eta"] > 0,
    variants=({}, {"eta": 0.0}),
)
def tcd(x, grid, noise, *, eta=0.3):
    """TCD: DDIM to the time (1 - eta) t_b (gamma in the paper), then noised up to t_b."""
    for a, b in grid.steps():
        x, x0, eps = yield Evaluate(x, a, eps=True)
        target = tcd_target(grid, b, eta)
        x = target.alpha * x0 + target.sigma * eps
        if target != b:
            part = b.alpha / target.alpha
            x = part * x + math.sqrt(b.sigma**2 - (part * target.sigma) ** 2) * noise(target, b)
    return x


@register(
    "euler_maruyama",
    paper="arXiv:2011.13456, appendix E and eq. 6",
    stochastic=True,
    exact=False,
    singular=False,
)
def euler_maruyama(x, grid, noise, *, dt=0.0):
    """Euler-Maruyama: x_b = x - (f x - g^2 score) dt + g sqrt(dt) z.

    f and g are the drift and the diffusion at t_a. dt is t_a - t_b, or what is given: published
    code steps by 1 / n wherever the times lie.
    """
    for a, b in grid.steps():
        if a.alpha == 0:
            raise ValueError(
                "euler_maruyama cannot step from alpha = 0, where the rates of its SDE are"
                " infinite; use a grid that starts at a finite level"
            )
        x, x0 = yield x, a
        f, squared = grid.schedule.rates(a)
        step = dt or a.t - b.t
        score = (a.alpha * x0 - x) / a.sigma**2
        x = (1 - f * step) * x + (squared * step) * score
        if b.sigma > 0:
            x = x + math.sqrt(squared * step) * noise(a, b)
    return x


@register(
    "flow_sde",
    paper="Flow-GRPO, arXiv:2505.05470, eq. 9",
    stochastic=lambda o: o["eta"] > 0,
    exact=lambda o: not o["eta"],
    variants=({}, {"eta": 0.0}),
)
def flow_sde(x, grid, noise, *, eta=0.7):
    """Flow-GRPO: Euler-Maruyama on the SDE of a flow in its time s = sigma / (alpha + sigma).

    u_b = u - (v + g^2 eps / (2 s)) ds + g sqrt(ds) z, u = x / (alpha + sigma), g^2 = eta^2 s /
    (1 - s), where 1 - s is that of the step's end if s = 1. Noise is added in every step, the last
    one too, as where the likelihood of each step is needed.
    """
    for a, b in grid.steps():
        x, x0, eps = yield Evaluate(x, a, eps=True)
        (ca, sa), (cb, sb) = flow_coordinates(a), flow_coordinates(b)
        step, odds = sa - sb, eta**2 / (1 - (sa if sa < 1 - 1e-6 else sb))
        x = (cb / ca) * x - (cb * step) * (eps - x0 + (0.5 * odds) * eps)
        if eta > 0:
            x = x + (cb * math.sqrt(odds * sa * step)) * noise(a, b)
    return x


@register(
    "predictor_corrector",
    paper="arXiv:2011.13456, algorithms 2 and 4",
    evaluations=2,
    stochastic=True,
    exact=False,
    singular=False,
    traced=False,
    choices={"per_sample": (False, True)},
)
def predictor_corrector(x, grid, noise, *, snr=0.15, correct_steps=1, per_sample=False):
    """Langevin steps at each level, as long as the network's score says, then one step down.

    The length follows the mean norms of a batch, as published, or those of each sample.
    """
    over = "sample" if per_sample else "batch"
    for a, b in grid.steps():
        for _ in range(correct_steps):
            x, _, eps = yield Evaluate(x, a, eps=True)
            score, z = -1 / a.sigma * eps, noise()
            size = snr * (yield Rms(z, over)) / (yield Rms(score, over))
            x = langevin_step(x, score, z, size)
        x, x0 = yield x, a
        rho, fresh = decay(a, b)
        x = (b.alpha * fresh) * x0 + (b.sigma / a.sigma * rho) * x
        if b.sigma > 0:
            x = x + (b.alpha * a.ratio * math.sqrt(fresh)) * noise(a, b)
    return x
