"""Frameworks beyond those with tests of their own: Paddle, MLX, Dask, and one that nobody knows.

The last is written here, over NumPy, with no more than `cmsched/backends/frameworks.md` asks for.
"""

import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import missing
from problems import a_plan, given_of, start_of, traced_variants
from scheduling import DEFAULTS, Problem, build, label, last

import cmsched
from cmsched import backends
from cmsched.backends import registry

DOCS = (Path(backends.__file__).parent / "frameworks.md").read_text()
SHAPE = (2, 3, 5)
PRESENT = [name for name in ("paddle", "mlx", "dask") if not missing(name)]
pytestmark = pytest.mark.host  # they are not among the frameworks that every test is run with

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "No ccache found")  # Paddle, of a compiler's cache
    for _name in PRESENT:
        backends.named(_name)  # a wheel that cannot be imported is no reason to test less


# a framework of its own


class Tensor:
    """An array that can be neither written to nor read, but for integers and single numbers."""

    def __init__(self, values):
        self.values = np.array(values)
        self.values.flags.writeable = False

    shape = property(lambda self: self.values.shape)
    dtype = property(lambda self: self.values.dtype)

    def __float__(self):
        return float(self.values)

    def __array__(self, dtype=None, copy=None):
        assert self.dtype.kind == "i", "floating arrays stay where they are"
        return self.values


def binary(function):
    """An operator between two arrays of a dtype, or with a Python number."""

    def operator(x, other):
        if type(other) in (int, float):
            other = x.dtype.type(other)
        elif isinstance(other, Tensor):
            assert x.dtype == other.dtype
            other = other.values
        else:
            return NotImplemented
        return type(x)(function(x.values, other))

    return operator


def both(name, function):
    return {
        f"__{name}__": binary(function),
        f"__r{name}__": binary(lambda a, b: function(b, a)),
    }


OPERATORS = {
    "+": both("add", np.add),
    "-": both("sub", np.subtract),
    "*": both("mul", np.multiply),
    "/": both("truediv", np.divide),
    "//": both("floordiv", np.floor_divide),
    "**": {"__pow__": binary(np.power)},
    "-x": {"__neg__": lambda x: type(x)(-x.values)},
    "==": {"__eq__": binary(np.equal)},
    ">": {"__gt__": binary(np.greater)},
    "<=": {"__le__": binary(np.less_equal)},
    "[]": {"__getitem__": lambda x, key: type(x)(x.values[key])},
}
FUNCTIONS = {
    "asarray": lambda host, *, dtype=None: np.asarray(host, dtype),
    "astype": lambda x, dtype: x.astype(dtype),
    "clip": lambda x, lo, hi: np.clip(x, x.dtype.type(lo), x.dtype.type(hi)),
    "concat": lambda arrays, *, axis=0: np.concatenate(arrays, axis),
    "reshape": lambda x, shape: x.reshape(shape),
    "argmin": lambda x, *, axis: np.argmin(x, axis),
    "min": lambda x, *, axis: np.min(x, axis),
    "sort": lambda x, *, axis: np.sort(x, axis),
    "std": lambda x, *, axis, keepdims: np.std(x, axis, keepdims=keepdims),
    "take": lambda x, indices, *, axis=0: np.take(x, indices, axis),
    **{name: getattr(np, name) for name in ("abs", "exp", "sqrt", "tanh", "zeros_like")},
    **{name: getattr(np, name) for name in ("floor", "maximum", "minimum", "where")},
}
DTYPES = {name: np.dtype(name) for name in ("int32", "int64", "float16", "float32", "float64")}


def tensors(operators):
    """A class of arrays with these operators."""
    methods = {name: f for symbol in operators for name, f in OPERATORS[symbol].items()}
    return type("Tensor", (Tensor,), {"__hash__": None, "__eq__": None, **methods})


def wrapped(cls, function):
    """A function of NumPy's as one of these arrays."""

    def own(x):
        if isinstance(x, list):
            return [own(each) for each in x]
        return x.values if isinstance(x, cls) else x

    return lambda *args, **kwargs: cls(function(*map(own, args), **kwargs))


# all frameworks alike


