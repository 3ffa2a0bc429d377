"""One case run through diffusers, through the stateful habit, and through a plan."""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import cmsched

from .grid import Case, Space, is_given, stepping
from .lifted import Draws, own_tables, reference

ESTIMATES = ("pred_original_sample", "denoised")


@dataclass
class Run:
    """What a loop showed: one entry per evaluation, and the tables before it."""

    timesteps: np.ndarray
    sigmas: np.ndarray | None
    init_noise_sigma: float
    inputs: list[torch.Tensor] = field(default_factory=list)
    samples: list[torch.Tensor] = field(default_factory=list)
    estimates: list[torch.Tensor | None] = field(default_factory=list)
    others: list[Mapping[str, torch.Tensor]] = field(default_factory=list)  # further fields
    draws: list[list[torch.Tensor]] = field(default_factory=list)
    first_draws: list[list[torch.Tensor]] = field(default_factory=list)  # of a plan's start

    @property
    def arrays(self) -> list[torch.Tensor]:
        """Every sample and every estimate."""
        return [*self.samples, *(x for x in self.estimates if x is not None)]


def normal(shape: tuple[int, ...], dtype: torch.dtype, *seed: int) -> torch.Tensor:
    """Unit normals that depend on the seed only."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def output(space: Space, case: Case, i: int, dtype: torch.dtype) -> torch.Tensor:
    """What the network says at evaluation i."""
    batch, channels, *rest = case["shape"]
    m = normal((batch, channels * (2 if space.doubled(case) else 1), *rest), dtype, 1, i)
    if case.get("as.head") == "variance":
        m[:, channels:] = m[:, channels:].exp()
    return space.output(case, i, m)


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
    if is_given(chosen.pop("variance_noise", None)):
        chosen["variance_noise"] = normal(case["shape"], dtype, 2, i)
    return chosen


def loop(
    scheduler: Any, space: Space, case: Case, dtype: torch.dtype, draws: Any, run: Run
) -> None:
    """The class's loop; `draws(i)` gives the options that say where noise comes from."""
    start = entry(space, case, len(scheduler.timesteps))
    if case["start"].startswith("begin") and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    x = (normal(case["shape"], dtype, 0) * run.init_noise_sigma).to(dtype)
    walk = space.loop(
        scheduler,
        case,
        x,
        start,
        lambda i, seen: output(space, case, i, dtype),
        lambda i: {**step_options(case, i, dtype), **draws(i)},
    )
    for seen, out in walk:
        run.inputs.append(seen)
        run.samples.append(out["prev_sample"])
        run.estimates.append(next((out[name] for name in ESTIMATES if name in out), None))
        run.others.append({k: v for k, v in out.items() if k not in ("prev_sample", *ESTIMATES)})


def dtype_of(lifted: bool) -> torch.dtype:
    """The samples' dtype: float64 where the tables are."""
    return torch.float64 if lifted else torch.float32


