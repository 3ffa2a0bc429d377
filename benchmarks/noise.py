"""How many normals a second, portable and native?

Portable normals (`rng=` an int or `cmsched.Rng`) on each framework, in one race with the
framework's own generator: NumPy's Generator (PCG64, ziggurat), torch.randn, jax.random.normal under
jit. They are another stream, so equality is checked between ours and NumPy's float64, by which all
are promised to be the same noise. `compiled` is PyTorch's inside torch.compile, with the
generator of its own that is compiled for it. A draw along a Brownian path (`Rng(path=True)`) is
timed beside a plain one. `--no-numba` leaves the extra `fast` out.
"""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from timing import bars, header, keep_memory, options, race, ratio, report, table, verdict

from cmsched.backends.brownian import cell

SIZES = (1 << 14, 1 << 20, 1 << 24)
SAMPLES = (1, 64)
DTYPES = ("float32", "float64")
WITHIN = {"float32": 4e-6, "float64": 1e-14}  # of NumPy's float64, as promised
TIMES = cell(-0.5), cell(0.2)  # from one noise level to another, for draws along a path

# At most this, over the framework's own generator: one sample in float32.
EXPECTED = {
    ("NumPy", 1 << 14): 2.5,
    ("NumPy", 1 << 20): 2.0,
    ("PyTorch", 1 << 20): 6.0,
    ("PyTorch compiled", 1 << 20): 1.5,
    ("JAX", 1 << 20): 1.0,
}

Contestant = Callable[[], Any]


def numpy_pair(shape: tuple[int, ...], dtype: str, rng: Any) -> tuple[Contestant, Contestant]:
    """Return the native and the portable contestant."""
    from cmsched.noise import standard_normal

    generator, like = np.random.default_rng(0), np.empty(shape, dtype)
    return (
        lambda: generator.standard_normal(shape, dtype),
        lambda: standard_normal(rng, like, 3, times=TIMES),
    )


def torch_pair(
    shape: tuple[int, ...], dtype: str, rng: Any, compiled: bool = False
) -> tuple[Contestant, Contestant]:
    """Return the native and the portable contestant."""
    import torch

    from cmsched.noise import standard_normal

    generator, kind = torch.Generator().manual_seed(0), getattr(torch, dtype)
    like = torch.empty(shape, dtype=kind)

    def portable(like: torch.Tensor) -> torch.Tensor:
        return standard_normal(rng, like, 3, times=TIMES)

    draw = torch.compile(portable, fullgraph=True) if compiled else portable
    return (
        lambda: torch.randn(shape, dtype=kind, generator=generator),
        lambda: draw(like),
    )


def jax_pair(shape: tuple[int, ...], dtype: str, rng: Any) -> tuple[Contestant, Contestant]:
    """Return the native and the portable contestant, under jit."""
    import jax
    import jax.numpy as jnp

    from cmsched.noise import standard_normal

    like, key, row = jnp.empty(shape, dtype), jax.random.key(0), jnp.asarray(3)
    native = jax.jit(lambda key: jax.random.normal(key, shape, dtype))
    portable = jax.jit(lambda like, row: standard_normal(rng, like, row, times=TIMES))
    return (
        lambda: native(key).block_until_ready(),
        lambda: portable(like, row).block_until_ready(),
    )


FRAMEWORKS: dict[str, Callable[..., tuple[Contestant, Contestant]]] = {
    "NumPy": numpy_pair,
    "PyTorch": torch_pair,
    "PyTorch compiled": lambda *given: torch_pair(*given, compiled=True),
    "JAX": jax_pair,
}


def off(drawn: Any, rng: Any, dtype: str) -> float:
    """Return how far normals are from NumPy's float64.

    Raises:
        SystemExit: further than promised.
    """
    drawn = np.asarray(drawn)
    error = float(np.abs(drawn - numpy_pair(drawn.shape, "float64", rng)[1]()).max())
    if not error <= WITHIN[dtype] * (4 if getattr(rng, "path", False) else 1):  # a sum of many
        raise SystemExit(f"{error:.2g} off NumPy's float64, more than is promised")
    return error


