"""Portable noise: the words, the normals, what they depend on; native generators; hostile input."""

import pickle
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmsched import backends
from cmsched.backends import threefry
from cmsched.noise import BROWNIAN, START, STEP, Rng, standard_normal

needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="torch is not installed")
needs_jax = pytest.mark.skipif(not find_spec("jax"), reason="jax is not installed")
needs_scipy = pytest.mark.skipif(not find_spec("scipy"), reason="scipy is not installed")

TOLERANCE = {"float32": 4e-6, "float64": 1e-14}
LOW = 0xFFFFFFFF
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)


def draw(xp, rng=0, shape=(2, 3, 4), name="float32", **options):
    """Step noise as a host array, made beside an array of the backend."""
    like = xp.asarray(np.zeros(1), name)
    options = {"row": 0} | options
    out = standard_normal(rng, shape, like.dtype, like, **options)
    assert backends.resolve(out) is backends.resolve(like)
    assert out.dtype == like.dtype
    assert tuple(out.shape) == tuple(shape)
    return xp.numpy(out)


def run(code):
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return out.stdout.split()


def host(rng=0, shape=(2, 3, 4), name="float64", **options):
    options = {"row": 0} | options
    return standard_normal(rng, shape, np.dtype(name), np.zeros(1, name), **options)


def words(seed, sample, purpose, rank, row, count):
    """The words by the definition, in Python integers."""
    key = (seed >> 32, seed & LOW)
    for counter in ((0, sample), (0, purpose), (rank, row)):
        key = threefry.block(key, counter)
    pairs = (threefry.block(key, (e >> 32, e & LOW)) for e in range(count))
    return np.array([a ^ b for a, b in pairs], np.uint32)


