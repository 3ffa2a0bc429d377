"""Standard normal noise: portable, from the same seed the same on every framework; or native.

Portable noise is a pure function of (seed, sample number, purpose, draw, element): Threefry keys
folded in that order, one 32-bit word per element, and z = Phi^-1((word + 1/2) / 2^32). Words are
identical everywhere, normals agree within 4e-6 (float32) and 1e-14 (float64); half precision is the
rounded float32 value. So noise does not depend on framework, device, or how a batch was split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from cmsched import backends
from cmsched.backends import Array, Backend
from cmsched.backends.brownian import cell
from cmsched.backends.threefry import BROWNIAN, START, UNIFORM, NoiseSpec, Stream, ahead

_ACCEPTED = (
    "an int or cmsched.Rng (portable noise), a native generator of the sample's framework "
    "(numpy.random.Generator, torch.Generator, a JAX key, cupy.random.Generator), a list with one "
    "of these per sample, or a function (shape, dtype, interval) -> array"
)


@dataclass(frozen=True)
class Rng:
    """A seed of portable noise, and which samples of the whole the batch holds.

    `sample` numbers the rows of the batch, 0 .. batch - 1 unless given: the second half of a batch
    of 64 is `Rng(seed, sample=range(32, 64))`.

    With `path`, every draw over an interval of noise levels is the increment, as a unit normal, of
    one Brownian path per (seed, sample, element), in the clock atan(sigma / alpha): other step
    counts, spacings and samplers follow the same path, and draws over intervals that overlap are
    correlated. A draw then takes about 33 normals instead of one (41 where JAX or an array index
    leave the interval to the device). Levels are told apart to 1.5e-6 in the clock; a draw over
    less, and one without an interval (churn, LCM), is independent, as without `path`. A loop that
    returns to an interval finds the same path there.
    """

    seed: int
    sample: Sequence[int] | np.ndarray | None = None
    path: bool = False

    def __post_init__(self) -> None:
        """Check, and make hashable."""
        object.__setattr__(self, "seed", _seed(self.seed))
        if self.sample is not None:
            object.__setattr__(self, "sample", _samples(self.sample))
        if not isinstance(self.path, bool):
            raise TypeError(f"path={self.path!r} is neither True nor False")

    def normal(
        self,
        shape: int | Sequence[int],
        *,
        xp: str | ModuleType | None = None,
        dtype: Any = None,
        device: Any = None,
    ) -> Array:
        """Draw start noise of this shape; the first axis is the batch."""
        backend = backends.from_device(device) if xp is None else backends.named(xp)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        dtype = backend.dtype("float32" if dtype is None else dtype)
        return _portable(backend, self, NoiseSpec(shape, dtype, device, purpose=START))


def standard_normal(rng: Any, like: Array, row: Any, **which: Any) -> Array:
    """Draw unit normals of the shape and dtype of `like`, beside it: draw number `row`.

    Args:
        rng: what `rng=` takes, see `cmsched.draw`.
        like: an array, which is not looked at.
        row: the number of the draw, an int or an integer array whose shape begins that of `like`,
            () to (batch, frames, ...).
        **which: further fields of a `NoiseSpec`: rank, interval, times.
    """
    backend = backends.resolve(like)
    spec = NoiseSpec(tuple(like.shape), like.dtype, backend.device(like), row, **which)
    return generate(backend, rng, spec)


def standard_uniform(rng: Any, shape: Sequence[int], like: Array, *, row: Any) -> Array:
    """Draw float32 uniforms in the open interval (0, 1) beside `like`; see `standard_normal`.

    Portable ones are 2^31 levels, the same bits on every framework; small values have full relative
    accuracy, so what needs the far tail should be where they are small. Native ones are 1 - u for
    the generator's u in [0, 1).
    """
    backend = backends.resolve(like)
    dtype, device = backend.dtype("float32"), backend.device(like)
    spec = NoiseSpec(tuple(shape), dtype, device, row, purpose=UNIFORM, uniform=True)
    v = generate(backend, rng, spec)
    return backend.clip(v, 2.0**-32, 1 - 2.0**-24)  # the float32 next to 1


def generate(backend: Backend, rng: Any, spec: NoiseSpec) -> Array:
    """Draw noise from anything that `rng=` accepts.

    Raises:
        TypeError: rng makes no noise of this framework.
        ValueError: rng holds or numbers other samples than the batch has, or a function returned
            another array than it was asked for; row has a shape that begins no such batch.
    """
    if isinstance(spec.row, np.integer):
        spec = spec._replace(row=int(spec.row))
    shape, rows = spec.shape, () if isinstance(spec.row, int) else tuple(spec.row.shape)
    if rows != (shape or (1,))[: len(rows)]:
        raise ValueError(
            f"row has shape {rows}: use an int, or a shape that begins the sample's, {shape}"
        )
    if isinstance(rng, (list, tuple)):
        if len(rng) != 1 or not backend.is_generator(rng[0]):
            return _of_samples(backend, rng, spec)
        rng = rng[0]  # as pipelines hand one on
    if _is_portable(rng):
        return _portable(backend, rng, spec)
    if backend.is_generator(rng):
        z = backend.native(rng, spec)
        return 1 - z if spec.uniform else z  # 0 is among a generator's uniforms, 1 is not
    if not callable(rng):
        raise TypeError(
            f"rng={rng!r} ({type(rng).__name__}) makes no {backend.name} noise: give {_ACCEPTED}"
        )
    z = rng(shape, spec.dtype, spec.interval)
    if backends.resolve(z) is not backend or tuple(z.shape) != shape:
        raise ValueError(
            f"rng(shape, dtype, interval) returned {backends.resolve(z).name} noise of shape "
            f"{tuple(z.shape)}: the sample needs {backend.name} noise of shape {shape}"
        )
    return backend.astype(z, spec.dtype)


def _of_samples(backend: Backend, rng: Sequence[Any], spec: NoiseSpec) -> Array:
    """Draw each sample of a batch from an entry of its own."""
    batch = spec.shape[0] if spec.shape else 1
    if len(rng) != batch:
        raise ValueError(
            f"rng holds {len(rng)} entries for a batch of {batch}: give one per sample, or a "
            "single one for all"
        )
    # Seeds go together, in as many operations as one seed takes; generators one by one.
    if len({isinstance(r, Rng) and r.path for r in rng}) < 2 and all(map(_is_portable, rng)):
        return _portable(backend, rng, spec)
    parts = [generate(backend, one, spec.samples(i, i + 1)) for i, one in enumerate(rng)]
    return backend.xp.reshape(backend.xp.concat(parts), spec.shape)


def _portable(backend: Backend, rng: Any, spec: NoiseSpec) -> Array:
    """Draw portable noise, computed in the dtype that the sample is computed in."""
    stream, path = _stream(rng, spec.shape[0] if spec.shape else 1)
    wide, times = spec._replace(dtype=backend.accumulation(spec.dtype)), spec.times
    if times is None and path and spec.interval is not None:
        times = cell(spec.interval[0]), cell(spec.interval[1])
    on_host = times is None or isinstance(times[0], int)
    if not path or times is None or (on_host and times[0] == times[1]):
        return backend.astype(backend.normals(stream, wide), spec.dtype)
    # A path has neither rows nor ranks: wherever a loop asks for an interval, it is the same one.
    along = wide._replace(row=0, rank=0, purpose=BROWNIAN, times=times)
    z = backend.increments(stream, along)
    if not on_host:  # where no interval is, the times are equal
        own = backend.normals(stream, wide)
        still = backend.xp.reshape(times[0] == times[1], ahead(times[0].shape, spec.shape))
        z = backend.where(still, own, z)
    return backend.astype(z, spec.dtype)


def _stream(rng: Any, batch: int) -> tuple[Stream, bool]:
    """Give the seeds and sample numbers of a batch, and whether they are those of paths."""
    if isinstance(rng, (list, tuple)):  # one seed per sample
        each = [r if isinstance(r, Rng) else Rng(r) for r in rng]
        counts = [1 if r.sample is None else len(r.sample) for r in each]
        if any(count != 1 for count in counts):
            i, count = next((i, c) for i, c in enumerate(counts) if c != 1)
            raise ValueError(f"rng[{i}] numbers {count} samples: one entry of a list is one sample")
        samples = tuple(0 if r.sample is None else r.sample[0] for r in each)
        return Stream(tuple(r.seed for r in each), samples), any(r.path for r in each)
    one = rng if isinstance(rng, Rng) else Rng(rng)
    numbers: Any = one.sample
    if numbers is not None and len(numbers) != batch:
        raise ValueError(
            f"rng numbers {len(numbers)} samples for a batch of {batch}: "
            f"use sample=range(first, first + {batch})"
        )
    return Stream((one.seed,), numbers), one.path


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_portable(rng: Any) -> bool:
    return isinstance(rng, Rng) or _is_integer(rng)


def _seed(seed: Any) -> int:
    if not _is_integer(seed):
        raise TypeError(f"seed={seed!r} is no integer: use an int from 0 to 2**64 - 1")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed={seed} is outside 0 .. 2**64 - 1: use e.g. seed % 2**64")
    return int(seed)


def _samples(sample: Any) -> range | tuple[int, ...]:
    if isinstance(sample, np.ndarray) and sample.ndim == 1:
        sample = sample.tolist()
    if not isinstance(sample, (range, list, tuple)) or not all(map(_is_integer, sample)):
        raise TypeError(
            f"sample={sample!r} does not number the samples: use e.g. range(first, first + batch), "
            "or a sequence of ints with one per row of the batch"
        )
    if len(sample) and not 0 <= min(sample) <= max(sample) < 1 << 32:
        raise ValueError(f"sample={sample!r} holds numbers outside 0 .. 2**32 - 1")
    return sample if isinstance(sample, range) else tuple(map(int, sample))
