"""What a job is: numbered samples, cut into chunks once and for all."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..checks import check_count

__all__ = ["Manifest", "digest_of"]

FORMAT = "cmsched job 1"


@dataclass(frozen=True)
class Manifest:
    """A job, and what its samples are made of.

    A sample is a function of the manifest and of the machine that makes it: how many workers there
    are, and which of them makes what, changes no bit.

    Args:
        number: how many samples; they are numbered from 0.
        chunk: how many are made and committed together.
        batch: how many go through the network together; only the last batch of the job is shorter.
        seed: of the noise.
        threads: of a worker's linear algebra; None leaves it as it is.
        sampler: what the sampler says of itself.
        arrays: of each array the shape of one sample, and the dtype.
    """

    number: int
    chunk: int
    batch: int
    seed: int
    threads: int | None
    sampler: Mapping[str, Any]
    arrays: Mapping[str, tuple[tuple[int, ...], str]]

    def __post_init__(self) -> None:
        """Check the cut."""
        for name in ("number", "chunk", "batch"):
            check_count(name, getattr(self, name))
        if self.chunk % self.batch and self.chunk < self.number:
            raise ValueError(
                f"chunk={self.chunk} is no multiple of batch={self.batch}, so the batches of a job"
                f" would differ in size; use e.g. chunk={-(-self.chunk // self.batch) * self.batch}"
            )

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return -(-self.number // self.chunk)

    def numbers(self, chunk: int) -> range:
        """Return the numbers of the samples of a chunk.

        Raises:
            IndexError: there is no such chunk.
        """
        if not 0 <= chunk < self.chunks:
            raise IndexError(f"chunk={chunk} is outside the {self.chunks} chunks of this job")
        return range(chunk * self.chunk, min((chunk + 1) * self.chunk, self.number))

    def batches(self, chunk: int) -> list[range]:
        """Return the numbers of the samples of a chunk, batch by batch."""
        numbers = self.numbers(chunk)
        return [numbers[k : k + self.batch] for k in range(0, len(numbers), self.batch)]

    def to_json(self) -> dict[str, Any]:
        """Return what is kept in the store."""
        return json.loads(json.dumps({"format": FORMAT, **asdict(self)}))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, kept: Any) -> "Manifest":
        """Return the manifest that a store keeps.

        Raises:
            ValueError: it is not one, or one of another version.
        """
        if not isinstance(kept, dict) or kept.get("format") != FORMAT:
            found = kept.get("format") if isinstance(kept, dict) else kept
            raise ValueError(f"the store's manifest says {found!r}, this version reads {FORMAT!r}")
        fields = {key: value for key, value in kept.items() if key != "format"}
        arrays = {k: (tuple(shape), dtype) for k, (shape, dtype) in fields["arrays"].items()}
        return cls(**{**fields, "arrays": arrays})

    def check_same(self, other: "Manifest") -> None:
        """Check that another job is this one.

        Raises:
            ValueError: a key differs, which it names.
        """
        own, theirs = flat(self.to_json()), flat(other.to_json())
        for key in sorted({*own, *theirs}):
            if own.get(key) != theirs.get(key):
                raise ValueError(
                    f"the store is of another job: its {key} is {shown(own.get(key))}, and not"
                    f" {shown(theirs.get(key))}; give the same, or another path"
                )

    def check_arrays(self, chunk: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Check that a chunk's arrays are those of the job.

        Raises:
            ValueError: an array is missing, or of another shape or dtype.
        """
        if sorted(arrays) != sorted(self.arrays):
            raise ValueError(
                f"the sampler made the arrays {sorted(arrays)}, the job's are {sorted(self.arrays)}"
            )
        for name, array in arrays.items():
            shape, dtype = self.arrays[name]
            expected = (len(self.numbers(chunk)), *shape)
            if array.shape != expected or array.dtype != dtype:
                raise ValueError(
                    f"the sampler made {name!r} of shape {array.shape} and dtype {array.dtype}; the"
                    f" job's have {expected} and {dtype}"
                )


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of nested dicts by dotted names."""
    if not isinstance(tree, dict):
        return {name: tree}
    parts = (flat(value, f"{name}.{key}" if name else key) for key, value in tree.items())
    return {key: value for part in parts for key, value in part.items()}


def shown(value: Any) -> str:
    """Return a value as an error shows it."""
    text = repr(value)
    return text if len(text) < 80 else f"{text[:76]}..."


def digest_of(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the sha256 of named arrays: names, dtypes, shapes and contents."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        found.update(array.data if array.size else b"")
    return found.digest()
