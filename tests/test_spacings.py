"""Which points are visited: closed forms and the field's three rules."""

import itertools
import json
import math
from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import cmsched
from cmsched.checks import check_count, check_decreasing
from cmsched.grids import Grid, GridRun
from cmsched.schedules import (
    BETA_SCHEDULES,
    SCHEDULES,
    VESDE,
    VPSDE,
    Betas,
    Cosine,
    Flow,
    Logarithmic,
    make_schedule,
)
from cmsched.spacings import (
    HIGHEST,
    SHIFTS,
    SPACINGS,
    check_spacing,
    place,
    register,
    shifted,
    stretched,
    timesteps,
)

pytestmark = pytest.mark.host

TIMES = [name for name, entry in SPACINGS.items() if entry.in_time]
TIMESTEPS = [name for name in TIMES if SPACINGS[name].named]
RAMPS = {name: entry.rule for name, entry in SPACINGS.items() if not entry.in_time}
BETWEEN = [name for name in RAMPS if len(check_spacing(name, {})) == 2]  # ramps with both ends
levels = st.tuples(st.floats(0.01, 1.0), st.floats(1.5, 200.0))


def direct(spacing, n, train, extra, offset):
    """The three rules as exact fractions, before they are rounded."""
    m = n + extra
    if spacing == "linspace":
        return [Fraction((train - 1) * (m - 1 - i), max(m - 1, 1)) for i in range(n)]
    if spacing == "leading":
        return [Fraction((m - 1 - i) * (train // m) + offset) for i in range(n)]
    return [Fraction(train * (n - i), n) - 1 for i in range(n)]


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("spacing", TIMESTEPS)
@given(data=st.data(), train=st.integers(2, 1500))
def test_rules(spacing, extra, data, train):
    n = data.draw(st.integers(1, train - extra))
    offset = data.draw(st.integers(0, 3)) if spacing == "leading" else 0
    expected = direct(spacing, n, train, extra, offset)
    if n + extra == 1 and spacing == "linspace":
        expected = [train - 1]
    halves = any(abs(e - round(e)) == Fraction(1, 2) for e in expected)
    if expected[0] > train - 1:
        with pytest.raises(ValueError, match="steps_offset"):
            timesteps(spacing, n, train, extra=extra, offset=offset)
        return
    if len({round(e) for e in expected}) < n:
        with pytest.raises(ValueError, match="not all different") if not halves else nullcontext():
            timesteps(spacing, n, train, extra=extra, offset=offset)
        return
    got = timesteps(spacing, n, train, extra=extra, offset=offset)
    assert len(got) == n
    assert all(type(t) is float and t == int(t) for t in got)
    assert all(a > b for a, b in itertools.pairwise(got))
    assert 0 <= got[-1] <= got[0] <= train - 1
    # what is exactly half a step in fractions may fall on either side in floats
    assert all(abs(a - b) <= 0.5 for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        (("linspace", 5, 1000), {}, [999, 749, 500, 250, 0]),
        (("linspace", 4, 1000), {"extra": True}, [999, 749, 500, 250]),
        (("linspace", 3, 10), {"whole": False}, [9, 4.5, 0]),
        (("leading", 4, 1000), {}, [750, 500, 250, 0]),
        (("leading", 4, 1000), {"offset": 1}, [751, 501, 251, 1]),
        (("leading", 4, 1000), {"extra": True, "offset": 1}, [801, 601, 401, 201]),
        (("trailing", 4, 1000), {}, [999, 749, 499, 249]),
        (("trailing", 3, 1000), {}, [999, 666, 332]),
        (("trailing", 4, 10), {}, [9, 7, 4, 1]),  # 10, 7.5, 5, 2.5 half to even, less 1
        (("trailing", 3, 1000), {"extra": True}, [999, 666, 332]),
        (("linspace", 1, 1000), {}, [999]),
        (("linspace", 1, 1000), {"extra": True}, [999]),
        (("leading", 1, 1000), {}, [0]),
        (("leading", 1, 1000), {"extra": True}, [500]),
        (("trailing", 1, 1000), {}, [999]),
        (("linspace", 4, 1000), {"extra": True, "last": 901}, [900, 675, 450, 225]),
        (("leading", 3, 1000), {"last": 800}, [532, 266, 0]),
    ],
)
def test_printed_lists(arguments, options, expected):
    assert timesteps(*arguments, **options) == expected


@pytest.mark.parametrize("spacing", TIMESTEPS)
def test_every_training_step(spacing):
    assert timesteps(spacing, 1000, 1000) == list(range(999, -1, -1))


@pytest.mark.parametrize("spacing", TIMESTEPS)
@pytest.mark.parametrize("extra", [False, True])
def test_too_many_steps(spacing, extra):
    with pytest.raises(ValueError, match="fewer steps"):
        timesteps(spacing, 40, 30, extra=extra)


@given(ends=levels, n=st.integers(2, 60), rho=st.floats(1.0, 10.0))
def test_karras(ends, n, rho):
    """Equation 5 of arXiv:2206.00364."""
    low, high = ends
    got = RAMPS["karras"](n, high, low, rho=rho)
    for i in range(n):
        part = i / (n - 1)
        level = (high ** (1 / rho) * (1 - part) + low ** (1 / rho) * part) ** rho
        assert got[i] == pytest.approx(level, rel=1e-12)


@given(ends=levels, n=st.integers(2, 60))
def test_exponential(ends, n):
    low, high = ends
    for name in ("exponential", "lu"):
        got = RAMPS[name](n, high, low)
        for i in range(n):
            assert got[i] == pytest.approx(high * (low / high) ** (i / (n - 1)), rel=1e-12)


@given(ends=levels, n=st.integers(2, 40))
def test_beta(ends, n):
    """The share of Beta(0.6, 0.6) below each level is an even ramp."""
    from scipy.stats import beta

    low, high = ends
    got = RAMPS["beta"](n, high, low)
    shares = beta.cdf(np.clip((got - low) / (high - low), 0, 1), 0.6, 0.6)
    np.testing.assert_allclose(shares, [1 - i / (n - 1) for i in range(n)], atol=1e-6)


def test_kinds_of_ramps():
    """A ramp has two ends, or goes from one to 0, or is a table or a curve with its own."""
    heeded = {name: sorted(check_spacing(name, {})) for name in RAMPS}
    assert heeded.pop("linear_quadratic") == ["sigma_max"]
    own = {"ipndm", "ays_sd15", "ays_sdxl", "ays_svd"}
    assert {name for name, ends in heeded.items() if not ends} == own
    assert set(BETWEEN) == heeded.keys() - own


@given(ends=levels, n=st.integers(2, 60), rho=st.floats(0.3, 8.0))
def test_polyexponential(ends, n, rho):
    """The rho-th root of the place of log sigma between its ends is even."""
    low, high = ends
    got = RAMPS["polyexponential"](n, high, low, rho=rho)
    place = np.log(got / low) / math.log(high / low)
    np.testing.assert_allclose(place, np.linspace(1, 0, n) ** rho, atol=1e-12)
    np.testing.assert_allclose(
        RAMPS["polyexponential"](n, high, low), RAMPS["exponential"](n, high, low), rtol=1e-12
    )


@given(ends=levels, n=st.integers(2, 60), mu=st.floats(-1, 1), beta=st.floats(0.2, 2.0))
def test_laplace(ends, n, mu, beta):
    """The share of the Laplace distribution of log sigma below each level is an even ramp."""
    from scipy.stats import laplace

    low, high = ends
    got = RAMPS["laplace"](n, high, low, mu=mu, beta=beta)
    shares = laplace.cdf(np.log(got), loc=mu, scale=beta)
    first, last = (laplace.cdf(math.log(v), loc=mu, scale=beta) for v in ends[::-1])
    np.testing.assert_allclose(shares, np.linspace(first, last, n), rtol=1e-11)


@given(n=st.integers(2, 200))
def test_laplace_as_published(n):
    """mu - b sgn(1/2 - x) log(1 - 2 |1/2 - x| + 1e-5), where nothing is clamped."""
    high = math.exp(-0.5 * math.log(1e-5))
    got = RAMPS["laplace"](n, high, 1 / high)
    for i, level in enumerate(got):
        away = 0.5 - i / (n - 1)
        log = -0.5 * math.copysign(1, away) * math.log(1 - 2 * abs(away) + 1e-5)
        assert math.log(level) == pytest.approx(log, abs=2e-5)


@given(ends=levels, n=st.integers(2, 60))
def test_kl_optimal(ends, n):
    low, high = ends
    got = RAMPS["kl_optimal"](n, high, low)
    for i in range(n):
        part = i / (n - 1)
        level = math.tan(part * math.atan(low) + (1 - part) * math.atan(high))
        assert got[i] == pytest.approx(level, rel=1e-11)
    far = RAMPS["kl_optimal"](3, 1e12, 1e-12)  # no digits are lost at either end
    np.testing.assert_allclose(far, [1e12, 1.0, 1e-12], rtol=1e-12)


@given(n=st.integers(2, 60), least=st.floats(1e-3, 0.1), slope=st.floats(5.0, 40.0))
def test_vp(n, least, slope):
    """sqrt(e^(beta_d t^2 / 2 + beta_min t) - 1) at even t from 1 to least."""

    def level(t):
        return math.sqrt(math.expm1(slope * t * t / 2 + 0.2 * t))

    got = RAMPS["vp"](n, level(1.0), level(least), beta_d=slope, beta_min=0.2)
    expected = [level(t) for t in np.linspace(1, least, n)]
    np.testing.assert_allclose(got, expected, rtol=1e-10)


@given(n=st.integers(2, 60), part=st.floats(0.01, 0.95), data=st.data())
def test_linear_quadratic(n, part, data):
    """Even up to the threshold; then a parabola with that slope there, which meets 1 at n."""
    even = data.draw(st.integers(1, n - 1))
    threshold = part * even / n
    got = RAMPS["linear_quadratic"](n, 3.0, threshold=threshold, linear_steps=even) / 3.0
    done = 1 - got
    np.testing.assert_allclose(done[: even + 1], np.arange(even + 1) * threshold / even, atol=1e-15)
    rest = np.array([*done[even:], 1.0])
    if len(rest) > 2:
        bend = np.diff(rest, 2)
        np.testing.assert_allclose(bend, bend[0], atol=1e-12)
        first = rest[1] - rest[0] - bend[0] / 2
        assert first == pytest.approx(threshold / even, abs=1e-12)
    half = RAMPS["linear_quadratic"](n, 3.0, linear_steps=n // 2)
    np.testing.assert_array_equal(RAMPS["linear_quadratic"](n, 3.0), half)


@given(n=st.integers(1, 60))
def test_ipndm(n):
    """On the cosine curve: sigma = sin(pi s / 2)^2, even in s."""
    for i, point in enumerate(place("ipndm", n, Cosine())):
        sigma = math.sin(math.pi / 2 * (1 - i / n)) ** 2
        assert point.sigma == pytest.approx(sigma, rel=1e-13)
        alpha = math.sqrt((1 - sigma) * (1 + sigma))
        assert point.alpha == pytest.approx(alpha, rel=1e-7, abs=1e-13)
        assert point.t == pytest.approx(2 / math.pi * math.atan2(sigma, alpha), abs=1e-8)


def test_align_your_steps():
    """Ten steps are the table, sigmas of the timesteps that the paper's page prints."""
    latent = Betas(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    for name, times in (
        ("ays_sd15", [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]),
        ("ays_sdxl", [999, 845, 730, 587, 443, 310, 193, 116, 53, 13]),
    ):
        got = [p.t for p in place(name, 10, latent)]
        np.testing.assert_allclose(got, times, atol=0.1)
    np.testing.assert_allclose(RAMPS["ays_svd"](10)[[0, 1, -1]], [700, 54.5, 0.034], rtol=1e-13)


@pytest.mark.parametrize("name", ["ays_sd15", "ays_sdxl", "ays_svd"])
@given(n=st.integers(1, 90))
def test_resampled_tables(name, n):
    """Log-linear in the table: levels lie on the broken line through it."""
    table = [*RAMPS[name](10), {"ays_svd": 0.002}.get(name, 0.0291671582)]
    got = RAMPS[name](n)
    assert got.shape == (n,)
    for i, level in enumerate(got):
        where = Fraction(10 * i, n)
        low = int(where)
        w = float(where - low)
        assert math.log(level) == pytest.approx(
            (1 - w) * math.log(table[low]) + w * math.log(table[low + 1]), abs=1e-12
        )


@pytest.mark.parametrize("ramp", BETWEEN)
@given(ends=levels, n=st.integers(1, 50))
def test_ramps(ramp, ends, n):
    """n levels, strictly decreasing, both ends reached."""
    low, high = ends
    got = RAMPS[ramp](n, high, low)
    assert got.shape == (n,)
    assert got[0] == pytest.approx(high, rel=1e-13)
    assert np.all(np.diff(got) < 0)
    if n > 1:
        assert got[-1] == pytest.approx(low, rel=1e-12)


@pytest.mark.parametrize("ramp", BETWEEN)
@pytest.mark.parametrize(
    ("n", "high", "low"),
    [(5, 1.0, 2.0), (5, 1.0, 1.0), (5, math.inf, 1.0), (5, 1.0, -1.0), (0, 2.0, 1.0)],
)
def test_ramp_errors(ramp, n, high, low):
    with pytest.raises(ValueError, match=r"noise levels|at least 1"):
        RAMPS[ramp](n, high, low)


# any spacing on any schedule

PLACED = {name: make_schedule(name) for name in (*BETA_SCHEDULES, *SCHEDULES)} | {
    "zero_snr": Betas(rescale_betas_zero_snr=True),
    "zero_snr_cosine": Betas(rescale_betas_zero_snr=True, beta_schedule="squaredcos_cap_v2"),
    "few": Betas(trained_betas=(0.1, 0.2, 0.3, 0.3, 0.4), num_train_timesteps=5),
    "one": Betas(num_train_timesteps=1),
    "latent_ve": Betas(frame="ve", sigma_data=1.0, beta_start=0.00085, beta_end=0.012),
    "cosine_flow": Cosine(frame="flow"),
    "sde_flow": VPSDE(frame="flow"),
}


@pytest.mark.parametrize("spacing", [*TIMES, *RAMPS])
@given(name=st.sampled_from(list(PLACED)), n=st.integers(1, 1100))
def test_no_two_points_are_equal(spacing, name, n):
    """n different points, noisiest first, none at the end; or one sentence."""
    schedule = PLACED[name]
    try:
        points = place(spacing, n, schedule)
    except ValueError as error:
        text = str(error)
        assert not {"\n", ". "} & {text[i : i + k] for i in range(len(text)) for k in (1, 2)}, text
        few = getattr(schedule, "num_train_timesteps", 1000)
        assert n > few - 2 or "is infinite" in text or "never reaches" in text, text
        return
    assert len(points) == n
    ratios = [p.ratio for p in points]
    assert all(a > b > 0 for a, b in itertools.pairwise(ratios)), ratios
    assert ratios[-1] > 0
    times = [p.t for p in points]
    if not spacing.startswith("ays_"):  # tables of another schedule's levels, beyond this one's
        assert all(a >= b for a, b in itertools.pairwise(times))


@pytest.mark.parametrize("spacing", TIMES)
@given(n=st.integers(1, 300), train=st.integers(400, 1500))
def test_times_of_continuous_schedules(spacing, n, train):
    """Training step k is k steps of an even ramp over the schedule's span."""
    for schedule in (VPSDE(), VESDE(), Cosine(), Logarithmic(), Flow(num_train_timesteps=train)):
        top, low = schedule.span
        steps = timesteps(spacing, n, train, whole=None)
        expected = [low + k / (train - 1) * (top - low) for k in steps]
        got = [p.t for p in place(spacing, n, schedule, train=train)]
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


@given(n=st.integers(1, 500))
def test_flow_grids_of_pipelines(n):
    """sigmas linspace(1, 1 / n, n) are trailing, linspace(1, 1 / N, n) linspace."""
    got = [p.sigma for p in place("trailing", n, Flow())]
    np.testing.assert_allclose(got, np.linspace(1, 1 / n, n), rtol=1e-9)
    if n > 1:
        got = [p.sigma for p in place("linspace", n, Flow())]
        np.testing.assert_allclose(got, np.linspace(1, 0.001, n), rtol=1e-9)


@pytest.mark.parametrize("spacing", ["normal", "sgm_uniform"])
@given(n=st.integers(2, 400))
def test_log_linear_times(spacing, n):
    """Between training steps log sigma is linear in t."""
    schedule, extra = Betas(), spacing == "sgm_uniform"
    for i, point in enumerate(place(spacing, n, schedule)):
        t = 999 - 999 * i / (n - 1 + extra)
        low = min(int(t), 998)
        a, b = np.log(schedule.ratios[low : low + 2])
        assert math.log(point.ratio) == pytest.approx(a + (t - low) * (b - a), abs=1e-9)
        assert point.t == pytest.approx(t, abs=1e-6)


@pytest.mark.parametrize(
    ("spacing", "n", "expected"),
    [
        ("simple", 3, [999, 666, 333]),
        ("simple", 7, [999, 857, 714, 571, 428, 285, 142]),
        ("ddim_uniform", 4, [751, 501, 251, 1]),
        ("ddim_uniform", 1, [1]),
        ("normal", 1, [999]),
        ("normal", 4, [999, 666, 333, 0]),
        ("sgm_uniform", 3, [999, 666, 333]),
        ("sgm_uniform", 1, [999]),
        ("linspace", 3, [999, 499.5, 0]),
        ("trailing", 3, [999, 666, 332]),
    ],
)
def test_printed_points(spacing, n, expected):
    assert [p.t for p in place(spacing, n, Betas())] == pytest.approx(expected, abs=1e-9)


def test_ends_of_ramps():
    """The schedule's own, or those given; sigma in the flow frame, else sigma / alpha."""
    flow = [p.sigma for p in place("karras", 5, Flow())]
    assert (flow[0], flow[-1]) == (1.0, pytest.approx(0.001))
    flow = [p.sigma for p in place("karras", 5, Flow(), sigma_max=0.9, sigma_min=0.1)]
    assert (flow[0], flow[-1]) == pytest.approx((0.9, 0.1))
    for schedule in (Betas(rescale_betas_zero_snr=True), Cosine()):
        assert place("exponential", 5, schedule)[0].ratio == pytest.approx(HIGHEST)
        given_one = place("exponential", 5, schedule, sigma_max=80.0)
        assert given_one[0].ratio == pytest.approx(80.0)
    assert place("ipndm", 4, Betas())[0].alpha == 0.0
    for top, first in (({}, HIGHEST), ({"sigma_max": 500.0}, 500.0)):  # infinite in this frame
        points = place("exponential", 5, Cosine(frame="ve"), sigma_min=0.3, **top)
        assert (points[0].sigma, points[-1].sigma) == pytest.approx((first, 0.3))


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: place("karas", 4, Betas()), ValueError, "did you mean 'karras'"),
        (lambda: place("karras", 0, Betas()), ValueError, "num_inference_steps must be at least 1"),
        (lambda: place("ays_sd15", 0, Betas()), ValueError, "must be at least 1, got 0"),
        (lambda: place("karras", 4, Betas(), mu=1.0), TypeError, "'karras' has no option 'mu'"),
        (lambda: place("laplace", 4, Betas(), betta=1.0), TypeError, "did you mean 'beta'"),
        (lambda: place("karras", 4, Betas(), rho="7"), TypeError, "rho must be a number"),
        (lambda: place("karras", 4, Betas(), rho=-7), ValueError, "rho must be a positive"),
        (lambda: place("laplace", 4, Betas(), mu=math.nan), ValueError, "mu must be"),
        (lambda: place("trailing", 4, Betas(), rho=2.0), TypeError, "has no option 'rho'"),
        (lambda: place("karras", 4, Betas(), sigma_max=1e-3), ValueError, "must go down"),
        (
            lambda: place("polyexponential", 90, Betas(), rho=40.0),
            ValueError,
            "levels are not all",
        ),
        (lambda: place("simple", 1001, Betas()), ValueError, "not all different; use fewer"),
        (lambda: place("ddim_uniform", 1000, Betas()), ValueError, "starts at timestep 1000"),
        (lambda: place("ddim_uniform", 1001, Betas()), ValueError, "at least 1001 training"),
        (lambda: place("linear_quadratic", 4, Flow(), linear_steps=4), ValueError, "more than 3"),
        (lambda: place("linear_quadratic", 9, Flow(), threshold=7.0), ValueError, "threshold=7"),
        (lambda: place("ipndm", 4, Betas(frame="ve")), ValueError, "infinite at t=999 in the ve"),
        (lambda: place("ipndm", 4, VPSDE()), ValueError, "VPSDE never reaches alpha = 0"),
        (lambda: stretched([1.0, 1.0], 0.1), ValueError, "cannot be stretched to end at 0.1"),
        (lambda: stretched([1.0, 0.5], 1.0), ValueError, "cannot be stretched to end at 1;"),
    ],
)
def test_placing_errors(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


# flow shifts


@given(sigma=st.floats(0.001, 1.0), shift=st.floats(0.1, 30.0))
def test_shifted(sigma, shift):
    """The ratio sigma / (1 - sigma) is multiplied by the shift."""
    (got,) = shifted([sigma], shift)
    assert got * (1 - sigma) == pytest.approx(shift * sigma * (1 - got), abs=1e-12)


@given(sigma=st.floats(0.001, 0.999), mu=st.floats(0.1, 3.0))
def test_dynamic_shifts(sigma, mu):
    """e^mu / (e^mu + 1 / sigma - 1), and the same with mu for e^mu."""
    for kind, size in (("exponential", math.exp(mu)), ("linear", mu)):
        (got,) = shifted([sigma], SHIFTS[kind](mu))
        assert got == pytest.approx(size / (size + 1 / sigma - 1), rel=1e-12)


@given(terminal=st.floats(0.0, 0.9), n=st.integers(2, 30))
def test_stretched(terminal, n):
    """It ends at the terminal, and keeps 1 and all proportions."""
    sigmas = np.linspace(1, 0.05, n)
    got = stretched(sigmas, terminal)
    assert (got[0], got[-1]) == (1.0, pytest.approx(terminal, abs=1e-15))
    np.testing.assert_allclose(np.diff(got), np.diff(got)[0], rtol=1e-9)


@pytest.mark.parametrize("value", [True, 2.0, "3", None, [4]])
def test_count_types(value):
    with pytest.raises(TypeError, match="num_inference_steps must be an integer"):
        check_count("num_inference_steps", value)


def test_counts():
    assert check_count("n", np.int64(3)) == 3
    assert type(check_count("n", np.int64(3))) is int
    with pytest.raises(ValueError, match="at least 1, got 0"):
        check_count("n", 0)
    with pytest.raises(ValueError, match="n=9 is more than 8, the table"):
        check_count("n", 9, 8, ", the table")


@pytest.mark.parametrize(
    ("values", "kind", "text"),
    [
        ([1, 5, 9], ValueError, r"in order: \[9, 5, 1\]"),
        ([9, 5, 5], ValueError, r"in order: \[9, 5\]"),
        (list(range(30)), ValueError, r"in order: \[29, .*18, \.\.\.\]"),
        ([], ValueError, "non-empty"),
        ([[3, 2]], ValueError, "non-empty list"),
        (5, ValueError, "non-empty list"),
        ([3, math.nan], ValueError, "finite"),
        ([math.inf, 1], ValueError, "finite"),
        (["a"], TypeError, "list of numbers"),
        ("9, 5", TypeError, "list of numbers"),
        ([True, False], TypeError, "list of numbers"),
        ([3, None], TypeError, "list of numbers"),
        ([3, [2]], TypeError, "list of numbers"),
        ([3 + 1j], TypeError, "list of numbers"),
        (None, TypeError, "list of numbers"),
    ],
)
def test_explicit_lists(values, kind, text):
    with pytest.raises(kind, match=text):
        check_decreasing("sigmas", values)


def test_explicit_arrays():
    for values in ([3, 2, 0.5], (3, 2, 0.5), np.array([3, 2, 0.5], dtype=np.float32)):
        got = check_decreasing("sigmas", values)
        assert got == [3.0, 2.0, 0.5]
        assert all(type(v) is float for v in got)
    assert check_decreasing("timesteps", np.array([3, 1])) == [3.0, 1.0]


def grid(n=6, **options):
    schedule = VPSDE()
    points = [schedule.at(t=t) for t in np.linspace(1, 0.1, n).tolist()]
    return Grid((*points, schedule.point(0.0, 0.0)), schedule, **options)


def test_a_grid_runs_one_way():
    schedule = VPSDE()
    up = [schedule.at(t=t) for t in (0.1, 0.5, 0.9)]
    assert Grid(tuple(up), schedule).upward  # inversion
    assert not Grid(tuple(up[::-1]), schedule).upward
    for turning in ((up[0], up[2], up[1]), (up[2], up[0], up[1]), (up[1], up[2], up[0])):
        with pytest.raises(ValueError, match="runs one way, from noise to data"):
            Grid(turning, schedule)
    with pytest.raises(ValueError, match="at least two points"):
        Grid((up[0],), schedule)
    with pytest.raises(ValueError, match="2 steps need as many ends, got 1"):
        Grid(tuple(up[::-1]), schedule, ends=(up[0],))
    same = Grid((up[2], up[1], up[1]), schedule)  # a step of length zero is one
    assert len(same) == 2


@given(k=st.integers(0, 5), more=st.integers(0, 5))
def test_skipping(k, more):
    """The rest of a grid starts at its own level and still knows the whole run."""
    whole = grid()
    rest = whole.skip(k)
    assert list(rest.steps()) == list(whole.steps())[k:]
    assert rest.init_scale == (whole.points[k].sigma if k else 1.0)
    assert GridRun(rest).total == len(whole)
    assume(more < len(rest))
    assert rest.skip(more).points == whole.skip(k + more).points
    assert GridRun(rest.skip(more)).total == len(whole)


@pytest.mark.parametrize("k", [-1, 6, 100])
def test_skipping_too_far(k):
    with pytest.raises(ValueError, match=f"cannot skip {k} of 6"):
        grid().skip(k)


def test_arrivals():
    """Where a step ends may differ from where the next one starts."""
    whole = grid()
    other = tuple(whole.at(ratio=p.ratio / 2) for p in whole.points[:-1])
    moved = grid(ends=other)
    assert [b for _, b in moved.steps()] == list(other)
    assert [b for _, b in moved.skip(2).steps()] == list(other[2:])


@pytest.mark.parametrize(
    "schedule", [VPSDE(), Flow(), Betas(trained_betas=(0.1, 0.2, 0.3), num_train_timesteps=3)]
)
def test_plain_data(schedule):
    points = tuple(schedule.at(ratio=r) for r in (0.7, 0.5, 0.35))
    one = Grid(points, schedule, 0.3, True, points[1:], 2)
    again = Grid.from_dict(json.loads(json.dumps(one.to_dict())))
    assert again == one
    assert hash(again) == hash(one)


@pytest.fixture
def entered():
    """Three rules under names, as long as the test runs."""

    def squares(n, train):
        return (train - 1) * np.linspace(1, 0, n) ** 2

    def halves(n, high, low, *, base=2.0):
        return high * base ** -np.arange(n)

    register("squares", squares, in_time=True)
    register("halves", halves)
    register("few", lambda n: [3.0, 2.0, 1.0])
    yield
    for name in ("squares", "halves", "few"):
        del SPACINGS[name]


@pytest.mark.usefixtures("entered")
def test_register():
    schedule = Cosine()
    got = [p.t for p in place("squares", 5, schedule)]
    top, low = schedule.span
    expected = [low + (top - low) * part for part in (1, 9 / 16, 1 / 4, 1 / 16, 0)]
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    got = [p.ratio for p in place("halves", 4, Logarithmic(), sigma_max=8.0, base=4.0)]
    np.testing.assert_allclose(got, [8.0, 2.0, 0.5, 0.125], rtol=1e-12)
    assert check_spacing("halves", {"base": 3.0}) == {"sigma_max", "sigma_min"}
    plan = cmsched.Scheduler(spacing="halves", spacing_options={"base": 3.0}, sigma_max=9.0).plan(3)
    assert [p.ratio for p in plan.grid.points] == pytest.approx([9.0, 3.0, 1.0, 0.0])
    assert len(place("few", 3, Logarithmic())) == 3
    with pytest.raises(ValueError, match="spacing 'few' gave 3 points where 4 were asked for"):
        place("few", 4, Logarithmic())
    with pytest.raises(ValueError, match="'karras' is a spacing known already"):
        register("karras", lambda n: [1.0])
    with pytest.raises(TypeError, match="give a string"):
        register(None, lambda n: [1.0])
    with pytest.raises(TypeError, match="rule=3 cannot be called"):
        register("three", 3)
    with pytest.raises(ValueError, match="did you mean 'halves'"):
        cmsched.Scheduler(spacing="halve")
