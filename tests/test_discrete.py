"""Samplers over tokens: against enumeration, exact laws and counts; frameworks; hostile input."""

import itertools
import json
import pickle
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from conftest import Backend
from scheduling import NUMPY
from test_hostile import refused

import cmsched
from cmsched import discrete
from cmsched.backends import threefry
from cmsched.discrete import TokenPlan
from cmsched.noise import standard_normal, standard_uniform

needs_torch = pytest.mark.usefixtures("torch")
needs_jax = pytest.mark.usefixtures("jax")

STRONG = {"alpha_cum_start": 0.9, "alpha_cum_end": 0.1, "gamma_cum_start": 0.04}
STRONG |= {"gamma_cum_end": 0.7}
PAPER = {"alpha_cum_start": 0.99999, "alpha_cum_end": 0.000009, "gamma_cum_start": 0.000009}
PAPER |= {"gamma_cum_end": 0.99999}


def plan_of(classes=4, n=6, timesteps=(), **process):
    return TokenPlan(classes, n, *({**STRONG, **process}).values(), tuple(timesteps))


def log_p(shape, seed=0, scale=2.0, axis=1):
    """Normalised log probabilities."""
    x = scale * np.random.default_rng(seed).standard_normal(shape)
    return x - np.log(np.sum(np.exp(x), axis=axis, keepdims=True))


def jax_backend():
    import jax.numpy

    return Backend("jax", "jax", jax.numpy)


def start(plan, *shape):
    return np.full(shape, plan.mask_class, np.int64)


# --- the process, by enumeration -----------------------------------------------------------------


def marginals(plan):
    """alpha, beta / K and gamma at every time and before the first one, in exact arithmetic."""
    ends = [
        getattr(plan, f"{kind}_cum_{end}")
        for kind in ("alpha", "gamma")
        for end in ("start", "end")
    ]
    a0, a1, c0, c1 = map(Fraction, ends)
    rows = {-1: (Fraction(1), Fraction(0), Fraction(0))}
    for t in range(plan.num_train_timesteps):
        w = Fraction(t, plan.num_train_timesteps - 1)
        a, c = a0 + w * (a1 - a0), c0 + w * (c1 - c0)
        rows[t] = (a, (1 - a - c) / plan.mask_class, c)
    return rows


def one_step(before, after, k):
    """The matrix q(after | before), columns given, by the reference's formulas, exactly."""
    a, c = after[0] / before[0], 1 - (1 - after[2]) / (1 - before[2])
    b = (1 - a - c) / k
    matrix = [[b + (a if i == j else 0) for j in range(k)] + [Fraction(0)] for i in range(k)]
    return np.array([*matrix, [c] * k + [Fraction(1)]], dtype=object)


def dense(plan):
    """q(x_t | x_s) for all s < t, as products of one-step matrices."""
    at, k = marginals(plan), plan.mask_class
    products = {}
    for s in range(-1, plan.num_train_timesteps):
        product = np.array([[Fraction(int(i == j)) for j in range(k + 1)] for i in range(k + 1)])
        for t in range(s + 1, plan.num_train_timesteps):
            product = one_step(at[t - 1], at[t], k) @ product
            products[t, s] = product
    return products


CHAINS = {"strong": (4, 6, STRONG), "paper": (3, 5, PAPER), "binary": (3, 2, STRONG)}
CHAINS["one class"] = (2, 3, STRONG)
CHAINS["no mask at first"] = (4, 4, {**STRONG, "gamma_cum_start": 0.0})
CHAINS["all lost"] = (3, 4, {**STRONG, "alpha_cum_end": 0.0})
chains = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)


@chains
def test_products_of_the_steps_are_the_marginals(chain):
    classes, n, process = chain
    plan = plan_of(classes, n, **process)
    k = plan.mask_class
    for (t, s), matrix in dense(plan).items():
        assert all(sum(column) == 1 for column in matrix.T)
        a, b, c = plan.between(t, s)
        expected = np.diag([a] * k + [0.0])
        expected[:k, :k] += b
        expected[k] = [c] * k + [1.0]
        np.testing.assert_allclose(expected, matrix.astype(float), rtol=1e-9, atol=1e-16)
        if s == -1:
            assert (a, b, c) == plan.cumulative(t)


def bayes(matrices, t, s, token, p):
    """p(x_s | x_t) by the sum over x_0 of eq. 11, with dense matrices."""
    k = len(p)
    if s < 0:
        return np.append(p, 0.0)
    posterior = np.zeros(k + 1)
    for i, j in itertools.product(range(k + 1), range(k)):
        if p[j] and matrices[t, -1][token, j]:
            weight = matrices[t, s][token, i] * matrices[s, -1][i, j] / matrices[t, -1][token, j]
            posterior[i] += float(weight) * p[j]
    return posterior


