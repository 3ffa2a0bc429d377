"""Score SDEs, stochastic Heun, and inpainting by RePaint: classes without the usual loop."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from .. import runs
from ..grid import BETAS, RUN, SMALL, WHOLE, Case, Space, count, given_betas

ONCE = {**RUN, "start": ("whole",)}
Steps = Iterator[tuple[torch.Tensor, Mapping[str, torch.Tensor]]]


def in_pairs(scheduler: Any, case: Case, x: Any, start: int, says: Any, options: Any) -> Steps:
    """The loop of the Karras-VE pipeline: noise, a step, the step again with a second evaluation.

    What a plan's step leads to has the next noise in it already.
    """
    i, before = 0, None
    for t in scheduler.timesteps.tolist():
        sigma = float(scheduler.schedule[t])
        following = float(scheduler.schedule[t - 1]) if t > 0 else 0.0
        hat, sigma_hat = scheduler.add_noise_to_input(x, sigma, **options(i))
        if before:
            yield before[0], {**before[1], "prev_sample": hat, "before": before[1].prev_sample}
        out = scheduler.step(says(i, hat), sigma_hat, following, hat)
        x, i = out.prev_sample, i + 1
        yield hat, out
        if t > 0:
            options(i)
            again = scheduler.step_correct(says(i, x), sigma_hat, following, hat, x, out.derivative)
            before, x, i = (x, again), again.prev_sample, i + 1


def churns(case: Case, draws: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    """The noise before an evaluation is drawn at the end of the step before, if it is any."""
    plan = runs.plan_of(KARRAS, case)
    rows = [z if row.draws else [] for z, row in zip([*draws[1:], []], plan.rows, strict=False)]
    return [draws[0], *rows] if plan.start.draws else rows


KARRAS = Space(
    "KarrasVeScheduler",
    {
        **ONCE,
        "n": (1, 2, 3, 7, 20, 60),
        "sigma_min": (0.02, 0.2),
        "sigma_max": (100, 1.7),
        "s_noise": (1.007, 1.0),
        "s_churn": (80, 0, 3),
        "s_min": (0.05, 0),
        "s_max": (50, 1e6),
    },
    tables=(),
    add_noise=None,
    loop_gives=("sigma_hat", "sigma_prev", "sample_hat"),
    parts=("add_noise_to_input", "step_correct"),
    draws=churns,
    loop=in_pairs,
)


def predicting(scheduler: Any, case: Case, x: Any, start: int, says: Any, options: Any) -> Steps:
    """The loop of the score-VE pipeline, whose result is the last mean."""
    scheduler.set_sigmas(count(case))
    i, left = 0, len(scheduler.timesteps)
    for t in scheduler.timesteps:
        left -= 1
        for _ in range(scheduler.config.correct_steps):
            out = scheduler.step_correct(says(i, x), x, **options(i))
            yield x, out
            x, i = out.prev_sample, i + 1
        out = scheduler.step_pred(says(i, x), t, x, **options(i))
        yield x, out if left else {**out, "prev_sample": out.prev_sample_mean}
        x, i = out.prev_sample, i + 1


VE = Space(
    "ScoreSdeVeScheduler",
    {
        **ONCE,
        "num_train_timesteps": (2000, SMALL),
        "snr": (0.15, 0.3),
        "sigma_min": (0.01, 0.1),
        "sigma_max": (1348.0, 50.0),
        "sampling_eps": (1e-5, 1e-3),
        "correct_steps": (1, 0, 2),
        "set.sampling_eps": (None, 1e-4),
    },
    [WHOLE],
    step_draws_last=True,
    tables=("timesteps", "sigmas", "discrete_sigmas"),
    add_noise=None,
    parts=("step_pred", "step_correct", "set_sigmas", "get_adjacent_sigma"),
    loop=predicting,
)


def in_time(scheduler: Any, case: Case, x: Any, start: int, says: Any, options: Any) -> Steps:
    """The loop of the score-VP pipeline, whose result is the last mean."""
    left = len(scheduler.timesteps)
    for i, t in enumerate(scheduler.timesteps):
        left -= 1
        after, mean = scheduler.step_pred(says(i, x), x, t, **options(i))
        yield x, {"prev_sample": after if left else mean, "mean": mean}
        x = after


VP = Space(
    "ScoreSdeVpScheduler",
    {
        **ONCE,
        "num_train_timesteps": (2000, SMALL),
        "beta_min": (0.1, 0.5),
        "beta_max": (20, 9.0),
        "sampling_eps": (1e-3, 1e-2),
    },
    [WHOLE],
    step_draws_last=True,
    tables=(),
    add_noise=None,
    reference_only=dict.fromkeys(("sigmas", "discrete_sigmas"), "None, and never set"),
    parts=("step_pred",),
    loop=in_time,
)


def picture(case: Case, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """An image, and a mask with soft parts."""
    image, mask = (runs.normal(case["shape"], dtype, 7, k) for k in (0, 1))
    return {"image": image, "mask": (0.5 + mask[:, :1]).clamp(0.0, 1.0)}


def back_and_forth(
    scheduler: Any, case: Case, x: Any, start: int, says: Any, options: Any
) -> Steps:
    """The loop of the RePaint pipeline; what an evaluation leads to is after the jump up."""
    given = picture(case, x.dtype)
    times, i = scheduler.timesteps.tolist(), 0
    while times:
        last, chosen = times.pop(0), options(i)
        out = scheduler.step(says(i, x), last, x, given["image"], given["mask"], **chosen)
        seen, x, i = x, out.prev_sample, i + 1
        while times and times[0] >= last:
            x = scheduler.undo_step(x, last, **chosen)
            last = times.pop(0)
        yield seen, {**out, "prev_sample": x, "before": out.prev_sample}


def jumps(case: Case, draws: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    """The draws of single betas, added up to one unit normal; none to reach the clean image."""
    plan = runs.plan_of(REPAINT, case)
    betas = np.asarray(runs.ours(REPAINT, case).betas)
    regrouped = []
    for (z, *up), t, row in zip(draws, plan.timesteps.tolist(), plan.rows, strict=False):
        jump = len(row.draws) > (t > 0)
        regrouped.append([z] if t > 0 else [])
        if jump:
            beta = betas[t : t + len(up)]
            kept = np.append(np.cumprod(1 - beta[:0:-1])[::-1], 1.0)
            weights = np.sqrt(beta * kept)
            total = sum(float(w) * u for w, u in zip(weights, up, strict=False))
            regrouped[-1].append(total / float(np.sqrt(np.sum(weights**2))))
    return regrouped


REPAINT = Space(
    "RePaintScheduler",
    {
        **ONCE,
        **BETAS,
        "beta_schedule": (*BETAS["beta_schedule"], "sigmoid"),
        "eta": (0.0, 0.5, 1.0),
        "clip_sample": (True, False),
        "set.jump_length": (10, 1, 2),
        "set.jump_n_sample": (10, 1, 3),
    },
    [WHOLE],
    tables=("alphas_cumprod", "betas", "alphas", "timesteps", "final_alpha_cumprod"),
    add_noise=None,
    loop_gives=("original_image", "mask"),
    parts=("undo_step",),
    given=picture,
    making={"trained_betas": lambda case: np.array(given_betas(case))},
    draws=jumps,
    loop=back_and_forth,
)

SPACES: list[Space] = [KARRAS, VE, VP, REPAINT]
