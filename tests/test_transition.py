"""A stochastic step as a distribution: its density, its gradients, and where it has none."""

import math
from importlib.util import find_spec

import numpy as np
import pytest
from problems import a_plan, network, registered, start_of

import cmsched
from cmsched import State
from cmsched.samplers import register

needs_torch = pytest.mark.usefixtures("torch")
needs_jax = pytest.mark.usefixtures("jax")

SHAPE = (2, 3, 4)


def log_normal(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * math.log(2 * math.pi)


def indices(xp, at, batch=2):
    """An int, and arrays of every shape."""
    yield at
    for shape in ((), (batch,), (batch, 3)):
        yield xp.asarray(np.full(shape, at), "int32")


# a hand-written step

BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
CUMULATIVE = np.cumprod(1 - BETAS)


def ddpo_step(sample, output, t, steps, eta, following):
    """DDIM with its log probability, after ddpo-pytorch's ddim_step_with_logprob: it has the mean
    over all axes but the first where the density of a sample would be the sum."""
    before = t - 1000 // steps
    a, b = float(CUMULATIVE[t]), float(CUMULATIVE[max(before, 0)])
    variance = (1 - b) / (1 - a) * (1 - a / b)
    std = eta * variance**0.5
    x0 = (sample - (1 - a) ** 0.5 * output) / a**0.5
    mean = b**0.5 * x0 + (1 - b - std**2) ** 0.5 * output
    density = -((following - mean) ** 2) / (2 * std**2) - math.log(std)
    return mean, std, density - math.log(math.sqrt(2 * math.pi))


def ddim(steps=10, eta=0.7):
    scheduler = cmsched.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return scheduler.plan(steps, eta=eta)


@pytest.mark.parametrize("at", [0, 4, 9])
def test_equals_a_hand_written_ddpo_step(xp, at):
    """Ours is the sum: the number of elements times DDPO's mean."""
    plan = ddim()
    x, output, following = (start_of(SHAPE, seed) for seed in (1, 2, 3))
    t = int(plan.timesteps[at])
    mean, std, density = ddpo_step(x, output, t, 10, 0.7, following)
    for index in indices(xp, at):
        law = cmsched.transition(plan, State(xp.asarray(x), (), index), xp.asarray(output))
        np.testing.assert_allclose(xp.numpy(law.mean), mean, rtol=1e-9)
        found = law.std if isinstance(law.std, float) else xp.numpy(law.std)
        np.testing.assert_allclose(np.broadcast_to(found, SHAPE), std, rtol=1e-9)
        each = law.log_prob(xp.asarray(following), sum=False)
        np.testing.assert_allclose(xp.numpy(each), density, rtol=1e-8)
        total = xp.numpy(law.log_prob(xp.asarray(following)))
        ddpo = density.reshape(2, -1).mean(axis=1)
        np.testing.assert_allclose(total, 12 * ddpo, rtol=1e-8)


def gradient(at, following, x, output):
    """Of the sum of DDPO's densities: (next - mean) / std^2 times d mean / d output."""
    t = int(ddim().timesteps[at])
    mean, std, _ = ddpo_step(x, output, t, 10, 0.7, following)
    one, _, _ = ddpo_step(x, output + 1, t, 10, 0.7, following)
    return (following - mean) / std**2 * (one - mean)


@needs_torch
@pytest.mark.parametrize("array", [False, True])
def test_torch_gradient(array):
    import torch

    x, host, following = (torch.tensor(start_of(SHAPE, seed)) for seed in (1, 2, 3))
    output = host.clone().requires_grad_()
    index = torch.tensor([4, 4]) if array else 4
    law = cmsched.transition(ddim(), State(x, (), index), output)
    law.log_prob(following).sum().backward()
    expected = gradient(4, following.numpy(), x.numpy(), host.numpy())
    np.testing.assert_allclose(output.grad.numpy(), expected, rtol=1e-7)


@needs_jax
@pytest.mark.parametrize("array", [False, True])
def test_jax_gradient(array):
    import jax
    import jax.numpy as jnp

    x, output, following = (jnp.asarray(start_of(SHAPE, seed)) for seed in (1, 2, 3))
    index = jnp.array([4, 4]) if array else 4

    def density(output):
        law = cmsched.transition(ddim(), State(x, (), index), output)
        return law.log_prob(following).sum()

    expected = gradient(4, *map(np.asarray, (following, x, output)))
    for function in (jax.grad(density), jax.jit(jax.grad(density))):
        np.testing.assert_allclose(function(output), expected, rtol=1e-7)


# several draws a row, learned variance

LOW, HIGH = -3.0, -1.0


def twice(x, grid, noise, *, variance="fixed"):
    """Two draws reach the next sample: x' = alpha x0 + sigma z + s z', s = 0.3 or learned."""
    for a, b in grid.steps():
        x, x0 = yield x, a
        y = b.alpha * x0 + (0.5 * b.sigma) * noise(a, b)
        z = 0.3 * noise() if variance == "fixed" else noise(log_range=(LOW, HIGH))
        x = 2.0 * y - b.alpha * x0 + z
    return x


@pytest.mark.parametrize("variance", ["fixed", "learned"])
def test_two_draws_add_their_variances(xp, variance):
    with registered("twice"):
        register("twice", paper="", stochastic=True)(twice)
        plan = a_plan("twice", {"variance": variance}, n=3, end="last")
    x, z = start_of(SHAPE), [start_of(SHAPE, seed) for seed in (5, 6)]
    model = network(xp.xp, plan.prediction)
    start = cmsched.init(plan, xp.asarray(x), index=0)
    output = model(*cmsched.model_input(plan, start))
    own = np.full(SHAPE, 0.3)
    if variance == "learned":
        own = np.exp(0.5 * (LOW + (xp.numpy(output)[:, 3:] + 1) / 2 * (HIGH - LOW)))
    std = np.hypot(plan.grid.points[1].sigma, own)
    for index in indices(xp, 0):
        state = start._replace(index=index)
        law = cmsched.transition(plan, state, output)
        found = law.std if isinstance(law.std, float) else xp.numpy(law.std)
        np.testing.assert_allclose(np.broadcast_to(found, SHAPE), std, rtol=1e-9)
        drawn = tuple(map(xp.asarray, z))
        following = cmsched.step(plan, state, output, noise=drawn).sample
        moved = xp.numpy(following) - xp.numpy(law.mean)
        expected = plan.grid.points[1].sigma * z[0] + own * z[1]
        np.testing.assert_allclose(moved, expected, rtol=1e-9, atol=1e-12)
        density = xp.numpy(law.log_prob(following))
        expected = log_normal(expected, 0.0, std).reshape(2, -1).sum(axis=1)
        np.testing.assert_allclose(density, expected, rtol=1e-9)


def learned(n=4):
    return a_plan("ddpm", {"variance": "learned_range"}, n=n)


def learned_density(plan, output, x, following, index=1):
    law = cmsched.transition(plan, State(x, (), index), output)
    return law.log_prob(following).sum()


def slope(output, direction):
    """Of the density along a direction of the output, means and variances, by differences."""
    x, following = start_of(SHAPE), start_of(SHAPE, 2)
    at = [learned_density(learned(), output + h * direction, x, following) for h in (1e-5, -1e-5)]
    return (at[0] - at[1]) / 2e-5


def outputs():
    return (np.tanh(start_of((2, 6, 4), seed)) for seed in (3, 4))


@needs_torch
def test_torch_gradient_of_a_learned_variance():
    import torch

    host, direction = outputs()
    output = torch.tensor(host, requires_grad=True)
    x, following = torch.tensor(start_of(SHAPE)), torch.tensor(start_of(SHAPE, 2))
    learned_density(learned(), output, x, following).backward()
    assert np.all(output.grad.numpy() != 0)
    found = np.sum(output.grad.numpy() * direction)
    assert found == pytest.approx(slope(host, direction), rel=1e-6)


@needs_jax
def test_jax_gradient_of_a_learned_variance():
    import jax
    import jax.numpy as jnp

    host, direction = outputs()
    x, following = jnp.asarray(start_of(SHAPE)), jnp.asarray(start_of(SHAPE, 2))
    found = jax.grad(lambda o: learned_density(learned(), o, x, following))(jnp.asarray(host))
    assert np.sum(found * direction) == pytest.approx(slope(host, direction), rel=1e-6)


# half precision


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_is_summed_in_float32(xp, name):
    """The density of the values that half precision holds: nothing on the way is rounded to it."""
    if not hasattr(xp.xp, name):
        pytest.skip(f"{xp.name} has no {name}")
    plan, shape = ddim(), (2, 3, 64, 64)
    half = [xp.asarray(start_of(shape, seed), name) for seed in (1, 2, 3)]
    exact = [xp.numpy(array).astype(np.float64) for array in half]
    full = cmsched.transition(plan, State(exact[0], (), 4), exact[1])
    expected = full.log_prob(exact[2])
    for index in indices(xp, 4):
        law = cmsched.transition(plan, State(half[0], (), index), half[1])
        density = law.log_prob(half[2])
        assert density.dtype == law.mean.dtype == xp.xp.float32
        np.testing.assert_allclose(xp.numpy(density), expected, rtol=2e-5)
        each = law.log_prob(half[2], sum=False)
        np.testing.assert_allclose(
            xp.numpy(each), full.log_prob(exact[2], sum=False), rtol=1e-4, atol=1e-4
        )


# no noise, no density


def at_rows(xp, dtype="float64"):
    """A batch at a stochastic row, at the last, which is not, and past the end."""
    plan = a_plan("euler_ancestral", n=3, end="zero")
    x = xp.asarray(start_of((3, 4)), dtype)
    state = State(x, (), xp.asarray(np.array([1, 2, 3]), "int32"))
    return (
        plan,
        state,
        xp.asarray(start_of((3, 4), 2), dtype),
        xp.asarray(start_of((3, 4), 3), dtype),
    )


def test_a_row_without_noise_raises_or_counts_nothing(xp):
    plan, state, output, following = at_rows(xp)
    law = cmsched.transition(plan, state, output)
    assert np.array_equal(xp.numpy(law.std).ravel() > 0, [True, False, False])
    with pytest.raises(ValueError, match=r'std = 0.*leave it out, or pass zero_std="skip"'):
        law.log_prob(following)
    density = xp.numpy(law.log_prob(following, zero_std="skip"))
    one = cmsched.transition(plan, state._replace(index=1), output).log_prob(following)
    np.testing.assert_allclose(density, [xp.numpy(one)[0], 0.0, 0.0], rtol=1e-12)
    each = law.log_prob(following, sum=False, zero_std="skip")
    assert tuple(each.shape) == (3, 4)
    np.testing.assert_allclose(xp.numpy(each).sum(axis=1), density, rtol=1e-12)

    last = cmsched.transition(plan, state._replace(index=2), output)
    assert last.std == 0.0
    for total in (True, False):
        with pytest.raises(ValueError, match="no density"):
            last.log_prob(following, sum=total)
        skipped = last.log_prob(following, sum=total, zero_std="skip")
        expected = np.zeros((3,) if total else (3, 4))
        np.testing.assert_array_equal(xp.numpy(skipped), expected)


def test_a_loop_that_is_over_stays_where_it_is(xp):
    """Also where its last step drew noise."""
    plan = a_plan("euler_ancestral", n=3, end="last")
    x = xp.asarray(start_of((2, 4)))
    state = State(x, (), xp.asarray(np.array([2, 3]), "int32"))
    law = cmsched.transition(plan, state, xp.asarray(start_of((2, 4), 2)))
    assert np.array_equal(xp.numpy(law.std).ravel() > 0, [True, False])
    assert np.array_equal(xp.numpy(law.mean)[1], xp.numpy(x)[1])


@needs_torch
def test_torch_skips_without_nan_gradients():
    import torch

    class Torch:
        @staticmethod
        def asarray(a, dtype):
            return torch.tensor(np.array(a), dtype=getattr(torch, dtype))

    plan, state, output, following = at_rows(Torch)
    output.requires_grad_()
    for index in (state.index, 2):
        law = cmsched.transition(plan, state._replace(index=index), output)
        output.grad = None
        law.log_prob(following, zero_std="skip").sum().backward()
        moves = index is state.index
        assert torch.equal((output.grad != 0).any(dim=1), torch.tensor([moves, False, False]))
        assert torch.all(torch.isfinite(output.grad))


@needs_jax
def test_jit_cannot_raise_and_says_nan():
    import jax
    import jax.numpy as jnp

    class Jax:
        @staticmethod
        def asarray(a, dtype):
            return jnp.asarray(a, dtype)

    plan, state, output, following = at_rows(Jax)

    def density(output, zero_std="raise"):
        return cmsched.transition(plan, state, output).log_prob(following, zero_std=zero_std)

    traced = jax.jit(density)(output)
    np.testing.assert_array_equal(np.isnan(traced), [False, True, True])
    skipped = jax.jit(lambda o: density(o, "skip"))(output)
    np.testing.assert_allclose(skipped, density(output, "skip"), rtol=1e-9)
    found = jax.jit(jax.grad(lambda o: density(o, "skip").sum()))(output)
    assert np.all(np.isfinite(found))
    np.testing.assert_array_equal(np.any(found != 0, axis=1), [True, False, False])


# hostile input


def test_hostile_next_sample(xp):
    plan = ddim()
    x = xp.asarray(start_of(SHAPE))
    law = cmsched.transition(plan, State(x, (), 4), x)
    with pytest.raises(
        ValueError, match=r"next_sample has shape \(1, 3, 4\), the sample \(2, 3, 4\)"
    ):
        law.log_prob(x[:1, ...])
    with pytest.raises(TypeError, match=r"next_sample has dtype .*int32"):
        law.log_prob(xp.asarray(np.zeros(SHAPE), "int32"))
    with pytest.raises(TypeError, match="next_sample: "):
        law.log_prob([0.0])
    other = "jax" if xp.backend == "torch" else "torch"
    if find_spec(other):
        with pytest.raises(TypeError, match=f"next_sample is an array of {other}"):
            law.log_prob(cmsched.Rng(0).normal(SHAPE, xp=other))
    with pytest.raises(ValueError, match="zero_std='ignore' is not one of raise, skip"):
        law.log_prob(x, zero_std="ignore")
    with pytest.raises(TypeError, match=r"output has dtype .*int32"):
        cmsched.transition(plan, State(x, (), 4), xp.asarray(np.zeros(SHAPE), "int32"))


def test_a_sample_without_axes(xp):
    plan = ddim()
    x = xp.asarray(np.array(0.5))
    density = cmsched.transition(plan, State(x, (), 4), x).log_prob(x)
    assert tuple(density.shape) == ()
    assert float(density) == pytest.approx(float(ddpo_step(0.5, 0.5, 501, 10, 0.7, 0.5)[2]))
