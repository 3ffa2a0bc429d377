"""Which entry of `timesteps` is this timestep: the one place where one is looked up."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..backends import Backend, resolve
from ..plan import Plan

__all__ = ["ON_HOST", "Timeline", "along", "one_time", "times_beside", "tolerance"]

Array = Any
ON_HOST = (int, float, np.generic)  # timesteps that can be compared without a device
ARRAYS = (np.ndarray, np.generic)  # a tuple, because torch.compile follows no union


@dataclass(frozen=True, eq=False)
class Timeline:
    """The entries of `timesteps`: the model time of each, and the step of the grid it belongs to.

    Args:
        plan: the plan.
        times: one per entry, int64 where times are whole, else float64.
        steps: the grid step of each entry.
    """

    plan: Plan
    times: np.ndarray
    steps: tuple[int, ...]

    @classmethod
    def of_evaluations(cls, plan: Plan) -> "Timeline":
        """Return the timeline with an entry per network evaluation."""
        return cls(plan, plan.timesteps, plan.steps)

    @classmethod
    def of_steps(cls, plan: Plan) -> "Timeline":
        """Return the timeline with an entry per step of the grid, where it starts."""
        times = np.array([p.t for p in plan.grid.points[:-1]])
        whole = plan.grid.integral
        return cls(plan, times.astype(np.int64) if whole else times, tuple(range(len(plan.grid))))

    def __len__(self) -> int:
        return len(self.times)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the entries, and none of what is on devices."""
        return Timeline, (self.plan, self.times, self.steps)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Timeline":
        """Return the timeline itself, which nothing changes."""
        return self

    def begins(self, entry: int) -> bool:
        """Return whether an entry is the first one of its step."""
        return not entry or self.steps[entry] != self.steps[entry - 1]

    def step_at(self, entry: int) -> int:
        """Return the grid step that begins at an entry; ValueError where none does."""
        if entry >= len(self):
            raise ValueError(f"begin_index={entry} is past the {len(self)} timesteps")
        step = self.steps[entry]
        if not self.begins(entry):
            count, first = self.steps.count(step), self.steps.index(step)
            raise ValueError(
                f"entry {entry} of timesteps is inside a step of {count} evaluations; start at an"
                f" entry that begins one, such as {first}"
            )
        return step

    def entry(self, timestep: Any, times: np.ndarray | None = None) -> int:
        """Return the entry at a timestep, of equal ones that which begins a step.

        Args:
            timestep: a number, or an array of one.
            times: entries to look among in place of these.

        Raises:
            ValueError: no entry has this value.
        """
        times, t = self.times if times is None else times, one_time(timestep)
        found = np.flatnonzero(np.abs(times - t) <= tolerance(t)) if math.isfinite(t) else times[:0]
        if found.size == 0:
            raise ValueError(self.missing(t, times))
        entries = [int(i) for i in found]
        return next((i for i in entries if i < len(self) and self.begins(i)), entries[0])

    def missing(self, t: float, times: np.ndarray | None = None) -> str:
        """Return what to say of a timestep that is no entry."""
        times = self.times if times is None else times
        listed = ", ".join(f"{v:g}" for v in times[:8]) + (", ..." if len(times) > 8 else "")
        return (
            f"timestep {t:g} is not one of the scheduler's timesteps [{listed}]; pass one of"
            " scheduler.timesteps"
        )

    def entries(self, like: Array, timesteps: Any) -> tuple[Array, Array]:
        """Return the entries at timesteps, one or one per row of `like`, on its device.

        Returns:
            The numbers of the nearest entries, int32 of shape (), (batch,) or (batch, frames), and
            whether a timestep is that entry's. Times in host memory that are no entry raise
            ValueError.
        """
        near = tolerance(float(np.abs(self.times).max()))

        def check(host: np.ndarray) -> None:
            rows = host.reshape(-1, 1)
            for t in rows[np.abs(rows - self.times).min(axis=1) > near].ravel():
                raise ValueError(self.missing(float(t)))

        backend, t = resolve(like), times_beside(like, timesteps, check)
        index, found = nearest_of(backend, t, self._beside(like, "times", self.times), near)
        one = tuple(t.shape) == (1,) and tuple(like.shape[:1]) != (1,)
        shape = () if one else tuple(t.shape)
        return backend.xp.reshape(index, shape), backend.xp.reshape(found, shape)

    @cached_property
    def own_levels(self) -> np.ndarray:
        """Time, alpha and sigma, (3, count), of points that are not the schedule's at their times.

        Times may be cut, and between training steps time and level are not each other's inverse.
        Where the network is told the times of other levels there are none.
        """
        grid, found = self.plan.grid, []
        told_others = grid.upward and grid.ends is not None
        for p in () if told_others else {p.t: p for p in self.plan.points}.values():
            try:
                own = grid.schedule.at(t=p.t)
            except ValueError:
                own = None
            if own is None or not all(
                math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-12)
                for x, y in ((own.alpha, p.alpha), (own.sigma, p.sigma))
            ):
                found.append((p.t, p.alpha, p.sigma))
        return np.array(found).reshape(-1, 3).T

    def nearest_own(self, like: Array, t: Array) -> tuple[tuple[Array, Array], Array]:
        """Return alpha and sigma of the nearest of `own_levels`, and whether it is at these times.

        t is an array beside `like`, as `times_beside` returns it.
        """
        backend, names = resolve(like), ("own times", "own alphas", "own sigmas")
        times, alphas, sigmas = (
            self._beside(like, name, row) for name, row in zip(names, self.own_levels, strict=True)
        )
        near = tolerance(float(np.abs(self.own_levels[0]).max()))
        index, here = nearest_of(backend, t, times, near)
        flat = backend.xp.reshape(index, (-1,))
        alpha, sigma = (backend.xp.take(row, flat) for row in (alphas, sigmas))
        shape = tuple(t.shape)
        return (backend.xp.reshape(alpha, shape), backend.xp.reshape(sigma, shape)), here

    def _beside(self, like: Array, name: str, host: np.ndarray) -> Array:
        """Return a host table beside an array in its accumulation dtype, placed there once."""
        backend = resolve(like)
        dtype = backend.accumulation(like.dtype)
        key = name, backend.name, str(dtype), str(backend.device(like))
        if backend.traced(like):
            return backend.to_device_of(host, like, dtype)
        if key not in self._placed:
            self._placed[key] = backend.to_device_of(host, like, dtype)
        return self._placed[key]

    @cached_property
    def _placed(self) -> dict[Any, Array]:
        return {}


