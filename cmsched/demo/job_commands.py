"""`cmsched sample --out x.zarr` and `cmsched job`: any number of digits, and what is in a store."""

import argparse
import sys
import time
from functools import partial
from typing import Any

import numpy as np

from .. import jobs
from ..noise import Rng
from . import digits, making
from .names import Wrong, find

__all__ = ["add_commands", "run_digits"]

QUIET = 60.0  # seconds between lines of progress where there is no terminal


class Digits:
    """The sampler of digits: a scheduler, by its name, and the exact denoiser."""

    def __init__(self, scheduler: str, steps: int | None, place: making.Place):
        self.scheduler, self.place, self.xp = scheduler, place, place.backend
        self.plan = find(scheduler).plan(steps)

    def describe(self) -> dict[str, Any]:
        """Return what belongs to the job."""
        return {
            "name": "digits",
            "scheduler": self.scheduler,
            "steps": len(self.plan),
            "backend": self.place.backend,
            "dtype": self.place.dtype,
        }

    def __call__(self, rng: Rng) -> dict[str, Any]:
        """Make the digits of these numbers."""
        return {"samples": making.one_batch(self.plan, rng, self.place)}


def digits_at(
    place: jobs.Place,
    *,
    scheduler: str,
    steps: int | None,
    backend: str,
    dtype: str,
    device: str | None = None,
) -> Digits:
    """Build the sampler of digits at a place."""
    where = making.checked_place(backend, place.device or device, dtype)
    return Digits(scheduler, steps, where)


def run_digits(args: argparse.Namespace) -> None:
    """Make a number of digits into a store; the same command goes on where it was."""
    options = {
        "scheduler": find(args.scheduler).short,
        "steps": args.steps,
        "backend": args.backend,
        "dtype": args.dtype,
        "device": args.device,
    }
    build = partial(digits_at, **options)
    with explained():
        store = jobs.open(
            args.out,
            build=build,
            number=args.number or 64,
            chunk=args.chunk,
            seed=args.seed,
            mixed=args.mixed,
        )
        there = len(store.done())
        line = Progress(store, there)
        try:
            report = jobs.run(
                store,
                build,
                args.engine or ("processes" if args.workers > 1 else "here"),
                workers=args.workers,
                address=args.address,
                seen=line.advance,
            )
        finally:
            line.close()
    again = f", {there} chunks were there" if there else ""
    print(
        f"{len(store)} digits in {store.manifest.chunks} chunks: {report.made} made in"
        f" {report.seconds:.1f} s{again}, {report.left} left: {args.out}"
    )


def add_commands(commands: Any) -> None:
    """Add `job` and what it does."""
    job = commands.add_parser("job", help="what became of a store: status, verify, export, score")
    what = job.add_subparsers(metavar="what", required=True)

    status = what.add_parser("status", help="print what the job is, and how far it is")
    status.set_defaults(action=_status, speaker=status)

    verify = what.add_parser("verify", help="compare what is stored with the receipts")
    verify.add_argument("--again", metavar="1%", help="make this part of the chunks again, too")
    verify.add_argument("--forget", action="store_true", help="remove what is damaged")
    verify.set_defaults(action=_verify, speaker=verify)

    export = what.add_parser("export", help="write the samples in another format")
    export.add_argument("--to", choices=jobs.FORMATS, default="npz", help="(%(default)s)")
    export.add_argument("--out", required=True, help="the file, or the folder of PNGs")
    export.set_defaults(action=_export, speaker=export)

    score = what.add_parser("score", help="Frechet distance, precision and coverage")
    score.add_argument("--data", metavar="X.npz", help="what to compare with: the digits")
    score.set_defaults(action=_score, speaker=score)
    for command in (status, verify, export, score):
        command.add_argument("store", help="the path or URL of a store")