@chains
def test_the_posterior_is_bayes(xp, chain):
    """Every step between every two times, and every token; the last row of one class has p = 0."""
    classes, n, process = chain
    whole = plan_of(classes, n, **process)
    k, matrices = whole.mask_class, dense(whole)
    tokens = np.arange(k + 1)[None]
    p = np.exp(log_p((1, k, k + 1)))
    name = "float64" if xp.float64 else "float32"
    for t, s in matrices:
        plan = plan_of(classes, n, [t, s] if s >= 0 else [t], **process)
        if s < 0 and whole.gamma_cum_start == 0.0 and t == 0:
            continue  # a masked token is impossible there
        args = xp.asarray(np.log(p), name), xp.asarray(tokens)
        found = np.exp(xp.numpy(discrete.posterior(plan, 0, *args)))
        for token in range(k + 1):
            expected = bayes(matrices, t, s, token, p[0, :, token])
            assert abs(expected.sum() - 1) < 1e-12
            np.testing.assert_allclose(found[0, :, token], expected, rtol=1e-9, atol=1e-13)


def test_the_scheduler_has_the_posterior_of_the_whole_chain(xp):
    scheduler = cmsched.VQDiffusionScheduler(4, 6, *STRONG.values())
    matrices = dense(plan_of())
    p = np.exp(log_p((1, 3, 4)))
    for t in range(1, 6):
        q = scheduler.q_posterior(xp.asarray(np.log(p)), xp.asarray([[0, 1, 2, 3]]), t)
        for token in range(4):
            expected = bayes(matrices, t, t - 1, token, p[0, :, token])
            np.testing.assert_allclose(np.exp(xp.numpy(q))[0, :, token], expected, atol=1e-13)


def test_the_last_step_of_an_array_index_is_the_output(xp):
    plan, p = plan_of(timesteps=[4]), log_p((1, 3, 4))
    args = xp.asarray(p), xp.asarray([[0, 1, 2, 3]])
    q = xp.numpy(discrete.posterior(plan, xp.asarray(np.array(0)), *args))
    np.testing.assert_allclose(q[:, :3], p, atol=1e-12)
    assert np.all(np.exp(q[:, 3]) < 1e-27)


@pytest.mark.parametrize("scale", [0.0, 2.0, 12.0])
def test_rows_sum_to_one_in_float32(xp, scale):
    """4096 classes, every time; masked, of the likeliest class, of the unlikeliest, and others."""
    if xp.name == "numpy-readonly":
        pytest.skip("the same sums as NumPy's")
    scheduler = cmsched.VQDiffusionScheduler(4097)
    p = log_p((1, 4096, 6), scale=scale).astype(np.float32)
    tokens = np.array([[4096, np.argmax(p[0, :, 1]), np.argmin(p[0, :, 2]), 0, 7, 4095]])
    args = xp.asarray(p), xp.asarray(tokens)
    for t in range(100):
        q = scheduler.q_posterior(*args, t)
        assert q.dtype == args[0].dtype
        q = xp.numpy(q).astype(np.float64)
        assert np.all(np.isfinite(q))
        np.testing.assert_allclose(np.sum(np.exp(q), axis=1), 1.0, atol=1e-5)


def test_impossible_classes_stay_so(xp):
    """log 0 of a network, -inf: the others' posterior, as for p = 0."""
    p = np.array([0.25, 0.0, 0.75])
    with np.errstate(divide="ignore"):
        args = xp.asarray(np.log(p)[None, :, None] * np.ones((1, 1, 4))), xp.asarray([[0, 1, 2, 3]])
    plan = plan_of()
    matrices = dense(plan)
    for i, t in enumerate(plan.timesteps[:-1]):
        found = np.exp(xp.numpy(discrete.posterior(plan, i, *args)))
        for token in range(4):
            expected = bayes(matrices, t, t - 1, token, p)
            np.testing.assert_allclose(found[0, :, token], expected, atol=1e-12)


@pytest.mark.parametrize("classes", [5, 4097])
def test_tables_are_exact(classes):
    """The reference's alone would lose 7 digits of beta: 1 - alpha - gamma is 1e-8 at a step."""
    scheduler = cmsched.VQDiffusionScheduler(classes)
    at, k = marginals(scheduler.plan(100)), classes - 1
    for t in range(100):
        step = one_step(at[t - 1], at[t], 1)
        rows = {"at": step[0, 0] - (beta := step[0, 0] - at[t][0] / at[t - 1][0])}
        rows |= {"bt": beta / k, "ct": step[1, 0]}
        for name, value in rows.items():
            found = getattr(scheduler, f"log_{name}")[t]
            assert abs(np.exp(found) / float(value) - 1) < 1e-10, (name, t)
        for name, value in zip(("at", "bt", "ct"), at[t], strict=True):
            found = getattr(scheduler, f"log_cumprod_{name}")[t]
            assert abs(np.exp(found) / float(value) - 1) < 1e-10, (name, t)
    assert [getattr(scheduler, f"log_cumprod_{name}")[-1] for name in ("at", "bt", "ct")] == [
        0.0,
        -np.inf,
        -np.inf,
    ]


