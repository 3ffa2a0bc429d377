"""Loops without cmsched: ports/ make what `sample` makes; JSON and noise are as the page says."""

import json
import re
import runpy
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from conftest import missing
from problems import a_plan, network, traced_variants

import cmsched
from cmsched.backends import numpy as adapter
from cmsched.backends import threefry

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "porting.md").read_text(encoding="utf-8")
PORT = runpy.run_path(str(ROOT / "ports" / "sample.py"))
SHAPE, SEED = (2, 3, 4, 5), 7 << 33 | 5
PURPOSES = {"start": 0, "step": 1, "brownian": 2, "uniform": 3}
SCHEDULERS = {
    "DPM++ 2M SDE": lambda: cmsched.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    "LCM": cmsched.LCMScheduler,
    "Euler a": cmsched.EulerAncestralDiscreteScheduler,
    "thresholding": lambda: cmsched.DDPMScheduler(thresholding=True),
    "churn": lambda: cmsched.Scheduler(sampler="heun", sampler_options={"s_churn": 5.0}),
}


def model(x, t):
    return 0.6 * np.tanh(x) + 0.1 * np.sin(t / 100)


def command(language, folder):
    """How a port is run, or skip where its language is not."""
    needs = {"python": sys.executable, "node": "node", "c++": "g++"}[language]
    if language != "python" and missing(language):
        pytest.skip(f"{needs} is not installed")
    if language == "c++":
        made = folder / "sample"
        source = ROOT / "ports" / "sample.cpp"
        flags = ("-O1", "-Wall", "-Wextra", "-Werror", "-std=c++17")
        subprocess.run([needs, *flags, source, "-o", made], check=True)
        return [made]
    return [needs, ROOT / "ports" / {"python": "sample.py", "node": "sample.mjs"}[language]]


@pytest.mark.parametrize("language", ["python", "node", "c++"])
def test_a_port_makes_what_sample_makes(language, tmp_path):
    run = command(language, tmp_path)
    for name, scheduler in SCHEDULERS.items():
        plan = scheduler().plan(6)
        (tmp_path / "plan.json").write_text(plan.to_json(), encoding="utf-8")
        arguments = [tmp_path / "plan.json", str(SEED), ",".join(map(str, SHAPE))]
        said = subprocess.run([*run, *arguments], check=True, capture_output=True, text=True)
        made = np.array(said.stdout.split(), float).reshape(SHAPE)
        noise = cmsched.Rng(SEED).normal(SHAPE, dtype="float64")
        wanted = cmsched.sample(model, plan, noise, rng=SEED)
        error = np.max(np.abs(made - wanted)) / np.max(np.abs(wanted))
        assert error < 1e-12, f"{name}: {error}"


def numbered(said, x, t):
    """A network, for a caller whose times are plain numbers."""
    return said(x, np.asarray(t))


def test_what_the_port_takes_besides():
    """A learned variance, given arrays and a mask, in the port that the others follow."""
    from problems import given_of, start_of

    for sampler, options in [("ddpm", {"variance": "learned_range"}), ("repaint", {})]:
        plan = a_plan(sampler, options, n=6)
        said, given = network(np, plan.prediction), given_of(plan, SHAPE)
        plain = partial(numbered, said)
        noise = cmsched.Rng(SEED).normal(SHAPE, dtype="float64")
        made = PORT["sample"](
            json.loads(plan.to_json()),
            plain,
            SHAPE,
            SEED,
            given=given,
        )
        wanted = cmsched.sample(said, plan, noise, rng=SEED, given=given)
        np.testing.assert_allclose(made, wanted, rtol=1e-9, atol=1e-10)
    assert start_of(SHAPE).shape == SHAPE


# noise


def rows_of_page(columns):
    """The rows of the page's table of so many columns after the mark."""
    part = PAGE.partition("<!-- test vectors -->")[2]
    rows = [
        line.strip("| ").split(" | ") for line in part.splitlines() if re.match(r"\| [\d`]", line)
    ]
    return [row for row in rows if len(row) == columns]


