"""What does one scheduler step cost, network excluded?

One step is `model_input` + `step` + noise, of every scheduler that diffusers has too. Contestants,
in one race per scheduler and size, float32:

    pure        cmsched's pure functions, int index
    stateful    scheduler.scale_model_input and scheduler.step(...).prev_sample
    compiled    one torch.compile of cmsched.step and the model_input after it, array index
    diffusers   the same calls as stateful on diffusers' class
    d.compiled  the same with diffusers' step compiled, where that goes
    inlined     the step's own terms as straight PyTorch code, as one would write it by hand
    NumPy, JAX  cmsched's pure functions there (on JAX each step is one jitted call)
    copy        one array into a fresh one

PyTorch's run on its CPU under `torch.inference_mode`. The floor is the time to move what a step
must read and write (sample, output, history, results, each once) at the bandwidth of the copy.
k-diffusion's functions, which are whole loops, are raced with a model that returns a ready array.
"""

import logging
import math
import re
import statistics
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import in_diffusers
from contestants import Entry, add_compiled_reference, compare, entry, k_diffusion, traffic
from timing import (
    SHORT_ROUNDS,
    bars,
    geometric,
    header,
    keep_memory,
    options,
    race,
    report,
    table,
    verdict,
)

SHAPES = ((1, 4, 64, 64), (4, 16, 128, 128), (1, 16, 21, 96, 160))
RACE_SECONDS = 120.0  # where a peer takes longer, rounds are fewer, at least those of --short
APART = {  # schedulers that diffusers has and whose step is not one of a loop over timesteps
    "CogVideoXDPMScheduler": "its caller keeps the last estimate and hands it to the step",
    "KarrasVeScheduler": "its caller adds the noise and corrects, the step is one part of three",
    "RePaintScheduler": "goes back and forth through time, and needs an image and a mask",
    "ScoreSdeVeScheduler": "has step_pred and step_correct, and its step size depends on the data",
    "ScoreSdeVpScheduler": "has step_pred, with a time that its caller counts",
    "VQDiffusionScheduler": "its samples are tokens",
}
SHORT_COMPILED = ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")


def name_of(shape: Sequence[int]) -> str:
    """Return a shape as text."""
    return "x".join(map(str, shape))


def schedulers() -> tuple[list[str], dict[str, str]]:
    """Return which of cmsched's schedulers are raced, and why the others are not."""
    import diffusers

    import cmsched

    left = {
        name: "diffusers has none"
        for name in cmsched.schedulers.CLASSES
        if not hasattr(diffusers, name)
    }
    left |= APART
    return [name for name in cmsched.schedulers.CLASSES if name not in left], left


def timed(found: Entry, rounds: int) -> None:
    """Race the contestants of an entry; a Brownian tree of a large sample takes seconds a step."""
    runs = {
        key: partial(loop, found.sources.get(key, found.sources["torch"]))
        for key, loop in found.loops.items()
    }
    start = time.perf_counter()
    runs["diffusers" if "diffusers" in runs else "k-diffusion"]()  # the slowest by far, if any
    fitting = int(RACE_SECONDS / (time.perf_counter() - start))
    rounds = min(rounds, max(SHORT_ROUNDS, fitting))
    found.times = race(runs, rounds=rounds, calls=len(found.plan), seconds=0.01)
    found.loops.clear()


# what is printed

COLUMNS = ("pure", "stateful", "compiled", "diffusers", "d.compiled", "inlined", "NumPy", "JAX")
PICTURED = ("pure", "compiled", "diffusers", "d.compiled", "NumPy", "JAX")
RATIOS = (
    *(("diffusers", "pure"), ("diffusers", "stateful"), ("d.compiled", "pure")),
    *(("pure", "inlined"), ("pure", "floor"), ("compiled", "floor")),
    *(("NumPy", "floor"), ("JAX", "floor")),
)
FLOORS = {"pure": 1.6, "compiled": 1.6, "JAX": 1.6, "NumPy": 2.5}  # expected at most


def tabulated(entries: Sequence[Entry]) -> str:
    """Return microseconds per step, the floor, and ratios; of one size, all with noise or none."""
    calm = entries[0].deterministic
    kinds = [kind for kind in COLUMNS if any(kind in found.times for found in entries)]
    shown = [*kinds, "copy", "floor"] if calm else [*kinds, "copy"]
    pairs = [pair for pair in RATIOS if set(shown).issuperset(pair)]
    rows = []
    for found in entries:
        us = {key: 1e6 * timing.median for key, timing in found.times.items()}
        us |= {"floor": us["copy"] * traffic(found.plan) / 2} if calm else {}
        ratios = [found.over(*pair)[0] if us.keys() >= set(pair) else None for pair in pairs]
        short = found.name.removesuffix("Scheduler")
        rows.append([short, *(us.get(key) for key in shown), *ratios])
    return table(rows, ["", *shown, *(f"{a} / {b}" for a, b in pairs)])


