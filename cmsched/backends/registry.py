"""Which framework an array belongs to: those known here, array-API libraries, registered ones."""

import difflib
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from cmsched.backends import base
from cmsched.backends.base import Array, Backend

if TYPE_CHECKING:
    from cmsched.backends.adapted import AdaptedBackend

ADAPTERS = ("numpy", "torch", "jax", "cupy", "paddle", "ndonnx")
# These need no adapter: their namespaces, and what pip calls them.
NAMESPACES = {"mlx": "mlx.core", "dask": "array_api_compat.dask.array"}
FRAMEWORKS = (*ADAPTERS, *NAMESPACES)
PACKAGES = {"paddle": "paddlepaddle", "mlx": "mlx", "ndonnx": "ndonnx", "dask": '"dask[array]"'}
PACKAGES |= {"torch": "torch", "jax": "jax", "cupy": "cupy-cuda12x"}

_by_type: dict[type, Backend] = {}
_by_namespace: dict[str, Backend] = {}
_registered: dict[str, "AdaptedBackend"] = {}


def resolve(x: Array) -> Backend:
    """Give the backend of the framework that made the array `x`."""
    # No lock: who comes second finds the same backend, and importing has locks of its own.
    cls = type(x)
    if cls not in _by_type:
        _by_type[cls] = _find(x)
    return _by_type[cls]


def named(name: str | ModuleType) -> Backend:
    """Give the backend with a framework's name, or of an array-API namespace."""
    for backend in _registered.values():
        if backend.framework is name or backend.name == name:
            return backend
    if isinstance(name, ModuleType):
        parts = [part for part in name.__name__.split(".") if part in FRAMEWORKS]
        return _load(parts[0]) if parts else _generic(name)
    if name in FRAMEWORKS:
        return _load(name)
    known = [*FRAMEWORKS, *_registered]
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    raise ValueError(
        f"xp={name!r} is not a known framework"
        + (f": did you mean {near[0]!r}? Known are " if near else ": use one of ")
        + f"{', '.join(known)}, or pass an array-API namespace module"
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


def register(
    name: str, array: type | tuple[type, ...], framework: Any, **functions: Callable[..., Any]
) -> None:
    """Take arrays of a framework that has no array-API namespace; `frameworks.md` has an example.

    Args:
        name: what messages, `xp=` and `named` call it; it stands for one type.
        array: the type of its arrays, or a tuple of types.
        framework: a module or object that has functions and dtypes under the array API's names.
        **functions: those it lacks, or has under other names or with other arguments.

    Raises:
        TypeError: name is no string, array no type; a function's name is none of the array API's,
            or stands for no function.
        ValueError: the name is registered for another type, or the name or the arrays are those of
            a framework that needs no registering.
        AttributeError: the framework lacks what every loop needs.
    """
    from cmsched.backends.adapted import REQUIRED, AdaptedBackend

    types = array if isinstance(array, tuple) else (array,)
    if not isinstance(name, str) or not name:
        raise TypeError(f"name={name!r}: give the name of the framework, such as 'paddle'")
    if not types or not all(isinstance(cls, type) for cls in types):
        raise TypeError(f"array={array!r} is no type: pass that of the arrays, such as type(x)")
    if name in FRAMEWORKS:
        raise ValueError(f"name={name!r} is a framework known already: choose another name")
    for cls in types:
        own = _adapter(cls) or (issubclass(np.ndarray, cls) and _load("numpy"))
        if own:
            raise ValueError(
                f"array={cls!r} would take the arrays of {own.name}, which is known already: pass"
                " the type of your own arrays"
            )
    if name in _registered and _registered[name].array != array:
        raise ValueError(
            f"name={name!r} is registered for {_registered[name].array}: choose another name"
        )
    standard = dir(import_module("array_api_compat.numpy"))
    for key, function in functions.items():
        if key not in standard:
            near = difflib.get_close_matches(key, standard, n=1)
            also = f": did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{key}= is no name of the array API{also}")
        if not callable(function):
            raise TypeError(f"{key}={function!r} cannot be called: pass what does it on arrays")
    backend = AdaptedBackend(name, array, framework, **functions)
    for key in REQUIRED:
        getattr(backend.xp, key)
    _registered[name] = backend
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
    for backend in reversed(_registered.values()):
        if backend.owns(cls):
            return backend
    if own := _adapter(cls):
        return own
    try:
        return named(import_module("array_api_compat").array_namespace(x))
    except TypeError:
        raise TypeError(
            f"expected an array of NumPy, PyTorch, JAX, CuPy or another array-API library, got "
            f"{cls.__module__}.{cls.__qualname__}: convert it first, e.g. numpy.asarray(value), or "
            "make its framework known by cmsched.backends.register"
        ) from None


def _adapter(cls: type) -> Backend | None:
    """Give the backend written here for arrays of this type, if there is one."""
    # A framework that nobody imported cannot have made the array.
    for name in FRAMEWORKS:
        if name in sys.modules and _load(name).owns(cls):
            return _load(name)
    return None


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
        elif name == "paddle":
            from cmsched.backends.paddle import BACKEND as backend
        elif name == "ndonnx":
            from cmsched.backends.ndonnx import BACKEND as backend
        elif name == "mlx":
            from cmsched.backends.mlx import BACKEND as backend
        elif name == "dask":
            from cmsched.backends.dask import BACKEND as backend
        else:
            from cmsched.backends.numpy import BACKEND as backend
    except ImportError as error:
        raise ImportError(
            f"xp={name!r} needs {name}, which cannot be imported here ({error}): "
            f"pip install {PACKAGES[name]}"
        ) from error
    return backend


def _generic(xp: ModuleType) -> Backend:
    if not hasattr(xp, "asarray"):
        raise ValueError(
            f"xp={xp.__name__!r} is no array namespace (it has no `asarray`): pass one such as "
            "array_api_strict, or a framework's name"
        )
    return _by_namespace.setdefault(xp.__name__, Backend(xp.__name__))
