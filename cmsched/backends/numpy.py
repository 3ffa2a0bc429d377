"""NumPy."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cmsched.backends import fused, threefry
from cmsched.backends.base import Array, Backend, DType

# Elements worked on at once: temporaries stay in the cache, and those of the longer map below the
# size from which the allocator asks the system for fresh pages each time.
BLOCK = 1 << 15
MAP_BLOCK = 1 << 13


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

    def astype(self, x: Array, dtype: DType) -> Array:
        """Convert, without a copy where nothing changes."""
        return np.asarray(x, dtype)

    def put(self, host: np.ndarray, like: Array, dtype: str | DType | None = None) -> Array:
        """Convert where a dtype is given."""
        return np.asarray(host, dtype)

    def where(self, condition: Array, a: Array, b: Array) -> Array:
        """Choose elementwise."""
        return np.where(condition, a, b)

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
            if not all(map(np.all, weights)):
                return np.asarray(super().combine(values, weights, dtype))
        elif scale == 1.0 and len(values) == 1:
            return np.asarray(first, dtype)
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

    def kernel(self, layout: Any, row: Any, weights: Sequence[float]) -> Any:
        """Take a row of large arrays in one pass."""
        column = np.array(weights)[:, None]

        def kernel(values: list[Array]) -> Any:
            dtype = values[0].dtype
            if not fused.suits(values, layout.statements, dtype):
                return None
            made = fused.evaluate(layout.statements, layout.wanted, values, column.astype(dtype))
            return made[layout.following], tuple([made.get(v, values[v]) for v in row.picks])

        return kernel

    def plain(self, x: Array) -> bool:
        """Tell whether x is large."""
        return bool(x.size >= fused.LEAST)

    def is_generator(self, generator: Any) -> bool:
        """Tell whether this is a numpy.random.Generator."""
        return isinstance(generator, np.random.Generator)

    def native(
        self,
        generator: Any,
        shape: tuple[int, ...],
        dtype: DType,
        device: Any,
        counter: tuple[int, Any],
        uniform: bool = False,
    ) -> Array:
        """Draw from a numpy.random.Generator."""
        of = generator.random if uniform else generator.standard_normal
        draw = of(shape, self.accumulation(dtype))
        return np.asarray(draw, dtype)

    def fresh(self, seed: int, device: Any) -> np.random.Generator:
        """Make a generator."""
        return np.random.default_rng(seed)

    def normals(
        self,
        stream: threefry.Stream,
        shape: tuple[int, ...],
        dtype: DType,
        device: Any,
        counter: tuple[int, Any],
    ) -> Array:
        """Draw the portable normals of a stream, block by block."""
        if device not in (None, "cpu"):
            raise ValueError(f"device={device!r}: NumPy has only 'cpu'; name a framework by xp=")
        batch, size = (shape[0], int(np.prod(shape[1:], dtype=object))) if shape else (1, 1)
        key = self.folded(stream, batch, counter)
        out = np.empty(batch * size, dtype)
        mapped = threefry.unit if stream.uniform else threefry.from_bits
        parts = int(np.prod(key.shape[2:]))  # of a sample, each with a key of its own
        key = key.reshape(2, batch * parts, 1)
        size //= max(1, parts)
        rows = max(1, BLOCK // max(1, size)) if parts == 1 else 1
        for i in range(0, batch * parts, rows):
            part, first = tuple(key[:, i : i + rows]), i % parts * size
            for j in range(0, size, BLOCK):
                word = words(part, first + j, min(BLOCK, size - j)).reshape(-1)
                block = out[i * size + j :]
                for k in range(0, len(word), MAP_BLOCK):
                    piece = word[k : k + MAP_BLOCK]
                    block[k : k + len(piece)] = mapped(np, piece, out.dtype)
        return out.reshape(shape)

    def folded(self, stream: threefry.Stream, batch: int, counter: tuple[int, Any]) -> np.ndarray:
        """Give the host keys of one draw, (2, batch, ...) uint32."""
        rank, row = counter
        key = threefry.keys(stream, batch)
        if isinstance(row, int) and batch <= 8:
            folded = [threefry.block(k, (rank, row)) for k in zip(*key.tolist(), strict=True)]
            return np.array(folded, np.uint32).T.reshape(2, batch)
        low = np.atleast_1d(np.asarray(row)).astype(np.uint32)
        key = key.reshape(2, *threefry.ahead((batch,), low.shape))
        return np.stack(threefry.threefry(tuple(key), (rank, low)))


def words(key: threefry.Words, first: int, count: int) -> np.ndarray:
    """Give the words of elements first, first + 1, ... of each sample, as int32."""
    here = (1 << 32) - (first & threefry.LOW)
    if here < count:  # the low word of a counter comes round
        ends = words(key, first, here), words(key, first + here, count - here)
        return np.concatenate(ends, axis=-1)
    low = np.arange(count, dtype=np.uint32) + (first & threefry.LOW)
    word: np.ndarray = threefry.bits(key, (first >> 32, low))
    return word.view(np.int32)


BACKEND = NumpyBackend("array_api_compat.numpy")
