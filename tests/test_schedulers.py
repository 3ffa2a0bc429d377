"""What the named schedulers show: plans and their round trips, tables, levels, configurations."""

import copy
import inspect
import itertools
import math

import array_api_strict
import numpy as np
import pytest
from scheduling import (
    CLASSES,
    DEFAULTS,
    NUMPY,
    VISITS,
    Problem,
    build,
    label,
    last,
    normals,
)

import cmsched
from cmsched import samplers
from cmsched.backends import resolve
from cmsched.schedulers.distilled import Picked

every_class = pytest.mark.parametrize("visit", DEFAULTS, ids=label)
# one class of each module, for what its classes share
families = {CLASSES[name].__module__: (name, setting) for name, setting in reversed(DEFAULTS)}
every_family = pytest.mark.parametrize("visit", families.values(), ids=label)
every_visit = pytest.mark.parametrize("visit", VISITS, ids=label)


def levels(scheduler):
    """The closed form: (t, alpha, sigma) of every training step, from the schedule's definition."""
    schedule = scheduler.schedule
    times = np.asarray(scheduler.timesteps, dtype=np.float64)
    return times, [schedule.at(t=float(t)) for t in times]


# --- plans ---------------------------------------------------------------------------------------


def same_plan(a, b, near=1e-9):
    """Fail unless both plans visit the same levels at the same times, between integers nearly.

    Between integers sigma is linear in t, and t linear in log sigma, as the field has it.
    """
    assert (a.sampler, len(a), a.grid.integral) == (b.sampler, len(b), b.grid.integral)
    for p, q in zip(a.grid.points, b.grid.points, strict=True):
        assert p.t == q.t if a.grid.integral else abs(p.t - q.t) < 0.03
        assert p.alpha == pytest.approx(q.alpha, rel=near, abs=1e-12)
        assert p.sigma == pytest.approx(q.sigma, rel=near, abs=1e-12)
    assert a.grid.init_scale == pytest.approx(b.grid.init_scale, rel=near)


def test_same_plan_can_fail():
    scheduler = cmsched.EulerDiscreteScheduler()
    for other in (
        scheduler.plan(timesteps=[999, 1]),
        scheduler.plan(3),
        cmsched.DDIMScheduler().plan(2),
    ):
        with pytest.raises(AssertionError):
            same_plan(scheduler.plan(2), other)


@pytest.mark.filterwarnings("ignore:.*shift has no effect on sigmas")
@every_visit
def test_sigmas_round_trip(visit):
    scheduler = build(visit)
    for n in (1, 3, 7):
        scheduler.set_timesteps(n)
        plan = scheduler.plan(n)
        same_plan(scheduler.plan(sigmas=scheduler.sigmas), plan)
        same_plan(scheduler.plan(sigmas=np.asarray(scheduler.sigmas).tolist()), plan)
        flow = plan.grid.schedule.frame == "flow"
        end = scheduler.recipe().discretization.end.ratio  # in some inversions they start there
        without = slice(1, None) if plan.grid.points[0].ratio == end else slice(-1)
        levels = [p.sigma if flow else p.ratio for p in plan.grid.points[without]]
        shift = scheduler.config.get("flow_shift", 1.0) if flow else 1.0
        if getattr(scheduler, "shift", shift) == 1.0:  # a flow's list without its end is to shift
            same_plan(scheduler.plan(sigmas=levels), plan)


@every_visit
def test_timesteps_round_trip_or_point_to_sigmas(visit):
    scheduler = build(visit)
    for n in (1, 3, 7):
        scheduler.set_timesteps(n)
        try:
            plan = scheduler.plan(timesteps=scheduler.timesteps)
        except ValueError as error:
            assert "sigmas" in str(error) or "step numbers" in str(error)  # noqa: PT017
        else:
            same_plan(plan, scheduler.plan(n), 1e-3)


def test_the_default_settings_take_their_own_timesteps():
    able = set()
    for visit in DEFAULTS:
        scheduler = build(visit)
        scheduler.set_timesteps(5)
        try:
            same_plan(scheduler.plan(timesteps=scheduler.timesteps), scheduler.plan(5))
        except ValueError:
            continue
        able.add(visit[0])
    assert set(CLASSES) - able == {"CMStochasticIterativeScheduler"}  # its entries are step numbers


