"""What only PyTorch has: compilation, transforms, modes, memory formats, data-free devices."""

import threading

import pytest
from problems import a_plan, given_of, network, start_of, traced_variants

torch = pytest.importorskip("torch")

import array_api_compat.torch as xp  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import cmsched  # noqa: E402

FAMILIES = [
    ("ddim", {}),
    ("ddpm", {"variance": "learned_range"}),
    ("heun", {"s_churn": 5.0}),
    ("dpmpp_multistep", {"solver_order": 3, "eta": 1.0}),
]


def tensor(shape, dtype=torch.float32, seed=0):
    return torch.tensor(start_of(shape, seed), dtype=dtype)


class Spy(TorchDispatchMode):
    """Records every operation, and the dtypes of what it makes."""

    def __init__(self):
        super().__init__()
        self.names, self.dtypes = [], set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.append(str(func))
        for out in result if isinstance(result, tuple | list) else [result]:
            if isinstance(out, torch.Tensor):
                self.dtypes.add(out.dtype)
        return result


@pytest.mark.parametrize(("sampler", "options"), FAMILIES, ids=str)
def test_one_graph_serves_every_step(sampler, options):
    plan = a_plan(sampler, options, n=20, projection="clip", schedule="ve")
    model = network(xp, plan.prediction)
    x = tensor((2, 3, 4))
    torch._dynamo.reset()
    table = plan.on(x)

    def step(table, state, output, z):
        return cmsched.step(table, state, output, noise=z)

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    state = other = cmsched.init(plan, x, rng=5, index=torch.zeros((), dtype=torch.int32))
    for k in range(20):
        output = model(*cmsched.model_input(plan, state))
        z = cmsched.draw(plan, state, 5)
        with torch._dynamo.config.patch(error_on_recompile=k > 0):
            other = compiled(table, other, output, z)
        state = cmsched.step(plan, state, output, noise=z)
        assert torch.allclose(state.sample, other.sample, rtol=1e-5, atol=1e-5)


def test_a_plan_can_be_compiled_with_its_noise():
    """The plan itself, not its table, and portable noise inside the graph."""
    plan = a_plan("ddpm", n=20)
    model = network(xp, plan.prediction)
    x = tensor((2, 3))
    torch._dynamo.reset()

    def step(state):
        output = model(*cmsched.model_input(plan, state))
        return cmsched.step(plan, state, output, rng=5)

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    state = cmsched.init(plan, x, index=torch.zeros((2,), dtype=torch.int64))
    for k in range(20):
        with torch._dynamo.config.patch(error_on_recompile=k > 0):
            state = compiled(state)
    assert torch.allclose(state.sample, cmsched.sample(model, plan, x, rng=5), atol=1e-4)


def test_the_whole_loop_compiles():
    plan = a_plan("dpmpp_multistep", n=4)
    model = network(xp, plan.prediction)
    x = tensor((2, 3))
    torch._dynamo.reset()
    expected = cmsched.sample(model, a_plan("dpmpp_multistep", n=4), x)
    for _ in range(2):  # before the plan was ever used, and after
        torch._dynamo.reset()
        loop = torch.compile(
            lambda x: cmsched.sample(model, plan, x), backend="eager", fullgraph=True
        )
        assert torch.allclose(loop(x), expected, atol=1e-5)
        assert torch.equal(cmsched.sample(model, plan, x), expected)


@pytest.mark.parametrize("index", [0, torch.zeros((), dtype=torch.int32)], ids=["int", "array"])
@pytest.mark.parametrize(("sampler", "options"), FAMILIES, ids=str)
def test_gradients_through_a_loop(sampler, options, index):
    plan = a_plan(sampler, options, n=3)
    model = network(xp, plan.prediction)

    def loop(x):
        state = cmsched.init(plan, x, rng=5, index=index)
        for _ in range(len(plan)):
            state = cmsched.step(plan, state, model(*cmsched.model_input(plan, state)), rng=5)
        return state.sample

    x = tensor((1, 2), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(loop, (x,))


def test_gradients_with_respect_to_the_network():
    plan = a_plan("dpmpp_multistep", {"eta": 1.0}, n=3)
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    x = tensor((2, 3), torch.float64)

    def loop(weight):
        return cmsched.sample(lambda x, t: torch.tanh(x * weight + t), plan, x, rng=5)

    assert torch.autograd.gradcheck(loop, (weight,))


def test_gradients_of_the_density():
    plan = a_plan("ddpm", n=3)
    x, output = tensor((2, 3), torch.float64), tensor((2, 3), torch.float64, 1)
    state = cmsched.init(plan, x)
    following = cmsched.step(plan, state, output, rng=3).sample
    output.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda output: cmsched.transition(plan, state, output).log_prob(following), (output,)
    )


