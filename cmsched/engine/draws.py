"""Which unit normals a loop needs, and where they come from."""

from typing import Any

from ..backends import A, resolve
from ..noise import standard_normal
from ..rows import Layout
from .checks import row_at
from .table import table_rows
from .values import Program, State

Array = Any


def draw(plan: Program, state: State[A], rng: Any) -> tuple[A, ...] | None:
    """Return the unit normals this step needs, one array per draw, or None if it needs none.

    Args:
        plan: the plan, its table, or a stack of plans.
        state: what `init` or `step` returned.
        rng: an int or `Rng` (the same noise on every framework, device and batch split), a native
            generator or key, a list with one per sample, or a callable (shape, dtype, interval).

    Raises:
        ValueError: rng is None and the step draws.
    """
    sample, index = state.sample, state.index
    if type(index) is int:
        each = [
            {"row": index + 1, "rank": d.rank, "interval": d.interval}
            for _, d in row_at(plan, index).draws
        ]
    else:
        each = [{"rank": rank} for rank, _ in plan.layout.draws]
    if not each:
        return None
    if rng is None:
        raise ValueError(
            "this step draws noise: pass rng= (an int, cmsched.Rng, a generator or key, a list with"
            " one per sample, or a callable), or noise=cmsched.draw(plan, state, rng)"
        )
    if type(index) is not int:
        row, *times = resolve(sample).execute(table_rows, None, plan.on(sample), state)
        for one, begin, end in zip(each, times[::2], times[1::2], strict=True):
            one.update(row=row, times=(begin, end))
    if len(each) == 1 or not callable(rng):
        return tuple([standard_normal(rng, sample, **one) for one in each])
    # a function may return one array again and again
    copy = resolve(sample).copy
    return tuple([copy(standard_normal(rng, sample, **one)) for one in each])


def start_draws(layout: Layout, noise: Array, rng: Any) -> tuple[Array, ...]:
    """Return the unit normals that a plan needs before its first evaluation."""
    if not layout.start_draws:
        return ()
    if rng is None:
        raise ValueError("this plan draws noise before its first evaluation: pass rng= to init")
    return tuple([standard_normal(rng, noise, 0, rank=rank) for rank in layout.start_draws])
