"""What the network's output means: a perfect network's output maps back to x0."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cmsched
from cmsched import convert
from cmsched.predictions import PREDICTION_TYPES, Prediction, output_from_x0
from cmsched.schedules import VPSDE, Betas, Cosine, Flow, Logarithmic, Point, TrigFlow

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
        "data_flow_prediction": x0s - noises,
        "score": -noises / at.sigma,
        "scaled_score": -noises,
        "trigflow": trigflow(at, sigma_data),
        "edm": (x0s - skip * x / at.alpha) / out,
        "edm_v": (skip * x / at.alpha - x0s) / out,
        "consistency": (x0s - skip * x / at.alpha) / out,
    }[kind]


def trigflow(at, data):
    """cos(t) z - sin(t) x0, z = data * eps, at the t where tan(t) z / x0 has the level's ratio."""
    t = math.atan2(at.sigma, data * at.alpha)
    return math.cos(t) * data * noises - math.sin(t) * x0s


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


@given(t=st.floats(0.0, 1.57), data=st.floats(0.1, 2.0))
def test_trigflow_in_its_own_coordinates(t, data):
    """x0 = cos(t) x - sin(t) m (arXiv:2410.11081, eq. 3, with m = sigma_data F)."""
    p, q = Prediction("trigflow", sigma_data=data).linear(TrigFlow(sigma_data=data).at(t=t))
    assert p == pytest.approx(math.cos(t), rel=1e-9)
    assert q == pytest.approx(-math.sin(t), rel=1e-12)


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


@pytest.mark.parametrize("kind", ["epsilon", "score", "scaled_score"])
def test_nothing_is_known_of_x0_at_alpha_zero(kind):
    for at in (Flow().at(sigma=1.0), Betas(rescale_betas_zero_snr=True).at(t=999)):
        with pytest.raises(ValueError, match=f"'{kind}' does not determine x0 .*v_prediction"):
            Prediction(kind).linear(at)


KNOWING = {
    "sample": x0s,
    "v_prediction": -x0s,
    "flow_prediction": noises - x0s,
    "data_flow_prediction": x0s - noises,
    "edm": x0s / 0.5,  # c_skip = 0 and c_out = sigma_data at infinite noise
    "edm_v": -x0s / 0.5,
    "consistency": x0s / 0.5,
    "trigflow": -x0s,
}


def test_every_prediction_at_alpha_zero():
    assert {*KNOWING, "epsilon", "score", "scaled_score"} == set(PREDICTION_TYPES)


@pytest.mark.parametrize("kind", KNOWING)
def test_these_know_x0_at_alpha_zero(kind):
    at = Flow().at(sigma=1.0)
    p, q = Prediction(kind).linear(at)
    np.testing.assert_allclose(p * noises + q * KNOWING[kind], x0s, rtol=1e-15)


@pytest.mark.parametrize("kind", [k for k in PREDICTION_TYPES if k != "consistency"])
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


# conversions

CLOSED = {
    ("epsilon", "sample"): lambda m, x, a, s: (x - s * m) / a,
    ("epsilon", "v_prediction"): lambda m, x, a, s: (m - s * x) / a,
    ("epsilon", "flow_prediction"): lambda m, x, a, s: ((a + s) * m - x) / a,
    ("epsilon", "score"): lambda m, x, a, s: -m / s,
    ("sample", "epsilon"): lambda m, x, a, s: (x - a * m) / s,
    ("sample", "v_prediction"): lambda m, x, a, s: (a * x - m) / s,
    ("sample", "score"): lambda m, x, a, s: (a * m - x) / s**2,
    ("v_prediction", "sample"): lambda m, x, a, s: a * x - s * m,
    ("v_prediction", "epsilon"): lambda m, x, a, s: s * x + a * m,
    ("score", "sample"): lambda m, x, a, s: (x + s**2 * m) / a,  # Tweedie's formula
    ("flow_prediction", "sample"): lambda m, x, a, s: (x - s * m) / (a + s),
    ("flow_prediction", "epsilon"): lambda m, x, a, s: (x + a * m) / (a + s),
}
SCHEDULES = [VPSDE(), Betas(), Cosine(), Flow(), Logarithmic(), VPSDE(frame="ve", sigma_data=1.0)]


