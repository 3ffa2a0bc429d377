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

from cmsched.schedules import VPSDE, Betas, Flow
from cmsched.spacings import RAMPS, TIMESTEPS, Grid, Walk, check_count, decreasing, timesteps

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


@pytest.mark.parametrize("ramp", RAMPS)
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


@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize(
    ("n", "high", "low"),
    [(5, 1.0, 2.0), (5, 1.0, 1.0), (5, math.inf, 1.0), (5, 1.0, -1.0), (0, 2.0, 1.0)],
)
def test_ramp_errors(ramp, n, high, low):
    with pytest.raises(ValueError, match=r"noise levels|at least 1"):
        RAMPS[ramp](n, high, low)


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
        decreasing("sigmas", values)


def test_explicit_arrays():
    for values in ([3, 2, 0.5], (3, 2, 0.5), np.array([3, 2, 0.5], dtype=np.float32)):
        got = decreasing("sigmas", values)
        assert got == [3.0, 2.0, 0.5]
        assert all(type(v) is float for v in got)
    assert decreasing("timesteps", np.array([3, 1])) == [3.0, 1.0]


def grid(n=6, **options):
    schedule = VPSDE()
    points = [schedule.at(t=t) for t in np.linspace(1, 0.1, n).tolist()]
    return Grid((*points, schedule.point(0.0, 0.0)), schedule, **options)


def test_a_grid_runs_down():
    schedule = VPSDE()
    up = [schedule.at(t=t) for t in (0.1, 0.5, 0.9)]
    with pytest.raises(ValueError, match="from noise to data"):
        Grid(tuple(up), schedule)
    with pytest.raises(ValueError, match="at least two points"):
        Grid((up[0],), schedule)
    with pytest.raises(ValueError, match="2 steps need as many arrivals, got 1"):
        Grid(tuple(up[::-1]), schedule, arrivals=(up[0],))
    same = Grid((up[2], up[1], up[1]), schedule)  # a step of length zero is one
    assert len(same) == 2


@given(k=st.integers(0, 5), more=st.integers(0, 5))
def test_skipping(k, more):
    """The rest of a grid starts at its own level and still knows the whole run."""
    whole = grid()
    rest = whole.skip(k)
    assert list(rest.steps()) == list(whole.steps())[k:]
    assert rest.init_scale == (whole.points[k].sigma if k else 1.0)
    assert Walk(rest).total == len(whole)
    assume(more < len(rest))
    assert rest.skip(more).points == whole.skip(k + more).points
    assert Walk(rest.skip(more)).total == len(whole)


@pytest.mark.parametrize("k", [-1, 6, 100])
def test_skipping_too_far(k):
    with pytest.raises(ValueError, match=f"cannot skip {k} of 6"):
        grid().skip(k)


def test_arrivals():
    """Where a step ends may differ from where the next one starts."""
    whole = grid()
    other = tuple(whole.at(ratio=p.ratio / 2) for p in whole.points[:-1])
    moved = grid(arrivals=other)
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
