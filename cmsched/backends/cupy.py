"""CuPy."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cupy as cp
import numpy as np

from cmsched.backends import fused, threefry
from cmsched.backends.base import Array, Backend, DType


class CupyBackend(Backend):
    """CuPy: own buffers are written in place."""

    def owns(self, cls: type) -> bool:
        """Tell whether arrays of this type belong to CuPy."""
        return issubclass(cls, cp.ndarray)

    @property
    def default_int(self) -> DType:
        """The integer dtype that CuPy counts in."""
        return np.dtype(np.int64)

    def dtype(self, dtype: str | DType) -> DType:
        """Give the dtype of this name."""
        return np.dtype(dtype)

    def dtype_name(self, dtype: DType) -> str:
        """Give the plain name of a dtype."""
        return str(np.dtype(dtype).name)

    def device(self, x: Array) -> Any:
        """Give the device of an array."""
        return x.device

    def astype(self, x: Array, dtype: DType) -> Array:
        """Convert, without a copy where nothing changes."""
        return x.astype(dtype, copy=False)

    def put(self, host: np.ndarray, like: Array, dtype: str | DType | None = None) -> Array:
        """Copy a host array to the device of `like`."""
        with like.device:
            return cp.asarray(host, dtype)

    def combine(self, values: Sequence[Array], weights: Sequence[Any], dtype: DType) -> Array:
        """Sum weights[k] * values[k] in `dtype`, into a new array, in one kernel."""
        if len(values) == 1 and isinstance(weights[0], float) and weights[0] == 1.0:
            return values[0].astype(dtype, copy=False)
        total = len(values)
        statements = ((total, tuple(range(total))),)
        return _kernel(statements, (total,), _types(values), np.dtype(dtype).name)(
            *values, *weights
        )

    def combinations(
        self,
        statements: fused.Statements,
        wanted: Sequence[int],
        values: list[Array],
        weights: Array,
        dtype: DType,
    ) -> None:
        """Fill in what statements make of values, in one kernel."""
        read = [values[n] for n in fused.inputs(statements)]
        run = _kernel(statements, tuple(wanted), _types(read), np.dtype(dtype).name)
        made = run(*read, *weights)
        for value, result in zip(wanted, made if len(wanted) > 1 else [made], strict=True):
            values[value] = result

    def kernel(self, layout: Any, row: Any, weights: Sequence[float]) -> Any:
        """Take a row in one kernel, with its numbers as scalars."""
        wanted, read = layout.wanted, fused.inputs(layout.statements)

        def kernel(values: list[Array]) -> Any:
            dtype = values[0].dtype
            arrays = [values[n] for n in read]
            if any(x is None for x in arrays):  # a draw that this row has not
                return None
            made = _kernel(layout.statements, wanted, _types(arrays), dtype.name)(*arrays, *weights)
            new = dict(zip(wanted, made if len(wanted) > 1 else [made], strict=True))
            return new[layout.following], tuple([new.get(v, values[v]) for v in row.picks])

        return kernel

    def plain(self, x: Array) -> bool:
        """Tell whether x is an array of CuPy's own."""
        return type(x) is cp.ndarray

    def is_generator(self, generator: Any) -> bool:
        """Tell whether this is a cupy.random.Generator."""
        return isinstance(generator, cp.random.Generator)

    def native(
        self,
        generator: Any,
        shape: tuple[int, ...],
        dtype: DType,
        device: Any,
        counter: tuple[int, Any],
        uniform: bool = False,
    ) -> Array:
        """Draw from a cupy.random.Generator."""
        of = generator.random if uniform else generator.standard_normal
        draw = of(shape, self.accumulation(dtype))
        return draw.astype(dtype, copy=False)

    def fresh(self, seed: int, device: Any) -> Any:
        """Make a generator on the device."""
        with device or cp.cuda.Device():
            return cp.random.default_rng(seed)

    def normals(
        self,
        stream: threefry.Stream,
        shape: tuple[int, ...],
        dtype: DType,
        device: Any,
        counter: tuple[int, Any],
    ) -> Array:
        """Draw the portable normals of a stream, on the device."""
        batch = shape[0] if shape else 1
        current = device or cp.cuda.Device()
        with current:
            key = _device_keys(stream, batch, current.id)
            return threefry.normals(self.xp, key, shape, dtype, None, counter, stream.uniform)


def _types(values: Sequence[Array]) -> tuple[str, ...]:
    return tuple(x.dtype.name for x in values)


@lru_cache(maxsize=256)
def _kernel(
    statements: fused.Statements, wanted: tuple[int, ...], types: tuple[str, ...], dtype: str
) -> Any:
    """Compile statements to one kernel of (*inputs, *weights), broadcast along each other."""
    given, made, body = fused.elementwise(statements, wanted, types, dtype)
    return cp.ElementwiseKernel(given, made, body, "cmsched_row")


@lru_cache(maxsize=64)
def _device_keys(stream: threefry.Stream, batch: int, device: int) -> Any:
    return tuple(cp.asarray(threefry.keys(stream, batch).view(np.int32)))


BACKEND = CupyBackend("array_api_compat.cupy")
