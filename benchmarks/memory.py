"""Which arrays does a scheduler keep alive, and does anything grow with the number of steps?

In units of the sample's bytes, in loops of few and of many steps:

    stored    the arrays a state holds beside the sample, len(state.memory)
    between   what is alive after a step beside the sample, at most
    peak      what is alive at the worst moment of a step, all told: at least the sample, the
    network's output and the next sample; the network itself allocates its output only

They are counted and not timed: NumPy's by tracemalloc, PyTorch's as the storages that operations
made and that are not freed yet (by a TorchDispatchMode; of diffusers too), JAX's by
`jax.live_arrays`, and within its compiled step by what the compiler says it allocates. What a plan
holds, which is no array like the sample, is for plan_cost.py.
"""

import logging
import math
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from contestants import PLAIN, reference_scheduler
from timing import header, options, report, table

import cmsched

SHAPE = (1, 4, 128, 128)
BYTES = 4 * math.prod(SHAPE)
SAME = 0.1  # units that the bytes of small objects may come to
FRAMEWORKS = ("NumPy", "PyTorch", "JAX", "diffusers")
MOST = {  # steps that a network trained for few levels can take
    "CMStochasticIterativeScheduler": 40,
    "ConsistencyDecoderScheduler": 20,
    "LCMScheduler": 50,
    "TCDScheduler": 50,
}
APART = {  # diffusers' are no plain loops over timesteps
    *("CogVideoXDPMScheduler", "KarrasVeScheduler", "ScoreSdeVpScheduler"),
}
LEFT_OUT = {
    "RePaintScheduler": "needs an image and a mask",
    "ScoreSdeVeScheduler": "has no table, its step size depends on the data",
    "VQDiffusionScheduler": "its samples are tokens",
}


class Traced(AbstractContextManager["Traced"]):
    """What NumPy has allocated since, by tracemalloc."""

    def __enter__(self) -> "Traced":
        """Begin to count."""
        tracemalloc.start()
        self._before, _ = tracemalloc.get_traced_memory()
        return self

    def __exit__(self, *_: object) -> None:
        """Count no more."""
        tracemalloc.stop()

    def now(self) -> float:
        """Return what is alive."""
        return (tracemalloc.get_traced_memory()[0] - self._before) / BYTES

    def peak(self) -> float:
        """Return the most that was alive since the last call."""
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        return (most - self._before) / BYTES


