"""Jobs on one machine: whatever happens, the samples are those of one process, each once."""

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

import cmsched
from cmsched import jobs
from cmsched.jobs.store import Store

from . import toy

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def whole():
    return toy.expected()


@pytest.fixture(scope="module")
def digest(tmp_path_factory):
    store = toy.open_job(tmp_path_factory.mktemp("whole") / "x.zarr")
    jobs.run(store, toy.build)
    return store.digest()


def check(store, whole):
    """Each sample exactly once, and that of its number."""
    group = zarr.open_group(store.path, mode="r") if "://" not in store.path else store.group
    for name, array in whole.items():
        assert group[name].dtype == array.dtype
        np.testing.assert_array_equal(group[name][...], array)
    assert store.missing() == store.damaged() == []


def in_array(array, task, procid="0", tasks="1"):
    """The environment of one task of a SLURM array of three, numbered from 5 in steps of 2."""
    return {
        "SLURM_PROCID": procid,
        "SLURM_NTASKS": tasks,
        "SLURM_ARRAY_TASK_ID": str(5 + 2 * task),
        "SLURM_ARRAY_TASK_MIN": "5",
        "SLURM_ARRAY_TASK_STEP": "2",
        "SLURM_ARRAY_TASK_COUNT": str(array),
    }


# what is made


@pytest.mark.parametrize(
    ("engine", "workers"), [("here", 1), ("here", 3), ("processes", 2), (None, 2)], ids=str
)
def test_every_engine_makes_the_samples_of_one_process(tmp_path, whole, digest, engine, workers):
    store = toy.open_job(tmp_path / "x.zarr")
    seen = []
    with ThreadPoolExecutor(workers) as pool:
        report = jobs.run(store, toy.build, engine or pool, workers=workers, seen=seen.append)
    assert (report.made, report.there, report.left) == (store.manifest.chunks, 0, 0)
    assert sorted(receipt.chunk for receipt in seen) == list(range(store.manifest.chunks))
    check(store, whole)
    assert store.digest() == digest
    assert jobs.run(store, toy.build, "here").made == 0


def test_object_stores_are_the_same_code(tmp_path, whole):
    pytest.importorskip("obstore")
    (tmp_path / "bucket").mkdir()
    store = toy.open_job(f"file://{tmp_path}/bucket/")
    jobs.run(store, toy.build)
    check(store, whole)


@pytest.mark.parametrize(
    "environments",
    [
        [{"RANK": str(k), "WORLD_SIZE": "3"} for k in range(3)],
        [{"SLURM_PROCID": str(k), "SLURM_NTASKS": "2"} for k in range(2)],
        [in_array(3, k) for k in range(3)],
        [in_array(2, a, str(k), "2") for a, k in itertools.product(range(2), range(2))],
        [{"JOB_COMPLETION_INDEX": str(k), "JOB_COMPLETIONS": "2"} for k in range(2)],
        [{"OMPI_COMM_WORLD_RANK": str(k), "OMPI_COMM_WORLD_SIZE": "2"} for k in range(2)],
    ],
    ids=["torchrun", "srun", "array", "array of two tasks", "kubernetes", "mpirun"],
)
def test_ranks_share_the_chunks(tmp_path, monkeypatch, whole, environments):
    for name in [*os.environ]:
        if name.startswith(("SLURM_", "OMPI_", "PMI_")) or name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    store, made = toy.open_job(tmp_path / "x.zarr"), []
    for variables in reversed(environments):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            made.append(jobs.run(store, toy.build, "ranks").made)
    assert sum(made) == store.manifest.chunks
    assert max(made) - min(made) <= 1
    check(store, whole)


def test_any_order_any_worker_twice(tmp_path, whole, digest):
    store = toy.open_job(tmp_path / "x.zarr")
    chunks = 2 * list(range(store.manifest.chunks))
    random.Random(0).shuffle(chunks)
    made = [jobs.work(store, "jobs.toy:build" if k % 2 else toy.build, k).made for k in chunks[:]]
    assert sum(made) == store.manifest.chunks
    check(store, whole)
    assert store.digest() == digest


