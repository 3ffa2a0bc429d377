"""README and `docs/` keep their word: their code runs, their tables are what the program says.

`python tests/test_docs.py` writes the generated parts anew, in whichever page they are.
"""

import math
import re
import shlex
import sys
from collections import Counter
from functools import cache
from importlib.util import find_spec
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
from cmsched.demo import cli, quality
from cmsched.demo.names import short_names
from cmsched.plan import Plan
from cmsched.predictions import OUTPUTS
from cmsched.schedulers import CLASSES
from cmsched.schedules import SCHEDULES
from cmsched.spacings import SPACINGS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))  # a page is found by being there
PAGES = [README, *DOCS]
# a block of Python, and what it prints where that is shown
BLOCK = re.compile(
    r"^```python[^\n]*\n(?P<code>.*?)^```$(?:\n\n```text\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
IMPORTED = re.compile(r"^ *(?:import|from) (\w+)", re.MULTILINE)
FILE = re.compile(r"^\| ((?:`[a-z_./]+`,? ?)+) \| .* \| (host|arrays) \|$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)]+)\)")
PACKAGES = {"torch", "jax", "cupy", "diffusers", "onnxruntime", "flax", "ndonnx", "onnx"}
PACKAGES |= {"sklearn", "scipy", "matplotlib", "dask", "paddle", "mlx", "numba", "zarr"}
TABLES = (CLASSES, SCHEDULES, SPACINGS, OUTPUTS)  # what a page may enter something into
COMMAND = "python tests/test_docs.py"


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[tuple[int, str, str | None]]:
    """Every Python block of a page that can run here: its line, and what it prints if shown."""
    text, found = text_of(page), []
    for match in BLOCK.finditer(text):
        needs = PACKAGES.intersection(IMPORTED.findall(match["code"]))
        if all(map(find_spec, needs)) and not ("cupy" in needs and missing("cupy")):
            line = text[: match.start("code")].count("\n")
            found.append((line, match["code"], match["printed"]))
    return found


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


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder, and tables that forget what is entered into them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", {})
    before = [set(table) for table in TABLES]
    try:
        with registered():
            yield tmp_path
    finally:
        registry._by_type.clear()
        for table, known in zip(TABLES, before, strict=True):
            for key in set(table) - known:
                del table[key]


def run(page, found, folder, capsys):
    """Run blocks in one namespace, as a reader does who copies them one after the other."""
    namespace = {"__name__": "page"}
    for line, code, printed in found:
        if "network.onnx" in code:
            write_network(folder / "network.onnx")
        exec(compile("\n" * line + code, str(page), "exec"), namespace)  # errors name the line
        out = capsys.readouterr().out
        if printed is not None:
            assert out.split() == printed.split(), f"{page.name}, line {line}"


@pytest.mark.parametrize("block", [pytest.param(b, id=f"line {b[0]}") for b in blocks(README)])
def test_each_block_of_the_readme_runs_by_itself(block, elsewhere, capsys):
    run(README, [block], elsewhere, capsys)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_a_page_runs_from_top_to_bottom(page, elsewhere, capsys):
    run(page, blocks(page), elsewhere, capsys)


@cache
def measured(name: str, options: tuple[tuple[str, object], ...]) -> float:
    """The order of convergence that a sampler shows.

    In the distance to the exact solution as in test_order; where it draws, in mean and standard
    deviation as in test_distribution, over steps of one length.
    """
    entry = samplers.get(name)
    if not entry.trait("stochastic", dict(options)):
        stored = entry.trait("stored", dict(options))
        sizes = [60, 120, 240, 480]
        errors = [test_order.error(name, dict(options), "vp", n, history=stored) for n in sizes]
        return test_order.slope(errors)
    if "s_noise" in entry.options:  # more than the level asks for has another limit
        options = (*((k, v) for k, v in options if k != "s_noise"), ("s_noise", 1.0))
    if entry.given:  # as long as it needs for a limit
        options = (*options, ("jump_length", 2), ("jump_n_sample", 2))
    worst = [test_distribution.worst(plan_between(name, options, "vp", n)) for n in (400, 800)]
    return math.log2(worst[0] / worst[1])


def ordered():
    """The schedulers that have an order and a table; what jumps to the end has no such limit."""
    for entry in short_names().values():
        plan = entry.plan(None)
        if isinstance(plan, Plan) and plan.traced and cli._facts(entry)["order"]:
            traits = plan.sampler, tuple(plan.options.items())
            yield pytest.param(entry, traits, id=entry.cls.__name__)


@pytest.mark.parametrize(("entry", "traits"), list(ordered()))
def test_the_order_that_is_listed_is_what_is_measured(entry, traits):
    """At least that where noise is drawn, which the table says by a plus."""
    facts, found = cli._facts(entry), measured(*traits)
    assert found > facts["order"] - 0.15
    assert facts["noise"] or found < facts["order"] + 0.15


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
    columns = [*cli.COLUMNS, "paper", "options"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for entry in entries:
        facts = cli._facts(entry)
        own = [GROUPS.get(option, option) for option in entry.cls.options if option not in shared]
        cells = [*cli._cells(facts), facts["paper"], ", ".join(dict.fromkeys(own))]
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


def not_here() -> str:
    """The scheduler classes of diffusers that cmsched does not have, as a sentence."""
    import diffusers.schedulers as theirs

    names = [name for name in dir(theirs) if name.endswith("Scheduler")]
    names = [name for name in names if isinstance(getattr(theirs, name), type)]
    absent = [f"`{name}`" for name in names if name not in CLASSES]
    return f"{len(absent)} of {len(names)}: {', '.join(absent)}."


def page_list() -> str:
    """What each page is about: its first heading and its first sentence."""
    lines = []
    for page in DOCS:
        title, _, rest = text_of(page).removeprefix("# ").partition("\n")
        sentence = re.match(r"(.+?[.:])(\s|$)", rest.strip(), re.DOTALL)[1]
        sentence = re.sub(r"\s+", " ", LINK.sub("]", sentence)).rstrip(":.").replace("[", "")
        lines.append(f"- [{title}](docs/{page.name}): {sentence.replace(']', '')}.")
    return "\n".join(lines)


PARTS = {
    "cmsched list": scheduler_table,
    "differences": difference_table,
    "not here": not_here,
    "pages": page_list,
}
OF_PEERS = {"differences", "not here"}  # made with diffusers
PART = re.compile(
    rf"(?P<begin><!-- generated by `{COMMAND}`: (?P<name>[a-z ]+) -->\n).*?(?P<end><!-- end -->)",
    re.DOTALL,
)


NO_PEERS = missing("peers")
needs_peers = (pytest.mark.peers, pytest.mark.skipif(bool(NO_PEERS), reason=NO_PEERS))


def renewed(page: Path) -> str:
    """A page's text with its generated parts made anew, as far as that can be done here."""

    def part(m: re.Match) -> str:
        if m["name"] in OF_PEERS and NO_PEERS:
            print(f"{page.name}: {m['name']} is left as it is: {NO_PEERS}")
            return m[0]
        return f"{m['begin']}{PARTS[m['name']]()}\n{m['end']}"

    return PART.sub(part, text_of(page))


def parts():
    """Every generated part of every page."""
    for page in PAGES:
        for match in PART.finditer(text_of(page)):
            marks = needs_peers if match["name"] in OF_PEERS else ()
            yield pytest.param(page, match["name"], id=match["name"], marks=marks)


@pytest.mark.parametrize(("page", "name"), list(parts()))
def test_generated_part_is_up_to_date(page, name):
    text = text_of(page)
    (found,) = (m for m in PART.finditer(text) if m["name"] == name)
    assert f"{found['begin']}{PARTS[name]()}\n{found['end']}" == found[0], f"run `{COMMAND}`"


def test_every_generated_part_has_its_place():
    assert sorted(p.values[1] for p in parts()) == sorted(PARTS)


def test_its_commands_are_the_ones_that_ci_runs():
    text = text_of(README)
    assert 'pip install -e ".[demo]" && cmsched sample' in text
    assert "pip install nox && nox" in text
    assert '-m pip install nox && "$python" -m nox' in (ROOT / ".ci/run").read_text()


@pytest.mark.skipif(bool(missing("demo")), reason=missing("demo"))
def test_pictures_are_made_by_the_commands_beside_them(elsewhere, monkeypatch):
    """The command runs, and its picture has the rows of the one that is shown."""
    from matplotlib.image import imread

    whole = quality.distribution
    monkeypatch.setattr(quality, "distribution", lambda: whole(256))
    commands = re.findall(r"`cmsched ((?:sample|plot) .*?--out (\S+\.png))`", text_of(README))
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text_of(README))
    assert [out for _, out in commands] == shown
    assert imread(ROOT / shown[0]).shape[0] <= 300  # the text begins on the first screen
    for command, out in commands:
        cli.main([*shlex.split(command), "--out", "made.png"])
        assert imread("made.png").shape == imread(ROOT / out).shape


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_and_links_exist(page):
    headings = {}
    for target in LINK.findall(re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", text_of(other), re.MULTILINE)
            headings = {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}
            assert anchor in headings, target


def test_the_readme_is_short():
    assert len(text_of(README).splitlines()) <= 220


@pytest.mark.peers
@pytest.mark.skipif(bool(NO_PEERS), reason=NO_PEERS)
def test_numbers_of_the_readme():
    import diffusers.schedulers as theirs

    (classes,) = re.findall(r"(\d+)\s+of\s+diffusers'\s+classes", text_of(README))
    (loops,) = re.findall(r"(\d+)\s+samplers", text_of(README))
    assert int(classes) == sum(hasattr(theirs, name) for name in CLASSES)
    assert int(loops) == len(samplers.REGISTRY)


def test_every_file_is_in_the_table():
    """In the order of the imports, and arrays are where frameworks are known."""
    rows = FILE.findall(text_of(ROOT / "docs" / "architecture.md"))
    files = [(name, where) for names, where in rows for name in re.findall(r"`(.+?)`", names)]
    for name, where in files:
        path = test_architecture.ROOT / name
        assert path.is_dir() if name.endswith("/") else path.is_file(), name
        known = Path(name).stem in test_architecture.ARRAYS | {"demo"}
        assert where == ("arrays" if known else "host"), name
    assert [Path(name).stem for name, _ in files] == test_architecture.PARTS


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    for written in PAGES:
        new = renewed(written)  # made before the file is read again, which others may be writing
        if new != text_of(written):
            written.write_text(new, encoding="utf-8")
