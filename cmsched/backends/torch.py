"""PyTorch."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import array_api_compat.torch
import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor

from cmsched.backends import threefry
from cmsched.backends.base import Array, Backend, DType
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

    def kernel(self, program: Sequence[tuple[Any, ...]], picks: Sequence[int]) -> Any:
        """Write the statements out with their numbers, as one would by hand, and compile the text.

        Interpreting them would be a good part of the cost of a small step.
        """
        lines = ["def kernel(v):"]
        names: dict[int, str] = {}
        for value, sources, weights, _ in program:
            first, *rest = [names.get(source, f"v[{source}]") for source in sources]
            scale, *alphas = (repr(weight) for weight in weights)
            if weights[0] != 1.0:
                first = f"{first}.mul({scale})"
            elif rest:
                first = f"add({first}, {rest.pop(0)}, alpha={alphas.pop(0)})"
            terms = zip(rest, alphas, strict=True)
            names[value] = f"t{value}"
            text = first + "".join(f".add_({term}, alpha={alpha})" for term, alpha in terms)
            lines.append(f"    t{value} = {text}")
        stored = "".join(f"{names.get(value, f'v[{value}]')}, " for value in picks)
        lines.append(f"    return {names[program[-1][0]]}, ({stored})")
        space: dict[str, Any] = {"add": torch.add}
        exec("\n".join(lines), space)
        return space["kernel"]

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
