"""Wrong input to the named schedulers: the right error, and a scheduler that is as it was."""

import copy
import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
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
    stochastic,
)

import cmsched
from cmsched.schedulers.options import Rule

every_class = pytest.mark.parametrize("visit", DEFAULTS, ids=label)


def state_of(value):
    """Return what can change in an attribute: generators have a state inside."""
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if hasattr(value, "get_state"):
        return value.get_state().tolist()
    if isinstance(value, tuple):
        return [state_of(item) for item in value]
    if isinstance(value, dict):
        return {key: state_of(item) for key, item in value.items()}
    return value if isinstance(value, str | int | float | None) else id(value)


def snapshot(scheduler):
    return {name: state_of(value) for name, value in vars(scheduler).items()}


def refused(scheduler, call, kinds=(ValueError, TypeError), match="."):
    """Fail unless the call raises one of these and leaves everything as it was."""
    before, held = snapshot(scheduler), dict(vars(scheduler))  # held: no id is used again
    with pytest.raises(kinds, match=match) as caught:
        call()
    assert type(caught.value) in (kinds if isinstance(kinds, tuple) else (kinds,))
    assert snapshot(scheduler) == before
    assert held.keys() == vars(scheduler).keys()
    return str(caught.value)


def test_snapshots_see_changes():
    scheduler, problem = begun(NUMPY, ("DDPMScheduler", {}))
    for change in (
        lambda: scheduler.set_begin_index(1),
        lambda: scheduler.set_timesteps(4),
        lambda: scheduler.step(problem.outputs[0], scheduler.timesteps[0], problem.noise),
        lambda: scheduler.run.generator.standard_normal(),
    ):
        before = snapshot(scheduler)
        change()
        assert snapshot(scheduler) != before


def begun(xp, visit, taken=1):
    """Return a scheduler in the middle of a run, and its problem."""
    scheduler = build(visit)
    problem = Problem(xp, scheduler)
    scheduler.set_timesteps(4)
    options = {"generator": 7} if xp.backend == "jax" else {}
    steps = problem.stateful(scheduler, **options)
    for _ in range(taken):
        next(steps)
    return scheduler, problem


# --- plans and timesteps -------------------------------------------------------------------------

PLANS = {
    "nothing": ({}, "exactly one"),
    "two": ({"num_inference_steps": 3, "timesteps": [30]}, "num_inference_steps and timesteps"),
    "two lists": ({"sigmas": [3.0], "timesteps": [30, 20]}, "timesteps and sigmas"),
    **{
        f"steps={n!r}": ({"num_inference_steps": n}, "num_inference_steps")
        for n in (0, -1, True, 2.0, 2.5, "3", [3], (), {}, b"3", math.nan, math.inf, 1j, 10**9)
    },
    "increasing timesteps": ({"timesteps": [3, 20, 30]}, r"\[30, 20, 3\]|sigmas"),
    "equal timesteps": ({"timesteps": [30, 20, 20, 3]}, "decreasing|step numbers|sigmas"),
    "increasing sigmas": ({"sigmas": [0.1, 1.0]}, r"\[1, 0.1\]"),
    **{
        f"{name}={values!r}": ({name: values}, name)
        for name in ("timesteps", "sigmas")
        for values in ([], [math.nan], "abc", [[30], [20]], {}, object(), [1j], [None], 5, "3")
    },
    "timesteps outside": ({"timesteps": [10**6, 3]}, "outside|step numbers"),
    "negative timesteps": ({"timesteps": [3, -3]}, "outside|step numbers"),
    "negative sigmas": ({"sigmas": [1.0, -1.0]}, "sigmas must end above"),
    **{
        f"strength={s!r}": ({"num_inference_steps": 3, "strength": s}, "strength")
        for s in (0, -0.5, 1.5, True, "1", None, math.nan, math.inf, [1], 0.01)
    },
    "misspelt": ({"num_inference_step": 3}, "did you mean 'num_inference_steps'"),
    "misspelt list": ({"timestep": [3]}, "did you mean 'timesteps'"),
    "unknown": ({"num_inference_steps": 3, "nonsense": 1}, "no option 'nonsense'"),
}


UPWARD = {
    "increasing timesteps": r"\[3, 20, 30\]",
    "equal timesteps": "increasing",
    "increasing sigmas": r"\[0.1, 1\]",
    "negative sigmas": "sigmas must start above",
}


