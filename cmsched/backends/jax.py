"""JAX."""

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cmsched.backends import base, brownian, threefry
from cmsched.backends.base import Array, Backend, DType
from cmsched.backends.threefry import NoiseSpec, Stream


def _register_pytrees() -> None:
    with suppress(IndexError):  # taken one by one: each is registered once, by whichever thread
        while True:
            jax.tree_util.register_pytree_node(*base.pytrees.popleft())


base.register_pytrees = _register_pytrees
_register_pytrees()


class JaxBackend(Backend):
    """JAX: plain expressions, compiled once around a whole step."""

    index_on_device = True

    def owns(self, cls: type) -> bool:
        """Tell whether arrays of this type belong to JAX (tracers are no arrays to isinstance)."""
        return issubclass(cls, (jax.Array, jax.core.Tracer))

    @property
    def default_int(self) -> DType:
        """The integer dtype that JAX counts in, by its x64 setting."""
        return np.dtype(np.int64 if jax.config.jax_enable_x64 else np.int32)

    def dtype(self, dtype: str | DType) -> DType:
        """Give the dtype of this name, where JAX can hold it."""
        dtype = np.dtype(dtype)
        if dtype.itemsize == 8 and dtype.kind in "iuf" and not jax.config.jax_enable_x64:
            raise ValueError(
                f"dtype={dtype.name!r} needs JAX's 64-bit mode: call "
                "jax.config.update('jax_enable_x64', True) first, or ask for 32 bits"
            )
        return dtype

    def dtype_name(self, dtype: DType) -> str:
        """Give the plain name of a dtype."""
        return str(np.dtype(dtype).name)

    def device(self, x: Array) -> Any:
        """Give the device, or the sharding over several; None for a tracer."""
        return None if self.traced(x) else x.device

    def known(self, x: Array) -> np.ndarray | None:
        """Give the values of an array in host memory."""
        if self.traced(x) or x.dtype.itemsize < 4 or not x.is_fully_addressable:
            return None
        on_host = all(device.platform == "cpu" for device in x.devices())
        return np.asarray(x) if on_host else None

    def astype(self, x: Array, dtype: DType) -> Array:
        """Convert, without a copy where nothing changes."""
        return x if x.dtype == dtype else x.astype(dtype)

    def to_device_of(self, host: np.ndarray, x: Array, dtype: str | DType | None = None) -> Array:
        """Place a host array beside `x`; 64 bits become 32 where JAX holds no more."""
        host = np.asarray(host, None if dtype is None else np.dtype(dtype))
        sharding = self._sharding(self.device(x))
        if isinstance(sharding, jax.sharding.NamedSharding):  # beside every shard
            sharding = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
        with jax.ensure_compile_time_eval():  # a value even within a trace, so that it may be kept
            return jax.device_put(host, sharding)

    def copy(self, x: Array) -> Array:
        """Give x itself, which nobody can write to."""
        return x

    def zeros_like(self, x: Array) -> Array:
        """Give zeros of the same shape, dtype and device."""
        return _zeros(x)

    def to_device(self, host: np.ndarray, device: Any = None) -> Array:
        """Copy a host array to a device; 64 bits become 32 where JAX holds no more."""
        return jax.device_put(host, device)

    def traced(self, *arrays: Any) -> bool:
        """Tell whether one of the arrays is a tracer."""
        return any(isinstance(x, jax.core.Tracer) for x in arrays)

    def execute(self, fn: Callable[..., Any], static: Any, *trees: Any) -> Any:
        """Call `fn(static, *trees)`, compiled unless it is being traced already."""
        if self.traced(*jax.tree_util.tree_leaves(trees)):
            return fn(static, *trees)
        return _compiled(fn)(static, *trees)

    def scan(self, body: Callable[[Any], Any], state: Any, length: int) -> Any:
        """Apply `body` `length` times in a lax.scan; a state keeps its structure and dtypes."""
        return jax.lax.scan(lambda carry, _: (body(carry), None), state, length=length)[0]

    def is_generator(self, generator: Any) -> bool:
        """Tell whether this is one key, typed or two uint32 words."""
        dtype, shape = getattr(generator, "dtype", None), getattr(generator, "shape", None)
        if dtype is None or not self.owns(type(generator)):
            return False
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            return shape == ()
        return dtype == jnp.uint32 and shape == (2,)

    def native(self, generator: Any, spec: NoiseSpec) -> Array:
        """Draw from the key folded with rank, row and, where rows differ, the place in it."""
        return _native(_static(spec), generator, self._row(spec.row))

    def fresh(self, seed: int, device: Any) -> Any:
        """Refuse: a key that nobody keeps would make a function that is not pure."""
        raise ValueError(
            "rng=None: JAX has no hidden randomness, and none is made up here; pass "
            "generator=jax.random.key(0), or an int such as generator=0"
        )

    def normals(self, stream: Stream, spec: NoiseSpec) -> Array:
        """Draw the portable normals of a stream, where the sample is."""
        key = _device_keys(stream, spec.purpose, spec.batch)
        draw = _compiled_normals(self._sharding(spec.device))
        return draw(_static(spec), key, self._row(spec.row))

    def increments(self, stream: Stream, spec: NoiseSpec) -> Array:
        """Draw the unit increments of a stream's Brownian paths, node by node in one loop."""
        key = _device_keys(stream, spec.purpose, spec.batch)
        times = tuple(map(self._row, spec.times))
        return _compiled_increments(self._sharding(spec.device))(_static(spec), key, *times)

    def _row(self, row: Any) -> Array:
        # Explicitly, so that a transfer guard is content.
        return row if isinstance(row, jax.Array) else jax.device_put(np.asarray(row, np.int32))

    def _sharding(self, device: Any) -> Any:
        """Give a sharding, or None for the default device, where arrays stay uncommitted."""
        default = jax.config.jax_default_device or jax.local_devices()[0]
        if device is None or device == default:
            return None
        if isinstance(device, jax.sharding.Sharding):
            return device
        return jax.sharding.SingleDeviceSharding(device)