@dataclass(frozen=True)
class Framework:
    """NumPy arrays go in, arrays of the framework and back come out."""

    name: str

    @property
    def backend(self) -> Any:
        return backends.named(self.name)

    def asarray(self, host: Any, dtype: str | None = None) -> Any:
        dtype = dtype and self.backend.dtype(dtype)
        return self.backend._asarray(np.asarray(host), None, dtype)

    def numpy(self, x: Any) -> np.ndarray:
        if isinstance(x, Tensor):
            return x.values
        if self.backend.dtype_name(x.dtype) == "bfloat16":
            x = self.backend.astype(x, self.backend.dtype("float32"))
        return np.array(x)

    @contextmanager
    def lazy(self) -> Iterator[None]:
        """Where a framework computes nothing before it is asked to, see that it does not."""
        if self.name == "dask":
            import dask

            def compute(*args: Any, **kwargs: Any) -> None:
                raise AssertionError("computed in the loop")

            with dask.config.set(scheduler=compute):
                yield
        else:
            yield

    def network(self, prediction: Any) -> Callable[[Any, Any], Any]:
        """One that looks at t, of functions that all compute in the dtype they are given."""
        backend = self.backend

        def model(x: Any, t: Any) -> Any:
            wide = backend.astype(x, acc := backend.accumulation(x.dtype))
            t = backend.xp.reshape(t, (*t.shape, *(1,) * (len(x.shape) - len(t.shape))))
            mean = backend.xp.tanh(wide * 0.5 + backend.astype(t, acc) * 3e-3)
            if prediction.variance_head:
                mean = backend.xp.concat([mean, wide * 0.1], axis=1)
            return backend.astype(mean, x.dtype)

        return model


NUMBERS = count()


def registered(operators=frozenset(OPERATORS), names=frozenset({*FUNCTIONS, *DTYPES})):
    """A framework that has these and no others."""
    cls = tensors(operators)
    functions = {name: wrapped(cls, f) for name, f in FUNCTIONS.items() if name in names}
    dtypes = {name: dtype for name, dtype in DTYPES.items() if name in names}
    name = f"own{next(NUMBERS)}"  # plans keep what was placed for a name
    backends.register(name, cls, SimpleNamespace(**functions, **dtypes))
    return Framework(name)


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    yield
    registry._by_type.clear()


@pytest.fixture(params=[*PRESENT, "own"])
def framework(request):
    if request.param == "own":
        return registered()
    return Framework(request.param)


REFERENCE = Framework("numpy")


def close(framework, found, expected, dtype, loose=False):
    """Equal but for rounding; `loose`: MLX computes exp in float32."""
    found = framework.numpy(found)
    assert found.dtype == expected.dtype
    eps = {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3}[dtype]
    if loose and framework.name == "mlx":
        eps = max(eps, 1e-6)
    np.testing.assert_allclose(found, expected, rtol=eps, atol=eps * np.abs(expected).max())


# samplers

PLANS = [  # (dtype, how the plan is made)
    ("float64", {"n": 5}),
    ("float32", {"n": 3, "schedule": "linear", "projection": "clip", "kind": "v_prediction"}),
]


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_every_sampler(framework, sampler, options):
    """`sample` gives what it gives with NumPy, noise included; nothing it was given is changed."""
    for dtype, kind in PLANS:
        plan = a_plan(sampler, options, **kind)
        given = given_of(plan, SHAPE)

        def loop(own, dtype=dtype, plan=plan, given=given):
            arrays = {name: own.asarray(array, dtype) for name, array in (given or {}).items()}
            noise = own.asarray(start_of(SHAPE), dtype)
            model = own.network(plan.prediction)
            with own.lazy():
                found = cmsched.sample(model, plan, noise, given=arrays or None, rng=7)
            for name, array in arrays.items():
                np.testing.assert_array_equal(own.numpy(array), given[name].astype(dtype))
            np.testing.assert_array_equal(own.numpy(noise), start_of(SHAPE).astype(dtype))
            assert backends.resolve(found) is own.backend
            return found

        learned = plan.prediction.variance_head
        close(framework, loop(framework), loop(REFERENCE), dtype, learned)