@pytest.mark.parametrize(("source", "target"), CLOSED)
@given(t=st.floats(0.05, 0.95), m=st.floats(-3, 3), x=st.floats(-3, 3))
def test_conversions_in_closed_form(source, target, t, m, x):
    at = Cosine().at(t=t)
    expected = CLOSED[source, target](m, x, at.alpha, at.sigma)
    got = convert(np.array([m]), np.array([x]), at, source, target)
    assert got[0] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("source", PREDICTION_TYPES)
@pytest.mark.parametrize("target", PREDICTION_TYPES)
@given(lam=st.floats(-5.0, 5.0), schedule=st.sampled_from(SCHEDULES))
def test_every_conversion_there_and_back(source, target, lam, schedule):
    """What a perfect network of one kind says, as what one of the other kind would say."""
    at = schedule.at(lam=lam)
    x = at.alpha * x0s + at.sigma * noises
    m, expected = (perfect(kind, at) for kind in (source, target))
    got = convert(m, x, at, source, target)
    size = (1 + math.exp(abs(lam))) ** 2
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-13 * size)
    np.testing.assert_allclose(convert(got, x, at, target, source), m, rtol=1e-9, atol=1e-12 * size)


DTYPES = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per", ["point", "number", "row", "element"])
def test_conversions_on_arrays(xp, dtype, per):
    """One level for all, one per sample or one per element; dtype and framework are kept."""
    if not hasattr(xp.xp, dtype):
        return
    rng = np.random.default_rng(2)
    m, x = rng.normal(size=(2, 3, 4, 5))
    times = {"row": [0.3, 0.5, 0.9], "element": rng.uniform(0.2, 0.8, (3, 4, 5))}.get(per, 0.4)
    angle = np.asarray(times) * math.pi / 2
    alpha, sigma = np.cos(angle), np.sin(angle)
    if per == "point":
        at = Cosine().at(t=0.4)
    else:
        at = tuple(xp.asarray(level, dtype) for level in (alpha, sigma))
    output, sample = xp.asarray(m, dtype), xp.asarray(x, dtype)
    if per == "row":
        alpha, sigma = alpha[:, None, None], sigma[:, None, None]
    for (source, target), formula in CLOSED.items():
        got = convert(output, sample, at, source, target)
        assert got.dtype == sample.dtype
        assert type(got) is type(sample)
        expected = formula(m, x, alpha, sigma)
        error = np.max(np.abs(xp.numpy(got) - expected)) / np.max(np.abs(expected))
        assert error < DTYPES[dtype], (source, target, error)


def test_conversions_with_their_own_scalings():
    """EDM's network (arXiv:2206.00364) and a TrigFlow one are the same but for a sign and scale."""
    at, x = Logarithmic().at(ratio=3.0), np.array([0.4, -2.0])
    m = np.array([0.3, 0.9])
    for data in (0.5, 1.3):
        edm, trig = (Prediction(kind, sigma_data=data) for kind in ("edm", "trigflow"))
        np.testing.assert_allclose(convert(m, x, at, edm, trig), -data * m, rtol=1e-13)
    assert np.any(convert(m, x, at, "edm", "sample") != convert(m, x, at, edm, "sample"))


