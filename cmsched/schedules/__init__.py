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

`schedule.on(like)` is a schedule for arrays, see `cmsched.levels`.
"""

import dataclasses
from typing import Any

from ..checks import check_choice, check_name, nearest
from ..names import canonical
from .base import SCHEDULES, Point, Schedule
from .continuous import VESDE, VPSDE, Cosine, Flow, Identity, Logarithmic, TrigFlow
from .discrete import (
    BETA_SCHEDULES,
    Betas,
    betas,
    check_betas,
    log_linear_time,
    rescale_zero_terminal_snr,
)

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
    "check_betas",
    "log_linear_time",
    "make_schedule",
    "register",
    "rescale_zero_terminal_snr",
]

SCHEDULES |= {
    "betas": Betas,
    "cosine": Cosine,
    "flow": Flow,
    "identity": Identity,
    "logarithmic": Logarithmic,
    "trigflow": TrigFlow,
    "vp_sde": VPSDE,
    "ve_sde": VESDE,
}


OWN = frozenset((*SCHEDULES, *BETA_SCHEDULES))


def register(name: str, cls: type[Schedule]) -> None:
    """Enter a schedule of one's own under a name, for `cmsched.Scheduler(schedule=name)`.

    Args:
        name: none of those that are here already.
        cls: a subclass of `Schedule`; its fields are the `schedule_options`.

    Raises:
        TypeError: name is no string, or cls no such class.
        ValueError: the name of another schedule.
    """
    check_name("schedule", name, OWN)
    if not isinstance(cls, type) or not issubclass(cls, Schedule):
        raise TypeError(
            f"cls={cls!r} is no schedule: pass a subclass of cmsched.schedules.Schedule"
        )
    SCHEDULES[name] = cls


def make_schedule(curve: str, **options: Any) -> Schedule:
    """Return a schedule by name: a curve of SCHEDULES, or a name in BETA_SCHEDULES for its betas.

    Args:
        curve: the name; `help(cmsched.Scheduler)` says what each is for.
        **options: fields of its class (num_train_timesteps, sigma_min, frame, ...).

    Raises:
        ValueError: unknown name or option; the message names the nearest known one.
    """
    curve = canonical("schedule", curve, (*SCHEDULES, *BETA_SCHEDULES))
    if curve in BETA_SCHEDULES:
        curve, options = "betas", {"beta_schedule": curve, **options}
    check_choice("schedule", curve, (*SCHEDULES, *BETA_SCHEDULES))
    cls = SCHEDULES[curve]
    known = [f.name for f in dataclasses.fields(cls)]
    for name in options:
        if name not in known:
            raise ValueError(f"schedule {curve!r} has no option {name!r}{nearest(name, known)}")
    if options.get("trained_betas") is not None:
        options["trained_betas"] = check_betas(options["trained_betas"])
    return cls(**options)
