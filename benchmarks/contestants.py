"""The contestants of step_cost.py: loops over ready outputs, compared before they are timed."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from timing import Timing, agree, ratio

TOLERANCE = 1e-3  # of results: diffusers' tables are float32, ours are not
PLAIN = {"clip_sample": False, "clip_denoised": False}  # the rows alone, without a projection
Loop = Callable[..., Any]


def pure(plan: Any, start: Any, outputs: Sequence[Any], rng: Any, ready: Any = None) -> Any:
    """Run cmsched's pure functions."""
    from cmsched import model_input, step

    state = start
    for i in range(len(plan)):
        model_input(plan, state)
        state = step(plan, state, outputs[i % 3], rng=rng)
    return ready(state.sample) if ready else state.sample


def compiled(plan: Any, x: Any, outputs: Sequence[Any]) -> Loop:
    """Return the loop of a step that PyTorch compiles, with the numbers as an argument."""
    import torch

    import cmsched

    def advance(table: Any, state: Any, output: Any, z: Any) -> tuple[Any, Any]:
        state = cmsched.step(table, state, output, noise=z)
        return state, cmsched.model_input(table, state)

    advance = torch.compile(advance, fullgraph=True)
    numbers = plan.on(x)
    start = cmsched.init(numbers, x, index=torch.zeros((), dtype=torch.int32))

    def loop(rng: Any) -> Any:
        state = start
        for i in range(len(plan)):
            z = cmsched.draw(numbers, state, rng) if plan.layout.draws else None
            state, _ = advance(numbers, state, outputs[i % 3], z)
        return state.sample

    return loop


def stateful(
    scheduler: Any, x: Any, outputs: Sequence[Any], draws: bool, step: Any = None, times: Any = None
) -> Loop:
    """Return the loop everybody writes, on a scheduler of cmsched or of diffusers.

    Each loop begins with what `set_timesteps` left, which costs the same on both sides. `step` and
    `times` are the scheduler's own if not given.
    """
    step = step or scheduler.step
    scale = getattr(scheduler, "scale_model_input", lambda sample, t: sample)
    takes = draws and "generator" in inspect.signature(scheduler.step).parameters
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    fresh = {k: v for k, v in vars(scheduler).items() if not isinstance(v, list)}
    lists = {k: v for k, v in vars(scheduler).items() if isinstance(v, list)}

    def loop(rng: Any, after: Callable[[], Any] | None = None) -> Any:
        vars(scheduler).update(fresh)
        vars(scheduler).update({k: v.copy() for k, v in lists.items()})
        more = {"generator": rng} if takes else {}
        sample = x
        for i, t in enumerate(scheduler.timesteps if times is None else times):
            scale(sample, t)
            sample = step(outputs[i % 3], t, sample, **more).prev_sample
            if after:
                after()
        return sample

    return loop


def inlined(plan: Any, index: int) -> Callable[..., Any]:
    """Return a deterministic step as straight-line PyTorch code, compiled from its text."""
    import torch

    row, layout = plan.rows[index], plan.layout
    names = {0: "x", 1: "m", **{2 + k: f"h[{k}]" for k in range(len(layout.slots))}}
    lines = ["def step(x, m, h):"]
    scale = row.point.scale
    lines.append(f"    {'x' if scale == 1 else f'x.mul({scale!r})'}")
    statements = list(row.statements)
    if row.needs_x0 and plan.prediction.projects:
        p, q, *_ = row.estimate
        statements.insert(0, (layout.x0, ((0, p, 0), (1, q, 0))))
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
    stored = "".join(f"{names[v]}, " for v in row.stores_from)
    lines.append(f"    return {names[layout.next_sample]}, ({stored})")
    space: dict[str, Any] = {"torch": torch}
    exec("\n".join(lines), space)
    return space["step"]


def by_hand(plan: Any, x: Any, memory: Any, outputs: Sequence[Any]) -> Loop:
    """Return the loop of the inlined steps."""
    steps = [inlined(plan, i) for i in range(len(plan))]

    def loop(rng: Any) -> Any:
        sample, stored = x, memory
        for i, step in enumerate(steps):
            sample, stored = step(sample, outputs[i % 3], stored)
        return sample

    return loop


def traffic(plan: Any) -> float:
    """Return the arrays that a step must read or write, averaged over the plan."""
    total = 0
    for row in plan.rows:
        made = {value for value, _ in row.statements} | {plan.layout.x0}
        reads = {v for _, terms in row.statements for v, _, _ in terms} - made
        if row.needs_x0:
            reads |= {0, 1}
        writes = 1 + sum(v in made for v in row.stores_from)
        total += len(reads) + writes + 2 * (row.point.scale != 1.0)
    return total / len(plan)


