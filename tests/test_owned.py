"""Results are arrays of their own, whatever the network and the caller write to theirs later.

Every loop is run twice: by a caller who keeps fresh arrays, and by one whose network writes all its
outputs to one array, and who overwrites whatever was passed in as soon as a call returns. Both must
get the same, to the bit, and no result may share memory with what was passed.
"""

import functools
import math

import numpy as np
import pytest
from conftest import few
from problems import a_plan, given_of, network, start_of, traced_variants
from scheduling import VISITS, Problem, build, label
from test_fused import WAYS, use

import cmsched
from cmsched import engine, guidance
from cmsched.interop import k_diffusion
from cmsched.samplers import REGISTRY

SHAPE, RNG = (2, 3, 4, 4), 5
pytestmark = pytest.mark.only("numpy", "strict", "torch", "cupy")  # which can be written to
# prediction, projection: where the last step is 1 * x0, and where it is not
CASES = [("sample", "none"), ("sample", "clip"), ("sample", "boundary"), ("epsilon", "none")]
EVERY = [
    pytest.param(name, options, id="-".join([name, *map(str, options.values())]))
    for name, entry in REGISTRY.items()
    for options in few(entry.variants)
]


def cases(xp, count=None):
    return CASES[: 1 if xp.backend == "array_api_strict" else count]


def overwrite(xp, x):
    """Fill an array with nan in place, where the framework has a place."""
    if xp.backend == "torch":
        x.detach().fill_(math.nan)
    else:
        x[...] = math.nan


def fresh(xp, x):
    return xp.xp.asarray(x, copy=True) if xp.backend != "torch" else x.detach().clone()


def share(xp, a, b):
    """Whether two arrays have a byte in common."""
    if xp.backend == "torch":
        return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    if xp.backend == "array_api_strict":
        a, b = a._array, b._array
    return (xp.xp if xp.backend == "cupy" else np).shares_memory(a, b)


def apart(xp, results, *others):
    """Assert that results have no memory in common, with each other nor with others."""
    results = [x for x in results if x is not None]
    for i, x in enumerate(results):
        assert not any(share(xp, x, y) for y in (*results[:i], *others) if y is not None)


def same(xp, got, expected):
    got, expected = xp.numpy(got), xp.numpy(expected)
    np.testing.assert_array_equal(got, expected)


def problem(sampler, options, kind, projection, n=4):
    """A plan that ends at the data where the sampler can."""
    try:
        return a_plan(sampler, options, n=n, end="zero", kind=kind, projection=projection)
    except ValueError:
        return a_plan(sampler, options, n=n, kind=kind, projection=projection)


