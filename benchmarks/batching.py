"""What do rows at different steps in one batch cost?

64 requests of 20, 30 or 50 steps, each somewhere in its loop, take a step: as one batch, whose
index says where each row is, or each by itself. A step is `model_input` + `step` of all 64,
float32, the network's outputs ready. Contestants, in one race per scheduler and size:

    batch       cmsched's pure functions on a stack of the three plans, index of shape (64,)
    some over   the same where every eighth row is over, and its network says NaN
    compiled    batch, with one torch.compile of cmsched.step and the model_input after it
    pure        64 states of one row each, int index
    diffusers   64 of diffusers' schedulers
    NumPy, JAX  batch, there (on JAX each function is one jitted call)
    copy        one array of the batch into a fresh one

PyTorch's run on its CPU under `torch.inference_mode`. The floor is the time to move what a step
must read and write (sample, output, history, results, each once) at the bandwidth of the copy.
"""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from contestants import PLAIN, copy, reference_scheduler, traffic
from timing import (
    agree,
    bars,
    geometric,
    header,
    keep_memory,
    options,
    race,
    ratio,
    report,
    table,
    verdict,
)

REQUESTS, STEPS = 64, 8  # how many, and of how many steps a turn is
EIGHTH = 8
LENGTHS = (20, 30, 50)
SHAPES = ((4, 64, 64), (16, 128, 128))  # of a request
SCHEDULERS = (
    *("DDIMScheduler", "EulerDiscreteScheduler"),
    *("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"),
)
TOLERANCE = 1e-3  # of results: diffusers' tables are float32, ours are not
LEAST = {"pure": 2.5, "diffusers": 20.0}  # expected over batch, at the smaller size
FLOOR = 3.0  # expected of batch over the floor, at most
FLOORED = ("batch", "some over", "compiled", "NumPy", "JAX")
Loop = Callable[[], Any]


