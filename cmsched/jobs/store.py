"""Where a job's samples lie: a zarr group, one object a chunk, and a receipt beside it.

A chunk is committed by creating objects that were not there: its arrays, then its receipt, which is
the digest of what was stored. Nothing that has a receipt is written again, so any number of workers
may make the same chunk, and whatever is interrupted leaves nothing but work to do.
"""

import contextlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .manifest import Manifest, digest_of

__all__ = ["Conflict", "Receipt", "Store"]

MARK = 8  # bytes of a receipt that say in which environment its chunk was made
RECEIPT = 32 + MARK
LOCAL = threading.local()  # arrays of one chunk, by store and name
WRITTEN = re.compile(r"c\.(\d+)\.0")  # the name of a receipt: no folder, which may be left empty


class Conflict(RuntimeError):
    """A chunk was made twice, with different bits; the first is kept."""


class Receipt(NamedTuple):
    """What is known of a committed chunk.

    Args:
        chunk: its number.
        digest: of its arrays.
        environment: the beginning of the digest of where it was made.
        made: whether this call committed it.
    """

    chunk: int
    digest: bytes
    environment: bytes
    made: bool


class Store:
    """A job's store.

    `store[17]` is one sample, a dict of arrays; `store["samples"]` a zarr array of all; iteration
    gives (numbers, arrays) chunk by chunk, of the chunks that are there.

    Args:
        path: a folder, or a URL that obstore knows, such as s3://bucket/run.zarr.
        options: of obstore's `from_url`: credentials, region.
        mixed: whether a job may be made in several environments.
    """

    def __init__(
        self, path: str, options: Mapping[str, Any] | None = None, mixed: bool = False
    ) -> None:
        self.path, self.options, self.mixed = str(path), dict(options or {}), mixed

    def __getstate__(self) -> dict[str, Any]:
        """Return what a worker needs."""
        return {"path": self.path, "options": self.options, "mixed": self.mixed}

    def __repr__(self) -> str:
        return f"Store({self.path!r})"

    # objects

    @cached_property
    def objects(self) -> Any:
        """Zarr's store of objects."""
        zarr = _zarr()
        if "://" not in self.path:
            return zarr.storage.LocalStore(Path(self.path).expanduser())
        try:
            from obstore.store import from_url
        except ImportError:
            raise ImportError(f"{self.path} needs obstore: pip install obstore") from None
        return zarr.storage.ObjectStore(from_url(self.path, **self.options))

    def get(self, key: str) -> bytes | None:
        """Return an object, if it is there."""
        from zarr.core.buffer import default_buffer_prototype

        found = _wait(self.objects.get(key, default_buffer_prototype()))
        return None if found is None else found.to_bytes()

    def create(self, key: str, content: bytes) -> None:
        """Write an object where there is none."""
        _wait(self.objects.set_if_not_exists(key, _buffer(content)))

    def replace(self, key: str, content: bytes) -> None:
        """Write an object, whatever is there."""
        _wait(self.objects.set(key, _buffer(content)))

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            _wait(self.objects.delete(key))

    def listed(self, folder: str) -> list[str]:
        """Return the names in a folder."""
        if "://" not in self.path:
            place = Path(self.path).expanduser() / folder
            return os.listdir(place) if place.is_dir() else []

        async def names() -> list[str]:
            return [name async for name in self.objects.list_dir(folder)]

        return _wait(names())  # type: ignore[no-any-return]

    # the job

    @cached_property
    def manifest(self) -> Manifest:
        """The job.

        Raises:
            ValueError: there is no job's store at the path.
        """
        kept = self.get("zarr.json") if self.there() else None
        try:
            attributes = {} if kept is None else json.loads(kept).get("attributes", {})
        except ValueError:
            attributes = {}
        if "cmsched" not in attributes:
            raise ValueError(
                f"{self.path} is no store of a job: it has no group with a manifest of cmsched;"
                " give the path that `cmsched.jobs.open` made, or a new one with what the job is"
            )
        return Manifest.from_json(attributes["cmsched"])

    def there(self) -> bool:
        """Return whether there is a group at the path; nothing is made."""
        if "://" not in self.path and not Path(self.path).expanduser().is_dir():
            return False
        return self.get("zarr.json") is not None

    def prepare(self, manifest: Manifest) -> None:
        """Make the store of a job, or find that it is this one.

        Raises:
            ValueError: it is of another job.
        """
        metadata = _metadata(manifest)
        root = metadata.pop("zarr.json")
        if not self.there() and self.listed(""):
            raise ValueError(
                f"{self.path} has something else in it, and is no store of a job; give another path"
            )
        self.create("zarr.json", root)
        self.manifest.check_same(manifest)
        for key, content in metadata.items():
            self.create(key, content)

    @property
    def group(self) -> Any:
        """The zarr group."""
        return _zarr().open_group(self.objects, mode="r")

    # chunks

    def receipt(self, chunk: int) -> Receipt | None:
        """Return the receipt of a chunk, if it has one that can be read."""
        self.manifest.numbers(chunk)
        kept = self._decoded("receipts", chunk)
        if kept is None:
            return None
        content = kept.tobytes()
        return Receipt(chunk, content[:-MARK], content[-MARK:], False)

    def done(self) -> list[int]:
        """Return the chunks that have receipts."""
        found = map(WRITTEN.fullmatch, self.listed("receipts"))
        return sorted(int(name[1]) for name in found if name)

    def missing(self) -> list[int]:
        """Return the chunks that are yet to be made."""
        done = {*self.done()}
        return [chunk for chunk in range(self.manifest.chunks) if chunk not in done]

    def read(self, chunk: int) -> dict[str, np.ndarray] | None:
        """Return the arrays of a chunk as they are stored; None where one is missing or damaged."""
        arrays = {}
        rows = len(self.manifest.numbers(chunk))
        for name in self.manifest.arrays:
            whole = self._decoded(name, chunk)
            if whole is None:
                return None
            arrays[name] = whole[:rows]
        return arrays

    def commit(
        self, chunk: int, arrays: Mapping[str, np.ndarray], environment: bytes = bytes(MARK)
    ) -> Receipt:
        """Store a chunk that was made, unless it is there; the receipt last.

        Raises:
            Conflict: it is there with other bits, which are kept.
        """
        self.manifest.check_arrays(chunk, arrays)
        digest = digest_of(arrays)
        known = self.receipt(chunk)
        if known is None:
            for name, array in arrays.items():
                key, content = self._encoded(name, chunk, array)
                self.create(key, content)
                if self.get(key) != content:  # torn, or of who never came to the receipt
                    self.replace(key, content)
            found = self.read(chunk)
            if found is None or digest_of(found) != digest:
                self._refuse(chunk)
            key, content = self._encoded("receipts", chunk, _receipt(digest, environment))
            if self.get(key) is None:
                self.create(key, content)
            else:
                self.replace(key, content)  # one that cannot be read
            known = self.receipt(chunk)
            if known is not None and known.digest == digest:
                return known._replace(made=True)
        if known is None or known.digest != digest:
            self._refuse(chunk)
        return known  # type: ignore[return-value]

    def _refuse(self, chunk: int) -> None:
        raise Conflict(
            f"chunk {chunk} was made again with other bits: the sampler is not a function of the"
            " samples' numbers (noise of its own? an algorithm that is not deterministic?), or"
            " another machine made the first, which is kept"
        )

    def verify(self, chunk: int) -> bool:
        """Tell whether what is stored of a chunk is what its receipt says."""
        known, arrays = self.receipt(chunk), self.read(chunk)
        return known is not None and arrays is not None and digest_of(arrays) == known.digest

    def damaged(self) -> list[int]:
        """Return the chunks with receipts whose arrays are not what these say."""
        return [chunk for chunk in self.done() if not self.verify(chunk)]

    def forget(self, chunk: int) -> None:
        """Remove a chunk, the receipt first, so that it is made again."""
        for name in ("receipts", *self.manifest.arrays):
            self.delete(self._key(name, chunk))

    def digest(self) -> str:
        """Return one digest of all samples, by the receipts.

        Raises:
            ValueError: the job is not done.
        """
        import hashlib

        if missing := self.missing():
            raise ValueError(f"{len(missing)} chunks are yet to be made, the first {missing[0]}")
        found = hashlib.sha256()
        for chunk in range(self.manifest.chunks):
            known = self.receipt(chunk)
            found.update(b"" if known is None else known.digest)
        return found.hexdigest()

    # environments

    def environments(self) -> dict[bytes, dict[str, Any]]:
        """Return the environments that made chunks, by their marks."""
        found = {}
        for name in self.listed("environments"):
            kept = self.get(f"environments/{name}/zarr.json")
            if kept is not None:
                found[bytes.fromhex(name)] = json.loads(kept)["attributes"]
        return found

    def remember(self, mark: bytes, environment: Mapping[str, Any]) -> None:
        """Keep an environment that is going to make chunks."""
        self.create("environments/zarr.json", _group({}))
        self.create(f"environments/{mark.hex()}/zarr.json", _group(environment))

    # reading

    def __len__(self) -> int:
        return self.manifest.number

    def __iter__(self) -> Iterator[tuple[range, dict[str, np.ndarray]]]:
        for chunk in self.done():
            arrays = self.read(chunk)
            if arrays is None:
                raise ValueError(
                    f"chunk {chunk} of {self.path} is damaged; `damaged` finds all, and the job"
                    " makes them again once they are forgotten"
                )
            yield self.manifest.numbers(chunk), arrays

    def __getitem__(self, which: int | str) -> Any:
        if isinstance(which, str):
            return self.group[which]
        number = int(which)
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} is outside the {len(self)} of this job")
        chunk, row = divmod(number, self.manifest.chunk)
        arrays = self.read(chunk) if self.receipt(chunk) is not None else None
        if arrays is None:
            raise KeyError(f"sample {number} is yet to be made, in chunk {chunk}")
        return {name: array[row] for name, array in arrays.items()}

    # encoding

    def _key(self, name: str, chunk: int) -> str:
        if name == "receipts":
            return f"receipts/c.{chunk}.0"
        return "/".join([name, "c", str(chunk), *["0"] * len(self.manifest.arrays[name][0])])

    def _encoded(self, name: str, chunk: int, array: np.ndarray) -> tuple[str, bytes]:
        """Return the key and the bytes of a chunk of an array, as zarr writes them."""
        one = self._one(name)
        full = np.zeros(one.array.shape, array.dtype)
        full[: len(array)] = array
        one.array[...] = full
        return self._key(name, chunk), one.kept[one.key].to_bytes()

    def _decoded(self, name: str, chunk: int) -> np.ndarray | None:
        """Return a whole chunk of an array; None where it is missing or damaged."""
        content, one = self.get(self._key(name, chunk)), self._one(name)
        if content is None:
            return None
        one.kept[one.key] = _buffer(content)
        try:
            return np.asarray(one.array[...])
        except Exception:  # each codec has errors of its own for what it cannot read
            return None

    def _one(self, name: str) -> "_One":
        """Return an array of one chunk, through which chunks are encoded; one for each thread."""
        own = vars(LOCAL).setdefault(self.path, {})
        if name not in own:
            shape: tuple[int, ...] = (1, RECEIPT)
            dtype = "uint8"
            if name != "receipts":
                sample, dtype = self.manifest.arrays[name]
                shape = (self.manifest.chunk, *sample)
            kept: dict[str, Any] = {}
            array = _array(_memory(kept), name, shape, np.dtype(dtype), shape[0])
            key = f"{name}/{array.metadata.encode_chunk_key((0,) * len(shape))}"
            own[name] = _One(kept, key, array)
        return own[name]  # type: ignore[no-any-return]


