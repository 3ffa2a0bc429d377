"""Dask: nothing is computed before the caller asks for it."""

from itertools import accumulate, pairwise
from typing import Any

import dask
import dask.array as da
import numpy as np

from cmsched.backends import threefry
from cmsched.backends.base import Array, Backend, DType
from cmsched.backends.numpy import BACKEND as NUMPY


class DaskBackend(Backend):
    """Dask arrays of NumPy's; portable noise is one task for some whole samples."""

    def owns(self, cls: type) -> bool:
        """Tell whether arrays of this type belong to Dask."""
        return issubclass(cls, da.Array)

    def normals(
        self,
        stream: threefry.Stream,
        shape: tuple[int, ...],
        dtype: DType,
        device: Any,
        counter: tuple[int, Any],
    ) -> Array:
        """Draw by NumPy, when it is needed."""
        return drawn("normals", stream, shape, dtype, counter)

    def increments(
        self,
        stream: threefry.Stream,
        shape: tuple[int, ...],
        dtype: DType,
        device: Any,
        times: tuple[Any, Any],
    ) -> Array:
        """Draw by NumPy, when it is needed."""
        return drawn("increments", stream, shape, dtype, times)


def drawn(
    kind: str, stream: threefry.Stream, shape: tuple[int, ...], dtype: DType, place: tuple[Any, Any]
) -> Array:
    """Give NumPy's draw of this kind, of as many samples a task as Dask puts into a chunk."""
    if 0 in shape:
        return da.zeros(shape, dtype=dtype)
    rows = (1,)
    if shape:
        rows = da.core.normalize_chunks(("auto", *shape[1:]), shape, dtype=dtype)[0]
    numbers = range(sum(rows)) if stream.samples is None else stream.samples
    task, parts = dask.delayed(now), []
    for a, b in pairwise(accumulate(rows, initial=0)):
        seeds = stream.seeds if len(stream.seeds) == 1 else stream.seeds[a:b]
        own = stream._replace(seeds=seeds, samples=numbers[a:b])
        there = tuple([x[a:b] if getattr(x, "shape", ()) else x for x in place])
        part = (b - a, *shape[1:]) if shape else ()
        parts.append(da.from_delayed(task(kind, own, part, dtype, there), part, dtype))
    return da.concatenate(parts) if shape else parts[0]


def now(
    kind: str, stream: threefry.Stream, shape: tuple[int, ...], dtype: DType, place: tuple[Any, Any]
) -> np.ndarray:
    """Draw; where the place was of Dask's arrays, it comes as NumPy's."""
    z: np.ndarray = getattr(NUMPY, kind)(stream, shape, dtype, None, place)
    return z


BACKEND = DaskBackend("array_api_compat.dask.array", "dask")
