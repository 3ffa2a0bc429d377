"""PyTorch."""

from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat.torch
import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor

from cmsched.backends import fused, jitted, threefry, torch_noise, torch_rows
from cmsched.backends.base import Array, Backend, DType
from cmsched.backends.numpy import BACKEND as NUMPY
from cmsched.backends.threefry import NoiseSpec, Stream

HALF = (torch.float16, torch.bfloat16)


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

    def known(self, x: Array) -> np.ndarray | None:
        """Give the values of a tensor on the CPU that stands for nothing else."""
        plain = type(x) is torch.Tensor or type(x) is torch.nn.Parameter
        if not plain or self.traced(x) or x.device.type != "cpu" or x.dtype in HALF:
            return None
        if torch._C._functorch.is_functorch_wrapped_tensor(x):  # inside vmap or grad
            return None
        return np.asarray(x.detach().numpy())

    def astype(self, x: Array, dtype: DType) -> Array:
        """Convert, without a copy where nothing changes."""
        return x.to(dtype)

    def to_device_of(self, host: np.ndarray, x: Array, dtype: str | DType | None = None) -> Array:
        """Copy a host array to the device of `x`."""
        if torch.compiler.is_compiling():  # where NumPy arrays are tensors already
            return torch.as_tensor(host).to(x.device, dtype and self.dtype(dtype))
        # Kept by plans beyond the mode they were first used in.
        with torch.inference_mode(False):
            return torch.tensor(host, dtype=dtype and self.dtype(dtype), device=x.device)

    def to_device(self, host: np.ndarray, device: Any = None) -> Array:
        """Copy a host array to a device; float64 becomes float32 where that has none (MPS)."""
        try:
            return torch.tensor(host, device=device)
        except TypeError:
            if host.dtype != np.float64:
                raise
            return torch.tensor(host, dtype=torch.float32, device=device)

    def copy(self, x: Array) -> Array:
        """Give a tensor of its own with these values, and their gradient."""
        return x.clone()

    def zeros_like(self, x: Array) -> Array:
        """Give zeros of the same shape, dtype and device."""
        return torch.zeros_like(x)

    def where(self, condition: Array, a: Array, b: Array) -> Array:
        """Choose elementwise."""
        return torch.where(condition, a, b)

    def compiling(self) -> bool:
        """Tell whether torch.compile is tracing."""
        return bool(torch.compiler.is_compiling())

    def traced(self, *arrays: Any) -> bool:
        """Tell whether one of the arrays is a fake tensor, or all are in a graph being compiled."""
        return torch.compiler.is_compiling() or any(isinstance(x, FakeTensor) for x in arrays)

    def clip(self, x: Array, lo: float, hi: float) -> Array:
        """Limit to [lo, hi]."""
        return x.clamp(lo, hi)

    def multiply(self, x: Array, number: float) -> Array:
        """Multiply by a host number, in the dtype of x."""
        if type(x) is not torch.Tensor or torch.compiler.is_compiling():
            return x * number
        return x.mul(torch_rows.number(number, x.dtype))

    def combine(self, values: Sequence[Array], weights: Sequence[Any], dtype: DType) -> Array:
        """Sum weights[k] * values[k] in `dtype`, into a new tensor."""
        first, scale = values[0], weights[0]
        # vmap cannot write a batched term into an unbatched buffer, nor DTensor change a placement.
        if type(first) is not torch.Tensor or torch_rows.transform() is not None:
            return super().combine(values, weights, dtype)
        if not isinstance(scale, float):
            # On the CPU it is seen at once whether there is a 0 that hides what it multiplies.
            on_host = scale.device.type == "cpu" and not (
                self.traced(scale) or torch_rows.watched()
            )

            total = None
            for value, weight in zip(values, weights, strict=True):
                rows = torch_rows.nonzero_rows(weight) if on_host else None
                if rows is None:
                    value, rows = torch.where(weight == 0, 0.0, value), torch_rows.ALL
                if rows is not torch_rows.ALL:
                    total = torch.zeros_like(first, dtype=dtype) if total is None else total
                    for some in rows:
                        total[some].addcmul_(value[some], weight[some])
                elif total is None:
                    total = value.to(dtype).mul(weight)
                else:
                    total.addcmul_(value, weight)
            return total
        rest = 1
        if first.dtype is not dtype:
            total = first.to(dtype).mul_(scale)
        elif scale != 1.0:
            total = first.mul(scale)
        elif len(values) == 1:
            return first.clone()
        else:
            total = torch.add(first, values[1], alpha=weights[1])
            rest = 2
        for k in range(rest, len(values)):  # add_ promotes half precision without a copy
            total.add_(values[k], alpha=weights[k])
        return total

    def kernel(self, work: Any, dtype: DType) -> Any:
        """Write the row out as one would by hand, compile the text, and give it its numbers.

        Interpreting it would be a good part of the cost of a small step. Large tensors on the CPU
        are taken in one pass where numba is.
        """
        structure = tuple([(v, sources, own[0] == 1.0) for v, sources, own, _ in work.program])
        numbers = [
            torch_rows.number(w, dtype) if k == 0 else w
            for _, _, own, _ in work.program
            for k, w in enumerate(own)
        ]
        written = torch_rows.compile_source(structure, work.copies, work.results)(*numbers)
        if not jitted.installed():
            return written
        in_one_pass = NUMPY.kernel(work, self.dtype_name(dtype))

        def kernel(values: list[Array]) -> Any:
            if values[0].numel() < fused.LEAST or not torch_rows.on_host(values):
                return written(values)
            seen: dict[int, Any] = {}
            done = in_one_pass([torch_rows.as_numpy(v, seen) for v in values])
            return written(values) if done is None else torch_rows.from_numpy(done, seen)

        return kernel

    def execute(self, fn: Callable[..., Any], static: Any, *trees: Any) -> Any:
        """Call `fn(static, *trees)`, with large tensors on the CPU in one pass where numba is."""
        if torch.compiler.is_compiling() or not jitted.installed():
            return fn(static, *trees)
        leaves: list[Any] = []
        torch_rows.tree_map(leaves.append, trees)
        if max(x.numel() for x in leaves) < fused.LEAST or not torch_rows.on_host(leaves):
            return fn(static, *trees)
        seen: dict[int, Any] = {}
        views = torch_rows.tree_map(lambda x: torch_rows.as_numpy(x, seen), trees)
        return torch_rows.tree_map(lambda x: torch_rows.from_numpy(x, seen), fn(static, *views))

    def kernel_applies(self, x: Array) -> bool:
        """Tell whether x is an ordinary tensor outside of functorch's transforms."""
        return type(x) is torch.Tensor and torch_rows.transform() is None

    def is_generator(self, generator: Any) -> bool:
        """Tell whether this is a torch.Generator."""
        return isinstance(generator, torch.Generator)

    def native(self, generator: Any, spec: NoiseSpec) -> Array:
        """Draw on the generator's device, as diffusers does, and move."""
        of = torch.rand if spec.uniform else torch.randn
        draw = of(spec.shape, generator=generator, dtype=spec.dtype, device=generator.device)
        return draw.to(spec.device)

    def fresh(self, seed: int, device: Any) -> torch.Generator:
        """Make a generator on the device, where it can have one."""
        host = torch.device(device or "cpu").type == "meta"
        return torch.Generator("cpu" if host else device or "cpu").manual_seed(seed)

    def normals(self, stream: Stream, spec: NoiseSpec) -> Array:
        """Draw the portable normals of a stream."""
        device = spec.device
        device = torch.device(device) if device is not None else torch.get_default_device()
        if not torch.compiler.is_compiling():
            return self.eager_normals(stream, spec._replace(device=device))
        # One opaque operator: traced into the user's graph, 20 rounds do not finish compiling.
        # The number stays a number: of constants alone, the compiler would draw while it traces.
        number, row = (0, spec.row) if isinstance(spec.row, torch.Tensor) else (spec.row, None)
        words = [word for seed in stream.seeds for word in (seed >> 32, seed & threefry.LOW)]
        samples = None if stream.samples is None else list(stream.samples)
        array = spec.shape, spec.dtype, device
        return _normals(words, samples, spec.purpose, spec.uniform, *array, spec.rank, number, row)

    def increments(self, stream: Stream, spec: NoiseSpec) -> Array:
        """Draw the unit increments of a stream's Brownian paths, on the CPU through NumPy."""
        tensors = [t for t in spec.times if isinstance(t, torch.Tensor)]
        if (
            torch.compiler.is_compiling()
            or torch_rows.transform() is not None
            or {torch.device(spec.device), *(t.device for t in tensors)} != {torch.device("cpu")}
        ):
            return super().increments(stream, spec)
        ends = tuple([t.numpy() if isinstance(t, torch.Tensor) else t for t in spec.times])
        host = spec._replace(dtype=self.dtype_name(spec.dtype), device=None, times=ends)
        return torch.from_numpy(NUMPY.increments(stream, host))

    def eager_normals(self, stream: Stream, spec: NoiseSpec, compiled: bool = False) -> Array:
        """Draw on the CPU through NumPy, elsewhere and where asked to by one compiled kernel."""
        shape, dtype, device, row = spec.shape, spec.dtype, spec.device, spec.row
        if device.type == "meta":
            return torch.empty(shape, dtype=dtype, device=device)
        if isinstance(row, torch.Tensor) and torch_rows.transform() is not None:
            key = torch_noise.keys(stream, spec.purpose, spec.batch, device)
            return threefry.normals(self.xp, key, spec)
        if device.type == "cpu" and isinstance(row, torch.Tensor):
            row = row.cpu().numpy()
        if device.type == "cpu" and not (compiled and torch_noise.worthwhile(spec.size)):
            host = spec._replace(dtype=self.dtype_name(dtype), device=None, row=row)
            return torch.from_numpy(NUMPY.normals(stream, host))
        with torch.inference_mode(False), torch.no_grad():  # compiled for one mode only
            if isinstance(row, torch.Tensor):
                lead = tuple(row.shape) or (1,)
                row = row.to(device, torch.int32).reshape(lead)
                key = torch_noise.keys(stream, spec.purpose, spec.batch, device)
                key = torch_noise.fold(key, spec.rank, row)
            else:  # on the host: one small copy that nobody waits for
                words = NUMPY.folded_keys(stream, spec._replace(row=row)).view(np.int32)
                key = torch.from_numpy(words).to(device, non_blocking=True)
            return torch_noise.draw(key, spec.size, dtype, spec.uniform).reshape(shape)


