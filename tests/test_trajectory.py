"""The steps of a loop one by one: `sample` and its callback are uses of them."""

import inspect
import itertools
import pickle
import weakref

import numpy as np
import pytest
from problems import REGISTRY, a_plan, given_of, network, start_of, traced_variants

import cmsched
from cmsched.engine import loops

SHAPE = (2, 3)
UNTRACED = [name for name, entry in REGISTRY.items() if not entry.traced]


def arrays_of(xp, plan):
    given = given_of(plan, SHAPE)
    given = given and {name: xp.asarray(array) for name, array in given.items()}
    return network(xp.xp, plan.prediction), xp.asarray(start_of(SHAPE)), given


def equal(xp, a, b):
    return np.array_equal(xp.numpy(a), xp.numpy(b))


@pytest.mark.parametrize("kind", ["plan", "table", "stack"])
@pytest.mark.parametrize(
    ("sampler", "options"),
    [(name, entry.variants[0]) for name, entry in REGISTRY.items() if entry.traced],
    ids=str,
)
def test_the_last_step_has_the_sample(xp, sampler, options, kind):
    plan = a_plan(sampler, options, n=4)
    model, x, given = arrays_of(xp, plan)
    program = {"plan": plan, "table": plan.on(x), "stack": cmsched.stack([plan])}[kind]
    steps = list(cmsched.trajectory(model, program, x, given=given, rng=5))
    expected = cmsched.sample(model, program, x, given=given, rng=5)
    assert [step.i for step in steps] == list(range(len(plan)))
    assert equal(xp, steps[-1].sample, expected)
    state = cmsched.init(program, x, given=given, rng=5)
    for step in steps:
        assert equal(xp, step.before.sample, state.sample)
        assert equal(xp, step.output, model(*cmsched.model_input(program, state)))
        x0 = cmsched.estimate(program, state, step.output, given=given).x0
        assert np.allclose(xp.numpy(step.x0), xp.numpy(x0), rtol=1e-12, atol=1e-12)
        state = cmsched.step(program, state, step.output, given=given, rng=5)
        assert equal(xp, step.sample, state.sample)
        assert len(step.state.memory) == len(plan.layout.slots)


def test_image_to_image(xp):
    plan = a_plan("ddim", n=4)
    model, x, _ = arrays_of(xp, plan)
    image = xp.asarray(start_of(SHAPE, 3))
    *_, last = cmsched.trajectory(model, plan, x, x0=image)
    assert equal(xp, last.sample, cmsched.sample(model, plan, x, x0=image))


@pytest.mark.parametrize("sampler", UNTRACED)
def test_loops_without_rows(xp, sampler):
    """What they evaluate, in turn, and where they end."""
    plan = a_plan(sampler, n=4)
    model, x, _ = arrays_of(xp, plan)
    seen = []
    expected, info = cmsched.run(
        model, plan, x, rng=5, return_info=True, callback=lambda *args: seen.append(args)
    )
    steps = list(cmsched.trajectory(model, plan, x, rng=5))
    assert len(steps) == len(seen) == info["evaluations"]
    assert equal(xp, steps[-1].sample, expected)
    for step, (i, state, x0) in zip(steps, seen, strict=True):
        assert step.i == step.before.index == i == step.state.index - 1
        assert equal(xp, step.before.sample, state.sample)
        assert equal(xp, step.x0, x0)
    for step, following in itertools.pairwise(steps):
        assert step.state is following.before


