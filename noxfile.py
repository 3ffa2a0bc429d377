"""The checks: `nox` runs all but the benchmark, `nox -s quick` those to run while working.

This file is the only list of checks. The frameworks are large, so the sessions that need them share
one environment, made by the session `frameworks`.
"""

import os
import shutil
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "virtualenv"

# The extras have no upper bound, and the checks are to be green in a year as well.
BOUNDS = ("-c", "tests/constraints.txt")

# Another version of PyTorch would bring some gigabytes of another CUDA with it.
FRAMEWORKS = ("torch==2.13.0", "-e", ".[jax,demo]", "--group", "test")

OLDEST = (
    "numpy==2.1.0",
    "array-api-compat==1.12.0",
    "scipy==1.14.1",
    "scikit-learn==1.5.2",
    "matplotlib==3.9.2",
    "tqdm==4.66.6",
)

BENCHMARKS = (
    *("step_cost", "loop_cost", "batching", "serving"),
    *("one_pass", "plan_cost", "memory", "noise", "import_time", "jobs"),
)

# What is about numba or about all that a step may be asked for; a plain sum is rounded otherwise.
COMPILED = (
    "test_fused or test_jitted or one_loop or (test_torch and not no_double and not one_graph)"
    " or every_execution or lower_precision or arguments_are or finished or nan_stays or resume"
    " or different_steps or independence or interleaved or threads or callback or transition"
)

# The same examples every time: what is green stays green until somebody looks for more.
ENVIRONMENT = {"HYPOTHESIS_PROFILE": os.environ.get("HYPOTHESIS_PROFILE", "ci")}

shared: dict[str, str] = {}  # the Python of the shared environment, once it is made


def install(session: nox.Session, *requirements: str) -> None:
    """Install after upgrading pip: older ones search for minutes, or know no dependency groups."""
    session.install("-U", "pip<27")
    session.install(*BOUNDS, *requirements)


def run_shared(session: nox.Session, *arguments: str, **variables: str) -> None:
    """Run Python in the shared environment."""
    session.run(shared["python"], *arguments, env={**ENVIRONMENT, **variables}, external=True)


def install_shared(session: nox.Session, *requirements: str) -> None:
    """Install more into the shared environment."""
    run_shared(session, "-m", "pip", "install", *BOUNDS, *requirements)


def install_peers(session: nox.Session) -> None:
    """Install what tests and benchmarks compare with into the shared environment."""
    install_shared(session, "--group", "peers")
    install_shared(session, "--no-deps", "k-diffusion==0.1.1.post1")


def install_interop(session: nox.Session) -> None:
    """Install into the shared environment what cmsched is used in."""
    install_peers(session)
    install_shared(session, "--group", "interop")