class _One(NamedTuple):
    """An array of one chunk in memory: what it holds, the key of the chunk there, and itself."""

    kept: dict[str, Any]
    key: str
    array: Any


def _zarr() -> Any:
    try:
        import zarr
        import zarr.storage
    except ImportError:
        raise ImportError(
            "jobs are stored by zarr: pip install 'zarr>=3.1' threadpoolctl"
        ) from None
    return zarr


def _wait(task: Any) -> Any:
    from zarr.core.sync import sync

    return sync(task)


def _buffer(content: bytes) -> Any:
    from zarr.core.buffer import default_buffer_prototype

    return default_buffer_prototype().buffer.from_bytes(content)


def _memory(kept: dict[str, Any]) -> Any:
    return _zarr().storage.MemoryStore(store_dict=kept)


def _array(objects: Any, name: str, shape: Any, dtype: Any, rows: int) -> Any:
    """Make an array whose chunks are compressed, and have a checksum."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    return _zarr().create_array(
        objects,
        name=name,
        shape=shape,
        chunks=(rows, *shape[1:]),
        dtype=dtype,
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "." if name == "receipts" else "/"},
        config={"write_empty_chunks": True},
    )


def _metadata(manifest: Manifest) -> dict[str, bytes]:
    """Return the metadata of a job's group and its arrays."""
    kept: dict[str, Any] = {}
    objects = _memory(kept)
    for name, (shape, dtype) in manifest.arrays.items():
        _array(objects, name, (manifest.number, *shape), np.dtype(dtype), manifest.chunk)
    _array(objects, "receipts", (manifest.chunks, RECEIPT), np.dtype("uint8"), 1)
    found = {key: value.to_bytes() for key, value in kept.items() if key != "zarr.json"}
    return {**found, "zarr.json": _group({"cmsched": manifest.to_json()})}


def _group(attributes: Mapping[str, Any]) -> bytes:
    text = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(text, indent=2, sort_keys=True).encode()


def _receipt(digest: bytes, environment: bytes) -> np.ndarray:
    return np.frombuffer(digest + environment, np.uint8)[None]