@pytest.mark.parametrize("projection", ["threshold", "boundary"])
def test_projections_and_the_untraced_loop(framework, projection):
    plan = a_plan("dpmpp_multistep", {}, projection=projection)
    results = [
        [way(own.network(plan.prediction), plan, own.asarray(start_of(SHAPE), "float64"))
         for way in (cmsched.sample, cmsched.run)]
        for own in (framework, REFERENCE)
    ]  # fmt: skip
    for found, expected in zip(*results, strict=True):
        close(framework, found, expected, "float64")


@pytest.mark.parametrize("visit", DEFAULTS, ids=label)
def test_every_class_by_the_stateful_habit(framework, visit):
    def loop(own):
        scheduler = build(visit)
        scheduler.set_timesteps(4)
        with own.lazy():
            return last(Problem(own, scheduler).stateful(scheduler, generator=3))

    if build(visit).plan(4).traced:
        close(framework, loop(framework), loop(REFERENCE), "float64", loose=True)


def test_times_in_the_framework(framework):
    scheduler = cmsched.DPMSolverMultistepScheduler()
    scheduler.set_timesteps(3, xp=framework.name)
    assert backends.resolve(scheduler.timesteps) is framework.backend
    x = framework.asarray(start_of(SHAPE), "float32")
    plan = scheduler.plan(3)
    model = framework.network(plan.prediction)
    for i in range(3):
        t = scheduler.timesteps[i]
        x = scheduler.step(model(x, t), t, x).prev_sample
    noise = start_of(SHAPE).astype(np.float32)
    expected = cmsched.sample(REFERENCE.network(plan.prediction), plan, noise)
    close(framework, x, expected, "float32")


def test_image_to_image(framework):
    plan = a_plan("ddim", {"eta": 0.5}).skip(2)

    def loop(own):
        image, noise = (own.asarray(start_of(SHAPE, seed), "float64") for seed in (1, 2))
        return cmsched.sample(own.network(plan.prediction), plan, noise, x0=image, rng=1)

    close(framework, loop(framework), loop(REFERENCE), "float64")


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_multistep"])
def test_rows_at_different_steps(framework, sampler):
    """Two plans in one batch by an array index, each row with noise of its own."""
    options = {"eta": 1.0}
    plans = cmsched.stack([a_plan(sampler, options, n=n) for n in (2, 4)])
    rngs = [cmsched.Rng(5), cmsched.Rng(6)]

    def loop(own, **how):
        noise = own.asarray(start_of(SHAPE), "float64")
        model = own.network(plans.layout.prediction)
        with own.lazy():
            state = cmsched.init(plans, noise, which=[1, 0])
            for _ in range(len(plans)):
                output = model(*cmsched.model_input(plans, state))
                x0 = cmsched.estimate(plans, state, output).x0
                state = cmsched.step(plans, state, output, **how)
            swapped = cmsched.join([cmsched.take(state, [k]) for k in (1, 0)])
        return state.sample, x0, swapped.sample, state.index

    for how in ({"rng": rngs}, {"rng": 2}):
        *found, index = loop(framework, **how)
        *expected, there = loop(REFERENCE, **how)
        for one, other in zip(found, expected, strict=True):
            close(framework, one, other, "float64")
        np.testing.assert_array_equal(framework.numpy(index), there)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(framework, dtype):
    if not hasattr(framework.backend.xp, dtype):
        with pytest.raises((TypeError, AttributeError), match=dtype):
            framework.asarray([0.0], dtype)
        return
    plan = a_plan("dpmpp_multistep", {"eta": 1.0}, projection="clip")
    x = framework.asarray(start_of(SHAPE), dtype)
    model = framework.network(plan.prediction)
    exact = cmsched.sample(REFERENCE.network(plan.prediction), plan, start_of(SHAPE), rng=2)
    eps = {"float16": 2e-3, "bfloat16": 2e-2}[dtype]
    for recipe in (plan, plan.on(x)):  # by an int index, and by an array
        found = cmsched.sample(model, recipe, x, rng=2)
        assert framework.backend.dtype_name(found.dtype) == dtype
        found = framework.numpy(found).astype(np.float64)
        np.testing.assert_allclose(found, exact, atol=8 * eps)  # each of five steps rounds


