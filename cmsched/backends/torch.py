"""PyTorch."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import array_api_compat.torch
import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor

from cmsched.backends import fused, threefry
from cmsched.backends.base import Array, Backend, DType, containers
from cmsched.backends.numpy import BACKEND as NUMPY

# Private, hence the default: without it every combination takes the functional path.
_transform = getattr(torch._C._functorch, "peek_interpreter_stack", lambda: True)


class TorchBackend(Backend):
    """PyTorch: one pass per term into an own buffer."""

    xp = array_api_compat.torch  # loaded now: torch.compile does not trace an import at first use
    default_int = torch.int64

    def owns(self, cls: type) -> bool:
        """Tell whether arrays of this type are tensors."""
        return issubclass(cls, torch.Tensor)

    def device(self, x: Array) -> Any:
        """Give the device of a tensor."""
        return x.device

    def astype(self, x: Array, dtype: DType) -> Array:
        """Convert, without a copy where nothing changes."""
        return x.to(dtype)

    def put(self, host: np.ndarray, like: Array, dtype: str | DType | None = None) -> Array:
        """Copy a host array to the device of `like`."""
        if torch.compiler.is_compiling():  # where NumPy arrays are tensors already
            return torch.as_tensor(host).to(like.device, dtype and self.dtype(dtype))
        # Kept by plans beyond the mode they were first used in.
        with torch.inference_mode(False):
            return torch.tensor(host, dtype=dtype and self.dtype(dtype), device=like.device)

    def at(self, host: np.ndarray, device: Any = None) -> Array:
        """Copy a host array to a device."""
        return torch.tensor(host, device=device)

    def zeros_like(self, x: Array) -> Array:
        """Give zeros of the same shape, dtype and device."""
        return torch.zeros_like(x)

    def where(self, condition: Array, a: Array, b: Array) -> Array:
        """Choose elementwise."""
        return torch.where(condition, a, b)

    def traced(self, *arrays: Any) -> bool:
        """Tell whether one of the arrays is a fake tensor, or all are in a graph being compiled."""
        return torch.compiler.is_compiling() or any(isinstance(x, FakeTensor) for x in arrays)

    def clip(self, x: Array, lo: float, hi: float) -> Array:
        """Limit to [lo, hi]."""
        return x.clamp(lo, hi)

    def combine(self, values: Sequence[Array], weights: Sequence[Any], dtype: DType) -> Array:
        """Sum weights[k] * values[k] in `dtype`, into a new tensor."""
        first, scale = values[0], weights[0]
        # vmap cannot write a batched term into an unbatched buffer, nor DTensor change a placement.
        if type(first) is not torch.Tensor or _transform() is not None:
            return super().combine(values, weights, dtype)
        if not isinstance(scale, float):
            # On the CPU it is seen at once whether there is a 0 that hides what it multiplies.
            on_host = scale.device.type == "cpu" and not self.traced(scale)
            if not on_host or not all([bool(w.all()) for w in weights]):
                return super().combine(values, weights, dtype)
            total = first.to(dtype).mul(scale)
            for k in range(1, len(values)):
                total.addcmul_(values[k], weights[k])
            return total
        rest = 1
        if first.dtype is not dtype:
            total = first.to(dtype).mul_(scale)
        elif scale != 1.0:
            total = first.mul(scale)
        elif len(values) == 1:
            return first
        else:
            total = torch.add(first, values[1], alpha=weights[1])
            rest = 2
        for k in range(rest, len(values)):  # add_ promotes half precision without a copy
            total.add_(values[k], alpha=weights[k])
        return total

    def kernel(self, layout: Any, row: Any, weights: Sequence[float]) -> Any:
        """Write the row out with its numbers, as one would by hand, and compile the text.

        Interpreting it would be a good part of the cost of a small step. Large tensors on the CPU
        are taken in one pass where numba is.
        """
        lines = ["def kernel(v):"]
        names: dict[int, str] = {}
        for value, sources, own, _ in row.program:
            first, *rest = [names.get(source, f"v[{source}]") for source in sources]
            scale, *alphas = (repr(weight) for weight in own)
            if own[0] != 1.0:
                first = f"{first}.mul({scale})"
            elif rest:
                first = f"add({first}, {rest.pop(0)}, alpha={alphas.pop(0)})"
            terms = zip(rest, alphas, strict=True)
            names[value] = f"t{value}"
            text = first + "".join(f".add_({term}, alpha={alpha})" for term, alpha in terms)
            lines.append(f"    t{value} = {text}")
        stored = "".join(f"{names.get(value, f'v[{value}]')}, " for value in row.picks)
        lines.append(f"    return {names[layout.following]}, ({stored})")
        space: dict[str, Any] = {"add": torch.add}
        exec("\n".join(lines), space)
        written = space["kernel"]
        if fused.numba() is None:
            return written
        in_one_pass = NUMPY.kernel(layout, row, weights)

        def kernel(values: list[Array]) -> Any:
            if values[0].numel() < fused.LEAST or not _on_host(values):
                return written(values)
            seen: dict[int, Any] = {}
            done = in_one_pass([_viewed(v, seen) for v in values])
            return written(values) if done is None else _back(done, seen)

        return kernel

    def execute(self, fn: Callable[..., Any], static: Any, *trees: Any) -> Any:
        """Call `fn(static, *trees)`, with large tensors on the CPU in one pass where numba is."""
        if fused.numba() is None or torch.compiler.is_compiling():
            return fn(static, *trees)
        leaves: list[Any] = []
        _each(trees, leaves.append)
        if max(x.numel() for x in leaves) < fused.LEAST or not _on_host(leaves):
            return fn(static, *trees)
        seen: dict[int, Any] = {}
        views = _each(trees, lambda x: _viewed(x, seen))
        return _each(fn(static, *views), lambda x: _back(x, seen))

    def plain(self, x: Array) -> bool:
        """Tell whether x is an ordinary tensor outside of functorch's transforms."""
        return type(x) is torch.Tensor and _transform() is None

    def is_generator(self, generator: Any) -> bool:
        """Tell whether this is a torch.Generator."""
        return isinstance(generator, torch.Generator)

    def native(
        self,
        generator: Any,
        shape: tuple[int, ...],
        dtype: DType,
        device: Any,
        counter: tuple[int, Any],
        uniform: bool = False,
    ) -> Array:
        """Draw on the generator's device, as diffusers does, and move."""
        of = torch.rand if uniform else torch.randn
        draw = of(shape, generator=generator, dtype=dtype, device=generator.device)
        return draw.to(device)

    def fresh(self, seed: int, device: Any) -> torch.Generator:
        """Make a generator on the device, where it can have one."""
        host = torch.device(device or "cpu").type == "meta"
        return torch.Generator("cpu" if host else device or "cpu").manual_seed(seed)

    def normals(
        self,
        stream: threefry.Stream,
        shape: tuple[int, ...],
        dtype: DType,
        device: Any,
        counter: tuple[int, Any],
    ) -> Array:
        """Draw the portable normals of a stream."""
        rank, row = counter
        device = torch.device(device) if device is not None else torch.get_default_device()
        if not torch.compiler.is_compiling():
            return self.eager_normals(stream, shape, dtype, device, counter)
        # One opaque operator: traced into the user's graph, 20 rounds do not finish compiling.
        row = row if isinstance(row, torch.Tensor) else torch.tensor(row)
        words = [word for seed in stream.seeds for word in (seed >> 32, seed & threefry.LOW)]
        samples = None if stream.samples is None else list(stream.samples)
        flags = stream.purpose, stream.uniform
        return _normals(words, samples, *flags, shape, dtype, device, rank, row)

    def eager_normals(
        self,
        stream: threefry.Stream,
        shape: tuple[int, ...],
        dtype: DType,
        device: torch.device,
        counter: tuple[int, Any],
    ) -> Array:
        """Draw on the CPU through NumPy, elsewhere and under vmap by tensor operations."""
        rank, row = counter
        batch = shape[0] if shape else 1
        if device.type == "meta":
            return torch.empty(shape, dtype=dtype, device=device)
        if isinstance(row, torch.Tensor):
            if device.type != "cpu" or row.device.type != "cpu" or _transform() is not None:
                key = _device_keys(stream, batch, device)
                return threefry.normals(self.xp, key, shape, dtype, device, counter, stream.uniform)
            row = row.numpy()
        if device.type == "cpu":
            name = self.dtype_name(dtype)
            return torch.from_numpy(NUMPY.normals(stream, shape, name, None, (rank, row)))
        # Keys folded on the host: one small copy that nobody waits for, instead of 100 kernels.
        host = NUMPY.folded(stream, batch, (rank, row)).view(np.int32)
        key = torch.from_numpy(host).to(device, non_blocking=True)
        return threefry.draw(self.xp, tuple(key), shape, dtype, device, stream.uniform)


