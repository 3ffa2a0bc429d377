"""First-order samplers: DDIM, DDPM, Euler, Euler ancestral, consistency models and LCM."""

import math

from . import Raw, register


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
    """x_b = alpha_b x0 + sqrt(sigma_b^2 - std^2) eps + std z, std = eta sigma_b sqrt(1 - rho^2), rho = e^(lam_a - lam_b).

    With eta = 0 it is Euler's method in sigma / alpha, with eta = 1 the ancestral step.
    """
    for a, b in grid.steps():
        x, x0, raw = yield Raw(x, a)
        eps = (x - a.alpha * (x0 if use_clipped_model_output else raw)) / a.sigma
        std = eta * b.sigma * math.sqrt(max(-math.expm1(2 * (a.lam - b.lam)), 0.0))
        x = b.alpha * x0 + math.sqrt(max(b.sigma**2 - std**2, 0.0)) * eps
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
    variants=tuple({"variance": v} for v in VARIANCES),
)
def ddpm(x, grid, noise, *, variance="fixed_small", draw_last=False):
    """Mean (alpha_b beta x0 + r sigma_b^2 x) / sigma_a^2, r = alpha_a / alpha_b, beta = sigma_a^2 - r^2 sigma_b^2.

    The variance is the posterior's, beta sigma_b^2 / sigma_a^2 (fixed_small), or beta (fixed_large), or between the two
    as the network says. The last step draws nothing (draw_last: the reference's, which tests t > 0).
    """
    for a, b in grid.steps():
        x, x0 = yield x, a
        r = a.alpha / b.alpha
        beta = a.sigma**2 - (r * b.sigma) ** 2
        small = max(beta * (b.sigma / a.sigma) ** 2, 1e-20)
        x = (b.alpha * beta / a.sigma**2) * x0 + (r * (b.sigma / a.sigma) ** 2) * x
        if b.sigma > 0 or (draw_last and a.t > 0):
            if variance == "learned_range":
                x = x + noise(a, b, log_range=(math.log(small), math.log(beta)))
            elif variance == "learned":
                x = x + noise(a, b, log_range=(-1.0, 1.0))  # the head is the log variance itself
            else:
                x = x + math.sqrt(small if variance.startswith("fixed_small") else beta) * noise(a, b)
    return x


def churn(x, a, grid, noise, *, steps, s_churn, s_tmin, s_tmax, s_noise):
    """Return (x, a) noised up from level r to (1 + gamma) r, gamma = min(s_churn / n, sqrt 2 - 1), r = sigma / alpha.

    arXiv:2206.00364, algorithm 2, lines 4 to 6.
    """
    gamma = min(s_churn / steps, math.sqrt(2) - 1) if s_tmin <= a.ratio <= s_tmax else 0.0
    if gamma == 0.0:
        return x, a
    hat = grid.at(ratio=a.ratio * (1 + gamma))
    return (hat.alpha / a.alpha) * x + (s_noise * hat.alpha * math.sqrt(hat.ratio**2 - a.ratio**2)) * noise(), hat


def churned(options):
    """Whether these options noise up at all."""
    return options["s_churn"] > 0


@register(
    "euler",
    paper="arXiv:2206.00364, algorithm 2 without its second stage",
    stochastic=churned,
    exact=lambda o: o["s_noise"] == 1,
    variants=({}, {"s_churn": 5.0}, {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}),
)
def euler(x, grid, noise, *, s_churn=0.0, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0):
    """x_b = alpha_b x0 + (sigma_b / sigma_a) (x - alpha_a x0): Euler in sigma / alpha, noised up before each evaluation."""
    for a, b in grid.steps():
        x, a = churn(
            x, a, grid, noise, steps=len(grid), s_churn=s_churn, s_tmin=s_tmin, s_tmax=s_tmax, s_noise=s_noise
        )
        x, x0 = yield x, a
        x = b.alpha * x0 + (b.sigma / a.sigma) * (x - a.alpha * x0)
    return x


@register(
    "euler_late_churn",
    paper="the reference EulerDiscreteScheduler, which noises up after the evaluation",
    stochastic=churned,
    exact=lambda o: o["s_churn"] == 0,
    variants=({"s_churn": 5.0}, {"s_churn": 40.0, "prediction_type": "v_prediction"}),
)
def euler_late_churn(
    x, grid, noise, *, s_churn=0.0, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0, prediction_type="epsilon"
):
    """Euler whose noise is added to the sample after the network saw it, so its output belongs to less noise."""
    for a, b in grid.steps():
        x, x0 = yield x, a
        eps = (x - a.alpha * x0) / a.sigma
        hat, top = churn(
            x, a, grid, noise, steps=len(grid), s_churn=s_churn, s_tmin=s_tmin, s_tmax=s_tmax, s_noise=s_noise
        )
        if prediction_type == "v_prediction":  # x0 = p x + q v, with p and q of the lower level
            x0 = x0 + (hat - x) / (1 + a.sigma**2)
        if prediction_type != "epsilon":
            eps = (hat - top.alpha * x0) / top.sigma
        x = hat + (b.sigma - top.sigma) * eps
    return x


@register(
    "consistency",
    paper="arXiv:2303.01469, algorithm 1; LCM arXiv:2310.04378, algorithm 3",
    order=0,
    stochastic=True,
    variants=({}, {"s_noise": 1.007}),
    exact=False,
)
def consistency(x, grid, noise, *, s_noise=1.0):
    """x_b = alpha_b (x0 + s_noise sqrt(r_b^2 - r_end^2) z), r = sigma / alpha: to the end in one jump, then noised up again."""
    end = grid.points[-1].ratio
    for a, b in grid.steps():
        x, x0 = yield x, a
        x = b.alpha * x0
        if b.ratio > end:
            x = x + (s_noise * b.alpha * math.sqrt(b.ratio**2 - end**2)) * noise()
    return x
