"""What every test shares: the `xp` fixture (one test, every backend) and hypothesis' profiles.

HYPOTHESIS_PROFILE is `dev` by default, made for quick answers; nox runs `ci`, with every setting of
every class and more examples. CMSCHED_BACKENDS restricts a run to some frameworks, and to NumPy,
which is always there; CMSCHED_REQUIRE_BACKENDS names those, and other parts, whose absence is a
failure instead of a line in the header. CMSCHED_LEAST is from how many elements on a row is taken
in one pass, so that small arrays are.
"""

import os
import shutil

# Tests run in several processes: threads of their own would only get in each other's way. This must
# be set before NumPy is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "dev")
settings.register_profile(
    "dev",
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("ci", settings.get_profile("dev"), max_examples=100, derandomize=True)
settings.register_profile("brief", settings.get_profile("ci"), max_examples=20)
settings.register_profile(
    "mutants",  # any failure will do, so none is made simpler
    settings.get_profile("dev"),
    max_examples=25,
    phases=(Phase.explicit, Phase.generate),
    derandomize=True,
)
settings.load_profile(PROFILE)


def few(option_sets: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All of them; of the profile dev those of one option, and those that bring another one in."""
    chosen: list[dict[str, Any]] = []
    for options in map(dict, option_sets):
        known = {key for other in chosen for key in other}
        if PROFILE != "dev" or len(options) <= 1 or options.keys() - known:
            chosen.append(options)
    return chosen


# backend of the tests: (framework, array-API namespace)
NAMESPACES = {
    "numpy": ("numpy", "array_api_compat.numpy"),
    "numpy-readonly": ("numpy", "array_api_compat.numpy"),
    "strict": ("array_api_strict", "array_api_strict"),
    "torch": ("torch", "array_api_compat.torch"),
    "jax": ("jax", "jax.numpy"),
    "cupy": ("cupy", "array_api_compat.cupy"),
}

# other parts that tests need: modules
PARTS = {
    "demo": ("sklearn", "matplotlib"),
    "peers": ("torch", "diffusers", "k_diffusion"),
    "numba": ("numba",),
    "jobs": ("zarr", "threadpoolctl"),
    "clusters": ("distributed", "ray", "obstore", "pyarrow"),
    "interop": ("torch", "diffusers", "k_diffusion", "jax", "flax", "onnxruntime", "ndonnx"),
    **{name: (name,) for name in ("paddle", "mlx", "dask", "diffusers", "onnxruntime")},
}
TOOLS = {"node": "node", "c++": "g++"}  # other languages: programs


@dataclass(frozen=True)
class Backend:
    """One framework as a test sees it: NumPy arrays go in, its own arrays and back come out."""

    name: str
    backend: str
    xp: ModuleType

    def asarray(self, array: Any, dtype: str | None = None) -> Any:
        """A copy of a NumPy array (or nested list) in this framework."""
        array = np.array(array)
        if self.name == "numpy-readonly":
            array = array if dtype is None else array.astype(dtype)
            array.flags.writeable = False
            return array
        return self.xp.asarray(array, dtype=None if dtype is None else getattr(self.xp, dtype))

    def numpy(self, array: Any) -> np.ndarray:
        """A NumPy array with the values of an array of this framework; bfloat16 as float32."""
        if self.backend == "torch":
            array = array.detach().cpu()
            return (array.float() if array.dtype == self.xp.bfloat16 else array).numpy()
        if self.backend == "cupy":
            return array.get()
        if self.backend == "array_api_strict":
            return np.from_dlpack(array)
        array = np.asarray(array)
        return array.astype(np.float32) if array.dtype.name == "bfloat16" else array

    @property
    def float64(self) -> bool:
        """Whether float64 can be had (JAX only has it with x64 on)."""
        return self.asarray(np.zeros(1)).dtype == self.xp.float64


@cache
def missing(name: str) -> str:
    """Why a backend or another part cannot be used here; empty if it can."""
    if name in TOOLS:
        return "" if shutil.which(TOOLS[name]) else f"{TOOLS[name]} is not installed"
    modules = PARTS.get(name) or (NAMESPACES[name][0],)
    if absent := [module for module in modules if find_spec(module) is None]:
        return f"{absent[0]} is not installed"
    if name == "cupy":
        import cupy

        try:
            cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError:
            return "no GPU"
    return ""


def names_in(variable: str, known: list[str]) -> list[str]:
    names = [name for name in os.environ.get(variable, "").split(",") if name]
    if unknown := [name for name in names if name not in known]:
        raise pytest.UsageError(f"{variable}: unknown {unknown[0]!r}; known: {', '.join(known)}")
    return names


def selected() -> list[str]:
    return names_in("CMSCHED_BACKENDS", list(NAMESPACES)) or list(NAMESPACES)


def left_out() -> set[str]:
    """The frameworks that a run was restricted to do without."""
    return {"torch", "jax", "cupy"} - {*selected()}


# modules that import what they are about: the part that it is, and a framework that they need
ABOUT = {
    "parity": ("peers", "torch"),
    "interop": ("interop", "torch"),
    "jobs": ("jobs", "numpy"),
    "test_torch.py": ("torch", "torch"),
    "test_jax.py": ("jax", "jax"),
}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Do not even import what cannot run, or is not to."""
    part, framework = ABOUT.get(collection_path.name, ("numpy", "numpy"))
    return True if framework in left_out() or missing(part) else None


def pytest_configure(config: pytest.Config) -> None:
    if least := os.environ.get("CMSCHED_LEAST"):
        from cmsched.backends import fused

        fused.LEAST = fused.LEAST_BLOCKS = int(least)
    for name in names_in("CMSCHED_REQUIRE_BACKENDS", [*NAMESPACES, *PARTS, *TOOLS]):
        if reason := missing(name):
            raise pytest.UsageError(f"CMSCHED_REQUIRE_BACKENDS names {name}, but {reason}")
    if "jax" not in left_out() and not missing("jax"):
        import jax

        jax.config.update("jax_enable_x64", True)


def pytest_report_header(config: pytest.Config) -> list[str]:
    run = [name for name in selected() if not missing(name)]
    absent = [f"{name} ({missing(name)})" for name in [*selected(), *PARTS] if missing(name)]
    return [f"backends: {', '.join(run)}"] + ([f"not run: {', '.join(absent)}"] if absent else [])


# in these modules a test of a framework says so by the fixture `xp`, or by the framework's name
MIXED = {
    *("test_combinations", "test_engine", "test_fused", "test_hostile", "test_hostile_methods"),
    *("test_batches", "test_plan", "test_predictions", "test_schedulers", "test_stateful"),
}


source_of = cache(inspect.getsource)  # a function has many items


def wanted(item: pytest.Item, absent: set[str], without: str) -> bool:
    """Whether a test names none of these frameworks, and has not this mark."""
    names = {*getattr(item, "fixturenames", ())}
    if callspec := getattr(item, "callspec", None):
        names |= {callspec.params.get(key) for key in ("backend", "framework")}
    peers = "torch" in absent and item.get_closest_marker("peers")
    return not (names & absent or peers or item.get_closest_marker(without))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a run is to do without; mark what needs no framework, or another library."""
    by_name = config.option.markexpr or any("::" in arg for arg in config.args)
    without = "slow" if PROFILE == "dev" and not by_name else ""
    absent = left_out()
    kept, dropped = [], []
    for item in items:
        (kept if wanted(item, absent, without) else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept
    for item in items:
        if item.path.parent.name == "interop":
            item.add_marker("interop")
        if isinstance(item, pytest.Function) and item.module.__name__ in MIXED:
            source = source_of(item.function)
            named = any(name in source for name in ("torch", "jax", "cupy"))
            if not named and "xp" not in item.fixturenames:
                item.add_marker("host")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "xp" in metafunc.fixturenames:
        available = [name for name in selected() if not missing(name)]
        if only := metafunc.definition.get_closest_marker("only"):
            available = [name for name in available if name in only.args]
        marks = {"cupy": [pytest.mark.gpu]}
        parameters = [pytest.param(name, marks=marks.get(name, [])) for name in available]
        metafunc.parametrize("xp", parameters, indirect=True)


@pytest.fixture
def xp(request: pytest.FixtureRequest) -> Backend:
    """Each backend in turn."""
    backend, namespace = NAMESPACES[request.param]
    return Backend(request.param, backend, importlib.import_module(namespace))


@pytest.fixture
def torch() -> ModuleType:
    """PyTorch; without it the test is skipped."""
    return pytest.importorskip("torch")


@pytest.fixture
def jax() -> ModuleType:
    """JAX; without it the test is skipped."""
    return pytest.importorskip("jax")
