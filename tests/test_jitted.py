"""numba pays or stays away: when it is imported, and what of it is kept on disk."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(not find_spec("numba"), reason="numba is not installed"),
]

NOISE = """
import sys
import numpy as np
import cmsched

x = cmsched.Rng(0).normal((1, 4, 64, int(sys.argv[1])))
plan = cmsched.EulerAncestralDiscreteScheduler().plan(2)
cmsched.sample(lambda x, t: 0.5 * x, plan, x, rng=0)
print("numba" in sys.modules)
"""
KERNEL = """
import numpy as np
from cmsched.backends import jitted

text = ["def kernel(x, out):", "    for i in range(x.size):", "        out[i] = 2 * x[i]", ""]
kernel = jitted.compiled("\\n".join(text))
x = np.arange(4.0)
kernel(x, x)
assert x.tolist() == [0, 2, 4, 6]
print(sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))
"""


def said(code, folder, *arguments):
    """What a fresh process prints, whose caches are in a folder."""
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = environment["LOCALAPPDATA"] = str(folder)
    environment["HOME"] = str(folder)
    command = [sys.executable, "-c", code, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return run.stdout.split()


def test_small_samples_do_not_import_it(tmp_path):
    assert said(NOISE, tmp_path, "64") == ["False"]
    assert not list(tmp_path.rglob("*.py"))


def test_what_was_compiled_is_found_by_the_next_process(tmp_path):
    assert said(KERNEL, tmp_path) == ["0", "1"]  # hits, misses
    assert said(KERNEL, tmp_path) == ["1", "0"]
    (text,) = tmp_path.rglob("_cmsched_*.py")
    text.write_text("raise SystemExit('another text')\n")
    kept = sorted(tmp_path.rglob("*"))
    assert said(KERNEL, tmp_path) == ["0", "1"]
    assert sorted(tmp_path.rglob("*")) == kept


def test_without_a_folder_it_is_compiled_and_not_kept(tmp_path):
    place = tmp_path / "a file"
    place.write_text("")
    assert said(KERNEL, place) == ["0", "1"]