def summary(entries: Sequence[Entry]) -> list[list[Any]]:
    """Return figure by figure what is expected, and whether it is met."""
    rows: list[list[Any]] = []

    def most(what: str, place: str, values: Mapping[str, float], bound: float) -> None:
        if values:
            mean, worst = geometric(values.values()), max(values, key=values.__getitem__)
            rows.append([what, place, mean, verdict(mean, most=bound)])
            rows.append(
                [f"largest: {worst}", place, values[worst], verdict(values[worst], most=bound)]
            )

    for shape in dict.fromkeys(found.shape for found in entries):
        place, small = name_of(shape), shape == SHAPES[0]
        here = [found for found in entries if found.shape == shape]
        calm = [found for found in here if found.deterministic]
        for ours, bound in (("pure", 7.0), ("stateful", 4.0)):
            each = {found.name: found.over("diffusers", ours)[0] for found in calm}
            if each:
                bound = bound if small else 1.5
                mean, worst = geometric(each.values()), min(each, key=each.__getitem__)
                what = f"deterministic, diffusers / {ours}"
                rows.append([what, place, mean, verdict(mean, least=bound)])
                rows.append(["their median", place, statistics.median(each.values()), ""])
                low = found_named(calm, worst).over(ours, "diffusers")[1][0]
                cell = f"never slower: {'met' if low <= 1.05 else '**missed**'}"
                rows.append([f"lowest: {worst}", place, each[worst], cell])
        for ours in ("pure", "stateful"):
            noisy = {
                found.name: found.over(ours, "diffusers")[1][0]
                for found in here
                if not found.deterministic
            }
            if noisy:
                worst = max(noisy, key=noisy.__getitem__)
                what = f"stochastic, {ours} / diffusers, lower end, largest: {worst}"
                rows.append([what, place, noisy[worst], verdict(noisy[worst], most=1.05)])
        if small:
            each = {found.name: found.over("pure", "inlined")[0] for found in calm}
            most("pure / inlined", place, each, 1.5)
            if ceiling := [found.over("diffusers", "inlined")[0] for found in calm]:
                rows.append(["ceiling: diffusers / inlined", place, geometric(ceiling), ""])
        else:
            for kind, bound in FLOORS.items():
                each = {f.name: f.over(kind, "floor")[0] for f in calm if kind in f.times}
                most(f"{kind} / floor", place, each, bound)
    return rows


def found_named(entries: Sequence[Entry], name: str) -> Entry:
    """Return the entry of this name."""
    return next(found for found in entries if found.name == name)