@every_class
@pytest.mark.parametrize("method", ["plan", "set_timesteps"])
def test_wrong_plans(visit, method):
    scheduler, _ = begun(NUMPY, visit)
    for case, (options, match) in PLANS.items():
        if case == "equal timesteps" and (scheduler.order > 1 or visit[0] == "PNDMScheduler"):
            continue  # that is how its own timesteps are
        if scheduler.recipe().discretization.upward:  # its lists increase
            lists = {k: v[::-1] for k, v in options.items() if isinstance(v, list)}
            options, match = options | lists, UPWARD.get(case, match)
        refused(scheduler, lambda o=options: getattr(scheduler, method)(**o), match=match)


@every_class
def test_wrong_places(visit):
    scheduler, _ = begun(NUMPY, visit)
    for xp in ("nump", "nonsense", 3, [], object(), math):
        refused(scheduler, lambda xp=xp: scheduler.set_timesteps(3, xp=xp), match="xp=")
        with pytest.raises(ValueError, match="xp="):
            build(visit, xp=xp)
    for device in (3, [], object(), 1.5):
        refused(scheduler, lambda d=device: scheduler.set_timesteps(3, device=d), match="device")
    refused(scheduler, lambda: scheduler.set_timesteps(3, num_inference_steps=3), match="position")
    refused(scheduler, lambda: scheduler.set_timesteps(*range(20)), match="by position")


@every_class
def test_wrong_sampler_options(visit):
    scheduler, problem = begun(NUMPY, visit)
    for name, default in problem.plan.options.items():
        for value in ("nonsense", [], None, math.nan, -1, object(), 1j):
            if value == default or (default is None) or isinstance(default, str | tuple):
                continue
            refused(scheduler, lambda n=name, v=value: scheduler.plan(3, **{n: v}), match=name)


def test_epsilon_at_zero_terminal_snr():
    for name in ("DDIMScheduler", "DDPMScheduler", "LCMScheduler"):
        scheduler = CLASSES[name](rescale_betas_zero_snr=True)
        if name != "LCMScheduler":
            scheduler.register_to_config(timestep_spacing="trailing")
        scheduler.set_begin_index(0)
        match = "prediction_type='epsilon' does not determine x0.*v_prediction"
        refused(scheduler, lambda s=scheduler: s.set_timesteps(3), match=match)


# --- steps ---------------------------------------------------------------------------------------


@every_class
def test_step_before_set_timesteps(xp, visit):
    scheduler = build(visit)
    x = xp.asarray(normals((2, 3)))
    refused(scheduler, lambda: scheduler.step(x, 1, x), match="call set_timesteps")
    refused(scheduler, lambda: scheduler.index_for_timestep(1), match="call set_timesteps")
    if scheduler.schedule.sigma_data:
        refused(scheduler, lambda: scheduler.scale_model_input(x, 1), match="call set_timesteps")


@every_class
def test_step_after_the_last_one(xp, visit):
    scheduler = build(visit)
    problem = Problem(xp, scheduler)
    scheduler.set_timesteps(4)
    x = last(problem.stateful(scheduler, generator=7))
    t = scheduler.timesteps[-1]
    args = (problem.outputs[0], t, x)
    refused(scheduler, lambda: scheduler.step(*args, generator=7), match="the loop is over")
    if scheduler.schedule.sigma_data:
        refused(scheduler, lambda: scheduler.scale_model_input(x, t), match="the loop is over")


