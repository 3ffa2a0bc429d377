"""Proofs for parts of one's own: samplers, schedules, spacings, predictions.

    from cmsched import testing

    testing.check_sampler("mine")  # after cmsched.register; nothing happens, or AssertionError

What is checked has a known answer: data of a normal distribution, whose exact network, exact
trajectories and exact law are closed forms. NumPy is all they need.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import samplers, spacings
from .engine import sample
from .grids import Grid
from .noise import Rng
from .plan import Plan, make_plan
from .predictions import Prediction
from .schedules import VPSDE, Flow, Point, Schedule, make_schedule

__all__ = ["check_prediction", "check_sampler", "check_schedule", "check_spacing"]

MEAN, SPREAD = 0.3, 0.5  # of the data
STEPS = (24, 48, 96, 192)


def check_sampler(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    frames: Sequence[str] = ("vp", "ve", "flow"),
) -> None:
    """Check that a registered sampler does what its entry says.

    In every frame: where the estimate is constant an exact sampler ends there; the error to the
    exact trajectory falls with the order, of a run without history at most the second; a sampler
    that draws leaves the mean and the variance of the data; it evaluates no more often, and (when
    its plan is made) stores no more, than its entry says.

    Args:
        name: of the sampler.
        options: its options; by default those of each of its variants in turn.
        frames: of the schedules that it is run on.

    Raises:
        AssertionError: it does not; the sentence says what was found and what was expected.
        ValueError: no such sampler.
    """
    entry = samplers.get(name)
    if entry.given or not entry.traced or entry.jumps or not entry.trait("order"):
        raise ValueError(
            f"{name!r} asks for arrays, depends on the data or jumps to the end: this check is of"
            " samplers that follow an ODE or SDE"
        )
    for chosen in entry.variants if options is None else (options,):
        complete = entry.complete(chosen)
        if any(str(value).startswith("learned") for value in complete.values()):
            continue  # the network of these checks says no variance
        label = f"{name} {dict(chosen)}" if chosen else name
        for frame in frames:
            if entry.trait("exact", complete):
                _constant(label, name, complete, frame)
            if entry.trait("stochastic", complete):
                _law(label, name, complete, frame)
            else:
                _order(label, name, complete, frame)
        plan = _plan(name, complete, frames[0], 12)
        count = len(_plan(name, complete, frames[0], 24)) - len(plan)
        assert count <= 12 * entry.evaluations, (
            f"{label} evaluates {count} times in 12 steps, its entry says {12 * entry.evaluations}"
        )


def _schedule(frame: str) -> Schedule:
    return Flow() if frame == "flow" else VPSDE(frame=frame)


def _plan(name: str, options: Mapping[str, Any], frame: str, n: int) -> Plan:
    """Return a plan between finite levels, even in lam."""
    schedule = _schedule(frame)
    points = [schedule.at(ratio=r) for r in np.geomspace(20.0, 0.05, n + 1).tolist()]
    return make_plan(name, Grid(tuple(points), schedule), Prediction("sample"), dict(options))


def _known(plan: Plan) -> dict[float, Point]:
    return {float(np.float64(p.t)): p for p in plan.points}


def _network(plan: Plan, spread: float) -> Any:
    """Return the exact estimate of x0, of data with this spread."""
    at = _known(plan)

    def model(x: Any, t: Any) -> Any:
        p = at[min(at, key=lambda own: abs(own - float(t)))]
        part = p.alpha * spread**2 / ((p.alpha * spread) ** 2 + p.sigma**2)
        return MEAN + part * (x - p.alpha * MEAN)

    return model


def _size(p: Point) -> float:
    return math.hypot(p.alpha * SPREAD, p.sigma)


def _start(plan: Plan, z: Any) -> Any:
    """Return the noise from which a run begins at the exact sample of a normal z."""
    first = plan.grid.points[0]
    return (first.alpha * MEAN + _size(first) * z) / plan.grid.init_scale


def _constant(label: str, name: str, options: Mapping[str, Any], frame: str) -> None:
    plan = _plan(name, options, frame, 12)
    first, last = plan.grid.points[0], plan.grid.points[-1]
    z = Rng(0).normal((4000, 1), dtype="float64")
    noise = (first.alpha * MEAN + first.sigma * z) / plan.grid.init_scale
    end = sample(_network(plan, 0.0), plan, noise, rng=1)
    mean, std = float(np.mean(end)), float(np.std(end))
    near = 6 * last.sigma / math.sqrt(len(z)) + 1e-9
    assert abs(mean - last.alpha * MEAN) <= near + 1e-3 * last.alpha, (
        f"{label} ({frame}): of one clean sample {MEAN} it makes {mean / last.alpha:.4f}"
    )
    assert abs(std - last.sigma) <= 0.06 * last.sigma, (
        f"{label} ({frame}): of one clean sample the last level has a standard deviation of"
        f" {std:.4g}, expected {last.sigma:.4g}"
    )


def _order(label: str, name: str, options: Mapping[str, Any], frame: str) -> None:
    z = np.linspace(-2.0, 2.0, 9)[:, None]
    errors = []
    for n in STEPS:
        plan = _plan(name, options, frame, n)
        last = plan.grid.points[-1]
        exact = last.alpha * MEAN + _size(last) * z
        end = sample(_network(plan, SPREAD), plan, _start(plan, z))
        errors.append(float(np.max(np.abs(end - exact))) / last.alpha)
    claimed = min(samplers.get(name).trait("order", options), 2)
    usable = [e for e in errors if e > 1e-11][-3:]
    if len(usable) > 1:
        found = math.log2(usable[0] / usable[-1]) / (len(usable) - 1)
        assert found >= claimed - 0.35, (
            f"{label} ({frame}): the error falls with order {found:.2f}, expected at least"
            f" {claimed:g}; errors {', '.join(f'{e:.2g}' for e in errors)} at {STEPS} steps"
        )
    assert errors[-1] < 0.05, f"{label} ({frame}): error {errors[-1]:.2g} at {STEPS[-1]} steps"


def _law(label: str, name: str, options: Mapping[str, Any], frame: str) -> None:
    """Mean and spread are the data's, or four times as many steps bring them twice as near."""
    off, z = [], Rng(0).normal((20000, 1), dtype="float64")
    for n in (48, 192):
        plan = _plan(name, options, frame, n)
        end = sample(_network(plan, SPREAD), plan, _start(plan, z), rng=1)
        last = plan.grid.points[-1]
        mean, std, want = float(np.mean(end)), float(np.std(end)), _size(last)
        exact = samplers.get(name).trait("exact", options)
        off.append(max(abs(mean - last.alpha * MEAN), exact * abs(std - want)) / want)
    assert off[1] < max(0.03, 0.5 * off[0]), (
        f"{label} ({frame}): mean {mean:.4f} and standard deviation {std:.4f} after 192 steps,"
        f" expected {last.alpha * MEAN:.4f} and {want:.4f}"
    )


