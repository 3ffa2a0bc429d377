"""Classes whose loop the caller puts together from the parts of a step."""

from typing import Any, ClassVar

import numpy as np

from ..backends import resolve
from ..engine.checks import check_like
from ..noise import standard_normal
from .base import PlanMixin
from .timeline import ON_HOST, Timeline, along, one_time, times_beside

__all__ = ["PartsMixin", "exploded", "increasing_levels"]

Array = Any


class PartsMixin(PlanMixin):
    """Base of classes with several methods in place of one `step`, called in any order.

    No step is counted, only draws: `generator=` may be the same int or JAX key at every call and
    gives other noise each time, the same again after `set_timesteps`.
    """

    entries_are: ClassVar[str] = "steps"

    _draws: int = 0
    _fresh: tuple[Any, Any] = (None, None)  # where the generator made of fresh entropy is, and it
    _tables: dict[Any, Array]  # on devices, of this run

    def restart(self, timeline: Timeline | None) -> None:
        """Begin a run over these entries, or none."""
        super().restart(timeline)
        self._draws, self._fresh = 0, (None, None)
        self._tables = {}

    def scale_model_input(self, sample: Array, timestep: Any = None) -> Array:
        """Return the network's input, which is the sample itself: do not write to it."""
        return sample

    def normal(self, like: Array, generator: Any) -> Array:
        """Return unit normals like an array, from what `generator=` takes or fresh entropy."""
        backend = resolve(like)
        device, seed = backend.device(like), None
        place = backend.name, str(device)
        if generator is None:
            generator = self._fresh[1]
            if self._fresh[0] != place:
                generator, seed = self.noise_source(backend, device)
        z = standard_normal(generator, like, self._draws)
        self._draws += 1
        if seed is not None:
            self._fresh, self.last_seed = (place, generator), seed
        return z

    def numbered(self, like: Array, name: str, table: np.ndarray, numbers: Any) -> Array:
        """Return entries of a table, one or one per row of `like`, shaped to multiply it."""

        def check(host: np.ndarray) -> None:
            if not np.all((host >= 0) & (host < len(table)) & (host == np.floor(host))):
                raise ValueError(
                    f"timesteps must be whole numbers from 0 to {len(table) - 1} here, got {host}"
                )

        backend = resolve(like)
        acc = backend.accumulation(like.dtype)
        entries = backend.astype(times_beside(like, numbers, check), backend.default_int)
        key = name, backend.name, str(acc), str(backend.device(like))
        if backend.traced(like):
            placed = backend.to_device_of(table, like, acc)
        else:
            tables = vars(self).setdefault("_tables", {})
            if key not in tables:
                tables[key] = backend.to_device_of(table, like, acc)
            placed = tables[key]
        flat = backend.xp.reshape(entries, (-1,))
        found = backend.xp.reshape(backend.xp.take(placed, flat), tuple(entries.shape))
        return along(like, found)

    def step_at(self, like: Array, timestep: Any) -> Any:
        """Return which step of the plan starts at a time: an int, or an array for an array.

        Raises:
            ValueError: no step starts at this time. Of an array beside `like`, which is not looked
                at, it is the nearest one.
        """
        timeline = self.required()
        if isinstance(timestep, ON_HOST) or not hasattr(timestep, "shape"):
            return timeline.steps[timeline.entry(one_time(timestep))]
        return timeline.entries(like, timestep)[0]


def increasing_levels(scheduler: Any) -> np.ndarray:
    """Return the levels where the steps of a run start, increasing."""
    return np.array([p.sigma for p in scheduler.required().plan.grid.points[-2::-1]])


def exploded(x0: Array, noise: Array, sigma: Array) -> Array:
    """Return x0 + sigma noise, in the dtype of x0."""
    backend = resolve(x0)
    check_like(backend, x0, "noise", noise)
    acc = backend.accumulation(x0.dtype)
    return backend.astype(backend.astype(x0, acc) + sigma * backend.astype(noise, acc), x0.dtype)