class Caller:
    """Who runs a loop on arrays of their own: fresh ones, or the same ones over and over."""

    def __init__(self, xp, plan, careless, dtype="float64"):
        self.xp, self.plan, self.careless, self.dtype = xp, plan, careless, dtype
        self.network, self.buffer, self.passed = network(xp.xp, plan.prediction), None, []
        self.noise = self.mine(start_of(SHAPE))
        self.given = given_of(plan, SHAPE) and {
            name: self.mine(x) for name, x in given_of(plan, SHAPE).items()
        }

    def mine(self, host):
        """An array that is about to be passed."""
        x = self.xp.asarray(np.asarray(host), self.dtype)
        self.passed.append(x)
        return x

    def model(self, x, t):
        """Return the output, in the same array each time."""
        output = self.network(x, t)
        if not self.careless:
            return output
        if self.buffer is None:
            self.buffer = fresh(self.xp, output)
            self.passed.append(self.buffer)
        self.buffer[...] = output
        return self.buffer

    def noise_of(self, program, state):
        """Draws that are passed."""
        drawn = cmsched.draw(program, state, RNG)
        return None if drawn is None else tuple(self.mine(self.xp.numpy(z)) for z in drawn)

    def done(self, *arrays):
        """Overwrite what a call was given, once it has returned."""
        for x in arrays if self.careless else ():
            if x is not None:
                overwrite(self.xp, x)

    def begin(self, program, **options):
        x0 = options.pop("x0", None)
        state = cmsched.init(program, self.noise, x0=x0, given=self.given, rng=RNG, **options)
        apart(self.xp, [state.sample, *state.memory], *self.passed)
        self.done(self.noise, x0)
        return state

    def walk(self, program, state):
        """Step by hand; return the samples and estimates, which nothing changed since."""
        found = []
        for _ in range(len(self.plan)):
            output = self.model(*cmsched.model_input(program, state))
            told = cmsched.estimate(program, state, output, given=self.given)
            apart(self.xp, told, output, state.sample)
            mean = cmsched.transition(program, state, output, given=self.given).mean
            apart(self.xp, [mean], output, state.sample, *state.memory)
            noise = self.noise_of(program, state)
            after, x0 = engine.step_and_x0(program, state, output, noise=noise, given=self.given)
            same(self.xp, x0, told.x0)
            apart(self.xp, [after.sample, x0], *after.memory, *state.memory)
            passed = [output, state.sample, *self.passed]
            apart(self.xp, [after.sample, x0], *passed)
            for x in after.memory:
                apart(self.xp, [x], *passed)
            plain = cmsched.step(program, state, output, noise=noise, given=self.given)
            apart(self.xp, [plain.sample], *plain.memory, *state.memory, *passed)
            pair = [plain.sample, *plain.memory], [after.sample, *after.memory]
            for x, y in zip(*pair, strict=True):
                apart(self.xp, [x], *passed)
                same(self.xp, x, y)
            self.done(output, state.sample, *(noise or ()))
            found += [fresh(self.xp, after.sample), *told, x0, mean]
            state = after
        return found


def both(xp, plan, run, **options):
    """Compare what both callers get."""
    expected, got = (run(Caller(xp, plan, careless, **options)) for careless in (False, True))
    for a, b in zip(got, expected, strict=True):
        same(xp, a, b)


@pytest.mark.parametrize("case", CASES, ids="-".join)
@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_step_keeps_nothing_that_it_was_given(xp, sampler, options, case):
    plan = problem(sampler, options, *case)
    both(xp, plan, lambda caller: caller.walk(plan, caller.begin(plan, index=0)))


def in_one_pass(xp, monkeypatch, way, plan):
    use(monkeypatch, way)
    plan._kernels.clear()
    both(xp, plan, lambda caller: caller.walk(plan, caller.begin(plan, index=0)))
    plan._kernels.clear()


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("case", CASES[:2], ids="-".join)
@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_step_in_one_pass(xp, sampler, options, way, case, monkeypatch):
    in_one_pass(xp, monkeypatch, way, problem(sampler, options, *case))


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("way", WAYS[:1])
@pytest.mark.parametrize("sampler", ["ddim", "heun", "lcm", "dpmpp_multistep"])
def test_compiled_step(xp, sampler, way, monkeypatch):
    in_one_pass(xp, monkeypatch, way, problem(sampler, {}, *CASES[0]))


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_step_of_a_table(xp, sampler, options):
    for case in cases(xp, 2):
        plan = problem(sampler, options, *case)
        for shape in ((), SHAPE[:1]):
            zeros = xp.asarray(np.zeros(shape, np.int32))
            both(xp, plan, lambda c, p=plan, i=zeros: c.walk(p, c.begin(p, index=i)))
        stack = cmsched.stack([plan, plan])
        both(xp, plan, lambda c, s=stack: c.walk(s, c.begin(s, which=[1, 0])))


@pytest.mark.only("numpy", "torch")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_step_of_other_dtypes(xp, sampler, options, dtype):
    plan = problem(sampler, options, *CASES[0])
    both(xp, plan, lambda c: c.walk(plan, c.begin(plan, index=0)), dtype=dtype)