@every_class
def test_lists_of_any_framework(xp, visit):
    scheduler = build(visit, xp=xp.xp)
    scheduler.set_timesteps(5)
    plan = scheduler.plan(5)
    assert resolve(scheduler.sigmas) is resolve(xp.asarray([1.0]))
    same_plan(scheduler.plan(sigmas=scheduler.sigmas), plan)
    other = build(visit)
    other.set_timesteps(sigmas=scheduler.sigmas)
    np.testing.assert_allclose(other.sigmas, xp.numpy(scheduler.sigmas), rtol=1e-9)
    np.testing.assert_allclose(other.timesteps, xp.numpy(scheduler.timesteps), atol=0.03)
    assert other.num_inference_steps == 5
    assert not other.custom_timesteps


def picks(scheduler):
    """Whether a class's own spacing heeds strength."""
    return isinstance(scheduler.recipe().discretization, Picked)


@every_visit
def test_strength(visit):
    scheduler = build(visit)
    whole = scheduler.plan(10)
    for strength, steps in ((1.0, 10), (0.55, 5), (0.1, 1)):
        try:
            plan = scheduler.plan(10, strength=strength)
        except ValueError as error:  # LCM's spacing itself has fewer steps then
            assert "strength" in str(error)  # noqa: PT017
            assert picks(scheduler)
            plan = scheduler.plan(steps, strength=strength)
        if not picks(scheduler):
            upward = scheduler.recipe().discretization.upward
            kept = slice(steps + 1) if upward else slice(10 - steps, None)
            assert plan.grid.points == whole.grid.points[kept]
            assert len(plan.grid) == steps


@every_visit
def test_a_plan_is_what_set_timesteps_uses(visit):
    scheduler = build(visit)
    plan = scheduler.plan(6)
    scheduler.set_timesteps(6)
    np.testing.assert_array_equal(scheduler.timesteps, plan.timesteps)
    assert scheduler.timesteps.dtype == (np.int64 if plan.grid.integral else np.float64)
    points = [*plan.points, plan.grid.points[-1]]
    if plan.sampler in ("dpm2", "dpm2_ancestral", "dpmpp_sde"):  # the ends of every step
        points = [point for point in plan.grid.points for _ in range(2)][1:-1]
    flow = plan.grid.schedule.frame == "flow"
    shown = [p.sigma if flow else p.ratio for p in points]
    if scheduler.config.get("invert_sigmas"):
        shown = [p.alpha for p in points]
    np.testing.assert_array_equal(scheduler.sigmas, shown)
    assert scheduler.sigmas.dtype == np.float64
    assert scheduler.init_noise_sigma == pytest.approx(plan.grid.init_scale)
    warm_up = {"plms": 1, "pndm": 9}.get(plan.sampler, 0)
    most = 6 * samplers.get(plan.sampler).evaluations + warm_up
    assert 6 <= len(scheduler.timesteps) <= most


# --- where timesteps are -------------------------------------------------------------------------


@every_class
def test_framework_of_timesteps(xp, visit):
    like = resolve(xp.asarray([1.0]))
    at_construction = build(visit, xp=xp.xp)
    assert resolve(at_construction.timesteps) is like
    at_construction.set_timesteps(3)
    in_call = build(visit)
    in_call.set_timesteps(3, xp=xp.xp if xp.name == "strict" else xp.backend)
    for scheduler in (at_construction, in_call):
        assert resolve(scheduler.timesteps) is like
        assert resolve(scheduler.sigmas) is like
        np.testing.assert_allclose(xp.numpy(scheduler.timesteps), scheduler.plan(3).timesteps)
    at_construction.set_timesteps(3, xp="numpy")
    assert isinstance(at_construction.timesteps, np.ndarray)


def test_framework_of_a_device(xp):
    devices = {"numpy": [], "strict": [], "numpy-readonly": []}.get(xp.name)
    if devices is None and xp.name == "torch":
        devices = ["cpu", xp.xp.device("cpu"), "meta"]
        with pytest.raises(ValueError, match="device='nonsense' cannot be used"):
            cmsched.DDIMScheduler().set_timesteps(3, "nonsense")
    elif devices is None:
        devices = list({d for d in [xp.asarray([1.0]).device]})
    for device in devices:
        scheduler = cmsched.DDIMScheduler()
        scheduler.set_timesteps(3, device)
        assert resolve(scheduler.timesteps) is resolve(xp.asarray([1.0]))
        assert str(scheduler.timesteps.device) == str(device)
    scheduler = cmsched.DDIMScheduler()
    scheduler.set_timesteps(3)
    assert isinstance(scheduler.timesteps, np.ndarray)


@every_class
def test_timesteps_of_one_framework_with_samples_of_another(xp, visit):
    results = []
    for framework in (xp.xp, "numpy", array_api_strict):
        scheduler = build(visit, xp=framework)
        problem = Problem(xp, scheduler)
        scheduler.set_timesteps(4)
        results.append(xp.numpy(last(problem.stateful(scheduler, generator=7))))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


