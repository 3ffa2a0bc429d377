"""Frameworks that have no array-API namespace: functions of their own under the API's names."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cmsched.backends.base import Array, Backend
from cmsched.backends.numpy import BACKEND as NUMPY
from cmsched.backends.threefry import NoiseSpec, Stream

# What every loop takes; which part needs what else stands in frameworks.md.
REQUIRED = ("asarray", "astype", "zeros_like", "float32", "int64")


class Namespace:
    """What was given under the array API's names, else what the framework has under them."""

    def __init__(self, name: str, framework: Any, given: Mapping[str, Any]) -> None:
        vars(self).update(given, __framework__=framework, __name__=name)

    def __getattr__(self, name: str) -> Any:
        """Look the name up in the framework, or say how to give it."""
        own = vars(self)
        if name.startswith("__") or not hasattr(own["__framework__"], name):
            raise AttributeError(
                f"{own['__name__']} has no `{name}`, which this needs: name what does it in the"
                f" array API, cmsched.backends.register({own['__name__']!r}, ..., {name}=...)"
            )
        return own.setdefault(name, getattr(own["__framework__"], name))


class AdaptedBackend(Backend):
    """A framework told by its array type; portable noise is made by NumPy and copied."""

    def __init__(
        self, name: str, array: type | tuple[type, ...], framework: Any, **given: Any
    ) -> None:
        """Take what `register` takes."""
        super().__init__(name)
        self.array, self.framework = array, framework
        self.xp = Namespace(name, framework, given)

    def owns(self, cls: type) -> bool:
        """Tell whether arrays of this type belong to the framework."""
        return issubclass(cls, self.array)

    def normals(self, stream: Stream, spec: NoiseSpec) -> Array:
        """Draw on the host: in few frameworks integers shift and wrap around."""
        return self._asarray(NUMPY.normals(stream, self._on_host(spec)), spec.device, spec.dtype)

    def increments(self, stream: Stream, spec: NoiseSpec) -> Array:
        """Draw on the host."""
        return self._asarray(NUMPY.increments(stream, self._on_host(spec)), spec.device, spec.dtype)

    def _on_host(self, spec: NoiseSpec) -> NoiseSpec:
        """Give the same draw as NumPy makes it."""
        row, *times = (
            x if isinstance(x, int) else np.asarray(x) for x in (spec.row, *(spec.times or ()))
        )
        name = self.dtype_name(spec.dtype)
        return spec._replace(dtype=name, device=None, row=row, times=tuple(times) or None)