def wrong_steps(xp, scheduler, problem):
    """Yield (what is wrong, what the message says, arguments, options)."""
    x, m, t = problem.noise, problem.outputs[1], scheduler.timesteps[scheduler.step_index]
    wide = normals((2, 3, 4, 4))
    yield "narrow output", "shape", (m[:, :, :1, :], t, x), {}
    yield "output that broadcasts", "shape", (m[:1, ...], t, x), {}
    yield "sample that broadcasts", "shape", (m, t, x[:1, ...]), {}
    yield "fewer axes", "shape", (m[0, ...], t, x), {}
    yield "integer sample", "dtype", (m, t, xp.asarray(wide.astype(np.int64))), {}
    yield "integer output", "dtype", (xp.asarray(np.ones(m.shape, np.int64)), t, x), {}
    yield "boolean output", "dtype", (xp.asarray(np.ones(m.shape, bool)), t, x), {}
    yield "list output", "array", ([1.0], t, x), {}
    yield "no output", "array", (None, t, x), {}
    yield "list sample", "array", (m, t, [1.0]), {}
    yield "no sample", "array", (m, t, None), {}
    if xp.backend == "numpy":
        import array_api_strict as other
    else:
        other = np
    yield "other framework", "numpy|array_api_strict", (m, t, other.asarray(wide)), {}
    yield "other output", "numpy|array_api_strict", (other.asarray(wide), t, x), {}
    for wrong in (12345.5, 12345, -1, math.nan, math.inf, np.float64(0.123), np.int64(77)):
        yield f"timestep {wrong!r}", "timestep", (m, wrong, x), {}
    for wrong in ("981", object(), [1, 2], {}, b"1"):
        yield f"timestep {wrong!r}", "timestep", (m, wrong, x), {}
    both = {"generator": 7, "variance_noise": x}
    yield "noise twice", "either generator or variance_noise", (m, t, x), both
    yield "noise of another shape", "variance_noise", (m, t, x), {"variance_noise": x[:1, ...]}
    yield "noise of another kind", "variance_noise|array", (m, t, x), {"variance_noise": [1.0]}
    whole = xp.asarray(np.ones((2, 3, 4, 4), np.int64))
    yield "integer noise", "variance_noise", (m, t, x), {"variance_noise": whole}
    yield "unknown option", "no option 'nonsense'", (m, t, x), {"nonsense": 1}
    yield "misspelt", "did you mean 'return_dict'", (m, t, x), {"return_dic": False}
    many = [None] * (len(scheduler.step_options) + 1)
    yield "too many", "by position", (m, t, x, *many), {}
    yield (
        "twice",
        "by position and by name",
        (m, t, x, True),
        {next(iter(scheduler.step_options)): 1},
    )
    for name in {*scheduler.step_options} - {"generator", "variance_noise", "return_dict"}:
        for wrong in ("nonsense", [], -1, math.nan, object(), 1j, -math.inf):
            yield f"{name}={wrong!r}", name, (m, t, x), {name: wrong}


@every_class
def test_wrong_steps(xp, visit):
    scheduler, problem = begun(xp, visit)
    for what, match, args, options in wrong_steps(xp, scheduler, problem):
        if xp.backend == "jax" and not {"generator", "variance_noise"} & options.keys():
            options = {"generator": 7, **options} if len(args) == 3 else options
        refused(scheduler, lambda a=args, o=options: scheduler.step(*a, **o), match=match), what
    if problem.plan.rows[1].draws:
        for wrong in ("nonsense", 1.5, -1, [1], [1, 2, 3], object(), True, lambda *a: None):
            args = (problem.outputs[1], scheduler.timesteps[1], problem.noise)
            refused(scheduler, lambda w=wrong, a=args: scheduler.step(*a, generator=w))


@every_class
def test_wrong_first_steps(visit):
    scheduler = build(visit)
    problem = Problem(NUMPY, scheduler)
    scheduler.set_timesteps(4)
    x, m = problem.noise, problem.outputs[0]
    for wrong in (12345.5, -1, math.nan, "981", None.__class__, [1, 2], {}, np.arange(3)):
        refused(scheduler, lambda w=wrong: scheduler.step(m, w, x), match="timestep")
        if scheduler.schedule.sigma_data:
            refused(scheduler, lambda w=wrong: scheduler.scale_model_input(x, w), match="timestep")
    if not problem.plan.grid.integral:
        for number in (0, 1, 2, np.int64(2)):
            match = "is an integer.*not their numbers"
            if number == scheduler.timesteps[0]:  # which is whole
                continue
            refused(scheduler, lambda n=number: scheduler.step(m, n, x), match=match)


@every_class
def test_wrong_begin_indices(visit):
    scheduler, problem = begun(NUMPY, visit)
    for wrong in (-1, len(problem.plan), 10**9, True, 1.0, "1", None, [1], math.nan, object()):
        refused(scheduler, lambda w=wrong: scheduler.set_begin_index(w), match="begin_index")