class Live(AbstractContextManager["Live"]):
    """What JAX holds more than before; the inside of a compiled step is asked for apart."""

    def __enter__(self) -> "Live":
        """Begin to count."""
        self._before = self._bytes()
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to undo."""

    def _bytes(self) -> int:
        import jax

        return sum(array.nbytes for array in jax.live_arrays())

    def now(self) -> float:
        """Return what is alive."""
        return (self._bytes() - self._before) / BYTES

    def peak(self) -> float:
        """Return nothing: between operations nobody sees it."""
        return math.nan


def storages() -> AbstractContextManager[Any]:
    """Count the storages that PyTorch's operations make."""
    import torch
    from torch.multiprocessing.reductions import StorageWeakRef
    from torch.utils._python_dispatch import TorchDispatchMode

    def tensors(tree: Any) -> Iterator[Any]:
        if isinstance(tree, torch.Tensor):
            yield tree
        elif isinstance(tree, list | tuple):
            for part in tree:
                yield from tensors(part)

    class Storages(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self._held: dict[int, tuple[Any, int]] = {}
            self._most = 0.0

        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            known = {tensor.untyped_storage()._cdata for tensor in tensors(args)}
            result = function(*args, **(kwargs or {}))
            for tensor in tensors(result):
                storage = tensor.untyped_storage()
                if storage._cdata not in known:  # else a view, or written in place
                    self._held[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
            self._most = max(self._most, self.now())
            return result

        def now(self) -> float:
            """Return what is alive."""
            self._held = {k: v for k, v in self._held.items() if not v[0].expired()}
            return sum(size for _, size in self._held.values()) / BYTES

        def peak(self) -> float:
            """Return the most that was alive since the last call."""
            most, self._most = self._most, self.now()
            return most

    return Storages()


METERS: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {
    "NumPy": Traced,
    "PyTorch": storages,
    "JAX": Live,
    "diffusers": storages,
}


def start(framework: str) -> tuple[Callable[[], Any], Any]:
    """Return what makes a new array like the sample, and a source of noise."""
    host = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    if framework == "NumPy":
        return host.copy, np.random.default_rng(0)
    if framework == "JAX":
        import jax

        on_device = jax.numpy.asarray(host)
        return on_device.copy, jax.random.key(0)
    import torch

    return torch.from_numpy(host).clone, torch.Generator().manual_seed(0)


def watched(framework: str, begin: Callable[[Any], Any], step: Callable[..., Any], n: int) -> Any:
    """Run a loop and return (between, peak), each the most over its steps.

    Args:
        begin: makes the first state of a new start.
        step: makes the next state of (state, new array, rng), calling for the network's output.
    """
    fresh, rng = start(framework)
    between, peak = 0.0, 0.0
    with METERS[framework]() as meter:
        state = begin(fresh())
        meter.peak()
        for i in range(n):
            state = step(i, state, fresh, rng)
            peak = max(peak, meter.peak())
            between = max(between, meter.now() - 1)
    return between, peak


def ours(framework: str, plan: Any) -> tuple[float, float]:
    """Watch cmsched's pure functions; a first loop fills what plans and frameworks keep."""

    def step(i: int, state: Any, fresh: Callable[[], Any], rng: Any) -> Any:
        x, t = cmsched.model_input(plan, state)
        output = fresh()
        del x, t
        return cmsched.step(plan, state, output, rng=rng)

    def begin(x: Any) -> Any:
        return cmsched.init(plan, x, rng=0)

    for _ in range(2):
        between, peak = watched(framework, begin, step, len(plan))
    return between, between + 2 + inside(plan) if framework == "JAX" else peak


def inside(plan: Any) -> float:
    """Return what a step compiled by JAX allocates: its results, and what it needs on the way."""
    import jax

    fresh, _ = start("JAX")
    noise = fresh() if plan.layout.draws else None
    state, noise = cmsched.init(plan, fresh(), rng=0), (noise,) * len(plan.layout.draws) or None

    def step(table: Any, state: Any, output: Any, noise: Any) -> Any:
        return cmsched.step(table, state, output, noise=noise)

    lowered = jax.jit(step).lower(plan.on(state.sample), state, state.sample, noise)
    found = lowered.compile().memory_analysis()
    drawn = len(plan.layout.draws) * BYTES
    return (found.output_size_in_bytes + found.temp_size_in_bytes + drawn) / BYTES


def theirs(framework: str, name: str, n: int) -> tuple[float, float]:
    """Watch diffusers' scheduler in the loop of a pipeline."""
    import inspect

    scheduler = reference_scheduler(name, n)
    takes = "generator" in inspect.signature(scheduler.step).parameters
    scale = getattr(scheduler, "scale_model_input", lambda x, t: x)
    times, level = list(scheduler.timesteps), getattr(scheduler, "init_noise_sigma", 1.0)

    def step(i: int, x: Any, fresh: Callable[[], Any], rng: Any) -> Any:
        scaled = scale(x, times[i])
        output = fresh()
        del scaled
        more = {"generator": rng} if takes else {}
        return scheduler.step(output, times[i], x, **more, return_dict=False)[0]

    return watched(framework, lambda x: x * level, step, len(times))


def found_of(name: str, counts: tuple[int, int]) -> dict[str, Any]:
    """Return what was counted for a scheduler."""
    import diffusers

    cls = getattr(cmsched, name)
    scheduler = cls(**{key: value for key, value in PLAIN.items() if key in cls.options})
    counts = counts[0], min(counts[1], MOST.get(name, counts[1]))
    plans = [scheduler.plan(n) for n in counts]
    record: dict[str, Any] = {"scheduler": name, "steps": counts}
    record["stored"] = len(plans[0].layout.slots)
    for framework in FRAMEWORKS[:-1]:
        record[framework] = [ours(framework, plan) for plan in plans]
    if hasattr(diffusers, name) and name not in APART:
        record["diffusers"] = [theirs("diffusers", name, n) for n in counts]
    return record


def main() -> None:
    """Count and print."""
    given = options(__doc__)
    import torch

    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    counts = (10, 40) if given.short else (10, 100)
    with torch.inference_mode():
        records = [
            found_of(name, counts) for name in cmsched.schedulers.CLASSES if name not in LEFT_OUT
        ]
    about = header("torch", "diffusers", "jax", "numpy", threads=given.threads)
    report("memory", about, told(records, counts), records, given.keep)


def told(records: list[dict[str, Any]], counts: tuple[int, int]) -> str:
    """Return the table, and what grows."""

    def pair(record: Mapping[str, Any], framework: str, which: int) -> str:
        if framework not in record:
            return ""
        low, high = (found[which] for found in record[framework])
        same = abs(high - low) < SAME
        return f"{low:.1f}" if same else f"**{low:.1f}, {high:.1f}**"

    rows = [
        [record["scheduler"].removesuffix("Scheduler") or "Scheduler", record["stored"]]
        + [pair(record, name, which) for which in (0, 1) for name in FRAMEWORKS]
        for record in records
    ]
    titles = ["scheduler", "stored"]
    titles += [f"{what}, {name}" for what in ("between", "peak") for name in FRAMEWORKS]

    def growing(framework: str) -> str:
        names = [
            record["scheduler"]
            for record in records
            if framework in record
            for (a, b), (c, d) in [record[framework]]
            if c - a > SAME or d - b > SAME
        ]
        return ", ".join(names) or "nothing"

    lines = [f"{name}: {growing(name)}" for name in FRAMEWORKS]
    return "\n\n".join(
        [
            f"In units of a sample of {'x'.join(map(str, SHAPE))} in float32, the most over a loop"
            f" of {counts[0]} steps; where {counts[1]} steps (or as many as the network can take)"
            " differ, that too, in bold.",
            table(rows, titles),
            f"More after {counts[1]} steps than after {counts[0]}: {'; '.join(lines)}. Left out:"
            f" {'; '.join(f'{name} {why}' for name, why in LEFT_OUT.items())}.",
        ]
    )


if __name__ == "__main__":
    main()