def _status(args: argparse.Namespace) -> None:
    with explained():
        store = jobs.open(args.store)
        done, job = store.done(), store.manifest
    print(f"{job.number} samples, seed {job.seed}, {job.chunks} chunks of {job.chunk}")
    for name, (shape, dtype) in job.arrays.items():
        print(f"    {name}: {dtype} {tuple(shape)}")
    for name, value in job.sampler.items():
        print(f"    {name} = {value!r}")
    print(f"{len(done)} chunks are there, {job.chunks - len(done)} are yet to be made")
    for mark, environment in store.environments().items():
        versions = " ".join(f"{k} {v}" for k, v in environment["versions"].items())
        print(f"environment {mark.hex()}: {versions}")


def _verify(args: argparse.Namespace) -> None:
    with explained():
        store = jobs.open(args.store)
        damaged = store.damaged()
        for chunk in damaged:
            print(f"chunk {chunk} is not what its receipt says")
            if args.forget:
                store.forget(chunk)
        sound = [chunk for chunk in store.done() if chunk not in damaged]
        other = _made_again(store, sound, args.again) if args.again else []
    for chunk in other:
        print(f"chunk {chunk} has other bits when it is made again")
    print(f"{len(sound)} of {store.manifest.chunks} chunks are as their receipts say")
    if damaged or other:
        sys.exit(1)


def _made_again(store: jobs.Store, sound: list[int], part: str) -> list[int]:
    """Return those of a part of the chunks that have other bits when they are made again."""
    said = store.manifest.sampler
    if said.get("name") != "digits":
        raise Wrong("--again makes digits; for a model of your own call cmsched.jobs.again")
    try:
        share = float(part.rstrip("%")) / (100 if part.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise Wrong(f"--again {part}: give a part of the chunks, such as 1% or 0.01")
    own = {key: said[key] for key in ("scheduler", "steps", "backend", "dtype")}
    build = partial(digits_at, **own, device=None)
    count = max(1, round(share * len(sound)))
    chosen = np.random.default_rng(time.time_ns()).permutation(sound)[:count].tolist()
    return [chunk for chunk in chosen if not jobs.again(store, build, chunk)]


def _export(args: argparse.Namespace) -> None:
    with explained():
        out = jobs.export(jobs.open(args.store), args.out, args.to)
    print(f"{out}")


def _score(args: argparse.Namespace) -> None:
    with explained():
        store = jobs.open(args.store)
        if args.data:
            data = np.load(args.data)
            data = data[data.files[0]]
        else:
            data = digits.images()
        found = jobs.score((arrays["samples"] for _, arrays in store), data)
    print(f"Frechet distance {found.frechet:.4g} (of pixels, {len(data)} data)")
    print(f"precision {found.precision:.3f}, coverage {found.coverage:.3f}")


class explained:
    """Turns what a job refuses into one line of the command."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        known = (ValueError, ImportError, OSError, KeyError, TypeError, jobs.Conflict)
        if isinstance(error, known) and not isinstance(error, Wrong):
            text = str(error) or kind.__name__
            raise Wrong(text.replace("mixed=True (--mixed)", "--mixed")) from error


class Progress:
    """A bar on a terminal, elsewhere a line a minute: samples, how many a second, what is left."""

    def __init__(self, store: jobs.Store, there: int) -> None:
        self.job, self.there, self.done = store.manifest, there, 0
        self.begun = self.said = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def advance(self, receipt: jobs.Receipt) -> None:
        """Count a chunk."""
        self.done += 1
        now = time.monotonic()
        if now - self.said < (0.2 if self.terminal else QUIET):
            return
        self.said = now
        rate = self.done * self.job.chunk / (now - self.begun)
        made = min((self.there + self.done) * self.job.chunk, self.job.number)
        left = (self.job.number - made) / rate
        text = f"{made} of {self.job.number} samples, {rate:.0f} a second, {left:.0f} s left"
        end = "\r" if self.terminal else "\n"
        print(f"{text:70s}", end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the line."""
        if self.terminal:
            print(f"{'':70s}", end="\r", file=sys.stderr, flush=True)