# --- tables --------------------------------------------------------------------------------------


@every_visit
def test_tables_of_betas(visit):
    scheduler = build(visit)
    if not hasattr(scheduler, "alphas_cumprod"):
        assert "beta_schedule" not in scheduler.options
        return
    n = scheduler.config.num_train_timesteps
    assert len(scheduler) == n
    assert bool(scheduler)
    alphas, betas, bar = scheduler.alphas, scheduler.betas, scheduler.alphas_cumprod
    assert alphas.shape == betas.shape == bar.shape == (n,)
    zero = bool(scheduler.config.get("rescale_betas_zero_snr"))
    assert (alphas[-1] == 0.0) == zero  # where sigmas need it, alphas_cumprod ends a little above
    np.testing.assert_allclose(np.cumprod(alphas)[: n - zero], bar[: n - zero], rtol=1e-9)
    np.testing.assert_allclose(alphas + betas, 1.0, rtol=1e-12)
    assert np.all(np.diff(bar) < 0)
    if not zero and "snr_shift_scale" not in scheduler.options:
        start, end = scheduler.config.beta_start, scheduler.config.beta_end
        if scheduler.config.beta_schedule == "linear":
            np.testing.assert_allclose(betas, np.linspace(start, end, n), rtol=1e-9)
        if scheduler.config.beta_schedule == "scaled_linear":
            root = np.linspace(start**0.5, end**0.5, n)
            np.testing.assert_allclose(betas, root**2, rtol=1e-9)


@every_visit
def test_before_set_timesteps_the_training_steps_are_shown(visit):
    scheduler = build(visit)
    n = scheduler.config.num_train_timesteps
    assert len(scheduler) == n
    times = scheduler.timesteps
    starts = times if len(times) == n else times[:: scheduler.order]
    assert len(np.unique(starts)) == n
    upward = scheduler.recipe().discretization.upward
    way = 1 if scheduler.config.get("invert_sigmas") or upward else -1
    assert np.all(np.diff(scheduler.timesteps) * way >= 0)
    assert len(scheduler.sigmas) == len(scheduler.timesteps) + 1
    assert np.all(np.diff(scheduler.sigmas) * way >= 0)
    assert math.isfinite(scheduler.init_noise_sigma)
    assert scheduler.num_inference_steps is None


# --- noise levels --------------------------------------------------------------------------------


def expand(values, shape):
    return np.asarray(values).reshape(-1, *(1,) * (len(shape) - 1))