# --- frameworks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float64", "float32", "float16"])
def test_backends_agree(xp, name):
    """NumPy float64 is the yardstick; given noise, every step, ints and arrays as the index."""
    if name == "float16" and xp.backend == "array_api_strict":
        pytest.skip("the standard has no float16")
    plan = plan_of(6, 5, **PAPER)
    p = log_p((3, 5, 4)).astype(name)
    tokens = np.random.default_rng(1).integers(0, 6, (3, 4))
    noise = np.random.default_rng(2).random((3, 6, 4)).astype(np.float32)
    tolerance = 1e-12 if name == "float64" else 2e-6
    for i in range(len(plan)):
        last = i == len(plan) - 1
        expected = discrete.posterior(plan, i, p.astype(np.float64), tokens)
        args = xp.asarray(tokens), xp.asarray(p)
        for index in (i, xp.asarray(np.array(i)), xp.asarray(np.full(3, i))):
            q = discrete.posterior(plan, index, *args[::-1])
            np.testing.assert_allclose(np.exp(xp.numpy(q)), np.exp(expected), atol=tolerance)
            by_int = isinstance(index, int) and last and xp.backend != "jax"
            drawn = discrete.step(plan, index, *args, noise=xp.asarray(noise[:, : 6 - by_int]))
            assert drawn.dtype == args[0].dtype
            gumbel = -np.log(-np.log1p(-noise.astype(np.float64)))
            wanted = np.argmax((p + gumbel[:, :5]) if last else (expected + gumbel), axis=1)
            np.testing.assert_array_equal(xp.numpy(drawn), wanted)


def test_rows_of_a_batch_at_different_steps(xp):
    plan = plan_of()
    p, tokens = log_p((4, 3, 5)), np.random.default_rng(1).integers(0, 4, (4, 5))
    noise = np.random.default_rng(2).random((4, 4, 5)).astype(np.float32)
    index = np.array([0, 3, len(plan) - 1, len(plan)])
    found = discrete.step(
        *(plan, xp.asarray(index), xp.asarray(tokens), xp.asarray(p)), noise=xp.asarray(noise)
    )
    for row, i in enumerate(index[:3]):
        one = slice(row, row + 1)
        drawn = noise[one, :3] if i == len(plan) - 1 else noise[one]
        expected = discrete.step(plan, int(i), tokens[one], p[one], noise=drawn)
        np.testing.assert_array_equal(xp.numpy(found)[one], expected)
    np.testing.assert_array_equal(xp.numpy(found)[3], tokens[3])  # it was finished


