"""What is built is whole, and works where nothing else is: `nox -s package` runs this.

Run by the Python that the wheel was installed into, without extras, in a folder of its own:
`python -I tests/package.py FOLDER`, FOLDER holding the wheel and the source distribution.
"""

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_SHIPPED = {".pyc", ".pyo"}


def check(condition: bool, what: str) -> None:
    if not condition:
        raise SystemExit(f"the package is wrong: {what}")
    print(f"ok: {what}")


def files_of_package() -> set[str]:
    """Everything in cmsched/, by its path in the wheel."""
    found = (path for path in (ROOT / "cmsched").rglob("*") if path.is_file())
    return {str(p.relative_to(ROOT)) for p in found if p.suffix not in NOT_SHIPPED}


def built(folder: Path) -> None:
    """Files and metadata of what was built."""
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if not name.startswith("cmsched-")}
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        said = email.message_from_string(archive.read(name).decode())
        check(any(n.endswith("/LICENSE") for n in archive.namelist()), "the licence is in it")
    check(inside == files_of_package(), f"the wheel has the {len(inside)} files of the package")
    for suffix in ("py.typed", ".md", ".py"):
        check(any(n.endswith(suffix) for n in inside), f"with {suffix}")
    readme = str(said.get_payload())
    targets = re.findall(r"\]\(([^)]+)\)", readme)
    check(bool(targets) and "# cmsched" in readme, "the README is its description")
    check(all(t.startswith("https://") for t in targets), f"with {len(targets)} absolute links")
    relative = re.findall(r"\]\((?!https://|#)([^)]+)\)", (ROOT / "README.md").read_text())
    check(
        {t.partition("/main/")[2] for t in targets if "/main/" in t} == {*relative},
        "to where the README's own point",
    )
    urls = [line.partition(", ")[2] for line in said.get_all("Project-URL")]
    check(len(urls) >= 3 and all(u.startswith("https://") for u in urls), "the project has URLs")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"README.md", "CHANGELOG.md", "CITATION.cff", "docs/networks.md", "noxfile.py"}
    check(names >= wanted | files_of_package(), "the source distribution has pages and package")


def installed() -> None:
    """What is installed, without the repository."""
    import numpy as np

    import cmsched

    where = Path(cmsched.__file__)
    check(where.parent != ROOT / "cmsched", "it is not the repository's")
    check(metadata.version("cmsched") == cmsched.__version__, f"version {cmsched.__version__}")
    plan = cmsched.EulerAncestralDiscreteScheduler().plan(20)
    noise = cmsched.Rng(0).normal((2, 3, 8, 8))
    x = cmsched.sample(lambda x, t: 0.5 * np.tanh(x), plan, noise, rng=0)
    check(x.shape == noise.shape and bool(np.isfinite(x).all()), "it samples")
    for arguments in (["list"], ["show", "lcm"], ["--version"]):
        command = [sys.executable, "-I", "-m", "cmsched", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        check(done.returncode == 0 and not done.stderr, " ".join(command[3:]))
    for arguments, hint in (
        (["sample"], "pip install scikit-learn matplotlib"),
        (["sample", "--backend", "torch"], "pip install torch"),
        (["plot", "quality"], "pip install scipy matplotlib"),
    ):
        command = [sys.executable, "-I", "-m", "cmsched", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        check(done.returncode == 2 and done.stderr.endswith(f"{hint}\n"), f"it says: {hint}")


if __name__ == "__main__":
    built(Path(sys.argv[1]))
    installed()