# The fields of a stream and a spec, one by one: an operator takes no other tuples.
def _eager_normals(
    words: Sequence[int],
    samples: Sequence[int] | None,
    purpose: int,
    uniform: bool,
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    rank: int,
    number: int,
    row: torch.Tensor | None,
) -> torch.Tensor:
    seeds = tuple(high << 32 | low for high, low in zip(words[::2], words[1::2], strict=True))
    stream = Stream(seeds, None if samples is None else tuple(samples))
    place = number if row is None else row
    spec = NoiseSpec(tuple(shape), dtype, device, place, rank, purpose, uniform)
    return BACKEND.eager_normals(stream, spec, compiled=True)


def _empty_normals(*fields: Any) -> torch.Tensor:
    shape, dtype, device = fields[4:7]
    return torch.empty(shape, dtype=dtype, device=device)


# Not part of a CUDA graph, in whose memory the keys that are kept would be: where PyTorch can tell.
_tags: dict[str, Any] = {}
if hasattr(torch.Tag, "cudagraph_unsafe"):
    _tags["tags"] = (torch.Tag.cudagraph_unsafe,)
_normals = torch.library.custom_op("cmsched::normals", _eager_normals, mutates_args=(), **_tags)
_normals.register_fake(_empty_normals)

BACKEND = TorchBackend("array_api_compat.torch")