@pytest.mark.parametrize(
    ("sampler", "options"),
    [("dpmpp_multistep", {"solver_order": 3, "eta": 1.0}), ("heun", {}), ("unipc", {})],
    ids=str,
)
def test_stopped_and_gone_on_with(xp, sampler, options):
    plan = a_plan(sampler, options, n=5)
    model, x, _ = arrays_of(xp, plan)
    expected = cmsched.sample(model, plan, x, rng=7)
    calls = []

    def counting(*args):
        calls.append(args)
        return model(*args)

    steps = cmsched.trajectory(counting, plan, x, rng=7)
    for step in steps:
        if step.i == 2:
            break
    assert len(calls) == 3  # nothing is evaluated ahead of time
    state = step.state
    if xp.backend == "numpy":
        state = pickle.loads(pickle.dumps(state))
    for _ in range(3, len(plan)):
        output = model(*cmsched.model_input(plan, state))
        state = cmsched.step(plan, state, output, rng=7)
    assert equal(xp, state.sample, expected)
    *_, last = steps  # so can the iterator itself
    assert equal(xp, last.sample, expected)
    assert len(calls) == len(plan)


def test_estimates_are_made_where_they_are_seen(xp, monkeypatch):
    def unwanted(*args, **more):
        raise AssertionError("an estimate that nobody sees")

    plan = a_plan("ddim", n=3)
    model, x, _ = arrays_of(xp, plan)
    monkeypatch.setattr(loops, "step_and_x0", unwanted)
    cmsched.sample(model, plan, x)
    for seen in (cmsched.trajectory(model, plan, x), None):
        with pytest.raises(AssertionError, match="nobody"):
            next(seen) if seen else cmsched.sample(model, plan, x, callback=print)


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_sample_keeps_no_past(sampler, options):
    """While the network is evaluated, what it was given two steps ago and said one ago is gone."""
    plan = a_plan(sampler, options, n=6)
    model = network(np, plan.prediction)
    inputs, outputs = [], []
    held = len(plan.layout.slots)

    def watched(x, t):
        alive = [ref for ref in (*inputs[:-1], *outputs) if ref() is not None]
        assert len(alive) <= held
        made = model(x, t) + 0.0
        inputs.append(weakref.ref(x))
        outputs.append(weakref.ref(made))
        return made

    given = given_of(plan, SHAPE)
    cmsched.sample(watched, plan, start_of(SHAPE), given=given, rng=5)
    assert len(inputs) == len(plan)


def test_errors_come_at_once(xp):
    plan = a_plan("ddim", n=3)
    model, x, _ = arrays_of(xp, plan)
    other = xp.asarray(start_of((2, 4)))
    with pytest.raises(ValueError, match="x0 has shape"):
        cmsched.trajectory(model, plan, x, x0=other)
    with pytest.raises(TypeError, match="noise"):
        cmsched.trajectory(model, plan, [1.0])
    with pytest.raises(ValueError, match="x0 has shape"):
        cmsched.trajectory(model, a_plan(UNTRACED[0], n=3), x, x0=other)
    steps = cmsched.trajectory(model, a_plan("ddpm", n=3), x)
    with pytest.raises(ValueError, match="this step draws noise"):
        next(steps)


def test_inside_a_trace_it_is_written_out():
    jax = pytest.importorskip("jax")
    plan = a_plan("dpmpp_multistep", {"eta": 1.0}, n=4)
    model = network(jax.numpy, plan.prediction)
    x, key = jax.numpy.asarray(start_of(SHAPE)), jax.random.key(3)

    @jax.jit
    def previews(x, key):
        return [(step.x0, step.sample) for step in cmsched.trajectory(model, plan, x, rng=key)]

    outside = list(cmsched.trajectory(model, plan, x, rng=key))
    near = 100 * float(jax.numpy.finfo(x.dtype).eps)
    for (x0, sample), step in zip(previews(x, key), outside, strict=True):
        assert np.allclose(x0, step.x0, rtol=near, atol=near)
        assert np.allclose(sample, step.sample, rtol=near, atol=near)


def test_its_signature_is_the_beginning_of_that_of_sample():
    own, whole = (
        list(inspect.signature(f).parameters) for f in (cmsched.trajectory, cmsched.sample)
    )
    assert own == whole[: len(own)] == ["model", "plan", "noise", "x0", "given", "rng"]
