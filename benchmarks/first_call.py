"""What does the first call cost, from the import to the first sample?

Fresh processes, with numba, with numba whose compiled loops are not on disk yet, and without it, in
turn; CPU seconds, medians. Euler ancestral, 20 steps, portable noise, a network of one
multiplication. For JAX also what compiling costs: loops of 20 and 50 steps, as a scan and unrolled,
and the gradient for the network's weight of 50 steps, its noise closed over.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from timing import header, options, report, table, verdict

SHAPES = ((1, 4, 64, 64), (4, 16, 128, 128))
FRAMEWORKS = ("numpy", "torch", "jax")
WAYS = ("without numba", "with", "with, nothing kept")
STAGES = ("import", "first plan", "first noise", "first step", "20 steps", "all")
MOST = 1.1  # of the time without numba, at the smaller shape: what a process varies by
STEPS = """
import json, sys, time
framework, shape = sys.argv[1], json.loads(sys.argv[2])
if sys.argv[3] == "without numba":
    sys.modules["numba"] = None
marks = [time.process_time()]
mark = lambda: marks.append(time.process_time())
__import__(framework)
if framework == "torch":
    __import__("torch").set_num_threads(1)
import cmsched
mark()
plan = cmsched.EulerAncestralDiscreteScheduler().plan(20)
mark()
noise = cmsched.Rng(0).normal(shape, xp=framework)
mark()
state = cmsched.init(plan, noise)
x, t = cmsched.model_input(plan, state)
float(cmsched.step(plan, state, 0.5 * x, rng=0).sample[0, 0, 0, 0])
mark()
float(cmsched.sample(lambda x, t: 0.5 * x, plan, noise, rng=0)[0, 0, 0, 0])
mark()
stages = [b - a for a, b in zip(marks, marks[1:])]
print(json.dumps([*stages, marks[-1] - marks[0]]))
"""
COMPILED = """
import sys, time
import jax, jax.numpy as jnp
import cmsched
name, steps, what = sys.argv[1:]
plan = getattr(cmsched, name)().plan(int(steps))
noise = jax.random.normal(jax.random.key(0), (1, 4, 64, 64))
rng = 0 if "Ancestral" in name else None
if what == "gradient":
    f = lambda w: cmsched.sample(lambda x, t: w * x, plan, noise, rng=rng).sum()
    f, given = jax.grad(f), 0.5
else:
    f = lambda x: cmsched.sample(lambda x, t: 0.5 * x, plan, x, rng=rng, unroll=what == "unrolled")
    given = noise
start = time.process_time()
jax.jit(f).lower(given).compile()
print(time.process_time() - start)
"""
SCHEDULERS = ("DDIMScheduler", "EulerAncestralDiscreteScheduler")


def said(code: str, cache: str, *arguments: str) -> Any:
    """Return what a fresh process prints, as JSON; what it compiles is kept in a folder."""
    environment = {**os.environ, "XDG_CACHE_HOME": cache, "LOCALAPPDATA": cache, "HOME": cache}
    environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-c", code, *arguments]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(run.stdout)


def stages(framework: str, shape: Sequence[int], rounds: int) -> dict[str, list[float]]:
    """Return the median seconds of the stages, each way."""
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as kept:
        for number in range(rounds + 1):
            for way in WAYS[:: 1 if number % 2 else -1]:
                with tempfile.TemporaryDirectory() as fresh:
                    cache = fresh if way == WAYS[2] else kept
                    seconds = said(STEPS, cache, framework, json.dumps(shape), way)
                if number:  # the first round fills caches
                    found[way].append(seconds)
    return {
        way: [statistics.median(column) for column in zip(*runs, strict=True)]
        for way, runs in found.items()
    }


def main() -> None:
    """Measure and print."""
    given = options(
        __doc__, no_jax={"action": "store_true", "help": "leave out what JAX takes to compile"}
    )
    if not find_spec("numba"):
        sys.exit("numba is not installed: pip install numba")
    here = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    rounds = min(3, given.rounds)  # after one that fills caches
    rows, records = [], []
    for shape in SHAPES[: 1 if given.short else None]:
        for framework in FRAMEWORKS:
            each = stages(framework, shape, rounds)
            for way, seconds in each.items():
                ratio = seconds[-1] / each[WAYS[0]][-1]
                bound = shape == SHAPES[0] and way != WAYS[0]
                said_of = verdict(ratio, most=MOST) if bound else ""
                name = "x".join(map(str, shape))
                rows.append([name, framework, way, *seconds, ratio, said_of])
                records.append({"shape": shape, "framework": framework, "way": way})
                records[-1] |= dict(zip(STAGES, seconds, strict=True))
                print(rows[-1], file=sys.stderr, flush=True)
    text = table(rows, ["", "", "", *STAGES, "of all without", "expected"])
    if not given.no_jax:
        compiled = compile_times(1)
        records += [dict(zip(("scheduler", *TITLES), row, strict=True)) for row in compiled]
        text += f"\n\nSeconds that JAX takes to compile:\n\n{table(compiled, ['', *TITLES])}"
    about = header("numpy", "torch", "jax", "numba", threads=given.threads)
    report("first_call", about, text, records, given.keep)


TITLES = ("scan, 20", "scan, 50", "unrolled, 20", "unrolled, 50", "gradient, 50")


def compile_times(rounds: int) -> list[list[Any]]:
    """Return the median seconds of compiling each loop, a row a scheduler."""
    rows = []
    for name in SCHEDULERS:
        row: list[Any] = [name.removesuffix("Scheduler")]
        for title in TITLES:
            what, steps = title.split(", ")
            with tempfile.TemporaryDirectory() as cache:
                times = [said(COMPILED, cache, name, steps, what) for _ in range(rounds)]
            row.append(statistics.median(times))
        print(row, file=sys.stderr, flush=True)
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
