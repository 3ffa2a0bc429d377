"""What a server asks of a batch: which rows are over, other plans for it, and no first request."""

from typing import Any

import numpy as np

from ..backends import resolve
from ..stacks import Stack
from ..tables import COLUMNS, NOBODY, Table
from .checks import at_hand, check_marks, check_program
from .start import init
from .steps import model_input, step
from .table import columns_at, table_left
from .values import Program, State

Array = Any


def remaining(plan: Program, state: State) -> Any:
    """Return how many evaluations are left: 0 where the loop is over.

    A server knows on the host when its requests end; this is for loops that do not count, and for
    masks on the device.

    Args:
        plan: the plan, its table or the stack that the state goes with.
        state: what `init` or `step` returned.

    Returns:
        An int for an int index; for an array index an int32 array of its shape on its device, for
        which nothing waits.

    Raises:
        TypeError: plan is none.
    """
    check_program(plan)
    if type(state.index) is int:
        return max(0, len(plan) - state.index)
    backend = resolve(state.sample)
    return backend.execute(table_left, None, plan.on(state.sample), state.index)


def move(state: State, old: Stack, new: Stack) -> State:
    """Return a state of one stack as that of another: its rows go on where they are.

    Plans leave so, and others come, in whatever order. What `new` stores and `old` does not is
    zeros, which no row reads before it has set it.

    Args:
        state: what `init` or `step` returned with `old`.
        old: the stack that it was stepped with.
        new: one that has the plans of all rows that are not over. Where a plan is missing, its
            rows that are over stay over, and others raise on the host; on a device `step` makes
            them NaN.

    Raises:
        TypeError: old or new is no stack; the index is an int.
        ValueError: a row runs a plan that `new` lacks, or is not of `old`.
    """
    for name, program in (("old", old), ("new", new)):
        if not isinstance(program, Stack):
            raise TypeError(f"{name} must be a Stack, got {type(program).__name__}: see stack")
    if isinstance(state.index, int):
        raise TypeError("rows move between stacks, and an int index is one of a plan")
    backend = resolve(state.sample)
    places = _places(old, new)
    index = state.index
    if at_hand(backend, index):
        own = np.asarray(index)
        check_marks(own, np.asarray(old.on(state.sample).next_columns))
        left = np.asarray(backend.execute(table_left, None, old.on(state.sample), index))
        lost = (places[own % COLUMNS] // COLUMNS == NOBODY) & (left > 0)
        if np.any(lost):
            raise ValueError(
                f"rows {np.argwhere(lost)[:, 0].tolist()} run plans that new lacks: stack the plans"
                " of all rows that are not over"
            )
    table = backend.to_device_of(places, state.sample)
    columns = backend.xp.reshape(columns_at(old.on(state.sample), index), (-1,))
    moved = backend.xp.reshape(backend.xp.take(table, columns, axis=0), tuple(index.shape))
    stored = dict(zip(old.layout.slots, state.memory, strict=True))
    memory = [
        stored[slot] if slot in stored else backend.zeros_like(state.sample)
        for slot in new.layout.slots
    ]
    return State(state.sample, tuple(memory), backend.astype(moved, index.dtype))


def _places(old: Stack, new: Stack) -> np.ndarray:
    """Return the index in `new` of each column of `old`, int32."""
    begins = dict(zip(new.plans[::-1], new.firsts[::-1], strict=True))
    over = new.firsts[0] + len(new.plans[0])
    places = np.full(old.capacity, NOBODY * COLUMNS, np.int32)
    for plan, first in zip(old.plans, old.firsts, strict=True):
        at, n = first % COLUMNS, len(plan)
        if plan in begins:
            places[at : at + n + 1] = begins[plan] + np.arange(n + 1)
        else:
            places[at + n] = over
    return places


def warm(plan: Program, like: Array, *, rng: Any = 0) -> None:
    """Do once what the first request would pay for: a run on zeros, with a network that says 0.

    Tables are placed, and what is compiled for steps and noise is compiled, for arrays of this
    shape, dtype and device.

    Args:
        plan: a plan, or a stack, all of whose plans are run.
        like: an array like the batch that will be sampled; it is not looked at.
        rng: what the requests will draw from, see `draw`.

    Raises:
        TypeError: a table, which is warm; a sampler without a table.
    """
    check_program(plan)
    if isinstance(plan, Table):
        raise TypeError("a table is on its device: warm the plan or the stack that it is of")
    if plan.layout.given or plan.layout.masked:
        raise TypeError("a sampler that is given arrays is warmed by a run: sample(model, plan, x)")
    backend = resolve(like)
    zeros = backend.zeros_like(like)
    which = None
    if isinstance(plan, Stack):
        count = zeros.shape[0]
        which = np.arange(count) % len(plan.plans)
    state = init(plan, zeros, which=which, rng=rng)
    for _ in range(len(plan)):
        model_input(plan, state)
        output = zeros
        if any(learned for _, learned in plan.layout.draws):
            output = backend.xp.concat([zeros, zeros], axis=1)
        state = step(plan, state, output, rng=rng)
