"""Ways to run a job: chunk numbers go out, receipts come back, and no array passes through."""

import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import wait as first_of
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from ..checks import check_choice, check_count
from .store import Receipt, Store
from .worker import Build, Place, work

__all__ = ["ENGINES", "Report", "Stage", "rank_and_world", "run"]

AHEAD = 4  # chunks that a worker has been given, so that it never waits
PATIENCE = 5  # how often in a row a pool may break and nothing be made

Seen = Callable[[Receipt], None]


class Report(NamedTuple):
    """What a run did.

    Args:
        made: chunks that it committed.
        there: chunks that others committed meanwhile, or that were there.
        left: chunks that are yet to be made, by other ranks.
        seconds: how long it took.
    """

    made: int
    there: int
    left: int
    seconds: float


def run(
    store: Store,
    build: Build | str,
    engine: Any = "here",
    *,
    workers: int = 1,
    address: Any = None,
    devices: Sequence[Any] | None = None,
    seen: Seen | None = None,
) -> Report:
    """Make what is missing of a job.

    Whatever stops it, the same call goes on: at most the chunks in the works are lost.

    Args:
        store: the job, from `cmsched.jobs.open`.
        build: of a `Place` the sampler.
        engine: one of

            - "here": threads of this process;
            - "processes": processes of this machine;
            - "ranks": this process is one of several that torchrun, srun, mpirun, a SLURM array or
              an indexed Kubernetes job has started, and makes its share;
            - "group": as "ranks", but all ranks of torch.distributed make each chunk together, as
              one worker, and the first commits it;
            - "dask", "ray": a cluster, at `address`, or one made on this machine;
            - any executor of `concurrent.futures`' protocol (PEP 3148).
        workers: how many at once, where the engine does not know.
        address: of dask's scheduler, or a `dask.distributed.Client`; of a Ray cluster.
        devices: of which worker k gets number k, modulo their count, as its `place.device`.
        seen: is called with each receipt.

    Raises:
        ImportError: the engine's package is not installed.
        ValueError: an unknown engine; a sampler that is not the job's.
        Conflict: a chunk made again has other bits.
    """
    check_count("workers", workers)
    begun, made, there = time.perf_counter(), 0, 0
    if not hasattr(engine, "submit"):
        check_choice("engine", engine, ENGINES)
        engine = ENGINES[engine]
    missing = store.missing()
    if missing and engine not in (ranks, group):  # another driver shall not make the same ones
        first = somewhere(len(missing))
        missing = missing[first:] + missing[:first]
    for receipt in _started(engine, store, build, missing, workers, address, devices):
        made, there = made + receipt.made, there + (not receipt.made)
        if seen is not None:
            seen(receipt)
    left = len(store.missing())
    return Report(made, there, left, time.perf_counter() - begun)


def somewhere(count: int) -> int:
    """Return a place among so many, by chance."""
    return int.from_bytes(os.urandom(4)) % count


def _started(
    engine: Any,
    store: Store,
    build: Any,
    missing: list[int],
    workers: int,
    address: Any,
    devices: Any,
) -> Iterator[Receipt]:
    if hasattr(engine, "submit"):
        return _submitted(engine, partial(work, store, build), missing, AHEAD * workers)
    places = [Place(devices[k % len(devices)] if devices else None, k) for k in range(workers)]
    return engine(store, build, missing, places, address)  # type: ignore[no-any-return]


