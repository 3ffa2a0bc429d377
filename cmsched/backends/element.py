"""Portable noise of one element, written out as statements that C++ and Python both read.

`threefry` says the same over arrays. A compiler that makes one loop of these needs no temporaries:
numba for NumPy, and for PyTorch on the CPU (the extra `fast`), and CuPy on the GPU. Words are
identical, normals as close as the logarithm is.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from cmsched.backends import jitted, threefry

# Elements of a sample from which on numba's loop draws: there a draw is 3 ms shorter, and importing
# numba takes as long as some hundred of these. By the sample, not the array, and for good, as the
# normals of the two ways differ by a rounding. In a graph that is being compiled, where numba is
# not, a kernel of PyTorch's compiler draws from fewer on.
LEAST = 1 << 18
LEAST_IN_GRAPH = 1 << 14

LN2 = (6.93147180369123816490e-01, 1.90821492927058770002e-10)  # its sum; the first is a short one
LOG32 = (
    *(0.33333331174, -0.24999993993, 0.20000714765, -0.16668057665, 0.14249322787),
    *(-0.12420140846, 0.11676998740, -0.11514610310, 0.070376836292),
)
LOG64 = (
    *(6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01),
    *(2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01),
    1.479819860511658591e-01,
)


def declarations(dtype: str) -> str:
    """Give what the statements need to be C++; `r` is their result."""
    real = {"float32": "float", "float64": "double"}[dtype]
    return (
        f"typedef unsigned int uint32; typedef int int32; typedef {real} real;\n"
        "uint32 k0, k1, k2, x0, x1; int32 v, edge; real tail, t, s, p, q, r;\n"
    )


def cpp(lines: Sequence[str]) -> str:
    """Join statements to C++, which has a `log` of its own."""
    return "".join(f"{line};\n" for line in lines)


def words() -> list[str]:
    """Encrypt the counter (x0, x1) with the key (k0, k1)."""
    lines = [f"k2 = uint32(k0 ^ k1 ^ {threefry.PARITY})"]
    lines += ["x0 = uint32(x0 + k0)", "x1 = uint32(x1 + k1)"]
    for group in range(5):
        for count in threefry.ROTATIONS[group % 2]:
            lines.append("x0 = uint32(x0 + x1)")
            lines.append(f"x1 = uint32(x1 << {count}) | uint32(x1 >> {32 - count})")
            lines.append("x1 = uint32(x1 ^ x0)")
        lines.append(f"x0 = uint32(x0 + k{(group + 1) % 3})")
        lines.append(f"x1 = uint32(x1 + k{(group + 2) % 3} + {group + 1})")
    return lines


def uniform() -> list[str]:
    """Map the words as `threefry.unit` does."""
    return [f"r = (real(int32(x0 ^ x1) & {0x7FFFFFFF}) + real(0.5)) * real({2.0**-31})"]


def normal(dtype: str, log: Sequence[str], choose: str) -> list[str]:
    """Map the words as `threefry.from_bits` does, where `log` sets t to the logarithm of tail."""
    lines = [
        f"v = int32(uint32(x0 ^ x1) ^ {1 << 31})",
        f"edge = int32(v ^ (v >> 31) ^ {0x7FFFFFFF})",
        f"tail = (real(edge) + real(0.5)) * real({2.0**-31})",
        *log,
    ]
    sign = "real((v >> 31) | 1)"
    if dtype == "float32":
        lines += ["t = t * real(-2.0)", "s = real(sqrt(t))"]
        lines += polynomial("p", threefry.P, "s") + polynomial("q", threefry.Q, "s")
        return [*lines, f"r = p * t / q * {sign}"]
    lines.append(f"s = real(sqrt(real({math.log(2)}) - t)) - real(1.6)")
    lines += polynomial("p", threefry.C, "s") + polynomial("q", threefry.D, "s")
    lines += [f"r = p / q * {sign}", f"t = (real(v) + real(0.5)) * real({2.0**-32})"]
    lines.append("s = real(0.180625) - t * t")
    lines += polynomial("p", threefry.A, "s") + polynomial("q", threefry.B, "s")
    lines.append("p = t * p / q")
    centre = f"edge >= {0x7FFFFFFF - threefry.CENTRE}"
    return [*lines, "r = " + choose.format(condition=centre, a="p", b="r")]


def polynomial(name: str, coefficients: Sequence[float], x: str) -> list[str]:
    """Set `name` to a polynomial of x, by Horner's rule."""
    first, *rest = [f"real({c!r})" for c in reversed(coefficients)]
    return [f"{name} = {first}", *(f"{name} = {name} * {x} + {c}" for c in rest)]