@pytest.mark.parametrize(("sampler", "options"), EVERY)
def test_whole_loops(xp, sampler, options):
    def loops(caller, kept):
        """Run the loop by `sample`, `run` and `trajectory`; return all that is seen of it."""

        def callback(i, state, x0):
            apart(xp, [x0], state.sample, *caller.passed)
            kept.append(fresh(xp, x0))
            caller.done(x0)

        given = {"given": caller.given, "rng": RNG}
        once = functools.partial(cmsched.sample, caller.model, caller.plan, caller.noise, **given)
        found = [once(), once(callback=callback)]
        found.append(cmsched.run(caller.model, caller.plan, caller.noise, **given))
        found.append(
            cmsched.run(caller.model, caller.plan, caller.noise, callback=callback, **given)
        )
        found.append(once(x0=caller.mine(start_of(SHAPE, 1))))
        steps = list(cmsched.trajectory(caller.model, caller.plan, caller.noise, **given))
        found += [steps[-1].sample, *(step.x0 for step in steps)]
        apart(xp, found, *caller.passed)
        caller.done(*caller.passed)
        return [*found, *kept]

    for case in cases(xp):
        try:
            plan = problem(sampler, options, *case)
        except ValueError:
            plan = a_plan(sampler, options, n=4)
        both(xp, plan, lambda caller: loops(caller, []))


@pytest.mark.parametrize("kind", ["sample", "flow_prediction"])
def test_start_of_unit_noise(xp, kind):
    scheduler = cmsched.Scheduler(schedule="flow", prediction_type=kind)
    plan = scheduler.plan(3)
    assert plan.grid.init_scale == 1.0
    for x0 in (None, xp.asarray(start_of(SHAPE, 1))):
        noise = xp.asarray(start_of(SHAPE))
        for index in (0, xp.asarray(np.zeros((), np.int32))):
            state = cmsched.init(plan, noise, x0=x0, index=index)
            apart(xp, [state.sample], noise, x0)
            same(xp, state.sample, noise)


# the stateful habit


def habit(xp, visit, careless, return_dict=True):
    """Return all that a stateful loop returns, run on fresh arrays or on the same ones."""
    scheduler = build(visit)
    scheduler.set_timesteps(4, xp=xp.xp)
    problem = Problem(xp, scheduler)
    x, buffer = fresh(xp, problem.start(scheduler)), fresh(xp, problem.outputs[0])
    found = []
    noise = {"generator": 3} if problem.plan.layout.stochastic else {}
    for output, t in zip(problem.outputs, scheduler.timesteps, strict=True):
        scheduler.scale_model_input(x, t)
        if careless:
            buffer[...] = output
            output = buffer
        out = scheduler.step(output, t, x, return_dict=return_dict, **noise)
        fields = out.to_tuple() if return_dict else out
        apart(xp, fields, output, x, *scheduler.run.memory)
        found += map(functools.partial(fresh, xp), fields)
        if careless:
            x[...] = fields[0]
            for array in (*fields, buffer):
                overwrite(xp, array)
        else:
            x = fields[0]
    return found


@pytest.mark.only("numpy", "torch", "cupy")
@pytest.mark.parametrize("visit", VISITS, ids=label)
def test_stateful_loops(xp, visit):
    expected = habit(xp, visit, False)
    for return_dict in (True, False):
        for a, b in zip(habit(xp, visit, True, return_dict), expected, strict=True):
            same(xp, a, b)


@pytest.mark.parametrize("name", ["DDIMScheduler", "LCMScheduler", "TCDScheduler"])
def test_an_estimate_has_the_gradient_of_its_step(torch, name):
    def step(weight):
        scheduler = getattr(cmsched, name)(clip_sample=False)
        scheduler.set_timesteps(4, device="cpu")
        x, ones = (torch.ones(1, 2, 2, 2, dtype=torch.float64) for _ in range(2))
        out = scheduler.step(weight * ones, scheduler.timesteps[0], x, generator=0)
        x.zero_()
        with torch.no_grad():
            assert out[1].requires_grad == weight.requires_grad  # looked at for the first time
        return out[1].sum()

    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    estimate = step(weight)
    (slope,) = torch.autograd.grad(estimate, weight)
    one, two = (step(torch.tensor(w, dtype=torch.float64)) for w in (1.0, 2.0))
    assert estimate == one
    torch.testing.assert_close(two - one, slope)


