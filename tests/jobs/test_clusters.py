"""Jobs on clusters of other packages, each a real one of two workers on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cmsched
from cmsched import jobs

from . import toy
from .test_jobs import ROOT, check

BUILD = "jobs.toy:build"
HERE = Path(__file__).parent

pytestmark = pytest.mark.host


@pytest.fixture
def importable(monkeypatch):
    """What this process imports, others can; a cluster's own threads of BLAS are one anyway."""
    paths = [str(ROOT), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")


@pytest.fixture
def fatal(tmp_path, monkeypatch):
    """Two chunks whose workers die, once."""
    folder = tmp_path / "fatal"
    folder.mkdir()
    for chunk in (2, 9):
        (folder / str(chunk)).touch()
    monkeypatch.setenv("TOY_FATAL", str(folder))
    return folder


@pytest.fixture(scope="module")
def whole():
    return toy.expected()


@pytest.fixture
def cluster(request, importable):
    """The engine; Ray's cluster is begun here, where it may find that it cannot be."""
    if request.param != "ray":
        pytest.importorskip("distributed")
        yield request.param
        return
    ray = pytest.importorskip("ray")
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    except Exception as error:  # no shared memory, no loopback: whatever stops its own processes
        pytest.skip(f"Ray does not start here: {error}")
    yield "ray"
    ray.shutdown()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("cluster", ["dask", "ray"], indirect=True)
def test_clusters_go_on_when_workers_are_killed(tmp_path, fatal, cluster, whole):
    store = jobs.open(
        tmp_path / "x.zarr", number=toy.NUMBER, chunk=toy.CHUNK, batch=toy.BATCH, build=BUILD
    )
    seen = []
    report = jobs.run(store, BUILD, cluster, workers=2, seen=seen.append)
    assert report.left == 0
    assert len({receipt.chunk for receipt in seen}) == store.manifest.chunks
    assert not [*fatal.iterdir()]
    check(store, whole)


@pytest.mark.filterwarnings("default")
def test_a_dask_client_of_ones_own_and_its_executor(tmp_path, importable, whole):
    distributed = pytest.importorskip("distributed")
    local = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with distributed.Client(processes=False, **local) as client:
        for k, options in enumerate([{"address": client}, {}]):
            store = toy.open_job(tmp_path / f"{k}.zarr")
            engine = "dask" if options else client.get_executor()
            jobs.run(store, toy.build, engine, **options)
            check(store, whole)


def test_jax_compiles_once_for_all_chunks(tmp_path):
    jax = pytest.importorskip("jax")
    plan = cmsched.EulerAncestralDiscreteScheduler().plan(4)
    network = jax.jit(lambda x, t: 0.5 * jax.numpy.tanh(x))

    def build(place):
        return jobs.Sampler(plan, network, shape=(2, 3), xp="jax")

    store = jobs.open(tmp_path / "x.zarr", number=48, chunk=8, build=build)
    jobs.work(store, build, 0)
    compiled = []

    def listen(name, seconds, **more):
        compiled.extend([name] * ("backend_compile" in name))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        assert jobs.run(store, build).made == 5
        assert compiled == []
        jax.jit(lambda x: 3 * x + 1)(jax.numpy.ones(7))
        assert compiled  # so it would have been seen
    finally:
        jax.monitoring.clear_event_listeners()


GROUP = """
import sys
import numpy as np, torch, torch.distributed as dist
from cmsched import jobs

rank, path, init = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=2)

def build(place):
    assert place.rank == rank or place.rank == 0

    def sampler(rng):
        part = torch.from_numpy(np.asarray(rng.sample, dtype=np.float64))[rank::2]
        parts = [torch.zeros((len(rng.sample) + 1 - k) // 2, dtype=part.dtype) for k in (0, 1)]
        dist.all_gather(parts, part) if len(parts[0]) == len(parts[1]) else None
        whole = torch.zeros(len(rng.sample), dtype=part.dtype)
        for k in (0, 1):
            whole[k::2] = parts[k]
        return {"samples": whole}

    return sampler

if rank == 0:
    store = jobs.open(path, number=56, chunk=8, batch=8, build=lambda place: lambda rng: {
        "samples": np.asarray(rng.sample, dtype=np.float64)})
    jobs.work(store, lambda place: lambda rng: {"samples": np.asarray(rng.sample, float)}, 3)
dist.barrier()
store = jobs.open(path)
report = jobs.run(store, build, "group")
print(rank, report.made, report.left)
dist.destroy_process_group()
"""


@pytest.mark.filterwarnings("default")
def test_ranks_that_need_each_other_are_one_worker(tmp_path, importable):
    """Of seven chunks one is there; every rank takes part in each of the others."""
    pytest.importorskip("torch")
    (tmp_path / "group.py").write_text(GROUP)
    command = [sys.executable, str(tmp_path / "group.py")]
    ranks = [
        subprocess.Popen(
            [*command, str(k), str(tmp_path / "x.zarr"), str(tmp_path / "init")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for k in (0, 1)
    ]
    said = [rank.communicate(timeout=120)[0].split() for rank in ranks]
    assert said == [["0", "6", "0"], ["1", "0", "0"]]
    store = jobs.open(tmp_path / "x.zarr")
    assert store["samples"][...].tolist() == list(range(56))
    assert store.damaged() == []