_zeros = jax.jit(jnp.zeros_like, keep_unused=True)  # its devices are those of x


@lru_cache(maxsize=64)
def _compiled(fn: Callable[..., Any]) -> Any:
    return jax.jit(fn, static_argnums=0)


@lru_cache(maxsize=64)
def _device_keys(stream: Stream, purpose: int, batch: int) -> Any:
    with jax.ensure_compile_time_eval():
        return tuple(map(jax.device_put, threefry.keys(stream, purpose, batch).view(np.int32)))


def _static(spec: NoiseSpec) -> NoiseSpec:
    """Give the fields that a draw is compiled for; purpose and row are in its arguments."""
    return NoiseSpec(spec.shape, np.dtype(spec.dtype), rank=spec.rank, uniform=spec.uniform)


@lru_cache(maxsize=64)
def _compiled_normals(sharding: Any) -> Any:
    def normals(spec: NoiseSpec, key: Any, row: Array) -> Array:
        return threefry.normals(jnp, key, spec._replace(row=row))

    return jax.jit(normals, static_argnums=0, out_shardings=sharding)


@lru_cache(maxsize=64)
def _compiled_increments(sharding: Any) -> Any:
    def increments(spec: NoiseSpec, key: Any, a: Array, b: Array) -> Array:
        shape, dtype = spec.shape, spec.dtype
        nodes, heights, factors = zip(*brownian.increment(a, b), strict=True)
        weights = jnp.stack([h.astype(dtype) * f for h, f in zip(heights, factors, strict=True)])
        weights = weights / jnp.sqrt(brownian.cells(a, b).astype(dtype))

        def add(total: Array, term: tuple[Array, Array]) -> tuple[Array, None]:
            node, weight = term
            z = threefry.normals(jnp, key, spec._replace(row=node))
            return total + z * weight.reshape(threefry.ahead(weight.shape, shape)), None

        return jax.lax.scan(add, jnp.zeros(shape, dtype), (jnp.stack(nodes), weights))[0]

    return jax.jit(increments, static_argnums=0, out_shardings=sharding)


@partial(jax.jit, static_argnums=0)
def _native(spec: NoiseSpec, key: Any, row: Array) -> Array:
    of = jax.random.uniform if spec.uniform else jax.random.normal
    shape, dtype = spec.shape, spec.dtype

    def fold(row: Array) -> Any:
        return jax.random.fold_in(jax.random.fold_in(key, spec.rank), row)

    def one(row: Array, place: Array) -> Array:
        return of(jax.random.fold_in(fold(row), place), shape[row_axes:], dtype)

    row_axes = row.ndim
    if row_axes == 0:
        return of(fold(row), shape, dtype)
    return jax.vmap(one)(row.ravel(), jnp.arange(row.size)).reshape(shape)


BACKEND = JaxBackend("jax.numpy", "jax")