@pytest.mark.parametrize("name", [n for n in PRESENT if n != "dask"])
def test_gradients(name):
    """Of the sum of a sample with respect to its noise, along a direction."""
    own, plan = Framework(name), a_plan("dpmpp_multistep", {})
    x, direction = own.asarray(start_of(SHAPE), "float64"), start_of(SHAPE, 5)
    if name == "paddle":
        x.stop_gradient = False
        cmsched.sample(own.network(plan.prediction), plan, x).sum().backward()
        found = x.grad
    else:
        xp = own.backend.xp
        found = xp.grad(lambda x: cmsched.sample(own.network(plan.prediction), plan, x).sum())(x)

    def along(h):
        model = REFERENCE.network(plan.prediction)
        return cmsched.sample(model, plan, start_of(SHAPE) + h * direction).sum()

    expected = (along(1e-5) - along(-1e-5)) / 2e-5
    assert np.isclose((own.numpy(found) * direction).sum(), expected, rtol=1e-6)


@pytest.mark.skipif("mlx" not in PRESENT, reason="mlx is not installed")
def test_a_step_compiled_by_mlx():
    """With an array index, one function for all steps."""
    own, plan = Framework("mlx"), a_plan("dpmpp_multistep", {"eta": 1.0})

    def step(state, output, z):
        return tuple(cmsched.step(plan, cmsched.State(*state), output, noise=z))

    compiled = own.backend.xp.compile(step)
    x = own.asarray(start_of(SHAPE), "float32")
    state = cmsched.init(plan, x, index=own.asarray(np.zeros((), np.int32)))
    host = cmsched.init(plan, start_of(SHAPE).astype(np.float32))
    for output in outputs(REFERENCE, plan):
        z = cmsched.draw(plan, state, 4)
        state = cmsched.State(*compiled(tuple(state), own.asarray(output), z))
        host = cmsched.step(plan, host, output, rng=4)
    close(own, state.sample, host.sample, "float32")


@pytest.mark.skipif("dask" not in PRESENT, reason="dask is not installed")
def test_chunks_are_kept():
    """Those of the sample, along every axis; noise is drawn in pieces of whole samples."""
    import dask
    import dask.array as da

    plan, x = a_plan("ddim", {"eta": 1.0}), start_of((5, 4, 6))
    lazy = da.from_array(x, chunks=((2, 3), (4,), (3, 3)))
    model = Framework("dask").network(plan.prediction)
    for rng in (3, [cmsched.Rng(4), 5, 6, 7, 8], cmsched.Rng(2, sample=range(3, 8), path=True)):
        expected = cmsched.sample(REFERENCE.network(plan.prediction), plan, x, rng=rng)
        for size in ("128MiB", "200B"):  # of the noise: all samples, or one
            with dask.config.set({"array.chunk-size": size}):
                found = cmsched.sample(model, plan, lazy, rng=rng)
            assert set(found.chunks[2]) == {3}
            assert found.chunks[0] == ((2, 3) if size == "128MiB" else (1,) * 5)
            np.testing.assert_array_equal(found.compute(), expected)


@pytest.mark.parametrize("part", ["`guide`", "`guide` with rescale"])
def test_guidance(framework, part):
    for found, expected in zip(PARTS[part](framework), PARTS[part](REFERENCE), strict=True):
        close(framework, found, expected, "float32")


# noise


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_portable_noise(framework, dtype):
    """As the documentation of noise says: normals agree within 4e-6 and 1e-14."""
    xp = framework.name
    for shape in ((), (3,), (3, 0, 2), (3, 5, 7)):
        found = framework.numpy(cmsched.Rng(2**40 + 1).normal(shape, xp=xp, dtype=dtype))
        expected = cmsched.Rng(2**40 + 1).normal(shape, dtype=dtype)
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        off = {"float32": 4e-6, "float64": 1e-14}[dtype]
        np.testing.assert_allclose(found, expected, rtol=0, atol=off)
    whole = framework.numpy(cmsched.Rng(9).normal((4, 6), xp=xp, dtype=dtype))
    part = cmsched.Rng(9, sample=range(1, 3)).normal((2, 6), xp=xp, dtype=dtype)
    np.testing.assert_array_equal(framework.numpy(part), whole[1:3])


