"""Threefry-2x32-20 and the inverse normal distribution function, over the array API.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; Wichura 1988, algorithm AS
241. Words are 32 bits held in int32 (the one type that every framework can add, shift and compare),
or in uint32 by NumPy. Arrays made here are updated in place where the framework can.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = Any
Words: TypeAlias = tuple[Any, Any]

# Purposes, a part of every key: without them the start of a loop and its first draw are equal.
START, STEP, BROWNIAN, UNIFORM = range(4)

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
LOW = 0xFFFFFFFF

# float32: Phi^-1 = t P(s) / Q(s) with t = -2 log(2 p) and s = sqrt(t); fit error 1.4e-8.
P = (0.6266570774, 0.876582497, 0.9268506186, 0.5773001663, 0.2214799922, 0.03170142259)
Q = (1.0, 1.398825348, 1.72899101, 1.271375842, 0.6766559153, 0.2232943213, 0.03167154267)

# float64: PPND16 of AS 241; its branch for r > 5 cannot be reached from 32 bits.
CENTRE = 1825361100  # 0.425 * 2^32, where PPND16 changes branch
A = (
    *(3.3871328727963666080, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125),
    *(45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727),
)
B = (
    *(1.0, 42.313330701600911252, 687.18700749205790830, 5394.1960214247511077),
    *(21213.794301586595867, 39307.895800092710610, 28729.085735721942674, 5226.4952788528545610),
)
C = (
    *(1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550),
    *(3.64784832476320460504, 1.27045825245236838258, 0.241780725177450611770),
    *(0.0227238449892691845833, 7.74545014278341407640e-4),
)
D = (
    *(1.0, 2.05319162663775882187, 1.67638483018380384940, 0.689767334985100004550),
    *(0.148103976427480074590, 0.0151986665636164571966, 5.47593808499534494600e-4),
    *(1.05075007164441684324e-9,),
)


class Stream(NamedTuple):
    """The seeds of a batch of portable noise, and which samples of the whole it holds."""

    seeds: tuple[int, ...]  # one for all samples, or one each
    samples: Sequence[int] | None = None  # sample numbers; None: 0 .. batch - 1


class NoiseSpec(NamedTuple):
    """One draw of noise: the array that is asked for, and which draw of a loop it is."""

    shape: tuple[int, ...]  # the first axis is the batch
    dtype: Any
    device: Any = None  # None: the default one
    row: Any = 0  # number of the draw: an int, or integers whose shape begins that of the noise
    rank: int = 0  # tells several draws of one row apart
    purpose: int = STEP
    uniform: bool = False  # in the unit interval, instead of normal
    interval: tuple[float, float] | None = None  # what it is an increment over, (lam_a, lam_b)
    # The same on a path's clock, as `brownian.cell` numbers it: two ints, or int32 arrays like row.
    times: Any = None

    @property
    def batch(self) -> int:
        """The number of samples; noise of shape () is one."""
        return self.shape[0] if self.shape else 1

    @property
    def size(self) -> int:
        """The number of elements of a sample."""
        return math.prod(self.shape[1:])

    def samples(self, start: int, stop: int) -> "NoiseSpec":
        """Give the same draw of some samples of the batch."""

        def cut(x: Any) -> Any:
            return x[start:stop, ...] if getattr(x, "shape", ()) else x

        times = None if self.times is None else (cut(self.times[0]), cut(self.times[1]))
        shape = (stop - start, *self.shape[1:])
        return self._replace(shape=shape, row=cut(self.row), times=times)


def threefry(key: Words, counter: Words) -> Words:
    """Encrypt one block of two words, 20 rounds."""
    k0, k1 = key
    schedule = (k0, k1, k0 ^ k1 ^ PARITY)
    x0, x1 = counter[0] + k0, counter[1] + k1
    x0 = x0 + x1  # not in place: the high word may still be narrower than the low one
    for group in range(5):
        for i, count in enumerate(ROTATIONS[group % 2]):
            if group or i:
                x0 += x1
            x1 = _rotate(x1, count)
            x1 ^= x0
        x0 += schedule[(group + 1) % 3]
        x1 += schedule[(group + 2) % 3] + (group + 1)
    return x0, x1


def block(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Do the same on Python integers, ten times faster than on arrays of one element."""
    schedule = (*key, key[0] ^ key[1] ^ PARITY)
    x0, x1 = counter[0] + key[0], counter[1] + key[1]
    for group in range(5):
        for count in ROTATIONS[group % 2]:
            x0, x1 = x0 + x1 & LOW, x1 & LOW
            x1 = (x1 << count | x1 >> 32 - count) & LOW ^ x0
        x0 += schedule[(group + 1) % 3]
        x1 += schedule[(group + 2) % 3] + group + 1
    return x0 & LOW, x1 & LOW


def bits(key: Words, counter: Words) -> Array:
    """Give one word per element: the two of its block, xored, as jax.random.bits does."""
    x0, x1 = threefry(key, counter)
    x0 ^= x1
    return x0


