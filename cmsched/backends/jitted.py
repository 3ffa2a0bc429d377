"""Functions written as text, which numba compiles once for all processes (the extra `fast`).

Importing numba takes some 0.4 seconds and compiling a loop 0.5 to 2, which only large arrays are
worth: who asks for `numba` has looked at sizes before. What was compiled is kept on disk, beside
its text, in NUMBA_CACHE_DIR or the user's folder for caches; the package's own folder may well be
read-only. Where nothing can be written, every process compiles for itself.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any


@cache
def numba() -> Any | None:
    """Give numba, or None where it is not installed; imported at first use."""
    try:
        import numba
    except ImportError:
        return None
    return numba


@cache
def installed() -> bool:
    """Tell whether numba is there, without importing it."""
    try:
        return find_spec("numba") is not None
    except ValueError:  # it is kept out: sys.modules["numba"] is None
        return False


@lru_cache(maxsize=512)
def compiled(text: str) -> Callable[..., None]:
    """Compile the function `kernel` that a module of this text defines."""
    module = _module(text)
    kept = getattr(module, "__file__", None) is not None
    njit: Any = numba().njit  # type: ignore[union-attr]
    options = {"nogil": True, "error_model": "numpy"}
    try:
        function: Callable[..., None] = njit(cache=kept, **options)(module.kernel)
    except RuntimeError:  # there is no place where numba may write
        function = njit(**options)(module.kernel)
    return function


def _module(text: str) -> ModuleType:
    """Give the module of a text: of a file where one can be written, as only those are kept."""
    name = f"_cmsched_{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    try:
        path = folder() / f"{name}.py"
        if not path.exists():
            _write(path, text)
        if path.read_text(encoding="utf-8") != text:  # written by half, or by somebody else
            raise OSError(f"{path} holds another text")
    except OSError:
        module = ModuleType(name)
        exec(text, module.__dict__)
        return module
    spec: Any = spec_from_file_location(name, path)
    module = module_from_spec(spec)
    sys.modules[name] = module  # where numba looks for what it kept
    spec.loader.exec_module(module)
    return module


def _write(path: Path, text: str) -> None:
    """Write a file at once: other processes find all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(part, path)


def folder() -> Path:
    """Give the folder of what is kept: of numba's own variable, or of the user's caches."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen) / "cmsched"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "cmsched"
