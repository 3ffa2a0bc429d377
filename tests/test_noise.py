"""Portable noise: the words, the normals, what they depend on; native generators; hostile input."""

import ctypes
import functools
import pickle
import shutil
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise, product

import numpy as np
import pytest
from exact import Gaussian, grid_between
from hypothesis import given
from hypothesis import strategies as st
from problems import a_plan, network

import cmsched
from cmsched import backends
from cmsched.backends import brownian, element, threefry
from cmsched.backends.threefry import BROWNIAN, START, STEP, NoiseSpec, Stream
from cmsched.noise import Rng, generate, standard_normal
from cmsched.plan import make_plan
from cmsched.predictions import Prediction
from cmsched.schedules import VPSDE

needs_torch = pytest.mark.usefixtures("torch")
needs_jax = pytest.mark.usefixtures("jax")
needs_scipy = pytest.mark.skipif(not find_spec("scipy"), reason="scipy is not installed")

TOLERANCE = {"float32": 4e-6, "float64": 1e-14}
LOW = 0xFFFFFFFF
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)


def drawn(rng, shape, like, **which):
    """A draw of the dtype of an array, beside it."""
    backend = backends.resolve(like)
    return generate(backend, rng, NoiseSpec(shape, like.dtype, backend.device(like), **which))


def draw(xp, rng=0, shape=(2, 3, 4), name="float32", **which):
    """Step noise as a host array, made beside an array of the backend."""
    like = xp.asarray(np.zeros(1), name)
    out = drawn(rng, shape, like, **which)
    assert backends.resolve(out) is backends.resolve(like)
    assert out.dtype == like.dtype
    assert tuple(out.shape) == tuple(shape)
    return xp.numpy(out)


def run(code):
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return out.stdout.split()


def host(rng=0, shape=(2, 3, 4), name="float64", **which):
    return drawn(rng, shape, np.zeros(1, name), **which)


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
    key = threefry.keys(Stream((seed,), (7,)), 1, 1)
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


def test_maps_in_place_are_the_plain_ones():
    """NumPy's map, which writes to buffers of its own, bit for bit."""
    from cmsched.backends.numpy import quantiles

    w = np.random.default_rng(1).integers(0, 2**32, 3000, dtype=np.uint32)
    w = np.concatenate([w, [0, 1, 2**31 - 1, 2**31, LOW]]).astype(np.uint32).view(np.int32)
    for name in ("float32", "float64"):
        out, a, b = np.empty((3, len(w)), name)
        quantiles(w.copy(), out, a, b)
        np.testing.assert_array_equal(out, threefry.from_bits(np, w, np.dtype(name)))


def test_pieces_of_a_draw():
    """Neither gap nor overlap, and the low word never comes round within one."""
    for first in (0, 1, 5, 2**32 - 3, 2**33 + 7):
        for count, most in [(0, 4), (1, 4), (9, 4), (2**33 + 1, 2**32)]:
            found = list(element.pieces(first, count, most))
            ends = [0, *(stop for _, stop, _, _ in found)]
            assert [start for start, *_ in found] == ends[:-1]
            assert ends[-1] == count
            for start, stop, high, low in found:
                assert high * 2**32 + low == first + start
                assert low + stop - start <= 2**32


HARNESS = """
#include <cmath>
using namespace std;
extern "C" void draw(const unsigned* keys, long long rows, long long part, long long whole,
                     long long n, {real}* out) {{
    for (long long i = 0; i < n; ++i) {{ {real}& z = out[i]; {draw} }}
}}
extern "C" void fold(const unsigned* given, long long n, unsigned* out) {{
    for (long long i = 0; i < n; ++i) {{
        unsigned high = given[i], low = given[n + i], rank = given[2 * n + i];
        unsigned row = given[3 * n + i];
        unsigned& a = out[i]; unsigned& b = out[n + i]; {fold}
    }}
}}
"""  # fmt: skip


@pytest.fixture(scope="module")
def compiler():
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    return found or pytest.skip("no C++ compiler")