def test_kinds_of_rng(framework):
    plan = a_plan("ddim", {"eta": 1.0})
    kinds = [
        [4, cmsched.Rng(5)],
        [cmsched.Rng(4, path=True), 5],
        lambda own: lambda shape, dtype, interval: own.asarray(start_of(shape, 8), "float64"),
        lambda own: [lambda s, d, i, k=k: own.asarray(start_of(s, k), "float64") for k in (1, 2)],
    ]

    def loop(own, rng):
        noise = own.asarray(start_of(SHAPE), "float64")
        rng = rng(own) if callable(rng) else rng
        return cmsched.sample(own.network(plan.prediction), plan, noise, rng=rng)

    for rng in kinds:
        close(framework, loop(framework, rng), loop(REFERENCE, rng), "float64")


@pytest.mark.parametrize("rows", [(), (2,)])
def test_brownian_paths(framework, rows):
    """Increments of one path, at an int index, and at one index for all or one for each row."""
    plan = a_plan("ddim", {"eta": 1.0})

    def draws(own):
        noise, rng = own.asarray(start_of((2, 3)), "float64"), cmsched.Rng(3, path=True)
        yield cmsched.draw(plan, cmsched.init(plan, noise), rng)[0]
        index = own.asarray(np.zeros(rows, np.int32))
        yield cmsched.draw(plan, cmsched.init(plan, noise, index=index), rng)[0]

    for found, expected in zip(draws(framework), draws(REFERENCE), strict=True):
        close(framework, found, expected, "float64")


# errors


def test_frameworks_are_not_mixed(framework):
    plan = a_plan("ddim")
    state = cmsched.init(plan, framework.asarray(start_of(SHAPE), "float32"))
    message = f"output is an array of numpy, the sample one of {framework.name}: convert one"
    with pytest.raises(TypeError, match=message):
        cmsched.step(plan, state, start_of(SHAPE))
    with pytest.raises(TypeError, match="convert to float32"):
        cmsched.init(plan, framework.asarray([1, 2], "int64"))
    with pytest.raises(TypeError, match=f"makes no {framework.name} noise"):
        cmsched.sample(lambda x, t: x, a_plan("ddim", {"eta": 1.0}), state.sample,
                       rng=np.random.default_rng(0))  # fmt: skip


def test_names(framework):
    assert backends.named(framework.name) is framework.backend
    assert backends.resolve(framework.asarray([1.0])) is framework.backend
    with pytest.raises(ValueError, match=f"did you mean '{framework.name}'"):
        backends.named(framework.name + "_")


@pytest.mark.parametrize("name", ["paddle", "mlx", "dask"])
def test_what_to_install(name, monkeypatch):
    root = {"mlx": "mlx.core", "dask": "dask.array"}.get(name, name)
    monkeypatch.setitem(sys.modules, root, None)  # makes its import fail
    monkeypatch.delitem(sys.modules, f"cmsched.backends.{name}", raising=False)
    with pytest.raises(ImportError, match=f"xp='{name}' needs {name}.*pip install \"?{name}"):
        backends.named(name)


def test_a_device_that_there_is_not():
    own = registered()
    for name in {*PRESENT, own.name} - {"paddle", "dask"}:
        with pytest.raises(TypeError, match=f"device='gpu' is none that {name} makes arrays on"):
            cmsched.Rng(0).normal((2,), xp=name, device="gpu")


@pytest.mark.parametrize(
    ("arguments", "functions", "error", "message"),
    [
        (("", Tensor, np), {}, TypeError, "name=''"),
        ((Tensor, Tensor, np), {}, TypeError, "name=<class"),
        (("a", "Tensor", np), {}, TypeError, "array='Tensor' is no type"),
        (("a", (), np), {}, TypeError, r"array=\(\) is no type"),
        (("a", Tensor, np), {"tkae": np.take}, TypeError, "tkae=.*did you mean 'take'"),
        (("a", Tensor, np), {"take": 3}, TypeError, "take=3 cannot be called"),
        (("a", Tensor, object()), {}, AttributeError, "a has no `asarray`.*asarray=..."),
    ],
)
def test_register_refuses(arguments, functions, error, message):
    with pytest.raises(error, match=message):
        backends.register(*arguments, **functions)
    assert not registry._registered


