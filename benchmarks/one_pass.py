"""From what size on, and with how many threads, does it pay to take a row in one pass?

The measurement behind the thresholds in `cmsched/backends/fused.py` and `torch_rows.py`. A middle
step of DPM-Solver++ 2M (two sums of two and three terms, two results) by each of the ways there
are: NumPy's operations one by one, in blocks, and numba's loop; PyTorch's operations, with one
thread and two, and compiled by torch.compile; on JAX the same update as one writes it by hand in
one jit, and with the next sample as its only result. Numbers are times relative to the floor, the
five arrays (with one result four) moved at the bandwidth of a copy by one thread.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from timing import agree, header, keep_memory, options, race, report, table

SIZES = tuple(1 << k for k in (14, 16, 17, 18, 19, 20, 21, 22, 23))


def contestants(size: int) -> dict[str, Callable[[], Any]]:
    """Return every way to take the same step of arrays of this size."""
    import jax
    import torch

    import cmsched
    from cmsched.backends import fused, jitted, torch_rows
    from cmsched.rows import row_weights

    plan = cmsched.DPMSolverMultistepScheduler().plan(10)
    layout, row = plan.layout, plan.rows[4]
    statements, wanted = layout.statements, layout.results
    weights = np.array(row_weights(layout, row), np.float32)[:, None]
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(size, dtype=np.float32) for _ in range(3)]
    tensors = [torch.from_numpy(x) for x in arrays]
    numpy, values = cmsched.backends.resolve(arrays[0]), [*arrays, *layout.placeholders]

    def one_by_one() -> Any:
        found = list(values)
        for value, sources, own, _ in row.program:
            found[value] = numpy.combine([found[v] for v in sources], own, arrays[0].dtype)
        return [found[n] for n in wanted]

    def in_one_pass(way: Callable[..., Callable[..., None]]) -> Callable[[], Any]:
        def run() -> Any:
            out = [np.empty_like(arrays[0]) for _ in wanted]
            way(statements, wanted)(weights, *(x[None] for x in arrays), *(x[None] for x in out))
            return out

        return run

    structure = tuple((v, sources, own[0] == 1.0) for v, sources, own, _ in row.program)
    numbers = [w for _, _, own, _ in row.program for w in own]
    results = (layout.next_sample, row.stores_from, None)
    written = torch_rows.compile_source(structure, (), results)(*numbers)
    held = [*tensors, *layout.placeholders]

    def torch_with(threads: int, step: Callable[[Any], Any]) -> Callable[[], Any]:
        def run() -> Any:
            torch.set_num_threads(threads)
            following, (stored,), _ = step(held)
            return [stored, following]

        return run

    def by_hand(count: int) -> Callable[[], Any]:
        p, q, *own = weights[:, 0].tolist()

        @jax.jit
        def step(x: Any, m: Any, h: Any) -> Any:
            stored = x * p + m * q
            terms = {0: x, 2: h, layout.x0: stored}
            sums = zip(statements[-1][1], own, strict=True)
            return (stored, sum(terms[v] * weight for v, weight in sums))[-count:]

        given = [jax.numpy.asarray(x) for x in arrays]
        return lambda: jax.block_until_ready(step(*given))

    ways = {
        "copy": tensors[0].clone,
        "NumPy": one_by_one,
        "in blocks": in_one_pass(fused.blocks),
        "PyTorch": torch_with(1, written),
        "2 threads": torch_with(2, written),
        "torch.compile": torch_with(1, torch.compile(written, dynamic=False)),
        "JAX": by_hand(2),
        "JAX, one result": by_hand(1),
    }
    if jitted.numba() is not None:
        ways["numba"] = in_one_pass(fused.compiled)
    return ways


def main() -> None:
    """Race and print."""
    given = options(__doc__)
    keep_memory()
    import torch

    rows, records, apart = [], [], ("copy", "JAX, one result")
    with torch.inference_mode():
        for size in SIZES[::4] if given.short else SIZES:
            torch._dynamo.reset()
            ways = contestants(size)
            off = max(
                agree({name: way()[k] for name, way in ways.items() if name not in apart}, 1e-6)
                for k in range(2)
            )
            times = race(ways, rounds=given.rounds)
            us = {name: 1e6 * value.median for name, value in times.items()}
            floor = 2.5 * us["copy"]
            us["JAX, one result"] *= 5 / 4  # it moves four arrays
            records.append({"size": size, "us": us, "floor": floor, "off": off})
            names = [name for name in ways if name != "copy"]
            rows.append([f"{size:,}", floor, *(us[name] / floor for name in names)])
    titles = ["elements", "floor, us", *names]
    about = header("torch", "numpy", "jax", "numba", threads=given.threads)
    report("one_pass", about, table(rows, titles), {"records": records}, given.keep)


if __name__ == "__main__":
    main()
