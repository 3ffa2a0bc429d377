"""What checkers say to users: nothing of right uses, something of every wrong one.

The tools are those of `nox -s lint`; without them these tests are skipped.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "typing"
MARKER = "# wrong from here on"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT)}

pytestmark = pytest.mark.host


def wrong_lines():
    """The lines of the statements that checkers must reject."""
    text = (FOLDER / "wrong.py").read_text(encoding="utf-8")
    first = text[: text.index(MARKER)].count("\n") + 1
    return {node.lineno for node in ast.parse(text).body if node.lineno > first}


def tool(name):
    """The command of a checker beside the running Python."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: nox -s lint has it")
    return found


def by_mypy(tmp_path):
    """The lines that mypy rejects, by file."""
    options = ("--strict", "--no-error-summary", "--config-file=", f"--cache-dir={tmp_path}")
    command = [tool("mypy"), *options, "--follow-imports=silent", "right.py", "wrong.py"]
    run = subprocess.run(command, cwd=FOLDER, env=ENVIRONMENT, capture_output=True, text=True)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found = re.findall(r"^(\w+\.py):(\d+): error: (.*)$", run.stdout, re.MULTILINE)
    return [(file, int(line), text) for file, line, text in found]


def by_pyright(tmp_path):
    """The same of pyright, which basedpyright is with its own interpreter of JavaScript."""
    config = {
        "include": [str(FOLDER)],
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "standard",
        "pythonVersion": "3.11",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    command = [tool("basedpyright"), "--outputjson", "--project", str(tmp_path)]
    command += ["--pythonpath", sys.executable]
    run = subprocess.run(command, cwd=FOLDER, env=ENVIRONMENT, capture_output=True, text=True)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found = json.loads(run.stdout)["generalDiagnostics"]
    return [
        (Path(d["file"]).name, d["range"]["start"]["line"] + 1, d["message"])
        for d in found
        if d["severity"] == "error"
    ]


@pytest.mark.parametrize("checker", [by_mypy, by_pyright])
def test_right_uses_pass_and_wrong_ones_do_not(checker, tmp_path):
    found = checker(tmp_path)
    assert [d for d in found if d[0] != "wrong.py"] == []
    assert {line for file, line, _ in found if file == "wrong.py"} == wrong_lines()
