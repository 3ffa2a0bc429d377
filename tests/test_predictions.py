"""What the network's output means: a perfect network's output maps back to x0."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmsched.predictions import PREDICTION_TYPES, Prediction, output_from_x0
from cmsched.schedules import VPSDE, Betas, Flow, Logarithmic, Point

FRAMES = ("vp", "ve", "flow")
lams = st.floats(-8.0, 8.0)
scales = st.sampled_from([0.0, 0.5, 1.0])
x0s, noises = np.array([-1.0, 0.3, 2.0, 0.0]), np.array([0.5, -1.7, 0.1, 1.0])


def perfect(kind, at, sigma_data=0.5, sigma_min=0.0):
    """What a perfect network says, from each prediction's definition."""
    a, s = at.scale * at.alpha, at.scale * at.sigma
    x = at.alpha * x0s + at.sigma * noises
    r = at.sigma / at.alpha
    low = sigma_min if kind == "consistency" else 0.0
    skip = sigma_data**2 / ((r - low) ** 2 + sigma_data**2)
    out = (r - low) * sigma_data / math.sqrt(r**2 + sigma_data**2)
    return {
        "epsilon": noises,
        "sample": x0s,
        "v_prediction": a * noises - s * x0s,
        "flow_prediction": noises - x0s,
        "score": -noises / at.sigma,
        "edm": (x0s - skip * x / at.alpha) / out,
        "consistency": (x0s - skip * x / at.alpha) / out,
    }[kind]


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("frame", FRAMES)
@given(lam=lams, sigma_data=scales)
def test_a_perfect_output_gives_x0(kind, frame, lam, sigma_data):
    at = VPSDE(frame=frame, sigma_data=sigma_data).at(lam=lam)
    prediction = Prediction(kind, sigma_min=0.0001)
    x = at.alpha * x0s + at.sigma * noises
    m = perfect(kind, at, sigma_min=0.0001)
    p, q = prediction.linear(at)
    size = 1 + math.exp(-lam)
    np.testing.assert_allclose(p * x + q * m, x0s, rtol=1e-11, atol=1e-14 * size)
    np.testing.assert_allclose(
        output_from_x0(prediction, at, x, x0s), m, rtol=1e-8, atol=1e-11 * size**2
    )


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@given(lam=lams, t=st.floats(1.0, 999.0))
def test_output_from_x0_is_the_inverse(kind, lam, t):
    """Also through a boundary condition around the estimate."""
    level = VPSDE().at(lam=lam)
    at = Point(t, level.alpha, level.sigma)
    prediction = Prediction(kind, sigma_min=0.0001, timestep_scaling=10.0)
    x = at.alpha * x0s + at.sigma * noises
    p, q = prediction.linear(at)
    skip, out = prediction.boundary(at)
    m = output_from_x0(prediction, at, x, x0s)
    size = 1 + math.exp(-lam)
    np.testing.assert_allclose(skip * x + out * (p * x + q * m), x0s, rtol=1e-11, atol=1e-13 * size)


def test_edm_scalings():
    """Table 1 of arXiv:2206.00364, in its own terms."""
    at = Logarithmic().at(ratio=3.0)
    p, q = Prediction("edm").linear(at)
    assert p == pytest.approx(0.25 / (9 + 0.25), rel=1e-15)
    assert q == pytest.approx(3 * 0.5 / math.sqrt(0.25 + 9), rel=1e-15)
    assert at.scale == pytest.approx(1 / math.sqrt(9 + 0.25), rel=1e-15)
    assert at.t == pytest.approx(math.log(3.0) / 4, rel=1e-15)


def test_velocity_of_the_variance_exploding_form():
    """x / (sigma^2 + 1) - sigma / sqrt(sigma^2 + 1) m, what networks trained in vp say there."""
    at = Betas(frame="ve", sigma_data=1.0).at(t=600.0)
    p, q = Prediction("v_prediction").linear(at)
    assert p == pytest.approx(1 / (at.sigma**2 + 1), rel=1e-14)
    assert q == pytest.approx(-at.sigma / math.sqrt(at.sigma**2 + 1), rel=1e-14)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@given(t=st.integers(0, 999))