@every_class
@pytest.mark.parametrize("configured", [False, True])
def test_add_noise_and_velocity_are_the_closed_form(xp, visit, configured):
    scheduler = build(visit)
    times, points = levels(scheduler)
    if configured:
        scheduler.set_timesteps(7)
    shape = (3, 2, 4)
    x, z = normals(shape), normals(shape, 1)
    picks = [0, len(times) // 3, len(times) - 1]
    alpha = expand([points[i].alpha for i in picks], shape)
    sigma = expand([points[i].sigma for i in picks], shape)
    size = np.hypot(alpha, sigma)
    forms = [xp.asarray(times[picks]), times[picks], times[picks].tolist()]
    if np.all(times == times.astype(int)):
        forms.append(xp.asarray(times[picks].astype(np.int64)))
    for t in forms:
        args = (xp.asarray(x), xp.asarray(z), t)
        got = xp.numpy(scheduler.add_noise(*args))
        np.testing.assert_allclose(got, alpha * x + sigma * z, rtol=1e-9, atol=1e-9)
        got = xp.numpy(scheduler.get_velocity(*args))
        np.testing.assert_allclose(got, (alpha * z - sigma * x) / size, rtol=1e-9, atol=1e-9)
    i = picks[1]
    want = points[i].alpha * x + points[i].sigma * z
    for t in (float(times[i]), times[i], xp.asarray(times[i]), xp.asarray(times[i : i + 1])):
        got = xp.numpy(scheduler.add_noise(xp.asarray(x), xp.asarray(z), t))
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@every_visit
def test_noise_is_added_exactly_at_the_points_of_the_grid(visit):
    scheduler = build(visit)
    scheduler.set_timesteps(9)
    points = scheduler.plan(9).points
    if visit[0] == "DDIMInverseScheduler":  # evaluated at the time of another level
        points = [scheduler.schedule.at(t=p.t) for p in points]
    shape = (len(points), 3)
    x, z = normals(shape), normals(shape, 1)
    want = (
        expand([p.alpha for p in points], shape) * x + expand([p.sigma for p in points], shape) * z
    )
    got = scheduler.add_noise(x, z, scheduler.timesteps)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@every_class
def test_add_noise_keeps_the_dtype(xp, visit):
    scheduler = build(visit)
    times = scheduler.timesteps
    x, z = normals((2, 8)), normals((2, 8), 1)
    exact = scheduler.add_noise(x, z, times[:2])
    for dtype, error in (("float16", 2e-3), ("float32", 1e-6), ("bfloat16", 2e-2)):
        if not hasattr(xp.xp, dtype):
            continue
        a, b = xp.asarray(x, dtype), xp.asarray(z, dtype)
        for got in (
            scheduler.add_noise(a, b, times[:2]),
            scheduler.add_noise(a, b, xp.asarray(times[:2])),
        ):
            assert got.dtype == a.dtype
            assert np.abs(xp.numpy(got) - exact).max() < error * np.abs(exact).max()
        assert scheduler.get_velocity(a, b, times[0]).dtype == a.dtype


@every_family
def test_add_noise_inside_a_trace(xp, visit):
    """Under jit, vmap and torch.compile; elsewhere twice, which must not change anything."""
    scheduler = build(visit)
    times = scheduler.timesteps
    scheduler.set_timesteps(5)
    x, z, t = (xp.asarray(a) for a in (normals((2, 3)), normals((2, 3), 1), times[[3, 30]]))
    for method in (scheduler.add_noise, scheduler.get_velocity):
        traces = [method]
        if xp.name == "jax":
            import jax

            traces = [jax.jit(method), jax.vmap(method)]
        if xp.name == "torch":
            import torch

            torch._dynamo.reset()
            traces = [torch.compile(method, backend="eager", fullgraph=True)]
        for traced in traces:
            want = xp.numpy(method(x, z, t))
            np.testing.assert_allclose(xp.numpy(traced(x, z, t)), want, rtol=1e-12)


# --- signatures ----------------------------------------------------------------------------------


def retrieve_timesteps(scheduler, n=None, timesteps=None, sigmas=None, **kwargs):
    """As pipelines do it: what `set_timesteps` accepts is read from its signature."""
    parameters = set(inspect.signature(scheduler.set_timesteps).parameters)
    if timesteps is not None:
        assert "timesteps" in parameters
        scheduler.set_timesteps(timesteps=timesteps, device="cpu", **kwargs)
    elif sigmas is not None:
        assert "sigmas" in parameters
        scheduler.set_timesteps(sigmas=sigmas, device="cpu", **kwargs)
    else:
        scheduler.set_timesteps(n, device="cpu", **kwargs)
    return scheduler.timesteps, len(scheduler.timesteps)


def prepare_extra_step_kwargs(scheduler, generator, eta):
    """As pipelines do it: what `step` accepts is read from its signature."""
    parameters = set(inspect.signature(scheduler.step).parameters)
    options = {"eta": eta} if "eta" in parameters else {}
    return {**options, **({"generator": generator} if "generator" in parameters else {})}


@every_class
def test_a_pipeline_s_loop(torch, visit):
    scheduler = build(visit)
    timesteps, n = retrieve_timesteps(scheduler, 4)
    assert isinstance(timesteps, torch.Tensor)
    assert n == len(timesteps) >= 4
    extra = prepare_extra_step_kwargs(scheduler, torch.Generator().manual_seed(0), 0.0)
    assert "generator" in extra
    latents = torch.randn(2, 3, 4, 4) * scheduler.init_noise_sigma
    for t in timesteps:
        x = scheduler.scale_model_input(torch.cat([latents] * 2), t)
        out = 0.1 * x[:2] + 0.1 * x[2:]
        latents = scheduler.step(out, t, latents, **extra, return_dict=False)[0]
    assert bool(torch.isfinite(latents).all())
    sigmas = np.asarray(scheduler.sigmas)
    again, count = retrieve_timesteps(scheduler, sigmas=sigmas)
    assert count == n
    torch.testing.assert_close(again, timesteps)


@every_class
def test_signatures_show_what_is_taken(visit):
    scheduler = build(visit)
    names = list(inspect.signature(scheduler.step).parameters)
    assert names[:3] == ["model_output", "timestep", "sample"]
    assert names[3 : 3 + len(scheduler.step_options)] == list(scheduler.step_options)
    assert {"generator", "return_dict"} <= {*names}
    shown = inspect.signature(scheduler.set_timesteps).parameters
    assert list(shown)[: len(scheduler.timesteps_options)] == list(scheduler.timesteps_options)
    assert {"timesteps", "sigmas", "device"} <= shown.keys()
    assert not any(p.kind is p.VAR_KEYWORD for p in shown.values())
    assert scheduler.step.__doc__
    assert scheduler.step.__func__.__code__ is cmsched.schedulers.SchedulerMixin.step.__code__


def test_a_subclass_keeps_its_own_step():
    class Mine(cmsched.DDIMScheduler):
        def step(self, *args, **kwargs):
            """Count."""
            self.calls = getattr(self, "calls", 0) + 1
            return super().step(*args, **kwargs)

    class Deeper(Mine):
        pass

    for cls in (Mine, Deeper):
        scheduler = cls()
        scheduler.set_timesteps(2)
        x = normals((1, 2))
        for t in scheduler.timesteps:
            x = scheduler.step(x, t, x)[0]
        assert scheduler.calls == 2
    assert "eta" in inspect.signature(cmsched.DDIMScheduler.step).parameters
    assert CLASSES["DDIMScheduler"] is cmsched.DDIMScheduler


# --- configuration -------------------------------------------------------------------------------


def changes(visit):
    """Other values of this class's options, from the settings of the visits."""
    seen = {}
    for name, setting in VISITS:
        if name == visit[0] and len(setting) == 1:
            seen.update(setting)
    return seen


@every_class
@pytest.mark.parametrize("how", ["register_to_config", "_internal_dict"])
def test_a_changed_configuration_takes_effect_at_the_next_set_timesteps(visit, how):
    name, _ = visit
    some = False
    for key, value in changes(visit).items():
        scheduler, fresh = build(visit), CLASSES[name](**{key: value})
        scheduler.set_timesteps(5)
        before = (np.asarray(scheduler.timesteps), scheduler.timeline)
        if how == "register_to_config":
            scheduler.register_to_config(**{key: value})
        else:
            scheduler._internal_dict = {**scheduler.config, key: value}
        assert scheduler.timeline is before[1]
        np.testing.assert_array_equal(scheduler.timesteps, before[0])
        assert scheduler.config[key] == value
        assert scheduler.plan(5) == fresh.plan(5)
        scheduler.set_timesteps(5)
        fresh.set_timesteps(5)
        np.testing.assert_array_equal(scheduler.timesteps, fresh.timesteps)
        np.testing.assert_array_equal(scheduler.sigmas, fresh.sigmas)
        x = normals((1, 2))
        t = scheduler.timesteps[1]
        np.testing.assert_array_equal(scheduler.add_noise(x, x, t), fresh.add_noise(x, x, t))
        some = some or fresh.plan(5) != before[1]
    assert some


@pytest.mark.filterwarnings("ignore:.*(kept in the config|has no effect)")
@pytest.mark.parametrize("origin", [v for v in VISITS if len(v[1]) <= 1], ids=label)
def test_a_config_of_one_class_runs_in_every_other(origin):
    source = build(origin)
    for name, cls in CLASSES.items():
        config = dict(source.config)
        try:
            scheduler = cls.from_config(config)
        except ValueError as error:  # a value of an option that both have, but not with this value
            (key,) = origin[1]
            assert key in cls.options, (name, error)  # noqa: PT017
            continue
        scheduler = cls.from_config(scheduler.config)
        scheduler.set_timesteps(3)
        if not origin[1]:
            problem = Problem(NUMPY, scheduler, 3)
            assert np.all(np.isfinite(last(problem.stateful(scheduler, generator=7))))
        back = type(source).from_config(scheduler.config)
        for key in origin[1]:
            assert back.config[key] == source.config[key]


@pytest.mark.filterwarnings("ignore:.*(kept in the config|has no effect)")
def test_a_config_goes_through_every_pair_of_classes():
    for a, b in itertools.product(CLASSES.values(), repeat=2):
        scheduler = b.from_config(copy.deepcopy(a().config))
        scheduler.set_timesteps(2)
        assert scheduler.plan(2) == b().plan(2)


@every_visit
def test_explicit_timesteps_are_custom(visit):
    scheduler = build(visit)
    chosen = [3, 20, 30] if scheduler.recipe().discretization.upward else [30, 20, 3]
    try:
        scheduler.set_timesteps(timesteps=chosen)
    except ValueError as error:
        assert "sigmas" in str(error) or "outside" in str(error)  # noqa: PT017
        return
    assert scheduler.custom_timesteps
    assert scheduler.num_inference_steps == 3
    scheduler.set_timesteps(3)
    assert not scheduler.custom_timesteps
