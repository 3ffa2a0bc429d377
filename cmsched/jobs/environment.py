"""What bits depend on beside the manifest: versions, device, threads."""

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from .. import __version__
from .manifest import flat, shown
from .store import MARK

__all__ = ["difference", "environment_of", "mark_of", "pinned"]


class pinned:
    """A number of threads for linear algebra, on which its bits depend.

    Args:
        threads: how many; None leaves them as they are.
    """

    def __init__(self, threads: int | None) -> None:
        self.threads, self.limits = threads, None

    def __enter__(self) -> "pinned":
        if self.threads is not None:
            from threadpoolctl import threadpool_limits

            self.limits = threadpool_limits(self.threads)
        self.pin_frameworks()
        return self

    def pin_frameworks(self) -> None:
        """Pin what has been loaded since."""
        if self.threads is not None and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self.threads)

    def __exit__(self, *error: Any) -> None:
        if self.limits is not None:
            self.limits.restore_original_limits()


FRAMEWORKS = ("torch", "jax", "cupy", "diffusers")


def environment_of(framework: str | None = None) -> dict[str, Any]:
    """Return what bits depend on beside the manifest.

    Args:
        framework: what the sampler says it uses, as its attribute `xp`; by default everything that
            is loaded may matter.
    """
    used = [framework] if framework else FRAMEWORKS
    loaded = {name: sys.modules.get(name) for name in {"numpy", *used}}
    versions = {k: str(getattr(m, "__version__", "")) for k, m in loaded.items() if m is not None}
    found: dict[str, Any] = {
        "versions": {"cmsched": __version__, "python": platform.python_version(), **versions},
        "machine": platform.machine(),
        "numba": find_spec("numba") is not None,
    }
    if find_spec("threadpoolctl") is not None:
        from threadpoolctl import threadpool_info

        pools = [p for p in threadpool_info() if p["user_api"] == "blas"]
        keys = ("internal_api", "version", "architecture", "num_threads")
        found["blas"] = sorted(" ".join(str(p.get(key)) for key in keys) for p in pools)
    if (torch := loaded.get("torch")) is not None:
        found["torch"] = {
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        }
    if (jax := loaded.get("jax")) is not None:
        found["jax"] = {
            "device": jax.devices()[0].device_kind,
            "x64": bool(jax.config.jax_enable_x64),
            "precision": str(jax.config.jax_default_matmul_precision),
        }
    return found


def mark_of(environment: Mapping[str, Any]) -> bytes:
    """Return the mark of an environment, which receipts bear."""
    return hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).digest()[:MARK]


def difference(environment: Mapping[str, Any], others: Mapping[bytes, Any]) -> str:
    """Say what differs from the environment that made chunks before."""
    own, theirs = flat(dict(environment)), flat(next(iter(others.values())))
    keys = [key for key in sorted({*own, *theirs}) if own.get(key) != theirs.get(key)]
    each = [f"{key} was {shown(theirs.get(key))} and is {shown(own.get(key))}" for key in keys]
    return (
        f"chunks were made in another environment, which gives other bits: {'; '.join(each)}. Go on"
        " in the same, or allow it by mixed=True (--mixed): each receipt says where it was made"
    )