@pytest.mark.parametrize(("chunk", "batch"), [(3, 1), (5, 5), (30, 6), (150, 50), (1000, 7)])
def test_the_cut_does_not_show_where_the_network_does_not_mix(tmp_path, whole, chunk, batch):
    store = toy.open_job(tmp_path / "x.zarr", chunk=chunk, batch=batch)
    jobs.run(store, toy.build)
    for name, array in whole.items():
        np.testing.assert_allclose(store[name][...], array, rtol=1e-6, atol=1e-6)


def test_samples_are_read_one_by_one_and_chunk_by_chunk(tmp_path, whole):
    store = toy.open_job(tmp_path / "x.zarr")
    jobs.work(store, toy.build, 3)
    assert np.array_equal(store[3 * toy.CHUNK]["samples"], whole["samples"][3 * toy.CHUNK])
    with pytest.raises(KeyError, match="yet to be made"):
        store[0]
    with pytest.raises(IndexError, match="outside the 150"):
        store[150]
    ((numbers, arrays),) = store
    assert numbers == range(24, 32)
    assert np.array_equal(arrays["label"], whole["label"][24:32])


# what goes wrong


def test_processes_that_die_are_replaced(tmp_path, monkeypatch, whole):
    fatal = tmp_path / "fatal"
    fatal.mkdir()
    store = toy.open_job(tmp_path / "x.zarr")
    for chunk in (2, 9, 13):
        (fatal / str(chunk)).touch()
    monkeypatch.setenv("TOY_FATAL", str(fatal))
    report = jobs.run(store, toy.build, "processes", workers=2)
    assert report.left == 0
    assert not [*fatal.iterdir()]
    check(store, whole)


