"""What a worker does: it builds its sampler once, makes chunks, and commits them."""

import importlib
import json
import pickle
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..backends import resolve
from ..checks import check_count
from ..noise import Rng
from .environment import difference, environment_of, mark_of, pinned
from .manifest import Manifest, digest_of
from .store import Receipt, Store

__all__ = ["Build", "Place", "again", "find_build", "open_store", "work"]

Build = Callable[["Place"], Callable[[Rng], Mapping[str, Any]]]


class Place(NamedTuple):
    """Where a sampler is built.

    Args:
        device: the device that `run` gave this worker, by its framework's name; None: the default.
        rank: the number of the worker, where the engine numbers them.
    """

    device: Any = None
    rank: int = 0


ANYWHERE = Place()


class Built(NamedTuple):
    """A sampler, and the environment it was built in."""

    sampler: Callable[[Rng], Mapping[str, Any]]
    mark: bytes
    limits: Any  # keeps the number of threads


LOCAL = threading.local()  # what a thread built, by store and build


def open_store(
    path: str,
    *,
    build: Build | str | None = None,
    number: int | None = None,
    chunk: int = 256,
    batch: int | None = None,
    seed: int = 0,
    threads: int | None = 1,
    mixed: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Store:
    """Open the store of a job, or make it.

    The number, the cut and the seed belong to the job: a store that is there must be of the same.

    Args:
        path: a folder, or a URL for obstore, such as s3://bucket/run.zarr.
        build: of a `Place` the sampler; a function that workers can import, or "module:name". It
            is needed for a new store; one that is there is compared with it.
        number: how many samples; without it the store must be there.
        chunk: how many are committed together; a multiple of batch.
        batch: how many go through the network together, as many as the chunk has unless given.
        seed: of the noise.
        threads: of each worker's linear algebra, on which bits depend; None leaves it alone.
        mixed: whether workers may go on in another environment than the first.
        options: of obstore: credentials, region.

    Raises:
        ValueError: no store there; something else is there; a store of another job, with the key
            that differs.
        ImportError: zarr, or for a URL obstore, is not installed.
    """
    store = Store(path, options, mixed)
    if number is None:
        _ = store.manifest
        return store
    if build is None:
        raise ValueError(f"{path}: a job of number={number} samples needs build=, which makes them")
    for name, value in (("number", number), ("chunk", chunk), ("threads", threads)):
        if value is not None:
            check_count(name, value)
    batch = min(chunk, number) if batch is None else batch
    with pinned(threads):
        sampler = find_build(build)(ANYWHERE)
        if store.there():
            arrays = store.manifest.arrays
        else:
            rows = min(batch, number)
            probe = on_host(sampler(Rng(seed, sample=range(rows))), rows)
            arrays = {k: (array.shape[1:], array.dtype.name) for k, array in probe.items()}
    said = description(sampler)
    store.prepare(Manifest(number, chunk, batch, int(seed), threads, said, arrays))
    return store


def work(store: Store, build: Build | str, chunk: int, place: Place = ANYWHERE) -> Receipt:
    """Make a chunk and commit it, unless it is there; what every engine calls.

    The sampler is built at a thread's first chunk.

    Raises:
        Conflict: the chunk is there with other bits.
        ValueError: the sampler is not that of the job.
    """
    known = store.receipt(chunk)
    if known is not None:
        return known
    return store.commit(chunk, *make(store, build, chunk, place))


def make(
    store: Store, build: Build | str, chunk: int, place: Place
) -> tuple[dict[str, np.ndarray], bytes]:
    """Return the arrays of a chunk, and the mark of the environment that made it."""
    built = built_for(store, build, place)
    parts = []
    for numbers in store.manifest.batches(chunk):
        made = built.sampler(Rng(store.manifest.seed, sample=numbers))
        parts.append(on_host(made, len(numbers)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, built.mark


def again(store: Store, build: Build | str, chunk: int, place: Place = ANYWHERE) -> bool:
    """Make a chunk that is there again, and return whether it has the same bits; nothing is kept.

    Raises:
        KeyError: the chunk is yet to be made.
    """
    known = store.receipt(chunk)
    if known is None:
        raise KeyError(f"chunk {chunk} of {store.path} is yet to be made")
    arrays, _ = make(store, build, chunk, place)
    return digest_of(arrays) == known.digest


def built_for(store: Store, build: Build | str, place: Place) -> Built:
    """Return this thread's sampler of a job, built and compared at the first call."""
    kept = vars(LOCAL).setdefault("built", {})
    key = store.path, place, pickle.dumps(build) if pickles(build) else id(build)
    if key not in kept:
        manifest = store.manifest
        limits = pinned(manifest.threads)
        limits.__enter__()
        sampler = find_build(build)(place)
        manifest.check_same(Manifest(**{**vars(manifest), "sampler": description(sampler)}))
        limits.pin_frameworks()
        environment = environment_of(getattr(sampler, "xp", None))
        mark = mark_of(environment)
        others = store.environments()
        if others and mark not in others and not store.mixed:
            raise ValueError(f"{store.path}: {difference(environment, others)}")
        store.remember(mark, environment)
        kept[key] = Built(sampler, mark, limits)
    return kept[key]  # type: ignore[no-any-return]


def pickles(build: Any) -> bool:
    """Return whether a builder can be sent to another process."""
    try:
        pickle.dumps(build)
    except Exception:  # pickle raises what the object raises
        return False
    return True


def find_build(build: Build | str) -> Build:
    """Return the builder, of which a name may be given.

    Raises:
        ValueError: "module:name" leads nowhere.
    """
    if not isinstance(build, str):
        return build
    module, _, name = build.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"build={build!r} leads to no function: {error}; give module:name, of a module that"
            " every worker can import"
        ) from error
    return found  # type: ignore[no-any-return]


def description(sampler: Any) -> dict[str, Any]:
    """Return what a sampler says of itself, as JSON keeps it; nothing, if it does not."""
    said = sampler.describe() if hasattr(sampler, "describe") else {}
    return json.loads(json.dumps(said))  # type: ignore[no-any-return]


def on_host(made: Any, rows: int) -> dict[str, np.ndarray]:
    """Return what a sampler made as NumPy arrays.

    Raises:
        TypeError: it is no mapping of names to arrays.
        ValueError: an array has not one row a sample, or a name that the store needs.
    """
    if not isinstance(made, Mapping) or not made:
        raise TypeError(
            "a sampler returns a dict of arrays, such as {'samples': x}; got"
            f" {type(made).__name__}"
        )
    arrays = {}
    for name, value in made.items():
        array = value if isinstance(value, np.ndarray) else _to_numpy(value)
        if not array.ndim or len(array) != rows:
            raise ValueError(
                f"the sampler made {name!r} of shape {array.shape} for {rows} samples: the first"
                " axis must be that of the samples"
            )
        if name in ("receipts", "environments") or not str(name).isidentifier():
            raise ValueError(f"{name!r} cannot name an array of a store; use e.g. 'samples'")
        arrays[str(name)] = array
    return arrays


def _to_numpy(value: Any) -> np.ndarray:
    backend = resolve(value)
    if backend.name == "torch":
        return value.detach().cpu().numpy()  # type: ignore[no-any-return]
    return value.get() if backend.name == "cupy" else np.asarray(value)
