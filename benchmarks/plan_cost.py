"""What does it cost to make a plan, in time and memory?

1. How it grows: plans of 1 to 1000 steps of every scheduler, made anew (nothing kept), in a process
   without any framework; time and bytes per row (a row is one evaluation of the network), and what
   a plan costs that is kept already. Cost should be linear: per row at 1000 steps at most 1.3 times
   that at 50.
2. Whether it pays: at one-element arrays a plan of 50 steps made anew and its loop of pure
   functions, against diffusers' `set_timesteps` and its loop, under `torch.inference_mode`.
"""

import gc
import inspect
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from timing import geometric, header, options, race, ratio, report, table, verdict

import cmsched
from cmsched.plan import _cache
from cmsched.schedulers.base import PlanMixin

SIZES, SHORT_SIZES = (1, 4, 20, 50, 200, 1000), (1, 50, 1000)
LINEAR, COMPARED = 1.3, 50
SHAPE = (1, 1, 1, 1)


def short(name: str) -> str:
    """Return a class's name as tables have it."""
    return name.removesuffix("Scheduler") or name


def anew(scheduler: Any, n: int) -> cmsched.Plan:
    """Return a plan that was not kept."""
    _cache.clear()
    return scheduler.plan(n)


def possible(scheduler: Any, n: int) -> bool:
    """Return whether a scheduler has a plan of n steps with rows."""
    try:
        return scheduler.plan(n).traced
    except ValueError:
        return False


# how it grows


def grown(name: str, sizes: Sequence[int], rounds: int, weighed: int) -> dict[str, Any]:
    """Return times and memory of a scheduler's plans by number of steps; empty without any.

    Args:
        name: of the class.
        sizes: numbers of steps.
        rounds: how often a plan of each size is made.
        weighed: plans of at most so many steps are weighed.
    """
    if not issubclass(cls := getattr(cmsched, name), PlanMixin):
        return {}
    scheduler = cls()
    *fewer, most = sizes
    most -= not possible(scheduler, most)  # some need a timestep more than there are steps
    sizes = [n for n in (*fewer, most) if possible(scheduler, n)]
    if not sizes:
        return {}
    runs: dict[str, Callable[[], Any]] = {str(n): partial(anew, scheduler, n) for n in sizes}
    times = race(runs, rounds=rounds, seconds=0.0)
    rows = {n: len(scheduler.plan(n)) for n in sizes}
    found: dict[str, Any] = {
        "scheduler": name,
        "rows": rows,
        "ms": {n: 1e3 * times[str(n)].median for n in sizes},
        "us per row": {n: 1e6 * times[str(n)].median / rows[n] for n in sizes},
        "bytes": {n: memory(scheduler, n) for n in sizes if n <= weighed},
    }
    if sizes[-1] > 200:
        value, interval = ratio(times, str(sizes[-1]), str(COMPARED))
        part = rows[COMPARED] / rows[sizes[-1]]
        found["growth"] = value * part
        found["growth interval"] = [part * end for end in interval]
    if COMPARED in sizes:
        kept = race({"kept": lambda: scheduler.plan(COMPARED)}, rounds=rounds)
        found["ms kept"] = 1e3 * kept["kept"].median
    return found


def memory(scheduler: Any, n: int) -> dict[str, float]:
    """Return the bytes that a plan holds, and that making it takes at most."""
    _cache.clear()
    gc.collect()
    tracemalloc.start()
    plan = scheduler.plan(n)
    _, most = tracemalloc.get_traced_memory()
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(plan)  # is held until here
    return {"held": held, "most": most}


def growth_text(found: Sequence[dict[str, Any]], sizes: Sequence[int]) -> str:
    """Return what was found of growth as a table."""
    rows = []
    for one in found:
        per_row, largest = one["us per row"], max(one["us per row"])
        columns = [per_row.get(largest if n == 1000 and largest == 999 else n) for n in sizes]
        heaviest, size = [*one["bytes"].items()][-1]
        rows.append(
            [
                short(one["scheduler"]) + (" (999)" if largest == 999 else ""),
                *columns,
                one.get("growth"),
                *(size[kind] / one["rows"][heaviest] for kind in ("held", "most")),
                one["ms"].get(COMPARED),
                one.get("ms kept"),
            ]
        )
    titles = ["us per row at n =", *map(str, sizes), f"1000 / {COMPARED}"]
    titles += ["bytes per row", "while made", f"ms at n = {COMPARED}", "ms when kept"]
    growth = {one["scheduler"]: one["growth"] for one in found if "growth" in one}
    worst = max(growth, key=growth.__getitem__)
    mean = geometric(growth.values())
    summary = [
        [f"per row, 1000 / {COMPARED} steps, geometric mean", mean, verdict(mean, most=LINEAR)],
        [f"the largest: {short(worst)}", growth[worst], verdict(growth[worst], most=LINEAR)],
    ]
    return table(rows, titles) + "\n\n" + table(summary, ["", "", "expected"])


# whether it pays


def our_loop(scheduler: Any, noise: Any, outputs: Sequence[Any], rng: Any) -> Any:
    """Make a plan and run it."""
    plan = anew(scheduler, COMPARED)
    state = cmsched.init(plan, noise)
    for i in range(len(plan)):
        cmsched.model_input(plan, state)
        state = cmsched.step(plan, state, outputs[i % 3], rng=rng)
    return state.sample


