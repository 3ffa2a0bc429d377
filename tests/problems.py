"""Problems for tests over all samplers: grids, predictions, networks, and plans of them."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from conftest import few
from hypothesis import assume
from hypothesis import strategies as st

from cmsched.grids import Grid
from cmsched.plan import Plan, make_plan
from cmsched.predictions import Prediction
from cmsched.samplers import REGISTRY
from cmsched.schedules import Betas, Flow, Logarithmic, Schedule

SCHEDULES: dict[str, Schedule] = {
    "linear": Betas(),
    "scaled_linear": Betas(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    "cosine": Betas(beta_schedule="squaredcos_cap_v2"),
    "ve": Betas(frame="ve", sigma_data=1.0, beta_start=0.00085, beta_end=0.012),
    "edm": Logarithmic(),
    "flow": Flow(),
    "zero_snr": Betas(rescale_betas_zero_snr=True),
}
PROJECTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "clip": {"clip": 1.0},
    "threshold": {"threshold": (0.9, 1.5)},
    "boundary": {"clip": 1.5, "timestep_scaling": 0.1},
}
HARD = ("flow", "zero_snr")  # alpha = 0 at the start: not every sampler can start there


def grid_of(name: str, n: int, *, end: str = "zero") -> Grid:
    """A grid of n steps on a named schedule, ending at sigma = 0 or at its last level."""
    schedule = SCHEDULES[name]
    if name == "edm":
        points = [schedule.at(ratio=r) for r in np.geomspace(40.0, 0.05, n + 1)]
    else:
        top, low = (1000, 40) if name == "flow" else (999, 9)
        points = [schedule.at(t=float(round(t))) for t in np.linspace(top, low, n + 1)]
    if end == "zero":
        points = [*points[:-1], schedule.point(0.0, 0.0)]
    return Grid(tuple(points), schedule, points[0].sigma, integral=name != "edm")


def prediction_of(kind: str, projection: str, options: Mapping[str, Any]) -> Prediction:
    """A prediction, with a variance head where the options of DDPM ask for one."""
    head = str(options.get("variance", "")).startswith("learned")
    return Prediction(kind, variance_head=head, **PROJECTIONS[projection])


def traced_variants() -> list[Any]:
    """Every sampler that has a table, with each of its option sets, as pytest parameters."""
    return [
        pytest.param(name, options, id="-".join([name, *map(str, options.values())]))
        for name, entry in REGISTRY.items()
        if entry.traced
        for options in few(entry.variants)
    ]


def a_plan(
    sampler: str,
    options: Mapping[str, Any] | None = None,
    *,
    schedule: str = "scaled_linear",
    n: int = 5,
    end: str = "last",
    kind: str = "epsilon",
    projection: str = "none",
) -> Plan:
    """A plan of a sampler, by default on a grid that every sampler can walk."""
    options = options or {}
    prediction = prediction_of(kind, projection, options)
    return make_plan(sampler, grid_of(schedule, n, end=end), prediction, options)


@st.composite
def plans(draw: st.DrawFn, sampler: str, options: Mapping[str, Any], most: int = 5) -> Plan:
    """Plans on generated schedules and grids, with every prediction and projection."""
    end = draw(st.sampled_from(["last", "zero"]))
    name = draw(st.sampled_from([*SCHEDULES, "trained"]))
    n = draw(st.integers(1, most))
    if name == "trained":
        betas = tuple(draw(st.lists(st.floats(1e-3, 0.3), min_size=n + 1, max_size=20)))
        schedule = Betas(trained_betas=betas, num_train_timesteps=len(betas))
        times = draw(st.permutations(range(len(betas))))[: n + 1]
        points = [schedule.at(t=float(t)) for t in sorted(times, reverse=True)]
        if end == "zero":
            points[-1] = schedule.point(0.0, 0.0)
        grid = Grid(tuple(points), schedule, points[0].sigma, integral=True)
    else:
        grid = grid_of(name, n, end=end)
    kinds = ["sample", "v_prediction", "flow_prediction"]
    if name not in HARD:
        kinds += ["epsilon", "score", "edm", "consistency"]
    prediction = prediction_of(
        draw(st.sampled_from(kinds)), draw(st.sampled_from(list(PROJECTIONS))), options
    )
    if end == "last" and name not in HARD and (sampler, name) != ("tcd", "edm"):
        return make_plan(sampler, grid, prediction, options)
    try:
        return make_plan(sampler, grid, prediction, options)
    except ValueError as error:
        # a sampler may have no such step, but has to say that it is the one
        assume(sampler not in str(error))
        raise


def network(xp: Any, prediction: Prediction) -> Any:
    """A smooth network of bounded slope that looks at t; with a variance head if asked for."""

    def model(x: Any, t: Any) -> Any:
        ones = (1,) * (len(x.shape) - len(t.shape))
        t = xp.reshape(xp.astype(t, x.dtype), (*t.shape, *ones))
        mean = xp.tanh(x * 0.5 + 0.3 * xp.sin(t * 0.01))
        if not prediction.variance_head:
            return mean
        return xp.concat([mean, xp.cos(x)], axis=1)

    return model


def given_of(plan: Plan, shape: tuple[int, ...]) -> dict[str, np.ndarray] | None:
    """The arrays that a plan's sampler asks for, in float64: an image, and a soft mask."""
    names = REGISTRY[plan.sampler].given
    rng = np.random.default_rng(4)
    arrays = {"mask": rng.uniform(size=shape), "image": rng.standard_normal(shape)}
    return {name: np.asarray(arrays[name], np.float16).astype(np.float64) for name in names} or None


def start_of(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Start noise in float64, with values that half precision holds too."""
    normals = np.random.default_rng(seed).standard_normal(shape)
    return np.asarray(normals, np.float16).astype(np.float64)


@contextlib.contextmanager
def registered(*names: str) -> Iterator[None]:
    """Remove the samplers that the block registers (these names, or any), whatever happens."""
    before = set(REGISTRY)
    assert not before & {*names}
    try:
        yield
    finally:
        for name in set(REGISTRY) - before:
            del REGISTRY[name]