def install_fast(session: nox.Session) -> str:
    """Install numba beside the shared environment, whose sessions have none; return where."""
    folder = str(Path(shared["python"]).parents[1] / "fast")
    extras = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]
    install_shared(session, "--upgrade", "--target", folder, *extras["fast"])
    return folder


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and types."""
    install(session, "-e", ".", "--group", "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("pytest", "-q", "--noconftest", "tests/test_typing.py")


@nox.session(name="tests(numpy)")
def tests_numpy(session: nox.Session) -> None:
    """Test a bare installation: NumPy and the strict namespace, no framework."""
    install(session, "-e", ".", "--group", "test")
    # What runs the ports is no package: where it is, its tests may not be left out.
    languages = [name for name, tool in (("node", "node"), ("c++", "g++")) if shutil.which(tool)]
    session.run(
        *("pytest", "-n", "2", "-m", "not peers", "--ignore=tests/test_docs.py"),
        *session.posargs,
        env={
            **ENVIRONMENT,
            # arrays that may be written to are those of the oldest NumPy, in the next session
            "CMSCHED_BACKENDS": "numpy-readonly,strict",
            "CMSCHED_REQUIRE_BACKENDS": ",".join(["numpy", "strict", *languages]),
        },
    )


@nox.session
def oldest(session: nox.Session) -> None:
    """Test the oldest versions of what the core and the demo need, where Python still has them."""
    if sys.version_info >= (3, 14):
        session.skip("NumPy 2.1 does not run on this Python")
    install(session, *OLDEST, "-e", ".[demo]", "--group", "test")
    session.run(
        *("pytest", "-n", "2", "-m", "not peers and not host", "--ignore=tests/test_docs.py"),
        *("-W", "default"),  # they may well be deprecated
        *session.posargs,
        env={
            "HYPOTHESIS_PROFILE": "brief",  # the numbers are those of the session before
            "CMSCHED_BACKENDS": "numpy",
            "CMSCHED_REQUIRE_BACKENDS": "demo",
        },
    )


@nox.session(reuse_venv=True)
def frameworks(session: nox.Session) -> None:
    """Make the environment that the following sessions share."""
    install(session, *FRAMEWORKS)
    shared["python"] = str(Path(session.bin) / "python")


@nox.session(name="tests(frameworks)", venv_backend="none", requires=["frameworks"])
def tests_frameworks(session: nox.Session) -> None:
    """Test PyTorch and JAX, and the digits on every framework."""
    run_shared(
        session,
        *("-m", "pytest", "-n", "2", "-m", "not peers and not host and not interop"),
        "--ignore=tests/test_docs.py",
        *session.posargs,
        CMSCHED_BACKENDS="torch,jax",
        CMSCHED_REQUIRE_BACKENDS="torch,jax,demo",
    )


@nox.session(
    venv_backend="none", requires=["lint", "tests(numpy)", "tests(frameworks)"], default=False
)
def quick(session: nox.Session) -> None:
    """Style, types, NumPy, PyTorch and JAX."""


@nox.session(venv_backend="none", requires=["frameworks"])
def peers(session: nox.Session) -> None:
    """Compare with diffusers and k-diffusion, number for number."""
    install_peers(session)
    run_shared(
        session,
        *("-m", "pytest", "-n", "2", "-m", "peers"),
        *session.posargs,
        CMSCHED_REQUIRE_BACKENDS="torch,peers",
    )


@nox.session(venv_backend="none", requires=["frameworks"])
def interop(session: nox.Session) -> None:
    """Run diffusers' pipelines, k-diffusion's loops, Flax and ONNX Runtime with cmsched."""
    install_interop(session)
    run_shared(
        session,
        *("-m", "pytest", "-n", "2", "-m", "interop"),
        "tests/interop",
        *session.posargs,
        CMSCHED_REQUIRE_BACKENDS="torch,jax,peers,interop",
    )


@nox.session
def anyframework(session: nox.Session) -> None:
    """Sample on Paddle, MLX and dask, which are not array-API libraries or only in part."""
    install(session, "-e", ".", "--group", "test", "--group", "anyframework")
    session.run(
        *("pytest", "-n", "2", "tests/test_anyframework.py"),
        *session.posargs,
        env={**ENVIRONMENT, "CMSCHED_REQUIRE_BACKENDS": "paddle,mlx,dask"},
    )


@nox.session(venv_backend="none", requires=["frameworks"])
def fast(session: nox.Session) -> None:
    """Test what numba compiles, and PyTorch and the engine with every row compiled."""
    run_shared(
        session,
        *("-m", "pytest", "-n", "2", "-k", COMPILED),
        *(f"tests/test_{name}.py" for name in ("fused", "jitted", "noise", "torch", "engine")),
        *session.posargs,
        PYTHONPATH=install_fast(session),
        CMSCHED_LEAST="1",
        CMSCHED_BACKENDS="numpy,torch",
        CMSCHED_REQUIRE_BACKENDS="torch,numba",
    )


@nox.session(venv_backend="none", requires=["frameworks"])
def jobs(session: nox.Session) -> None:
    """Run jobs whose workers and drivers are killed: processes, ranks, dask, Ray."""
    install_shared(session, "-e", ".[jobs,dask,ray,s3]", "--group", "clusters")
    run_shared(
        session,
        *("-m", "pytest", "-n", "2", "tests/jobs"),
        *session.posargs,
        CMSCHED_REQUIRE_BACKENDS="torch,jobs,clusters",
    )


@nox.session(venv_backend="none", requires=["frameworks"])
def readme(session: nox.Session) -> None:
    """Run the code of the README and of every page of `docs/`."""
    install_interop(session)
    install_shared(session, "-e", ".[jobs]")
    run_shared(
        session,
        *("-m", "pytest", "tests/test_docs.py"),
        *session.posargs,
        CMSCHED_REQUIRE_BACKENDS="torch,jax,demo,interop,jobs",
    )


@nox.session
def package(session: nox.Session) -> None:
    """Build what is published; install it without extras, and use it in another folder."""
    folder = Path(session.create_tmp())
    shutil.rmtree(folder)
    install(session, "--group", "package")
    session.run("python", "-m", "build", "--outdir", str(folder))
    built = sorted(map(str, folder.iterdir()))
    session.run("twine", "check", "--strict", *built)
    (wheel,) = folder.glob("*.whl")
    session.install("--force-reinstall", str(wheel))
    script = Path("tests/package.py").resolve()
    with session.chdir(folder):
        session.run("python", "-I", str(script), ".")


@nox.session
def mutants(session: nox.Session) -> None:
    """Break the code on purpose, one line at a time: the tests must notice each time."""
    install(session, "-e", ".[fast]", "--group", "test")
    session.run("python", "tests/mutants.py", *session.posargs)


@nox.session(venv_backend="none", requires=["frameworks"])
def gpu(session: nox.Session) -> None:
    """Test CuPy and CUDA, where there is a GPU."""
    if shutil.which("nvidia-smi") is None:
        session.skip("no NVIDIA GPU here: CuPy and CUDA were not run")
    install_shared(session, "-e", ".[cupy]")
    run_shared(
        session,
        *("-m", "pytest", "-m", "gpu"),
        *session.posargs,
        CMSCHED_REQUIRE_BACKENDS="torch,cupy",
    )


@nox.session(venv_backend="none", requires=["frameworks"], default=False)
def bench(session: nox.Session) -> None:
    """Time everything, shortly: every script of benchmarks/ that measures time or memory."""
    install_peers(session)
    install_shared(session, "-e", ".[jobs,dask,ray]")
    folder = install_fast(session)
    for script in BENCHMARKS:
        arguments = session.posargs or ["--short"]
        run_shared(session, f"benchmarks/{script}.py", *arguments, PYTHONPATH=folder)