def test_a_driver_that_is_killed_leaves_no_worker_and_loses_nothing(tmp_path, whole):
    pids = tmp_path / "pids"
    pids.mkdir()
    path = tmp_path / "x.zarr"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(ROOT), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        ),
        "TOY_PIDS": str(pids),
        "TOY_SLOW": "0.05",
    }
    command = [sys.executable, "-m", "jobs.toy", str(path), "processes"]
    driver = subprocess.Popen(command, env=environment, cwd=HERE.parent)
    store = Store(str(path))
    wait_for(lambda: store.there() and len(store.done()) >= 3)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    workers = {int(entry.name) for entry in pids.iterdir()} - {driver.pid}
    assert len(workers) == 2
    wait_for(lambda: not any(map(alive, workers)))
    left = store.missing()
    assert 0 < len(left) < store.manifest.chunks
    assert jobs.run(toy.open_job(path), toy.build).made == len(left)
    check(store, whole)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.02)


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("key", ["samples", "label", "receipts"])
def test_a_commit_that_is_cut_short_is_done_again(tmp_path, monkeypatch, whole, key):
    """By a kill before one of its objects, or while that is half written."""
    store = toy.open_job(tmp_path / "x.zarr")
    create = Store.create

    def dies(self, name, content):
        if name.startswith(f"{key}/c"):
            create(self, name, content[: len(content) // 2])
            raise KeyboardInterrupt
        create(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "create", dies)
        with pytest.raises(KeyboardInterrupt):
            jobs.work(store, toy.build, 4)
    if key == "receipts":
        assert store.damaged() == [4]  # a half receipt is none
        store.forget(4)
    jobs.run(store, toy.build)
    check(store, whole)


DAMAGES = {
    "a bit": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", ["a bit", "cut", "empty", "gone"])
@pytest.mark.parametrize("name", ["samples", "label", "receipts"])
def test_damage_is_found_and_made_again(tmp_path, whole, name, damage):
    store = toy.open_job(tmp_path / "x.zarr")
    jobs.run(store, toy.build)
    DAMAGES[damage](Path(store.path) / store._key(name, 11))
    gone = name == "receipts" and damage == "gone"
    assert (store.missing(), store.damaged()) == (([11], []) if gone else ([], [11]))
    for chunk in store.damaged():
        store.forget(chunk)
    assert jobs.run(store, toy.build).made == 1
    check(store, whole)


def test_chunks_that_changed_places_are_found(tmp_path):
    store = toy.open_job(tmp_path / "x.zarr")
    jobs.run(store, toy.build)
    one, other = (Path(store.path) / store._key("samples", k) for k in (3, 7))
    one.write_bytes(other.read_bytes())
    assert store.damaged() == [3]


def test_two_drivers_at_once_do_little_twice(tmp_path, monkeypatch, whole):
    monkeypatch.setenv("TOY_SLOW", "0.02")
    begins = iter([0, 9])  # where each begins, by chance elsewhere
    monkeypatch.setattr("cmsched.jobs.engines.somewhere", lambda count: next(begins))
    store, reports = toy.open_job(tmp_path / "x.zarr"), []
    drive = lambda: reports.append(jobs.run(store, toy.build))  # noqa: E731
    threads = [threading.Thread(target=drive) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    check(store, whole)
    assert len(reports) == 2
    made = sum(report.made for report in reports)
    assert store.manifest.chunks <= made <= store.manifest.chunks + 3


def test_a_full_disk_is_an_error_and_nothing_more(tmp_path):
    """On a small disk of its own, where a mount namespace is allowed."""
    script = f"""
import sys, pathlib
sys.path[:0] = [{str(ROOT)!r}, {str(HERE.parent)!r}]
from jobs import toy
from cmsched import jobs
store = toy.open_job("small/x.zarr", number=20000, chunk=1000, batch=1000)
try:
    jobs.run(store, toy.build)
except OSError as error:
    print("full:", error)
done = store.done()
assert 0 < len(done) < 20, done
assert store.damaged() == []
pathlib.Path("small/ballast").unlink()
jobs.run(store, toy.build)
print(store.digest())
"""
    large = toy.open_job(tmp_path / "x.zarr", number=20000, chunk=1000, batch=1000)
    jobs.run(large, toy.build)
    (tmp_path / "small").mkdir()
    ballast = "head -c 400k /dev/zero > small/ballast"
    mount = "mount -t tmpfs -o size=1M tmpfs small"
    command = ["unshare", "-m", "sh", "-c", f"{mount} && {ballast} && {sys.executable} -c '{{}}'"]
    command[-1] = command[-1].replace("'{}'", '"$SCRIPT"')
    environment = {**os.environ, "SCRIPT": script}
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    if done.returncode and done.stderr.startswith(("unshare:", "mount:")):
        pytest.skip(f"no disk of one's own here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.strip().splitlines()
    assert "full:" in first
    assert "No space" in first
    assert last == large.digest()


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"number": 151}, "number"),
        ({"chunk": 16}, "chunk"),
        ({"batch": 8}, "batch"),
        ({"seed": 1}, "seed"),
        ({"threads": 2}, "threads"),
        ({"build": toy.other}, "sampler.plan"),
    ],
    ids=["number", "chunk", "batch", "seed", "threads", "plan"],
)
def test_another_job_is_refused(tmp_path, changed, key):
    toy.open_job(tmp_path / "x.zarr")
    with pytest.raises(ValueError, match=re.escape(f"its {key} is")):
        toy.open_job(tmp_path / "x.zarr", **changed)


def test_a_worker_with_another_sampler_is_refused(tmp_path):
    store = toy.open_job(tmp_path / "x.zarr")
    with pytest.raises(ValueError, match=r"its sampler\.plan is"):
        jobs.run(store, toy.other)
    assert store.done() == []


def test_another_environment_is_refused_unless_it_may_be_mixed(tmp_path, monkeypatch, whole):
    store = toy.open_job(tmp_path / "x.zarr")
    jobs.work(store, toy.build, 0)
    monkeypatch.setattr("cmsched.jobs.environment.platform.machine", lambda: "abacus")
    other = Store(f"{tmp_path}/./x.zarr")  # which no thread has built for
    with pytest.raises(ValueError, match=r"machine was .* and is 'abacus'"):
        jobs.run(other, toy.build)
    other = Store(f"{tmp_path}/././x.zarr", mixed=True)
    jobs.run(other, toy.build)
    check(store, whole)
    marks = [store.receipt(k).environment for k in range(store.manifest.chunks)]
    assert len({*marks}) == len(store.environments()) == 2
    assert marks[1] == marks[-1] != marks[0]


def test_other_bits_are_a_conflict_and_the_first_stay(tmp_path, whole):
    store = toy.open_job(tmp_path / "x.zarr")
    jobs.run(store, toy.build)
    arrays = store.read(5)
    arrays["samples"] = arrays["samples"] + 1e-3
    with pytest.raises(jobs.Conflict, match="chunk 5"):
        store.commit(5, arrays)
    check(store, whole)
    assert jobs.again(store, toy.build, 5)


def test_memory_is_that_of_a_chunk(tmp_path):
    """Ten times as many samples take no more."""
    script = """
import resource, sys
from jobs import toy
from cmsched import jobs
store = toy.open_job(sys.argv[1], number=int(sys.argv[2]), chunk=2000, batch=2000)
jobs.run(store, toy.build)
sum(len(numbers) for numbers, _ in store)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    paths = os.pathsep.join([str(ROOT), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    peaks = []
    for number in (4000, 40000):
        command = [sys.executable, "-c", script, str(tmp_path / f"{number}.zarr"), str(number)]
        environment = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.1 * peaks[0]


# what is wrong


def returns(value):
    return lambda place: lambda rng: value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 0}, "number"),
        ({"chunk": 6, "batch": 4}, r"chunk=6 is no multiple of batch=4.*chunk=8"),
        ({"threads": 0}, "threads"),
        ({"seed": -1}, "seed"),
        ({"build": None}, "needs build="),
        ({"build": "no_such_module:build"}, "no_such_module.*module:name"),
        ({"build": "math"}, "leads to no function"),
        ({"build": returns(None)}, "a sampler returns a dict"),
        ({"build": returns({})}, "a sampler returns a dict"),
        ({"build": returns({"samples": np.zeros((3, 2))})}, "for 4 samples"),
        ({"build": returns({"receipts": np.zeros((4, 2))})}, "cannot name an array"),
    ],
    ids=[
        *("number", "chunk", "threads", "seed", "none", "no module", "no function"),
        *("no dict", "empty", "rows", "name"),
    ],
)
def test_bad_jobs_are_refused_and_nothing_is_made(tmp_path, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        toy.open_job(tmp_path / "x.zarr", **options)
    assert not (tmp_path / "x.zarr").exists()


def test_paths_that_are_no_stores_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing", tmp_path / "a.zarr"):
        with pytest.raises(ValueError, match="no store of a job"):
            jobs.open(path)
    (tmp_path / "file").write_text("a file of somebody's")
    with pytest.raises(ValueError, match="something else in it"):
        toy.open_job(tmp_path)
    zarr.create_group(tmp_path / "b.zarr")
    with pytest.raises(ValueError, match="no store of a job"):
        toy.open_job(tmp_path / "b.zarr")
    store = toy.open_job(tmp_path / "c.zarr")
    kept = json.loads((tmp_path / "c.zarr" / "zarr.json").read_text())
    kept["attributes"]["cmsched"]["format"] = "cmsched job 7"
    (tmp_path / "c.zarr" / "zarr.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="cmsched job 7"):
        jobs.open(store.path)


def test_engines_that_cannot_be_are_refused(tmp_path, monkeypatch):
    store = toy.open_job(tmp_path / "x.zarr")
    with pytest.raises(ValueError, match="engine"):
        jobs.run(store, toy.build, "spark")
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="torchrun"):
        jobs.run(store, toy.build, "ranks")
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="RANK=2 is outside the 2"):
        jobs.run(store, toy.build, "ranks")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match="pip install ray"):
        jobs.run(store, toy.build, "ray")
    assert store.done() == []
    with pytest.raises(IndexError, match="outside the 19 chunks"):
        jobs.work(store, toy.build, 19)


# exports and scores


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A job of small images."""

    def build(place):
        def sampler(rng):
            numbers = np.asarray(rng.sample)
            levels = (numbers[:, None] * np.arange(12) * 7) % 256
            return {"samples": levels.reshape(-1, 3, 2, 2).astype(np.uint8), "label": numbers % 2}

        return sampler

    store = jobs.open(tmp_path_factory.mktemp("p") / "x.zarr", number=10, chunk=4, build=build)
    jobs.run(store, build)
    return store


def test_exports_have_the_samples(tmp_path, pictures):
    import io
    import tarfile

    image = pytest.importorskip("PIL.Image")
    want = pictures["samples"][...]
    with np.load(jobs.export(pictures, tmp_path / "x.npz")) as found:
        assert np.array_equal(found["samples"], want)
        assert np.array_equal(found["label"], np.arange(10) % 2)
    folder = jobs.export(pictures, tmp_path / "p", "png")
    for number in range(10):
        found = np.asarray(image.open(folder / str(number % 2) / f"{number:08d}.png"))
        assert np.array_equal(np.moveaxis(found, -1, 0), want[number])
    with tarfile.open(jobs.export(pictures, tmp_path / "x.tar", "webdataset")) as archive:
        assert archive.extractfile("00000007.cls").read() == b"1"
        found = np.asarray(image.open(io.BytesIO(archive.extractfile("00000007.png").read())))
        assert np.array_equal(np.moveaxis(found, -1, 0), want[7])


def test_parquet_has_the_samples(tmp_path, pictures):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(jobs.export(pictures, tmp_path / "x.parquet", "parquet"))
    assert table["number"].to_pylist() == list(range(10))
    assert table["samples"].to_pylist() == pictures["samples"][...].reshape(10, -1).tolist()


def test_an_export_is_whole_or_not_there(tmp_path, pictures, monkeypatch):
    with pytest.raises(FileExistsError, match="is there already"):
        jobs.export(pictures, tmp_path)
    with pytest.raises(ValueError, match="to="):
        jobs.export(pictures, tmp_path / "x", "gif")
    read, calls = Store.read, []

    def dies(self, chunk):
        calls.append(chunk)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return read(self, chunk)

    monkeypatch.setattr(Store, "read", dies)
    for to in ("npz", "png"):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            jobs.export(pictures, tmp_path / "y", to)
        assert not [*tmp_path.iterdir()]


def test_scores_are_those_of_the_formulas():
    """Of normal distributions, whose distance has a closed form; and of what is near what."""
    rng = np.random.default_rng(0)
    cov = np.diag([1.0, 4.0, 9.0])
    one, other = (np.zeros(3), cov), (np.ones(3), 4 * cov)
    assert jobs.score.__module__ == "cmsched.jobs.score"
    from cmsched.jobs.score import frechet, precision_and_coverage

    assert frechet(one, other) == pytest.approx(3 + np.trace(cov))  # (2 - 1)^2 of each root
    spin = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    turned = [(spin @ m, spin @ S @ spin.T) for m, S in (one, other)]
    assert frechet(*turned) == pytest.approx(3 + np.trace(cov))
    linalg = pytest.importorskip("scipy.linalg")
    (m, S), (n, T) = [(rng.standard_normal(4), np.cov(rng.standard_normal((4, 9)))) for _ in "ab"]
    whole = np.sum((m - n) ** 2) + np.trace(S + T - 2 * np.real(linalg.sqrtm(S @ T)))
    assert frechet((m, S), (n, T)) == pytest.approx(whole)
    data = rng.standard_normal((400, 2))
    assert precision_and_coverage(data, data) == (1.0, 1.0)
    assert precision_and_coverage(data + 100, data) == (0.0, 0.0)
    precision, coverage = precision_and_coverage(data[:1], data)
    assert precision == 1.0
    assert coverage < 0.1
    score = jobs.score(iter([data[:200], data[200:]]), data)
    assert score.frechet == pytest.approx(0, abs=1e-9)


def test_it_is_not_loaded_with_the_package():
    code = "import sys, cmsched; print([m for m in sys.modules if 'jobs' in m or 'zarr' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert cmsched.Rng