def check_schedule(schedule: Schedule | str, **options: Any) -> None:
    """Check that a schedule is one: a curve of levels that falls, and its own inverse.

    Over its span: sigma / alpha falls from the first time to the last; the time of a level is the
    time it came from; alpha and sigma are those of the frame; arrays get what numbers get.

    Args:
        schedule: the schedule, or the name of a registered one.
        options: of a registered one.

    Raises:
        AssertionError: it is not; the sentence says where.
    """
    made = make_schedule(schedule, **options) if isinstance(schedule, str) else schedule
    name, (first, last) = type(made).__name__, made.span
    times = np.linspace(first, last, 101).tolist()
    points = [made.at(t=t) for t in times]
    ratios = [p.ratio for p in points]
    for t, a, b in zip(times[1:], ratios, ratios[1:], strict=False):
        assert b < a, f"{name}: sigma/alpha does not fall at t={t:g}, from {a:g} to {b:g}"
    scale = abs(first - last)
    for t, p in zip(times, points, strict=True):
        if not 0 < p.ratio < math.inf:
            continue
        back = made.time_at(p.ratio)
        assert abs(back - t) <= 1e-6 * scale, f"{name}: the level of t={t:g} is at t={back:g}"
        parts = {
            "vp": p.alpha**2 + p.sigma**2,
            "ve": p.alpha,
            "flow": p.alpha + p.sigma,
            "trig": p.alpha**2 + (p.sigma / made.sigma_data) ** 2 if made.sigma_data else 1.0,
        }[made.frame]
        assert abs(parts - 1) < 1e-9, f"{name}: alpha={p.alpha:g}, sigma={p.sigma:g} at t={t:g}"
    like = np.zeros(1)
    inner = [t for t, p in zip(times, points, strict=True) if 0 < p.ratio < math.inf]
    alpha, sigma = made.on(like).alpha_sigma(np.array(inner))
    for t, a, s in zip(inner, alpha.tolist(), sigma.tolist(), strict=True):
        p = made.at(t=t)
        off = max(abs(a - p.alpha) / max(p.alpha, 1e-3), abs(s - p.sigma) / max(p.sigma, 1e-3))
        assert off < 1e-6, f"{name}: arrays get alpha={a:g}, sigma={s:g} at t={t:g}, numbers {p}"


def check_spacing(spacing: Any, *, schedule: Schedule | str = "vp_sde", **options: Any) -> None:
    """Check that a spacing gives n different levels, decreasing, for every n up to 50.

    Args:
        spacing: the name of a registered one, or a function (n, high, low).
        schedule: on which.
        options: of the spacing.

    Raises:
        AssertionError: it does not, for the n that the sentence names.
    """
    made = make_schedule(schedule) if isinstance(schedule, str) else schedule
    for n in range(1, 51):
        try:
            points = spacings.place(spacing, n, made, **options)
        except ValueError as error:
            raise AssertionError(f"{spacing!r} has no {n} steps: {error}") from error
        ratios = [p.ratio for p in points]
        assert len(ratios) == n, f"{spacing!r} gives {len(ratios)} levels for {n} steps"
        assert all(b < a for a, b in itertools.pairwise(ratios)), (
            f"{spacing!r}: the levels of {n} steps do not fall: {ratios}"
        )


def check_prediction(name: str, *, schedules: Sequence[str] = ("vp_sde", "flow")) -> None:
    """Check that an output determines the clean sample and the noise, and is made of them.

    Args:
        name: of a registered prediction.
        schedules: on which.

    Raises:
        AssertionError: it does not, at the time that the sentence names.
        ValueError: no such prediction.
    """
    said = Prediction(name)
    x0, eps = np.array([0.7, -0.2, 0.1]), np.array([-1.1, 0.4, 2.0])
    for each in schedules:
        schedule = make_schedule(each)
        for t in np.linspace(*schedule.span, 9)[1:-1].tolist():
            p = schedule.at(t=t)
            c, d = said.output(p.alpha, p.sigma, p.scale)
            x, m = p.alpha * x0 + p.sigma * eps, c * x0 + d * eps
            assert p.alpha * d != p.sigma * c, f"{name} says nothing about x0 at t={t:g} ({each})"
            (a, b), (e, f) = said.linear(p), said.noise(p)
            for what, got, want in (("x0", a * x + b * m, x0), ("eps", e * x + f * m, eps)):
                off = float(np.max(np.abs(got - want)))
                assert off < 1e-8, f"{name}: {what} is off by {off:.2g} at t={t:g} ({each})"
