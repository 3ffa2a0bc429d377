"""Classes whose loop the caller puts together from the parts of a step."""

from typing import Any

import numpy as np

from ..backends import resolve
from ..noise import standard_normal
from ..plan import Plan
from .base import ON_HOST, PlannedMixin, one_time, times_beside, tolerance

__all__ = ["PartsMixin"]

Array = Any


class PartsMixin(PlannedMixin):
    """Base of classes with several methods in place of one `step`, called in any order.

    No step is counted, only draws: `generator=` may be the same int or JAX key at every call and
    gives other noise each time, the same again after `set_timesteps`.
    """

    _draws: int = 0
    _fresh: tuple[Any, Any] = (None, None)  # where the generator made of fresh entropy is, and it
    _placed: dict[Any, Array]  # tables on devices

    def _restart(self) -> None:
        self._draws, self._fresh, self._placed = 0, (None, None), {}

    def _times_of(self, plan: Plan) -> np.ndarray:
        """Return the times where steps start."""
        times = np.array([p.t for p in plan.grid.points[:-1]])
        return times.astype(np.int64) if plan.grid.integral else times

    @property
    def init_noise_sigma(self) -> float:
        """The scale of the unit normal noise a run starts from."""
        return (self._plan or self.plan(1)).grid.init_scale

    def scale_model_input(self, sample: Array, timestep: Any = None) -> Array:
        """Return the network's input, which is the sample."""
        return sample

    def _normal(self, like: Array, generator: Any) -> Array:
        """Return unit normals like an array, from what `generator=` takes or fresh entropy."""
        backend = resolve(like)
        device, seed = backend.device(like), None
        place = backend.name, str(device)
        if generator is None:
            generator = self._fresh[1]
            if self._fresh[0] != place:
                generator, seed = self._source(backend, device)
        z = standard_normal(generator, tuple(like.shape), like.dtype, like, row=self._draws)
        self._draws += 1
        if seed is not None:
            self._fresh, self.last_seed = (place, generator), seed
        return z

    def _beside(self, like: Array, name: str, table: np.ndarray) -> Array:
        """Return a host table of this plan beside `like`, placed there once."""
        backend = resolve(like)
        acc = backend.accumulation(like.dtype)
        key = name, backend.name, str(acc), str(backend.device(like))
        if backend.traced(like):
            return backend.put(table, like, acc)
        if key not in self._placed:
            self._placed[key] = backend.put(table, like, acc)
        return self._placed[key]

    def _at_number(self, like: Array, name: str, table: np.ndarray, numbers: Any) -> Array:
        """Return entries of a table, one or one per row of `like`, shaped to multiply it."""

        def check(host: np.ndarray) -> None:
            if not np.all((host >= 0) & (host < len(table)) & (host == np.floor(host))):
                raise ValueError(
                    f"timesteps must be whole numbers from 0 to {len(table) - 1} here, got {host}"
                )

        backend = resolve(like)
        entries = backend.astype(times_beside(like, numbers, check), backend.default_int)
        values = backend.xp.take(self._beside(like, name, table), entries)
        rows = tuple(like.shape[:1])
        return backend.xp.reshape(values, (-1, *(1,) * (len(like.shape) - 1)) if rows else ())

    def _entry(self, like: Array, timestep: Any) -> Any:
        """Return which step of the plan starts at a time: an int, or an array for an array.

        Raises:
            ValueError: no step starts at this time. Of an array beside `like`, which is not looked
                at, it is the nearest one.
        """
        times = np.array([p.t for p in self._set().grid.points[:-1]])

        def check(host: np.ndarray) -> None:
            for t in host.flat:
                if not np.any(np.abs(times - t) <= tolerance(float(t))):
                    listed = ", ".join(f"{v:g}" for v in times[:8])
                    more = ", ..." if len(times) > 8 else ""
                    raise ValueError(
                        f"timestep {t:g} is not one of the scheduler's timesteps [{listed}{more}];"
                        " pass one of scheduler.timesteps"
                    )

        if isinstance(timestep, ON_HOST) or not hasattr(timestep, "shape"):
            t = one_time(timestep)
            check(np.array(t))
            return int(np.argmin(np.abs(times - t)))
        backend = resolve(like)
        xp = backend.xp
        t = times_beside(like, timestep, check)
        off = xp.abs(xp.reshape(t, (-1, 1)) - self._beside(like, "times", times))
        entry = xp.astype(xp.argmin(off, axis=1), backend.dtype("int32"))
        return xp.reshape(entry, ()) if tuple(t.shape) == (1,) else entry
