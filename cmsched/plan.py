"""Plan: the frozen table a sampler becomes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import RLock
from types import MappingProxyType
from typing import Any

import numpy as np

from . import listing, samplers
from .backends import Backend, resolve
from .grids import Grid
from .lowering import lower
from .predictions import Prediction
from .rows import Layout, Row, Start, Work, work_of
from .schedules import SCHEDULES, Point
from .tables import Table, host_table, to_device
from .tracing import trace

__all__ = ["PLAN_CACHE_SIZE", "Plan", "make_plan"]

Array = Any
PLAN_CACHE_SIZE = 32  # plans; one of 1000 steps takes 1 to 3 MB
_cache: dict[Any, "Plan"] = {}
_lock = RLock()


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything of a sampling loop that does not depend on arrays; immutable, hashable, picklable.

    A plan is what it is made of (sampler, grid, prediction, options) and the rows that tracing made
    of these. `len(plan)` counts network evaluations.

    Args:
        sampler: a registered name.
        grid: the points that the loop walks over.
        prediction: what the network says.
        options: of the sampler, all of them.
        start: the row that `init` takes.
        rows: one per evaluation, in order.
        steps: the step of the grid that each evaluation belongs to.
    """

    sampler: str
    grid: Grid
    prediction: Prediction
    options: Mapping[str, Any]
    _layout: Layout | None  # None for a sampler that cannot be traced
    start: Start
    rows: tuple[Row, ...]
    steps: tuple[int, ...]  # the grid step each evaluation belongs to

    def __len__(self) -> int:
        """Return the number of network evaluations."""
        return len(self.rows)

    def __bool__(self) -> bool:
        """Return True: a plan without rows is still a plan."""
        return True

    def __post_init__(self) -> None:
        """Make what is filled later now, for torch.compile (see `Layout`)."""
        _ = self._kernels, self._times, self._tables, self._blocks

    @cached_property
    def _key(self) -> tuple[Any, ...]:
        return (
            self.sampler,
            self.grid,
            self.prediction,
            tuple(sorted(self.options.items(), key=lambda kv: kv[0])),
        )

    @cached_property
    def _hash(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        """Return whether both are made of the same."""
        return self is other or (isinstance(other, Plan) and self._key == other._key)

    def __hash__(self) -> int:
        """Return the hash of what the plan is made of."""
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what the plan is made of; unpickling traces it again."""
        return make_plan, (self.sampler, self.grid, self.prediction, dict(self.options))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Plan":
        """Return the plan itself, which nothing changes."""
        return self

    def __repr__(self) -> str:
        """Return the plan in a line; `describe()` has its rows, `to_json()` all of it."""
        return listing.brief(self)

    @property
    def traced(self) -> bool:
        """Whether there are rows: not for a sampler that chooses its steps from the data."""
        return self._layout is not None

    @property
    def layout(self) -> Layout:
        """What is stored, drawn and given.

        Raises:
            TypeError: the sampler is one that only `run`, `sample` and `trajectory` can execute.
        """
        if self._layout is None:
            raise TypeError(
                f"sampler {self.sampler!r} chooses its steps from the data and has no table; use"
                " cmsched.sample or cmsched.run"
            )
        return self._layout

    @property
    def points(self) -> tuple[Point, ...]:
        """Where the network is evaluated, one point per evaluation."""
        return tuple(row.point for row in self.rows)

    @property
    def timesteps(self) -> np.ndarray:
        """Model time of every evaluation: int64 where times are integral, else float64."""
        times = np.array([row.point.t for row in self.rows], dtype=np.float64)
        return times.astype(np.int64) if self.grid.integral else times

    def skip(self, k: int) -> "Plan":
        """Return the plan for the rest of the grid from step k: new history, draws count from 0."""
        return make_plan(self.sampler, self.grid.skip(k), self.prediction, self.options)

    def work(
        self, backend: Backend, index: int, dtype: Any, estimate: bool, owned: bool = True
    ) -> tuple[Work, Any]:
        """Return what a row does, see `rows.work_of`, and the backend's kernel of that, or None."""
        key = backend, index, dtype, estimate, owned
        try:
            return self._kernels[key]
        except KeyError:
            layout, kernel = self.layout, None
            work = work_of(layout, self.rows[index], estimate, owned)
            if backend.traced():  # inside torch.compile, which writes kernels of its own
                return work, None
            plain = not layout.masked and backend.accumulation(dtype) == dtype
            if plain and (work.program or work.copies):
                kernel = backend.kernel(work, dtype)
            return self._kernels.setdefault(key, (work, kernel))

    @cached_property
    def fingerprint(self) -> str:
        """What tells plans apart that are stacked: sampler, options, times and levels."""
        points = [f"{p.t:.6g} {p.alpha:.6g} {p.sigma:.6g} {p.scale:.6g}" for p in self.points]
        return f"{self.sampler} {sorted(self.options.items())} {self.prediction} {points}"

    @cached_property
    def _blocks(self) -> dict[Layout, Any]:
        return {}

    @cached_property
    def _kernels(self) -> dict[tuple[Any, ...], tuple[Work, Any]]:
        return {}

    @cached_property
    def _times(self) -> dict[Any, list[Array]]:
        return {}

    @cached_property
    def _tables(self) -> dict[Any, Table]:
        return {}

    def on(self, like: Array) -> Table:
        """Return the plan as arrays on the device of `like`, in its accumulation dtype.

        The table goes wherever the plan goes, with an array index: inside `jit`, `scan`,
        `torch.compile`, and for batches whose rows are at different steps. Another plan of the same
        layout and length does not recompile.
        """
        return to_device(self._host, like, self._tables)

    def time_on(self, like: Array, index: int) -> Array:
        """Return a model time as a 0-d array on the device of `like`; all are placed there once."""
        backend = resolve(like)
        key = (type(like), like.dtype, backend.device(like))
        try:
            return self._times[key][index]
        except KeyError:
            pass
        dtype = backend.default_int if self.grid.integral else backend.accumulation(like.dtype)
        host = self.timesteps
        times = backend.to_device_of(host, like, dtype)
        if backend.traced(times[0, ...]):  # what is made inside a trace must not outlive it
            return backend.to_device_of(np.asarray(host[index]), like, dtype)
        if isinstance(times, np.ndarray):  # a network may not write into what the plan keeps
            times.flags.writeable = False
        self._times[key] = [times[i, ...] for i in range(len(self))]
        return self._times[key][index]

    @cached_property
    def _host(self) -> Table:
        return host_table(self.layout, [self], len(self) + 1)

    def describe(self, digits: int = 5) -> str:
        """Return the rows as a readable table: time, level, and what each row computes."""
        return listing.described(self, digits)

    def to_json(self) -> str:
        """Return the plan as JSON, from which `Plan.from_json` makes an equal one.

        The rows are for readers without cmsched: `docs/porting.md` says what each key means
        and has a loop that runs on them. A sampler without a table has none (null).
        """
        return listing.to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Return the plan that `to_json` wrote; a text that is not one raises ValueError."""
        data = listing.parsed(text)
        try:
            prediction, grid = Prediction(**data["prediction"]), Grid.from_dict(data["grid"])
            return make_plan(data["sampler"], grid, prediction, data["options"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a plan: {type(error).__name__}: {error}") from error


def _plain(name: str, value: Any) -> Any:
    """Return an option as hashable plain data: sequences as tuples, scalars as Python's."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_plain(name, v) for v in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"option {name}={value!r} is a {type(value).__name__}: a plan is plain data, so use"
        " numbers, strings, or sequences of these"
    )