def text_of(
    entries: Sequence[Entry], peers: Sequence[Entry], left: Mapping[str, str], keep: bool
) -> str:
    """Return everything as Markdown."""
    parts = [
        "Expected and found:",
        table(summary(entries), ["figure", "size", "ratio", "expected"]),
    ]
    for shape in dict.fromkeys(found.shape for found in entries):
        for calm, title in ((True, "deterministic"), (False, "stochastic, noise included")):
            chosen = [f for f in entries if f.shape == shape and f.deterministic == calm]
            if not chosen:
                continue
            parts.append(f"### {name_of(shape)}, {title}: microseconds per step")
            parts.append(tabulated(chosen))
            if calm and keep:
                groups = {
                    f.name.removesuffix("Scheduler"): {
                        kind: f.over(kind, "floor")[0] for kind in PICTURED if kind in f.times
                    }
                    for f in chosen
                }
                label = f"time of a step / time to move its arrays once, {name_of(shape)}"
                parts.append(bars(f"step_cost_{name_of(shape)}", groups, label))
    if peers:
        rows = []
        for found in peers:
            us = [1e6 * found.times[key].median for key in ("pure", "k-diffusion")]
            value, (low, high) = found.over("k-diffusion", "pure")
            cells = [*us, value, f"{low:.2f} to {high:.2f}"]
            rows.append([found.name, name_of(found.shape), *cells])
        parts.append("### k-diffusion: microseconds per evaluation")
        parts.append(table(rows, ["", "size", "pure", "k-diffusion", "ratio", "95 %"]))
    parts.append(f"Results agree to {max(f.off for f in (*entries, *peers)):.1g} of their scale.")
    failed = {f.name: f.notes["d.compiled"] for f in entries if _failed(f)}
    if failed:
        lines = [f"- {name}: {note}" for name, note in failed.items()]
        parts.append("diffusers' step does not compile:\n\n" + "\n".join(lines))
    lines = [f"- {name}: {why}" for name, why in left.items()]
    parts.append("Not raced:\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _failed(found: Entry) -> bool:
    return "d.compiled" in found.notes and "d.compiled" not in found.times


# what holds a step back


def profile(name: str) -> None:
    """Print where the time of a pure step goes, at the smallest and at the largest size."""
    import cProfile
    import pstats

    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    small, large = entry(name, SHAPES[0], 20, False), entry(name, SHAPES[-1], 5, False)
    generator = small.sources["torch"]
    small.loops["pure"](generator)
    with cProfile.Profile() as seen:
        for _ in range(100):
            small.loops["pure"](generator)
    print(f"{name}, {name_of(small.shape)}: {100 * len(small.plan)} steps under cProfile")
    pstats.Stats(seen).sort_stats("tottime").print_stats(14)

    class Passes(TorchDispatchMode):
        moved = 0

        def __torch_dispatch__(
            self, fn: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = fn(*args, **(kwargs or {}))
            if not fn.is_view:
                whole = [a for a in (*args, made) if isinstance(a, torch.Tensor)]
                self.moved += sum(a.numel() == math.prod(large.shape) for a in whole)
            return made

    large.loops["pure"](generator)
    with Passes() as passes:
        large.loops["pure"](generator)
    need = traffic(large.plan)
    print(f"{name}, {name_of(large.shape)}: PyTorch's operators move", end=" ")
    print(f"{passes.moved / len(large.plan):.1f} arrays a step, {need:.1f} are needed")
    with torch.profiler.profile() as seen_ops:
        large.loops["pure"](generator)
    print(seen_ops.key_averages().table(sort_by="self_cpu_time_total", row_limit=8))


def progress(found: Entry) -> None:
    """Show on standard error what was found so far."""
    us = {key: f"{1e6 * timing.median:.1f}" for key, timing in found.times.items()}
    print(name_of(found.shape), found.name, us, found.notes or "", file=sys.stderr, flush=True)


def raced(given: Any, names: Sequence[str]) -> Iterator[Entry]:
    """Yield entries one after the other, timed."""
    import torch._dynamo

    for shape in SHAPES[: 1 if given.short else None]:
        n = 20 if math.prod(shape) < 1e5 else 5
        for name in names:
            torch._dynamo.reset()
            compiling = not given.short or name in SHORT_COMPILED
            found = entry(name, shape, n, compiling)
            compare(found)
            if compiling:
                add_compiled_reference(found, n)
            timed(found, given.rounds)
            progress(found)
            yield found


def raced_peers(given: Any) -> Iterator[Entry]:
    """Yield the functions of k-diffusion, timed: each once, with its default options."""
    from parity.test_kdiffusion import MATCHES

    matches = {match.theirs: match for match in reversed(MATCHES)}
    del matches["dpm_adaptive"]  # chooses its steps from the data
    for shape in SHAPES[: 1 if given.short else None]:
        for match in reversed(matches.values()):
            # their Brownian trees of the largest size do not fit into 24 GiB
            fits = "sde" not in match.theirs or shape != SHAPES[-1]
            if fits and re.search(given.only, match.theirs):
                found = k_diffusion(match, shape, 20 if math.prod(shape) < 1e5 else 5)
                timed(found, given.rounds)
                progress(found)
                yield found


def main() -> None:
    """Race and print."""
    given = options(
        __doc__,
        in_diffusers={"action": "store_true", "help": "only the classes of interop.diffusers"},
        only={"default": "", "metavar": "PATTERN", "help": "schedulers whose names match"},
        without_numba={"action": "store_true", "help": "as if numba was not installed"},
        profile={"metavar": "NAME", "help": "print where a step of this scheduler spends its time"},
    )
    keep_memory()
    if given.without_numba:
        sys.modules["numba"] = None  # type: ignore[assignment]
    sys.path.append(str(Path(__file__).parents[1] / "tests"))  # whose parity package compares

    import diffusers
    import torch

    torch.set_num_threads(given.threads)
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    diffusers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    logging.getLogger("torch._dynamo").setLevel(logging.CRITICAL)
    about = header(
        "torch", "diffusers", "k-diffusion", "numpy", "jax", "numba", threads=given.threads
    )
    if given.without_numba:
        about["numba"] = "kept out"
    names, left = schedulers()
    if given.profile and given.profile not in names:
        raise SystemExit(f"--profile {given.profile}: not one of {', '.join(names)}")
    names = [name for name in names if re.search(given.only, name)]
    if given.in_diffusers:
        print(in_diffusers.text_of(in_diffusers.raced(names, given.rounds)))
        return
    with torch.inference_mode():
        if given.profile:
            profile(given.profile)
            return
        entries, peers = list(raced(given, names)), list(raced_peers(given))
    piped = in_diffusers.raced(names, given.rounds)
    keep = given.keep and not given.only
    text = "\n\n".join((in_diffusers.text_of(piped), text_of(entries, peers, left, keep)))
    records = [found.record() for found in (*entries, *peers)]
    report("step_cost", about, text, records, keep)


if __name__ == "__main__":
    main()