def test_a_name_stands_for_one_type():
    """It may be registered again, with other functions; plans keep what was placed for it."""
    own = registered()
    cls = type(own.asarray([1.0]))
    given = {name: wrapped(cls, f) for name, f in FUNCTIONS.items()}
    backends.register(own.name, cls, SimpleNamespace(**DTYPES), **given)
    assert own.backend.xp.clip is given["clip"]
    with pytest.raises(ValueError, match=f"name='{own.name}' is registered for .*Tensor"):
        backends.register(own.name, Tensor, own.backend.framework, **given)


# what the documentation says


def test_the_example_registers(monkeypatch):
    """It makes known a module whose functions are called otherwise."""
    cls = tensors(OPERATORS)
    cls.to = wrapped(cls, lambda x, dtype: x if dtype is None else x.astype(dtype))
    mine = SimpleNamespace(
        Tensor=cls,
        from_numpy=cls,
        gather=wrapped(cls, lambda x, axis, indices: np.take(x, indices, axis)),
        **{name: wrapped(cls, FUNCTIONS[name]) for name in ("zeros_like", "reshape", "where")},
        **DTYPES,
    )
    monkeypatch.setitem(sys.modules, "mine", mine)
    (example,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    call = re.search(r"cmsched\.backends\.register\(.*?\n\)\n", example, re.DOTALL)
    assert len(call[0].splitlines()) <= 10
    space: dict[str, Any] = {}
    exec(example, space)
    plan = a_plan("dpmpp_multistep", {"eta": 1.0})
    for index in (None, mine.from_numpy(np.zeros((), np.int32))):
        state = cmsched.init(plan, space["noise"], index=index)
        host = cmsched.init(plan, cmsched.Rng(0).normal((2, 3, 8, 8)))
        for _ in range(len(plan)):
            state = cmsched.step(plan, state, state.sample * 0.5, rng=3)
            host = cmsched.step(plan, host, host.sample * np.float32(0.5), rng=3)
        assert type(state.sample) is cls
        np.testing.assert_allclose(state.sample.values, host.sample, rtol=0, atol=1e-5)


def outputs(own, plan, dtype="float32"):
    channels = SHAPE[1] * (1 + plan.prediction.variance_head)
    for i in range(len(plan)):
        yield own.asarray(start_of((SHAPE[0], channels, SHAPE[2]), 20 + i), dtype)


def stepped(own, plan, index=None, also=lambda *_: [], **how):
    """The last sample of a loop, and what else is asked for at each step."""
    if index is not None:
        index = own.asarray(np.zeros(index, np.int32))
    given = given_of(plan, SHAPE) if isinstance(plan, cmsched.Plan) else None
    if given:
        how["given"] = {name: own.asarray(array, "float32") for name, array in given.items()}
    start = {name: how[name] for name in ("given", "rng") if name in how}
    state = cmsched.init(plan, own.asarray(start_of(SHAPE), "float32"), index=index, **start)
    found = []
    for output in outputs(own, plan):
        cmsched.model_input(plan, state)
        found += also(plan, state, output)
        state = cmsched.step(plan, state, output, **how)
    return [state.sample, *found]


def every_sampler(own):
    for parameter in traced_variants():
        sampler, options = parameter.values
        plan = a_plan(sampler, options)
        if not (plan.prediction.variance_head or plan.layout.masked):
            yield from stepped(own, plan, rng=cmsched.Rng(3))
            image = own.asarray(start_of(SHAPE, 3), "float32")
            noise = own.asarray(start_of(SHAPE), "float32")
            yield cmsched.init(plan, noise, x0=image, rng=1).sample
    scheduler = cmsched.EulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    yield last(Problem(own, scheduler, dtype="float32").stateful(scheduler, generator=3))


def learned(own):
    return stepped(own, a_plan("ddpm", {"variance": "learned_range"}), rng=1)


def clipping(own):
    return stepped(own, a_plan("ddim", {}, projection="clip"))


def thresholding(own):
    return stepped(own, a_plan("ddim", {}, projection="threshold"))


def masks(own):
    return stepped(own, a_plan("repaint", {}), rng=2)


def indices(own):
    for shape in ((), SHAPE[:1]):
        yield from stepped(own, a_plan("dpmpp_multistep", {"eta": 1.0}), shape, rng=1)


def stacked(own):
    plans = cmsched.stack([a_plan("ddim", {}, n=n) for n in (3, 2)])
    x = own.asarray(start_of(SHAPE), "float32")
    state = cmsched.init(plans, x, which=[0, 1] * (SHAPE[0] // 2))
    for _ in range(3):
        output = cmsched.model_input(plans, state)[0] * 0.5
        state = cmsched.step(plans, state, output)
        yield state.sample


def estimates(own):
    plan = a_plan("ddim", {})
    return stepped(own, plan, (), lambda *args: cmsched.estimate(*args))


def lists(own):
    def each(shape, dtype, interval):
        return own.asarray(start_of(shape), "float32")

    return stepped(own, a_plan("ddim", {"eta": 1.0}), rng=[each, each])


def batches(own):
    plan = a_plan("dpmpp_multistep", {})
    state = cmsched.init(plan, own.asarray(start_of(SHAPE), "float32"))
    return [cmsched.join([cmsched.take(state, [k]) for k in (1, 0)]).sample]


def adding(own):
    x, noise = (own.asarray(start_of(SHAPE, k), "float32") for k in (1, 2))
    scheduler = cmsched.DDIMScheduler()
    for timesteps in (500, [20, 999]):
        yield scheduler.add_noise(x, noise, timesteps)


def adding_between(own):
    x, noise = (own.asarray(start_of(SHAPE, k), "float32") for k in (1, 2))
    scheduler = cmsched.DPMSolverMultistepScheduler(use_karras_sigmas=True)
    scheduler.set_timesteps(4)
    own_times = scheduler.timeline.own_levels[0].tolist()
    for timesteps in (own_times[0], [own_times[0], 500.0]):
        yield scheduler.add_noise(x, noise, timesteps)


def guiding(own, rescale=0.0):
    weight = own.asarray(np.linspace(0.1, 0.9, 4 * 15).reshape(4, *SHAPE[1:]), "float32")
    model = cmsched.guide(lambda x, t: x * weight, 3.0, rescale=rescale)
    return [cmsched.sample(model, a_plan("ddim", {}), own.asarray(start_of(SHAPE), "float32"))]


def rescaling(own):
    return guiding(own, rescale=0.7)


PARTS = {
    "every sampler with a table": every_sampler,
    "a learned variance": learned,
    "clipping": clipping,
    "thresholding": thresholding,
    "masks": masks,
    "an array index": indices,
    "stacks of plans": stacked,
    "`estimate` there": estimates,
    "`rng=` a list": lists,
    "`take` and `join`": batches,
    "`add_noise`": adding,
    "`add_noise` in a run": adding_between,
    "`guide`": guiding,
    "`guide` with rescale": rescaling,
}


def table():
    """The parts of the documentation's table: (operators, functions and dtypes)."""
    _, text = DOCS.split("| for | operators | functions and dtypes |")
    found = {}
    for line in text.split("\n\n")[0].splitlines()[2:]:
        name, *columns = line.split("|")[1:-1]
        part = max((part for part in PARTS if name.strip().startswith(part)), key=len)
        found[part] = tuple({*re.findall(r"`([^`(]+)[^`]*`", column)} for column in columns)
    assert list(found) == list(PARTS)
    return found


@pytest.mark.parametrize("part", PARTS)
def test_what_a_framework_must_offer(part):
    """It is enough, and nothing of it can be left out, which an error then names."""
    core, own = table()["every sampler with a table"], table()[part]
    operators, functions = core[0] | own[0], core[1] | own[1]
    found = list(PARTS[part](registered(operators, functions)))
    for one, other in zip(found, PARTS[part](REFERENCE), strict=True):
        np.testing.assert_allclose(one.values, other, rtol=1e-5, atol=1e-5)
    for symbol in own[0]:
        with pytest.raises(TypeError, match=r"operand type|not supported|subscriptable|'NoneType'"):
            list(PARTS[part](registered(operators - {symbol}, functions)))
    for name in own[1]:
        with pytest.raises(
            (AttributeError, TypeError), match=rf"own\d+ has no `{name}`|dtype='{name}'"
        ):
            list(PARTS[part](registered(operators, functions - {name})))
