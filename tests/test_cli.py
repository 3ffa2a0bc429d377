"""The command line, run in this process; twice as the installed program."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import cmsched
from cmsched.demo import cli, digits, making, progress
from cmsched.demo.names import find, short_names
from cmsched.noise import Rng
from cmsched.plan import Plan
from cmsched.samplers import REGISTRY

DEMO = find_spec("sklearn") is not None and find_spec("matplotlib") is not None
needs_demo = pytest.mark.skipif(not DEMO, reason="the digits need scikit-learn and matplotlib")

EIGHT = {
    "cm": "CMStochasticIterativeScheduler",
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lcm": "LCMScheduler",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run in an empty folder: the default output goes where one is."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images(*arguments, out="made.npz"):
    """The images that a command line writes."""
    cli.main(["sample", *arguments, "--out", out])
    return np.load(out)["images"]


def refusal(capsys, *arguments):
    """The one line that a wrong command line gets, after status 2 and nothing else."""
    with pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    printed = capsys.readouterr()
    assert left.value.code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("cmsched")
    return printed.err


def off_digits(made):
    """Root mean square distance of each image to the nearest training image."""
    flat, known = made.reshape(len(made), -1), digits.images().reshape(1797, -1)
    return np.sqrt(np.mean((flat[:, None] - known) ** 2, axis=2)).min(axis=1)


@needs_demo
def test_repaint_keeps_the_upper_half_and_fills_in_the_lower():
    made = images("--scheduler", "repaint", "--number", "4", "--dtype", "float64")[0]
    given = making.examples(4, Rng(0, sample=range(4)))
    np.testing.assert_allclose(made[:, :, :4], given[:, :, :4], atol=1e-12)
    changed = np.abs(made[:, :, 4:] - given[:, :, 4:]).max(axis=(1, 2, 3)) > 0.5
    assert np.sum(changed) >= 2  # an upper half may have only one lower half


@needs_demo
@pytest.mark.parametrize("name", ["ddim_inverse", "dpmpp_2m_inverse"])
def test_an_inversion_is_followed_back(name):
    made = images("--scheduler", name, "--number", "4", "--steps", "100", "--dtype", "float64")[0]
    given = making.examples(4, Rng(0, sample=range(4)))
    assert np.sqrt(np.mean((made - given) ** 2)) < 0.2


@needs_demo
def test_without_arguments_it_makes_a_picture(capsys):
    cli.main(["sample"])
    from matplotlib.image import imread

    picture = imread("digits.png")
    assert picture.shape[:2] == (352, 352)
    assert picture[..., :3].min() < 0.1  # ink
    printed, said = capsys.readouterr()
    assert said == "64 digits by dpmpp_2m: loading\n"
    assert "64 digits" in printed
    assert "digits.png" in printed
    assert "20 model evaluations" in printed
    assert "in the network" in printed
    assert "in the scheduler" in printed


@needs_demo
def test_compare_gives_a_row_to_each_scheduler(capsys):
    made = images("--compare", "all", "--number", "3")
    names = np.load("made.npz")["schedulers"].tolist()
    assert made.shape == (len(names), 3, 1, 8, 8)
    assert set(short_names()) <= set(names)
    plans = [find(name).plan(None) for name in names]
    assert {plan.sampler for plan in plans if isinstance(plan, Plan)} == set(REGISTRY)
    for name, those in zip(names, made, strict=True):
        assert np.max(off_digits(those)) < 0.35, name
    for name in (*EIGHT, "repaint", "ddim_inverse", "vq_diffusion", "dpm_adaptive"):
        alone = images("--scheduler", name, "--number", "3")
        np.testing.assert_array_equal(made[names.index(name)], alone[0])
    cli.main(["sample", "--compare", "ddim, LCMScheduler", "--number", "2"])
    assert Path("digits.png").stat().st_size > 500
    printed = capsys.readouterr().out
    assert "ddim" in printed
    assert "2 digits from each of 2 schedulers" in printed


@needs_demo
def test_batches_do_not_show(monkeypatch):
    whole = images("--number", "5", "--scheduler", "euler_ancestral", "--dtype", "float64")
    monkeypatch.setattr(making, "BATCH", 2)
    parts = images("--number", "5", "--scheduler", "euler_ancestral", "--dtype", "float64")
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-10)


@needs_demo
@pytest.mark.parametrize("backend", ["torch", "jax"])
@pytest.mark.parametrize(
    ("scheduler", "number"), [("dpmpp_2m", "100"), ("euler_ancestral", "100"), ("lcm", "20")]
)
def test_backends_make_the_same_images(backend, scheduler, number):
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    same = "--number", number, "--scheduler", scheduler
    ours, theirs = (
        images(*same, "--dtype", "float64", "--backend", name) for name in ("numpy", backend)
    )
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-8)
    ours, theirs = (images(*same, "--backend", name)[0] for name in ("numpy", backend))
    off = np.abs(theirs - ours).max(axis=(1, 2, 3))
    assert np.median(off) < 1e-5
    assert np.mean(off > 1e-3) <= 0.02


@needs_demo
@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("numpy", "float16"), ("torch", "bfloat16"), ("jax", "bfloat16"), ("jax", "float16")],
)
def test_half_precision(backend, dtype):
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    half = images("--backend", backend, "--dtype", dtype, "--number", "8")
    assert half.dtype == np.float32
    assert np.median(np.abs(half - images("--number", "8")).max(axis=(0, 2, 3, 4))) < 0.2


def test_list_prints_every_scheduler(capsys):
    cli.main(["list"])
    lines = capsys.readouterr().out.splitlines()
    titles, end = lines[0], lines.index("")
    at = {title: titles.index(title) for title in cli.COLUMNS}
    table = {line.split()[0]: line for line in lines[1:end] if line[0] != " "}
    public = {name for name in cmsched.schedulers.CLASSES if name in cmsched.__all__}
    assert {line[at["class"] :].split()[0] for line in table.values()} == public - {"Scheduler"}
    for short, name in EIGHT.items():
        assert table[short][at["class"] :].startswith(name)
    assert table["heun"][at["order"] :].split()[:3] == ["2", "2", "no"]
    assert table["ddpm"][at["order"] :].split()[:3] == ["1+", "1", "yes"]
    assert table["vq_diffusion"][at["order"] :].split()[:3] == ["-", "1", "yes"]
    assert table["dpmpp_2m"][at["A1111"] :] == "DPM++ 2M, DPM++ 2M SDE,"
    after = lines[lines.index(table["dpmpp_2m"]) + 1]
    assert after == " " * at["A1111"] + "DPM++ 2M SDE Heun, DPM++ 3M SDE"
    assert set(REGISTRY) <= set(" ".join(lines[end:]).replace(",", "").split())
    assert max(map(len, lines)) <= 120


def test_list_and_show_as_json(capsys):
    cli.main(["list", "--json"])
    data = json.loads(capsys.readouterr().out)
    facts = {each["name"]: each for each in data["schedulers"]}
    assert set(facts) == set(short_names())
    assert set(data["samplers"]) == set(REGISTRY)
    assert facts["lcm"]["order"] is None
    assert facts["heun"]["order"] == facts["heun"]["evaluations"] == 2
    assert facts["ddpm"]["noise"] is True
    for name, each in facts.items():  # every name that it prints is one that it takes
        for known in (name, each["class"], *each["A1111"]):
            same = find(known).cls.__name__ == each["class"]
            assert same or each["class"] == "KDiffusionScheduler", known
    cli.main(["show", "euler", "--steps", "3", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert {key: shown[key] for key in facts["euler"]} == facts["euler"]
    assert shown["options"]["timestep_spacing"] == "linspace"
    made = cmsched.EulerDiscreteScheduler().plan(3)
    assert Plan.from_json(json.dumps(shown["plan"])) == made
    cli.main(["show", "vq_diffusion", "--steps", "3", "--json"])
    assert json.loads(capsys.readouterr().out)["plan"] == {"timesteps": [99, 50, 0]}


@needs_demo
def test_steps_beside_a_name(capsys):
    made = images("--compare", "DDIM:4, ddim:50, ddim", "--steps", "7", "--number", "2")
    assert np.load("made.npz")["schedulers"].tolist() == ["DDIM:4", "ddim:50", "ddim"]
    printed = capsys.readouterr().out
    for name, steps, row in zip(("DDIM:4", "ddim:50", "ddim"), (4, 50, 7), made, strict=True):
        assert f"{name.ljust(7)}  {steps} model evaluations" in printed
        alone = images("--scheduler", "ddim", "--steps", str(steps), "--number", "2")
        np.testing.assert_array_equal(row, alone[0])


@needs_demo
def test_what_takes_long_is_said_before(capsys, monkeypatch):
    """About as long as it takes."""
    monkeypatch.setattr(progress, "LONG", 0.0)
    place = making.Place("numpy", None, "float32")
    plans = [find("cm").plan(4), find("heun").plan(20)]
    with making.one_thread():
        expected = making.expected(plans, 64, place)
        bar = progress.Bar(1, "evaluation", expected)
        assert re.fullmatch(r"this will take about \d+ s\n", capsys.readouterr().err)
        taken = sum(making.make("", plan, 64, 0, place, bar).network for plan in plans)
    assert 0.2 * expected < taken < 5 * expected


def test_names_are_words():
    names = {entry.cls.__name__: short for short, entry in short_names().items()}
    assert len(names) == len(short_names())
    assert names["DDIMInverseScheduler"] == "ddim_inverse"
    assert names["KDPM2AncestralDiscreteScheduler"] == "kdpm2_ancestral"
    assert names["FlowMatchEulerDiscreteScheduler"] == "flow_match_euler"


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_show_knows_every_sampler(capsys, name):
    cli.main(["show", name, "--steps", "6"])
    printed = capsys.readouterr().out
    if name not in short_names():  # otherwise a class of that name is meant
        assert f"sampler = {name!r}" in printed
        assert REGISTRY[name].paper in printed


def test_show_of_tokens_and_of_steps_that_depend_on_data(capsys):
    cli.main(["show", "vq_diffusion", "--steps", "3"])
    assert "3 steps, at the times 99, 50, 0" in capsys.readouterr().out
    cli.main(["show", "dpm_adaptive"])
    printed = capsys.readouterr().out
    assert "rtol = 0.05" in printed
    assert "depends on the data" in printed


@pytest.mark.parametrize("name", [*EIGHT, *EIGHT.values()])
def test_show_prints_parameters_and_coefficients(capsys, name):
    cli.main(["show", name, "--steps", "3"])
    printed = capsys.readouterr().out
    cls = getattr(cmsched, EIGHT.get(name, name))
    assert printed.startswith(f"{cls.__name__} (")
    assert cls.__name__ in printed
    for parameter, default in cls.options.items():
        assert f"{parameter} = {default!r}" in printed
    assert cls().plan(num_inference_steps=3).describe() in printed


@pytest.mark.parametrize(
    ("name", "short", "options"),
    [
        ("DDIM", "ddim", {}),
        (" euler A ", "euler_ancestral", {}),
        ("ddimscheduler", "ddim", {}),
        ("DPM++ 2M", "dpmpp_2m", {}),
        ("dpm++ 2m sde", "dpmpp_2m", {"algorithm_type": "sde-dpmsolver++"}),
        ("DPM fast", "dpm_fast", None),
    ],
    ids=lambda value: str(value).casefold(),  # not a class's own word
)
def test_names_in_any_case(name, short, options):
    """Those that the table prints, too."""
    found = find(name)
    assert found.short == short
    assert options is None or found.options == options


def test_the_table_is_cut_short():
    """By `head`, without a traceback."""
    command = f"{sys.executable} -m cmsched list | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("name")
    assert done.stderr == ""


def test_version_and_help(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out.startswith("cmsched ")
    cli.main([])
    assert "sample" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sample", "--steps", "0"], "at least 1"),
        (["sample", "--steps", "ten"], "'ten' is not a whole number"),
        (["sample", "--scheduler", "ddim", "--steps", "5000"], "5000"),
        (["sample", "--scheduler", "heun", "--steps", "1.5"], "'1.5'"),
        (["sample", "--number", "-1"], "'-1' is not a whole number of at least 1"),
        (["sample", "--seed", "-1"], "'-1'"),
        (["sample", "--seed", str(2**64)], "at most 18446744073709551615"),
        (["sample", "--scheduler", "dddim"], "did you mean 'ddim'?"),
        (["sample", "--scheduler", "EulerDiscreteSheduler"], "'EulerDiscreteScheduler'"),
        (["sample", "--scheduler", "?"], "known: "),
        (["show", "Scheduler"], "unknown scheduler 'Scheduler'"),
        (["sample", "--compare", "ddim,eular"], "did you mean 'euler'?"),
        (["sample", "--compare", ""], "unknown scheduler ''"),
        (["sample", "--compare", "ddim:4,lcm:many"], "'lcm:many': 'many' is not a whole number"),
        (["sample", "--scheduler", "ddim:0"], "'ddim:0': '0' is not a whole number of at least 1"),
        (["sample", "--scheduler", "ddim", "--compare", "ddim,heun"], "not allowed with"),
        (["sample", "--backend", "tensorflow"], "invalid choice: 'tensorflow'"),
        (["sample", "--dtype", "int32"], "invalid choice: 'int32'"),
        (["sample", "--dtype", "bfloat16"], "numpy has none"),
        (["sample", "--device", "cuda:0"], "numpy has no device 'cuda:0'"),
        (["sample", "--out", "digits.gif"], ".png or .npz"),
        (["sample", "--stepz", "3"], "--stepz"),
        (["show", "dpmpp_2mm"], "did you mean 'dpmpp_2m'?"),
        (["show", "ddim", "--steps", "-3"], "at least 1"),
        (["show"], "name"),
        (["sampel"], "sampel"),
        (["plot", "speed"], "invalid choice: 'speed'"),
        (["plot", "quality", "--out", "quality.npz"], ".png"),
    ],
)
def test_wrong_arguments_get_one_line(capsys, elsewhere, arguments, said):
    assert said in refusal(capsys, *arguments)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_device_that_is_not_there(capsys, backend):
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    said = refusal(capsys, "sample", "--backend", backend, "--device", "nowhere:7")
    assert f"--backend {backend} --device nowhere:7" in said


@pytest.mark.parametrize("module", ["torch", "jax", "cupy"])
def test_a_missing_backend_names_its_package(capsys, monkeypatch, module):
    missing = lambda name: None if name == module else find_spec(name)  # noqa: E731
    monkeypatch.setattr(making, "find_spec", missing)
    said = refusal(capsys, "sample", "--backend", module)
    package = {"cupy": "cupy-cuda12x"}.get(module, module)
    assert said.endswith(f"is not installed: pip install {package}\n")


@pytest.mark.parametrize("module", ["sklearn", "matplotlib"])
def test_missing_demo_parts_name_their_package(capsys, monkeypatch, module):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == module else True)
    package = {"sklearn": "scikit-learn"}.get(module, module)
    assert f"sample needs {package}: pip install {package}" in refusal(capsys, "sample")


@pytest.mark.parametrize("place", ["missing/digits.png", "folder.png", "file/digits.npz"])
def test_unwritable_output_is_refused_before_any_work(capsys, monkeypatch, elsewhere, place):
    (elsewhere / "folder.png").mkdir()
    (elsewhere / "file").touch()
    monkeypatch.setattr(making, "make", lambda *a: pytest.fail("work was done"))
    assert f"--out {place} cannot be written" in refusal(capsys, "sample", "--out", place)


def test_a_refused_command_leaves_an_existing_file_alone(capsys, elsewhere):
    (elsewhere / "old.png").write_bytes(b"old")
    refusal(capsys, "sample", "--out", "old.png", "--device", "cuda")
    assert (elsewhere / "old.png").read_bytes() == b"old"


def program(*arguments):
    """Run the command line in a process of its own, in the present folder."""
    source = Path(cmsched.__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-m", "cmsched.demo.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
    )


@needs_demo
def test_as_a_program():
    done = program("sample", "--number", "2", "--out", "two.npz")
    assert (done.returncode, done.stderr) == (0, "2 digits by dpmpp_2m: loading\n")
    assert "2 digits" in done.stdout
    failed = program("show", "ddin")
    assert failed.returncode == 2
    assert "did you mean 'ddim'" in failed.stderr


@needs_demo
def test_float64_under_jax_needs_no_setting():
    if find_spec("jax") is None:
        pytest.skip("jax is not installed")
    arguments = ["--backend", "jax", "--dtype", "float64", "--number", "2", "--out", "two.npz"]
    done = program("sample", *arguments)
    assert done.returncode == 0, done.stderr
    assert np.load("two.npz")["images"].dtype == np.float64