def copy(outputs: Sequence[Any], n: int) -> Any:
    """Copy n arrays, one after the other, two of the copies alive as in a loop."""
    made = None
    for i in range(n):
        made = outputs[i % 3].clone()
    return made


# one scheduler at one size


@dataclass
class Entry:
    """The contestants of one scheduler at one size: loops that take a source of noise."""

    name: str
    shape: tuple[int, ...]
    plan: Any
    loops: dict[str, Loop]
    sources: dict[str, Any]  # of noise, where it is not PyTorch's generator
    notes: dict[str, str] = field(default_factory=dict)
    times: dict[str, Timing] = field(default_factory=dict)
    off: float = 0.0

    @property
    def deterministic(self) -> bool:
        """Whether no step draws."""
        return not self.plan.layout.stochastic

    def over(self, a: str, b: str) -> tuple[float, tuple[float, float]]:
        """Return a / b with its interval; b may be the floor."""
        if b != "floor":
            return ratio(self.times, a, b)
        value, (low, high) = ratio(self.times, a, "copy")
        part = traffic(self.plan) / 2
        return value / part, (low / part, high / part)

    def record(self) -> dict[str, Any]:
        """Return what was measured."""
        times = self.times.items()
        return {
            "scheduler": self.name,
            "shape": self.shape,
            "steps": len(self.plan),
            "rounds": len(self.times["copy"].seconds),
            "deterministic": self.deterministic,
            "us": {key: 1e6 * time.median for key, time in times},
            "interval": {key: [1e6 * t for t in time.interval] for key, time in times},
            "arrays moved": traffic(self.plan),
            "largest difference of results": self.off,
            "notes": self.notes,
        }


class Replay:
    """A source of noise that hands out given draws, in the framework of `convert`."""

    def __init__(self, draws: Sequence[Any], convert: Callable[[Any], Any]) -> None:
        self._left, self._convert = iter(draws), convert

    def __call__(self, shape: Any, dtype: Any, interval: Any) -> Any:
        """Return the next."""
        return self._convert(next(self._left))


def arrays(shape: Sequence[int]) -> tuple[Any, list[Any]]:
    """Return a start and three outputs of a network."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x, *outputs = (torch.randn(shape, generator=generator) for _ in range(4))
    return x, outputs


def reference_scheduler(name: str, n: int) -> Any:
    """Return diffusers' scheduler, ready for a loop of n steps."""
    import diffusers

    cls = getattr(diffusers, name)
    known = inspect.signature(cls).parameters
    scheduler = cls(**{key: value for key, value in PLAIN.items() if key in known})
    scheduler.set_timesteps(n)
    return scheduler


def entry(name: str, shape: tuple[int, ...], n: int, compiling: bool) -> Entry:
    """Return the contestants of a scheduler, without diffusers' compiled step."""
    import jax
    import torch

    import cmsched

    cls = getattr(cmsched, name)
    chosen = {key: value for key, value in PLAIN.items() if key in cls.options}
    ours = cls(**chosen, xp="torch", compatibility="diffusers")
    theirs = reference_scheduler(name, n)
    ours.set_timesteps(n)
    plan = ours.plan(n)
    x, outputs = arrays(shape)
    start, draws = cmsched.init(plan, x), plan.layout.stochastic
    first = start.sample
    loops: dict[str, Loop] = {
        "pure": lambda rng: pure(plan, start, outputs, rng),
        "stateful": stateful(ours, first, outputs, draws),
        "diffusers": stateful(theirs, first, outputs, draws),
    }
    if compiling:
        loops["compiled"] = compiled(plan, x, outputs)
    if not draws:
        loops["inlined"] = by_hand(plan, first, start.memory, outputs)
    sources = {"NumPy": np.random.default_rng(0), "JAX": jax.random.key(0)}
    places = {"NumPy": (np.asarray, None), "JAX": (jax.numpy.asarray, jax.block_until_ready)}
    for key, (place, ready) in places.items():
        said, begun = [place(m.numpy()) for m in outputs], cmsched.init(plan, place(x.numpy()))
        loops[key] = lambda rng, s=said, b=begun, r=ready: pure(plan, b, s, rng, r)
    loops["copy"] = lambda rng: copy(outputs, len(plan))
    return Entry(name, shape, plan, loops, {"torch": torch.Generator().manual_seed(0), **sources})


