"""The distribution that a step draws its next sample from."""

import math
from collections.abc import Mapping
from typing import Any, Generic, NamedTuple

from ..backends import A, resolve
from ..checks import check_choice
from .checks import check_given, check_like, check_output, given_names, row_at
from .steps import step
from .table import table_std
from .values import Program, State, root_of_squares

Array = Any


class Transition(NamedTuple, Generic[A]):
    """The distribution of the next sample: normal, the same or another std in every element.

    In the accumulation dtype: the mean of a half precision sample is not rounded to it.
    """

    mean: A
    std: Any  # a float, or an array that broadcasts to the mean (array index, learned variance)

    def log_prob(self, next_sample: A, *, sum: bool = True, zero_std: str = "raise") -> A:
        """Return the log density of a next sample, in the mean's dtype.

        It has a gradient with respect to the network's output, and to next_sample: detach that.

        Args:
            next_sample: what `step` returned, like the sample.
            sum: over all axes but the first, so one number a sample; else of every element.
            zero_std: "raise" where the std is 0, or "skip", to count 0 there. An array of stds is
                looked at on the host, unless skipped; inside `jit` it cannot be, and gives nan.

        Raises:
            TypeError: next_sample is not a floating array of the mean's framework.
            ValueError: another shape or device; a std of 0, which has no density.
        """
        mean, std = self
        backend = resolve(mean)
        check_like(backend, mean, "next_sample", next_sample)
        check_choice("zero_std", zero_std, ("raise", "skip"))
        xp, skip, one = backend.xp, zero_std == "skip", isinstance(std, float)
        zero = std == 0.0
        if not skip and (zero if one else not backend.traced(std) and bool(xp.any(zero))):
            raise ValueError(
                "this step draws no noise (std = 0), so its next sample has no density: leave it"
                ' out, or pass zero_std="skip", which counts 0'
            )
        keep: Any = 1.0
        if one:
            keep, std = float(not zero), std or 1.0
        elif skip:
            keep = 1.0 - backend.astype(zero, std.dtype)
            std = backend.where(zero, xp.ones_like(std), std)
        log_std = math.log(std) if one else xp.log(std)
        off = (backend.astype(next_sample, mean.dtype) - mean) / std
        density = (-0.5 * (off * off) - (log_std + 0.5 * math.log(2 * math.pi))) * keep
        axes = tuple(range(1, len(density.shape)))
        total: A = xp.sum(density, axis=axes) if sum and axes else density
        return total


def transition(
    plan: Program, state: State[A], output: A, *, given: Mapping[str, A] | None = None
) -> Transition[A]:
    """Return mean and standard deviation of the sample that `step` makes of random noise.

    Arguments and errors as in `step`. Where a row draws several times, the std is of their sum; a
    loop that is over, and a step that draws nothing, have std 0.

    Of stored steps, each row at another one: `transition(plan, State(latents, (), index), output)`,
    with integers `index` of shape (batch,) in the framework of the latents.
    """
    sample: Array = state.sample
    index, layout = state.index, plan.layout
    backend = resolve(sample)
    check_output(backend, sample, output, layout.prediction)
    acc = backend.accumulation(sample.dtype)
    sample, said = backend.astype(sample, acc), backend.astype(output, acc)
    state = State(sample, tuple(backend.astype(m, acc) for m in state.memory), index)
    row = row_at(plan, index) if type(index) is int else None
    zero = backend.zeros_like(sample)
    zeros = tuple([zero] * len(layout.draws if row is None else row.draws))
    following = step(plan, state, said, noise=zeros or None, given=given)
    if not zeros:
        return Transition(following.sample, 0.0)
    given = check_given(backend, sample, given_names(layout), given)
    if row is None:
        std = backend.execute(table_std, None, plan.on(sample), state, said, given)
        ones = (1,) * (len(sample.shape) - len(index.shape))
        over = backend.xp.reshape(following.index == index, (*index.shape, *ones))
        return Transition(following.sample, backend.where(over, backend.zeros_like(std), std))
    draws = [(value, drawn.log_range) for value, drawn in row.draws]
    std = root_of_squares(backend, layout, sample, said, draws, row.statements, given)
    return Transition(following.sample, std)
