"""Schedules on arrays, `schedule.on(like)`, against the same schedules on numbers."""

import copy
import math
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

from cmsched.backends import resolve
from cmsched.schedules import (
    BETA_SCHEDULES,
    VESDE,
    VPSDE,
    Betas,
    Cosine,
    Flow,
    Identity,
    Logarithmic,
    Schedule,
    TrigFlow,
)


@dataclass(frozen=True)
class Square(Schedule):
    """A user's own, of numbers: ratio = (scale t)^2."""

    frame: str = "ve"
    scale: float = 3.0

    def ratio_at(self, t):
        if not 0 <= t <= 1:
            raise ValueError(f"time {t:g} is outside [0, 1]")
        return (self.scale * t) ** 2

    def time_at(self, ratio):
        return math.sqrt(ratio) / self.scale


ZERO = {"rescale_betas_zero_snr": True}
SCHEDULES = {
    **{name: Betas(beta_schedule=name) for name in BETA_SCHEDULES},
    "one step": Betas(num_train_timesteps=1),
    "two steps": Betas(num_train_timesteps=2, **ZERO),
    "shifted": Betas(snr_shift_scale=3.0, frame="flow"),
    "scaled": Betas(sigma_data=0.5, frame="trig"),
    "zero": Betas(**ZERO),
    "zero flow": Betas(frame="flow", **ZERO),
    "tiny": Betas(frame="ve", terminal=2.0**-24, **ZERO),
    "lowered": Betas(frame="ve", terminal=2.0**-10, **ZERO),
    "flow": Flow(),
    "flow 10": Flow(num_train_timesteps=10, frame="vp"),
    "rising": Flow(rising=True),
    "cosine": Cosine(),
    "cosine ve": Cosine(frame="ve"),
    "trigflow": TrigFlow(),
    "logarithmic": Logarithmic(),
    "logarithmic vp": Logarithmic(frame="vp", factor=250.0),
    "identity": Identity(),
    "identity flow": Identity(frame="flow", factor=2.0),
    "vp_sde": VPSDE(),
    "ve_sde": VESDE(),
    "own": Square(),
}
EPS = {"float32": 2.0**-23, "float64": 2.0**-52}
# of float64, what the numbers themselves lose next to alpha = 0
CLOSE = {"float32": 8 * EPS["float32"], "float64": 1e-10}
# the other betas only have other numbers
NAMES = [name for name in SCHEDULES if name not in ("own", "shifted", *BETA_SCHEDULES[1:])]


def times_of(schedule):
    """Times over the range, its ends, and next to them."""
    top, low = schedule.span
    ends = {Cosine: (0.0, 1.0), TrigFlow: (0.0, math.pi / 2), Flow: (0.0, max(top, low))}
    a, b = ends.get(type(schedule), sorted((top, low)))
    if isinstance(schedule, Flow):
        b = float(schedule.num_train_timesteps)
    near = (1e-3, 0.01, 0.3, 1 / 3, 0.5, 0.9, 0.999, 0.99999)
    times = {a + (b - a) * part for part in (0.0, *near, 1.0)}
    if isinstance(schedule, Betas):
        times |= {float(round(t)) for t in times} | {max(0.0, b - 1), max(0.0, b - 0.5)}
    found = []
    for t in sorted(times):
        try:
            schedule.at(t=t)
        except ValueError:  # an infinite sigma
            continue
        found.append(t)
    return found


def made(xp, dtype):
    if dtype == "float64" and not xp.float64:
        pytest.skip("no float64")
    return xp.asarray(np.zeros((2, 3)), dtype)


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_levels_of_times(xp, name, dtype):
    schedule, like = SCHEDULES[name], made(xp, dtype)
    on = schedule.on(like)
    times = np.array(times_of(schedule), dtype)
    points = [schedule.at(t=float(t)) for t in times]
    given = xp.asarray(times)
    alpha, sigma = on.alpha_sigma(given)
    ratio = on.ratio(given)
    assert alpha.dtype == sigma.dtype == ratio.dtype == like.dtype
    close = {"rtol": CLOSE[dtype], "atol": 0}
    np.testing.assert_allclose(xp.numpy(alpha), [p.alpha for p in points], **close)
    np.testing.assert_allclose(xp.numpy(sigma), [p.sigma for p in points], **close)
    ratios = [schedule.ratio_at(float(t)) for t in times]
    np.testing.assert_allclose(xp.numpy(ratio), ratios, **close)


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_times_of_levels(xp, name, dtype):
    """By ratio and by the frame's own sigma; the error of a time is that of its ratio's."""
    schedule, like = SCHEDULES[name], made(xp, dtype)
    on = schedule.on(like)
    ratios = [schedule.ratio_at(t) for t in times_of(schedule)]
    if name in ("tiny", "lowered"):  # whose last level is lower than some before
        last = on.time(xp.asarray(np.array(ratios[-1:], dtype)))
        assert xp.numpy(last).tolist() == [schedule.span[0]]
        ratios = [r for r in ratios if r < ratios[-1]]
    ratios = np.array(ratios if name == "own" else [0.0, 1e-4, *ratios, 3.0], dtype)
    expected = np.array([schedule.time_at(float(r)) for r in ratios])
    got = on.time(xp.asarray(ratios))
    assert got.dtype == like.dtype
    slack = 1e3 if isinstance(schedule, Betas) else 8  # the log of the ratio over that of a step
    close = {"rtol": slack * CLOSE[dtype] / 8, "atol": slack * EPS[dtype]}
    np.testing.assert_allclose(xp.numpy(got), expected, **close)
    finite = np.isfinite(ratios)
    sigmas = [schedule.point(float(r), 0.0).sigma for r in ratios[finite]]
    got = on.time(sigma=xp.asarray(np.array(sigmas, dtype)))
    expected = [schedule.at(sigma=float(s)).t for s in np.array(sigmas, dtype)]
    np.testing.assert_allclose(xp.numpy(got), expected, **close)


