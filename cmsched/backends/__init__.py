"""Which framework an array belongs to, and the few operations worth writing natively for each."""

import difflib
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from cmsched.backends import base
from cmsched.backends.base import Array, Backend

__all__ = ["Array", "Backend", "from_device", "named", "pytree", "register", "resolve"]

FRAMEWORKS = ("numpy", "torch", "jax", "cupy")

_by_type: dict[type, Backend] = {}
_by_namespace: dict[str, Backend] = {}
_registered: list[tuple[Callable[[type], bool], Callable[[], Backend]]] = []


def resolve(x: Array) -> Backend:
    """Give the backend of the framework that made the array `x`."""
    # No lock: who comes second finds the same backend, and importing has locks of its own.
    cls = type(x)
    if cls not in _by_type:
        _by_type[cls] = _find(x)
    return _by_type[cls]


def named(name: str | ModuleType) -> Backend:
    """Give the backend with a framework's name, or of an array-API namespace."""
    if isinstance(name, ModuleType):
        known = [part for part in name.__name__.split(".") if part in FRAMEWORKS]
        return _load(known[0]) if known else _generic(name)
    if name in FRAMEWORKS:
        return _load(name)
    near = difflib.get_close_matches(str(name), FRAMEWORKS, n=1, cutoff=0.4)
    raise ValueError(
        f"xp={name!r} is not a known framework"
        + (f": did you mean {near[0]!r}? Known are " if near else ": use one of ")
        + f"{', '.join(FRAMEWORKS)}, or pass an array-API namespace module"
    )


def from_device(device: Any) -> Backend:
    """Give the backend whose device this is: None is NumPy's, a string PyTorch's."""
    if device is None or isinstance(device, str):
        return _load("numpy" if device is None else "torch")
    root = type(device).__module__.split(".")[0].replace("jaxlib", "jax")
    if root not in sys.modules or root in ("builtins", "numpy"):
        raise TypeError(
            f"device={device!r} is no device of a known framework: pass a string such as 'cuda' "
            "for PyTorch, a device object of PyTorch, JAX or CuPy, or name the framework by xp="
        )
    return named(sys.modules[root])


def register(predicate: Callable[[type], bool], factory: Callable[[], Backend]) -> None:
    """Use the backend that `factory()` makes for array types where `predicate(type)` holds."""
    _registered.insert(0, (predicate, factory))
    _by_type.clear()


def pytree(
    cls: type,
    flatten: Callable[[Any], tuple[Any, Any]],
    unflatten: Callable[[Any, Any], Any],
) -> None:
    """Make JAX (recorded until it is used) and whoever walks trees treat `cls` as a container."""
    base.containers[cls] = flatten, unflatten
    base.pytrees.append((cls, flatten, unflatten))
    base.register_pytrees()


def _find(x: Array) -> Backend:
    cls = type(x)
    for predicate, factory in _registered:
        if predicate(cls):
            return factory()
    # A framework that nobody imported cannot have made the array.
    for name in FRAMEWORKS:
        if name in sys.modules and _load(name).owns(cls):
            return _load(name)
    try:
        return _generic(import_module("array_api_compat").array_namespace(x))
    except TypeError:
        raise TypeError(
            f"expected an array of NumPy, PyTorch, JAX, CuPy or another array-API library, got "
            f"{cls.__module__}.{cls.__qualname__}: convert it first, e.g. numpy.asarray(value)"
        ) from None


def _load(name: str) -> Backend:
    # Import statements, because torch.compile follows them, and not importlib.
    backend: Backend
    try:
        if name == "torch":
            from cmsched.backends.torch import BACKEND as backend
        elif name == "jax":
            from cmsched.backends.jax import BACKEND as backend
        elif name == "cupy":
            from cmsched.backends.cupy import BACKEND as backend
        else:
            from cmsched.backends.numpy import BACKEND as backend
    except ImportError as error:
        raise ImportError(
            f"xp={name!r} needs {name}, which cannot be imported here ({error}): "
            f'pip install "cmsched[{name}]"'
        ) from error
    return backend


def _generic(xp: ModuleType) -> Backend:
    if not hasattr(xp, "asarray"):
        raise ValueError(
            f"xp={xp.__name__!r} is no array namespace (it has no `asarray`): pass one such as "
            "array_api_strict, or a framework's name"
        )
    return _by_namespace.setdefault(xp.__name__, Backend(xp.__name__))