def test_an_output_does_not_hold_the_networks(torch):
    import weakref

    scheduler = cmsched.DDIMScheduler()
    scheduler.set_timesteps(4, device="cpu")
    output = torch.ones(1, 2, 2, 2)
    held = weakref.ref(output)
    out = scheduler.step(output, scheduler.timesteps[0], torch.ones(1, 2, 2, 2))
    del output
    assert held() is None
    assert out.pred_original_sample is not None


# classes whose loop the caller puts together, and functions


def writable(xp, *shape, seed=0):
    return xp.asarray(np.random.default_rng(seed).standard_normal(shape or SHAPE))


def test_parts_of_karras_ve(xp):
    scheduler = cmsched.KarrasVeScheduler()
    scheduler.set_timesteps(4, xp=xp.xp)
    x, output = writable(xp), writable(xp, seed=1)
    for sigma in (90.0, 10.0):  # outside and inside of where noise is added
        hat, top = scheduler.add_noise_to_input(x, sigma, generator=0)
        apart(xp, [hat], x)
        for return_dict in (True, False):
            out = scheduler.step(output, top, 1.0, hat, return_dict)
            apart(xp, out.to_tuple() if return_dict else out, hat, output)
        told = (scheduler.step(output, top, 1.0, hat)[k] for k in (0, 1))
        given = output, top, 1.0, hat, *told
        apart(xp, scheduler.step_correct(*given).to_tuple(), *(given[k] for k in (0, 3, 4, 5)))


@pytest.mark.parametrize("name", ["ScoreSdeVeScheduler", "ScoreSdeVpScheduler"])
def test_parts_of_score_sdes(xp, name):
    scheduler = getattr(cmsched, name)()
    scheduler.set_timesteps(3, xp=xp.xp)
    x, output = writable(xp), writable(xp, seed=1)
    for t in scheduler.timesteps:
        if name == "ScoreSdeVpScheduler":
            apart(xp, scheduler.step_pred(output, x, t, generator=0), x, output)
            continue
        apart(xp, scheduler.step_pred(output, t, x, generator=0).to_tuple(), x, output)
    if name == "ScoreSdeVeScheduler":
        apart(xp, scheduler.step_correct(output, x, generator=0).to_tuple(), x, output)
        apart(xp, [scheduler.add_noise(x, output, 0)], x, output)