@pytest.mark.parametrize("name", SCHEDULES)
def test_numbers_and_shapes(xp, name):
    """A number, a NumPy array, a list, and an array of any shape all say the same."""
    schedule, like = SCHEDULES[name], xp.asarray(np.zeros(3), "float32")
    on, times = schedule.on(like), times_of(schedule)[:6]
    for rule in (on.ratio, lambda t: on.alpha_sigma(t)[0], lambda t: on.alpha_sigma(t)[1]):
        each = [rule(t) for t in times]
        assert {(tuple(x.shape), x.dtype) for x in each} == {((), like.dtype)}
        expected = [float(x) for x in each]
        for given in (times, np.array(times), xp.asarray(np.array(times, np.float32))):
            got = rule(given)
            assert got.dtype == like.dtype
            np.testing.assert_allclose(xp.numpy(got), expected, rtol=3e-3, atol=1e-5)
        shaped = xp.numpy(rule(xp.asarray(np.array([[times], [times]], np.float32))))
        assert shaped.shape == (2, 1, len(times))
        np.testing.assert_allclose(shaped[1, 0], xp.numpy(got), rtol=1e-6)
    ratio = schedule.ratio_at(times[-1])
    point = schedule.at(ratio=ratio)
    assert float(on.time(ratio)) == pytest.approx(point.t, rel=1e-6)
    assert float(on.time(sigma=point.sigma)) == pytest.approx(point.t, rel=1e-6)
    alpha, sigma = on.split(ratio)
    assert (float(alpha), float(sigma)) == pytest.approx((point.alpha, point.sigma), rel=1e-6)
    assert float(on.input_scale(alpha, sigma)) == pytest.approx(point.scale, rel=1e-6)


@pytest.mark.parametrize("frame", ["vp", "flow", "trig"])
def test_the_end_without_signal(xp, frame):
    """Exactly there."""
    schedule = Betas(frame=frame, sigma_data=0.5, **ZERO)
    on = schedule.on(xp.asarray(np.zeros(1), "float32"))
    last = xp.asarray(np.array([999.0, 999.0], np.float32))
    for alpha, sigma in (on.alpha_sigma(last), on.split(on.ratio(last))):
        assert xp.numpy(alpha).tolist() == [0.0, 0.0]
        assert xp.numpy(sigma).tolist() == [schedule.top] * 2
    assert xp.numpy(on.ratio(last)).tolist() == [math.inf] * 2
    assert xp.numpy(on.time(on.ratio(last))).tolist() == [999.0] * 2


def test_next_to_no_signal(xp):
    """Ratios whose squares no float32 holds."""
    for schedule in (
        Logarithmic(frame="vp"),
        Identity(frame="flow"),
        VESDE(frame="trig", sigma_data=2.0),
    ):
        on = schedule.on(xp.asarray(np.zeros(1), "float32"))
        alpha, sigma = on.split(xp.asarray(np.array([1e17, 1e25, 1e38, np.inf], np.float32)))
        np.testing.assert_allclose(xp.numpy(sigma), [schedule.top] * 4, rtol=1e-6)
        assert np.all(xp.numpy(alpha) < 1e-16)


