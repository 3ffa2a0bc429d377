"""NumPy."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cmsched.backends import brownian, element, fused, jitted, threefry
from cmsched.backends.base import Array, Backend, DType
from cmsched.backends.threefry import NoiseSpec, Stream

BLOCK = 1 << 15  # elements worked on at once, so that temporaries stay in the cache
# And bytes, in the map: beyond, the allocator may ask the system for fresh pages each time.
MAP_BYTES = 1 << 16


class NumpyBackend(Backend):
    """NumPy: own buffers are written in place, results are arrays even where 0-d."""

    def owns(self, cls: type) -> bool:
        """Tell whether arrays of this type belong to NumPy (its 0-d results are scalars)."""
        return issubclass(cls, (np.ndarray, np.generic))

    @property
    def default_int(self) -> DType:
        """The integer dtype that NumPy counts in."""
        return np.dtype(np.int64)

    def dtype(self, dtype: str | DType) -> DType:
        """Give the dtype of this name; bfloat16 is known once ml_dtypes is loaded."""
        return np.dtype(dtype)

    def dtype_name(self, dtype: DType) -> str:
        """Give the plain name of a dtype."""
        return str(np.dtype(dtype).name)

    def device(self, x: Array) -> Any:
        """Give the device, of which NumPy has one."""
        return "cpu"

    def known(self, x: Array) -> np.ndarray | None:
        """Give the array itself."""
        return np.asarray(x)

    def astype(self, x: Array, dtype: DType) -> Array:
        """Convert, without a copy where nothing changes."""
        return np.asarray(x, dtype)

    def to_device_of(self, host: np.ndarray, x: Array, dtype: str | DType | None = None) -> Array:
        """Convert where a dtype is given."""
        return np.asarray(host, dtype)

    def where(self, condition: Array, a: Array, b: Array) -> Array:
        """Choose elementwise."""
        return np.where(condition, a, b)

    def copy(self, x: Array) -> Array:
        """Give an array of its own with these values."""
        return np.array(x)

    def zeros_like(self, x: Array) -> Array:
        """Give zeros of the same shape and dtype."""
        return np.zeros_like(x)

    def clip(self, x: Array, lo: float, hi: float) -> Array:
        """Limit to [lo, hi]."""
        return np.asarray(np.clip(x, lo, hi))

    def combine(self, values: Sequence[Array], weights: Sequence[Any], dtype: DType) -> Array:
        """Sum weights[k] * values[k] in `dtype`, into a new array."""
        first, scale = values[0], weights[0]
        if not isinstance(scale, float):
            pairs = zip(values, weights, strict=True)
            values = [v if np.all(w) else np.where(w == 0, v.dtype.type(0), v) for v, w in pairs]
            first = values[0]
        elif scale == 1.0 and len(values) == 1:
            return np.array(first, dtype)
        total = np.asarray(np.multiply(first, scale, dtype=dtype))
        scratch = None
        for value, weight in zip(values[1:], weights[1:], strict=True):
            if not isinstance(weight, float) or weight != 1.0:
                scratch = np.empty_like(total) if scratch is None else scratch
                value = np.multiply(value, weight, out=scratch, dtype=dtype)
            np.add(total, value, out=total)
        return total

    def combinations(
        self,
        statements: fused.Statements,
        wanted: Sequence[int],
        values: list[Array],
        weights: Array,
        dtype: DType,
    ) -> None:
        """Fill in what statements make of values, large arrays in one pass."""
        flat = weights.reshape(len(weights), -1)
        if fused.suits(values, statements, dtype, flat.shape[1]):
            made = fused.evaluate(statements, tuple(wanted), values, flat)
            for value, result in made.items():
                values[value] = result
        else:
            super().combinations(statements, wanted, values, weights, dtype)

    def kernel(self, work: Any, dtype: DType) -> Any:
        """Take a row of large arrays in one pass."""
        statements, column = work.statements, np.array(work.weights, dtype)[:, None]

        def kernel(values: list[Array]) -> Any:
            if not fused.suits(values, statements, column.dtype):
                return None
            for v, made in fused.evaluate(statements, work.made, values, column).items():
                values[v] = made
            return work.taken(values)

        return kernel

    def kernel_applies(self, x: Array) -> bool:
        """Tell whether x is large."""
        return bool(x.size >= fused.LEAST)

    def is_generator(self, generator: Any) -> bool:
        """Tell whether this is a numpy.random.Generator."""
        return isinstance(generator, np.random.Generator)

    def native(self, generator: Any, spec: NoiseSpec) -> Array:
        """Draw from a numpy.random.Generator."""
        of = generator.random if spec.uniform else generator.standard_normal
        draw = of(spec.shape, self.accumulation(spec.dtype))
        return np.asarray(draw, spec.dtype)

    def fresh(self, seed: int, device: Any) -> np.random.Generator:
        """Make a generator."""
        return np.random.default_rng(seed)

    def normals(self, stream: Stream, spec: NoiseSpec) -> Array:
        """Draw the portable normals of a stream, in one loop or block by block."""
        batch, size, device = spec.batch, spec.size, spec.device
        if device not in (None, "cpu"):
            raise ValueError(f"device={device!r}: NumPy has only 'cpu'; name a framework by xp=")
        key = self.folded_keys(stream, spec)
        parts = math.prod(key.shape[2:])  # of a sample, each with a key of its own
        out = np.empty((batch * parts, size // max(1, parts)), spec.dtype)
        key, first = key.reshape(2, len(out)), first_elements(batch, parts, size)
        draw(out, key, first, spec.uniform, uses_numba(size))
        return out.reshape(spec.shape)

    def increments(self, stream: Stream, spec: NoiseSpec) -> Array:
        """Draw the unit increments of a stream's Brownian paths, all nodes block by block."""
        batch, size, times = spec.batch, spec.size, spec.times
        lead = (batch, *getattr(times[0], "shape", ())[1:])
        parts = math.prod(lead[1:])
        rows, n = batch * parts, size // max(1, parts)

        def along(x: Any) -> Any:
            return np.broadcast_to(np.asarray(x, spec.dtype), lead).reshape(rows, 1)

        def keys(node: Any) -> np.ndarray:
            return self.folded_keys(stream, spec._replace(row=node)).reshape(2, rows)

        terms = [
            (keys(node), along(height) * factor)
            for node, height, factor in brownian.increment(*times)
            if not (isinstance(height, int) and height == 0)
        ]
        out, first = np.zeros((rows, n), spec.dtype), first_elements(batch, parts, size)
        together = max(1, BLOCK // max(1, n))
        for i in range(0, rows, together):
            for j in range(0, n, BLOCK):
                total = out[i : i + together, j : j + BLOCK]
                z, at = np.empty_like(total, order="C"), [f + j for f in first[i : i + together]]
                for key, weight in terms:
                    draw(z, key[:, i : i + together], at, False, uses_numba(size))
                    z *= weight[i : i + together]
                    total += z
        out /= along(brownian.cells(*times)) ** 0.5
        return out.reshape(spec.shape)

    def folded_keys(self, stream: Stream, spec: NoiseSpec) -> np.ndarray:
        """Give the host keys of one draw, (2, batch, ...) uint32."""
        rank, row, batch = spec.rank, spec.row, spec.batch
        key = threefry.keys(stream, spec.purpose, batch)
        if isinstance(row, int) and batch <= 8:
            folded = [threefry.block(k, (rank, row)) for k in zip(*key.tolist(), strict=True)]
            return np.array(folded, np.uint32).T.reshape(2, batch)
        low = np.atleast_1d(np.asarray(row)).astype(np.uint32)
        key = key.reshape(2, *threefry.ahead((batch,), low.shape))
        return np.stack(threefry.threefry(tuple(key), (rank, low)))


def first_elements(batch: int, parts: int, size: int) -> list[int]:
    """Give the number of each part's first element, counted within its sample."""
    return [part * (size // parts) for part in range(parts)] * batch


def uses_numba(size: int) -> bool:
    """Tell whether numba's loop draws samples of this size: a batch that is split goes one way."""
    return size >= element.LEAST and jitted.numba() is not None


def draw(out: np.ndarray, key: np.ndarray, first: list[int], uniform: bool, alone: bool) -> None:
    """Write the draws of keys (2, rows) to `out` (rows, n), from element first[row] on."""
    rows, n = out.shape
    flat, step = out.reshape(-1), max(1, MAP_BYTES // out.itemsize)
    if alone:
        fill = element.compiled(out.dtype.name, uniform)
        for i, (k0, k1) in enumerate(key.T):
            for start, stop, *counter in element.pieces(first[i], n):
                fill(k0, k1, *map(np.uint32, counter), flat[i * n + start : i * n + stop])
        return
    together = 1 if any(first) else max(1, BLOCK // max(1, n))
    a, b = (np.empty(min(step, out.size), out.dtype) for _ in range(2))
    for i in range(0, rows, together):
        part = tuple(key[:, i : i + together, None])
        for j in range(0, n, BLOCK):
            word = words(part, first[i] + j, min(BLOCK, n - j)).reshape(-1)
            block = flat[i * n + j :][: len(word)]
            if uniform:
                block[:] = threefry.unit(np, word, out.dtype)
                continue
            for k in range(0, len(word), step):
                quantiles(word[k : k + step], block[k : k + step], a, b)


def words(key: threefry.Words, first: int, count: int) -> np.ndarray:
    """Give the words of elements first, first + 1, ... of each sample, as int32."""
    here = (1 << 32) - (first & threefry.LOW)
    if here < count:  # the low word of a counter comes round
        ends = words(key, first, here), words(key, first + here, count - here)
        return np.concatenate(ends, axis=-1)
    low = np.arange(count, dtype=np.uint32) + (first & threefry.LOW)
    word: np.ndarray = threefry.bits(key, (first >> 32, low))
    return word.view(np.int32)


def quantiles(word: np.ndarray, out: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Write what `threefry.from_bits` gives to `out`, with scratch arrays a, b; `word` is lost."""
    a, b = a[: len(word)], b[: len(word)]
    np.bitwise_xor(word, -(1 << 31), out=word)
    edge = b.view(np.int32)[: len(word)]
    np.right_shift(word, 31, out=edge)
    edge ^= word
    edge ^= 0x7FFFFFFF
    if out.dtype == np.float64:
        far = np.flatnonzero(edge < 0x7FFFFFFF - threefry.CENTRE)
        outer = threefry.tails(np, word[far], edge[far], out.dtype)
        np.add(word, 0.5, out=a)
        a *= 2.0**-32
        np.multiply(a, a, out=b)
        np.subtract(0.180625, b, out=b)
        _polynomial(threefry.A, b, out)
        out *= a
        out /= _polynomial(threefry.B, b, a)
        out[far] = outer
        return
    a[:] = edge
    a += 0.5
    a *= 2.0**-31
    np.log(a, out=a)
    a *= -2.0
    np.sqrt(a, out=b)
    _polynomial(threefry.P, b, out)
    out *= a
    out /= _polynomial(threefry.Q, b, a)
    word >>= 31
    word |= 1
    a[:] = word
    out *= a


def _polynomial(coefficients: Sequence[float], x: np.ndarray, out: np.ndarray) -> np.ndarray:
    np.multiply(x, coefficients[-1], out=out)
    for c in coefficients[-2:0:-1]:
        out += c
        out *= x
    out += coefficients[0]
    return out


BACKEND = NumpyBackend("array_api_compat.numpy")