def through_diffusers(space: Space, case: Case, *, lifted: bool) -> Run:
    """Run the reference; what it raises passes through."""
    source = Draws(seed=3)
    with reference(space.name, source, lifted=lifted) as cls:
        scheduler = cls(**space.options(case))
        scheduler.set_timesteps(**space.calls(case))
        run = Run(
            scheduler.timesteps.numpy(),
            scheduler.sigmas.numpy() if space.sigmas else None,
            float(getattr(scheduler, "init_noise_sigma", 1.0)),
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
        return getattr(cmsched, space.name)(**space.options(case), compatibility=compatibility)


def queue(draws: list[torch.Tensor], used: list[torch.Tensor]) -> Any:
    """A source of noise that hands out the reference's draws of one step."""
    left = iter(draws)

    def give(shape: Any, dtype: Any, interval: Any) -> torch.Tensor:
        used.append(next(left))
        return used[-1]

    return give


def beside(run: Callable[..., Run]) -> Callable[..., Run]:
    """With our tables in the precision of the reference's."""

    @functools.wraps(run)
    def there(*args: Any, lifted: bool) -> Run:
        with own_tables(lifted=lifted):
            return run(*args, lifted=lifted)

    return there


@beside
def through_habit(
    space: Space, case: Case, draws: list[list[torch.Tensor]], *, lifted: bool
) -> Run:
    """Run our stateful classes."""
    scheduler = ours(space, case)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*no effect.*")
        scheduler.set_timesteps(**{"xp": "torch", **space.calls(case)})
        run = Run(
            scheduler.timesteps.numpy(),
            np.asarray(scheduler.sigmas) if space.sigmas else None,
            scheduler.init_noise_sigma,
        )
        takes = space.loop is not stepping
        takes = takes or "generator" in inspect.signature(scheduler.step).parameters

        def source(i: int) -> dict[str, Any]:
            run.draws.append([])
            if not takes or given(case):
                return {}
            return {"generator": queue(draws[i], run.draws[-1])}

        loop(scheduler, space, case, dtype_of(lifted), source, run)
    return run


def plan_of(space: Space, case: Case, compatibility: str = "diffusers") -> Any:
    """Our plan of this case, from its first step."""
    chosen = space.calls(case)
    chosen.pop("device", None)
    chosen |= {
        k: v for k, v in step_options(case, 0, torch.float64).items() if k != "variance_noise"
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*no effect.*")
        return ours(space, case, compatibility).plan(**chosen)


@beside
def through_plan(space: Space, case: Case, draws: list[list[torch.Tensor]], *, lifted: bool) -> Run:
    """Run our plan with the pure functions, or its sampler where it cannot be traced."""
    plan, dtype = plan_of(space, case), dtype_of(lifted)
    z, arrays = normal(case["shape"], dtype, 0), space.given(case, dtype)
    more = {"given": arrays} if arrays else {}
    if not plan.traced:
        return through_sampler(space, case, plan, z, draws, more)
    run = Run(plan.timesteps, None, plan.grid.init_scale)
    draws = space.draws(case, draws)
    if plan.layout.start_draws:
        first, *draws = draws
        run.first_draws.append([])
        state = cmsched.init(plan, z, rng=queue(first, run.first_draws[0]), **more)
    else:
        state = cmsched.init(plan, z, **more)
    if start := entry(space, case, len(plan)):
        plan = plan.skip(plan.steps[start])
        state = cmsched.init(plan, z, **more)._replace(sample=state.sample)
    for i in range(len(plan)):
        run.draws.append([])
        m = output(space, case, i, dtype)
        run.inputs.append(cmsched.model_input(plan, state)[0])
        run.estimates.append(cmsched.estimate(plan, state, m, **more).x0)
        wanted = (
            cmsched.draw(plan, state, queue(draws[i], run.draws[-1])) if not given(case) else None
        )
        if given(case) and plan.rows[i].draws:
            wanted = step_options(case, i, dtype)["variance_noise"]
        state = cmsched.step(plan, state, m, noise=wanted, **more)
        run.samples.append(state.sample)
    return run


def through_sampler(
    space: Space,
    case: Case,
    plan: Any,
    z: torch.Tensor,
    draws: list[list[torch.Tensor]],
    more: Mapping[str, Any],
) -> Run:
    """Run the sampler of a plan untraced."""
    run, dtype = Run(plan.timesteps, None, plan.grid.init_scale), z.dtype
    used: list[torch.Tensor] = []
    source = queue([z for step in space.draws(case, draws) for z in step], used)

    def model(x: torch.Tensor, t: Any) -> torch.Tensor:
        run.inputs.append(x)
        return output(space, case, len(run.inputs) - 1, dtype)

    def seen(i: int, state: Any, x0: torch.Tensor) -> None:
        if i:
            run.samples.append(state.sample)
        run.estimates.append(x0)

    run.samples.append(cmsched.run(model, plan, z, rng=source, callback=seen, **more))
    run.draws = draws
    return run


def given(case: Case) -> bool:
    """Whether the noise of each step is handed to it."""
    return is_given(case.get("step.variance_noise"))
