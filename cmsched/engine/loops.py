"""Whole loops: a plan's rows one after another, or the sampler's own loop on arrays."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple

import numpy as np

from .. import samplers
from ..backends import A
from ..grids import GridRun
from ..noise import standard_normal
from ..plan import Plan
from ..samplers import Evaluate, Rms, Store, Trial
from ..schedules import Point
from ..tables import Table
from .checks import backend_of, check_given, check_like, check_output, check_program
from .start import init
from .steps import model_input, step, step_and_x0
from .values import (
    Program,
    State,
    learned_std,
    mean_channels,
    project,
    size_of,
    variance_channels,
)

Array = Any
Model = Callable[[A, Any], A]


class Step(NamedTuple, Generic[A]):
    """One evaluation of a loop and the step that it led to, see `trajectory`."""

    i: int  # evaluations before this one
    before: State[A]  # where the network was evaluated
    output: A  # what it said there
    state: State[A]  # where the loop stands now
    x0: A  # the clean sample that the output implies, after projection

    @property
    def sample(self) -> A:
        """The sample that the step made."""
        return self.state.sample


def trajectory(
    model: Model[A],
    plan: Program,
    noise: A,
    *,
    x0: A | None = None,
    given: Mapping[str, A] | None = None,
    rng: Any = None,
) -> Iterator[Step[A]]:
    """Return an iterator over the steps of the whole loop; the last one has what `sample` returns.

    A step is taken when it is asked for, and holds what it began with, so a loop can be watched,
    stopped, and gone on with:

        for step in tqdm(cmsched.trajectory(model, plan, noise), total=len(plan)):
            show(step.x0)  # what the network thinks the sample is
            if good_enough(step.sample):
                break
        state = step.state  # goes wherever a state goes: `cmsched.step`, `take`, a file

    `cmsched.estimate(plan, step.before, step.output)` gives eps and v as well, if it is asked
    before a network that writes its outputs to one array writes the next one. Inside `jit` and
    other traces the loop is written out. A plan without rows (adaptive samplers) has as many steps
    as its loop takes; their states hold no memory, and only this iterator goes on from them.

    Args:
        model: `model(x, t) -> output`.
        plan: the plan, its table, or a stack of plans.
        noise: see `init`.
        x0: see `init`.
        given: see `init`.
        rng: see `draw`.

    Raises:
        ValueError, TypeError: what `init` raises, at once; what `step` raises, when it is taken.
    """
    check_program(plan)
    if isinstance(plan, Plan) and not plan.traced:
        return _OwnLoop(model, plan, noise, x0, given, rng).steps(show=True)
    index = 0 if isinstance(plan, Plan) and _is_traced(plan, noise, x0) else None
    state = init(plan, noise, x0=x0, given=given, rng=rng, index=index)
    return _steps(model, plan, state, given, rng, True)


def _steps(
    model: Model[A],
    plan: Program,
    state: State[A],
    given: Mapping[str, Array] | None,
    rng: Any,
    show: bool,
) -> Iterator[Step[A]]:
    """Yield the steps from a state on; x0 is None unless it is shown."""
    for i in range(len(plan)):
        before, x0 = state, None  # type: State[A], Any
        output = model(*model_input(plan, before))
        if show:
            state, x0 = step_and_x0(plan, before, output, rng=rng, given=given)
        else:
            state = step(plan, before, output, rng=rng, given=given)
        yield Step(i, before, output, state, x0)
        del before, output, x0


def sample(
    model: Model[A],
    plan: Program,
    noise: A,
    *,
    x0: A | None = None,
    given: Mapping[str, A] | None = None,
    rng: Any = None,
    callback: Callable[[int, State[A], A], None] | None = None,
    progress: bool = False,
    unroll: bool = False,
) -> A:
    """Return the sample that the whole loop makes of unit normal noise.

    A Python loop on concrete arrays. Traced by JAX it is a `scan` (on CPU a scan around a
    convolutional network can be many times slower than unrolling), or a loop written out with
    `unroll=True`.

    Args:
        model: `model(x, t) -> output`.
        plan: the plan, its table, or a stack of plans.
        noise: see `init`.
        x0: see `init`.
        given: see `init`.
        rng: see `draw`.
        callback: called as `callback(i, state, x0)` after evaluation i, with the state before the
            step; see also `trajectory`.
        progress: show a bar (needs tqdm).
        unroll: write the loop out where JAX traces it.

    Raises:
        ValueError: callback or progress inside a trace.
    """
    check_program(plan)
    if isinstance(plan, Plan) and not plan.traced:
        whole: A = run(
            model, plan, noise, x0=x0, given=given, rng=rng, callback=callback, progress=progress
        )
        return whole
    backend = backend_of("noise", noise)
    traced = _is_traced(plan, noise, x0)
    if traced and (callback is not None or progress):
        raise ValueError(
            "callback and progress need concrete arrays; call sample outside jit, or remove them"
        )
    if traced and not unroll:

        def body(state: State) -> State:
            output = model(*model_input(plan, state))
            return step(plan, state, output, rng=rng, given=given)

        state = init(plan, noise, x0=x0, given=given, rng=rng)
        last: State[A] = backend.scan(body, state, len(plan))
        return last.sample
    index = 0 if isinstance(plan, Plan) and traced else None
    state = init(plan, noise, x0=x0, given=given, rng=rng, index=index)
    taken = _steps(model, plan, state, given, rng, callback is not None)
    for one in _progress(taken, len(plan), progress):
        if callback is not None:
            if backend.traced(one.output):
                raise ValueError(
                    "callback needs concrete arrays; call sample outside jit, or remove it"
                )
            callback(one.i, one.before, one.x0)
        state = one.state
        del one  # its arrays, which the next evaluation need not leave room for
    end: A = state.sample
    return end


def _is_traced(plan: Program, noise: Array, x0: Array | None) -> bool:
    """Tell whether arrays stand for values that are not known yet."""
    numbers = plan.numbers if isinstance(plan, Table) else None
    return backend_of("noise", noise).traced(noise, x0, numbers)


def run(
    model: Model,
    plan: Plan,
    noise: Array,
    *,
    x0: Array | None = None,
    given: Mapping[str, Array] | None = None,
    rng: Any = None,
    callback: Callable[[int, State, Array], None] | None = None,
    progress: bool = False,
    return_info: bool = False,
    report: Callable[[Trial], None] | None = None,
) -> Any:
    """Return the sample, running the sampler's own loop on arrays; arguments as in `sample`.

    The reference path, and the only one for samplers whose control flow depends on data. The loop's
    arrays have the accumulation dtype, the network's the sample's. With return_info the result is
    (sample, info): the evaluations taken, and what the loop counted (accepted and rejected steps).
    `report` is called with what an adaptive loop says of each step it tried.
    """
    check_program(plan)
    if not isinstance(plan, Plan):
        raise TypeError("run executes the sampler itself: pass a plan, no table and no stack")
    own = _OwnLoop(model, plan, noise, x0, given, rng)
    show = callback is not None
    for one in _progress(own.steps(report, show), len(plan) or len(plan.grid), progress):
        if callback is not None:
            callback(one.i, one.before, one.x0)
        del one
    return (own.final, own.info) if return_info else own.final


class _OwnLoop:
    """A sampler's own loop on arrays: what it starts from, draws, and gets for its requests."""

    def __init__(
        self,
        model: Model,
        plan: Plan,
        noise: Array,
        x0: Array | None,
        given: Mapping[str, Array] | None,
        rng: Any,
    ) -> None:
        backend = backend_of("noise", noise)
        acc = backend.accumulation(noise.dtype)
        entry = samplers.get(plan.sampler)
        if x0 is not None:
            check_like(backend, noise, "x0", x0)
        check_given(backend, noise, set(entry.given), given)
        self.model, self.plan, self.rng, self.backend = model, plan, rng, backend
        self.like, self.acc = noise, acc
        self.evaluation, self.rank = -1, -1  # of the row, and of the draw in it
        self.output: Array = noise
        self.final: Array = None
        first = plan.grid.points[0]
        x = backend.astype(noise, acc)
        if x0 is None:
            x = x * plan.grid.init_scale
        else:
            x = backend.astype(x0, acc) * first.alpha + x * first.sigma
        arrays = {name: backend.astype(array, acc) for name, array in (given or {}).items()}
        self.walk = GridRun(plan.grid)
        self.loop = entry.start(x, self.walk, self.normal, plan.options, **arrays)

    @property
    def info(self) -> dict[str, Any]:
        """The number of evaluations, and what the loop counted."""
        return {"evaluations": self.evaluation + 1, **self.walk.counts}

    def normal(
        self,
        a: Point | None = None,
        b: Point | None = None,
        *,
        log_range: tuple[float, float] | None = None,
    ) -> Array:
        """Return what the loop draws."""
        self.rank += 1
        if self.rng is None:
            raise ValueError("this sampler draws noise: pass rng=")
        interval = None if a is None or b is None else (a.lam, b.lam)
        z = standard_normal(
            self.rng, self.like, self.evaluation + 1, rank=self.rank, interval=interval
        )
        z = self.backend.astype(z, self.acc)
        if log_range is None:
            return z
        variance = variance_channels(self.backend, self.like, self.output)
        return z * learned_std(self.backend, variance, *log_range)

    def steps(
        self, report: Callable[[Trial], None] | None = None, show: bool = False
    ) -> Iterator[Step]:
        """Yield the steps, then `final` is the sample; x0 is None unless it is shown."""
        asked = self.request(None, report)
        state = self.state(asked)
        while asked is not None:
            before, (x, at, eps) = state, Evaluate(*asked)
            self.evaluate(x, at)
            raw, x0 = self.estimates(x, at)
            shown = self.apart(x0) if show else None
            reply = (x, x0, self.eps(x, at, raw)) if eps else (x, x0)
            asked = self.request(reply, report)
            state = self.state(asked)
            yield Step(before.index, before, self.output, state, shown)

    def apart(self, x: Array) -> Array:
        """Return an array of the loop's in the sample's dtype, not the one that it goes on with."""
        own = self.backend.astype(x, self.like.dtype)
        return self.backend.copy(own) if own is x else own

    def request(self, reply: Any, report: Callable[[Trial], None] | None) -> Any:
        """Return the next evaluation that the loop asks for; None, and `final`, at its end."""
        astype, dtype = self.backend.astype, self.like.dtype
        while True:
            try:
                asked = self.loop.send(reply)
            except StopIteration as end:
                self.final = astype(end.value, dtype)
                return None
            if isinstance(asked, Store):
                reply = asked.x
            elif isinstance(asked, Rms):
                reply = size_of(self.backend, *asked)
            elif isinstance(asked, Trial):
                if report is not None:
                    report(asked._replace(x=astype(asked.x, dtype)))
                reply = None
            else:
                return asked

    def state(self, asked: Any) -> State:
        """Return where the loop stands."""
        x = self.final if asked is None else self.backend.astype(asked[0], self.like.dtype)
        return State(x, (), self.evaluation + 1)

    def evaluate(self, x: Array, at: Point) -> None:
        """Ask the network."""
        backend, plan, like = self.backend, self.plan, self.like
        self.evaluation, self.rank = self.evaluation + 1, -1
        if plan.traced:
            time = plan.time_on(like, self.evaluation)
        else:
            number = backend.default_int if plan.grid.integral else self.acc
            time = backend.to_device_of(np.asarray(at.t), like, number)
        x = x * at.scale if at.scale != 1.0 else x
        self.output = self.model(backend.astype(x, like.dtype), time)
        check_output(backend, like, self.output, plan.prediction)

    @property
    def mean(self) -> Array:
        """The output without its variance channels, in the accumulation dtype."""
        mean = mean_channels(self.plan.prediction, self.like, self.output)
        return self.backend.astype(mean, self.acc)

    def estimates(self, x: Array, at: Point) -> tuple[Array, Array]:
        """Return x0 before and after projection."""
        prediction = self.plan.prediction
        p, q = prediction.linear(at)
        skip, out = prediction.boundary(at)
        raw = x * p + self.mean * q
        x0 = project(self.backend, prediction, raw)
        if (skip, out) != (0.0, 1.0):
            raw, x0 = x * skip + raw * out, x * skip + x0 * out
        return raw, x0

    def eps(self, x: Array, at: Point, raw: Array) -> Array:
        """Return eps before projection."""
        prediction = self.plan.prediction
        if at.sigma > 0.0 and prediction.boundary(at) != (0.0, 1.0):
            return (x - raw * at.alpha) * (1.0 / at.sigma)
        p, q = prediction.noise(at)  # not through x0, where a small sigma would be lost
        return x * p + self.mean * q


def _progress(steps: Iterable[Step], count: int, show: bool) -> Iterable[Step]:
    """Return the steps, with a bar where it is to be shown."""
    if not show:
        return steps
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise ImportError(
            "progress=True needs tqdm: pip install tqdm, or pass progress=False"
        ) from None
    shown: Iterable[Step] = tqdm(steps, total=count)
    return shown
