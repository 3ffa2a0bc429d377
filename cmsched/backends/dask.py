"""Dask: nothing is computed before the caller asks for it."""

from itertools import accumulate, pairwise

import dask
import dask.array as da
import numpy as np

from cmsched.backends.base import Array, Backend
from cmsched.backends.numpy import BACKEND as NUMPY
from cmsched.backends.threefry import NoiseSpec, Stream


class DaskBackend(Backend):
    """Dask arrays of NumPy's; portable noise is one task for some whole samples."""

    def owns(self, cls: type) -> bool:
        """Tell whether arrays of this type belong to Dask."""
        return issubclass(cls, da.Array)

    def normals(self, stream: Stream, spec: NoiseSpec) -> Array:
        """Draw by NumPy, when it is needed."""
        return delayed_draw("normals", stream, spec)

    def increments(self, stream: Stream, spec: NoiseSpec) -> Array:
        """Draw by NumPy, when it is needed."""
        return delayed_draw("increments", stream, spec)


def delayed_draw(kind: str, stream: Stream, spec: NoiseSpec) -> Array:
    """Give NumPy's draw of this kind, of as many samples a task as Dask puts into a chunk."""
    if 0 in spec.shape:
        return da.zeros(spec.shape, dtype=spec.dtype)
    rows = (1,)
    if spec.shape:
        chunks = ("auto", *spec.shape[1:])
        rows = da.core.normalize_chunks(chunks, spec.shape, dtype=spec.dtype)[0]
    numbers = range(sum(rows)) if stream.samples is None else stream.samples
    task, parts = dask.delayed(draw_now), []
    for a, b in pairwise(accumulate(rows, initial=0)):
        seeds = stream.seeds if len(stream.seeds) == 1 else stream.seeds[a:b]
        own = spec.samples(a, b)._replace(device=None)
        z = task(kind, Stream(seeds, numbers[a:b]), own)
        parts.append(da.from_delayed(z, own.shape, own.dtype))
    return da.concatenate(parts).reshape(spec.shape)


def draw_now(kind: str, stream: Stream, spec: NoiseSpec) -> np.ndarray:
    """Draw; where rows and times were Dask's arrays, they come as NumPy's."""
    z: np.ndarray = getattr(NUMPY, kind)(stream, spec)
    return z


BACKEND = DaskBackend("array_api_compat.dask.array", "dask")
