"""A row of a plan in one pass over memory: each array is read once, each result written once.

A row is a few statements (value, sources): value = sum of weight * source, in turn. Written out as
the body of one loop, they are a function that numba compiles (the extra `fast`), in about a second,
once per structure of row and dtype, and keeps on disk (`jitted`); without numba, NumPy takes them
block by block. Large arrays of NumPy, and of PyTorch on the CPU where numba is, are combined this
way. Sums are rounded as those of `Backend.combine` are.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from cmsched.backends import jitted

# Elements, as measured by benchmarks/one_pass.py. numba's loop is as fast as the memory from 2^14
# on, but to be compiled it takes as long as some thousand steps of LEAST save; blocks are no slower
# than the operations one by one from LEAST_BLOCKS on.
LEAST = 1 << 18
LEAST_BLOCKS, BLOCK = 1 << 21, 1 << 16

Statements = tuple[tuple[int, tuple[int, ...]], ...]


@lru_cache(maxsize=256)
def inputs(statements: Statements) -> tuple[int, ...]:
    """Give the values that statements read and do not make."""
    made = {value for value, _ in statements}
    return tuple(sorted({s for _, sources in statements for s in sources} - made))


def read_by(statements: Statements, weights: Sequence[Any]) -> list[int]:
    """Give the inputs, the sample in place of those whose weights are 0: they are not read."""
    sources = [source for _, own in statements for source in own]
    used = {n for n, weight in zip(sources, weights, strict=True) if weight}
    return [n if n in used else 0 for n in inputs(statements)]


def suits(values: Sequence[Any], statements: Statements, dtype: Any, rows: int = 1) -> bool:
    """Tell whether `evaluate` can take these values, and is worth it."""
    x = values[0]
    if x.size < LEAST or str(dtype) not in ("float32", "float64"):
        return False
    if jitted.numba() is None and (x.size < LEAST_BLOCKS or x.size < rows * BLOCK):
        return False
    return all(
        type(v) is np.ndarray and v.dtype == dtype and v.shape == x.shape and v.flags.c_contiguous
        for v in (values[n] for n in inputs(statements))
    )


def evaluate(
    statements: Statements, wanted: tuple[int, ...], values: Sequence[Any], weights: np.ndarray
) -> dict[int, np.ndarray]:
    """Give the wanted results.

    `weights` are (terms, rows), the rows being leading axes of the arrays: 0 where a source is not
    looked at.
    """
    x, rows = values[0], weights.shape[1]
    results = {n: np.empty(x.shape, x.dtype) for n in wanted}
    looked_at = [bool(np.any(own)) for own in weights]
    read = [values[n].reshape(rows, -1) for n in read_by(statements, looked_at)]
    for array in read:  # as numba knows a type of array for what may be written, and another
        array.flags.writeable = False
    run = compiled if jitted.numba() is not None else blocks
    run(statements, wanted)(weights, *read, *(out.reshape(rows, -1) for out in results.values()))
    return results


@lru_cache(maxsize=256)
def compiled(statements: Statements, wanted: tuple[int, ...]) -> Callable[..., None]:
    """Compile statements to f(weights, *inputs, *wanted results), arrays of (rows, elements)."""
    read = inputs(statements)
    arrays = [*(f"a{n}" for n in read), *(f"out{n}" for n in wanted)]
    lines, count = [], 0
    for value, sources in statements:
        terms = []
        for source in sources:
            x = f"a{source}[row, i]" if source in read else f"t{source}"
            terms.append(f"({x} * w{count} if w{count} != 0 else w{count})")
            count += 1
        lines.append(f"t{value} = {' + '.join(terms)}")
        lines += [f"out{value}[row, i] = t{value}"] * (value in wanted)
    text = [
        f"def kernel(weights, {', '.join(arrays)}):",
        f"    for row in range({arrays[0]}.shape[0]):",
        *(f"        w{k} = weights[{k}, row]" for k in range(count)),
        f"        for i in range({arrays[0]}.shape[1]):",
        *(f"            {line}" for line in lines),
    ]
    return jitted.compiled("\n".join([*text, ""]))


@lru_cache(maxsize=256)
def blocks(statements: Statements, wanted: tuple[int, ...]) -> Callable[..., None]:
    """Give what `compiled` gives, with temporaries that stay in the cache."""
    names = (*inputs(statements), *wanted)

    def kernel(weights: np.ndarray, *arrays: np.ndarray) -> None:
        rows, size = arrays[0].shape
        own = np.empty((2 + len(statements), BLOCK), arrays[0].dtype)
        for row in range(rows):
            for start in range(0, size, BLOCK):
                stop, at = min(start + BLOCK, size), 0
                here = {n: a[row, start:stop] for n, a in zip(names, arrays, strict=True)}
                scratch = own[0, : stop - start]
                for k, (value, sources) in enumerate(statements, 1):
                    out = here.setdefault(value, own[k, : stop - start])
                    begun = False
                    for source in sources:
                        weight, x = weights[at, row], here[source]
                        at += 1
                        if weight == 0:
                            continue
                        if begun:
                            x = np.multiply(x, weight, out=scratch) if weight != 1 else x
                            np.add(out, x, out=out)
                        else:
                            np.multiply(x, weight, out=out)
                        begun = True
                    if not begun:
                        out[:] = 0

    return kernel


def elementwise(
    statements: Statements, wanted: Sequence[int], types: Sequence[str], dtype: str
) -> tuple[str, str, str]:
    """Write statements as a kernel for one element in C++: its inputs, its results, its body.

    The inputs are those of the statements, of these types, then one weight a term.
    """
    c = {"float32": "float", "float64": "double"}[dtype]
    read = inputs(statements)
    lines, count = [], 0
    for value, sources in statements:
        terms = []
        for source in sources:
            x = f"static_cast<{c}>(a{source})" if source in read else f"t{source}"
            terms.append(f"(w{count} != 0 ? {x} * w{count} : w{count})")
            count += 1
        lines.append(f"const {c} t{value} = {' + '.join(terms)};")
    lines += [f"out{n} = t{n};" for n in wanted]
    arrays = [f"{name} a{n}" for name, n in zip(types, read, strict=True)]
    given = [*arrays, *(f"{dtype} w{k}" for k in range(count))]
    return ", ".join(given), ", ".join(f"{dtype} out{n}" for n in wanted), "\n".join(lines)
