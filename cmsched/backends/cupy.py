"""CuPy."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cupy as cp
import numpy as np

from cmsched.backends import element, fused, threefry
from cmsched.backends.base import Array, Backend, DType
from cmsched.backends.numpy import BACKEND as NUMPY
from cmsched.backends.threefry import NoiseSpec, Stream


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

    def to_device_of(self, host: np.ndarray, x: Array, dtype: str | DType | None = None) -> Array:
        """Copy a host array to the device of `x`."""
        with x.device:
            return cp.asarray(host, dtype)

    def copy(self, x: Array) -> Array:
        """Give an array of its own with these values."""
        return x.copy()

    def combine(self, values: Sequence[Array], weights: Sequence[Any], dtype: DType) -> Array:
        """Sum weights[k] * values[k] in `dtype`, into a new array, in one kernel."""
        if len(values) == 1 and isinstance(weights[0], float) and weights[0] == 1.0:
            return values[0].astype(dtype)
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

    def kernel(self, work: Any, dtype: DType) -> Any:
        """Take a row in one kernel, with its numbers as scalars."""
        statements, weights, wanted = work.statements, work.weights, work.made
        read = fused.read_by(statements, weights)
        name = np.dtype(dtype).name

        def kernel(values: list[Array]) -> Any:
            arrays = [values[n] for n in read]
            made = _kernel(statements, wanted, _types(arrays), name)(*arrays, *weights)
            for v, result in zip(wanted, made if len(wanted) > 1 else [made], strict=True):
                values[v] = result
            return work.taken(values)

        return kernel

    def kernel_applies(self, x: Array) -> bool:
        """Tell whether x is an array of CuPy's own."""
        return type(x) is cp.ndarray

    def is_generator(self, generator: Any) -> bool:
        """Tell whether this is a cupy.random.Generator."""
        return isinstance(generator, cp.random.Generator)

    def native(self, generator: Any, spec: NoiseSpec) -> Array:
        """Draw from a cupy.random.Generator."""
        of = generator.random if spec.uniform else generator.standard_normal
        draw = of(spec.shape, self.accumulation(spec.dtype))
        return draw.astype(spec.dtype, copy=False)

    def fresh(self, seed: int, device: Any) -> Any:
        """Make a generator on the device."""
        with device or cp.cuda.Device():
            return cp.random.default_rng(seed)

    def normals(self, stream: Stream, spec: NoiseSpec) -> Array:
        """Draw the portable normals of a stream, in one kernel."""
        row, current = spec.row, spec.device or cp.cuda.Device()
        with current:
            if isinstance(row, cp.ndarray):
                row = row.astype(np.uint32).reshape(row.shape or (1,))
                high, low = (
                    k.reshape(threefry.ahead(k.shape, row.shape))
                    for k in _device_keys(stream, spec.purpose, spec.batch, current.id)
                )
                key = cp.stack(_fold_kernel()(high, low, np.uint32(spec.rank), row))
            else:
                key = cp.asarray(NUMPY.folded_keys(stream, spec))
            out = cp.empty(spec.shape, spec.dtype)
            rows, size = math.prod(key.shape[1:]), spec.size
            part = spec.batch * size // max(1, rows)
            draw = _draw_kernel(out.dtype.name, spec.uniform)
            draw(key.reshape(-1), rows, part, size, out)
            return out


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
def _device_keys(stream: Stream, purpose: int, batch: int, device: int) -> Any:
    return tuple(cp.asarray(threefry.keys(stream, purpose, batch)))


@lru_cache
def _draw_kernel(dtype: str, uniform: bool) -> Any:
    given = "raw uint32 keys, int64 rows, int64 part, int64 whole"
    name = f"cmsched_draw_{dtype}_{int(uniform)}"
    return cp.ElementwiseKernel(given, f"{dtype} z", element.draw_source(dtype, uniform), name)


@lru_cache
def _fold_kernel() -> Any:
    given = "uint32 high, uint32 low, uint32 rank, uint32 row"
    return cp.ElementwiseKernel(given, "uint32 a, uint32 b", element.fold_source(), "cmsched_fold")


BACKEND = CupyBackend("array_api_compat.cupy")
