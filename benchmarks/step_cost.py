"""What does one scheduler step cost, network excluded?

One step is `model_input` + `step` + noise. Contestants, alternating in one process on PyTorch's
CPU, float32:

    pure       cmsched's pure functions, int index
    stateful   scheduler.scale_model_input and scheduler.step(...).prev_sample
    diffusers  the same calls on diffusers' class
    inlined    the step's own terms as straight PyTorch code with the numbers written in, as one
    would by hand

all under `torch.inference_mode`. The floor is the time to move what a step must read and write
(sample, output, history, results) at the bandwidth of a copy into fresh arrays, which is timed in
the same race ("copy").
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from timing import header, race, report, table

import cmsched

SHAPES = ((1, 4, 64, 64), (4, 16, 128, 128), (1, 16, 21, 96, 160))
SCHEDULERS: dict[str, dict[str, Any]] = {
    "CMStochasticIterativeScheduler": {"clip_denoised": False},
    "LCMScheduler": {},
    "DDIMScheduler": {"clip_sample": False},
    "DDPMScheduler": {"clip_sample": False},
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "HeunDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
}


def inlined(plan: cmsched.Plan, index: int) -> Callable[..., Any]:
    """Return step `index` of a deterministic plan as straight-line PyTorch code, compiled from its
    text."""
    row, layout = plan.rows[index], plan.layout
    names = {0: "x", 1: "m", **{2 + k: f"h[{k}]" for k in range(len(layout.slots))}}
    lines = ["def step(x, m, h):"]
    scale = row.point.scale
    lines.append(f"    {'x' if scale == 1 else f'x.mul({scale!r})'}")
    statements = list(row.statements)
    if row.estimates:
        p, q, *_ = row.estimate
        statements.insert(0, (layout.estimate, ((0, p, 0), (1, q, 0))))
    for value, terms in statements:
        names[value] = f"v{value}"
        (v0, c0, _), *rest = sorted(terms, key=lambda term: term[1] != 1.0)
        text = names[v0]
        if c0 == 1.0 and rest:
            (v1, c1, _), *rest = rest
            text = f"torch.add({text}, {names[v1]}, alpha={c1!r})"
        elif c0 != 1.0:
            text = f"{text}.mul({c0!r})"
        text += "".join(f".add_({names[v]}, alpha={c!r})" for v, c, _ in rest)
        lines.append(f"    {names[value]} = {text}")
    stored = "".join(f"{names[v]}, " for v in row.picks)
    lines.append(f"    return {names[layout.following]}, ({stored})")
    import torch

    space = {"torch": torch}
    exec("\n".join(lines), space)
    return space["step"]


def traffic(plan: cmsched.Plan) -> float:
    """Return the arrays that a step must read or write, averaged over the plan, with the scaled
    input."""
    total = 0
    for row in plan.rows:
        made = {value for value, _ in row.statements} | {plan.layout.estimate}
        reads = {v for _, terms in row.statements for v, _, _ in terms} - made
        if row.estimates:
            reads |= {0, 1}
        writes = 1 + sum(v in made for v in row.picks)
        total += len(reads) + writes + 2 * (row.point.scale != 1.0)
    return total / len(plan)


@contextmanager
def inference() -> Iterator[None]:
    """Switch autograd off, as pipelines do."""
    import torch

    with torch.inference_mode():
        yield


def contestants(
    name: str, shape: tuple[int, ...], n: int
) -> tuple[dict[str, Callable[[], Any]], Any]:
    """Return the loops of n steps to race, and the plan."""
    import diffusers
    import torch

    ours = getattr(cmsched, name)(**SCHEDULERS[name], xp="torch")
    theirs = getattr(diffusers, name)(**SCHEDULERS[name])
    ours.set_timesteps(n)
    plan = ours.plan(n)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    outputs = [torch.randn(shape, generator=generator) for _ in range(3)]
    start = cmsched.init(plan, x)

    def pure() -> None:
        state = start
        for i in range(len(plan)):
            cmsched.model_input(plan, state)
            state = cmsched.step(plan, state, outputs[i % 3], rng=generator)

    def stateful(scheduler: Any) -> Callable[[], None]:
        keywords = {} if name == "HeunDiscreteScheduler" else {"generator": generator}

        def loop() -> None:
            scheduler.set_begin_index(0)
            if scheduler is theirs:
                scheduler._step_index = None
                for attribute in ("dt", "prev_derivative"):
                    if hasattr(scheduler, attribute):
                        setattr(scheduler, attribute, None)
            sample = x
            for i, t in enumerate(scheduler.timesteps):
                scheduler.scale_model_input(sample, t)
                sample = scheduler.step(outputs[i % 3], t, sample, **keywords).prev_sample

        return loop

    theirs.set_timesteps(n)
    if not hasattr(theirs, "set_begin_index"):
        theirs.set_begin_index = lambda index: None
    race_of = {"pure": pure, "stateful": stateful(ours), "diffusers": stateful(theirs)}
    if not plan.layout.stochastic:
        straight = [inlined(plan, i) for i in range(len(plan))]

        def by_hand() -> None:
            sample, memory = x, start.memory
            for i, step in enumerate(straight):
                sample, memory = step(sample, outputs[i % 3], memory)

        race_of["inlined"] = by_hand

    def copy() -> None:
        sample = x
        for _ in range(len(plan)):
            sample = sample.clone()

    race_of["copy"] = copy
    return race_of, plan


def on_framework(framework: str, name: str, shape: tuple[int, ...], n: int) -> Callable[[], Any]:
    """Return cmsched's loop on NumPy or JAX (each step one jitted call)."""
    plan = getattr(cmsched, name)(**SCHEDULERS[name]).plan(n)
    rng = np.random.default_rng(0)
    x, output = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    source: Any = rng
    if framework == "jax":
        import jax

        x, output, source = jax.numpy.asarray(x), jax.numpy.asarray(output), jax.random.key(0)
    start = cmsched.init(plan, x)

    def loop() -> None:
        state = start
        for _ in range(len(plan)):
            cmsched.model_input(plan, state)
            state = cmsched.step(plan, state, output, rng=source)
        if framework == "jax":
            state.sample.block_until_ready()

    return loop