@pytest.mark.parametrize("visit", stochastic(DEFAULTS), ids=label)
def test_jax_makes_no_noise_up(xp, visit):
    if xp.backend == "jax":
        scheduler, problem = begun(xp, visit)
        args = (problem.outputs[1], scheduler.timesteps[1], problem.noise)
        refused(scheduler, lambda: scheduler.step(*args), match="jax.random.key")


def test_churn_at_step_needs_the_reference_s_order():
    scheduler, problem = begun(NUMPY, ("EulerDiscreteScheduler", {}))
    args = (problem.outputs[1], scheduler.timesteps[1], problem.noise)
    refused(
        scheduler, lambda: scheduler.step(*args, s_churn=5.0), match='compatibility="diffusers"'
    )
    scheduler.step(*args, s_churn=0.0, s_tmin=0.0, s_tmax=math.inf, s_noise=1.0)
    scheduler.set_timesteps(4, s_churn=5.0)
    noised = scheduler.step(*args[:1], scheduler.timesteps[0], problem.noise).prev_sample
    assert not np.array_equal(noised, problem.noise)


@every_class
def test_another_sample_in_the_middle_of_a_run(visit):
    scheduler, problem = begun(NUMPY, visit)
    if problem.plan.layout.slots:
        other = np.ones((5, 3, 4, 4))
        t = scheduler.timesteps[1]
        refused(scheduler, lambda: scheduler.step(other, t, other), match="shape")


# --- noise levels --------------------------------------------------------------------------------


@every_class
def test_wrong_noising(xp, visit):
    scheduler = build(visit)
    t = float(scheduler.timesteps[0])
    x, z = xp.asarray(normals((2, 3))), xp.asarray(normals((2, 3), 1))
    other = (
        np.ones((2, 3)) if xp.backend != "numpy" else __import__("array_api_strict").ones((2, 3))
    )
    whole = xp.asarray(np.ones((2, 3), np.int64))
    for method in (scheduler.add_noise, scheduler.get_velocity):
        method(x, z, t)  # fills the tables
        for args, match in (
            ((x, z[:1, ...], t), "shape"),
            ((x[:1, ...], z, t), "shape"),
            ((x, other, t), "noise is an array of"),
            ((x, whole, t), "noise has dtype"),
            ((whole, z, t), "dtype"),
            (([1.0], z, t), "array"),
            ((x, None, t), "array"),
            ((x, z, 10.0**6), "timesteps must lie in"),
            ((x, z, -(10.0**6)), "timesteps must lie in"),
            ((x, z, [t, 10.0**6]), "timesteps must lie in"),
            ((x, z, math.nan), "timesteps must lie in"),
            ((x, z, [t, t, t]), "one per row"),
            ((x, z, [[t], [t]]), "one per row"),
            ((x, z, xp.asarray([t, t, t])), "one per row"),
            ((x, z, "nonsense"), "."),
            ((x, z, None), "."),
        ):
            refused(scheduler, lambda a=args, m=method: m(*a), match=match)
    if xp.backend != "numpy":
        strange = __import__("array_api_strict").asarray([t]) if xp.name != "strict" else None
        if strange is not None:
            refused(scheduler, lambda: scheduler.add_noise(x, z, strange), match="timesteps is an")


# --- options -------------------------------------------------------------------------------------

NASTY = [
    *(None, True, False, 0, 1, 2, 3, -1, 10**6, 10**12, 10**30, -(10**30)),
    *(0.0, 0.5, 1.0, -0.5, 1e-9, 1e-30, 5e-324, 1e9, 1e30, 1e300, 1.7e308, -1e30),
    *(math.nan, math.inf, -math.inf, 1j),
    *("", "nonsense", "linear", "1", "True", "inf", b"linear", "LINEAR"),
    *([], [1], [0.1, 0.2], ["a"], [None], [[0.1], [0.2]], (), (0.1,), {}, {"a": 1}, {1}),
    *(object(), object, len, np.array([0.1, 0.2]), np.float32(0.5), np.int64(3), np.nan, Ellipsis),
    *([0.01] * 1000, [0.5] * 1000, [2.0] * 1000, [math.nan] * 1000, ["x"] * 1000),
]
OPTIONS = [
    (name, option)
    for name, cls in CLASSES.items()
    for option in [*cls.options, *cls.hidden_options, "compatibility", "xp"]
]


