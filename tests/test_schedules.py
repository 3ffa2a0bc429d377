"""Noise schedules against closed forms, and multistep weights against fifty digits."""

import json
import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cmsched
from cmsched.samplers.formulas import differences, phi_2, phi_3, weights
from cmsched.schedules import (
    BETA_SCHEDULES,
    SCHEDULES,
    VESDE,
    VPSDE,
    Betas,
    Cosine,
    Flow,
    Identity,
    Logarithmic,
    Point,
    Schedule,
    TrigFlow,
    betas,
    make_schedule,
    register,
    rescale_zero_terminal_snr,
)

pytestmark = pytest.mark.host

FRAMES = ("vp", "ve", "flow", "trig")
CONTINUOUS = [VPSDE, Flow, VESDE, Logarithmic, Identity, Cosine, TrigFlow]
levels = st.floats(-7.0, 7.0)  # lam


def formula(name, i, count, start, end):
    """Beta i of a named schedule, in plain Python."""

    def bar(t):
        if name == "exp":
            return math.exp(-12 * t)
        if name == "squaredcos_cap_v2":
            return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        sign = 1 if t <= 0.5 else -1
        snr = math.exp(-0.5 * sign * math.log(1 - 2 * abs(0.5 - t) + 1e-6))
        return math.sqrt(snr / (1 + snr))

    part = i / (count - 1)
    if name == "linear":
        return start + part * (end - start)
    if name == "scaled_linear":
        return (math.sqrt(start) + part * (math.sqrt(end) - math.sqrt(start))) ** 2
    if name == "sigmoid":
        return start + (end - start) / (1 + math.exp(6 - 12 * part))
    return min(1 - bar((i + 1) / count) / bar(i / count), 0.999)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (0.9998999834060669, 0.9877102971076965, 0.002175288274884224, 4.035830352222547e-05)),
        (
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
            (0.9991499781608582, 0.971798837184906, 0.044954925775527954, 0.00466009508818388),
        ),
        (
            {"beta_schedule": "squaredcos_cap_v2"},
            (0.9999586939811707, 0.9964657425880432, 0.11499975621700287, 2.4287349909002387e-09),
        ),
    ],
    ids=["linear", "scaled_linear", "squaredcos_cap_v2"],
)
def test_tables_of_float32(options, expected):
    """alpha_bar as diffusers 0.42.1 prints it, of float32 betas and of products rounded one by one.

    Levels are of float64 from there on.
    """
    single = Betas(**options, single=True)
    assert single.alphas_cumprod[[0, 30, 777, 999]].tolist() == list(expected)
    assert single.at(t=777.0).alpha ** 2 == pytest.approx(expected[2], rel=1e-14)
    exact = Betas(**options).alphas_cumprod
    np.testing.assert_allclose(single.alphas_cumprod, exact, rtol=1e-4)
    assert not np.array_equal(single.alphas_cumprod, exact)


def test_tables_of_float32_that_reach_the_ends():
    """Where nothing is left of alpha_bar, or of 1 - alpha_bar, levels are finite or say so."""
    steep = Betas(beta_end=0.3, single=True)
    assert steep.alphas_cumprod[-1] == 0.0
    assert steep.at(t=999.0).alpha == 0.0
    assert np.all(np.isfinite([v for table in steep.tables.values() for v in table]))
    flat = Betas(trained_betas=(1e-9, 0.1, 0.5), num_train_timesteps=3, single=True)
    assert flat.at(t=0.0).sigma == 0.0
    # log-linear between sqrt(0.1 / 0.9) and sqrt(0.55 / 0.45)
    assert flat.at(ratio=0.4).t == pytest.approx(1 + math.log(1.2) / (0.5 * math.log(11)), abs=1e-6)
    for schedule in (steep, Betas(beta_end=0.3, single=True, rescale_betas_zero_snr=True)):
        assert np.all(np.isfinite(schedule.betas))


@pytest.mark.parametrize("count", [2, 50, 1000])
@pytest.mark.parametrize("name", BETA_SCHEDULES)
def test_betas(name, count):
    got = betas(name, count, 0.00085, 0.012)
    assert got.dtype == np.float64
    assert got.shape == (count,)
    expected = [formula(name, i, count, 0.00085, 0.012) for i in range(count)]
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 1.0