def make_plan(
    sampler: str,
    grid: Grid,
    prediction: Prediction,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """Return the plan of a registered sampler on a grid.

    Equal arguments give the same plan again while it is among the last `PLAN_CACHE_SIZE` asked for.

    Args:
        sampler: a name in `cmsched.samplers.REGISTRY`.
        grid: n + 1 points for n steps.
        prediction: what the network's output is.
        options: keywords of the sampler; None for its defaults.

    Raises:
        ValueError: unknown sampler; a step it cannot take; more stored than the registry says.
        TypeError: unknown option; a sampler that is not linear.
    """
    entry = samplers.get(sampler)  # part of the key: a name may be registered anew
    complete = {k: _plain(k, v) for k, v in entry.complete(options or {}).items()}
    if type(grid.schedule) not in SCHEDULES.values():  # it may hold more than it compares
        return _new_plan(entry, grid, prediction, complete)
    key = entry, grid, prediction, repr(complete)  # 1, 1.0 and True are equal, but not their names
    with _lock:  # who asks for the same at the same time waits for it
        plan = _cache.pop(key, None) or _new_plan(entry, grid, prediction, complete)
        _cache[key] = plan  # the one asked for last comes last
        if len(_cache) > PLAN_CACHE_SIZE:
            del _cache[next(iter(_cache))]
    return plan


def _new_plan(
    entry: samplers.Sampler, grid: Grid, prediction: Prediction, complete: dict[str, Any]
) -> Plan:
    """Return a new plan."""
    if grid.upward and (entry.trait("stochastic", complete) or entry.trait("order", complete) <= 0):
        raise ValueError(
            f"sampler {entry.name!r} with these options goes from noise to data only; a grid upward"
            " (inversion) needs a deterministic one, such as ddim with eta=0"
        )
    made_of = (entry.name, grid, prediction, MappingProxyType(complete))
    if not entry.traced:
        if grid.points[0].alpha == 0.0 and not entry.trait("singular", complete):
            raise ValueError(
                f"sampler {entry.name!r} cannot start where alpha is 0 (zero terminal SNR, a flow"
                " at sigma = 1): use a grid that starts at a finite level, such as that of"
                ' spacing="karras" with sigma_max=0.999 on a flow'
            )
        return Plan(*made_of, None, Start((), ()), (), ())
    traced = trace(entry, grid, complete, prediction)
    layout, start, rows = lower(traced, entry, complete, grid, prediction)
    return Plan(*made_of, layout, start, rows, tuple(row.step for row in traced.rows[1:]))