def test_vectors():
    found = rows_of_page(9)
    assert len(found) == 9
    for seed, sample, purpose, row, rank, element, word, *normals in found:
        stream = threefry.Stream((int(seed),), (int(sample),))
        for dtype, value, limit in zip(("float32", "float64"), normals, (4e-6, 1e-14), strict=True):
            spec = threefry.NoiseSpec((1, int(element) + 1), dtype, None, int(row), int(rank))
            spec = spec._replace(purpose=PURPOSES[purpose])
            key = adapter.BACKEND.folded_keys(stream, spec)[:, :, None]
            own = adapter.words(tuple(key), int(element), 1).view(np.uint32).item()
            assert f"`{own:08x}`" == word
            ours = adapter.BACKEND.normals(stream, spec)[0, -1]
            theirs = PORT["words"](
                int(seed), int(sample), PURPOSES[purpose], int(row), int(rank), int(element) + 1
            )
            theirs = PORT["normal"](theirs[-1:], np.dtype(dtype).type)[0]
            assert max(abs(ours - float(value)), abs(theirs - float(value))) < limit


def test_words_become_normals():
    found = rows_of_page(3)
    assert len(found) == 6
    for word, *normals in found:
        own = np.array([int(word.strip("`"), 16)], np.uint32)
        for name, value, limit in zip(("float32", "float64"), normals, (4e-6, 1e-14), strict=True):
            ours = threefry.from_bits(np, own.view(np.int32).copy(), np.dtype(name))[0]
            theirs = PORT["normal"](own, np.dtype(name).type)[0]
            assert max(abs(ours - float(value)), abs(theirs - float(value))) < limit


def test_uniform_of_the_page():
    stream = threefry.Stream((1,), (0,))
    spec = threefry.NoiseSpec((1, 3), "float64", None, 5, purpose=3, uniform=True)
    (value,) = re.findall(r"as a uniform number ([\d.]+\d)\.", PAGE)
    assert adapter.BACKEND.normals(stream, spec)[0, 2] == float(value)


# JSON


@cache
def valid():
    """The check of the schema."""
    fastjsonschema = pytest.importorskip("fastjsonschema")
    text = (ROOT / "docs" / "plan.schema.json").read_text(encoding="utf-8")
    return fastjsonschema.compile(json.loads(text))


@pytest.mark.parametrize(("sampler", "options"), traced_variants())
def test_the_schema_takes_every_plan(sampler, options):
    for projection in ("none", "threshold"):
        valid()(json.loads(a_plan(sampler, options, projection=projection).to_json()))


def test_the_schema_takes_what_has_no_rows_and_refuses_the_rest():
    fastjsonschema = pytest.importorskip("fastjsonschema")
    adaptive = cmsched.from_a1111("DPM adaptive").plan(10)
    valid()(json.loads(adaptive.to_json()))
    data = json.loads(a_plan("ddim", {}).to_json())
    for key in data:
        with pytest.raises(fastjsonschema.JsonSchemaException):
            valid()({name: value for name, value in data.items() if name != key})
    data["rows"][0]["sums"][0]["terms"][0]["where"] = "somewhere"
    with pytest.raises(fastjsonschema.JsonSchemaException):
        valid()(data)


def test_stacks_and_token_plans_as_json():
    schedulers = [cmsched.DDIMScheduler(), cmsched.DDIMScheduler(clip_sample=False)]
    stack = cmsched.stack([s.plan(n) for n, s in enumerate(schedulers, 4)], 30, pad=True)
    other = cmsched.Stack.from_json(stack.to_json())
    assert (other.plans, other.capacity, other.layout) == (stack.plans, 30, stack.layout)
    tokens = cmsched.VQDiffusionScheduler(num_vec_classes=9).plan(10)
    assert type(tokens).from_json(tokens.to_json()) == tokens
    for one in (stack, tokens):
        valid()(json.loads(one.to_json()))
    for kind in (cmsched.Stack, type(tokens)):
        for text in ("", "[]", "{}", a_plan("ddim", {}).to_json()):
            with pytest.raises(ValueError, match="not a "):
                kind.from_json(text)