def nearest_of(backend: Backend, t: Array, times: Array, near: float) -> tuple[Array, Array]:
    """Return the number of the nearest time for each t, int32, and whether it is that near."""
    xp = backend.xp
    off = xp.abs(xp.reshape(t, (-1, 1)) - times)
    index = backend.astype(xp.argmin(off, axis=1), backend.dtype("int32"))
    found = xp.min(off, axis=1) <= near
    if len(t.shape) < 2:
        return index, found
    return xp.reshape(index, t.shape), xp.reshape(found, t.shape)


def tolerance(t: float) -> float:
    """Return by how much a time may be off: what float32 rounds away."""
    return 1e-6 * max(1.0, abs(t))


def one_time(timestep: Any, name: str = "timestep") -> float:
    """Return a timestep as a number, or raise TypeError."""
    try:
        if not isinstance(timestep, str | bytes):
            return float(timestep)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise TypeError(f"{name} must be a number or an array of one, got {timestep!r}")


def times_beside(
    like: Array,
    timesteps: Any,
    check: Callable[[np.ndarray], None],
    name: str = "timesteps",
) -> Array:
    """Return timesteps as an array beside `like`: one, shape (1,), or one per row, or per frame.

    `check` sees those that are in host memory; on a device they are not looked at.
    """
    backend = resolve(like)
    acc, whole = backend.accumulation(like.dtype), tuple(like.shape)
    if not hasattr(timesteps, "shape") or isinstance(timesteps, ARRAYS):
        host = np.asarray(timesteps)
        if host.dtype.kind not in "iuf":
            raise TypeError(f"{name} must be one number or one per row, got {timesteps!r}")
        host = host.astype(np.float64)
        check(host)
        timesteps = backend.to_device_of(host, like, acc)
    elif resolve(timesteps) is not backend:
        raise TypeError(
            f"{name} is an array of {resolve(timesteps).name}, the sample one of"
            f" {backend.name}; convert one of them"
        )
    elif (seen := backend.known(timesteps)) is not None:
        check(seen.astype(np.float64))
    shape = tuple(timesteps.shape)
    if shape != (1,) and shape != whole[: len(shape)]:
        raise ValueError(
            f"{name} must be one number, or one per row {whole[:1]} or frame {whole[:2]}, got shape"
            f" {shape}"
        )
    timesteps = backend.astype(timesteps, acc)
    return timesteps if shape else backend.xp.reshape(timesteps, (1,))


def along(like: Array, values: Array) -> Array:
    """Return values, as `times_beside` shapes them, in a shape that multiplies `like`."""
    shape = tuple(values.shape)[: len(like.shape)]
    return resolve(like).xp.reshape(values, (*shape, *(1,) * (len(like.shape) - len(shape))))
