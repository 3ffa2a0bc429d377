"""What a job costs beside its samples: the store, the engines, going on after a stop.

CPU seconds of this process and of all it started. Chunks are empty (what an engine costs), of real
work (what part of it store and engine are), or there already (what going on costs).
"""

import os
import resource
import tempfile
import time
from pathlib import Path

from timing import header, options, report, table, verdict

STARTED = __name__ == "__main__"
GIVEN = options(__doc__) if STARTED else None  # before NumPy: its threads

import numpy as np  # noqa: E402

import cmsched  # noqa: E402
from cmsched import jobs  # noqa: E402

SHAPE = (3, 16, 16)


def nothing(place):
    """A sampler that makes zeros."""
    return lambda rng: {"samples": np.zeros((len(rng.sample), *SHAPE), np.float32)}


def slow(place):
    """A sampler of two seconds of work a chunk, or of what SECONDS says."""
    seconds = float(os.environ.get("SECONDS", 2))

    def sampler(rng):
        end = time.process_time() + seconds
        while time.process_time() < end:
            np.sqrt(np.arange(10_000.0)).sum()
        return nothing(place)(rng)

    return sampler


def straggling(place):
    """A sampler that sleeps for a fifth of a second a chunk, on the first worker for one."""

    def sampler(rng):
        time.sleep(1.0 if place.rank == 0 else 0.2)
        return nothing(place)(rng)

    return sampler


def digits(place):
    """The sampler of digits, that of the command line."""
    from cmsched.demo.job_commands import digits_at

    options = {"steps": 20, "backend": "numpy", "dtype": "float32", "device": None}
    return digits_at(place, scheduler="euler_ancestral", **options)


def spent():
    """CPU seconds of this process, and of those that have ended."""
    each = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in each)


def job(build, number, chunk=1, **options):
    path = tempfile.mkdtemp() + "/x.zarr"
    return jobs.open(path, number=number, chunk=chunk, batch=chunk, build=build, **options)


def run(build, number, engine, **options):
    """Return CPU seconds, and seconds, of a job."""
    store = job(build, number)
    before, begun = spent(), time.perf_counter()
    jobs.run(store, build, engine, **options)
    return spent() - before, time.perf_counter() - begun


def engines(count):
    """Milliseconds of CPU a chunk, empty chunks; by two sizes, so that what starts cancels out."""
    rows, inline = [], 0.0
    # Ray's processes are not this one's children, and not counted: it is not raced
    for engine, most in (("here", None), ("processes", 1), ("dask", 12)):
        try:
            small, large = (run(nothing, n, engine, workers=2)[0] for n in (count // 4, count))
        except ImportError as error:
            rows.append([engine, None, None, str(error)])
            continue
        each = 1e3 * (large - small) / (count - count // 4)
        inline = inline or each
        over = each - inline
        rows.append([engine, each, over, verdict(over, most=most) if most else ""])
    return rows


def shares(short):
    """What part store and engine are of jobs of real work."""
    seconds, count = (0.5, 6) if short else (2.0, 20)
    os.environ["SECONDS"] = str(seconds)
    cpu, _ = run(slow, count, "here")
    work = count * seconds
    store = job(digits, 2048 if short else 8192, 1024)
    sampler = digits(jobs.Place())
    before = spent()
    for k in range(0, store.manifest.number, 1024):
        sampler(cmsched.Rng(0, sample=range(k, k + 1024)))
    alone = spent() - before
    before = spent()
    jobs.run(store, digits)
    whole = spent() - before
    parts = {f"chunks of {seconds:g} s": (cpu / work - 1, 0.02)}
    parts["digits, chunks of 1024"] = (whole / alone - 1, 0.05)
    return [[name, part, verdict(part, most=most)] for name, (part, most) in parts.items()]


def going_on(count):
    """Seconds to the first new chunk where nearly all are there; what a slow worker costs."""
    store = job(nothing, count)
    jobs.work(store, nothing, 0)
    folder = Path(store.path) / "receipts"
    content = (folder / "c.0.0").read_bytes()
    for k in range(1, count - 1):
        (folder / f"c.{k}.0").write_bytes(content)
    begun = time.perf_counter()
    again = jobs.open(store.path)
    jobs.work(again, nothing, again.missing()[0])
    resumed = time.perf_counter() - begun
    chunks = 320
    _, seconds = run(straggling, chunks, "here", workers=4)
    ratio = seconds * (1 / 1.0 + 3 / 0.2) / chunks
    return [
        [f"first new chunk after {count} receipts, s", resumed, verdict(resumed, most=1)],
        ["a worker five times slower, of four: time / ideal", ratio, verdict(ratio, most=1.1)],
    ]


def main():
    """Measure and print."""
    empty = engines(120 if GIVEN.short else 1000)
    real = shares(GIVEN.short)
    later = going_on(5_000 if GIVEN.short else 50_000)
    parts = [
        table(empty, ["empty chunks", "CPU ms a chunk", "beyond `here`", "expected"]),
        table(real, ["beside real work", "store and engine / work", "expected"]),
        table(later, ["going on", "measured", "expected"]),
    ]
    about = header("zarr", "distributed", "numpy", threads=GIVEN.threads)
    report("jobs", about, "\n\n".join(parts), [*empty, *real, *later], GIVEN.keep)


if STARTED:
    main()
