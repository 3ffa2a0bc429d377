"""A step of `interop.diffusers` beside diffusers' own, as pipelines take it: for `step_cost.py`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from contestants import PLAIN, arrays, reference_scheduler, stateful
from timing import Timing, agree, geometric, race, ratio, table, verdict

SIZES = ((1, 4, 16, 16), (1, 4, 64, 64), (1, 4, 128, 128))
STEPS = 20
TOLERANCE = 1e-4
# a Brownian tree takes milliseconds of a step, and both sides call the same
SKIPPED = ("DPMSolverSDEScheduler",)


def few(name: str) -> int:
    """Return a number of steps that the class takes."""
    return 2 if name == "ConsistencyDecoderScheduler" else STEPS


def contestants(name: str, size: Sequence[int]) -> dict[str, Any]:
    """Return the loops of both, after a comparison of what they make."""
    import inspect

    import torch

    import cmsched.interop.diffusers as interop

    n, cls = few(name), getattr(interop, name)
    known = inspect.signature(cls).parameters
    ours = cls(**{key: value for key, value in PLAIN.items() if key in known})
    ours.set_timesteps(n)
    theirs = reference_scheduler(name, n)
    x, outputs = arrays(size)
    x = x * float(getattr(theirs, "init_noise_sigma", 1.0))
    draws = "generator" in inspect.signature(theirs.step).parameters
    sides = {"interop": ours, "reference": theirs}
    loops = {key: stateful(side, x, outputs, draws) for key, side in sides.items()}
    seeded = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    agree({key: loop(seeded()) for key, loop in loops.items()}, TOLERANCE)
    generator = torch.Generator().manual_seed(0)
    return {key: partial(loop, generator) for key, loop in loops.items()}


Found = dict[tuple[str, tuple[int, ...]], dict[str, Timing]]  # by class and size


def raced(names: Sequence[str], rounds: int) -> Found:
    """Race every class at every size, without a gradient, as pipelines do."""
    import torch

    found = {}
    with torch.no_grad():
        for name in names:
            for size in SIZES:
                if name not in SKIPPED:
                    loops = contestants(name, size)
                    found[name, size] = race(loops, rounds=rounds, calls=few(name), seconds=0.01)
    return found


def text_of(found: Found) -> str:
    """Return microseconds and ratios as a table, and what is expected of them."""
    names = list(dict.fromkeys(name for name, _ in found))
    rows, ratios, lows = [], [], {}
    for name in names:
        row: list[Any] = [name.removesuffix("Scheduler")]
        for size in SIZES:
            times = found[name, size]
            value, (low, _) = ratio(times, "interop", "reference")
            row += [1e6 * times["interop"].median, value]
            ratios.append(value)
            lows[name, size] = low
        rows.append(row)
    worst = max(lows, key=lows.__getitem__)
    mean = geometric(ratios)
    shapes = ["x".join(map(str, size)) for size in SIZES]
    titles = [title for shape in shapes for title in (f"{shape}: us", "interop / reference")]
    expected = [
        ["geometric mean", mean, verdict(mean, most=0.5)],
        [
            f"lower end of the largest: {worst[0]}, {'x'.join(map(str, worst[1]))}",
            lows[worst],
            verdict(lows[worst], most=1.0),
        ],
    ]
    return "\n\n".join(
        (
            "### In a pipeline: scale_model_input and step, of `interop.diffusers` and diffusers'",
            table(expected, ["interop / reference", "ratio", "expected"]),
            table(rows, ["", *titles]),
            "Not raced: "
            + ", ".join(SKIPPED)
            + ", whose time is its Brownian tree's on both sides.",
        )
    )