def quantile(w):
    """Phi^-1((w + 1/2) / 2^32) in float64, from the nearer tail."""
    special = pytest.importorskip("scipy.special")
    w = np.asarray(w, np.int64)
    tail = (np.minimum(w, LOW - w) + 0.5) / 2**32
    return np.where(w <= LOW // 2, 1, -1) * special.ndtri(tail)


# words


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((LOW, LOW), (LOW, LOW), (0x1CB996FC, 0xBB002BE7)),
        (PI[2:], PI[:2], (0xC4923A9C, 0x483DF7A0)),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_published_vectors(xp, key, counter, expected):
    """The known answers of Random123 (Salmon et al. 2011) for Threefry-2x32-20."""
    assert threefry.block(key, counter) == expected
    dtype, name = (np.uint32, None) if xp.backend == "numpy" else (np.int32, "int32")
    arrays = [
        xp.asarray(np.array([w], np.uint32).view(dtype), name or "uint32") for w in (*key, *counter)
    ]
    out = threefry.threefry(tuple(arrays[:2]), tuple(arrays[2:]))
    assert tuple(int(xp.numpy(x).view(np.uint32)[0]) for x in out) == expected


@needs_jax
@pytest.mark.parametrize("seed", [0, 5, 2**32, 2**64 - 1])
def test_words_are_those_of_a_jax_key(seed):
    import jax

    key = jax.random.wrap_key_data(np.array([seed >> 32, seed & LOW], np.uint32))
    for number in (7, 1):
        key = jax.random.fold_in(key, number)
    expected = jax.random.bits(jax.random.fold_in(key, 9), (50,), np.uint32)
    np.testing.assert_array_equal(words(seed, 7, 1, 0, 9, 50), expected)
    key = threefry.keys(threefry.Stream((seed,), (7,), 1), 1)
    np.testing.assert_array_equal(key[:, 0], jax.random.key_data(jax.random.fold_in(
        jax.random.fold_in(jax.random.wrap_key_data(
            np.array([seed >> 32, seed & LOW], np.uint32)), 7), 1)))  # fmt: skip


@needs_scipy
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_normals_are_the_quantiles_of_the_words(xp, name):
    shape = (3, 5, 2, 7)
    z = draw(xp, Rng(2**40 + 1, sample=(4, 0, 9)), shape, name, row=11, rank=2, purpose=BROWNIAN)
    for row, sample in zip(z, (4, 0, 9), strict=True):
        expected = quantile(words(2**40 + 1, sample, BROWNIAN, 2, 11, 70)).reshape(shape[1:])
        np.testing.assert_allclose(row, expected, rtol=0, atol=TOLERANCE[name])


@needs_scipy
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_extreme_words(xp, name):
    edge = threefry.CENTRE
    w = [0, 1, 2, 2**31 - 2, 2**31 - 1, 2**31, 2**31 + 1, LOW - 1, LOW]
    w += [2**31 + s * edge + d for s in (1, -1) for d in (-2, -1, 0, 1, 2)]
    random = np.random.default_rng(0).integers(0, 2**32, 5000)
    w = np.concatenate([w, random]).astype(np.uint32)
    word = xp.asarray(w.view(np.int32), "int32")
    z = xp.numpy(threefry.from_bits(xp.xp, word, getattr(xp.xp, name)))
    np.testing.assert_allclose(z, quantile(w), rtol=0, atol=TOLERANCE[name])
    assert abs(z[0]) == pytest.approx(6.3379, abs=1e-4)
    np.testing.assert_array_equal(z[:2], -z[[8, 7]])  # the tails mirror each other
    np.testing.assert_array_equal(xp.numpy(word), w.view(np.int32))


def test_blocks_do_not_show(monkeypatch):
    """NumPy works in blocks; every split gives the same numbers."""
    from cmsched.backends import numpy as adapter

    for shape in [(5, 3), (3, 70), (1, 200), (40,), (), (0, 3), (3, 0)]:
        whole = host(3, shape)
        for block in (1, 8, 64):
            monkeypatch.setattr(adapter, "BLOCK", block)
            monkeypatch.setattr(adapter, "MAP_BLOCK", max(1, block // 4))
            np.testing.assert_array_equal(host(3, shape), whole)
        monkeypatch.undo()


def test_blocks_beyond_32_bits():
    from cmsched.backends import numpy as adapter

    key = np.array([[[3]], [[7]]], np.uint32)
    for first in (0, 2**32 - 4, 2**32, 5 * 2**32 + 8):
        expected = [threefry.block((3, 7), divmod(first + i, 2**32)) for i in range(4)]
        found = adapter.words(tuple(key), first, 4).view(np.uint32)
        assert found.tolist() == [[a ^ b for a, b in expected]]


@given(
    shape=st.lists(st.integers(1, 2**20), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_element_counter(xp, shape, seed):
    """Numbers of elements beyond 2^32, against Python integers."""
    rng = np.random.default_rng(seed)
    index = [rng.integers(0, n, 6) for n in shape]
    index = [np.append(i, [n - 1, 0]) for i, n in zip(index, shape, strict=True)]
    expected = [0] * 8
    for n, i in zip(shape, index, strict=True):
        expected = [e * n + int(k) for e, k in zip(expected, i, strict=True)]
    arrays = [xp.asarray(i.astype(np.int32), "int32") for i in index]
    high, low = (
        np.broadcast_to(w if isinstance(w, int) else xp.numpy(w), 8).astype(np.int64) & LOW
        for w in threefry.counter(arrays, shape)
    )
    assert [h * 2**32 + w for h, w in zip(high.tolist(), low.tolist(), strict=True)] == [
        e % 2**64 for e in expected
    ]


# what the noise depends on, and what it does not


@given(
    shape=st.sampled_from([(), (1,), (3,), (0, 4), (2, 0), (2, 3), (2, 3, 4, 5), (9, 2)]),
    seed=st.integers(0, 2**64 - 1),
    row=st.integers(0, 2**31 - 1),
    rank=st.integers(0, 5),
)
def test_backends_agree(xp, shape, seed, row, rank):
    for name in ("float32", "float64"):
        z = draw(xp, seed, shape, name, row=row, rank=rank)
        expected = host(seed, shape, "float64", row=row, rank=rank)
        np.testing.assert_allclose(z, expected, rtol=0, atol=TOLERANCE[name])


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_is_rounded_float32(xp, name):
    if not hasattr(xp.xp, name):
        pytest.skip(f"{xp.name} has no {name}")
    full = xp.asarray(draw(xp, 4), "float32")
    rounded = backends.resolve(full).astype(full, getattr(xp.xp, name))
    np.testing.assert_array_equal(draw(xp, 4, name=name), xp.numpy(rounded))


def test_a_batch_may_be_split(xp):
    whole = draw(xp, 3, (10, 4))
    for part in (range(4, 7), [4, 5, 6], np.arange(4, 7)):
        np.testing.assert_array_equal(draw(xp, Rng(3, sample=part), (3, 4)), whole[4:7])
    np.testing.assert_array_equal(draw(xp, Rng(3), (10, 4)), whole)
    np.testing.assert_array_equal(draw(xp, [3, Rng(3), Rng(3, [8])], (3, 4)), whole[[0, 0, 8]])


def test_an_empty_batch_takes_an_empty_list(xp):
    assert draw(xp, [], (0, 4)).shape == (0, 4)


def test_a_list_of_seeds_is_sample_zero_of_each(xp):
    z = draw(xp, (5, 2**63, Rng(5, range(1, 2))), (3, 4))
    for i, rng in enumerate([5, 2**63, Rng(5, sample=[1])]):
        np.testing.assert_array_equal(z[i : i + 1], draw(xp, rng, (1, 4)))


def test_every_number_counts():
    """Draws that differ in anything are different, and uncorrelated."""
    base = {"rng": 1, "row": 0, "rank": 0, "purpose": STEP}
    others = [{"rng": 2}, {"rng": 2**32 + 1}, {"row": 1}, {"rank": 1}, {"purpose": START}]
    others += [{"purpose": BROWNIAN}, {"row": 1, "rank": 1}, {"rng": Rng(1, sample=[1])}]
    draws = np.stack([host(shape=(1, 4000), **(base | o)).ravel() for o in [{}, *others]])
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)
    start = Rng(1).normal((1, 4000), dtype="float64")
    np.testing.assert_array_equal(start, host(1, (1, 4000), purpose=START))


def test_rows_of_a_batch_at_different_draws(xp):
    like = xp.asarray(np.zeros(1), "float32")
    rows = xp.asarray(np.array([7, 0, 3]), "int32")
    z = xp.numpy(standard_normal(9, (3, 4), like.dtype, like, row=rows, rank=1))
    for i, row in enumerate((7, 0, 3)):
        expected = host(9, (3, 4), row=row, rank=1)[i]
        np.testing.assert_allclose(z[i], expected, rtol=0, atol=4e-6)
    np.testing.assert_array_equal(draw(xp, row=np.int64(7)), draw(xp, row=7))
    one = xp.asarray(np.array(7), "int32")
    z = xp.numpy(standard_normal(9, (3, 4), like.dtype, like, row=one, rank=1))
    np.testing.assert_allclose(z, host(9, (3, 4), row=7, rank=1), rtol=0, atol=4e-6)
    with pytest.raises(ValueError, match=r"row has shape \(3,\): use an int, shape \(\) or \(2,\)"):
        standard_normal(9, (2, 4), like.dtype, like, row=rows)


@needs_scipy
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_distribution(name):
    from scipy import stats

    z = host(12, (64, 1024), name).astype(np.float64)
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    assert stats.kstest(z[:, 5], "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(z) - np.eye(64)).max() < 6 / np.sqrt(1024)
    assert abs(np.mean(z[:, 1:] * z[:, :-1])) < 5 / np.sqrt(z.size)
    assert abs(np.mean(z[1:] * z[:-1])) < 5 / np.sqrt(z.size)
    assert abs(np.mean(z**4) - 3) < 5 * np.sqrt(96 / z.size)


# Rng


def test_rng_is_a_value():
    rng = Rng(np.int64(3), sample=np.array([1, 2]))
    assert rng == Rng(3, sample=(1, 2)) == Rng(3, sample=[1, 2]) == pickle.loads(pickle.dumps(rng))
    assert len({rng, Rng(3, sample=(1, 2)), Rng(3), Rng(4)}) == 3
    with pytest.raises(AttributeError):
        rng.seed = 4


def test_rng_normal_says_where(xp):
    like = xp.asarray(np.zeros(1), "float64")
    z = Rng(1).normal((2, 3), xp=xp.xp, dtype="float64")
    assert backends.resolve(z) is backends.resolve(like)
    assert z.dtype == like.dtype
    np.testing.assert_allclose(xp.numpy(z), Rng(1).normal((2, 3)), rtol=0, atol=4e-6)
    assert Rng(1).normal(3, xp=xp.xp, dtype=like.dtype).dtype == like.dtype
    device = None if xp.backend == "numpy" else backends.resolve(like).device(like)
    assert type(Rng(1).normal((2,), device=device)) is type(like)


# native generators


def test_numpy_generator_keeps_its_stream():
    for name in ("float32", "float64"):
        expected = np.random.default_rng(3).standard_normal((2, 5), name)
        np.testing.assert_array_equal(host(np.random.default_rng(3), (2, 5), name), expected)
    expected = np.random.default_rng(3).standard_normal((2, 5), "float32").astype("float16")
    np.testing.assert_array_equal(host(np.random.default_rng(3), (2, 5), "float16"), expected)
    both = host([np.random.default_rng(3), np.random.default_rng(4)], (2, 5))
    np.testing.assert_array_equal(both[1], np.random.default_rng(4).standard_normal(5))
    mixed = host([np.random.default_rng(3), 8], (2, 5))
    np.testing.assert_array_equal(mixed[1:], host(8, (1, 5)))
    assert isinstance(host(np.random.default_rng(3), ()), np.ndarray)


@needs_torch
def test_torch_generator_keeps_its_stream():
    import torch

    def seeded(seed):
        return torch.Generator().manual_seed(seed)

    like = torch.zeros(1)
    for dtype in (torch.float32, torch.float64, torch.float16):
        z = standard_normal(seeded(3), (2, 5), dtype, like, row=4)
        assert torch.equal(z, torch.randn((2, 5), generator=seeded(3), dtype=dtype))
    z = standard_normal([seeded(3), seeded(4)], (2, 5), torch.float32, like, row=4)
    expected = [torch.randn((1, 5), generator=seeded(s)) for s in (3, 4)]
    assert torch.equal(z, torch.cat(expected))
    fresh = backends.named("torch").fresh(2**63 + 5, like.device)
    assert fresh.initial_seed() == 2**63 + 5
    z = standard_normal(seeded(3), (2, 5), torch.float32, like.to("meta"), row=4)
    assert z.is_meta


@needs_jax
class TestJaxKey:
    @pytest.mark.parametrize("kind", ["key", "PRNGKey"])
    def test_is_folded_with_the_draw(self, kind):
        import jax
        import jax.numpy as jnp

        key = getattr(jax.random, kind)(3)
        like = jnp.zeros(1, jnp.float32)

        def normal(row, rank=0, shape=(2, 5)):
            return np.asarray(standard_normal(key, shape, like.dtype, like, row=row, rank=rank))

        fold = jax.random.fold_in
        expected = jax.random.normal(fold(fold(key, 1), 4), (2, 5), np.float32)
        np.testing.assert_array_equal(normal(4, 1), expected)
        np.testing.assert_array_equal(normal(jnp.asarray(4), 1), expected)
        different = [normal(0), normal(1), normal(0, 1), normal(1, 1)]
        assert all(np.all(a != b) for i, a in enumerate(different) for b in different[:i])
        rows = normal(jnp.array([4, 4, 5]), shape=(3, 5))
        assert len(np.unique(rows)) == 15  # rows at the same draw must not share noise

    def test_a_key_per_sample(self):
        import jax
        import jax.numpy as jnp

        like, keys = jnp.zeros(1), jax.random.split(jax.random.key(0), 2)
        rows = jnp.array([4, 7])
        z = standard_normal(list(keys), (2, 5), like.dtype, like, row=rows)
        for i in range(2):
            one = standard_normal([keys[i]], (1, 5), like.dtype, like, row=rows[i : i + 1])
            np.testing.assert_array_equal(z[i : i + 1], one)

    def test_is_never_made_up(self):
        with pytest.raises(ValueError, match=r"jax\.random\.key\(0\)"):
            backends.named("jax").fresh(0, None)


def test_ambient_state_is_not_touched():
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    host(0)
    host(np.random.default_rng(0))
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002
    if find_spec("torch"):
        import torch

        state, like = torch.get_rng_state(), torch.zeros(1)
        for rng in (0, torch.Generator(), [torch.Generator()] * 2):
            standard_normal(rng, (2, 3), like.dtype, like, row=0)
        backends.named("torch").fresh(3, like.device)
        assert torch.equal(torch.get_rng_state(), state)


def test_function(xp):
    like = xp.asarray(np.zeros(1), "float32")
    calls = []

    def rng(shape, dtype, interval):
        calls.append((shape, dtype, interval))
        return xp.asarray(np.full(shape, 2), "float32")

    z = standard_normal(rng, (2, 3), like.dtype, like, row=0, interval=(0.5, 0.25))
    assert calls == [((2, 3), like.dtype, (0.5, 0.25))]
    np.testing.assert_array_equal(xp.numpy(z), np.full((2, 3), 2))
    with pytest.raises(ValueError, match=r"noise of shape \(2, 3\): the sample needs"):
        standard_normal(lambda *_: z, (2, 1), like.dtype, like, row=0)
    other = "jax" if xp.backend == "torch" else "torch"
    if find_spec(other):
        foreign = Rng(0).normal((2, 3), xp=other)
        with pytest.raises(ValueError, match=f"returned {other} noise"):
            standard_normal(lambda *_: foreign, (2, 3), like.dtype, like, row=0)


# in traces


@needs_jax
def test_traced_draw_numbers():
    import jax
    import jax.numpy as jnp

    like = jnp.zeros(1)

    def normal(row, rng=6):
        return standard_normal(rng, (2, 5), like.dtype, like, row=row)

    expected = np.stack([host(6, (2, 5), row=i) for i in range(4)])
    _, scanned = jax.lax.scan(lambda c, i: (c, normal(i)), 0, jnp.arange(4))
    np.testing.assert_allclose(scanned, expected, rtol=0, atol=4e-6)
    np.testing.assert_allclose(jax.jit(normal)(3), expected[3], rtol=0, atol=4e-6)
    np.testing.assert_allclose(jax.vmap(normal)(jnp.arange(4)), expected, rtol=0, atol=4e-6)
    key = jax.random.key(0)
    np.testing.assert_array_equal(jax.jit(normal)(3, key), normal(3, key))
    assert jax.eval_shape(normal, 3).shape == (2, 5)
    # The key was first used inside a trace: what was cached there must be a value.
    jax.jit(lambda x: x + standard_normal(777, (2, 5), x.dtype, x, row=0))(jnp.zeros((2, 5)))
    normal(0, 777)
    with jax.transfer_guard("disallow"):
        normal(1, 777)


@needs_jax
def test_sharded_noise_is_made_where_it_is_needed():
    """Split along any axis: same numbers, and no device makes more than its part."""
    code = """if 1:
        import jax, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        jax.config.update("jax_num_cpu_devices", 4)
        from cmsched import backends, noise
        mesh = Mesh(np.array(jax.devices()), ("x",))
        backend, shape = backends.named("jax"), (4, 8, 12, 16)
        expected = noise.Rng(0).normal(shape, xp="jax")
        for axis in range(4):
            spec = NamedSharding(mesh, PartitionSpec(*[None] * axis, "x"))
            like = jax.device_put(np.zeros(shape, np.float32), spec)
            z = noise.standard_normal(0, shape, like.dtype, like, row=0, purpose=noise.START)
            assert z.sharding == spec and np.allclose(z, expected, rtol=0, atol=4e-6)
            fn = lambda x: noise.standard_normal(0, shape, x.dtype, x, row=0)
            text = jax.jit(fn, out_shardings=spec).lower(like).compile().as_text()
            assert "all-" not in text and "collective" not in text
            assert f"[{','.join(map(str, shape))}]" not in text
        other = jax.device_put(np.zeros(2, np.float32), jax.devices()[2])
        z = noise.standard_normal(0, (2,), other.dtype, other, row=0)
        assert z.device == other.device == backend.put(np.ones(2), other).device
        print("ok")"""
    assert run(code) == ["ok"]


@needs_torch
class TestTorch:
    def normal(self, x, row, rng=6):
        return standard_normal(rng, x.shape, x.dtype, x, row=row)

    @pytest.mark.parametrize("rng", [6, Rng(2**63, sample=range(4, 6)), [5, Rng(7)]])
    def test_compiles_as_one_graph(self, rng):
        import torch

        torch.compiler.reset()
        x = torch.zeros(2, 3)
        compiled = torch.compile(self.normal, fullgraph=True, backend="eager")
        for row in (0, 1, torch.tensor(2), torch.tensor([3, 4])):
            assert torch.equal(compiled(x, row, rng), self.normal(x, row, rng))

    def test_compiles_before_anything_was_loaded(self):
        code = (
            "import torch, cmsched.backends\nfrom cmsched.noise import standard_normal\n"
            "def fn(x):\n    return standard_normal(6, x.shape, x.dtype, x, row=0)\n"
            "x = torch.zeros(2, 3)\n"
            "print(torch.equal(torch.compile(fn, fullgraph=True, backend='eager')(x), fn(x)))"
        )
        assert run(code) == ["True"]

    def test_operator_is_well_formed(self):
        import torch

        arguments = ([0, 6], None, 1, [2, 3], torch.float32, torch.device("cpu"), 0)
        torch.library.opcheck(
            torch.ops.cmsched.normals.default, (*arguments, torch.tensor(1)), test_utils=(
                "test_schema", "test_faketensor"))  # fmt: skip

    def test_vmap_over_draws_and_samples(self):
        import torch

        x = torch.zeros(4, 2, 3)
        rows = torch.arange(4)
        z = torch.func.vmap(self.normal)(x, rows)
        for i in range(4):
            torch.testing.assert_close(z[i], self.normal(x[i], i), rtol=0, atol=4e-6)

    def test_meta_and_inference(self):
        import torch

        z = self.normal(torch.zeros(2, 3, dtype=torch.float16, device="meta"), 0)
        assert (z.is_meta, z.shape, z.dtype) == (True, (2, 3), torch.float16)
        with torch.inference_mode():
            assert torch.equal(self.normal(torch.zeros(2, 3), 0), self.normal(torch.zeros(2, 3), 0))

    def test_generic_path(self):
        """What runs on a GPU, run here."""
        import torch

        key = torch.tensor(threefry.keys(threefry.Stream((6,), None, STEP), 2).view(np.int32))
        xp = backends.named("torch").xp
        z = threefry.normals(xp, tuple(key), (2, 3, 4), torch.float64, None, (0, 3))
        np.testing.assert_allclose(z, host(6, (2, 3, 4), row=3), rtol=0, atol=1e-14)


# hostile input


@pytest.mark.parametrize(
    ("rng", "error", "message"),
    [
        (True, TypeError, "cmsched.Rng"),
        (1.0, TypeError, "cmsched.Rng"),
        ("0", TypeError, "cmsched.Rng"),
        (None, TypeError, "cmsched.Rng"),
        (np.bool_(True), TypeError, "cmsched.Rng"),
        ([1, 2.0], TypeError, "cmsched.Rng"),
        (-1, ValueError, r"outside 0 \.\. 2\*\*64"),
        (2**64, ValueError, r"outside 0 \.\. 2\*\*64"),
        ([1], ValueError, "1 entries for a batch of 2"),
        ([1, 2, 3], ValueError, "3 entries for a batch of 2"),
        (Rng(0, sample=range(3)), ValueError, r"sample=range\(first, first \+ 2\)"),
        ([Rng(0), Rng(0, sample=range(2))], ValueError, r"rng\[1\] numbers 2 samples"),
    ],
)
def test_hostile_rng(xp, rng, error, message):
    with pytest.raises(error, match=message):
        draw(xp, rng)


def test_generators_of_another_framework(xp):
    if xp.backend != "numpy":
        with pytest.raises(TypeError, match=r"makes no .* noise"):
            draw(xp, np.random.default_rng(0))
    if xp.backend != "torch" and find_spec("torch"):
        import torch

        with pytest.raises(TypeError, match=r"makes no .* noise"):
            draw(xp, torch.Generator())


@pytest.mark.parametrize("name", ["int32", "complex64"])
def test_dtypes_without_normals(xp, name):
    with pytest.raises(TypeError, match="convert to float32"):
        draw(xp, 0, name=name)


@pytest.mark.parametrize(
    ("seed", "sample", "error", "match"),
    [
        (1.5, None, TypeError, "seed=1.5 is no integer"),
        (True, None, TypeError, "seed=True"),
        (-1, None, ValueError, "seed=-1 is outside"),
        (0, 3, TypeError, r"sample=3 does not number .* range\(first, first \+ batch\)"),
        (0, [0.5], TypeError, r"sample=\[0.5\]"),
        (0, np.zeros((2, 2), int), TypeError, "does not number"),
        (0, [-1], ValueError, r"outside 0 \.\. 2\*\*32 - 1"),
        (0, range(2**32, 2**32 + 2), ValueError, "outside"),
    ],
)
def test_hostile_constructor(seed, sample, error, match):
    with pytest.raises(error, match=match):
        Rng(seed, sample=sample)


def test_hostile_normal():
    with pytest.raises(ValueError, match="did you mean 'torch'"):
        Rng(0).normal((2,), xp="torhc")
    with pytest.raises(TypeError, match="int32"):
        Rng(0).normal((2,), dtype="int32")
    with pytest.raises(ValueError, match="device='cuda'"):
        Rng(0).normal((2,), xp="numpy", device="cuda")
