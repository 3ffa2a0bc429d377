"""Several plans as one table, whose rows come and go."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .plan import Plan
from .rows import Layout, padded
from .tables import COLUMNS, Table, host_table, to_device

__all__ = ["Stack", "stack"]

Array = Any
VERSION = "stack 1"


@dataclass(frozen=True, eq=False)
class Stack:
    """Several plans as one table, for a batch whose rows run different ones; see `stack`.

    Args:
        plans: in the order of the numbers that `init` takes as `which`.
        layout: what their rows compute and store, the same for all.
        capacity: columns of the table, of which the plans need one per evaluation and one more.
        pad: whether the layout may have more than a plan's own.
    """

    plans: tuple[Any, ...]
    layout: Layout
    capacity: int
    pad: bool = False

    def __post_init__(self) -> None:
        """Make what is filled later now, as a plan does."""
        _ = self._host, self._tables

    def __len__(self) -> int:
        """Return the number of network evaluations of the longest plan."""
        return max(map(len, self.plans))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the plans, and none of what is on devices."""
        return _stack, (self.plans, self.capacity, self.pad)

    def __repr__(self) -> str:
        """Return the stack in a line, with the first plans."""
        shown = ", ".join(map(repr, self.plans[:3])) + ", ..." * (len(self.plans) > 3)
        return f"Stack({len(self.plans)} plans, capacity {self.capacity}: {shown})"

    def to_json(self) -> str:
        """Return the stack as JSON, from which `Stack.from_json` makes an equal one.

        It holds what `Plan.to_json` writes of each plan: see `docs/porting.md`.
        """
        plans = [json.loads(plan.to_json()) for plan in self.plans]
        made_of = {"cmsched": VERSION, "capacity": self.capacity, "pad": self.pad, "plans": plans}
        return json.dumps(made_of, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Stack":
        """Return the stack that `to_json` wrote; a text that is not one raises ValueError."""
        try:
            data = json.loads(text)
            if data["cmsched"] != VERSION:
                raise ValueError(f'expected "cmsched": "{VERSION}", got {data["cmsched"]!r}')
            plans = [Plan.from_json(json.dumps(one)) for one in data["plans"]]
            return stack(plans, data["capacity"], pad=data["pad"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"not a stack: {type(error).__name__}: {error}") from error

    def on(self, like: Array) -> Table:
        """Return the table on the device of `like`, as `Plan.on` does."""
        return to_device(self._host, like, self._tables)

    @cached_property
    def firsts(self) -> tuple[int, ...]:
        """The index at which each plan begins: a marked column, see `COLUMNS`."""
        return tuple(self._host.first_columns[: len(self.plans)].tolist())

    @cached_property
    def _host(self) -> Table:
        return host_table(self.layout, self.plans, self.capacity)

    @cached_property
    def _tables(self) -> dict[Any, Table]:
        return {}


def stack(plans: Sequence[Any], capacity: int | None = None, *, pad: bool = False) -> Stack:
    """Return plans as one, which goes wherever a plan goes with an array index.

    `init(stack([a, b]), noise, which=k)` starts each row on the plan that the integers k name, of
    shape (batch,); rows may come and go at any time (`take`, `join`), and so may plans (`move`). A
    stack that begins with the same plans continues the same states; another one raises where the
    host knows the index, and makes NaN where it is on a device. Where rows draw noise, give `rng=`
    a list with one `cmsched.Rng` per row, or noise follows the place in the batch instead of the
    request.

    Args:
        plans: plans of one layout: the same sampler, prediction and stored arrays.
        capacity: columns that the table is padded to, one an evaluation and one more a plan. Within
            it, another stack of the same layout does not recompile what took this one.
        pad: take plans that differ in these as well, in the layout that has the arrays of all. Each
            row then stores and reads what the most demanding plan does, and noise is drawn for all
            rows if one plan draws: see `docs/serving.md` for what that costs.

    Raises:
        TypeError: an entry is no plan, or one without a table.
        ValueError: no plans; layouts differ; capacity is too small.
    """
    if not isinstance(plans, Iterable):
        raise TypeError(
            f"plans is {type(plans).__name__}: pass a sequence, such as [scheduler.plan(n)]"
        )
    plans = tuple(plans)
    if not plans:
        raise ValueError("plans is empty: a stack needs at least one plan")
    for i, plan in enumerate(plans):
        if not hasattr(plan, "rows"):
            raise TypeError(f"plans[{i}] is {type(plan).__name__}: make it with scheduler.plan(n)")
        _ = plan.layout  # which raises where there is none
    layout = plans[0].layout
    for i, other in enumerate(dict.fromkeys(plan.layout for plan in plans)):
        if i:
            place = next(k for k, plan in enumerate(plans) if plan.layout == other)
            layout = _padded(layout, other, place) if pad else _merged(layout, other, place)
    need = sum(len(plan) + 1 for plan in plans)
    if capacity is not None and (not isinstance(capacity, int | np.integer) or capacity < need):
        raise ValueError(
            f"capacity={capacity!r}: these plans need {need} columns, one an evaluation and one"
            " more a plan; pass an int of at least that"
        )
    if (capacity or need) > COLUMNS:
        raise ValueError(f"{capacity or need} columns are too many: a stack has at most {COLUMNS}")
    layout = dataclasses.replace(layout, stacked=True)
    return Stack(plans, layout, int(capacity or need), pad)


def _stack(plans: Sequence[Any], capacity: int, pad: bool) -> Stack:
    return stack(plans, capacity, pad=pad)


MUST_MATCH = {
    "slots": "stored arrays",
    "draws": "draws",
    "start_draws": "draws before the first evaluation",
    "given": "given arrays",
    "masked": "mask",
    "n_stored_sums": "kept combinations",
    "integral": "kind of model time (integral or not)",
    "prediction": "prediction",
}


def _merged(one: Layout, other: Layout, i: int) -> Layout:
    """Return the layout of both: the union of their terms, or raise where they store others."""
    for name, what in MUST_MATCH.items():
        a, b = getattr(one, name), getattr(other, name)
        if a != b:
            raise ValueError(
                f"plans[{i}] has another layout than plans[0]: its {what} differ ({b!r}, not"
                f" {a!r}); it stores {_stored(other)}, plans[0] {_stored(one)}. Stack plans of one"
                " sampler and configuration (those of very few steps may store less), or pass"
                " pad=True, which gives all rows the arrays of all plans"
            )
    pairs = zip(one.sums, other.sums, strict=True)
    return dataclasses.replace(
        one,
        needs_x0=one.needs_x0 or other.needs_x0,
        scaled=one.scaled or other.scaled,
        sums=tuple(tuple(sorted({*a, *b})) for a, b in pairs),
    )


def _padded(layout: Layout, other: Layout, i: int) -> Layout:
    """Return a layout that contains both, or raise where there is none."""
    try:
        return padded(layout, other)
    except ValueError as error:
        raise ValueError(
            f"plans[{i}] cannot stand beside those before it, {error}: batch them apart"
        ) from None


def _stored(layout: Layout) -> str:
    """Return the names of the stored arrays."""
    names = [f"{kind}{rank}" if kind == "k" else kind for kind, rank, _ in layout.slots]
    ages = [age for _, _, age in layout.slots]
    return ", ".join(f"{name}[-{age}]" for name, age in zip(names, ages, strict=True)) or "nothing"