@pytest.mark.parametrize("index", [0, torch.zeros((), dtype=torch.int32)], ids=["int", "array"])
def test_vmap(index):
    plan = a_plan("dpmpp_multistep", {"eta": 1.0, "solver_order": 3}, n=4)
    model = network(xp, plan.prediction)
    x = tensor((5, 2, 3))
    state = cmsched.init(plan, x[0], index=index)
    for _ in range(2):
        z = cmsched.draw(plan, state, 5)
        state = cmsched.step(plan, state, model(*cmsched.model_input(plan, state)), noise=z)
    z = cmsched.draw(plan, state, 5)

    def step(sample, output):
        return cmsched.step(plan, state._replace(sample=sample), output, noise=z).sample

    outputs = tensor((5, 2, 3), seed=1)
    only_output = torch.func.vmap(step, in_dims=(None, 0))(x[0], outputs)
    both = torch.func.vmap(step)(x, outputs)
    for k in range(5):
        assert torch.allclose(only_output[k], step(x[0], outputs[k]), atol=1e-6)
        assert torch.allclose(both[k], step(x[k], outputs[k]), atol=1e-6)


def test_vmap_of_a_whole_loop_with_portable_noise():
    plan = a_plan("ddpm", n=3)
    model = network(xp, plan.prediction)
    x = tensor((4, 2, 3))
    mapped = torch.func.vmap(lambda x: cmsched.sample(model, plan, x, rng=5))(x)
    for k in range(4):
        assert torch.allclose(mapped[k], cmsched.sample(model, plan, x[k], rng=5), atol=1e-5)


def test_what_inference_mode_made_serves_training_too():
    """Tables and times are kept by the plan: they must not be inference tensors."""
    plan = a_plan("dpmpp_multistep", n=3)
    weight = torch.tensor(0.3, requires_grad=True)
    x = tensor((2, 3))

    def loop(index):
        state = cmsched.init(plan, x, index=index)
        for _ in range(3):
            x_in, t = cmsched.model_input(plan, state)
            state = cmsched.step(plan, state, torch.tanh(x_in * weight + t * weight))
        return state.sample.sum()

    for make in (lambda: 0, lambda: torch.zeros((), dtype=torch.int32)):
        with torch.inference_mode():
            quiet = loop(make())
        loud = loop(make())
        loud.backward()
        assert torch.equal(quiet, loud)
    assert weight.grad.isfinite()


def test_fake_tensors_leave_nothing_behind():
    plan = a_plan("ddpm", n=3)
    model = network(xp, plan.prediction)
    for make in (lambda: 0, lambda: torch.zeros((2,), dtype=torch.int32)):
        for _ in range(2):
            with FakeTensorMode():
                x = torch.empty(2, 3)
                state = cmsched.init(plan, x, index=make())
                for _ in range(3):
                    output = model(*cmsched.model_input(plan, state))
                    state = cmsched.step(plan, state, output, noise=x)
        x = tensor((2, 3))
        state = cmsched.init(plan, x, index=make())
        for _ in range(3):
            output = model(*cmsched.model_input(plan, state))
            state = cmsched.step(plan, state, output, noise=x)
        assert type(state.sample) is torch.Tensor
        assert state.sample.isfinite().all()


