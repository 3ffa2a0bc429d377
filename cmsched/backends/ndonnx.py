"""ndonnx, whose arrays stand for values of an ONNX graph."""

from collections.abc import Callable
from typing import Any

import ndonnx
import numpy as np
from spox.opset.ai.onnx import v21 as op

from cmsched.backends.adapted import AdaptedBackend
from cmsched.backends.base import Array, Backend
from cmsched.backends.threefry import NoiseSpec, Stream


class GraphBackend(AdaptedBackend):
    """Loops become ONNX Loops, with the network in them once; an axis may have no known length."""

    index_on_device = True

    def traced(self, *arrays: Any) -> bool:
        """Tell whether one of the arrays is a value of a graph."""
        return any(isinstance(x, self.array) for x in arrays)

    def zeros_like(self, x: Array) -> Array:
        """Give zeros whose shape is known to be that of x, which must be finite."""
        return x * 0

    def scan(self, body: Callable[[Any], Any], state: Any, length: int) -> Any:
        """Write a Loop around the body."""

        def packed(state: Any) -> list[Any]:
            return [x.unwrap_spox() for x in (state.sample, *state.memory, state.index)]

        def unpacked(values: Any) -> Any:
            sample, *memory, index = map(ndonnx.asarray, values)
            return state._replace(sample=sample, memory=tuple(memory), index=index)

        def once(_: Any, proceed: Any, *values: Any) -> list[Any]:
            return [proceed, *packed(body(unpacked(values)))]

        count = op.const(np.asarray(length, np.int64))
        return unpacked(op.loop(count, v_initial=packed(state), body=once))

    # noise

    def is_generator(self, generator: Any) -> bool:
        """Tell whether this is an array of normals, (rows, draws of a row, *shape)."""
        return isinstance(generator, self.array)

    def native(self, generator: Any, spec: NoiseSpec) -> Array:
        """Take a draw from an array of normals."""
        shape, row = spec.shape, spec.row
        if tuple(generator.shape)[2:] != shape or spec.uniform:
            raise ValueError(
                f"rng is an array of shape {tuple(generator.shape)}: give all the normals of the"
                f" plan, (rows, draws of a row, *{shape}), as cmsched.interop.onnx.normals does"
            )
        if not isinstance(row, int):
            generator, row = self.xp.take(generator, self.xp.reshape(row, (1,)), axis=0), 0
        return self.astype(generator[row, spec.rank, ...], spec.dtype)

    def normals(self, stream: Stream, spec: NoiseSpec) -> Array:
        """Draw portable noise inside the graph, if its shape is known."""
        if None in spec.shape:
            raise ValueError(
                f"portable noise needs a sample of known shape, got {spec.shape}: make the normals"
                " an input of the graph, rng=ndonnx.argument(...), see cmsched.interop.onnx.normals"
            )
        return Backend.normals(self, stream, spec)

    def increments(self, stream: Stream, spec: NoiseSpec) -> Array:
        """Refuse: a draw of a Brownian path would be some twenty thousand nodes."""
        raise ValueError(
            "a Brownian path (path=True) is too large for a graph: make the normals an input of it,"
            " rng=ndonnx.argument(...), see cmsched.interop.onnx.normals"
        )


BACKEND = GraphBackend(
    "ndonnx",
    ndonnx.Array,
    ndonnx,
    take=lambda x, indices, axis=None: ndonnx.take(
        x, ndonnx.astype(indices, ndonnx.int64), axis=axis
    ),
)