def finite_or_refused(name, **options):
    """Return whether a scheduler with these options is accepted; then a short run is finite."""
    try:
        scheduler = CLASSES[name](**options)
        problem = Problem(NUMPY, scheduler, 3, shape=(2, 2, 3))
        scheduler.set_timesteps(3)
    except (ValueError, TypeError):
        return False
    x = last(problem.stateful(scheduler, generator=7))
    assert np.all(np.isfinite(x)), options
    assert np.all(np.isfinite(np.asarray(scheduler.timesteps, dtype=float))), options
    assert math.isfinite(scheduler.init_noise_sigma), options
    return True


@pytest.mark.filterwarnings("ignore:.*has no effect")
@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_every_option_with_nasty_values(name, option):
    accepted = [value for value in NASTY if finite_or_refused(name, **{option: value})]
    assert len(accepted) < len(NASTY) - 10
    for value in accepted:  # only what is of the option's kind
        default = {**CLASSES[name].options, **CLASSES[name].hidden_options}.get(option)
        if isinstance(default, bool):
            assert isinstance(value, bool) or value is None
        elif isinstance(default, int | float):
            assert not isinstance(value, bool | str | list)


@pytest.mark.filterwarnings("ignore:.*has no effect")
@given(st.data())
def test_any_two_options(data):
    name = data.draw(st.sampled_from(sorted(CLASSES)))
    known = sorted(CLASSES[name].options)
    values = st.one_of(
        st.sampled_from(NASTY), st.integers(), st.floats(), st.text(max_size=3), st.booleans()
    )
    finite_or_refused(
        name, **data.draw(st.dictionaries(st.sampled_from(known), values, max_size=2))
    )


@pytest.mark.filterwarnings("ignore:.*has no effect")
@pytest.mark.parametrize("visit", VISITS, ids=label)
def test_settings_that_are_visited_are_finite(visit):
    assert finite_or_refused(visit[0], **visit[1])


def test_what_is_not_looked_at():
    """A range whose switch is off, and the ends of betas that are given, may be anything."""
    ddim, given = cmsched.DDIMScheduler, [0.1] * 1000
    for switch, option in (
        ({"clip_sample": False}, {"clip_sample_range": -1.0}),
        ({"thresholding": False}, {"sample_max_value": -1.0}),
        ({"thresholding": False}, {"dynamic_thresholding_ratio": 2.0}),
        ({"trained_betas": given}, {"beta_start": 2.0, "beta_end": -1.0}),
    ):
        assert {**ddim(**switch, **option).config}.items() >= option.items()
        on = {k: not v for k, v in switch.items() if v is False}
        with pytest.raises(ValueError, match=f"^{next(iter(option))} must"):
            ddim(**on, **option)
    with pytest.raises(ValueError, match="clip_sample_range must be positive"):
        cmsched.Scheduler(clip_sample_range=-1.0)  # there it is its own switch


@pytest.mark.parametrize(
    ("rule", "inside", "outside", "text"),
    [
        (Rule(above=0.0), (1e-9, 7), (0, -1.0), "be positive"),
        (Rule(least=0.0), (0, 1e-9), (-1e-9,), "be at least 0"),
        (Rule(above=0.0, below=1.0), (1e-9, 1 - 1e-9), (0.0, 1.0), r"lie in \(0, 1\)"),
        (Rule(above=0.0, most=1.0), (1e-9, 1), (0, 1.1), r"lie in \(0, 1\]"),
        (Rule(least=0.0, below=1.0), (0, 0.9), (-1e-9, 1.0), r"lie in \[0, 1\)"),
    ],
)
def test_ends_of_ranges(rule, inside, outside, text):
    for value in inside:
        rule.check("amount", value)
    for value in (*outside, math.nan):
        with pytest.raises(ValueError, match=f"^amount must {text}, got {value}$"):
            rule.check("amount", value)


@every_class
def test_unknown_options_name_the_nearest(visit):
    cls = CLASSES[visit[0]]
    for option in cls.options:
        with pytest.raises(TypeError, match=f"did you mean '{option}'"):
            cls(**{option + "x": 1})


