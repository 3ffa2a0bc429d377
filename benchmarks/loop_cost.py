"""What does a 20-step loop with a small network cost, in every way a loop can be run?

Microseconds per step, network included, float32, 1x4x64x64. Two networks: "trivial" is one tanh,
so that the loop is mostly the scheduler; "small" is two 3x3 convolutions around a channel mix.

PyTorch (on a GPU where there is one), all under `torch.inference_mode`:

    network         the network's evaluations alone
    by hand         the update as straight-line code with the numbers written in
    pure            cmsched's pure functions, int index
    stateful        scheduler.scale_model_input and scheduler.step
    compiled step   torch.compile of network and step, array index: one graph for all steps
    compiled loop   torch.compile of the whole `cmsched.sample`
    CUDA graph      the whole loop captured once, replayed with another plan's numbers in its table
    diffusers       its scheduler's loop; its own multistep state is reset without cost
    diffusers, compiled    the same with torch.compile of its step (graph breaks and all)
    k-diffusion     its sample function, around a denoiser that knows the times beforehand

JAX: `by hand` and `cmsched.sample` inside one `jit`, written out (unroll) and as a `lax.scan`, with
the plan's numbers as constants or as an argument (table); a `fori_loop` through the former Flax
call shape (`interop.flax`); and the Python loop that `sample` is on concrete arrays, around a
jitted network. Then what it takes to trace and to compile such a loop of 50 steps, and one step
that is not inside a `jit`, of `cmsched.step` and of a Flax class.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from by_hand import weights, written_out
from jax_loops import AGAINST, JAX, compile_times, flax_steps, jax_loops, jax_networks
from timing import agree, geometric, header, keep_memory, options, race, ratio, report, verdict
from timing import table as markdown

import cmsched
from cmsched import Plan, Table

STEPS = 20
SHAPE = (1, 4, 64, 64)
TOLERANCE = 1e-4  # of the largest element: single precision
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {"clip_sample": False}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
}
K_DIFFUSION = {"Euler": "sample_euler", "DPM++ 2M": "sample_dpmpp_2m"}
GPU_STEP_US = 10.0  # expected of a captured step at most, the network left out

Model = Callable[[Any, Any], Any]
Loop = Callable[[], Any]


def torch_networks(device: str) -> dict[str, Model]:
    """Return the two networks, and one that costs nothing, in PyTorch."""
    import torch

    first, mix, last = (torch.from_numpy(w).to(device) for w in weights())

    def small(x: Any, t: Any) -> Any:
        hidden = torch.tanh(torch.conv2d(x, first, padding=1) + t * 1e-3)
        hidden = torch.tanh(torch.einsum("oc,bchw->bohw", mix, hidden))
        return torch.conv2d(hidden, last, padding=1)

    return {"none": lambda x, t: x, "trivial": lambda x, t: torch.tanh(x), "small": small}


# peers


def of_diffusers(theirs: Any, model: Model, x: Any, *, compiled: bool) -> Loop:
    """Return the loop of a pipeline around a scheduler whose timesteps are set."""
    import torch

    def state() -> dict[str, Any]:
        return {k: list(v) if isinstance(v, list) else v for k, v in vars(theirs).items()}

    first = state()
    step = torch.compile(theirs.step) if compiled else theirs.step

    def loop() -> Any:
        vars(theirs).update({k: list(v) if isinstance(v, list) else v for k, v in first.items()})
        theirs._step_index = None
        if hasattr(theirs, "set_begin_index"):
            theirs.set_begin_index(0)
        sample = x * theirs.init_noise_sigma
        for t in theirs.timesteps:
            output = model(theirs.scale_model_input(sample, t), t)
            sample = step(output, t, sample, return_dict=False)[0]
        return sample

    return loop


def of_k_diffusion(name: str, plan: Plan, model: Model, x: Any, device: str) -> Loop:
    """Return k-diffusion's sample function on the plan's levels.

    Its denoiser is told the times one after the other instead of looking them up: in its favour.
    """
    import torch

    sys.path.append(str(Path(__file__).parent.parent / "tests"))
    from parity.kdiffusion import load

    function = getattr(load("sampling"), K_DIFFUSION[name])
    levels = [p.sigma / p.alpha for p in plan.grid.points]
    sigmas = torch.tensor(levels, dtype=torch.float32, device=device)
    times = torch.from_numpy(plan.timesteps).to(device, torch.float32)
    if plan.grid.integral:
        times = times.to(torch.int64)
    times = list(times)

    def loop() -> Any:
        upcoming = iter(times)

        def denoiser(x: Any, sigma: Any) -> Any:
            scaled = x / torch.sqrt(sigma * sigma + 1)[:, None, None, None]
            return x - sigma[:, None, None, None] * model(scaled, next(upcoming))

        return function(denoiser, x * start, sigmas, disable=True)

    # where cmsched's frame is another one, its unit start is this much noise over alpha
    start = plan.grid.init_scale / plan.grid.points[0].alpha
    return loop


# cmsched


def pure(plan: Plan, model: Model, x: Any) -> Loop:
    """Return the loop by pure functions."""

    def loop() -> Any:
        state = cmsched.init(plan, x)
        for _ in range(len(plan)):
            state = cmsched.step(plan, state, model(*cmsched.model_input(plan, state)))
        return state.sample

    return loop


def stateful(scheduler: Any, model: Model, x: Any) -> Loop:
    """Return the loop everyone knows."""

    def loop() -> Any:
        scheduler.set_begin_index(0)
        sample = x * scheduler.init_noise_sigma
        for t in times:
            output = model(scheduler.scale_model_input(sample, t), t)
            sample = scheduler.step(output, t, sample).prev_sample
        return sample

    times = scheduler.timesteps
    return loop


def compiled_step(plan: Plan, model: Model, x: Any) -> Loop:
    """Return the loop over one compiled function of network and step."""
    import torch

    def step(table: Table, state: cmsched.State) -> cmsched.State:
        return cmsched.step(table, state, model(*cmsched.model_input(table, state)))

    compiled, table = torch.compile(step, fullgraph=True), plan.on(x)
    index = torch.zeros((), dtype=torch.int32, device=x.device)

    def loop() -> Any:
        state = cmsched.init(table, x, index=index)
        for _ in range(len(plan)):
            state = compiled(table, state)
        return state.sample

    return loop


def compiled_loop(plan: Plan, model: Model, x: Any) -> Loop:
    """Return the whole loop as one compiled function."""
    import torch

    compiled = torch.compile(lambda x: cmsched.sample(model, plan, x), fullgraph=True)
    return lambda: compiled(x)


def captured(plan: Plan, other: Plan, model: Model, x: Any) -> Loop:
    """Return the whole loop as one CUDA graph, captured with another plan's numbers in the table.

    Nothing may wait for the device, neither in the capture nor in a replay.
    """
    import torch

    parts = [t.clone() for t in (other.on(x).numbers, other.on(x).where, other.on(x).start)]
    table = Table(other.layout, *parts)
    index = torch.zeros((), dtype=torch.int32, device=x.device)

    def whole() -> Any:
        state = cmsched.init(table, x, index=index)
        for _ in range(len(plan)):
            state = cmsched.step(table, state, model(*cmsched.model_input(table, state)))
        return state.sample

    graph = torch.cuda.CUDAGraph()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what libraries allocate at first use
        whole()
    torch.cuda.current_stream().wait_stream(aside)
    with torch.cuda.graph(graph):
        result = whole()
    own = plan.on(x)
    with without_waiting():
        for old, new in zip(parts, (own.numbers, own.where, own.start), strict=True):
            old.copy_(new)
        graph.replay()

    def loop() -> Any:
        graph.replay()
        return result

    return loop


@contextmanager
def without_waiting() -> Iterator[None]:
    """Make an error of whatever waits for the GPU."""
    import torch

    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# races


def torch_loops(name: str, model: Model, x: Any, short: bool) -> dict[str, Loop]:
    """Return PyTorch's contestants; few of those that take long to compile if short."""
    import diffusers
    import torch

    class_name, settings = SCHEDULERS[name]
    ours = getattr(cmsched, class_name)(**settings, xp="torch")
    theirs = getattr(diffusers, class_name)(**settings)
    device = str(x.device)
    ours.set_timesteps(STEPS, device=device)
    theirs.set_timesteps(STEPS, device=device)
    plan = ours.plan(STEPS)
    times = [plan.time_on(x, i) for i in range(len(plan))]
    by_hand, zero = written_out(plan, "torch"), torch.zeros_like(x)

    def network() -> None:
        for t in times:
            model(x, t)

    loops: dict[str, Loop] = {
        "network": network,
        "by hand": lambda: by_hand(model, x, times, zero),
        "pure": pure(plan, model, x),
        "stateful": stateful(ours, model, x),
        "diffusers": of_diffusers(theirs, model, x, compiled=False),
    }
    if name in K_DIFFUSION:
        loops["k-diffusion"] = of_k_diffusion(name, plan, model, x, device)
    if not short or name == "DPM++ 2M":
        loops["compiled step"] = compiled_step(plan, model, x)
        loops["compiled loop"] = compiled_loop(plan, model, x)
        again = getattr(diffusers, class_name)(**settings)
        again.set_timesteps(STEPS, device=device)
        loops["diffusers, compiled"] = of_diffusers(again, model, x, compiled=True)
    if device != "cpu":
        other = getattr(cmsched, class_name)(**settings, beta_end=0.015).plan(STEPS)
        loops["CUDA graph"] = captured(plan, other, model, x)
    return loops


