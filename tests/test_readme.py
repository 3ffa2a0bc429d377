"""The README keeps its word: its code runs, its tables are what the program prints.

`python tests/test_readme.py` writes the generated tables into the README.
"""

import math
import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import test_architecture
import test_distribution
import test_order
from conftest import missing
from exact import plan_between
from problems import registered

from cmsched import samplers
from cmsched.backends import registry
from cmsched.demo import cli
from cmsched.demo.names import short_names
from cmsched.plan import Plan
from cmsched.schedulers import CLASSES
from cmsched.schedules import SCHEDULES

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
# a block of Python, and what it prints where that is shown
BLOCK = re.compile(
    r"^```python[^\n]*\n(?P<code>.*?)^```$(?:\n\n```text\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
FILE = re.compile(r"^\| ((?:`[a-z_./]+`,? ?)+) \| .* \| (host|arrays) \|$", re.MULTILINE)
PACKAGES = ("torch", "jax", "cupy", "diffusers", "onnxruntime")


def blocks():
    """Every Python block and what it prints, if the packages that it imports are here."""
    text = README.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        code = match["code"]
        needs = [name for name in PACKAGES if re.search(rf"^import {name}\b", code, re.MULTILINE)]
        line = text[: match.start()].count("\n") + 1
        if not any(map(missing, needs)):
            yield pytest.param(code, match["printed"], id=f"line {line}")


def write_network(path: Path) -> None:
    """Write a network that ONNX Runtime can run: 0.5 tanh(sample), whatever the time."""
    from onnx import TensorProto, checker, helper, save

    shape, kind = ("batch", 4, 8, 8), TensorProto.FLOAT
    given = [("sample", kind, shape), ("timestep", TensorProto.INT64, ())]
    inputs = [helper.make_tensor_value_info(*port) for port in given]
    output = helper.make_tensor_value_info("output", kind, shape)
    nodes = [
        helper.make_node("Tanh", ["sample"], ["tanh"]),
        helper.make_node("Mul", ["tanh", "half"], ["output"]),
    ]
    half = helper.make_tensor("half", kind, (), [0.5])
    graph = helper.make_graph(nodes, "network", inputs, [output], [half])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    save(model, path)


def forget(name: str) -> None:
    """Remove the classes that a module of this name has entered into tables."""
    for table in (CLASSES, SCHEDULES):
        for key in [key for key, cls in table.items() if cls.__module__ == name]:
            del table[key]


@pytest.mark.parametrize(("code", "printed"), list(blocks()))
def test_block_runs(code, printed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "network.onnx" in code:
        write_network(tmp_path / "network.onnx")
    monkeypatch.setattr(registry, "_registered", {})
    try:
        with registered():
            exec(compile(code, str(README), "exec"), {"__name__": "readme"})
    finally:
        registry._by_type.clear()
        forget("readme")
    if printed is not None:
        assert capsys.readouterr().out.split() == printed.split()


@cache
def measured(name: str, options: tuple[tuple[str, object], ...]) -> str:
    """The order of convergence that a sampler shows, rounded.

    In the distance to the exact solution as in test_order; where it draws, in mean and standard
    deviation as in test_distribution, over steps of one length. Nothing where there is no such
    limit (consistency models) or the steps depend on data.
    """
    entry = samplers.get(name)
    if not entry.traced or entry.trait("order", dict(options)) <= 0:
        return "-"
    if not entry.trait("stochastic", dict(options)):
        stored = entry.trait("stored", dict(options))
        sizes = [60, 120, 240, 480]
        errors = [test_order.error(name, dict(options), "vp", n, history=stored) for n in sizes]
        return f"{test_order.slope(errors):.1f}"
    if "s_noise" in entry.options:  # more than the level asks for has another limit
        options = (*((k, v) for k, v in options if k != "s_noise"), ("s_noise", 1.0))
    if entry.given:  # as long as it needs for a limit
        options = (*options, ("jump_length", 2), ("jump_n_sample", 2))
    worst = [test_distribution.worst(plan_between(name, options, "vp", n)) for n in (400, 800)]
    return f"{math.log2(worst[0] / worst[1]):.1f}"


# options that belong together, by what they are about
GROUPS = {
    **dict.fromkeys(("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"), "ramps"),
    **dict.fromkeys(("use_lu_lambdas", "sigma_schedule", "rho"), "ramps"),
    **dict.fromkeys(("sigma_min", "sigma_max"), "sigma ends"),
    **dict.fromkeys(("dynamic_thresholding_ratio", "sample_max_value"), "thresholding"),
    "clip_sample_range": "clip_sample",
    **dict.fromkeys(("use_flow_sigmas", "flow_shift"), "flow sigmas"),
    **dict.fromkeys(("use_dynamic_shifting", "time_shift_type", "base_shift"), "dynamic shift"),
    **dict.fromkeys(("max_shift", "base_image_seq_len", "max_image_seq_len"), "dynamic shift"),
    "rescale_betas_zero_snr": "zero SNR",
    **dict.fromkeys(("lower_order_final", "euler_at_final"), "orders at the end"),
}


def scheduler_table() -> str:
    """The table of schedulers, as Markdown."""
    entries = short_names().values()
    counts = Counter(option for entry in entries for option in entry.cls.options)
    shared = [option for option, count in counts.items() if 2 * count > len(entries)]
    lines = [
        "| scheduler | short name | A1111 | paper | order | evaluations | noise | options |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in entries:
        short, known, _, _, evaluations, noise, paper = cli._row(entry)
        plan = entry.plan(None)
        traits = (plan.sampler, tuple(plan.options.items())) if isinstance(plan, Plan) else None
        order = measured(*traits) if traits else "-"
        own = [GROUPS.get(option, option) for option in entry.cls.options if option not in shared]
        own = ", ".join(dict.fromkeys(own))
        cells = [f"`{entry.cls.__name__}`", short, known, paper, order, evaluations, noise, own]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Options of most: {', '.join(shared)}."])


def difference_table() -> str:
    """What `compatibility` changes, as Markdown."""
    from parity.differences import table  # with diffusers, which not every environment has

    merged: dict[tuple[str, str, str], list[str]] = {}
    for name, cls, paper, diffusers in table():
        merged.setdefault((name, paper, diffusers), []).append(cls)
    lines = ["| what | classes | paper (default) | diffusers |", "|---|---|---|---|"]
    for (name, paper, diffusers), classes in merged.items():
        lines.append(f"| {name} | {', '.join(classes)} | {paper} | {diffusers} |")
    return "\n".join(lines)


PARTS = {"cmsched list": scheduler_table, "differences": difference_table}


def generated(text: str, name: str) -> str:
    """The README's text with one generated part made anew."""
    pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
    text, count = re.subn(
        pattern, lambda m: f"{m[1]}{PARTS[name]()}\n{m[2]}", text, flags=re.DOTALL
    )
    assert count == 1, f"the README has no place for {name!r}"
    return text


@pytest.mark.parametrize(
    "name", ["cmsched list", pytest.param("differences", marks=pytest.mark.peers)]
)
def test_generated_part_is_up_to_date(name):
    text = README.read_text(encoding="utf-8")
    assert generated(text, name) == text, "run `python tests/test_readme.py`"


def test_its_commands_are_the_ones_that_ci_runs():
    text = README.read_text(encoding="utf-8")
    assert 'pip install -e ".[demo]" && cmsched sample' in text
    assert "pip install nox && nox" in text
    assert '-m pip install nox && "$python" -m nox' in (ROOT / ".ci/run").read_text()


def test_pictures_and_links_exist():
    text = README.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).exists(), target


def test_every_file_is_in_the_table():
    """In the order of the imports, and arrays are where frameworks are known."""
    rows = FILE.findall(README.read_text(encoding="utf-8"))
    files = [(name, where) for names, where in rows for name in re.findall(r"`(.+?)`", names)]
    for name, where in files:
        path = test_architecture.ROOT / name
        assert path.is_dir() if name.endswith("/") else path.is_file(), name
        known = Path(name).stem in test_architecture.ARRAYS | {"demo"}
        assert where == ("arrays" if known else "host"), name
    assert [Path(name).stem for name, _ in files] == test_architecture.PARTS


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    for part in PARTS:
        PARTS[part]()  # measured before the file is read, which others may be writing
    readme = README.read_text(encoding="utf-8")
    for part in PARTS:
        readme = generated(readme, part)
    README.write_text(readme, encoding="utf-8")