def test_parts_of_repaint(xp):
    scheduler = cmsched.RePaintScheduler(prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(3, jump_length=1, jump_n_sample=2, xp=xp.xp)
    x, output, image = (writable(xp, seed=k) for k in range(3))
    mask = xp.asarray(np.zeros((1, 1, 4, 4)))
    for t in scheduler.timesteps:
        out = scheduler.step(output, t, x, image, mask, generator=0)
        apart(xp, out.to_tuple(), x, output, image, mask)
    apart(xp, [scheduler.undo_step(x, scheduler.timesteps[0], generator=0)], x)


@pytest.mark.parametrize("return_dict", [True, False])
def test_parts_of_cogvideox(xp, return_dict):
    scheduler = cmsched.CogVideoXDPMScheduler(prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(3, xp=xp.xp)
    x, output, old, back = writable(xp), writable(xp, seed=1), None, None
    for t in scheduler.timesteps:
        out = scheduler.step(output, old, t, back, x, generator=0, return_dict=return_dict)
        fields = out.to_tuple() if return_dict else out
        apart(xp, fields, x, output, old)
        (x, old), back = fields, t


def test_parts_of_vq_diffusion(xp):
    scheduler = cmsched.VQDiffusionScheduler(num_vec_classes=4)
    scheduler.set_timesteps(2, xp=xp.xp)
    tokens = xp.asarray(np.full((2, 5), 3))
    log_p = xp.asarray(np.log(np.full((2, 3, 5), 1 / 3)))
    for t in (1, 0):
        out = scheduler.step(log_p, t, tokens, generator=0)
        apart(xp, [*out.to_tuple(), scheduler.q_posterior(log_p, tokens, t)], tokens, log_p)
    for t in (0, -1):
        apart(xp, [scheduler.apply_cumulative_transitions(log_p, t)], log_p)
    found = cmsched.discrete.sample(lambda x, t: log_p, scheduler.plan(2), tokens, rng=0)
    apart(xp, [found], tokens, log_p)


@pytest.mark.parametrize("schedule", ["flow", "cosine", "scaled_linear"])
@pytest.mark.parametrize("t", [0.0, 0.5, 1.0])
def test_noised_samples(xp, schedule, t):
    scheduler = cmsched.Scheduler(schedule=schedule)
    t = scheduler.plan(2).grid.schedule.span[0] if schedule == "scaled_linear" else t
    x, noise = writable(xp), writable(xp, seed=1)
    for times in (t, [t, t], xp.asarray([t, t])):
        apart(xp, [scheduler.add_noise(x, noise, times)], x, noise)
        apart(xp, [scheduler.get_velocity(x, noise, times)], x, noise)


@pytest.mark.parametrize("at", [(1.0, 0.0), (0.0, 1.0), (0.6, 0.8)])
def test_conversions(xp, at):
    x, output = writable(xp), writable(xp, seed=1)
    levels = tuple(xp.asarray(np.array(level)) for level in at)
    point = cmsched.schedules.Point(0.5, *at)
    for source, target in [
        ("sample", "sample"),
        ("v_prediction", "v_prediction"),
        ("v_prediction", "sample"),
        ("v_prediction", "epsilon"),
    ]:
        for where in (point, levels) if at == (0.6, 0.8) else (point,):
            apart(xp, [cmsched.convert(output, x, where, source, target)], x, output)


def test_guidance(xp):
    x = writable(xp)
    both_halves = xp.xp.concat([x, x])
    for rescale in (0.0, 1.0):
        for scale in (0.0, 1.0, 3.0):
            guided = cmsched.guide(lambda x, t: both_halves, scale, rescale=rescale)
            apart(xp, [guided(x, xp.asarray(np.array(1.0)))], x, both_halves)
    apart(xp, [guidance.rescale_noise_cfg(x, x, 0.0)], x)


@pytest.mark.parametrize("schedule", [cmsched.schedules.Identity(), cmsched.schedules.Flow()])
def test_levels(xp, schedule):
    t = xp.asarray([0.3, 0.6])
    on = schedule.on(t)
    apart(xp, [*on.alpha_sigma(t), on.ratio(t), on.time(t), on.time(sigma=t), *on.split(t)], t)


def test_loop_of_no_step(xp):
    x = writable(xp)
    found = k_diffusion.sample_euler(None, x, [1.0])
    apart(xp, [found], x)
    same(xp, found, x)


def test_batches(xp):
    plan = a_plan("heun")
    state = cmsched.init(plan, writable(xp), index=0)
    for other in (cmsched.take(state, slice(None)), cmsched.join([state])):
        apart(xp, [other.sample, *other.memory], state.sample, *state.memory)


def test_noise_of_a_function_with_one_array(xp):
    """RePaint draws twice a step."""
    plan = a_plan("repaint", {"jump_length": 2, "jump_n_sample": 2}, n=4)
    model = network(xp.xp, plan.prediction)
    x, given = writable(xp), {k: xp.asarray(v) for k, v in given_of(plan, SHAPE).items()}
    found = []
    for one_array in (False, True):
        count, buffer = iter(range(100)), writable(xp)

        def rng(shape, dtype, interval, count=count, buffer=buffer, one_array=one_array):
            z = writable(xp, seed=next(count))
            if not one_array:
                return z
            buffer[...] = z
            return buffer

        found.append(cmsched.sample(model, plan, x, given=given, rng=rng))
    same(xp, *found)