def checked(
    loops: Mapping[str, Loop], expected: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Compare the samples of all loops; give the first one and the largest difference."""
    found = {} if expected is None else {"PyTorch": expected}
    for name, loop in loops.items():
        if name != "network":
            result = loop()
            found[name] = np.asarray(result.cpu() if hasattr(result, "cpu") else result)
    return next(iter(found.values())), agree(found, TOLERANCE)


TORCH = [
    *("network", "by hand", "pure", "stateful", "compiled step", "compiled loop", "CUDA graph"),
    *("diffusers", "diffusers, compiled", "k-diffusion"),
]


def main() -> None:
    """Race and print."""
    given = options(__doc__)
    keep_memory()
    import torch

    torch.set_num_threads(given.threads)
    torch.backends.cudnn.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sync = torch.cuda.synchronize if device == "cuda" else None
    host = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
    on_torch, on_jax = torch_networks(device), jax_networks()
    import jax

    records: list[dict[str, Any]] = []
    samples: dict[tuple[str, str], np.ndarray] = {}
    timed = {"rounds": given.rounds, "calls": STEPS, "seconds": 0.01}

    def keep(framework: str, name: str, network: str, off: float, times: Any) -> None:
        us = {key: 1e6 * value.median for key, value in times.items()}
        interval = {key: [1e6 * t for t in value.interval] for key, value in times.items()}
        against = AGAINST if framework == "jax" else {"pure": "by hand"}
        against = {**against, "diffusers": "pure", "k-diffusion": "pure"}
        ratios = {
            f"{a} / {b}": ratio(times, a, b) for a, b in against.items() if {a, b} <= {*times}
        }
        records.append(
            {"framework": framework, "scheduler": name, "network": network, "off": off}
            | {"us": us, "interval": interval, "ratio": ratios}
        )

    with torch.inference_mode():
        x = torch.from_numpy(host).to(device)
        for network, model in on_torch.items():
            if network == "none" and device == "cpu":
                continue
            for name in SCHEDULERS:
                torch._dynamo.reset()
                loops = torch_loops(name, model, x, given.short)
                samples[name, network], off = checked(loops)
                keep("torch", name, network, off, race(loops, sync=sync, **timed))
    for network, model in on_jax.items():
        for name in SCHEDULERS:
            loops = jax_loops(*SCHEDULERS[name], STEPS, model, jax.numpy.asarray(host))
            _, off = checked(loops, samples[name, network])
            keep("jax", name, network, off, race(loops, **timed))
    compiled = {
        name: compile_times(*settings, on_jax["trivial"], jax.numpy.asarray(host))
        for name, settings in SCHEDULERS.items()
    }
    for name, settings in SCHEDULERS.items():
        steps = race(flax_steps(*settings, jax.numpy.asarray(host)), rounds=given.rounds)
        us = {key: 1e6 * value.median for key, value in steps.items()}
        records.append(
            {"framework": "jax, one step", "scheduler": name, "us": us, "compile": compiled[name]}
            | {"ratio": ratio(steps, "interop.flax", "cmsched.step")}
        )
    about = header("torch", "diffusers", "k-diffusion", "jax", "numpy", threads=given.threads)
    report("loop_cost", about, told(records, given.rounds), records, given.keep)


def told(records: Sequence[Mapping[str, Any]], rounds: int) -> str:
    """Return the tables."""
    on_torch = [record for record in records if record["framework"] == "torch"]
    on_jax = [record for record in records if record["framework"] == "jax"]
    one_step = [record for record in records if record["framework"] == "jax, one step"]
    gpu = any("CUDA graph" in record["us"] for record in on_torch)
    columns = [column for column in TORCH if gpu or column != "CUDA graph"]

    def rows(found: Any, columns: Sequence[str], ratios: Sequence[str]) -> list[list[Any]]:
        return [
            [record["network"], record["scheduler"]]
            + [record["us"].get(column) for column in columns]
            + [record["ratio"].get(name, (None,))[0] for name in ratios]
            for record in found
        ]

    titles = ["network", "scheduler"]
    ratios = ["diffusers / pure", "k-diffusion / pure", "pure / by hand"]
    off = max(record.get("off", 0.0) for record in records)
    text = [
        f"Microseconds per step, network included: medians of {rounds} alternations of a loop of"
        f" {STEPS} steps at {'x'.join(map(str, SHAPE))}. All samples agree to"
        f" {off:.0e} of the largest element. PyTorch:",
        markdown(rows(on_torch, columns, ratios), [*titles, *columns, *ratios]),
        "JAX:",
        markdown(rows(on_jax, JAX, ()), [*titles, *JAX]),
        "The loop inside one `jit` against the same update by hand in jnp, ratios (95 % interval):",
    ]
    pairs = [f"{a} / {b}" for a, b in AGAINST.items()]
    against = []
    for record in on_jax:
        cells = [
            f"{value:.2f} ({low:.2f} to {high:.2f})"
            for value, (low, high) in (record["ratio"][pair] for pair in pairs)
        ]
        against.append([record["network"], record["scheduler"], *cells])
    text.append(markdown(against, [*titles, *pairs]))
    summary = [
        [pair, geometric(each), max(each), verdict(max(each), most=1.1)]
        for pair in pairs
        for each in [[record["ratio"][pair][0] for record in on_jax]]
    ]
    text.append(markdown(summary, ["JAX", "geometric mean", "largest", "expected of each"]))
    ways = list(one_step[0]["compile"])
    cells = [
        [r["scheduler"], *(" + ".join(f"{ms:.0f}" for ms in r["compile"][way]) for way in ways)]
        for r in one_step
    ]
    text += [
        "Milliseconds to trace and to compile 50 steps:",
        markdown(cells, ["scheduler", *ways]),
    ]
    kinds, most = list(one_step[0]["us"]), 1.1
    cells = [
        [r["scheduler"], *r["us"].values(), r["ratio"][0], verdict(r["ratio"][0], most=most)]
        for r in one_step
    ]
    titles = ["scheduler", *kinds, "ratio", "expected"]
    text += ["Microseconds of one step outside `jit`, no network:", markdown(cells, titles)]
    if gpu:
        captured = [r for r in on_torch if r["network"] == "none"]
        lines = [
            [r["scheduler"], us, verdict(us, most=GPU_STEP_US)]
            for r in captured
            for us in [r["us"]["CUDA graph"]]
        ]
        text += ["A captured step, no network:", markdown(lines, ["scheduler", "us", "expected"])]
    return "\n\n".join(text)


if __name__ == "__main__":
    main()