@every_class
def test_wrong_values_by_other_ways(visit):
    """register_to_config refuses at once; a replaced dict is refused by set_timesteps."""
    scheduler, _ = begun(NUMPY, visit)
    for option, default in scheduler.options.items():
        wrong = object() if default is None else {"nonsense": 1} if default != {} else 1
        if default is None and option not in ("sigma_min", "sigma_max", "variance_type"):
            continue
        change = {option: wrong}
        refused(scheduler, lambda c=change: scheduler.register_to_config(**c), match=option)
        held = scheduler._internal_dict
        scheduler._internal_dict = {**scheduler.config, **change}
        refused(scheduler, lambda: scheduler.set_timesteps(3), match=option)
        scheduler._internal_dict = held
    scheduler.set_timesteps(3)


@given(st.lists(st.one_of(st.floats(), st.integers()), max_size=5), st.sampled_from(DEFAULTS))
def test_any_list(values, visit):
    """A list of sigmas or timesteps is refused, or gives a finite run at just these levels."""
    for key, scheduler in itertools.product(("sigmas", "timesteps"), [build(visit)]):
        before = snapshot(scheduler)
        try:
            scheduler.set_timesteps(**{key: values})
        except (ValueError, TypeError):
            assert snapshot(scheduler) == before
            continue
        steps = values
        if scheduler.order > 1:  # a list of evaluations has later entries up to `order` times
            steps = [*dict.fromkeys(values)]
            assert values.count(values[0]) == 1
            assert all(values.count(v) <= scheduler.order for v in values)
        assert all(b < a for a, b in itertools.pairwise(steps))
        x = normals((2, 2)) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            x = scheduler.step(0.1 * normals((2, 2)), t, x, generator=7).prev_sample
        assert not np.any(np.isnan(x))


def test_what_has_no_effect_is_said_once():
    scheduler, problem = begun(NUMPY, ("EulerDiscreteScheduler", {}), 0)
    x, options = problem.noise, {"variance_noise": problem.noise}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for i, t in enumerate(scheduler.timesteps):
            x = scheduler.step(problem.outputs[i], t, x, **options).prev_sample
        twin = copy.deepcopy(scheduler)
        twin.set_timesteps(4)
        twin.step(problem.outputs[0], twin.timesteps[0], x, **options)
    assert [str(w.message) for w in said] == [
        "EulerDiscreteScheduler: variance_noise has no effect: this configuration draws no noise"
    ]
    assert said[0].filename == __file__


def test_messages_are_cmsched_s_own():
    """No message of a native exception reaches the user for the most common slips."""
    for wrong in ("0.1", None, [], True):
        with pytest.raises(TypeError, match="beta_start must be a number"):
            cmsched.DDIMScheduler(beta_start=wrong)
    with pytest.raises(TypeError, match="clip_sample must be True or False"):
        cmsched.DDIMScheduler(clip_sample="yes")
    with pytest.raises(TypeError, match="steps_offset must be an integer"):
        cmsched.DDIMScheduler(steps_offset=1.0)
    with pytest.raises(ValueError, match="beta_start must be a finite number"):
        cmsched.DDIMScheduler(beta_start=math.nan)


def test_an_option_without_effect_says_so_once():
    scheduler = cmsched.EulerDiscreteScheduler(sigma_min=0.05)
    with pytest.warns(UserWarning, match="sigma_min has no effect without a ramp"):
        scheduler.set_timesteps(3)
    scheduler.set_timesteps(3)  # a second warning would be an error
    cmsched.EulerDiscreteScheduler(sigma_min=0.05, use_karras_sigmas=True).set_timesteps(3)


def test_what_is_no_plan():
    """The likeliest slips: the scheduler in its plan's place, the network behind the plan."""
    scheduler, noise = cmsched.DDIMScheduler(), np.ones((2, 3))
    plan = scheduler.plan(3)
    for wrong in (
        lambda: cmsched.sample(lambda x, t: x, scheduler, noise),
        lambda: cmsched.run(lambda x, t: x, scheduler, noise),
        lambda: cmsched.trajectory(lambda x, t: x, scheduler, noise),
        lambda: cmsched.init(scheduler, noise),
    ):
        with pytest.raises(TypeError, match=r"got DDIMScheduler; pass scheduler.plan\(20\)"):
            wrong()
    with pytest.raises(TypeError, match="the network comes before the plan"):
        cmsched.sample(plan, lambda x, t: x, noise)
    with pytest.raises(TypeError, match=r"got int; make one by cmsched\.make_plan"):
        cmsched.init(20, noise)