def test_well_known_levels():
    """The first and last sigma of two families of published models."""
    latent = Betas(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert latent.ratios[0] == pytest.approx(0.0292, abs=5e-5)
    assert latent.ratios[-1] == pytest.approx(14.6146, abs=5e-5)
    assert Betas().alphas_cumprod[-1] == pytest.approx(4.0358e-5, rel=1e-4)


@pytest.mark.parametrize("name", BETA_SCHEDULES)
def test_levels_by_exact_products(name):
    """alpha_bar and the ratio keep all digits, next to 1 as well."""
    schedule = Betas(beta_schedule=name, beta_start=1e-9)
    table = betas(name, 1000, 1e-9, 0.02)
    with mpmath.workdps(40):
        bar = mpmath.mpf(1)
        for i, beta in enumerate(table.tolist()):
            bar *= 1 - mpmath.mpf(beta)
            if i in (0, 1, 10, 500, 999):
                ratio = mpmath.sqrt((1 - bar) / bar)
                assert abs(schedule.alphas_cumprod[i] / bar - 1) < 1e-12
                assert abs(schedule.ratios[i] / ratio - 1) < 1e-12
    assert np.all(np.diff(schedule.ratios) > 0)


@pytest.mark.parametrize("name", BETA_SCHEDULES)
def test_zero_terminal_snr(name):
    """Algorithm 1 of arXiv:2305.08891, with forty digits."""
    log_bar = Betas(beta_schedule=name).log_alphas_cumprod
    got = rescale_zero_terminal_snr(log_bar)
    assert got[0] == log_bar[0]
    assert got[-1] == -math.inf
    assert np.all(np.diff(got) < 0)
    with mpmath.workdps(40):
        root = [mpmath.exp(mpmath.mpf(v) / 2) for v in log_bar.tolist()]
        for i in (0, 1, 2, 300, 900, 998):
            moved = (root[i] - root[-1]) * root[0] / (root[0] - root[-1])
            assert abs(mpmath.mpf(float(got[i])) - 2 * mpmath.log(moved)) < 1e-11 * abs(
                float(got[i])
            )


def test_zero_terminal_snr_schedule():
    plain, zero = Betas(), Betas(rescale_betas_zero_snr=True)
    assert zero.alphas_cumprod[0] == plain.alphas_cumprod[0]
    assert zero.alphas_cumprod[-1] == 0.0
    last = zero.at(t=999)
    assert (last.alpha, last.sigma, last.lam, last.ratio) == (0.0, 1.0, -math.inf, math.inf)
    tiny = Betas(rescale_betas_zero_snr=True, terminal=2.0**-24, frame="ve")
    assert tiny.at(t=999).sigma == pytest.approx(math.sqrt(2.0**24 - 1), rel=1e-12)
    with pytest.raises(ValueError, match=r"infinite at t=999 in the ve frame .*terminal"):
        Betas(rescale_betas_zero_snr=True, frame="ve").at(t=999)
    with pytest.raises(ValueError, match="at least two"):
        Betas(rescale_betas_zero_snr=True, num_train_timesteps=1)


@given(w=st.floats(0.0, 1.0))
def test_the_last_cell_at_zero_terminal_snr(w):
    """alpha is linear where the ratio is infinite at one end, and time is its inverse."""
    schedule = Betas(rescale_betas_zero_snr=True)
    low, at = schedule.at(t=998), schedule.at(t=998 + w)
    part = (998 + w) - 998
    assert at.alpha == pytest.approx((1 - part) * low.alpha, rel=1e-9, abs=1e-15)
    if at.alpha > 0:
        assert schedule.at(ratio=at.ratio).t == pytest.approx(998 + w, abs=1e-9)


@given(t=st.floats(0.0, 999.0))
def test_betas_between_integers(t):
    """Time to ratio is linear in the ratio, ratio to time linear in its logarithm."""
    schedule = Betas()
    low = min(int(t), 998)
    a, b = (float(schedule.ratios[k]) for k in (low, low + 1))
    ratio = a + (t - low) * (b - a)
    assert schedule.at(t=t).ratio == pytest.approx(ratio, rel=1e-12)
    w = (math.log(ratio) - math.log(a)) / (math.log(b) - math.log(a))
    assert schedule.at(ratio=ratio).t == pytest.approx(low + w, abs=1e-6)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("name", BETA_SCHEDULES)
def test_integers_are_their_own_inverse(name, rescale):
    schedule = Betas(beta_schedule=name, rescale_betas_zero_snr=rescale)
    for t in (0, 1, 17, 500, 998, 999):
        point = schedule.at(t=t)
        assert schedule.at(ratio=point.ratio).t == pytest.approx(t, abs=1e-6)


def test_beyond_the_table():
    """Levels below and above the table are as given; their time is the nearest of the table."""
    schedule = Betas()
    low, high = schedule.at(ratio=1e-6), schedule.at(ratio=1e6)
    assert (low.t, high.t) == (0.0, 999.0)
    assert low.ratio == pytest.approx(1e-6, rel=1e-14)
    assert schedule.point(0.0, 0.0).lam == math.inf
    assert Betas(num_train_timesteps=1).at(ratio=3.0).t == 0.0
    for t in (-1, 999.5, 1000, math.nan):
        with pytest.raises(ValueError, match=r"outside the 1000 training steps 0 \.\.\. 999"):
            schedule.at(t=t)


@pytest.mark.parametrize("curve", CONTINUOUS)
@pytest.mark.parametrize("frame", FRAMES)
@given(lam=levels, sigma_data=st.sampled_from([0.0, 0.5]))
def test_frames(curve, frame, lam, sigma_data):
    """What the frames promise of alpha and sigma, at any level."""
    if curve is TrigFlow or frame == "trig":
        sigma_data = sigma_data or 2.0
    point = curve(frame=frame, sigma_data=sigma_data).at(lam=lam)
    promised = {
        "vp": point.alpha**2 + point.sigma**2,
        "ve": point.alpha,
        "flow": point.alpha + point.sigma,
        "trig": point.alpha**2 + (point.sigma / (sigma_data or 1.0)) ** 2,
    }[frame]
    assert promised == pytest.approx(1.0, rel=1e-15)
    assert point.lam == pytest.approx(lam, abs=1e-14)
    assert point.ratio == pytest.approx(math.exp(-lam), rel=1e-14)
    variance = (point.alpha * sigma_data) ** 2 + point.sigma**2
    assert point.scale**2 == pytest.approx(1 / variance if sigma_data else 1.0, rel=1e-14)
    assert all(type(v) is float for v in (point.t, point.alpha, point.sigma, point.scale))


@pytest.mark.parametrize("curve", CONTINUOUS)
@pytest.mark.parametrize("frame", FRAMES)
@given(lam=st.floats(-3.9, 4.5))
def test_round_trips(curve, frame, lam):
    """A level may be named by its time, sigma, lam or ratio."""
    schedule = curve(frame=frame, sigma_data=0.5)
    point = schedule.at(lam=lam)
    for name in ("t", "sigma", "lam", "ratio"):
        again = schedule.at(**{name: getattr(point, name)})
        assert again.ratio == pytest.approx(point.ratio, rel=1e-10), name
        assert again.t == pytest.approx(point.t, rel=1e-9, abs=1e-10), name


@given(t=st.floats(0.0, 1.0))
def test_vp_sde(t):
    """alpha = exp(-integral of beta / 2), by quadrature."""
    from scipy.integrate import quad

    point = VPSDE(beta_min=0.2, beta_max=15.0).at(t=t)
    area = t * quad(lambda s: 0.2 + s * t * (15.0 - 0.2), 0, 1)[0]
    assert point.alpha == pytest.approx(math.exp(-area / 2), rel=1e-12)
    assert point.sigma**2 == pytest.approx(-math.expm1(-area), rel=1e-10, abs=1e-300)
    assert VPSDE(beta_min=0.2, beta_max=15.0).at(ratio=point.ratio).t == pytest.approx(t, abs=1e-12)


def test_vp_sde_with_equal_betas():
    assert VPSDE(beta_min=3.0, beta_max=3.0).at(t=0.5).alpha == pytest.approx(math.exp(-0.75))
    assert VPSDE(beta_min=3.0, beta_max=3.0).at(lam=0.0).t == pytest.approx(math.log(2) / 3)


@given(t=st.floats(0.0, 1.0))
def test_ve_sde(t):
    point = VESDE(sigma_min=0.02, sigma_max=90.0).at(t=t)
    assert point.sigma == pytest.approx(0.02 ** (1 - t) * 90.0**t, rel=1e-12)
    assert VESDE().at(ratio=1e-5).t == 0.0


@given(t=st.floats(0.0, 1000.0))
def test_flow(t):
    point = Flow().at(t=t)
    assert point.sigma == pytest.approx(t / 1000, rel=1e-14, abs=1e-300)
    assert point.alpha == pytest.approx(1 - t / 1000, abs=1e-15)
    assert Flow().at(sigma=1.0) == Point(1000.0, 0.0, 1.0)
    assert Flow().at(t=1000.0) == Point(1000.0, 0.0, 1.0)


@given(t=st.floats(0.0, 1.0))
def test_cosine(t):
    """cos and sin of pi t / 2, with all digits of alpha next to the end."""
    point = Cosine().at(t=t)
    with mpmath.workdps(40):
        angle = mpmath.pi * mpmath.mpf(t) / 2
        assert point.alpha == pytest.approx(float(mpmath.cos(angle)), rel=1e-14)
        assert point.sigma == pytest.approx(float(mpmath.sin(angle)), rel=1e-14)
    assert Cosine().at(ratio=point.ratio).t == pytest.approx(t, rel=1e-14)


@given(t=st.floats(0.0, 1.57), data=st.floats(0.1, 3.0))
def test_trigflow(t, data):
    """x = cos(t) x0 + sin(t) z where z has the data's spread; the network sees x / sigma_data."""
    point = TrigFlow(sigma_data=data).at(t=t)
    assert point.alpha == pytest.approx(math.cos(t), rel=1e-9)
    assert point.sigma == pytest.approx(data * math.sin(t), rel=1e-12)
    assert point.scale == pytest.approx(1 / data, rel=1e-12)
    assert TrigFlow(sigma_data=data).at(sigma=point.sigma).t == pytest.approx(t, abs=1e-7)
    for frame in ("vp", "ve", "flow"):  # the same network input in every frame
        other = TrigFlow(frame=frame, sigma_data=data).at(t=t)
        for name in ("alpha", "sigma"):
            seen = [p.scale * getattr(p, name) for p in (point, other)]
            assert seen[0] == pytest.approx(seen[1], rel=1e-12)


def test_a_quarter_turn():
    """All noise, also where pi / 2 is written with five decimals."""
    for schedule, t in ((Cosine(), 1.0), (TrigFlow(), math.pi / 2), (TrigFlow(), 1.5708)):
        at = schedule.at(t=t)
        assert (at.alpha, at.sigma) == (0.0, schedule.top)
        assert schedule.at(sigma=schedule.top).t == pytest.approx(t, abs=1e-5)
    assert TrigFlow().at(sigma=0.5).scale == 2.0


@pytest.mark.parametrize("factor", [0.25, 250.0])
@given(ratio=st.floats(1e-4, 1e4))
def test_logarithmic(factor, ratio):
    point = Logarithmic(factor=factor).at(ratio=ratio)
    assert point.t == pytest.approx(factor * math.log(ratio), rel=1e-12, abs=1e-12)
    assert Logarithmic(factor=factor).at(t=point.t).sigma == pytest.approx(ratio, rel=1e-11)
    assert Logarithmic().at(ratio=0.0).t == pytest.approx(0.25 * math.log(1e-44))


# plain data


@pytest.mark.parametrize(
    "schedule",
    [
        Betas(),
        Betas(frame="ve", sigma_data=1.0, rescale_betas_zero_snr=True, terminal=2.0**-24),
        Betas(trained_betas=(0.1, 0.2, 0.3), num_train_timesteps=3),
        Flow(num_train_timesteps=50),
        Flow(rising=True),
        Logarithmic(factor=250.0, sigma_data=0.7),
        VPSDE(beta_max=17.0, frame="flow"),
        VESDE(sigma_max=348.0),
        Cosine(frame="flow"),
        TrigFlow(sigma_data=0.7),
    ],
    ids=repr,
)
def test_plain_data(schedule):
    again = make_schedule(**json.loads(json.dumps(schedule.to_dict())))
    assert again == schedule
    assert type(again) is type(schedule)
    assert hash(again) == hash(schedule)


def test_every_schedule_is_tested_here():
    assert set(SCHEDULES.values()) == {Betas, *CONTINUOUS}


def test_by_name():
    assert make_schedule("scaled_linear", beta_end=0.012) == Betas(
        beta_schedule="scaled_linear", beta_end=0.012
    )
    assert make_schedule("flow") == Flow()


class Own(Schedule):
    """A schedule that nobody registered."""

    def ratio_at(self, t):
        return t

    def time_at(self, ratio):
        return ratio


def test_an_own_schedule():
    assert Own().at(t=2.0).ratio == pytest.approx(2.0)
    with pytest.raises(TypeError, match=r"Own has no name: .*schedules\.register"):
        Own().to_dict()
    with pytest.raises(TypeError, match="Schedule has no curve"):
        Schedule().at(t=2.0)


@pytest.fixture
def registered():
    """A name that stands for a schedule as long as the test runs."""
    register("own", Own)
    yield "own"
    del SCHEDULES["own"]


def test_register(registered):
    schedule = make_schedule(registered, frame="flow")
    assert type(schedule) is Own
    assert make_schedule(**schedule.to_dict()) == schedule
    plan = cmsched.Scheduler(schedule=registered, spacing="karras").plan(5)
    assert plan.grid.points[0].t == pytest.approx(1.0)
    assert cmsched.Plan.from_json(plan.to_json()) == plan
    register(registered, Own)  # as a notebook does in its second run
    for name in ("flow", "betas", "scaled_linear"):
        with pytest.raises(ValueError, match="is a schedule known already"):
            register(name, Own)
    for name in (3, ""):
        with pytest.raises(TypeError, match="give a string, which stands for the schedule"):
            register(name, Own)
    for cls in (Own(), dict, None):
        with pytest.raises(TypeError, match="is no schedule: pass a subclass"):
            register("other", cls)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: make_schedule("scaled_linera"), ValueError, "did you mean 'scaled_linear'"),
        (lambda: make_schedule("flow", shfit=3.0), ValueError, "'flow' has no option 'shfit'"),
        (lambda: make_schedule("vp_sde", beta_mim=3.0), ValueError, "did you mean 'beta_min'"),
        (lambda: make_schedule("betas", trained_betas=[0.1, 1.5]), ValueError, r"\(0, 1\)"),
        (lambda: make_schedule("betas", trained_betas=[]), ValueError, "at least two"),
        (
            lambda: make_schedule("betas", trained_betas=[0.1, 0.2]),
            ValueError,
            "num_train_timesteps=2",
        ),
        (lambda: Flow(frame="flwo"), ValueError, "vp, ve, flow, trig; did you mean 'flow'"),
        (lambda: Flow(sigma_data=-1.0), ValueError, "sigma_data"),
        (lambda: Flow(num_train_timesteps=0), ValueError, "at least 1"),
        (lambda: Betas(num_train_timesteps=10.0), TypeError, "integer, got 10.0"),
        (lambda: Betas(num_train_timesteps=True), TypeError, "integer, got True"),
        (lambda: Betas(beta_schedule="cosine"), ValueError, "beta_schedule='cosine'"),
        (lambda: Betas(beta_end=1.5).ratios, ValueError, "betas must .* to 1.5"),
        (lambda: Betas(beta_start=-1e-4).at(t=3), ValueError, "betas must lie in"),
        (lambda: VPSDE(beta_min=0.0), ValueError, "beta_min and beta_max"),
        (lambda: VPSDE().at(t=-0.1), ValueError, "below 0"),
        (lambda: VESDE(sigma_min=2.0, sigma_max=1.0), ValueError, "sigma_min and sigma_max"),
        (lambda: Flow().at(t=1000.5), ValueError, r"outside \[0, 1000\]"),
        (lambda: Flow().at(sigma=1.5), ValueError, r"\[0, 1\] in the flow frame"),
        (lambda: Flow().at(), TypeError, "takes exactly one"),
        (lambda: Flow().at(t=1.0, lam=0.0), TypeError, "exactly one"),
        (lambda: VESDE().at(ratio=-1.0), ValueError, "at least 0"),
        (lambda: VESDE().at(lam=-math.inf), ValueError, "VESDE never reaches"),
        (lambda: VPSDE().at(ratio=math.inf), ValueError, "VPSDE never reaches alpha = 0"),
        (lambda: VESDE(frame="vp").at(ratio=math.inf), ValueError, "never reaches alpha = 0"),
        (lambda: Cosine().at(t=1.1), ValueError, r"outside \[0, 1\]"),
        (lambda: TrigFlow().at(t=-0.1), ValueError, r"outside \[0, 1.5708\]"),
        (lambda: TrigFlow().at(sigma=0.6), ValueError, r"\[0, 0.5\] in the trig frame"),
        (lambda: TrigFlow(frame="vp", sigma_data=0.0), ValueError, "TrigFlow needs a sigma_data"),
        (lambda: TrigFlow(sigma_data=0.0), ValueError, "trig. needs a sigma_data above 0; 0.5"),
        (lambda: Flow(frame="trig"), ValueError, "sigma_data above 0"),
        (lambda: Point(0.0, math.nan, 1.0), ValueError, "finite"),
        (lambda: Point(0.0, 0.0, 0.0), ValueError, "both 0"),
    ],
)
def test_errors(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


def test_points_hold_python_floats():
    """NumPy's would divide by zero in silence."""
    point = Point(np.float64(1), np.float32(0.5), np.float64(0.5))
    assert all(type(v) is float for v in (point.t, point.alpha, point.sigma, point.scale))
    with pytest.raises(ZeroDivisionError):
        VPSDE().point(np.float64(0.0), 0).alpha / VPSDE().point(np.float64(0.0), 0).sigma


# weights of the multistep solvers


def exact_weights(k):
    """Integrals over the step of e^(k (u - 1)) k times 1, u, u^2, in fifty digits."""
    with mpmath.workdps(50):
        k = mpmath.mpf(k)
        f = -mpmath.expm1(-k)
        first = 1 - f / k
        return f, first, 1 - 2 * first / k


STEPS = [s * 10.0**e for e in range(-8, 3) for s in (1.0, 2.7, -1.0, -3.3)] + [
    0.4999999, 0.5, 0.5000001, -0.4999999, -0.5, -0.5000001, 40.0, 700.0, -40.0, -700.0,
]  # fmt: skip


@pytest.mark.parametrize("k", STEPS)
def test_weights_keep_their_digits(k):
    """The exact third-order weights are the integrals of 1, u and u^2."""
    expected = exact_weights(k)
    for got, value in zip(weights(3, k, "heun", "exact"), expected, strict=True):
        assert abs(got / value - 1) < 1e-13
    assert abs(phi_2(k) / expected[1] - 1) < 1e-13
    assert abs(-2 * phi_3(k) / expected[2] - 1) < 1e-13


@pytest.mark.parametrize("k", [0.01, 0.3, 2.0, -0.7])
def test_weights_are_the_integrals(k):
    """The closed forms above, by quadrature."""
    for power, value in enumerate(exact_weights(k)):
        with mpmath.workdps(30):
            area = mpmath.quad(lambda u, p=power: k * mpmath.exp(k * (u - 1)) * u**p, [0, 1])
        assert abs(area / value - 1) < 1e-20


@pytest.mark.parametrize("k", [0.05, 1.0, -0.4])
def test_weights_by_option(k):
    """Printed weights: midpoint halves the first, published the last; the reference's sign."""
    f, first, second = (float(v) for v in exact_weights(k))
    assert weights(1, k) == pytest.approx((f,))
    assert weights(2, k, "midpoint") == pytest.approx((f, f / 2))
    assert weights(2, k, "heun") == pytest.approx((f, first))
    assert weights(3, k, third_order="published") == pytest.approx((f, first, second / 2))
    assert weights(3, k, third_order="reference") == pytest.approx((f, first, second / 2 - 1))


@given(
    c=st.tuples(*[st.floats(-3, 3)] * 3),
    gaps=st.tuples(st.floats(0.1, 2), st.floats(0.1, 2), st.floats(0.1, 2)),
)
def test_differences_of_a_parabola(c, gaps):
    """Value, slope and half the bend of m(lam) = c0 + c1 lam + c2 lam^2, in units of the step."""
    h, g1, g2 = gaps
    nodes = [(lam, c[0] + c[1] * lam + c[2] * lam**2) for lam in (0.0, -g1, -g1 - g2)]
    assert differences(nodes, h) == pytest.approx((c[0], c[1] * h, c[2] * h * h), abs=1e-8)
    line = [(lam, c[0] + c[1] * lam) for lam in (0.0, -g1)]
    assert differences(line, h) == pytest.approx((c[0], c[1] * h), abs=1e-9)
    assert differences(nodes[:1], h) == (c[0],)