_NATIVE = {torch.float32, torch.float64, torch.int32, torch.int64, torch.bool}


def _on_host(values: Sequence[Any]) -> bool:
    """Tell whether NumPy may see what these tensors hold, and autograd need not."""
    return _transform() is None and all(
        v is None
        or (
            type(v) is torch.Tensor
            and v.device.type == "cpu"
            and not v.requires_grad
            and v.dtype in _NATIVE
        )
        for v in values
    )


def _viewed(x: Any, seen: dict[int, Any]) -> Any:
    """Give a tensor as NumPy sees it, and remember which it was."""
    if x is None:
        return None
    view = x.numpy()
    seen[id(view)] = view, x
    return view


def _back(x: Any, seen: dict[int, Any]) -> Any:
    """Give the tensor that was seen, or one of what is new."""
    if isinstance(x, tuple):
        return tuple([_back(each, seen) for each in x])
    return seen[id(x)][1] if id(x) in seen else torch.from_numpy(x)


def _each(tree: Any, fn: Callable[[Any], Any]) -> Any:
    """Apply fn to the arrays of a tree: tuples, mappings and registered containers."""
    if tree is None:
        return None
    if type(tree) in containers:
        flatten, unflatten = containers[type(tree)]
        children, static = flatten(tree)
        return unflatten(static, [_each(x, fn) for x in children])
    if isinstance(tree, dict):
        return {name: _each(x, fn) for name, x in tree.items()}
    if isinstance(tree, list | tuple):
        parts = [_each(x, fn) for x in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return fn(tree)


@lru_cache(maxsize=64)
def _device_keys(stream: threefry.Stream, batch: int, device: torch.device) -> Any:
    return tuple(torch.tensor(threefry.keys(stream, batch).view(np.int32), device=device))


def _eager_normals(
    words: Sequence[int],
    samples: Sequence[int] | None,
    purpose: int,
    uniform: bool,
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    rank: int,
    row: torch.Tensor,
) -> torch.Tensor:
    seeds = tuple(high << 32 | low for high, low in zip(words[::2], words[1::2], strict=True))
    stream = threefry.Stream(seeds, None if samples is None else tuple(samples), purpose, uniform)
    return BACKEND.eager_normals(stream, tuple(shape), dtype, device, (rank, row))


def _empty_normals(
    words: Any,
    samples: Any,
    purpose: Any,
    uniform: Any,
    shape: Any,
    dtype: Any,
    device: Any,
    rank: Any,
    row: Any,
) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


_normals = torch.library.custom_op("cmsched::normals", _eager_normals, mutates_args=())
_normals.register_fake(_empty_normals)

BACKEND = TorchBackend("array_api_compat.torch")
