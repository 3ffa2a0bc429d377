"""The operations that the array layer needs, over any array-API namespace."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cmsched.backends import brownian, threefry
from cmsched.backends.fused import Statements
from cmsched.backends.threefry import NoiseSpec, Stream

if TYPE_CHECKING:  # every checker knows it, and what has a default needs no argument
    from typing_extensions import TypeVar

    A = TypeVar("A", bound=Any, default=Any)
else:
    from typing import TypeVar

    A = TypeVar("A")  # the caller's kind of array: what comes out is what went in

Array: TypeAlias = Any
DType: TypeAlias = Any

# Classes that hold arrays: how to take them apart and make them anew.
containers: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {}

# Those that JAX shall treat as containers, until its adapter has taken them.
pytrees: deque[tuple[type, Callable[[Any], Any], Callable[[Any, Any], Any]]] = deque()


def register_pytrees() -> None:
    """Hand the recorded classes to JAX; nothing before its adapter is loaded."""


_ACCUMULATION = {"float16": "float32", "bfloat16": "float32"} | {
    name: name for name in ("float32", "float64")
}


class Backend:
    """An array-API namespace; frameworks override what is worth writing natively."""

    index_on_device = False

    def __init__(self, namespace: str, name: str | None = None) -> None:
        """Take the importable name of the namespace, which is imported at first use."""
        self.namespace = namespace
        self.name = name or namespace.rpartition(".")[2]
        self._accumulation: dict[DType, DType] = {}

    def __repr__(self) -> str:
        """Show the framework."""
        return f"<backend {self.name}>"

    @cached_property
    def xp(self) -> Any:
        """The namespace."""
        return import_module(self.namespace)

    def owns(self, cls: type) -> bool:
        """Tell whether arrays of this type belong to the framework."""
        return False

    # dtypes and devices

    @property
    def default_int(self) -> DType:
        """The integer dtype that the framework counts in."""
        return self.xp.int64

    def dtype(self, dtype: str | DType) -> DType:
        """Give the framework's dtype of this name (a dtype is left as it is)."""
        if not isinstance(dtype, str):
            return dtype
        if not hasattr(self.xp, dtype):
            raise TypeError(f"dtype={dtype!r} is unknown to {self.name}: use e.g. 'float32'")
        return getattr(self.xp, dtype)

    def dtype_name(self, dtype: DType) -> str:
        """Give the plain name of a dtype, such as "float32"."""
        return getattr(dtype, "__name__", None) or str(dtype).rpartition(".")[2]

    def accumulation(self, dtype: DType) -> DType:
        """Give the dtype that samples of this dtype are computed in."""
        try:
            return self._accumulation[dtype]
        except KeyError:
            pass
        name = _ACCUMULATION.get(self.dtype_name(dtype))
        if name is None:
            raise TypeError(
                f"dtype {dtype} cannot be sampled: integer, boolean and complex samples have no "
                "marginal alpha * x0 + sigma * eps; convert to float32 (or float16, bfloat16, "
                "float64) first"
            )
        return self._accumulation.setdefault(dtype, self.dtype(name))

    def device(self, x: Array) -> Any:
        """Give the device of an array, None where the framework has none to tell."""
        return getattr(x, "device", None)

    def known(self, x: Array) -> np.ndarray | None:
        """Give the values of an array where looking at them costs no waiting; None elsewhere.

        None, too, for half precision, which does not hold the times of a training to the digit.
        """
        return None

    # arrays

    def astype(self, x: Array, dtype: DType) -> Array:
        """Convert, without a copy where nothing changes."""
        return x if x.dtype == dtype else self.xp.astype(x, dtype)

    def to_device_of(self, host: np.ndarray, x: Array, dtype: str | DType | None = None) -> Array:
        """Place a host array beside `x`."""
        name = host.dtype.name if dtype is None else dtype
        return self._asarray(host, self.device(x), self.dtype(name))

    def to_device(self, host: np.ndarray, device: Any = None) -> Array:
        """Copy a host array to a device (None: the default one)."""
        return self._asarray(host.copy(), device)

    def _asarray(self, host: np.ndarray, device: Any, dtype: DType = None) -> Array:
        """Convert a host array; a framework is asked for a device and a dtype where there are."""
        options = {"device": device, "dtype": dtype}
        options = {name: value for name, value in options.items() if value is not None}
        try:
            return self.xp.asarray(host, **options)
        except TypeError as error:
            if device is None:
                raise
            raise TypeError(
                f"device={device!r} is none that {self.name} makes arrays on: leave it out, and "
                f"choose the device as {self.name} does"
            ) from error

    def copy(self, x: Array) -> Array:
        """Give an array of its own with these values; x itself where no array can be written to."""
        return x * 1.0

    def zeros_like(self, x: Array) -> Array:
        """Give zeros of the same shape, dtype and device."""
        return self.xp.zeros_like(x)

    def where(self, condition: Array, a: Array, b: Array) -> Array:
        """Choose elementwise."""
        return self.xp.where(condition, a, b)

    def clip(self, x: Array, lo: float, hi: float) -> Array:
        """Limit to [lo, hi]."""
        return self.xp.clip(x, lo, hi)

    def multiply(self, x: Array, number: float) -> Array:
        """Multiply by a host number, in the dtype of x."""
        return x * number

    def combine(self, values: Sequence[Array], weights: Sequence[Any], dtype: DType) -> Array:
        """Sum weights[k] * values[k] in `dtype`, into a new array.

        The weights are all Python floats, or all arrays of `dtype`. Where an array is 0, the value
        is not looked at: it may be nan.
        """
        if len(values) == 1 and isinstance(weights[0], float) and weights[0] == 1.0:
            own = self.astype(values[0], dtype)
            return self.copy(own) if own is values[0] else own
        total = None
        for value, weight in zip(values, weights, strict=True):
            term = self.astype(value, dtype)
            if not isinstance(weight, float):
                term = self.where(weight == 0, self.zeros_like(weight), term) * weight
            elif weight != 1.0:
                term = term * weight
            total = term if total is None else total + term
        return total

    def combinations(
        self,
        statements: Statements,
        wanted: Sequence[int],
        values: list[Array],
        weights: Array,
        dtype: DType,
    ) -> None:
        """Fill in what statements (value, sources) make of values, at least where it is wanted.

        The weights are an array, (terms, ...), each broadcast along the values.
        """
        at = 0
        for value, sources in statements:
            own = [weights[at + k, ...] for k in range(len(sources))]
            values[value] = self.combine([values[s] for s in sources], own, dtype)
            at += len(sources)

    def kernel(self, work: Any, dtype: DType) -> Any:
        """Compile what a row does (`rows.Work`) to a function of values, or give None.

        The function returns what `Work.taken` does, or None where it cannot take these values; it
        is for arrays of this dtype for which `kernel_applies`.
        """
        return None

    def kernel_applies(self, x: Array) -> bool:
        """Tell whether a kernel may be used on arrays like x."""
        return False

    # execution

    def compiling(self) -> bool:
        """Tell whether Python itself is being compiled, which makes nothing new on the host."""
        return False

    def traced(self, *arrays: Any) -> bool:
        """Tell whether one of the arrays stands for values that are not known yet."""
        return False

    def execute(self, fn: Callable[..., Any], static: Any, *trees: Any) -> Any:
        """Call `fn(static, *trees)` in the way that is fastest for concrete arrays."""
        return fn(static, *trees)

    def scan(self, body: Callable[[Any], Any], state: Any, length: int) -> Any:
        """Apply `body` `length` times, as one loop where the framework compiles loops."""
        for _ in range(length):
            state = body(state)
        return state

    # noise

    def is_generator(self, generator: Any) -> bool:
        """Tell whether this is a random generator or key of the framework."""
        return False

    def native(self, generator: Any, spec: NoiseSpec) -> Array:
        """Draw standard normals from the framework's own generator, or uniforms in [0, 1).

        A key without state is folded with the draw's rank and row, others ignore these.
        """
        raise TypeError(f"{self.name} has no random generators of its own: pass rng=<int>")

    def fresh(self, seed: int, device: Any) -> Any:
        """Make what `rng=` takes from a 64-bit seed: a native generator where there is one."""
        return seed

    def normals(self, stream: Stream, spec: NoiseSpec) -> Array:
        """Draw the portable normals of a stream, or its uniforms, float32 or float64."""
        high, low = threefry.keys(stream, spec.purpose, spec.batch).view(np.int32)
        key = self._asarray(high, spec.device), self._asarray(low, spec.device)
        return threefry.normals(self.xp, key, spec)

    def increments(self, stream: Stream, spec: NoiseSpec) -> Array:
        """Draw the unit increments of a stream's Brownian paths between `spec.times`."""

        def number(count: Any) -> Any:
            if isinstance(count, int):
                return count
            along = self.xp.reshape(count, threefry.ahead(count.shape, spec.shape))
            return self.xp.astype(along, spec.dtype)

        total = None
        for node, height, factor in brownian.increment(*spec.times):
            if isinstance(height, int) and height == 0:
                continue
            z = self.normals(stream, spec._replace(row=node)) * (number(height) * factor)
            total = z if total is None else total + z
        return total / number(brownian.cells(*spec.times)) ** 0.5