def keep_memory() -> None:
    """Start again with an allocator that keeps freed memory.

    By default glibc hands arrays of some 20 MB back to the system and gets them anew, page by page,
    or does not, depending on what was freed before: a factor of three between equal runs.
    """
    settings = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}
    if not settings.keys() & os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **settings})


def main() -> None:
    """Race and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30, help="alternations (default 30)")
    parser.add_argument("--short", action="store_true", help="the smallest shape only")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (default 1)")
    options = parser.parse_args()
    keep_memory()

    import torch

    torch.set_num_threads(options.threads)
    about = header("torch", "diffusers", "numpy", "jax", threads=options.threads)
    print(", ".join(f"{key} {value}" for key, value in about.items()), "\n")
    rows, records = [], []
    with inference():
        for shape in SHAPES[: 1 if options.short else None]:
            size = math.prod(shape)
            n = 20 if size < 1e5 else 5
            for name in SCHEDULERS:
                loops, plan = contestants(name, shape, n)
                rounds = options.rounds
                times = race(loops, rounds=rounds, calls=len(plan), seconds=0.01)
                us = {key: 1e6 * value.median for key, value in times.items()}
                deterministic = not plan.layout.stochastic
                floor = us["copy"] / 2 * traffic(plan) if deterministic else math.nan
                record = {
                    "shape": shape,
                    "scheduler": name,
                    "deterministic": deterministic,
                    "us": us,
                    "floor": floor,
                }
                record["interval"] = {
                    key: [1e6 * t for t in value.interval] for key, value in times.items()
                }
                for framework in ("numpy", "jax"):
                    loop = on_framework(framework, name, shape, n)
                    found = race({framework: loop}, rounds=max(3, rounds // 6), calls=len(plan))
                    us[framework] = 1e6 * found[framework].median
                records.append(record)
                rows.append(
                    [
                        "x".join(map(str, shape)),
                        name.removesuffix("Scheduler"),
                        *(
                            f"{us[key]:.1f}" if key in us else ""
                            for key in ("pure", "stateful", "diffusers", "inlined")
                        ),
                        f"{us['diffusers'] / us['pure']:.1f}",
                        f"{us['diffusers'] / us['stateful']:.1f}",
                        f"{us['pure'] / us['inlined']:.2f}" if "inlined" in us else "",
                        f"{us['copy']:.1f}",
                        f"{floor:.1f}" if deterministic else "",
                        f"{us['pure'] / floor:.2f}" if deterministic else "",
                        f"{us['numpy']:.0f}",
                        f"{us['jax']:.0f}",
                    ]
                )
                print(rows[-1], flush=True)
    titles = [
        "shape",
        "scheduler",
        "pure us",
        "stateful us",
        "diffusers us",
        "inlined us",
        "diffusers / pure",
    ]
    titles += [
        "diffusers / stateful",
        "pure / inlined",
        "copy us",
        "floor us",
        "pure / floor",
        "NumPy us",
        "JAX us",
    ]
    print("\n" + table(rows, titles) + "\n")
    small = [r for r in records if r["deterministic"] and r["shape"] == SHAPES[0]]

    def geometric(a: str, b: str) -> float:
        return math.exp(sum(math.log(r["us"][a] / r["us"][b]) for r in small) / len(small))

    summary = {
        "diffusers / pure": geometric("diffusers", "pure"),
        "diffusers / stateful": geometric("diffusers", "stateful"),
        "pure / inlined": geometric("pure", "inlined"),
        "slower than diffusers": [
            [r["scheduler"], r["shape"]]
            for r in records
            if max(r["us"]["pure"], r["us"]["stateful"]) > r["us"]["diffusers"]
        ],
    }
    print("deterministic schedulers at 1x4x64x64, geometric means:", summary, "\n")
    report({"benchmark": "step_cost", "about": about, "summary": summary, "records": records})


if __name__ == "__main__":
    main()