@pytest.mark.parametrize("shape", [(2,), (2, 0), (0, 3), (2, 3), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_shapes_and_dtypes(xp, shape, dtype):
    plan = plan_of()
    p = xp.asarray(log_p((shape[0], 3, *shape[1:])), "float32")
    tokens = xp.asarray(np.full(shape, 3), dtype)
    for i in range(len(plan)):
        tokens = discrete.step(plan, i, tokens, p, rng=5)
        assert tuple(tokens.shape) == shape
        assert tokens.dtype == getattr(xp.xp, dtype)
    assert np.all(xp.numpy(tokens) < 3)


def test_dense_and_split_batches_and_pixels_are_independent(xp):
    """What a token becomes depends on its own posterior and its own noise."""
    plan = plan_of()
    p, tokens = xp.asarray(log_p((4, 3, 5))), xp.asarray(start(plan, 4, 5))
    whole = xp.numpy(discrete.step(plan, 1, tokens, p, rng=cmsched.Rng(8)))
    for first in (0, 2):
        rows = slice(first, first + 2)
        rng = cmsched.Rng(8, sample=range(first, first + 2))
        part = discrete.step(plan, 1, tokens[rows, :], p[rows, :, :], rng=rng)
        np.testing.assert_array_equal(xp.numpy(part), whole[rows])


# --- loops ---------------------------------------------------------------------------------------


def denoiser(xp, plan, data):
    """log p(x_0 | x_t) of independent tokens with this law, (batch, K, ...), exactly."""
    at = [plan.cumulative(t) for t in range(plan.num_train_timesteps)]
    known = np.stack([b + a * np.eye(len(data)) for a, b, _ in at])  # q(x_t = i | x_0 = j)
    masks = np.stack([np.full((1, len(data)), c) for *_, c in at])
    table = np.log(np.concatenate([known, masks], axis=1) * data)  # (time, x_t, x_0)
    table = xp.asarray(table - np.log(np.sum(np.exp(table), axis=-1, keepdims=True)), "float32")

    def model(tokens, t):
        rows = xp.xp.take(table, xp.xp.reshape(t, (1,)), axis=0)[0, ...]
        flat = xp.xp.take(rows, xp.xp.reshape(tokens, (-1,)), axis=0)
        return xp.xp.moveaxis(xp.xp.reshape(flat, (*tokens.shape, len(data))), -1, 1)

    return model


DATA = np.array([0.1, 0.2, 0.3, 0.4])
CRITICAL = 27.9  # of chi-square with 4 degrees of freedom at 1.3e-5, with 3 at 4e-6


def chi_square(tokens, expected):
    counts = np.bincount(np.ravel(tokens), minlength=len(expected))
    assert len(counts) == len(expected)
    mean = expected * counts.sum()
    assert np.all(counts[mean < 1e-6] == 0)
    real = mean > 5
    return np.sum((counts - mean)[real] ** 2 / mean[real])


def generators(xp):
    yield 3
    if xp.backend == "numpy":
        yield np.random.default_rng(3)
    elif xp.backend == "torch":
        yield xp.xp.Generator().manual_seed(3)
    elif xp.backend == "jax":
        import jax

        yield jax.random.key(3)
    elif xp.backend == "cupy":
        yield xp.xp.random.default_rng(3)


@pytest.mark.parametrize("process", [STRONG, PAPER], ids=["strong", "paper"])
def test_sampled_frequencies_are_the_posterior(xp, process):
    plan = plan_of(5, 6, **process)
    matrices = dense(plan)
    p, pixels = np.exp(log_p((4,), 1, 1.0, axis=0)), 20000
    output = xp.asarray(np.broadcast_to(np.log(p)[:, None], (1, 4, pixels)), "float32")
    for i, t in enumerate(plan.timesteps):
        for token in (1, 4):
            expected = bayes(matrices, t, t - 1, token, p)
            tokens = xp.asarray(np.full((1, pixels), token))
            for rng in generators(xp):
                drawn = xp.numpy(discrete.step(plan, i, tokens, output, rng=rng))
                assert chi_square(drawn, expected) < CRITICAL, (t, token, rng)
                if t > 0:  # and it would notice another law
                    assert chi_square(drawn, np.append(p[::-1], 1.0) / 2) > CRITICAL


@pytest.mark.parametrize("times", [100, 10, [99, 60, 30, 5, 0], [99, 50], [99]], ids=str)
def test_the_exact_denoiser_gives_the_data(xp, times):
    """From masks alone, with any number of steps, and with steps left out."""
    scheduler = cmsched.VQDiffusionScheduler(5, 100)
    plan = scheduler.plan(times) if isinstance(times, int) else scheduler.plan(timesteps=times)
    tokens = xp.asarray(start(plan, 50, 200))
    found = discrete.sample(denoiser(xp, plan, DATA), plan, tokens, rng=1)
    assert chi_square(xp.numpy(found), np.append(DATA, 0.0)) < CRITICAL
    assert chi_square(xp.numpy(found), np.append(DATA[::-1], 0.0)) > CRITICAL


def test_noised_tokens_give_the_data():
    """From x_t of data that are masked or replaced in part; they stay as near to these as Bayes."""
    plan = plan_of(5, 100).skip(60)
    assert plan.timesteps[0] == 39
    rng = np.random.default_rng(0)
    x0 = rng.choice(4, (40, 500), p=DATA)
    a, b, c = plan.cumulative(39)
    kept, masked = rng.random(x0.shape) < a / (1 - c), rng.random(x0.shape) < c
    tokens = np.where(masked, 4, np.where(kept, x0, rng.integers(0, 4, x0.shape)))
    found = discrete.sample(denoiser(NUMPY, plan, DATA), plan, tokens, rng=1)
    assert chi_square(found, np.append(DATA, 0.0)) < CRITICAL
    joint = np.concatenate([b + a * np.eye(4), np.full((1, 4), c)]) * DATA  # of x_t and x_0
    same = np.sum(joint**2 / joint.sum(axis=1, keepdims=True))
    assert abs(np.mean(found == x0) - same) < 0.015
    assert same > 0.5  # of independent ones 0.30


def test_dependent_tokens_converge_to_the_data():
    """Pairs, by enumeration: what a step takes for independent vanishes with its length."""
    joint = np.array([[0.4, 0.05, 0.05], [0.0, 0.2, 0.05], [0.05, 0.0, 0.2]])
    assert abs(joint.sum() - 1) < 1e-12

    def distance(n):
        plan = TokenPlan(4, n, *PAPER.values())
        states = np.array(list(itertools.product(range(4), repeat=2)))  # (16, 2)
        law = np.zeros(16)
        law[-1] = 1.0  # both masked
        for i, t in enumerate(plan.timesteps):
            a, b, c = plan.cumulative(t)
            q = np.concatenate([b + a * np.eye(3), np.full((1, 3), c)])  # q(x_t | x_0)
            p = joint * q[states[:, 0]][:, :, None] * q[states[:, 1]][:, None, :]
            p /= p.sum(axis=(1, 2), keepdims=True)
            output = np.stack([p.sum(axis=2), p.sum(axis=1)], axis=-1)  # (16, 3, 2)
            with np.errstate(divide="ignore"):
                after = np.exp(discrete.posterior(plan, i, np.log(output), states))
            law = np.einsum("s,si,sj->ij", law, after[..., 0], after[..., 1]).reshape(16)
        law = law.reshape(4, 4)
        assert abs(law[3].sum()) < 1e-12
        return 0.5 * np.abs(law[:3, :3] - joint).sum()

    found = [distance(n) for n in (25, 50, 100, 200)]
    for coarse, fine in itertools.pairwise(found):
        assert 1.8 < coarse / fine < 2.3, found
    assert found[-1] < 0.01


def loop(xp, plan, tokens, rng):
    return xp.numpy(discrete.sample(denoiser(xp, plan, DATA), plan, tokens, rng))


def test_portable_noise_gives_the_same_tokens_everywhere(xp):
    plan = plan_of(5, 12)
    expected = loop(NUMPY, plan, start(plan, 3, 40), 9)
    np.testing.assert_array_equal(loop(xp, plan, xp.asarray(start(plan, 3, 40)), 9), expected)
    assert np.any(loop(xp, plan, xp.asarray(start(plan, 3, 40)), 8) != expected)
    rngs = [cmsched.Rng(9, sample=[k]) for k in range(3)]
    np.testing.assert_array_equal(loop(xp, plan, xp.asarray(start(plan, 3, 40)), rngs), expected)


def test_a_loop_resumes(xp):
    plan = plan_of(5, 12)
    model = denoiser(xp, plan, DATA)
    tokens = xp.asarray(start(plan, 3, 40))
    expected = xp.numpy(discrete.sample(model, plan, tokens, rng=9))
    for i, t in enumerate(plan.timesteps[:7]):
        output = model(tokens, xp.asarray(np.array(t)))
        tokens = discrete.step(plan, i, tokens, output, rng=9)
    plan = pickle.loads(pickle.dumps(plan)).skip(7)
    assert plan.timesteps == (4, 3, 2, 1, 0)
    found = discrete.sample(model, plan, xp.asarray(xp.numpy(tokens)), rng=9)
    np.testing.assert_array_equal(xp.numpy(found), expected)


def test_the_stateful_habit_is_the_same_loop(xp):
    scheduler = cmsched.VQDiffusionScheduler(5, 12, *STRONG.values(), xp=xp.xp)
    scheduler.set_timesteps(8)
    assert scheduler.num_inference_steps == 8
    plan = scheduler.plan(8)
    np.testing.assert_array_equal(xp.numpy(scheduler.timesteps), plan.timesteps)
    model, tokens = denoiser(xp, plan, DATA), xp.asarray(start(plan, 3, 40))
    x = tokens
    for t in scheduler.timesteps:
        out = scheduler.step(model(x, t), t, x, generator=9)
        assert type(out) is cmsched.VQDiffusionSchedulerOutput
        assert out[0] is out.prev_sample is out["prev_sample"]
        (x,) = scheduler.step(model(x, t), t, x, generator=9, return_dict=False)
        np.testing.assert_array_equal(xp.numpy(x), xp.numpy(out.prev_sample))
    np.testing.assert_array_equal(
        xp.numpy(x), xp.numpy(discrete.sample(model, plan, tokens, rng=9))
    )
    for t, name in ((3, "int"), (np.int64(3), "NumPy"), (xp.asarray(np.array(3)), "own")):
        q = scheduler.q_posterior(model(x, xp.asarray(np.array(3))), x, t)
        expected = scheduler.q_posterior(model(x, xp.asarray(np.array(3))), x, 3)
        np.testing.assert_allclose(xp.numpy(q), xp.numpy(expected), err_msg=name)


def test_fresh_entropy(xp):
    scheduler = cmsched.VQDiffusionScheduler(5, 12)
    output, x = xp.asarray(log_p((1, 4, 200))), xp.asarray(start(plan_of(5), 1, 200))
    if xp.backend == "jax":
        refused(scheduler, lambda: scheduler.step(output, 0, x), match="generator=")
        return
    seeds, drawn = [], []
    for _ in range(2):
        scheduler.set_timesteps(3)
        drawn += [xp.numpy(scheduler.step(output, 0, x)[0]) for _ in range(2)]
        seeds.append(scheduler.last_seed)
    assert seeds[0] != seeds[1]
    if xp.backend != "array_api_strict":  # which has no generators: each step is a new seed's
        assert np.any(drawn[0] != drawn[1])
    assert np.any(drawn[0] != drawn[2])


@needs_jax
def test_jit():
    import jax

    plan = plan_of(5, 12)
    xp = jax_backend()
    model, tokens = denoiser(xp, plan, DATA), xp.asarray(start(plan, 3, 40))
    for rng in (9, jax.random.key(4)):
        run = jax.jit(lambda x, rng=rng: discrete.sample(model, plan, x, rng))
        with jax.checking_leaks():
            found = run(tokens)
        np.testing.assert_array_equal(found, discrete.sample(model, plan, tokens, rng))

        @jax.jit
        def written_out(x, rng=rng):
            for i, t in enumerate(plan.timesteps):
                x = discrete.step(plan, i, x, model(x, np.array(t)), rng=rng)
            return x

        np.testing.assert_array_equal(written_out(tokens), found)
    with jax.transfer_guard("disallow"):
        run(tokens)
    scheduler = cmsched.VQDiffusionScheduler(5, 12, *STRONG.values())
    p = xp.asarray(log_p((3, 4, 40)))
    compiled = jax.jit(lambda p, x, t: scheduler.step(p, t, x, generator=2).prev_sample)
    for t in (0, 1, 11):
        expected = scheduler.step(p, t, tokens, generator=2).prev_sample
        np.testing.assert_array_equal(compiled(p, tokens, np.int32(t)), expected)


@needs_jax
def test_one_compilation_for_all_steps():
    import jax

    plan = plan_of(7, 11)
    traces = []

    def body(index, tokens, p):
        traces.append(1)
        return discrete.step(plan, index, tokens, p, rng=1)

    compiled = jax.jit(body)
    p, tokens = jax_backend().asarray(log_p((2, 6, 3))), jax_backend().asarray(start(plan, 2, 3))
    for i in range(len(plan)):
        tokens = compiled(np.int32(i), tokens, p)
    assert len(traces) == 1


# --- uniform noise -------------------------------------------------------------------------------


def test_portable_uniforms_are_the_same_bits(xp):
    like = xp.asarray(np.zeros(1))
    for row in (2, np.int64(2), xp.asarray(np.array(2)), xp.asarray(np.array([2, 2, 2]))):
        found = xp.numpy(standard_uniform(7, (3, 4, 5), like, row=row))
        expected = standard_uniform(7, (3, 4, 5), np.zeros(1), row=2)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    key = (0, 7)
    for counter in ((0, 0), (0, threefry.UNIFORM), (0, 2)):
        key = threefry.block(key, counter)
    for element in range(20):
        word = threefry.block(key, (0, element))
        word = (word[0] ^ word[1]) & 0x7FFFFFFF
        assert abs(np.ravel(expected)[element] - (word + 0.5) / 2**31) < 1e-7


def test_uniforms_are_uniform_and_in_the_open_interval(xp):
    like = xp.asarray(np.zeros(1, np.float32))
    for rng in generators(xp):
        v = xp.numpy(standard_uniform(rng, (2, 50000), like, row=1))
        assert v.min() > 0
        assert v.max() < 1
        counts = np.histogram(v, 50, (0, 1))[0]
        assert np.sum((counts - 2000) ** 2 / 2000) < 100  # 49 degrees of freedom: 2e-5
        assert abs(np.corrcoef(v)[0, 1]) < 0.02
        if isinstance(rng, int):
            z = xp.numpy(standard_normal(rng, xp.asarray(np.zeros((2, 50000)), "float32"), 1))
            assert abs(np.corrcoef(v.ravel(), z.ravel())[0, 1]) < 0.015
    for word, value in ((0, 2.0**-32), (-1, 1 - 2.0**-24), (2**31 - 1, 1 - 2.0**-24)):
        v = threefry.unit(np, np.array([word], np.int32), np.float32)
        ends = standard_uniform(lambda *_, v=v: v, (1,), np.zeros(1), row=0)
        assert ends == np.float32(value)
    for outside in (0.0, 1.0):
        v = xp.asarray(np.array([outside]), "float32")
        v = standard_uniform(lambda *_, v=v: v, (1,), like, row=0)
        gumbel = -np.log(-np.log1p(-xp.numpy(v)))
        assert np.isfinite(gumbel)


@needs_torch
def test_torch_draws_what_the_reference_draws():
    import torch

    v = standard_uniform(torch.Generator().manual_seed(3), (2, 3, 4), torch.zeros(1), row=5)
    u = torch.rand((2, 3, 4), generator=torch.Generator().manual_seed(3))
    assert torch.equal(v, 1 - u)


@needs_jax
def test_native_keys_of_rows():
    import jax

    key, like = jax.random.key(3), jax_backend().asarray(np.zeros(1))
    rows = standard_uniform(key, (2, 300), like, row=jax_backend().asarray(np.array([4, 5])))
    assert not np.any(rows[0] == rows[1])
    np.testing.assert_array_equal(
        rows, standard_uniform(key, (2, 300), like, row=jax_backend().asarray([4, 5]))
    )


# --- configuration -------------------------------------------------------------------------------


def test_configuration(tmp_path):
    scheduler = cmsched.VQDiffusionScheduler(4097)
    assert dict(scheduler.config) == {
        "num_vec_classes": 4097,
        "num_train_timesteps": 100,
        **PAPER,
        "_use_default_values": ["num_train_timesteps", *PAPER],
    } | {k: scheduler.config[k] for k in ("_use_default_values",)}
    assert (scheduler.num_embed, scheduler.mask_class, len(scheduler)) == (4097, 4096, 100)
    assert scheduler.order == 1
    assert bool(scheduler)
    np.testing.assert_array_equal(scheduler.timesteps, np.arange(100)[::-1])
    assert scheduler.num_inference_steps is None
    scheduler.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["num_vec_classes"] == 4097
    again = cmsched.VQDiffusionScheduler.from_pretrained(tmp_path)
    assert again.plan(100) == scheduler.plan(100)
    scheduler.register_to_config(num_vec_classes=9, num_train_timesteps=7)
    assert (scheduler.num_embed, scheduler.mask_class, len(scheduler)) == (9, 8, 7)
    assert scheduler.log_at.shape == (7,)
    with pytest.raises(TypeError, match="num_vec_classes"):
        cmsched.VQDiffusionScheduler()
    with pytest.raises(TypeError, match="did you mean 'alpha_cum_end'"):
        cmsched.VQDiffusionScheduler(5, alpha_cum_ends=0.1)
    with pytest.raises(ValueError, match="xp="):
        cmsched.VQDiffusionScheduler(5, xp="nonsense")


def test_plans_are_values():
    plan = cmsched.VQDiffusionScheduler(5).plan(10)
    again = pickle.loads(pickle.dumps(plan))
    assert again == plan
    assert hash(again) == hash(plan)
    assert plan != cmsched.VQDiffusionScheduler(5).plan(11)
    assert len(plan) == 10
    assert plan.timesteps == tuple(range(10))[::-1]
    with pytest.raises(AttributeError):
        plan.timesteps = ()
    plan.rows_on(np.zeros(1))
    assert len(pickle.dumps(plan)) < 500  # without arrays


def test_tables_follow_the_framework(xp):
    scheduler = cmsched.VQDiffusionScheduler(5, xp=xp.xp)
    scheduler.set_timesteps(4)
    for name in ("timesteps", "log_at", "log_cumprod_bt"):
        assert type(getattr(scheduler, name)) is type(xp.asarray([1.0])), name


# --- hostile input -------------------------------------------------------------------------------

WRONG = {
    "num_vec_classes": (1, 0, -3, 2.5, "5", None, True, [5]),
    "num_train_timesteps": (1, 0, -1, 10**9, 2.0, None, "10"),
    **{
        name: (-0.1, 1.0, 2.0, np.nan, np.inf, "x", None, True, [0.1])
        for name in ("alpha_cum_start", "gamma_cum_end")
    },
    "alpha_cum_end": (0.99999, 1.0, -1e-9),
    "gamma_cum_start": (1e-5 + 1e-15, 0.5, 1.0),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options(name):
    scheduler = cmsched.VQDiffusionScheduler(5)
    for value in WRONG[name]:
        rule = "alpha_cum|gamma_cum" if "cum" in name else name
        refused(scheduler, lambda v=value: scheduler.register_to_config(**{name: v}), match=rule)
        with pytest.raises((ValueError, TypeError), match=rule):
            cmsched.VQDiffusionScheduler(**{"num_vec_classes": 5, name: value})


def test_processes_that_are_none():
    """The reference makes NaN of these, silently."""
    with pytest.raises(ValueError, match="no token is unmasked"):
        plan_of(gamma_cum_start=0.05, gamma_cum_end=0.04)
    with pytest.raises(ValueError, match="must not fall"):
        plan_of(alpha_cum_start=0.5, alpha_cum_end=0.9, gamma_cum_end=0.05)
    with pytest.raises(ValueError, match="must not fall"):
        plan_of(alpha_cum_start=0.0)
    with pytest.raises(ValueError, match="below 1"):
        plan_of(alpha_cum_start=1.0, gamma_cum_start=0.0)


def begun():
    scheduler = cmsched.VQDiffusionScheduler(5, 12)
    scheduler.set_timesteps(6)
    x, p = start(plan_of(5), 2, 3), log_p((2, 4, 3))
    scheduler.step(p, 5, x)
    return scheduler, p, x


def test_wrong_counts():
    scheduler, *_ = begun()
    for n in (0, -1, 13, 2.0, "3", None, True, [3], np.nan):
        refused(scheduler, lambda n=n: scheduler.set_timesteps(n), match="num_inference_steps")
        refused(scheduler, lambda n=n: scheduler.plan(n), match="num_inference_steps")
    for times in ([], [12], [-1], [3, 3], [2, 3], [2.0, 1.0], "ab", 3, [None], [[3]], [True]):
        refused(scheduler, lambda t=times: scheduler.plan(timesteps=t), match="timesteps")
    refused(scheduler, lambda: scheduler.plan(3, timesteps=[2]), match="exactly one")
    refused(scheduler, lambda: scheduler.set_timesteps(3, xp="nonsense"), match="xp=")
    refused(scheduler, lambda: scheduler.set_timesteps(3, device=3), match="device")
    plan = scheduler.plan(6)
    for k in (-1, 6):
        with pytest.raises(ValueError, match="skip 0 to 5"):
            plan.skip(k)


def test_wrong_steps(xp):
    scheduler, p, x = begun()
    scheduler.step(p, 4, x)  # a generator of NumPy's is held now
    call = partial(refused, scheduler)
    a, f = xp.asarray, lambda x: xp.asarray(x, "float32")

    def step(output=None, t=3, tokens=None, generator=7):
        output, tokens = (a(p) if output is None else output), (a(x) if tokens is None else tokens)
        return lambda: scheduler.step(output, t, tokens, generator=generator)

    for t in (-1, 12, 100, 2.0, "3", None, True, [3], np.float64(3), f([3.0])):
        call(step(t=t), match="timestep")
    call(step(tokens=a(x * 1.0)), match="numbers of classes")
    call(step(tokens=a(x > 0)), match="numbers of classes")
    call(step(tokens=a(np.array(4))), match="batch")
    call(step(tokens=x.tolist()), match="tokens: expected an array")
    call(step(output=a(p.astype(np.int64))), match="output has dtype")
    call(step(output=p.tolist()), match="output: expected an array")
    for shape in ((2, 5, 3), (2, 4, 4), (1, 4, 3), (2, 3, 4), (2, 3), (2, 4)):
        call(step(output=a(np.zeros(shape))), match="output has shape")
    if xp.name in ("numpy", "numpy-readonly", "torch"):  # where looking costs nothing
        for wrong in (5, -1, 100):
            call(step(tokens=a(np.where(x == 4, wrong, x))), match=f"tokens hold {wrong}")
    for rng in (-1, 1.5, "7", object(), [1], [1, 2, 3], True):
        call(step(generator=rng), match="rng|seed")
    call(step(generator=lambda *_: a(p)), match="rng")  # of another shape
    if xp.backend != "numpy":
        call(step(output=p), match="numpy")
        call(step(tokens=x), match=xp.backend)
        call(step(generator=np.random.default_rng(0)), match="rng=")
    scheduler.step(a(p), 3, a(x), generator=7)


def test_wrong_transitions(xp):
    scheduler, p, x = begun()
    p, x = xp.asarray(p), xp.asarray(x)
    hot = xp.asarray(np.zeros((2, 5, 3)))
    for t in (-1, 12, None, 1.0):
        for call in (
            lambda t=t: scheduler.q_posterior(p, x, t),
            lambda t=t: scheduler.log_Q_t_transitioning_to_known_class(
                t=t, x_t=x, log_onehot_x_t=hot, cumulative=True
            ),
            lambda t=t: scheduler.apply_cumulative_transitions(p, -2 if t == -1 else t),
        ):
            refused(scheduler, call, match="timestep")
    for wrong in (p, xp.asarray(np.zeros((2, 5, 4))), hot[:, :, 0]):
        for cumulative in (True, False):
            refused(
                scheduler,
                lambda w=wrong, c=cumulative: scheduler.log_Q_t_transitioning_to_known_class(
                    t=1, x_t=x, log_onehot_x_t=w, cumulative=c
                ),
                match="log_onehot_x_t has shape",
            )
    refused(scheduler, lambda: scheduler.apply_cumulative_transitions(hot, 1), match="q has shape")


def test_narrow_tokens(xp):
    plan = TokenPlan(300, 5, *STRONG.values())
    p, x = xp.asarray(np.zeros((1, 299, 2))), xp.asarray(np.zeros((1, 2)), "uint8")
    with pytest.raises(ValueError, match="too narrow for class 299"):
        discrete.step(plan, 0, x, p, rng=1)


def test_wrong_pure_steps(xp):
    plan, p, x = plan_of(), xp.asarray(log_p((2, 3, 5))), xp.asarray(np.full((2, 5), 3))
    noise = xp.asarray(np.full((2, 4, 5), 0.5))
    for index in (-1, 6, 100):
        with pytest.raises(ValueError, match="none of the 6 steps"):
            discrete.step(plan, index, x, p, rng=1)
    for index in (1.0, "1", None, True, [1]):
        with pytest.raises(TypeError, match="index"):
            discrete.step(plan, index, x, p, rng=1)
    with pytest.raises(TypeError, match="index"):
        discrete.step(plan, xp.asarray(np.array(1.0)), x, p, rng=1)
    for shape in ((3,), (2, 5)):
        with pytest.raises(ValueError, match="index has shape"):
            discrete.step(plan, xp.asarray(np.zeros(shape, np.int64)), x, p, rng=1)
    with pytest.raises(ValueError, match="not both"):
        discrete.step(plan, 0, x, p, rng=1, noise=noise)
    with pytest.raises(ValueError, match="pass rng="):
        discrete.step(plan, 0, x, p)
    with pytest.raises(ValueError, match="noise has shape"):
        discrete.step(plan, 0, x, p, noise=noise[:, :3, :])
    with pytest.raises(TypeError, match="noise has dtype"):
        discrete.step(plan, 0, x, p, noise=xp.asarray(np.ones((2, 4, 5), np.int64)))
    with pytest.raises(TypeError, match="tokens"):
        discrete.sample(lambda x, t: p, plan, p, rng=1)