class Requests:
    """64 requests of one scheduler: which plan each runs, where it is, what its network says.

    The network's outputs are three arrays in turn, the same at every step.
    """

    def __init__(self, name: str, shape: Sequence[int]) -> None:
        """Draw them, and bring each to where it is."""
        import torch

        import cmsched

        cls = getattr(cmsched, name)
        chosen = {key: value for key, value in PLAIN.items() if key in cls.options}
        scheduler = cls(**chosen, xp="torch", compatibility="diffusers")
        self.name, self.shape = name, tuple(shape)
        self.plans = [scheduler.plan(n) for n in LENGTHS]
        self.stacked = cmsched.stack(self.plans)
        random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
        self.kinds = [k % len(LENGTHS) for k in range(REQUESTS)]
        self.done = [int(random.integers(LENGTHS[kind] - STEPS)) for kind in self.kinds]
        self.noise, *self.outputs = (
            torch.randn((REQUESTS, *shape), generator=generator) for _ in range(4)
        )
        self.own = [[m[k : k + 1] for k in range(REQUESTS)] for m in self.outputs]

    def start(self) -> Any:
        """Return the batch where every row is at its step: rows join as they come."""
        from cmsched import init, join, step

        rows = []
        for k, (kind, done) in enumerate(zip(self.kinds, self.done, strict=True)):
            state = init(self.stacked, self.noise[k : k + 1], which=[kind])
            for i in range(done):
                state = step(self.stacked, state, self.own[i % 3][k])
            rows.append(state)
        return join(rows)

    def batch(
        self, start: Any, outputs: Sequence[Any], ready: Callable[[Any], Any] | None = None
    ) -> Loop:
        """Return the loop of one batch."""
        from cmsched import model_input, step

        def loop() -> Any:
            state = start
            for i in range(STEPS):
                model_input(self.stacked, state)
                state = step(self.stacked, state, outputs[i % 3])
            return ready(state.sample) if ready else state.sample

        return loop

    def elsewhere(
        self, place: Callable[[Any], Any], ready: Callable[[Any], Any] | None = None
    ) -> Loop:
        """Return the loop of one batch in another framework."""
        import cmsched

        sample, memory, index = self.start()
        start = cmsched.State(place(sample), tuple(map(place, memory)), place(index))
        return self.batch(start, [place(m) for m in self.outputs], ready)

    def some_over(self, start: Any) -> Loop:
        """Return the loop of a batch where every eighth row is over."""
        index = start.index.clone()
        index[::EIGHTH] = len(self.plans[0])  # the column of its end
        outputs = [m.clone() for m in self.outputs]
        for m in outputs:
            m[::EIGHTH] = float("nan")
        return self.batch(start._replace(index=index), outputs)

    def compiled(self, start: Any) -> Loop:
        """Return the loop of a step that PyTorch compiles, with the numbers as an argument."""
        import torch

        import cmsched

        def advance(numbers: Any, state: Any, output: Any) -> tuple[Any, Any]:
            state = cmsched.step(numbers, state, output)
            return state, cmsched.model_input(numbers, state)

        advance = torch.compile(advance, fullgraph=True)
        numbers = self.stacked.on(self.noise)

        def loop() -> Any:
            state = start
            for i in range(STEPS):
                state, _ = advance(numbers, state, self.outputs[i % 3])
            return state.sample

        return loop

    def pure(self) -> Loop:
        """Return the loop of one state for each request."""
        from cmsched import init, model_input, step

        plans, starts = [self.plans[kind] for kind in self.kinds], []
        for k, (plan, done) in enumerate(zip(plans, self.done, strict=True)):
            state = init(plan, self.noise[k : k + 1])
            for i in range(done):
                state = step(plan, state, self.own[i % 3][k])
            starts.append(state)

        def loop() -> Any:
            states = starts
            for i in range(STEPS):
                following = []
                for plan, state, output in zip(plans, states, self.own[i % 3], strict=True):
                    model_input(plan, state)
                    following.append(step(plan, state, output))
                states = following
            return [state.sample for state in states]

        return loop

    def diffusers(self) -> Loop:
        """Return the loop of one of diffusers' schedulers for each request."""
        import cmsched

        schedulers, starts, times = [], [], []
        for k, (kind, done) in enumerate(zip(self.kinds, self.done, strict=True)):
            scheduler = reference_scheduler(self.name, LENGTHS[kind])
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(0)
            sample = cmsched.init(self.plans[kind], self.noise[k : k + 1]).sample
            for i, t in enumerate(scheduler.timesteps[:done]):
                scheduler.scale_model_input(sample, t)
                sample = scheduler.step(self.own[i % 3][k], t, sample).prev_sample
            schedulers.append(scheduler)
            starts.append(sample)
            times.append(list(scheduler.timesteps[done : done + STEPS]))
        fresh = [
            {key: v.copy() if isinstance(v, list) else v for key, v in vars(scheduler).items()}
            for scheduler in schedulers
        ]

        def loop() -> Any:
            for scheduler, kept in zip(schedulers, fresh, strict=True):
                lists = {key: v.copy() for key, v in kept.items() if isinstance(v, list)}
                vars(scheduler).update(kept | lists)
            samples = starts
            for i in range(STEPS):
                following = []
                for scheduler, sample, at, output in zip(
                    schedulers, samples, times, self.own[i % 3], strict=True
                ):
                    scheduler.scale_model_input(sample, at[i])
                    following.append(scheduler.step(output, at[i], sample).prev_sample)
                samples = following
            return samples

        return loop


def contestants(requests: Requests) -> dict[str, Loop]:
    """Return the loops."""
    import jax

    start = requests.start()
    return {
        "batch": requests.batch(start, requests.outputs),
        "some over": requests.some_over(start),
        "compiled": requests.compiled(start),
        "pure": requests.pure(),
        "diffusers": requests.diffusers(),
        "NumPy": requests.elsewhere(lambda x: x.numpy()),
        "JAX": requests.elsewhere(lambda x: jax.numpy.asarray(x.numpy()), jax.block_until_ready),
    }


def compare(loops: Mapping[str, Loop]) -> float:
    """Return how far the results are apart; those of rows that are over are left out."""
    results = {name: loop() for name, loop in loops.items()}
    whole = {
        name: np.concatenate(made) if isinstance(made, list) else np.asarray(made)
        for name, made in results.items()
    }
    going = np.arange(REQUESTS) % EIGHTH != 0
    some = whole.pop("some over")[going]
    return max(
        agree(whole, TOLERANCE), agree({"batch": whole["batch"][going], "some over": some}, 0.0)
    )


