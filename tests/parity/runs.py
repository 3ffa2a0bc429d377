"""One case run through diffusers, through the stateful habit, and through a plan."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import cmsched

from .grid import GIVEN, Case, Space, calls, options
from .lifted import Draws, reference

ESTIMATES = ("pred_original_sample", "denoised")


@dataclass
class Run:
    """What a loop showed: one entry per evaluation, and the tables before it."""

    timesteps: np.ndarray
    sigmas: np.ndarray | None
    init_noise_sigma: float
    inputs: list[torch.Tensor] = field(default_factory=list)
    samples: list[torch.Tensor] = field(default_factory=list)
    estimates: list[torch.Tensor] = field(default_factory=list)
    draws: list[list[torch.Tensor]] = field(default_factory=list)


def doubled(space: Space, case: Case) -> bool:
    """Whether the network's output has variance channels."""
    kind = case.get("variance_type")
    if space.name == "DDPMScheduler":
        return kind.startswith("learned")
    return kind is not None and case["prediction_type"] == "epsilon"


def normal(shape: tuple[int, ...], dtype: torch.dtype, *seed: int) -> torch.Tensor:
    """Unit normals that depend on the seed only."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def output(space: Space, case: Case, i: int, dtype: torch.dtype) -> torch.Tensor:
    """What the network says at evaluation i."""
    batch, channels, *rest = case["shape"]
    m = normal((batch, channels * (1 + doubled(space, case)), *rest), dtype, 1, i)
    if case.get("as.head") == "variance":
        m[:, channels:] = m[:, channels:].exp()
    return m


def entry(space: Space, case: Case, evaluations: int) -> int:
    """The entry of `timesteps` where the loop starts."""
    if case["start"] in ("whole", "begin"):
        return 0
    order = getattr(cmsched, space.name).order
    steps = -(-evaluations // order)
    return max(1, steps // 3) * order if steps > 1 else 0


def step_options(case: Case, i: int, dtype: torch.dtype) -> dict[str, Any]:
    """Options of `step`."""
    chosen = {k.removeprefix("step."): v for k, v in case.items() if k.startswith("step.")}
    if chosen.pop("variance_noise", None) == GIVEN:
        chosen["variance_noise"] = normal(case["shape"], dtype, 2, i)
    return chosen


def loop(
    scheduler: Any, space: Space, case: Case, dtype: torch.dtype, draws: Any, run: Run
) -> None:
    """The loop everyone writes; `draws(i)` gives the options that say where noise comes from."""
    start = entry(space, case, len(scheduler.timesteps))
    if case["start"].startswith("begin") and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    x = normal(case["shape"], dtype, 0) * scheduler.init_noise_sigma
    x = x.to(dtype)
    for i, t in enumerate(scheduler.timesteps[start:]):
        run.inputs.append(scheduler.scale_model_input(x, t))
        out = scheduler.step(
            output(space, case, i, dtype), t, x, **step_options(case, i, dtype), **draws(i)
        )
        x = out.prev_sample
        run.samples.append(x)
        run.estimates += [out[name] for name in ESTIMATES if name in out.keys()]  # noqa: SIM118


def dtype_of(lifted: bool) -> torch.dtype:
    """The samples' dtype: float64 where the tables are."""
    return torch.float64 if lifted else torch.float32


def through_diffusers(space: Space, case: Case, *, lifted: bool) -> Run:
    """Run the reference; what it raises passes through."""
    source = Draws(seed=3)
    with reference(space.name, source, lifted=lifted) as cls:
        scheduler = cls(**options(case))
        scheduler.set_timesteps(**calls(case))
        run = Run(
            scheduler.timesteps.numpy(),
            scheduler.sigmas.numpy() if space.sigmas else None,
            float(scheduler.init_noise_sigma),
        )

        def count(i: int) -> dict[str, Any]:
            if i:
                run.draws.append(source.handed_over())
            return {}

        loop(scheduler, space, case, dtype_of(lifted), count, run)
        run.draws.append(source.handed_over())
    return run


def ours(space: Space, case: Case, compatibility: str = "diffusers") -> Any:
    """Our scheduler of this case."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*no effect.*")
        return getattr(cmsched, space.name)(**options(case), compatibility=compatibility)


def queue(draws: list[torch.Tensor], used: list[torch.Tensor]) -> Any:
    """A source of noise that hands out the reference's draws of one step."""
    left = iter(draws)

    def give(shape: Any, dtype: Any, interval: Any) -> torch.Tensor:
        used.append(next(left))
        return used[-1]

    return give


def through_habit(
    space: Space, case: Case, draws: list[list[torch.Tensor]], *, lifted: bool
) -> Run:
    """Run our stateful classes."""
    scheduler = ours(space, case)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*no effect.*")
        scheduler.set_timesteps(**{"xp": "torch", **calls(case)})
        run = Run(
            scheduler.timesteps.numpy(), np.asarray(scheduler.sigmas), scheduler.init_noise_sigma
        )
        takes = "generator" in scheduler.step_options

        def source(i: int) -> dict[str, Any]:
            run.draws.append([])
            if not takes or case.get("step.variance_noise") == GIVEN:
                return {}
            return {"generator": queue(draws[i], run.draws[-1])}

        loop(scheduler, space, case, dtype_of(lifted), source, run)
    return run


def plan_of(space: Space, case: Case, compatibility: str = "diffusers") -> Any:
    """Our plan of this case, from its first step."""
    chosen = calls(case)
    chosen.pop("device", None)
    chosen |= {
        k: v for k, v in step_options(case, 0, torch.float64).items() if k != "variance_noise"
    }
    return ours(space, case, compatibility).plan(**chosen)


def through_plan(space: Space, case: Case, draws: list[list[torch.Tensor]], *, lifted: bool) -> Run:
    """Run our plan with the pure functions."""
    plan, dtype = plan_of(space, case), dtype_of(lifted)
    z = normal(case["shape"], dtype, 0)
    x = cmsched.init(plan, z).sample
    if start := entry(space, case, len(plan)):
        plan = plan.skip(plan.steps[start])
    state = cmsched.init(plan, z)._replace(sample=x)
    run = Run(plan.timesteps, None, plan.grid.init_scale)
    for i in range(len(plan)):
        run.draws.append([])
        m = output(space, case, i, dtype)
        run.inputs.append(cmsched.model_input(plan, state)[0])
        run.estimates.append(cmsched.estimate(plan, state, m).x0)
        wanted = (
            cmsched.draw(plan, state, queue(draws[i], run.draws[-1])) if not given(case) else None
        )
        if given(case) and plan.rows[i].draws:
            wanted = step_options(case, i, dtype)["variance_noise"]
        state = cmsched.step(plan, state, m, noise=wanted)
        run.samples.append(state.sample)
    return run


def given(case: Case) -> bool:
    """Whether the noise of each step is handed to it."""
    return case.get("step.variance_noise") == GIVEN
