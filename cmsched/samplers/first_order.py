"""First-order samplers: DDIM, DDPM, Euler, Euler ancestral, consistency models and LCM."""

import math

from ..predictions import PREDICTION_TYPES
from . import Raw, register


def shrink(a, b):
    """Return rho = e^(lam_a - lam_b), the share of the noise that a step keeps, and 1 - rho^2."""
    gap = min(a.lam - b.lam, 0.0)
    return math.exp(gap), -math.expm1(2 * gap)


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
    variants=({}, {"eta": 0.6}, {"eta": 1.0}, {"use_clipped_model_output": True, "eta": 0.3}),
)
def ddim(x, grid, noise, *, eta=0.0, use_clipped_model_output=False):
    """x_b = alpha_b x0 + sqrt(sigma_b^2 - std^2) eps + std z, std = eta sigma_b sqrt(1 - rho^2).

    With eta = 0 it is Euler's method in sigma / alpha, with eta = 1 the ancestral step; a larger
    eta is cut where std reaches sigma_b.
    """
    for a, b in grid.steps():
        x, x0, raw = yield Raw(x, a)
        eps = (x - a.alpha * (x0 if use_clipped_model_output else raw)) / a.sigma
        rho, fresh = shrink(a, b)
        std = b.sigma * min(eta * math.sqrt(fresh), 1.0)
        # sigma_b^2 - std^2 without its cancellation
        kept = b.sigma * math.sqrt(max((1 - eta) * (1 + eta) + (eta * rho) ** 2, 0.0))
        x = b.alpha * x0 + kept * eps
        if std > 0:
            x = x + std * noise(a, b)
    return x


VARIANCES = (
    "fixed_small",
    "fixed_small_log",
    "fixed_large",
    "fixed_large_log",
    "learned",
    "learned_range",
)


@register(
    "ddpm",
    paper="arXiv:2006.11239, algorithm 2; learned variance arXiv:2102.09672, eq. 15",
    stochastic=True,
    exact=lambda o: o["variance"].startswith("fixed_small"),
    choices={"variance": VARIANCES},
    variants=tuple({"variance": v} for v in VARIANCES),
)
def ddpm(x, grid, noise, *, variance="fixed_small", draw_last=False):
    """x_b = alpha_b (1 - rho^2) x0 + (sigma_b / sigma_a) rho x + std z, rho = e^(lam_a - lam_b).

    std^2 is the posterior's sigma_b^2 (1 - rho^2) (fixed_small), or beta = sigma_a^2 (1 - rho^2)
    (fixed_large), or between the two as the network says. The last step draws nothing (with
    draw_last it does, as in the reference, which tests t > 0).
    """
    for a, b in grid.steps():
        x, x0 = yield x, a
        rho, fresh = shrink(a, b)
        small, large = (max(s**2 * fresh, 1e-20) for s in (b.sigma, a.sigma))
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


def churned(options):
    """Whether these options noise up at all."""
    return options["s_churn"] > 0


def unchanged(options):
    """Whether the noise that is added has the variance that the level asks for."""
    return options["s_noise"] == 1 or not churned(options)


@register(
    "euler",
    paper="arXiv:2206.00364, algorithm 2 without its second stage",
    stochastic=churned,
    exact=unchanged,
    variants=(
        {},
        {"s_churn": 5.0},
        {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003},
    ),
)
def euler(x, grid, noise, *, s_churn=0.0, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0):
    """x_b = alpha_b x0 + (sigma_b / sigma_a) (x - alpha_a x0): Euler's method in sigma / alpha."""
    for a, b in grid.steps():
        x, a = churn(x, a, grid, noise, s_churn, s_tmin, s_tmax, s_noise)
        x, x0 = yield x, a
        x = b.alpha * x0 + (b.sigma / a.sigma) * (x - a.alpha * x0)
    return x


@register(
    "euler_late_churn",
    paper="the reference EulerDiscreteScheduler, which noises up after the evaluation",
    stochastic=churned,
    exact=lambda o: not churned(o),
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
):
    """Euler whose noise is added after the network saw the sample: its output is of less noise."""
    for a, b in grid.steps():
        x, x0 = yield x, a
        eps = (x - a.alpha * x0) / a.sigma
        hat, top = churn(x, a, grid, noise, s_churn, s_tmin, s_tmax, s_noise)
        if top is not a:
            if prediction_type == "v_prediction":  # x0 = p x + q v, with p and q of the lower level
                x0 = x0 + (hat / top.alpha - x / a.alpha) / (1 + a.ratio**2)
            if prediction_type == "epsilon":
                x0 = (hat - top.sigma * eps) / top.alpha
            else:
                eps = (hat - top.alpha * x0) / top.sigma
        x = b.alpha * x0 + b.sigma * eps
    return x


@register(
    "lcm",
    paper="arXiv:2310.04378, algorithm 3",
    order=0,
    stochastic=True,
    exact=lambda o: o["s_noise"] == 1,
)
@register(
    "consistency",
    paper="arXiv:2303.01469, algorithm 1",
    order=0,
    stochastic=True,
    exact=lambda o: o["s_noise"] == 1,
    variants=({}, {"s_noise": 1.007}),
)
def consistency(x, grid, noise, *, s_noise=1.0):
    """x_b = alpha_b (x0 + s_noise sqrt(r_b^2 - r_end^2) z), r = sigma / alpha.

    To the end in one jump, then noised up again to the next level.
    """
    end = grid.points[-1].ratio
    for a, b in grid.steps():
        x, x0 = yield x, a
        x = b.alpha * x0
        if b.ratio > end:
            x = x + (s_noise * b.alpha * math.sqrt(b.ratio**2 - end**2)) * noise()
    return x