@pytest.mark.host
@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_text_for_a_gpu_compiled_on_the_host(name, uniform, compiler, tmp_path):
    """The body of CuPy's kernels as C++: keys bit for bit, normals as promised."""
    text = HARNESS.format(
        real={"float32": "float", "float64": "double"}[name],
        draw=element.draw_source(name, uniform),
        fold=element.fold_source(),
    )
    source, library = tmp_path / "noise.cpp", tmp_path / "noise.so"
    source.write_text(text)
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", source, "-o", library], check=True)
    functions, number = ctypes.CDLL(str(library)), ctypes.c_longlong
    rows = np.array([[3, 0, 2**31], [LOW, 1, 1]])
    stream = Stream((2**40 + 9,), (4, 2))
    given = np.stack([*np.repeat(threefry.keys(stream, STEP, 2), 3, 1), [2] * 6, rows.ravel()])
    given, keys = given.astype(np.uint32), np.empty((2, 6), np.uint32)
    functions.fold(given.ctypes, number(6), keys.ctypes)
    expected = [threefry.block((a, b), (c, d)) for a, b, c, d in given.T.tolist()]
    np.testing.assert_array_equal(keys.T, expected)
    numpy = backends.named("numpy")
    for row, parts in ((rows, 3), (7, 1)):
        spec = NoiseSpec((2, 3, 5000), name, row=row, rank=2, uniform=uniform)
        keys = np.ascontiguousarray(numpy.folded_keys(stream, spec).reshape(2, -1))
        out, size = np.empty(spec.shape, name), 3 * 5000
        sizes = map(number, (2 * parts, size // parts, size, out.size))
        functions.draw(keys.ctypes, *sizes, out.ctypes)
        expected = numpy.normals(stream, spec._replace(dtype="float64"))
        if uniform:
            np.testing.assert_array_equal(out, numpy.normals(stream, spec))
        np.testing.assert_allclose(out, expected, rtol=0, atol=TOLERANCE[name])


@pytest.mark.skipif(not find_spec("numba"), reason="numba is not installed")
@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_one_loop_is_the_blocks(name, uniform, monkeypatch):
    """What numba compiles gives what NumPy does: also beyond 32 bits, by frames, and split."""
    from cmsched.backends import numpy as adapter

    key, first = np.array([[3], [7]], np.uint32), 5 * 2**32 - 6000
    one, blocks = np.empty((2, 1, 20000), name)
    adapter.draw(one, key, [first], uniform, True)
    adapter.draw(blocks, key, [first], uniform, False)
    same = {"rtol": 0, "atol": TOLERANCE[name]}
    np.testing.assert_allclose(one, blocks, **same)
    assert not uniform or np.array_equal(one, blocks)
    monkeypatch.setattr(element, "LEAST", 1 << 14)
    shape = (2, 4, element.LEAST // 4)
    options = {"shape": shape, "name": name, "uniform": uniform}
    rows = np.array([[1, 2, 1, 0], [5, 1, 1, 1]])
    found, frames = host(6, row=1, **options), host(6, row=rows, **options)
    part = host(Rng(6, sample=[1]), row=1, **options | {"shape": (1, *shape[1:])})
    monkeypatch.setattr(element, "LEAST", 1 << 40)
    np.testing.assert_allclose(found, host(6, row=1, **options), **same)
    np.testing.assert_allclose(frames, host(6, row=rows, **options), **same)
    np.testing.assert_array_equal(frames[rows == 1], found[rows == 1])
    np.testing.assert_array_equal(part, found[1:])


def test_blocks_do_not_show(monkeypatch):
    """NumPy works in blocks; every split gives the same numbers."""
    from cmsched.backends import numpy as adapter

    for shape in [(5, 3), (3, 70), (1, 200), (40,), (), (0, 3), (3, 0)]:
        rows = [4, np.full(shape[:2], 4)]  # the same draw, frame by frame
        whole = host(3, shape, row=4)
        for block in (1, 8, 64):
            monkeypatch.setattr(adapter, "BLOCK", block)
            monkeypatch.setattr(adapter, "MAP_BYTES", block)
            for row in rows:
                np.testing.assert_array_equal(host(3, shape, row=row), whole)
        monkeypatch.undo()


@pytest.mark.host
@pytest.mark.parametrize("times", [(3, 900000), (900000, 4)])
def test_paths_are_drawn_block_by_block(times, monkeypatch):
    """NumPy sums the nodes of a path within a block; the sum over whole arrays is the same."""
    from cmsched.backends import numpy as adapter

    stream = Stream((6,))
    plain = backends.Backend("array_api_strict" if find_spec("array_api_strict") else "numpy")
    for shape in [(5, 3), (3, 70), (2, 4, 50), (40,), (), (0, 3), (3, 0)]:
        lead = (shape or (1,))[:2]
        for ends in (times, tuple(np.full(lead, t, np.int32) for t in times)):
            monkeypatch.setattr(adapter, "BLOCK", 16)
            spec = NoiseSpec(shape, "float64", purpose=BROWNIAN, times=ends)
            found = adapter.BACKEND.increments(stream, spec)
            asked = times if not shape or isinstance(ends[0], int) else tuple(
                plain.xp.asarray(t) for t in ends)  # fmt: skip
            spec = spec._replace(dtype=plain.xp.float64, times=asked)
            expected = plain.increments(stream, spec)
            np.testing.assert_allclose(found, np.asarray(expected), rtol=0, atol=1e-12)


def test_blocks_beyond_32_bits():
    from cmsched.backends import numpy as adapter

    key = np.array([[[3]], [[7]]], np.uint32)
    for first in (0, 2**32 - 4, 2**32 - 1, 2**32, 5 * 2**32 - 2, 5 * 2**32 + 8):
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
    z = xp.numpy(drawn(9, (3, 4), like, row=rows, rank=1))
    for i, row in enumerate((7, 0, 3)):
        expected = host(9, (3, 4), row=row, rank=1)[i]
        np.testing.assert_allclose(z[i], expected, rtol=0, atol=4e-6)
    np.testing.assert_array_equal(draw(xp, row=np.int64(7)), draw(xp, row=7))
    one = xp.asarray(np.array(7), "int32")
    z = xp.numpy(drawn(9, (3, 4), like, row=one, rank=1))
    np.testing.assert_allclose(z, host(9, (3, 4), row=7, rank=1), rtol=0, atol=4e-6)
    with pytest.raises(
        ValueError, match=r"row has shape \(3,\): use an int, .* sample's, \(2, 4\)"
    ):
        drawn(9, (2, 4), like, row=rows)


def test_frames_of_a_sample_at_different_draws(xp):
    """Each frame is cut out of the draw that its row number names."""
    like = xp.asarray(np.zeros(1), "float32")
    host_rows = np.array([[7, 0, 3], [3, 3, 1]])
    rows, shape = xp.asarray(host_rows, "int32"), (2, 3, 4, 2)
    for rng in (9, Rng(9, sample=[5, 2]), [9, Rng(8)], [9, Rng(8, path=True)]):
        z = xp.numpy(drawn(rng, shape, like, row=rows, rank=1))
        for i, frame in np.ndindex(2, 3):
            expected = host(rng, shape, row=int(host_rows[i, frame]), rank=1)[i, frame]
            np.testing.assert_allclose(z[i, frame], expected, rtol=0, atol=4e-6)
    every = xp.asarray(np.resize(host_rows, (2, 3, 4)), "int32")  # any depth
    z = xp.numpy(drawn(9, shape, like, row=every))
    expected = host(9, shape, row=int(np.resize(host_rows, 24)[13]))[1, 0, 1]
    np.testing.assert_allclose(z[1, 0, 1], expected, rtol=0, atol=4e-6)
    for empty in ((0, 3, 4), (2, 0, 4)):
        rows = xp.asarray(np.zeros(empty[:2]), "int32")
        assert drawn(9, empty, like, row=rows).shape == empty


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

    for dtype in (torch.float32, torch.float64, torch.float16):
        z = standard_normal(seeded(3), torch.zeros(2, 5, dtype=dtype), 4)
        assert torch.equal(z, torch.randn((2, 5), generator=seeded(3), dtype=dtype))
    like = torch.zeros(2, 5)
    z = standard_normal([seeded(3), seeded(4)], like, 4)
    expected = [torch.randn((1, 5), generator=seeded(s)) for s in (3, 4)]
    assert torch.equal(z, torch.cat(expected))
    fresh = backends.named("torch").fresh(2**63 + 5, like.device)
    assert fresh.initial_seed() == 2**63 + 5
    z = standard_normal(seeded(3), like.to("meta"), 4)
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
            return np.asarray(drawn(key, shape, like, row=row, rank=rank))

        fold = jax.random.fold_in
        expected = jax.random.normal(fold(fold(key, 1), 4), (2, 5), np.float32)
        near = {"rtol": 0, "atol": TOLERANCE["float32"]}  # compiled beside other operations
        np.testing.assert_allclose(normal(4, 1), expected, **near)
        np.testing.assert_allclose(normal(jnp.asarray(4), 1), expected, **near)
        different = [normal(0), normal(1), normal(0, 1), normal(1, 1)]
        assert all(np.all(a != b) for i, a in enumerate(different) for b in different[:i])
        rows = normal(jnp.array([4, 4, 5]), shape=(3, 5))
        assert len(np.unique(rows)) == 15  # rows at the same draw must not share noise
        frames = normal(jnp.array([[4, 4], [4, 5], [0, 4]]), shape=(3, 2, 5))
        assert len(np.unique(frames)) == 30
        frames, rows = jnp.array([[4]] * 3), jnp.array([4] * 3)
        one = normal(frames, shape=(3, 1, 5))[:, 0]
        np.testing.assert_allclose(one, normal(rows, shape=(3, 5)), **near)

    def test_a_key_per_sample(self):
        import jax
        import jax.numpy as jnp

        like, keys = jnp.zeros(1), jax.random.split(jax.random.key(0), 2)
        rows = jnp.array([4, 7])
        z = drawn(list(keys), (2, 5), like, row=rows)
        for i in range(2):
            one = drawn([keys[i]], (1, 5), like, row=rows[i : i + 1])
            np.testing.assert_allclose(z[i : i + 1], one, rtol=0, atol=TOLERANCE["float64"])

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
            drawn(rng, (2, 3), like, row=0)
        backends.named("torch").fresh(3, like.device)
        assert torch.equal(torch.get_rng_state(), state)


def test_function(xp):
    like = xp.asarray(np.zeros(1), "float32")
    calls = []

    def rng(shape, dtype, interval):
        calls.append((shape, dtype, interval))
        return xp.asarray(np.full(shape, 2), "float32")

    z = drawn(rng, (2, 3), like, row=0, interval=(0.5, 0.25))
    assert calls == [((2, 3), like.dtype, (0.5, 0.25))]
    np.testing.assert_array_equal(xp.numpy(z), np.full((2, 3), 2))
    with pytest.raises(ValueError, match=r"noise of shape \(2, 3\): the sample needs"):
        drawn(lambda *_: z, (2, 1), like, row=0)
    other = "jax" if xp.backend == "torch" else "torch"
    if find_spec(other):
        foreign = Rng(0).normal((2, 3), xp=other)
        with pytest.raises(ValueError, match=f"returned {other} noise"):
            drawn(lambda *_: foreign, (2, 3), like, row=0)


# one Brownian path

PATH = Rng(6, path=True)


def clock(lam):
    """The documented clock, as a part of its range; sigma / alpha = e^-lam."""
    return np.arctan2(np.exp(-lam / 2), np.exp(lam / 2)) * 2 / np.pi


def increment(interval, rng=PATH, shape=(2, 3), name="float64", **options):
    return host(rng, shape, name, interval=interval, **options)


def correlation(first, second):
    """What the clock says of unit increments over two intervals."""
    (a, b), (c, d) = np.array([clock(first[0]), clock(first[1])]), clock(np.array(second))
    overlap = max(0.0, min(max(a, b), max(c, d)) - max(min(a, b), min(c, d)))
    return np.sign((b - a) * (d - c)) * overlap / np.sqrt(abs(b - a) * abs(d - c))


def check_law(draws, intervals):
    """Unit normals, correlated as their intervals overlap, within five standard errors."""
    n = draws.shape[1]
    assert np.abs(draws.mean(axis=1)).max() < 5 / np.sqrt(n)
    assert np.abs(np.mean(draws**2, axis=1) - 1).max() < 5 * np.sqrt(2 / n)
    assert np.abs(np.mean(draws**4, axis=1) - 3).max() < 5 * np.sqrt(96 / n)
    expected = np.array([[correlation(i, j) for j in intervals] for i in intervals])
    assert np.abs(draws @ draws.T / n - expected).max() < 5 * np.sqrt(2 / n)


# neighbours, nested, across, backwards, to either end
INTERVALS = [(-1.0, -0.5), (-0.5, 0.0), (-1.0, 0.0), (-0.7, 0.4), (0.3, -0.9), (-np.inf, -3.0)]
INTERVALS += [(-3.0, np.inf), (2.0, 2.1), (-np.inf, np.inf)]


@pytest.mark.host
def test_path_law():
    shape = (4, 26, 400)
    z = np.stack([increment(i, shape=shape) for i in INTERVALS])
    check_law(z.reshape(len(INTERVALS), -1), INTERVALS)
    whole, start = z[-1], host(6, shape, row=0)
    for axis in (1, 2):  # elements, and samples, have paths of their own
        a, b = np.split(whole, [shape[axis] // 2], axis=axis)
        assert abs(np.mean(a * b)) < 5 / np.sqrt(a.size)
    assert abs(np.mean(whole[:2] * whole[2:])) < 5 / np.sqrt(whole.size / 2)
    assert abs(np.mean(whole * start)) < 5 / np.sqrt(whole.size)  # and other draws are others


@pytest.mark.peers
@pytest.mark.skipif(not find_spec("torchsde"), reason="torchsde is not installed")
def test_the_law_is_that_of_a_peer():
    """The same check holds for torchsde's tree, in the same clock."""
    import torch
    import torchsde

    zero = torch.zeros(20000, dtype=torch.float64)
    tree = torchsde.BrownianTree(t0=0.0, w0=zero, t1=1.0, entropy=3)
    draws = []
    for interval in INTERVALS:
        a, b = clock(np.array(interval)).tolist()
        rise = tree(min(a, b), max(a, b)).numpy()
        draws.append(np.sign(b - a) * rise / np.sqrt(abs(b - a)))
    check_law(np.stack(draws), INTERVALS)


@given(times=st.lists(st.integers(0, 2**brownian.DEPTH), min_size=4, max_size=4, unique=True))
def test_weights_of_a_path_are_those_of_brownian_motion(times):
    """Exactly, without drawing: the weights of two increments have the overlap as their product."""
    (a, b), (c, d) = sorted(times[:2]), times[2:]
    first, second = ({}, {})
    for weights, ends in ((first, (a, b)), (second, (c, d))):
        scale = brownian.cells(*ends) ** -0.5
        for node, height, factor in brownian.increment(*ends):
            weights[node] = weights.get(node, 0.0) + height * factor * scale
    assert sum(w * w for w in second.values()) == pytest.approx(1, abs=1e-12)
    overlap = max(0, min(b, max(c, d)) - max(a, min(c, d))) * np.sign(d - c)
    product = sum(w * second.get(node, 0.0) for node, w in first.items())
    assert product == pytest.approx(overlap / np.sqrt((b - a) * abs(d - c)), abs=1e-12)


@pytest.mark.host
@given(time=st.integers(1, 2**brownian.DEPTH))
def test_a_path_is_made_by_halving(time):
    """Lévy's construction written as recursion: a midpoint is the mean of the ends, and noise."""

    def normal(node):
        return host(6, row=node, purpose=BROWNIAN)

    left, right, low, high, node = 0.0, normal(0), 0, 2**brownian.DEPTH, 1
    while time not in (low, high):
        middle = (low + high) // 2
        spread = np.sqrt((high - low) / 2**brownian.DEPTH) / 2
        w = (left + right) / 2 + spread * normal(node)
        up = time >= middle
        low, left, high, right = (middle, w, high, right) if up else (low, left, middle, w)
        node = 2 * node + up
    expected = (left if time == low else right) * np.sqrt(2**brownian.DEPTH / time)
    found = host(PATH, times=(0, time))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


@pytest.mark.host
@given(lams=st.lists(st.floats(-12, 12), min_size=3, max_size=6, unique=True))
def test_increments_add_up(lams):
    """Over dyadic times and any other, in either direction, however finely they are cut."""
    for times in ([brownian.cell(lam) for lam in lams], [0, 2**18, 2**19 + 2**17, 2**20]):
        rise = [
            np.sqrt(abs(b - a)) * host(PATH, times=(a, b)) for a, b in pairwise(times) if a != b
        ]
        a, b = times[0], times[-1]
        whole = np.sqrt(abs(b - a)) * host(PATH, times=(a, b)) if a != b else 0.0
        np.testing.assert_allclose(sum(rise, np.zeros(1)), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_a_path_is_the_same_everywhere(xp, name):
    like, tolerance = xp.asarray(np.zeros(1), name), {"float32": 1e-5, "float64": 1e-13}[name]

    def ends(a, b):
        return tuple(xp.asarray(np.array(t), "int32") for t in (a, b))

    def given_by(shape=(2, 3, 4), rng=PATH, **options):
        options = {"row": 3} | options
        return xp.numpy(drawn(rng, shape, like, **options))

    interval = (-0.8, 0.1)
    a, b = (brownian.cell(lam) for lam in interval)
    expected = increment(interval, shape=(2, 3, 4))
    same = {"rtol": 0, "atol": tolerance}
    np.testing.assert_allclose(given_by(interval=interval), expected, **same)
    np.testing.assert_allclose(given_by(interval=interval, rank=2, row=8), expected, **same)
    np.testing.assert_allclose(given_by(times=ends(a, b)), expected, **same)
    np.testing.assert_allclose(given_by(times=ends([a] * 2, [b] * 2)), expected, **same)
    # intervals of their own, of which one is empty, by sample and by frame
    other = increment((0.5, 2.0), shape=(2, 3, 4))
    plain = host(6, (2, 3, 4), row=3)
    c, d = brownian.cell(0.5), brownian.cell(2.0)
    rows = xp.asarray(np.array([3, 3]), "int32")
    for rng in (PATH, [Rng(6, s, path=True) for s in ([0], [1])]):
        mixed = given_by(rng=rng, times=ends([a, c], [b, c]), row=rows)
        np.testing.assert_allclose(mixed, np.stack([expected[0], plain[1]]), **same)
    mixed = given_by(rng=[6, Rng(6, [1], path=True)], times=ends([a, c], [b, d]), row=rows)
    np.testing.assert_allclose(mixed, np.stack([plain[0], other[1]]), **same)
    rows = xp.asarray(np.full((2, 3), 3), "int32")
    mixed = given_by(times=ends([[a, c, a]] * 2, [[b, d, a]] * 2), row=rows)
    whole = np.stack([expected[:, 0], other[:, 1], plain[:, 2]], axis=1)
    np.testing.assert_allclose(mixed, whole, **same)
    # a batch that is split
    part = given_by((1, 3, 4), Rng(6, sample=[1], path=True), interval=interval)
    np.testing.assert_allclose(part, expected[1:], **same)


def test_draws_off_the_path_are_independent():
    plain = host(6, (2, 3), row=2, rank=1)
    for interval in (None, (0.1, 0.1), (0.1, 0.1 + 1e-7), (np.inf, 40.0), (-np.inf, -np.inf)):
        np.testing.assert_array_equal(increment(interval, row=2, rank=1), plain)
    np.testing.assert_array_equal(Rng(6, path=True).normal((2, 3)), Rng(6).normal((2, 3)))
    np.testing.assert_array_equal(increment((0.1, 0.2), Rng(6), row=2, rank=1), plain)
    assert np.all(np.isfinite(increment((-800.0, 800.0))))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_multistep"])
def test_every_execution_follows_the_path(xp, sampler):
    """The loop itself, int and array index, tables, frames: the same draws, whatever n."""
    plan = a_plan(sampler, {"eta": 1.0}, n=3)
    model = network(xp.xp, plan.prediction)
    x = xp.asarray(np.zeros((2, 3)))
    expected = xp.numpy(cmsched.run(model, plan, x, rng=PATH))
    assert np.abs(expected - xp.numpy(cmsched.run(model, plan, x, rng=6))).max() > 0.01
    for shape in (None, (), (2,), (2, 3)):
        index = 0 if shape is None else xp.asarray(np.zeros(shape), "int32")
        state = cmsched.init(plan, x, index=index)
        for point, after in zip(plan.points, plan.grid.points[1:], strict=True):
            for z in cmsched.draw(plan, state, PATH) or ():
                along = increment((point.lam, after.lam))
                np.testing.assert_allclose(xp.numpy(z), along, rtol=0, atol=1e-12)
            output = model(*cmsched.model_input(plan, state))
            state = cmsched.step(plan, state, output, rng=PATH)
        np.testing.assert_allclose(xp.numpy(state.sample), expected, rtol=1e-9, atol=1e-12)
    table = cmsched.sample(model, plan.on(x), x, rng=PATH)
    np.testing.assert_allclose(xp.numpy(table), expected, rtol=1e-9, atol=1e-12)


@needs_jax
def test_a_path_in_a_jax_loop():
    import jax
    import jax.numpy as jnp

    plan = a_plan("euler_ancestral", n=3)
    model = network(jnp, plan.prediction)
    x = jnp.zeros((2, 3), jnp.float32)
    expected = cmsched.run(model, plan, x, rng=PATH)
    for unroll in (False, True):
        loop = jax.jit(lambda x, u=unroll: cmsched.sample(model, plan, x, rng=PATH, unroll=u))
        np.testing.assert_allclose(loop(x), expected, rtol=0, atol=2e-5)


@needs_torch
@pytest.mark.parametrize("array", [False, True])
def test_a_path_in_a_torch_graph(array):
    import torch

    torch.compiler.reset()
    plan = a_plan("euler_ancestral", n=3)
    x = torch.zeros(2, 3)
    state = cmsched.init(plan, x, index=torch.tensor(1) if array else 0)
    recipe = plan.on(x) if array else plan
    compiled = torch.compile(
        lambda s, x: cmsched.step(recipe, s, x, rng=PATH).sample, fullgraph=True, backend="eager"
    )
    expected = cmsched.step(plan, state, x, rng=PATH).sample
    torch.testing.assert_close(compiled(state, x), expected, rtol=0, atol=1e-5)


def ends_of(sampler, options, n, rng, data=Gaussian()):  # noqa: B008
    """Samples of Gaussian data, from the exact denoiser, in n uneven steps."""
    schedule = VPSDE()
    plan = make_plan(sampler, grid_between(schedule, n), Prediction("sample"), options)

    def model(x, t):
        at = schedule.at(t=float(t))
        gain = at.alpha * data.std**2 / data.spread(at) ** 2
        return gain * x + data.mean * (1 - gain * at.alpha)

    return cmsched.sample(model, plan, Rng(0).normal((1, 200), dtype="float64"), rng=rng)


@pytest.mark.host
@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("euler_ancestral", {}),
        ("dpmpp_multistep", {"eta": 1.0, "solver_order": 2}),
    ],
    ids=str,
)
def test_more_steps_on_one_path_converge_to_one_sample(sampler, options):
    """The strong order is more than one half; independent draws go on to another sample each."""

    def errors(rng):
        *coarse, fine = (ends_of(sampler, options, n, rng) for n in (8, 32, 256))
        return [np.sqrt(np.mean((x - fine) ** 2)) for x in coarse]

    first, second = errors(PATH)
    assert first < 0.3
    assert second < 0.4 * first  # 0.5 is order one half
    assert min(errors(Rng(6))) > 0.5


# in traces


@needs_jax
def test_traced_draw_numbers():
    import jax
    import jax.numpy as jnp

    like = jnp.zeros(1)

    def normal(row, rng=6):
        return drawn(rng, (2, 5), like, row=row)

    expected = np.stack([host(6, (2, 5), row=i) for i in range(4)])
    _, scanned = jax.lax.scan(lambda c, i: (c, normal(i)), 0, jnp.arange(4))
    np.testing.assert_allclose(scanned, expected, rtol=0, atol=4e-6)
    np.testing.assert_allclose(jax.jit(normal)(3), expected[3], rtol=0, atol=4e-6)
    np.testing.assert_allclose(jax.vmap(normal)(jnp.arange(4)), expected, rtol=0, atol=4e-6)
    key = jax.random.key(0)
    compiled, off = jax.jit(normal)(3, key), TOLERANCE["float64"]  # it may be fused differently
    np.testing.assert_allclose(compiled, normal(3, key), rtol=0, atol=off)
    assert jax.eval_shape(normal, 3).shape == (2, 5)
    # The key was first used inside a trace: what was cached there must be a value.
    jax.jit(lambda x: x + standard_normal(777, x, 0))(jnp.zeros((2, 5)))
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
        from cmsched.backends.threefry import START
        mesh = Mesh(np.array(jax.devices()), ("x",))
        backend, shape = backends.named("jax"), (4, 8, 12, 16)
        expected = noise.Rng(0).normal(shape, xp="jax")
        for axis in range(4):
            spec = NamedSharding(mesh, PartitionSpec(*[None] * axis, "x"))
            like = jax.device_put(np.zeros(shape, np.float32), spec)
            z = noise.standard_normal(0, like, 0, purpose=START)
            assert z.sharding == spec and np.allclose(z, expected, rtol=0, atol=4e-6)
            fn = lambda x: noise.standard_normal(0, x, 0)
            text = jax.jit(fn, out_shardings=spec).lower(like).compile().as_text()
            assert "all-" not in text and "collective" not in text
            assert f"[{','.join(map(str, shape))}]" not in text
        other = jax.device_put(np.zeros(2, np.float32), jax.devices()[2])
        z = noise.standard_normal(0, other, 0)
        assert z.device == other.device == backend.to_device_of(np.ones(2), other).device
        print("ok")"""
    assert run(code) == ["ok"]


@needs_torch
class TestTorch:
    def normal(self, x, row, rng=6):
        return standard_normal(rng, x, row)

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
            "def fn(x):\n    return standard_normal(6, x, 0)\n"
            "x = torch.zeros(2, 3)\n"
            "print(torch.equal(torch.compile(fn, fullgraph=True, backend='eager')(x), fn(x)))"
        )
        assert run(code) == ["True"]

    def test_operator_is_well_formed(self):
        import torch

        backends.named("torch")  # registers it
        arguments = ([0, 6], None, 1, False, [2, 3], torch.float32, torch.device("cpu"), 0)
        for row in ((1, None), (0, torch.tensor(1))):
            torch.library.opcheck(
                torch.ops.cmsched.normals.default, (*arguments, *row), test_utils=(
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

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, in its compiler
    def test_compiled_generator(self, monkeypatch):
        """What a GPU draws by, and a user's compiled loop on the CPU: few kernels, all shapes."""
        import torch
        from torch._dynamo.utils import counters

        from cmsched.backends import torch_noise

        torch.compiler.reset()
        counters.clear()
        monkeypatch.setattr(torch_noise, "_uncompiled", set())
        backend, cpu = backends.named("torch"), torch.device("cpu")
        monkeypatch.setattr(torch_noise, "worthwhile", lambda size: True)
        whole = {}
        shapes = [(5, 3), (2, 3, 4), (3, 70), (2, 9), (7,), (0, 3), (3, 0)]
        for shape in [*shapes, (1, 200), (1, 2), (1,), (), (2, 70000)]:
            rows = [3, np.full((shape or (1,))[:2], 3)]
            for row in rows[: 1 if shape in ((2, 70000), (1, 200)) else 2]:
                row = torch.tensor(row) if isinstance(row, np.ndarray) else row
                spec = NoiseSpec(shape, torch.float32, cpu, row, 1)
                with torch.inference_mode(len(whole) % 2 == 1):
                    z = backend.eager_normals(Stream((6,)), spec, compiled=True)
                    assert not z.is_inference()
                expected = host(6, shape, row=3, rank=1)
                np.testing.assert_allclose(z, expected, rtol=0, atol=TOLERANCE["float32"])
                whole[shape] = counters["stats"]["unique_graphs"]
        assert not torch_noise._uncompiled  # a compiler is required where this test is run
        assert whole[2, 70000] <= 2  # one for a row, one for several
        monkeypatch.setattr(torch_noise, "MOST", 32)
        spec = NoiseSpec((2, 70), torch.float32, cpu, row=3, rank=1)
        z = backend.eager_normals(Stream((6,)), spec, compiled=True)
        expected = host(6, (2, 70), row=3, rank=1)
        np.testing.assert_allclose(z, expected, rtol=0, atol=TOLERANCE["float32"])
        stream = Stream((6,), (3, 2))
        spec = NoiseSpec((2, 40), torch.float64, cpu, row=3, rank=1, uniform=True)
        z = backend.eager_normals(stream, spec, compiled=True)
        expected = host(Rng(6, (3, 2)), (2, 40), row=3, rank=1, uniform=True)
        np.testing.assert_allclose(z, expected, rtol=0, atol=TOLERANCE["float64"])
        rows = torch.tensor([[3, 0], [2**31 - 1, 1]], dtype=torch.int32)
        key = torch_noise.fold(torch_noise.keys(stream, STEP, 2, cpu), 2, rows)
        spec = NoiseSpec((2, 2), "float32", row=rows.numpy(), rank=2)
        expected = backends.named("numpy").folded_keys(stream, spec)
        np.testing.assert_array_equal(key.numpy().view(np.uint32), expected)

    @pytest.mark.slow
    def test_without_a_compiler(self, tmp_path):
        """The same operations one by one, said once; and the CPU asks no second time."""
        code = (
            "import os, sys, warnings\n"
            "os.environ.update(CXX='no-such-compiler', TORCHINDUCTOR_CACHE_DIR=sys.argv[1])\n"
            "import numpy as np, torch\n"
            "from cmsched.backends import torch_noise\n"
            "from cmsched.noise import standard_normal\n"
            "torch_noise.jitted.installed = lambda: False\n"
            "def fn(x):\n    return standard_normal(6, x, 3)\n"
            "compiled = torch.compile(fn, fullgraph=True, backend='eager')\n"
            "x = torch.zeros(2, torch_noise.element.LEAST_IN_GRAPH)\n"
            "assert torch_noise.worthwhile(x.shape[1])\n"
            "warnings.simplefilter('always')\n"
            "with warnings.catch_warnings(record=True) as said:\n"
            "    a, b = compiled(x), compiled(x)\n"
            "assert not torch_noise.worthwhile(x.shape[1])\n"
            "for z in (a, b):\n"
            "    np.testing.assert_allclose(z, fn(x), rtol=0, atol=4e-6)\n"
            "print(*[w.message for w in said if 'noise' in str(w.message)], sep='\\n')\n"
        )
        command = [sys.executable, "-c", code, tmp_path]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert said.count("\n") == 1
        for part in ("'cpu' is drawn several times slower", "install a C++ compiler", "no-such-"):
            assert part in said

    def test_other_errors_are_not_about_the_compiler(self, monkeypatch):
        """A failed launch is raised, and the next draw is compiled again."""
        import torch

        from cmsched.backends import torch_noise

        def failing(*variant):
            def launch(*arguments):
                raise RuntimeError("CUDA error: unspecified launch failure")

            return launch

        monkeypatch.setattr(torch_noise, "_compiler", failing)
        monkeypatch.setattr(torch_noise, "_uncompiled", set())
        with pytest.raises(RuntimeError, match="launch failure"):
            torch_noise.draw(torch.zeros(2, 1, 1, dtype=torch.int32), 8, torch.float32, False)
        assert not torch_noise._uncompiled

    def test_variants_beyond_the_compilers_limit(self, monkeypatch):
        """Each is compiled on its own; what is too many for one is drawn all the same."""
        import torch
        from torch._dynamo.utils import counters

        from cmsched.backends import torch_noise

        def same(rows, size, name="float32", uniform=False):
            dtype, cpu = getattr(torch, name), torch.device("cpu")
            spec = NoiseSpec((rows, size), dtype, cpu, row=3, uniform=uniform)
            z = backends.named("torch").eager_normals(Stream((6,)), spec, compiled=True)
            expected = host(6, (rows, size), row=3, uniform=uniform)
            np.testing.assert_allclose(z, expected, rtol=0, atol=TOLERANCE[name])
            return counters["stats"]["unique_graphs"]

        torch.compiler.reset()
        counters.clear()
        # Traced only: generating the code takes seconds, and is not in question here.
        quick = functools.partial(torch.compile, backend="eager")
        monkeypatch.setattr(
            torch, "compile", lambda fn, fullgraph, options: quick(fn, fullgraph=True)
        )
        fresh = functools.cache(torch_noise._compiler.__wrapped__)
        monkeypatch.setattr(torch_noise, "_compiler", fresh)
        monkeypatch.setattr(torch_noise, "_uncompiled", set())
        monkeypatch.setattr(torch_noise, "worthwhile", lambda size: True)
        variants = list(product((1, 3), (40, 70), ("float32", "float64"), (False, True)))
        with torch._dynamo.config.patch(cache_size_limit=1):
            found = [same(*variant) for variant in variants]
            assert found[-1] == 8  # not one each for the two sizes
            with torch.autocast("cpu", torch.bfloat16):
                assert same(1, 40) == 8
            assert same(1, 50) == 8
        assert not torch_noise._uncompiled
        with torch.autocast("cpu", torch.bfloat16):
            assert same(1, 40) == 9

    def test_operator_stays_out_of_cuda_graphs(self):
        import torch

        if not hasattr(torch.Tag, "cudagraph_unsafe"):
            pytest.skip("this PyTorch has no such tag")
        backends.named("torch")
        assert torch.Tag.cudagraph_unsafe in torch.ops.cmsched.normals.default.tags

    def test_elements_beyond_32_bits(self):
        import torch

        from cmsched.backends import torch_noise

        places = torch_noise._places((2**32 - 1, 5 * 2**32), 7, torch.device("cpu"))
        assert places[..., 0].tolist() == [[1, 5], [6, 7]]
        out = torch.empty(2, 20, dtype=torch.float64)
        key = torch.tensor([[[3], [3]], [[7], [7]]], dtype=torch.int32)
        torch_noise._fill(out, torch.cat([key, places]), False)
        for row, first in zip(out, (2**32 + 6, 5 * 2**32 + 7), strict=True):
            expected = [threefry.block((3, 7), divmod(first + i, 2**32)) for i in range(20)]
            expected = quantile([a ^ b for a, b in expected])
            np.testing.assert_allclose(row, expected, rtol=0, atol=1e-14)

    def test_generic_path(self):
        """What runs on a GPU, run here."""
        import torch

        key = torch.tensor(threefry.keys(Stream((6,)), STEP, 2).view(np.int32))
        xp = backends.named("torch").xp
        z = threefry.normals(xp, tuple(key), NoiseSpec((2, 3, 4), torch.float64, row=3))
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


def test_hostile_path():
    with pytest.raises(TypeError, match="path=1 is neither True nor False"):
        Rng(0, path=1)
    assert len({Rng(0), Rng(0, path=True)}) == 2


def test_hostile_normal():
    with pytest.raises(ValueError, match="did you mean 'torch'"):
        Rng(0).normal((2,), xp="torhc")
    with pytest.raises(TypeError, match="int32"):
        Rng(0).normal((2,), dtype="int32")
    with pytest.raises(ValueError, match="device='cuda'"):
        Rng(0).normal((2,), xp="numpy", device="cuda")