def test_range(xp):
    """What is on the host is checked, what is on a device clipped to the range."""
    for name, least, most in (
        ("linear", 0.0, 999.0),
        ("zero flow", 0.0, 999.0),
        ("flow", 0.0, 1000.0),
        ("rising", 0.0, 1000.0),
        ("cosine", 0.0, 1.0),
        ("trigflow", 0.0, math.pi / 2),
        ("vp_sde", 0.0, None),
        ("identity", 0.0, None),
    ):
        schedule = SCHEDULES[name]
        on = schedule.on(xp.asarray(np.zeros(1), "float32"))
        ends = [t for t in (least, most) if t is not None]
        for t, outside in zip(ends, (-1.0, 2000.0), strict=False):
            for given in (outside, [t, outside], np.array([[outside, t]])):
                with pytest.raises(ValueError, match=r"outside|below|no such noise level"):
                    on.alpha_sigma(given)
            array = xp.asarray(np.array([outside], np.float32))
            if resolve(array).known(array) is not None:
                with pytest.raises(ValueError, match=r"outside|below|no such noise level"):
                    on.alpha_sigma(array)
            else:
                got = on.alpha_sigma(array)
                point = schedule.at(t=t)
                got = [float(x[0]) for x in got]
                assert got == pytest.approx([point.alpha, point.sigma], rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_inside_a_trace(xp, name):
    """Under jit, vmap and torch.compile, of a schedule that no array has met; derivatives exist."""
    schedule = copy.deepcopy(SCHEDULES[name])
    times = np.array(times_of(schedule)[1:6] or [0.0], np.float32)
    t = xp.asarray(times)

    def all_of(t):
        on = schedule.on(t)
        ratio = on.ratio(t)
        return *on.alpha_sigma(t), ratio, on.time(ratio)

    traces, slopes = [all_of], None
    if xp.name == "jax":
        import jax

        traces = [jax.jit(all_of), jax.vmap(all_of)]
        slopes = jax.jit(jax.vmap(jax.jacrev(all_of)))(t)
    if xp.name == "torch":
        import torch

        torch._dynamo.reset()
        traces = [torch.compile(all_of, backend="eager", fullgraph=True), torch.vmap(all_of)]
        given = t.clone().requires_grad_()
        slopes = [
            torch.autograd.grad(y.sum(), given, retain_graph=True)[0]
            for y in all_of(given)
            if y.requires_grad
        ]
    got = [[xp.numpy(y) for y in traced(t)] for traced in traces]
    for one in got:
        for y, expected in zip(one, all_of(t), strict=True):
            np.testing.assert_allclose(y, xp.numpy(expected), rtol=1e-5)
    if slopes is not None:
        for slope in slopes:
            assert np.all(np.isfinite(xp.numpy(slope)))


@pytest.mark.parametrize("name", NAMES)
def test_slopes_at_the_ends(name):
    """Clipping and the end without signal make no nan."""
    torch = pytest.importorskip("torch")
    schedule = SCHEDULES[name]
    ends = times_of(schedule)
    t = torch.tensor([ends[0], ends[-1]], dtype=torch.float32, requires_grad=True)
    alpha, sigma = schedule.on(t).alpha_sigma(t)
    for y in (alpha, sigma):
        if y.requires_grad:
            (slope,) = torch.autograd.grad(y.sum(), t, retain_graph=True)
            assert not bool(torch.isnan(slope).any()), slope


def test_kept_for_the_next_array(xp):
    """But not in a pickle, and it makes no schedule another one."""
    schedule = Betas()
    a, b = (xp.asarray(np.zeros(n), "float32") for n in (2, 3))
    on = schedule.on(a)
    assert schedule.on(b) is on
    assert schedule.on(xp.asarray(np.zeros(1), "float64" if xp.float64 else "float32")).dtype
    assert schedule == Betas()
    assert hash(schedule) == hash(Betas())
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule
    assert vars(again).keys() == vars(Betas()).keys()


def test_nothing_is_kept_of_a_trace():
    torch = pytest.importorskip("torch")
    schedule = Betas()
    torch._dynamo.reset()
    t = torch.tensor([3.0, 4.0])
    f = torch.compile(lambda t: schedule.on(t).ratio(t), backend="eager", fullgraph=True)
    traced = f(t)
    np.testing.assert_allclose(traced, schedule.on(t).ratio(t), rtol=1e-6)
    assert type(schedule.on(t)._zero) is torch.Tensor


def test_half_precision(xp):
    """Levels are computed in float32 then."""
    if xp.backend not in ("torch", "jax"):
        return
    on = Betas().on(xp.xp.zeros(1, dtype=xp.xp.bfloat16))
    assert on.ratio(3).dtype == xp.xp.float32


def test_of_numbers_alone(xp):
    """A user's curve is read on the host, which inside a trace says what to define."""
    schedule = Square()
    with pytest.raises(ValueError, match="outside"):
        schedule.on(xp.asarray(np.zeros(1))).ratio(xp.asarray(np.array([0.5, 2.0])))
    if xp.name == "jax":
        import jax

        with pytest.raises(TypeError, match=r"Square knows numbers only.*Square\.parts_on"):
            jax.jit(lambda t: schedule.on(t).ratio(t))(xp.asarray(np.array([0.5])))


def test_of_a_curve_changed(xp):
    """A subclass that changes the numbers does not keep its parent's arrays."""

    @dataclass(frozen=True)
    class Late(Flow):
        def ratio_at(self, t):
            return super().ratio_at(t) / 2

    t = xp.asarray(np.array([300.0, 500.0]))
    np.testing.assert_allclose(xp.numpy(Late().on(t).ratio(t)), [3 / 14, 0.5], rtol=1e-12)
    assert Late.times_on is Flow.times_on


def test_other_frameworks_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="on numpy and got an array of torch"):
        Betas().on(np.zeros(1)).ratio(torch.zeros(1))
    with pytest.raises(TypeError, match="exactly one of ratio and sigma"):
        Betas().on(np.zeros(1)).time()