x = np.ones((2, 3))
AT = VPSDE().at(t=0.5)


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ((x, x, AT, "epsilom", "sample"), ValueError, "did you mean 'epsilon'"),
        ((x, x, AT, "epsilon", "w"), ValueError, "prediction_type='w' is not one of"),
        ((x, x[:1], AT, "epsilon", "sample"), ValueError, "output has shape"),
        ((x, [1.0], AT, "epsilon", "sample"), TypeError, "sample"),
        ((x.astype(int), x, AT, "epsilon", "sample"), TypeError, "output has dtype int"),
        ((x, x, (0.5, 0.5), "epsilon", "sample"), TypeError, "alpha"),
        ((x, x, (x[:, 0], None), "epsilon", "sample"), TypeError, "sigma"),
        ((x, x, (x[:, :2], x), "epsilon", "sample"), ValueError, r"alpha has shape \(2, 2\)"),
        ((x, x, (x[None], x), "epsilon", "sample"), ValueError, r"shape \(2,\)"),
        ((x, x, Flow().at(sigma=1.0), "epsilon", "sample"), ValueError, "where alpha is 0"),
        ((x, x, VPSDE().point(0, 0), "sample", "epsilon"), ValueError, "where sigma is 0"),
        ((x, x, VPSDE().point(0, 0), "epsilon", "score"), ValueError, "where sigma is 0"),
    ],
)
def test_conversion_errors(arguments, kind, text):
    with pytest.raises(kind, match=text):
        convert(*arguments)


def test_a_conversion_to_itself_is_the_output():
    """Also where it says nothing else."""
    for at in (Flow().at(sigma=1.0), VPSDE().point(0.0, 0.0)):
        for kind in PREDICTION_TYPES:
            assert convert(2 * x, x, at, kind, kind).tolist() == (2 * x).tolist()


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@given(lam=lams, schedule=st.sampled_from(SCHEDULES))
def test_the_noise_of_an_output(kind, lam, schedule):
    at = schedule.at(lam=lam)
    x = at.alpha * x0s + at.sigma * noises
    p, q = Prediction(kind).noise(at)
    size = (1 + math.exp(abs(lam))) ** 2
    np.testing.assert_allclose(p * x + q * perfect(kind, at), noises, atol=1e-13 * size)


def test_the_noise_at_the_ends():
    """At alpha = 0 it is the sample; at sigma = 0 an output may still know it."""
    all_noise, clean = Flow().at(sigma=1.0), VPSDE().point(0.0, 0.0)
    for kind in KNOWING:
        p, q = Prediction(kind).noise(all_noise)
        np.testing.assert_allclose(p * noises + q * KNOWING[kind], noises, atol=1e-15)
    assert Prediction("epsilon").noise(clean) == (0.0, 1.0)
    assert Prediction("score").noise(clean) == (0.0, 0.0)
    with pytest.raises(ValueError, match=r"'sample' does not determine eps .* sigma is 0"):
        Prediction("sample").noise(clean)


def test_conversions_inside_jit(xp):
    """Levels may be unknown when the program is compiled, and the result is differentiable."""
    if xp.backend != "jax":
        return
    import jax

    alpha, sigma, m, x = (xp.asarray([v, v]) for v in (0.6, 0.8, 0.3, -0.5))

    def v_of(m, alpha, sigma):
        return convert(m, x, (alpha, sigma), "epsilon", "v_prediction")

    got = jax.jit(v_of)(m, alpha, sigma)
    np.testing.assert_allclose(xp.numpy(got), (0.3 + 0.8 * 0.5) / 0.6, rtol=1e-12)
    slope = jax.grad(lambda m: v_of(m, alpha, sigma).sum())(m)
    np.testing.assert_allclose(xp.numpy(slope), 1 / 0.6, rtol=1e-12)


def test_the_general_scheduler_has_the_boundary_of_a_consistency_model():
    """At its sigma_min, as the class of these models has it."""
    ends = {"sigma_min": 0.002, "sigma_max": 80.0}
    general = cmsched.Scheduler(
        sampler="consistency",
        prediction_type="consistency",
        schedule="identity",
        spacing="karras",
        **ends,
    )
    own = cmsched.CMStochasticIterativeScheduler(clip_denoised=False, **ends)
    assert general.prediction.sigma_min == own.prediction.sigma_min == 0.002
    assert general.prediction.boundary(general.schedule.at(sigma=0.8)) == pytest.approx(
        own.prediction.boundary(own.schedule.at(sigma=0.8))
    )