def raced(name: str, shape: Sequence[int], rounds: int) -> dict[str, Any]:
    """Race the contestants of one scheduler and size."""
    import torch

    torch._dynamo.reset()
    requests = Requests(name, shape)
    loops = contestants(requests)
    off = compare(loops)
    loops["copy"] = lambda: copy(requests.outputs, STEPS)
    times = race(loops, rounds=rounds, calls=STEPS)
    part = sum(map(traffic, requests.plans)) / len(requests.plans) / 2  # of the floor in copies
    found = {
        "scheduler": name.removesuffix("Scheduler"),
        "shape": [REQUESTS, *shape],
        "us": {key: 1e6 * time.median for key, time in times.items()},
        "interval": {key: [1e6 * t for t in time.interval] for key, time in times.items()},
        "ratios": {key: ratio(times, key, "batch") for key in LEAST},
        "floors": {
            key: (value / part, (low / part, high / part))
            for key in FLOORED
            for value, (low, high) in [ratio(times, key, "copy")]
        },
        "largest difference of results": off,
    }
    found["us"]["floor"] = found["us"]["copy"] * part
    shown = {key: round(value) for key, value in found["us"].items()}
    print(found["shape"], found["scheduler"], shown, file=sys.stderr, flush=True)
    return found


def text_of(records: Sequence[Mapping[str, Any]], keep: bool) -> str:
    """Return everything as Markdown."""
    parts = []
    for shape in dict.fromkeys(tuple(found["shape"]) for found in records):
        place = "x".join(map(str, shape))
        here = [found for found in records if tuple(found["shape"]) == shape]
        rows, expected = [], []
        for found in here:
            ratios = [found["ratios"][key][0] for key in LEAST]
            floors = [found["floors"][key][0] for key in FLOORED]
            rows.append([found["scheduler"], *found["us"].values(), *ratios, *floors])
            for key, least in LEAST.items():
                value, (low, high) = found["ratios"][key]
                cells = [value, f"{low:.2f} to {high:.2f}", verdict(value, least=least)]
                expected.append([found["scheduler"], f"{key} / batch", *cells])
            for key in ("batch", "some over"):
                value, (low, high) = found["floors"][key]
                cells = [value, f"{low:.2f} to {high:.2f}", verdict(value, most=FLOOR)]
                expected.append([found["scheduler"], f"{key} / floor", *cells])
        titles = [f"{key} / batch" for key in LEAST] + [f"{key} / floor" for key in FLOORED]
        parts.append(f"### {place}: microseconds per step of all {REQUESTS}")
        parts.append(table(rows, ["", *here[0]["us"], *titles]))
        if shape[1:] == SHAPES[0]:  # what is expected is expected here
            for key, least in LEAST.items():
                mean = geometric([found["ratios"][key][0] for found in here])
                expected.append(
                    ["geometric mean", f"{key} / batch", mean, "", verdict(mean, least=least)]
                )
            parts.append(table(expected, ["", "figure", "ratio", "95 %", "expected"]))
        if keep:
            groups = {
                found["scheduler"]: {
                    key: found["us"][key] / found["us"]["floor"] for key in (*FLOORED, *LEAST)
                }
                for found in here
            }
            label = f"time of a step of {REQUESTS} requests / time to move its arrays once, {place}"
            parts.append(bars(f"batching_{place}", groups, label))
    off = max(found["largest difference of results"] for found in records)
    parts.append(f"Results agree to {off:.1g} of their scale.")
    return "\n\n".join(parts)


def main() -> None:
    """Race and print."""
    given = options(
        __doc__,
        without_numba={"action": "store_true", "help": "as if numba was not installed"},
    )
    keep_memory()
    if given.without_numba:
        sys.modules["numba"] = None  # type: ignore[assignment]

    import diffusers
    import torch

    torch.set_num_threads(given.threads)
    diffusers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    about = header("torch", "diffusers", "numpy", "jax", "numba", threads=given.threads)
    if given.without_numba:
        about["numba"] = "kept out"
    with torch.inference_mode():
        records = [
            raced(name, shape, given.rounds)
            for shape in SHAPES[: 1 if given.short else None]
            for name in SCHEDULERS
        ]
    report("batching", about, text_of(records, given.keep), records, given.keep)


if __name__ == "__main__":
    main()