def compare(found: Entry) -> None:
    """Run all contestants on the noise that diffusers draws, and compare what they make."""
    import jax
    from parity.lifted import Draws, reference

    source, groups = Draws(seed=1), []
    with reference(found.name, source, lifted=False):
        after = lambda: groups.append(source.handed_over())  # noqa: E731
        results = {"diffusers": found.loops["diffusers"](None, after)}
    layout, filler = found.plan.layout, found.loops["copy"](None)
    used, padded = [], []  # by an int index, and by an array index, whose rows draw all alike
    for row, drawn in zip(found.plan.rows, groups, strict=True):
        own = {value: z for (value, _), z in zip(row.draws, drawn, strict=False)}
        used += own.values()  # the reference also draws what it multiplies by zero
        padded += [own.get(layout.first_draw + k, filler) for k in range(len(layout.draws))]
    for key, loop in found.loops.items():
        if key not in ("diffusers", "copy"):
            place = {"NumPy": np.asarray, "JAX": jax.numpy.asarray}.get(key, lambda z: z)
            results[key] = loop(Replay(padded if key in ("compiled", "JAX") else used, place))
    found.off = agree(results, TOLERANCE)


def add_compiled_reference(found: Entry, n: int) -> None:
    """Add diffusers' step compiled, or say why not; compared with the step that is not.

    Times are given as the loop has them, or as Python numbers if it does not compile so.
    """
    import torch

    import cmsched

    x, outputs = arrays(found.shape)
    first = cmsched.init(found.plan, x).sample
    notes = []
    for numbers in (False, True):
        torch._dynamo.reset()
        scheduler = reference_scheduler(found.name, n)
        times = scheduler.timesteps.tolist() if numbers else None
        step = torch.compile(scheduler.step)
        loop = stateful(scheduler, first, outputs, not found.deterministic, step, times)
        try:
            made, graphs = graphs_of(loop)
        except Exception as error:  # whatever the compiler raises is what is reported
            notes.append(f"{type(error).__name__}: {str(error).strip().partition('.')[0][:100]}")
            continue
        plain = found.loops["diffusers"](torch.Generator().manual_seed(1))
        agree({"diffusers": plain, "d.compiled": made}, TOLERANCE)
        found.notes["d.compiled"] = f"{graphs} graphs{', times as numbers' if numbers else ''}"
        found.loops["d.compiled"] = loop
        return
    found.notes["d.compiled"] = notes[0] if notes[0] == notes[1] else " / ".join(notes)


def graphs_of(loop: Loop) -> tuple[Any, int]:
    """Run a loop three times; return what the last made, and how many graphs were compiled."""
    import torch
    from torch._dynamo.utils import counters

    before, graphs, made = counters["stats"]["unique_graphs"], [], None
    for _ in range(3):
        made = loop(torch.Generator().manual_seed(1))
        graphs.append(counters["stats"]["unique_graphs"] - before)
    if not graphs[-1]:
        raise RuntimeError("nothing of it can be compiled")
    if graphs[-1] != graphs[-2]:
        raise RuntimeError("each loop compiles anew")
    return made, graphs[-1]


def k_diffusion(match: Any, shape: tuple[int, ...], n: int) -> Entry:
    """Return the entry of a function of k-diffusion, its results compared."""
    import torch
    from parity import kdiffusion, test_kdiffusion
    from parity.lifted import Draws

    import cmsched

    levels = np.geomspace(10.0, 0.1, n + 1).tolist()
    if match.call:
        match = replace(match, levels=levels, call=(levels[-1], levels[0], n))
    else:
        match = replace(match, levels=(*levels[:-1], 0.0))
    plan, (x, outputs) = test_kdiffusion.ours(match), arrays(shape)
    start = cmsched.init(plan, x)
    first, call = start.sample, match.call or (torch.tensor(match.levels),)
    run = getattr(kdiffusion.load("sampling"), f"sample_{match.theirs}")

    def theirs(rng: Any, after: Callable[[], Any] | None = None) -> Any:
        count = 0

        def model(x: Any, sigma: Any) -> Any:
            nonlocal count
            if after:
                after()
            count += 1
            return outputs[(count - 1) % 3]

        return run(model, first, *call, disable=True, **match.options)

    loops = {
        "pure": lambda rng: pure(plan, start, outputs, rng),
        "k-diffusion": theirs,
        "copy": lambda rng: copy(outputs, len(plan)),
    }
    source, groups = Draws(seed=1), []
    with kdiffusion.noise(source):
        end = theirs(None, lambda: groups.append(source.handed_over()))
    groups.append(source.handed_over())
    made = loops["pure"](Replay(match.draws(groups), lambda z: z))
    found = Entry(
        f"sample_{match.theirs}", shape, plan, loops, {"torch": torch.Generator().manual_seed(0)}
    )
    found.off = agree({"k-diffusion": end, "pure": made}, TOLERANCE)
    return found
