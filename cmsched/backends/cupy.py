"""CuPy."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cupy as cp
import numpy as np

from cmsched.backends import threefry
from cmsched.backends.base import Array, Backend, DType, is_one


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
        """Sum weights[k] * values[k] in `dtype`, into a new array, one kernel a term."""
        first, scale = values[0], weights[0]
        if is_one(scale):
            total = first.astype(dtype, copy=len(values) > 1)
        else:
            total = first.astype(dtype, copy=False) * scale
        for value, weight in zip(values[1:], weights[1:], strict=True):
            if is_one(weight):
                total += value
            else:
                _add_scaled(value, weight, total)
        return total

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


# One pass per term, half precision promoted on the way; the weight is a scalar or an array.
_add_scaled = cp.ElementwiseKernel(
    "T value, W weight",
    "A total",
    "total += static_cast<A>(value) * static_cast<A>(weight)",
    "cmsched_add_scaled",
)


@lru_cache(maxsize=64)
def _device_keys(stream: threefry.Stream, batch: int, device: int) -> Any:
    return tuple(cp.asarray(threefry.keys(stream, batch).view(np.int32)))


BACKEND = CupyBackend("array_api_compat.cupy")
