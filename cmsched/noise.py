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
from cmsched.backends.threefry import Stream

START, STEP, BROWNIAN = 0, 1, 2  # purposes; without them the start and the first draw are equal

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
    """

    seed: int
    sample: Sequence[int] | np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check, and make hashable."""
        object.__setattr__(self, "seed", _seed(self.seed))
        if self.sample is not None:
            object.__setattr__(self, "sample", _samples(self.sample))

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
        return _portable(backend, self, shape, dtype, device, START, (0, 0))


def standard_normal(
    rng: Any,
    shape: Sequence[int],
    dtype: Any,
    like: Array,
    *,
    row: Any,
    rank: int = 0,
    purpose: int = STEP,
    interval: tuple[float, float] | None = None,
) -> Array:
    """Draw unit normals beside `like` from anything that `rng=` accepts.

    `row` is the number of the draw, an int or an integer array of shape () or (batch,); `rank`
    tells several draws of one row apart; `interval` is handed to a function.
    """
    backend = backends.resolve(like)
    shape = tuple(shape)
    batch = shape[0] if shape else 1
    row = int(row) if isinstance(row, np.integer) else row
    rows = () if isinstance(row, int) else tuple(row.shape)
    if rows not in ((), (batch,)):
        raise ValueError(f"row has shape {rows}: use an int, shape () or ({batch},)")
    device = backend.device(like)
    many = isinstance(rng, (list, tuple))
    if many and len(rng) != batch:
        raise ValueError(
            f"rng holds {len(rng)} entries for a batch of {batch}: give one per sample, or a "
            "single one for all"
        )
    if all(map(_is_portable, rng)) if many else _is_portable(rng):
        return _portable(backend, rng, shape, dtype, device, purpose, (rank, row))
    if many:
        parts = [
            standard_normal(
                *(each, (1, *shape[1:]), dtype, like),
                row=row[i : i + 1] if rows else row,
                rank=rank,
                purpose=purpose,
                interval=interval,
            )
            for i, each in enumerate(rng)
        ]
        return backend.xp.reshape(backend.xp.concat(parts), shape)
    if backend.is_generator(rng):
        return backend.native(rng, shape, dtype, device, (rank, row))
    if not callable(rng):
        raise TypeError(
            f"rng={rng!r} ({type(rng).__name__}) makes no {backend.name} noise: give {_ACCEPTED}"
        )
    z = rng(shape, dtype, interval)
    if backends.resolve(z) is not backend or tuple(z.shape) != shape:
        raise ValueError(
            f"rng(shape, dtype, interval) returned {backends.resolve(z).name} noise of shape "
            f"{tuple(z.shape)}: the sample needs {backend.name} noise of shape {shape}"
        )
    return backend.astype(z, dtype)


def _portable(
    backend: Backend,
    rng: Any,
    shape: tuple[int, ...],
    dtype: Any,
    device: Any,
    purpose: int,
    place: tuple[int, Any],
) -> Array:
    batch = shape[0] if shape else 1
    if isinstance(rng, (list, tuple)):  # one seed per sample
        each = [r if isinstance(r, Rng) else Rng(r) for r in rng]
        counts = [1 if r.sample is None else len(r.sample) for r in each]
        if any(count != 1 for count in counts):
            i, count = next((i, c) for i, c in enumerate(counts) if c != 1)
            raise ValueError(f"rng[{i}] numbers {count} samples: one entry of a list is one sample")
        seeds = tuple(r.seed for r in each)
        samples: Any = tuple(0 if r.sample is None else r.sample[0] for r in each)
    else:
        one = rng if isinstance(rng, Rng) else Rng(rng)
        seeds, samples = (one.seed,), one.sample
        if samples is not None and len(samples) != batch:
            raise ValueError(
                f"rng numbers {len(samples)} samples for a batch of {batch}: "
                f"use sample=range(first, first + {batch})"
            )
    accumulation = backend.accumulation(dtype)
    stream = Stream(seeds, samples, purpose)
    return backend.astype(backend.normals(stream, shape, accumulation, device, place), dtype)


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
