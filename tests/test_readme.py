"""The README keeps its word: its code runs, its tables are what the program prints.

`python tests/test_readme.py` writes the generated tables into the README.
"""

import re
import sys
from pathlib import Path

import pytest
from conftest import missing

from cmsched import cli, samplers

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"^```python([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FRAMEWORKS = ("torch", "jax", "cupy")


def blocks():
    """Every Python block, with the frameworks it imports."""
    text = README.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        code = match[2]
        needs = [name for name in FRAMEWORKS if re.search(rf"^import {name}\b", code, re.MULTILINE)]
        line = text[: match.start()].count("\n") + 1
        if not any(map(missing, needs)):
            yield pytest.param(code, id=f"line {line}")


@pytest.mark.parametrize("code", list(blocks()))
def test_block_runs(code, capsys):
    before = set(samplers.REGISTRY)
    try:
        exec(compile(code, str(README), "exec"), {"__name__": "readme"})
    finally:
        for name in set(samplers.REGISTRY) - before:
            del samplers.REGISTRY[name]


def scheduler_table() -> str:
    """The table of schedulers, as Markdown."""
    lines = [
        "| scheduler | short name | paper | order | evaluations | noise |",
        "|---|---|---|---|---|---|",
    ]
    for short, cls in cli._schedulers().items():
        plan = cli._plan(cls, None)
        entry = samplers.get(plan.sampler)
        order = entry.trait("order", plan.options) or "-"
        noise = "yes" if entry.trait("stochastic", plan.options) else "no"
        cells = [f"`{cls.__name__}`", short, entry.paper, order, entry.evaluations, noise]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


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


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    readme = README.read_text(encoding="utf-8")
    for part in PARTS:
        readme = generated(readme, part)
    README.write_text(readme, encoding="utf-8")
