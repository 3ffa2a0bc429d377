"""Loops as one would write them by hand, around the network of the loop benchmark."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cmsched import Plan

Model = Callable[[Any, Any], Any]


def weights() -> tuple[np.ndarray, ...]:
    """Return the small network's: convolution, channel mix, convolution."""
    rng = np.random.default_rng(3)
    shapes = (16, 4, 3, 3), (16, 16), (4, 16, 3, 3)
    return tuple(0.15 * rng.standard_normal(shape, dtype=np.float32) for shape in shapes)


def written_out(plan: Plan, framework: str) -> Callable[..., Any]:
    """Return the loop `sample(model, x, times, zero)` as one would write it: straight-line code.

    PyTorch accumulates in place, which is faster there; JAX fuses plain expressions.
    """
    layout = plan.layout
    slots = [f"h{k}" for k in range(len(layout.slots))]
    lines = ["def sample(model, x, times, zero):", f"    x = x * {plan.grid.init_scale!r}"]
    lines += [f"    {slot} = zero" for slot in slots]
    for i, row in enumerate(plan.rows):
        scale = row.point.scale
        lines.append(f"    m = model({'x' if scale == 1 else f'x * {scale!r}'}, times[{i}])")
        names = {0: "x", 1: "m", **{2 + k: slot for k, slot in enumerate(slots)}}
        for value, sources, numbers, _ in row.program:
            terms = [(names[v], c) for v, c in zip(sources, numbers, strict=True)]
            names[value] = f"v{value}"
            lines.append(f"    v{value} = {_sum(terms, framework)}")
        stored = "".join(f", {names[value]}" for value in row.stores_from)
        left = "".join(f", {slot}" for slot in slots)
        lines.append(f"    x{left} = {names[layout.next_sample]}{stored}")
    lines.append("    return x")
    space: dict[str, Any] = {}
    if framework == "torch":
        import torch

        space["add"] = torch.add
    exec("\n".join(lines), space)
    return space["sample"]


def _sum(terms: Sequence[tuple[str, float]], framework: str) -> str:
    if framework == "jax":
        return " + ".join(name if c == 1.0 else f"{name} * {c!r}" for name, c in terms)
    (first, c), *rest = terms
    text = f"{first}.mul({c!r})"
    if c == 1.0 and rest:
        (second, c), *rest = rest
        text = f"add({first}, {second}, alpha={c!r})"
    return text + "".join(f".add_({name}, alpha={c!r})" for name, c in rest)


def scanned_by_hand(plan: Plan, model: Model) -> Callable[[Any], Any]:
    """Return the loop as a lax.scan over the numbers of every step, nothing selected or checked."""
    import jax
    import jax.numpy as jnp

    layout, programs = plan.layout, [row.program for row in plan.rows]
    terms = sorted(
        {(value, v) for program in programs for value, used, *_ in program for v in used}
    )
    numbers = np.zeros((len(plan), 1 + len(terms)), np.float32)
    for i, program in enumerate(programs):
        numbers[i, 0] = plan.rows[i].point.scale
        for value, used, own, _ in program:
            for v, c in zip(used, own, strict=True):
                numbers[i, 1 + terms.index((value, v))] = c
    times = jnp.asarray(plan.timesteps, jnp.int32 if plan.grid.integral else jnp.float32)

    def body(carry: Any, row: Any) -> Any:
        (x, memory), (n, t) = carry, row
        values = dict(enumerate((x, model(x * n[0] if layout.scaled else x, t), *memory)))
        for k, (value, v) in enumerate(terms, 1):
            term = values[v] * n[k]
            values[value] = values[value] + term if value in values else term
        return (values[layout.next_sample], tuple(values[v] for v in layout.stores_from)), None

    def sample(x: Any) -> Any:
        memory = tuple(jnp.zeros_like(x) for _ in layout.slots)
        start = (x * plan.grid.init_scale, memory)
        return jax.lax.scan(body, start, (jnp.asarray(numbers), times))[0][0]

    return sample