def logarithm(dtype: str) -> list[str]:
    """Set t to log(tail), in Python: a loop that calls a library is not done in vectors.

    By logf of Cephes (Moshier) and log of fdlibm (Sun Microsystems), for 0 < tail <= 1.
    """
    half, shift = {"float32": (0x3F3504F3, 23), "float64": (0x3FE6A09E667F3BCD, 52)}[dtype]
    lines = [
        "bits = real(tail).view(integer)",
        f"e = int32((bits - {half}) >> {shift})",
        f"t = integer(bits - (integer(e) << {shift})).view(real) - real(1.0)",
    ]
    if dtype == "float32":
        lines += polynomial("p", LOG32, "t")
        lines += ["s = t * t", "p = p * t * s - real(2.12194440e-4) * real(e) - real(0.5) * s"]
        return [*lines, "t = t + p + real(0.693359375) * real(e)"]
    lines += ["s = t / (real(2.0) + t)", "q = s * s"]
    lines += polynomial("p", LOG64, "q")
    lines += ["q = p * q", "p = real(0.5) * t * t"]
    low, high = f"real({LN2[1]!r}) * real(e)", f"real({LN2[0]!r}) * real(e)"
    return [*lines, f"t = {high} - ((p - (s * (p + q) + {low})) - t)"]


def draw_source(dtype: str, unit: bool) -> str:
    """Give the C++ of a draw: sets z, element i of a batch, with keys[row] and keys[rows + row].

    Each key is for `part` elements, each sample has `whole`.
    """
    place = ["k0 = keys[i / part]", "k1 = keys[rows + i / part]"]
    # The shift is of 64 bits, whichever type counts the elements of a kernel.
    place += ["x0 = uint32((long long)(i) % whole >> 32)", "x1 = uint32(i % whole)"]
    mapped = uniform() if unit else normal(dtype, ["t = log(tail)"], "{condition} ? {a} : {b}")
    return declarations(dtype) + cpp([*place, *words(), *mapped, "z = r"])


def fold_source() -> str:
    """Give the C++ of a key (high, low) folded with (rank, row): sets its words a, b."""
    given = ["k0 = high", "k1 = low", "x0 = rank", "x1 = row"]
    return declarations("float32") + cpp([*given, *words(), "a = x0", "b = x1"])


@lru_cache
def compiled(dtype: str, unit: bool) -> Callable[..., None]:
    """Compile f(k0, k1, high, low, out): the draw of a key from the element (high, low) on.

    The low word must not come round within `out`, see `pieces`.
    """
    choose = "{a} if {condition} else {b}"
    mapped = uniform() if unit else normal(dtype, logarithm(dtype), choose)
    lines = ["x0 = high", "x1 = uint32(low + uint32(i))", *words(), *mapped, "out[i] = r"]
    integer = {"float32": "int32", "float64": "int64"}[dtype]
    text = ["from math import sqrt", f"from numpy import int32, uint32, {integer} as integer"]
    text += [f"from numpy import {dtype} as real", "def kernel(k0, k1, high, low, out):"]
    text += ["    for i in range(out.size):", *(f"        {line}" for line in lines)]
    return jitted.compiled("\n".join([*text, ""]))


def pieces(first: int, count: int, most: int = 1 << 32) -> Iterator[tuple[int, int, int, int]]:
    """Cut elements first, first + 1, ...: (start, stop) in them, counter words of the start.

    Within a piece the low word does not come round.
    """
    start = 0
    while start < count:
        at = first + start
        stop = min(count, start + most - at % most)
        yield start, stop, at >> 32, at & threefry.LOW
        start = stop