def _submitted(
    pool: Any, task: Callable[[int], Receipt], missing: Sequence[int], ahead: int
) -> Iterator[Receipt]:
    """Yield receipts as they come, with a bounded number of chunks given out."""
    left = iter(missing)
    pending = {pool.submit(task, k) for k in islice(left, ahead)}
    try:
        while pending:
            done, pending = first_of(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
            pending |= {pool.submit(task, k) for k in islice(left, len(done))}
    finally:
        for future in pending:
            future.cancel()


# here


PLACE: list[Place] = []  # of this process, where an engine has given it one


def work_here(store: Store, build: Any, chunk: int) -> Receipt:
    """Make a chunk at this process's place."""
    return work(store, build, chunk, PLACE[-1] if PLACE else Place())


def here(
    store: Store, build: Any, missing: list[int], places: list[Place], address: Any
) -> Iterator[Receipt]:
    """Make chunks in threads of this process, each with a sampler of its own."""
    if len(places) == 1:
        for chunk in missing:
            yield work(store, build, chunk, places[0])
        return
    own, spare, lock = threading.local(), list(places), threading.Lock()

    def task(chunk: int) -> Receipt:
        if not hasattr(own, "place"):
            with lock:
                own.place = spare.pop()
        return work(store, build, chunk, own.place)

    with ThreadPoolExecutor(len(places)) as pool:
        yield from _submitted(pool, task, missing, AHEAD * len(places))


def processes(
    store: Store, build: Any, missing: list[int], places: list[Place], address: Any
) -> Iterator[Receipt]:
    """Make chunks in processes of this machine; of a pool that breaks, another goes on."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    idle = 0
    while missing:
        queue = context.Queue()
        for place in places:
            queue.put(place)
        pool = ProcessPoolExecutor(len(places), context, settle, (queue,))
        done = 0
        try:
            task = partial(work_here, store, build)
            for receipt in _submitted(pool, task, missing, AHEAD * len(places)):
                done += 1
                yield receipt
            return
        except BrokenProcessPool:
            idle = 0 if done else idle + 1
            if idle == PATIENCE:
                raise
            missing = store.missing()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def settle(queue: Any) -> None:
    """Take a place in a process, which ends with its parent."""
    import multiprocessing
    from multiprocessing.connection import wait

    PLACE.append(queue.get())
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            wait([parent.sentinel])
        os._exit(1)  # whose memory, and device, nobody else would free

    threading.Thread(target=follow, daemon=True).start()


# ranks


LAUNCHERS = (  # of each, the variables of the rank and of how many there are
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MPICH", "PMI_RANK", "PMI_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_NTASKS"),
    ("Kubernetes", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
    ("TPU hosts", "TPU_WORKER_ID", "TPU_WORKER_COUNT"),
)


def rank_and_world(variables: Any = None) -> tuple[int, int]:
    """Return the number of this process, and of how many, from what its launcher says.

    In a SLURM array each task of each array index is one.

    Raises:
        ValueError: no launcher says it, or what it says is no rank.
    """
    said = os.environ if variables is None else variables
    for launcher, rank, world in LAUNCHERS:
        if rank in said and world in said:
            index, count = int(said[rank]), int(said[world])
            if launcher == "srun" and "SLURM_ARRAY_TASK_ID" in said:
                first = int(said.get("SLURM_ARRAY_TASK_MIN", 0))
                step = int(said.get("SLURM_ARRAY_TASK_STEP", 1))
                index += (int(said["SLURM_ARRAY_TASK_ID"]) - first) // step * count
                count *= int(said["SLURM_ARRAY_TASK_COUNT"])
            if not 0 <= index < count:
                raise ValueError(f"{rank}={index} is outside the {count} that {world} says")
            return index, count
    names = ", ".join(f"{rank} and {world} ({launcher})" for launcher, rank, world in LAUNCHERS)
    raise ValueError(
        f"engine='ranks' is for processes that a launcher has numbered, and none of {names} is"
        " set; start it by torchrun, srun or mpirun, or use engine='processes'"
    )


def ranks(
    store: Store, build: Any, missing: list[int], places: list[Place], address: Any
) -> Iterator[Receipt]:
    """Make this rank's share of the chunks."""
    rank, world = rank_and_world()
    local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", rank)))
    place = Place(places[0].device, local)
    for chunk in missing:
        if chunk % world == rank:  # whatever others found missing
            yield work(store, build, chunk, place)


def group(
    store: Store, build: Any, missing: list[int], places: list[Place], address: Any
) -> Iterator[Receipt]:
    """Make each chunk together with the other ranks of torch.distributed; the first commits it."""
    import torch.distributed as dist

    from .worker import make

    first = dist.get_rank() == 0
    listed = [missing]
    dist.broadcast_object_list(listed, src=0)  # ranks that list for themselves would not agree
    for chunk in listed[0]:
        arrays, mark = make(store, build, chunk, Place(places[0].device, dist.get_rank()))
        if first:
            yield store.commit(chunk, arrays, mark)
    dist.barrier()


# clusters


def _needed(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f"this engine needs {package}: pip install {package}") from None


@contextmanager
def _client(address: Any, workers: int) -> Iterator[Any]:
    distributed = _needed("distributed", "distributed")
    if isinstance(address, distributed.Client):
        yield address
        return
    local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.Client(address, **({} if address else local)) as client:
        yield client


def dask(
    store: Store, build: Any, missing: list[int], places: list[Place], address: Any
) -> Iterator[Receipt]:
    """Make chunks on a dask cluster, at an address, of a client, or on this machine."""
    with _client(address, len(places)) as client:
        distributed = _needed("distributed", "distributed")
        left, task = iter(missing), partial(work, store, build)
        give = partial(client.submit, task, pure=False, retries=PATIENCE)
        count = max(len(places), len(client.nthreads()) or 1)
        coming = distributed.as_completed([give(chunk) for chunk in islice(left, AHEAD * count)])
        for future in coming:
            yield future.result()
            future.release()
            for chunk in islice(left, 1):
                coming.add(give(chunk))


class Actor:
    """A worker of Ray, which keeps its sampler."""

    def __init__(self, store: Store, build: Any, place: Place) -> None:
        self.task = partial(work, store, build, place=place)

    def make(self, chunk: int) -> Receipt:
        """Make a chunk."""
        return self.task(chunk)


def ray(
    store: Store, build: Any, missing: list[int], places: list[Place], address: Any
) -> Iterator[Receipt]:
    """Make chunks by actors of a Ray cluster, at an address or on this machine."""
    ray = _needed("ray", "ray")
    begun = not ray.is_initialized()
    if begun:
        local = {"num_cpus": len(places), "include_dashboard": False}
        ray.init(address, log_to_driver=False, **({} if address else local))
    try:
        remote = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(Actor)
        actors = [remote.remote(store, build, place) for place in places]
        left = iter(missing)
        pairs = zip(actors * 2, left, strict=False)  # one to make, one to go on with
        pending = {actor.make.remote(chunk): actor for actor, chunk in pairs}
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            actor = pending.pop(done[0])
            for chunk in islice(left, 1):
                pending[actor.make.remote(chunk)] = actor
            yield ray.get(done[0])
    finally:
        if begun:
            ray.shutdown()


class Stage:
    """A stage of Ray Data, of batches of chunk numbers: `ds.map_batches(Stage, ...)`.

    ds = ray.data.from_items(store.missing(), override_num_blocks=...)
    ds.map_batches(Stage, fn_constructor_args=(store, build), batch_size=1, concurrency=8)
    """

    def __init__(self, store: Store, build: Any) -> None:
        self.task = partial(work, store, build)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the chunks of a batch."""
        receipts = [self.task(int(chunk)) for chunk in batch["item"]]
        return {"chunk": [r.chunk for r in receipts], "digest": [r.digest for r in receipts]}


ENGINES: dict[str, Callable[..., Iterator[Receipt]]] = {
    "here": here,
    "processes": processes,
    "ranks": ranks,
    "group": group,
    "dask": dask,
    "ray": ray,
}