@lru_cache(maxsize=64)
def keys(stream: Stream, purpose: int, batch: int) -> np.ndarray:
    """Give the host keys of a batch, (2, batch) uint32: seed, then sample, then purpose."""
    seeds, samples = stream
    high, low = [seed >> 32 for seed in seeds], [seed & LOW for seed in seeds]
    key: Words = (np.array(high, np.uint32), np.array(low, np.uint32))
    numbers = np.arange(batch) if samples is None else np.array(samples)
    for number in (numbers.astype(np.uint32), np.array([purpose], np.uint32)):
        key = threefry(key, (0, number))
    host = np.stack(np.broadcast_arrays(*key))
    host.flags.writeable = False
    return host


def counter(indices: Sequence[Array], shape: Sequence[int]) -> Words:
    """Give the high and low word of the C-order number of elements within `shape`.

    `indices` holds one int32 array per axis. They are broadcast, not flattened, so that an array
    split along any axis needs only its own part.
    """
    high: Any = 0
    low: Any = 0
    wide = math.prod(shape) > 1 << 32
    for axis, index in enumerate(indices):
        stride = math.prod(shape[axis + 1 :])
        term = index * _signed(stride)
        total = low + term
        if wide:
            carry = (low & term | (low | term) & ~total) >> 31 & 1
            high = high + _product_high(index, stride) + carry
        low = total
    return high, low


def normals(xp: Any, key: Words, spec: NoiseSpec) -> Array:
    """Give the normals of a draw, or its uniforms, for int32 keys of shape (batch,).

    Where the row is an array, elements count within the sample all the same.
    """
    shape, row = spec.shape, spec.row
    if hasattr(row, "dtype"):
        lead = tuple(row.shape) or (1,)
        row = xp.reshape(xp.astype(row, xp.int32), lead)
        key = tuple(xp.reshape(k, ahead(k.shape, lead)) for k in key)
    high, low = (xp.reshape(k, ahead(k.shape, shape)) for k in threefry(key, (spec.rank, row)))
    where = {} if spec.device is None else {"device": spec.device}  # not every framework takes one
    indices = [
        xp.reshape(xp.arange(n, dtype=xp.int32, **where), (-1,) + (1,) * (len(shape) - i))
        for i, n in enumerate(shape[1:], 2)
    ]
    word = bits((high, low), counter(indices, shape[1:]))
    return xp.reshape((unit if spec.uniform else from_bits)(xp, word, spec.dtype), shape)


def ahead(lead: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """Give the shape in which an array of shape `lead` is broadcast along the rest of `shape`."""
    return (*lead, *(1,) * (len(shape) - len(lead)))


def unit(xp: Any, word: Array, dtype: Any) -> Array:
    """Map int32 words w to (w mod 2^31 + 1/2) / 2^31: small values keep their relative accuracy."""
    return (xp.astype(word & 0x7FFFFFFF, dtype) + 0.5) * 2.0**-31


def from_bits(xp: Any, word: Array, dtype: Any) -> Array:
    """Map int32 words w to Phi^-1((w + 1/2) / 2^32), w read as unsigned."""
    # Everything is formed from integers, so that both tails keep their relative accuracy.
    word = word ^ -(1 << 31)
    edge = word >> 30 >> 1  # a framework that shifts by dividing has no 2^31
    edge ^= word
    edge ^= 0x7FFFFFFF  # 0 at the extreme words, 2^31 - 1 in the middle
    z = tails(xp, word, edge, dtype)
    if dtype != xp.float64:
        return z
    offset = (xp.astype(word, dtype) + 0.5) * 2.0**-32
    square = 0.180625 - offset * offset
    centre = offset * _polynomial(A, square) / _polynomial(B, square)
    return xp.where(edge >= 0x7FFFFFFF - CENTRE, centre, z)


def tails(xp: Any, word: Array, edge: Array, dtype: Any) -> Array:
    """Map words and their distances from the extreme ones to normals; in float64 far from 0."""
    tail = xp.astype(edge, dtype)
    tail += 0.5
    tail *= 2.0**-31
    tail = xp.log(tail)
    if dtype == xp.float64:
        root = xp.sqrt(math.log(2) - tail) - 1.6
        z = _polynomial(C, root) / _polynomial(D, root)
    else:
        tail *= -2.0
        root = xp.sqrt(tail)
        z = _polynomial(P, root)
        z *= tail
        z /= _polynomial(Q, root)
    return z * xp.astype(word >> 30 >> 1 | 1, dtype)


def _polynomial(coefficients: Sequence[float], x: Array) -> Array:
    total = x * coefficients[-1]
    for c in coefficients[-2:0:-1]:
        total += c
        total *= x
    total += coefficients[0]
    return total


def _rotate(x: Array, count: int) -> Array:
    left = x << count
    x >>= 32 - count
    if not isinstance(x, np.ndarray):  # int32 shifts the sign in; NumPy's words are unsigned
        x &= (1 << count) - 1
    x |= left
    return x


def _signed(n: int) -> int:
    n &= LOW
    return n - (1 << 32) if n >> 31 else n


def _product_high(a: Array, b: int) -> Array:
    """Give the high word of the 64-bit product of an int32 array >= 0 and a host integer."""
    b_high, b1, b0 = b >> 32, b >> 16 & 0xFFFF, b & 0xFFFF
    a1, a0 = a >> 16, a & 0xFFFF
    middle = a1 * b0 + ((a0 * b0) >> 16 & 0xFFFF)
    other = a0 * b1 + (middle & 0xFFFF)
    return a1 * b1 + (middle >> 16 & 0xFFFF) + (other >> 16 & 0xFFFF) + a * _signed(b_high)