def measured(name: str, size: int, samples: int, dtype: str, rounds: int) -> dict[str, Any]:
    """Return the figures of one race."""
    import cmsched

    shape, path = (samples, size // samples), cmsched.Rng(0, path=True)
    native, portable = FRAMEWORKS[name](shape, dtype, 0)
    error = off(portable(), 0, dtype)
    contestants = {"native": native, "portable": portable}
    if size <= 1 << 20 and samples == 1 and name != "PyTorch compiled":
        along = FRAMEWORKS[name](shape, dtype, path)[1]
        off(along(), path, dtype)
        contestants["path"] = along
    times = race(contestants, rounds=rounds)
    value, interval = ratio(times, "portable", "native")
    found = {
        "framework": name,
        "size": size,
        "samples": samples,
        "dtype": dtype,
        "off": error,
        "ms": {key: time.median * 1e3 for key, time in times.items()},
        "portable / native": value,
        "interval": interval,
    }
    if "path" in times:
        found["path / portable"] = ratio(times, "path", "portable")[0]
    return found


def text_of(records: list[dict[str, Any]]) -> str:
    """Return the table."""
    rows = []
    for one in records:
        low, high = one["interval"]
        expected = EXPECTED.get((one["framework"], one["size"]))
        plain = one["samples"] == 1 and one["dtype"] == "float32" and expected is not None
        value = one["portable / native"]
        rows.append(
            [
                *(one["framework"], f"2^{one['size'].bit_length() - 1}", one["samples"]),
                *(
                    one["dtype"],
                    *(one["size"] / one["ms"][k] / 1e3 for k in ("native", "portable")),
                ),
                *(value, f"{low:.2f} ... {high:.2f}", one.get("path / portable")),
                verdict(value, most=expected) if plain else "",
            ]
        )
    titles = ["", "normals", "samples", "", "native M/s", "portable M/s", "portable / native"]
    return table(rows, [*titles, "95 %", "path / portable", "expected"])


def main() -> None:
    """Measure and print."""
    keep_memory()
    given = options(__doc__, no_numba={"action": "store_true", "help": "as if it were not there"})
    import jax
    import torch

    from cmsched.backends import jitted

    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(given.threads)
    torch._dynamo.config.recompile_limit = 64  # one function for all shapes of the race
    warnings.simplefilter("ignore")
    if given.no_numba:
        jitted.numba, jitted.installed = lambda: None, lambda: False
    with_numba = jitted.numba() is not None
    records = []
    for size in SIZES[: 2 if given.short else 3]:
        for dtype in DTYPES:
            for samples in SAMPLES:
                for name in FRAMEWORKS:
                    records.append(measured(name, size, samples, dtype, given.rounds))
                    one = records[-1]
                    shown = f"{one['portable / native']:.2f}"
                    print(name, size, samples, dtype, shown, file=sys.stderr)
    about = header("numpy", "torch", "jax", threads=given.threads)
    about["numba"] = "used by NumPy and PyTorch" if with_numba else "not used"
    text = (
        f"{text_of(records)}\n\nMillions of normals a second; *path* draws one normal per node of a"
        " Brownian path that lies above the interval. No GPU was at hand: PyTorch on CUDA takes the"
        " compiled path, CuPy one kernel a draw, and neither has been timed. The text of CuPy's"
        " kernels is compiled and checked on the host."
    )
    if given.keep:
        groups: dict[str, dict[str, float]] = {}
        for one in records:
            if one["samples"] == 1:
                kind = f"{one['dtype']}, 2^{one['size'].bit_length() - 1}"
                groups.setdefault(one["framework"], {})[kind] = one["portable / native"]
        text += "\n\n" + bars("noise", groups, "time of portable over native normals")
    report("noise", about, text, records, given.keep)


if __name__ == "__main__":
    main()
