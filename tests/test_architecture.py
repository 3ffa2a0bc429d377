"""What the parts may know of each other, read from the source and from the running program."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from problems import a_plan, network, start_of

import cmsched

ROOT = Path(cmsched.__file__).parent
# A part imports only from parts above it in this list.
PARTS = [
    "checks",
    "frozen",
    "names",
    "backends",
    "levels",
    "schedules",
    "ramps",
    "grids",
    "spacings",
    "predictions",
    "changes",
    "discretizations",
    "samplers",
    "tracing",
    "rows",
    "lowering",
    "tables",
    "listing",
    "plan",
    "stacks",
    "recipe",
    "entries",
    "noise",
    "engine",
    "discrete",
    "guidance",
    "conversion",
    "testing",
    "schedulers",
    "interop",
    "jobs",
    "demo",
]
ARRAYS = {
    *("backends", "levels", "tables", "plan", "stacks", "noise", "engine"),
    *("discrete", "guidance", "conversion", "schedulers", "interop", "jobs"),
}
OUTSIDE = {"numpy", "array_api_compat"}
FRAMEWORKS = [
    *("torch", "jax", "cupy", "paddle", "mlx", "dask", "ndonnx"),
    *("scipy", "huggingface_hub", "diffusers", "matplotlib", "zarr", "distributed", "ray"),
]


def part_of(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def files():
    return sorted(path for path in ROOT.rglob("*.py") if path.name != "__main__.py")


def imports(path):
    """(dotted name, whether at the top level) of everything that a file imports."""
    tree = ast.parse(path.read_text())
    package = ["cmsched", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(tree):
        top = node in tree.body
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inside = name == "cmsched" or (ROOT.parent / name.replace(".", "/")).is_dir()
                yield (f"{name}.{alias.name}" if inside else name), top


def test_every_file_has_a_place():
    assert {part_of(path) for path in files()} - {"__init__"} <= set(PARTS)


def test_imports_point_one_way():
    for path in files():
        part = part_of(path)
        if part == "__init__":
            continue
        for name, _ in imports(path):
            if not name.startswith("cmsched."):
                continue
            other = name.split(".")[1]
            if other in PARTS:
                assert PARTS.index(other) <= PARTS.index(part), f"{path.name} imports {name}"
                if other == "backends":
                    assert part in ARRAYS | {"demo"}, f"{path.name} imports {name}"
            else:
                assert part in ("demo", "interop", "jobs"), f"{path.name} imports {name}"


def test_backends_and_noise_know_little():
    for path in files():
        ours = {name.split(".")[1] for name, _ in imports(path) if name.startswith("cmsched.")}
        if part_of(path) == "backends":
            assert ours <= {"backends"}, path.name
        if part_of(path) == "noise":
            assert ours <= {"backends"}


def roots(path, *, top):
    """The packages that a file imports at the top level, or inside of something."""
    return {name.split(".")[0] for name, outside in imports(path) if outside is top}


def adapted_by(path):
    """The frameworks that a file may import at its top: it is loaded only where they are wanted.

    A part x_y.py of interop/x.py is loaded by that, which says what is missing.
    """
    first = path.stem.split("_")[0]
    if part_of(path) == "backends":
        return {first}
    whole = path.with_stem(first)
    if part_of(path) == "interop" and whole != path and whole.exists():
        loads = [name for name, _ in imports(path.parent / "__init__.py")]
        assert not loads, "the package loads its files"
        return roots(whole, top=False)
    return set()


def test_frameworks_are_imported_by_their_adapters_only():
    for path in files():
        assert roots(path, top=True) & {*FRAMEWORKS} <= adapted_by(path), path


def test_parts_of_an_adapter_are_imported_by_it_alone():
    parts = {path.stem for path in files() if part_of(path) == "interop" and adapted_by(path)}
    assert parts
    for path in files():
        for name, _ in imports(path):
            found = parts & {*name.split(".")}
            assert not found or path.stem.split("_")[0] == found.pop().split("_")[0], path


def test_nothing_imports_diffusers():
    for path in files():
        if part_of(path) != "interop":
            assert not [name for name, _ in imports(path) if name.startswith("diffusers")], path


def test_import_loads_numpy_and_little_more():
    code = "import sys, cmsched; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
    )
    loaded = done.stdout.split()
    heavy = {*FRAMEWORKS, "sklearn", "tqdm", "array_api_strict", "ml_dtypes"}
    assert not heavy & {name.split(".")[0] for name in loaded}
    assert "array_api_compat.numpy" not in loaded
    assert "cmsched.plan" in loaded


@pytest.mark.parametrize(
    ("module", "absent", "words"),
    [
        ("diffusers", "diffusers", r'diffusers and PyTorch.*pip install "diffusers>=0.42" torch'),
        ("diffusers", "torch", r'pip install "diffusers>=0.42" torch'),
        ("flax", "jax", "needs JAX: pip install jax"),
    ],
)
def test_missing_packages_are_named(module, absent, words):
    """Where they are there, they are hidden."""
    code = f"import sys; sys.modules[{absent!r}] = None; import cmsched.interop.{module}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
    )
    assert done.returncode == 1
    assert re.search("ImportError: .*" + words, done.stderr, re.DOTALL)


def test_no_scheduler_has_a_step_of_its_own():
    found = 0
    for path in sorted((ROOT / "schedulers").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                methods = [m.name for m in node.body if isinstance(m, ast.FunctionDef)]
                found += 1
                others = "VQDiffusionScheduler", "KarrasVeScheduler", "RePaintScheduler"
                others += ("CogVideoXDPMScheduler",)
                if node.name not in ("SchedulerMixin", *others):  # over tokens, or a part of a step
                    assert "step" not in methods, f"{path.name}: {node.name}.step"
            if isinstance(node, ast.Compare):
                sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
                asked = {"type(self)", "self.__class__", "type(self).__name__"} & {*sides}
                assert not asked, f"{path.name}: {ast.unparse(node)}"
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "isinstance",
                "issubclass",
            ):
                first = ast.unparse(node.args[0])
                assert first not in ("self", "type(self)"), f"{path.name}: {first}"
    assert found >= 8


def test_public_names_exist_and_are_explained():
    assert len(set(cmsched.__all__)) == len(cmsched.__all__)
    for name in cmsched.__all__:
        value = getattr(cmsched, name)
        if callable(value):
            assert (value.__doc__ or "").strip(), name


def test_a_name_that_is_not_here():
    """The nearest is named, and the page that has those of diffusers."""
    for name, words in (
        ("DDIMSheduler", "did you mean 'DDIMScheduler'"),
        ("SASolverScheduler", "docs/schedulers.md lists"),
        ("smaple", "did you mean 'sample'"),
    ):
        with pytest.raises(AttributeError, match=words):
            getattr(cmsched, name)
    with pytest.raises(AttributeError, match=r"no attribute '__wrapped__'$"):
        getattr(cmsched, "__wrapped__")  # noqa: B009


@pytest.mark.parametrize("module", ["engine", "plan", "tracing", "noise", "backends", "discrete"])
def test_names_that_a_module_exports_exist(module):
    found = __import__(f"cmsched.{module}", fromlist=["*"])
    for name in getattr(found, "__all__", []):
        assert hasattr(found, name), name


def test_no_ambient_randomness(xp):
    """Neither read nor changed, by any stochastic sampler with any kind of rng."""
    states = [lambda: np.random.get_state()[1].tobytes()]  # noqa: NPY002
    if xp.backend == "torch":
        states.append(lambda: xp.xp.random.get_rng_state().numpy().tobytes())
    plan = a_plan("dpmpp_multistep", {"eta": 1.0}, n=3)
    model = network(xp.xp, plan.prediction)
    x = xp.asarray(start_of((2, 3)))
    before = [state() for state in states]
    for rng in (1, cmsched.Rng(2), [3, 4], lambda shape, dtype, interval: x):
        first = cmsched.sample(model, plan, x, rng=rng)
        np.random.seed(7)  # noqa: NPY002
        second = cmsched.sample(model, plan, x, rng=rng)
        assert np.array_equal(xp.numpy(first), xp.numpy(second))
        np.random.seed(0)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    kept = [state() for state in states]
    cmsched.sample(model, plan, x, rng=1)
    cmsched.Rng(3).normal((2, 3), xp=xp.xp)
    assert [state() for state in states] == kept
    assert before[1:] == kept[1:]


def test_the_project_speaks_of_itself_alone():
    for path in files():
        text = path.read_text()
        assert "/tmp" not in text
        assert "/work" not in text


def test_docs_are_short():
    """A file that does not fit into a head should be two."""
    for path in files():
        assert len(path.read_text().splitlines()) < 1200, path.name