def their_loop(scheduler: Any, x: Any, outputs: Sequence[Any], rng: Any, after: Any = None) -> Any:
    """Set the timesteps and run the loop that everybody writes."""
    scheduler.set_timesteps(COMPARED)
    scale = getattr(scheduler, "scale_model_input", lambda sample, t: sample)
    more = {} if rng is None else {"generator": rng}
    for i, t in enumerate(scheduler.timesteps):
        scale(x, t)
        x = scheduler.step(outputs[i % 3], t, x, **more).prev_sample
        if after:
            after()
    return x


def compared(name: str, rounds: int) -> dict[str, Any]:
    """Return times of both at one-element arrays, their results compared before."""
    import torch
    from contestants import PLAIN, Entry, arrays, compare, copy, reference_scheduler

    cls, theirs = getattr(cmsched, name), reference_scheduler(name, COMPARED)
    chosen = {key: value for key, value in PLAIN.items() if key in cls.options}
    ours = cls(**chosen, xp="torch", compatibility="diffusers")
    plan, (noise, outputs) = ours.plan(COMPARED), arrays(SHAPE)
    x, draws = cmsched.init(plan, noise).sample, plan.layout.stochastic
    rng = torch.Generator().manual_seed(0)
    takes = draws and "generator" in inspect.signature(theirs.step).parameters
    loops = {
        "ours": lambda rng: our_loop(ours, noise, outputs, rng),
        "diffusers": lambda rng, after=None: their_loop(theirs, x, outputs, rng, after),
        "copy": lambda rng: copy(outputs, 1),
    }
    found = Entry(name, SHAPE, plan, loops, {})
    compare(found)
    runs: dict[str, Callable[[], Any]] = {
        "ours": lambda: loops["ours"](rng),
        "diffusers": lambda: loops["diffusers"](rng if takes else None),
        "plan": lambda: anew(ours, COMPARED),
        "set_timesteps": lambda: theirs.set_timesteps(COMPARED),
    }
    times = race(runs, rounds=rounds, seconds=0.0)
    value, interval = ratio(times, "ours", "diffusers")
    return {
        "scheduler": name,
        "rows": len(plan),
        "ms": {key: 1e3 * time.median for key, time in times.items()},
        "ours / diffusers": value,
        "interval": interval,
        "largest difference of results": found.off,
    }


def comparison_text(found: Sequence[dict[str, Any]], left: dict[str, str]) -> str:
    """Return both sides as a table, and what is left out."""
    rows = []
    for one in found:
        ms = one["ms"]
        names = ("plan", "ours", "set_timesteps", "diffusers")
        low, high = one["interval"]
        cells = [one["ours / diffusers"], f"{low:.2f} ... {high:.2f}"]
        rows.append([short(one["scheduler"]), one["rows"], *map(ms.get, names), *cells])
    titles = ["", "rows", "plan ms", "plan + loop", "set_timesteps ms", "set_timesteps + loop"]
    ratios = {one["scheduler"]: one["ours / diffusers"] for one in found}
    above = sorted((v, short(k)) for k, v in ratios.items() if v > 1.0)
    mean = geometric(ratios.values())
    summary = [["ours / diffusers, geometric mean", mean, verdict(mean, most=1.0)]]
    summary += [[f"above 1: {name}", value, ""] for value, name in reversed(above)]
    why = "; ".join(f"{short(name)}: {text}" for name, text in left.items())
    return "\n\n".join(
        [
            table(rows, [*titles, "ours / diffusers", "95 %"]),
            table(summary, ["", "", "expected"]),
            f"Left out: {why}.",
        ]
    )


def main() -> None:
    """Measure and print."""
    given = options(__doc__)
    warnings.simplefilter("ignore")
    sizes = SHORT_SIZES if given.short else SIZES
    growing = []
    for name in cmsched.schedulers.CLASSES:
        found = grown(name, sizes, *((3, COMPARED) if given.short else (given.rounds, 1000)))
        if found:
            growing.append(found)
            print(name, {n: f"{us:.1f}" for n, us in found["us per row"].items()}, file=sys.stderr)
    sys.path.append(str(Path(__file__).parents[1] / "tests"))  # whose parity package compares

    import diffusers
    import torch
    from step_cost import schedulers

    torch.set_num_threads(given.threads)
    diffusers.logging.set_verbosity_error()
    names, left = schedulers()
    fewer = [name for name in names if not possible(getattr(cmsched, name)(), COMPARED)]
    left |= dict.fromkeys(fewer, f"takes fewer than {COMPARED} steps")
    with torch.inference_mode():
        both = [compared(name, given.rounds) for name in names if name not in fewer]
    text = (
        f"Plans made anew, and the largest of them in memory:\n\n{growth_text(growing, sizes)}\n\n"
        f"A plan of {COMPARED} steps made anew and its loop at one-element arrays, against"
        " diffusers' `set_timesteps` and its loop:\n\n"
        f"{comparison_text(both, left)}"
    )
    records = {"growth": growing, "against diffusers": both, "left out": left}
    about = header("numpy", "torch", "diffusers", "numba", threads=given.threads)
    report("plan_cost", about, text, records, given.keep)


if __name__ == "__main__":
    main()