@pytest.mark.parametrize(
    "format", [torch.channels_last, torch.contiguous_format], ids=["last", "first"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_memory_format_is_kept(format, dtype):
    for sampler, options in [("ddim", {"eta": 0.5}), ("dpmpp_multistep", {"solver_order": 3})]:
        for projection in ("none", "clip", "threshold"):
            plan = a_plan(sampler, options, n=3, projection=projection, schedule="ve")
            x = tensor((2, 3, 4, 4), dtype).to(memory_format=format)
            for index in (0, torch.zeros((2,), dtype=torch.int32)):
                state = cmsched.init(plan, x, index=index)
                for _ in range(3):
                    scaled, _ = cmsched.model_input(plan, state)
                    state = cmsched.step(plan, state, scaled * 0.5, rng=5)
                    arrays = (scaled, state.sample, *state.memory)
                    assert all(a.is_contiguous(memory_format=format) for a in arrays)


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_no_loop_reads_anything_back(sampler, options):
    """Tensors without data: whatever asked for a value would fail."""
    plan = a_plan(sampler, options, n=4, projection="threshold", schedule="ve")
    model = network(xp, plan.prediction)
    x = torch.empty((2, 3, 4), device="meta")
    given = dict.fromkeys(given_of(plan, (2, 3, 4)) or (), x) or None
    for index in (0, *(torch.zeros(s, dtype=torch.int32, device="meta") for s in [(), (2,)])):
        state = cmsched.init(plan, x, given=given, rng=5, index=index)
        for _ in range(len(plan)):
            output = model(*cmsched.model_input(plan, state))
            state = cmsched.step(plan, state, output, given=given, rng=5)
        assert (state.sample.shape, state.sample.device) == (x.shape, x.device)
    assert cmsched.run(model, plan, x, given=given, rng=5).device == x.device


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("sampler", "options"), FAMILIES, ids=str)
def test_no_double_and_no_synchronisation(sampler, options, dtype):
    plan = a_plan(sampler, options, n=4, projection="threshold", schedule="ve")
    model = network(xp, plan.prediction)
    x = tensor((2, 3, 4), dtype)
    for index in (0, torch.zeros((), dtype=torch.int32), torch.zeros((2,), dtype=torch.int32)):
        state = cmsched.init(plan, x, rng=5, index=index)
        cmsched.model_input(plan, state)  # places times, and the table, once
        plan.on(x)
        draws = []
        other = state
        for _ in range(len(plan)):
            draws.append(cmsched.draw(plan, other, 5))
            output = model(*cmsched.model_input(plan, other))
            other = cmsched.step(plan, other, output, noise=draws[-1])
        with Spy() as spy:
            for z in draws:
                output = model(*cmsched.model_input(plan, state))
                state = cmsched.step(plan, state, output, noise=z)
        assert len(spy.names) > 4 * 2
        assert torch.float64 not in spy.dtypes
        copies = ("_local_scalar_dense", "_to_copy.default", "lift_fresh", "item", "nonzero")
        moved = [name for name in spy.names if any(word in name for word in copies)]
        allowed = "aten._to_copy.default"  # of dtypes, and of the times the network takes
        assert {*moved} <= {allowed}
        assert torch.equal(state.sample, other.sample)


def test_outputs_on_another_device():
    plan = a_plan("ddim")
    state = cmsched.init(plan, tensor((2, 3)))
    elsewhere = torch.empty((2, 3), device="meta")
    for each in (state, state._replace(index=torch.zeros((), dtype=torch.int32))):
        with pytest.raises(ValueError, match="output is on meta, the sample on cpu"):
            cmsched.step(plan, each, elsewhere)
    with pytest.raises(ValueError, match="x0 is on meta"):
        cmsched.init(plan, tensor((2, 3)), x0=elsewhere)
    with pytest.raises(ValueError, match="noise is on meta"):
        cmsched.step(a_plan("ddpm"), state, tensor((2, 3)), noise=elsewhere)
    with pytest.raises(TypeError, match="index must be"):
        cmsched.init(plan, tensor((2, 3)), index=torch.zeros((), dtype=torch.float32))


def test_a_step_is_not_made_in_an_argument():
    """In place only into buffers of the step itself, whatever the weights are."""
    for schedule in ("ve", "linear"):
        for sampler, options in FAMILIES:
            plan = a_plan(sampler, options, n=4, schedule=schedule, kind="sample")
            model = network(xp, plan.prediction)
            x = tensor((2, 3))
            state = cmsched.init(plan, x, rng=5)
            for _ in range(len(plan)):
                output = model(*cmsched.model_input(plan, state))
                z = cmsched.draw(plan, state, 5) or ()
                versions = [a._version for a in (state.sample, *state.memory, output, *z)]
                held = (state.sample, *state.memory, output, *z)
                state = cmsched.step(plan, state, output, noise=z or None)
                assert [a._version for a in held] == versions


def test_native_generators_are_advanced_and_ambient_state_is_not():
    plan = a_plan("ddpm", n=3)
    model = network(xp, plan.prediction)
    x = tensor((2, 3))
    before = torch.get_rng_state()
    one = cmsched.sample(model, plan, x, rng=torch.Generator().manual_seed(1))
    two = cmsched.sample(model, plan, x, rng=torch.Generator().manual_seed(1))
    cmsched.sample(model, plan, x, rng=1)
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), before)


def test_first_use_from_many_threads():
    plan = a_plan("dpmpp_multistep", {"eta": 1.0})
    model = network(xp, plan.prediction)
    x = tensor((2, 3))
    results = [None] * 8

    def work(k):
        index = torch.zeros((2,), dtype=torch.int32) if k % 2 else 0
        state = cmsched.init(plan, x, index=index)
        for _ in range(len(plan)):
            state = cmsched.step(plan, state, model(*cmsched.model_input(plan, state)), rng=3)
        results[k] = state.sample

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        assert torch.allclose(result, results[0], atol=1e-5)


@pytest.mark.parametrize("name", ["DDPMScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_a_schedule_is_made_before_it_is_compiled(torch, name):
    """And until then the error says so."""
    scheduler, x = getattr(cmsched, name)(), torch.randn(3, 4)
    times = torch.tensor([1, 500, 999])
    torch._dynamo.reset()
    compiled = torch.compile(scheduler.add_noise, fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="once before, outside of it"):
        compiled(x, x, times)
    wanted = scheduler.add_noise(x, x, times)
    assert torch.allclose(compiled(x, x, times), wanted)
