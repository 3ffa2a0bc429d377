"""The proofs that others have for their own parts: they pass what is right, and say what is not."""

import dataclasses
import math

import numpy as np
import pytest

import cmsched
from cmsched import predictions, samplers, schedules, spacings, testing
from cmsched.samplers.formulas import ancestral, ddim_step

pytestmark = pytest.mark.host
FEW = ["lms", "heun", "dpmpp_sde", "plms"]


@pytest.mark.parametrize("name", FEW)
def test_samplers_pass(name):
    testing.check_sampler(name)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_schedules_pass(name):
    testing.check_schedule(name)


@pytest.mark.parametrize("name", [n for n in spacings.SPACINGS if n != "ipndm"])
def test_spacings_pass(name):
    testing.check_spacing(name)


@pytest.mark.parametrize("name", predictions.PREDICTION_TYPES)
def test_predictions_pass(name):
    testing.check_prediction(name)


@pytest.fixture
def registered(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(samplers.registry, "REGISTRY", samplers.REGISTRY)
    before = dict(samplers.REGISTRY)
    yield
    samplers.REGISTRY.clear()
    samplers.REGISTRY.update(before)


def euler_but(change, **traits):
    """Register Euler's method with a fault."""

    @cmsched.register("mine", paper="none", **traits)
    def mine(x, grid, noise):
        for a, b in grid.steps():
            x, x0 = yield x, a
            eps = (x - a.alpha * x0) / a.sigma
            x = change(x, x0, eps, a, b, noise)
        return x


FAULTS = {
    "a sign": (lambda x, x0, eps, a, b, z: b.alpha * x0 - b.sigma * eps, {}, "falls with order"),
    "a level": (
        lambda x, x0, eps, a, b, z: b.alpha * x0 + a.sigma * eps,
        {},
        "of one clean sample 0.3 it makes",
    ),
    "the order": (lambda x, x0, eps, a, b, z: ddim_step(x, eps, a, b), {"order": 2}, "order 0.99"),
    "too much noise": (
        lambda x, x0, eps, a, b, z: b.alpha * x0 + b.sigma * eps + 0.5 * b.sigma * z(a, b),
        {"stochastic": True},
        "standard deviation",
    ),
    "no part for noise": (
        lambda x, x0, eps, a, b, z: (
            b.alpha * x0 + b.sigma * eps + ancestral(a, b, 1.0)[1] * z(a, b)
        ),
        {"stochastic": True},
        "standard deviation",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_samplers_are_named(registered, fault):
    change, traits, text = FAULTS[fault]
    euler_but(change, **traits)
    with pytest.raises(AssertionError, match=text):
        testing.check_sampler("mine")


def test_a_right_sampler_of_ones_own_passes(registered):
    euler_but(lambda x, x0, eps, a, b, z: b.alpha * x0 + b.sigma * eps)
    testing.check_sampler("mine")


@dataclasses.dataclass(frozen=True)
class Power(schedules.Schedule):
    """ratio = t^p / (1 - t)."""

    power: float = 2.0

    def ratio_at(self, t):
        return math.inf if t == 1 else t**self.power / (1 - t)

    def time_at(self, ratio):
        low, high = 0.0, 1.0
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if self.ratio_at(middle) < ratio else (low, middle)
        return low


def test_schedules_of_ones_own():
    testing.check_schedule(Power())

    class Wrong(Power):
        def time_at(self, ratio):
            return 0.5 * super().time_at(ratio)

    with pytest.raises(AssertionError, match="Wrong: the level of t="):
        testing.check_schedule(Wrong())

    class Rising(Power):
        def ratio_at(self, t):
            return 1 / (1e-3 + t)

    with pytest.raises(AssertionError, match="does not fall at t="):
        testing.check_schedule(Rising())


def test_spacings_of_ones_own(monkeypatch):
    monkeypatch.setattr(spacings, "SPACINGS", dict(spacings.SPACINGS))
    spacings.register("mine", lambda n, high, low: np.geomspace(high, low, n))
    testing.check_spacing("mine")
    spacings.register("flat", lambda n, high, low: np.full(n, high))
    with pytest.raises(AssertionError, match="'flat' has no 2 steps"):
        testing.check_spacing("flat")


def test_predictions_of_ones_own(monkeypatch):
    monkeypatch.setattr(predictions, "OUTPUTS", dict(predictions.OUTPUTS))
    predictions.OUTPUTS["epsilon"] = lambda alpha, sigma, scale, o: (alpha, sigma)  # x itself
    with pytest.raises(AssertionError, match="epsilon says nothing about x0"):
        testing.check_prediction("epsilon")


def test_what_is_not_checked_is_refused():
    for name in ("consistency", "repaint", "dpm_adaptive"):
        with pytest.raises(ValueError, match="this check is of"):
            testing.check_sampler(name)
    with pytest.raises(ValueError, match="sampler="):
        testing.check_sampler("no such")