def test_a_frame_is_only_a_frame(kind, t):
    """A network trained in vp gives the same x0 from the same input in every frame."""
    estimates = []
    for frame, data in (("vp", 0.0), ("vp", 1.0), ("ve", 1.0), ("flow", 1.0)):
        at = Betas(frame=frame, sigma_data=data).at(t=float(t))
        p, q = Prediction(kind).linear(at)
        u = at.alpha * x0s + at.sigma * noises
        estimates.append(p * u + q * perfect(kind, at))
        # the network's input is the same number
        np.testing.assert_allclose(at.scale * u, at.scale * at.alpha * (x0s + at.ratio * noises))
    for other in estimates:
        np.testing.assert_allclose(other, x0s, rtol=1e-10, atol=1e-12 * (1 + at.ratio))


@given(low=st.floats(1e-4, 0.1), data=st.floats(0.1, 2.0))
def test_consistency_boundary_condition(low, data):
    """c_skip = 1 and c_out = 0 at sigma_min: there the function is the identity."""
    at = Logarithmic(factor=250.0).at(ratio=low)
    assert Prediction("consistency", sigma_data=data, sigma_min=low).linear(at) == (1.0, 0.0)


def test_lcm_boundary_condition():
    """c_skip = 1 and c_out = 0 at t = 0, in the paper's terms elsewhere."""
    prediction = Prediction(timestep_scaling=10.0)
    assert prediction.boundary(Point(0.0, 0.9, 0.1)) == (1.0, 0.0)
    skip, out = prediction.boundary(Point(7.0, 0.9, 0.1))
    assert skip == pytest.approx(0.25 / (70.0**2 + 0.25), rel=1e-14)
    assert out == pytest.approx(70.0 / math.sqrt(70.0**2 + 0.25), rel=1e-14)
    assert Prediction().boundary(Point(7.0, 0.9, 0.1)) == (0.0, 1.0)


@pytest.mark.parametrize("kind", ["epsilon", "score", "edm", "consistency"])
def test_nothing_is_known_of_x0_at_alpha_zero(kind):
    for at in (Flow().at(sigma=1.0), Betas(rescale_betas_zero_snr=True).at(t=999)):
        with pytest.raises(ValueError, match=f"'{kind}' does not determine x0 .*v_prediction"):
            Prediction(kind).linear(at)


@pytest.mark.parametrize("kind", ["sample", "v_prediction", "flow_prediction"])
def test_these_know_x0_at_alpha_zero(kind):
    at = Flow().at(sigma=1.0)
    p, q = Prediction(kind).linear(at)
    m = {"sample": x0s, "v_prediction": -x0s, "flow_prediction": noises - x0s}[kind]
    np.testing.assert_allclose(p * noises + q * m, x0s, rtol=1e-15)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow_prediction", "edm"])
def test_no_output_makes_an_estimate_at_sigma_zero(kind):
    at = VPSDE().point(0.0, 0.0)
    assert Prediction(kind).linear(at) == (1.0, 0.0)
    with pytest.raises(ValueError, match=f"does not depend on the {kind} output"):
        output_from_x0(Prediction(kind), at, x0s, x0s)


def test_projection_needs_an_array_of_its_own():
    assert not Prediction().projects
    assert Prediction(clip=1.0).projects
    assert Prediction(threshold=(0.995, 1.5)).projects


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"type": "epsilom"}, ValueError, "did you mean 'epsilon'"),
        ({"type": ["epsilon"]}, ValueError, "prediction_type"),
        ({"clip": -1.0}, ValueError, "clip"),
        ({"clip": 0.0}, ValueError, "clip must be positive"),
        ({"clip": "1"}, TypeError, "clip must be a number"),
        ({"threshold": (1.5, 1.0)}, ValueError, "threshold"),
        ({"sigma_data": 0.0}, ValueError, "sigma_data"),
        ({"sigma_min": -1.0}, ValueError, "sigma_min"),
    ],
)
def test_errors(fields, kind, text):
    with pytest.raises(kind, match=text):
        Prediction(**fields)


def test_plain_data():
    prediction = Prediction("edm", threshold=(0.9, 2.0), sigma_min=0.1, timestep_scaling=10.0)
    assert Prediction(**prediction.to_dict()) == prediction
