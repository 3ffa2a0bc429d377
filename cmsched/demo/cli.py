"""The command line: `sample` makes digits, `list` and `show` describe, `plot` compares."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from .. import __version__, discrete, samplers
from ..backends import resolve
from ..discrete import TokenPlan
from ..engine import sample
from ..grids import Grid
from ..jobs import ENGINES
from ..noise import Rng
from ..plan import Plan, make_plan
from ..schedulers.a1111 import A1111
from . import digits, job_commands, pictures, quality
from .names import Entry, Wrong, everything, find, short_names

__all__ = ["main"]

Array = Any
Host = npt.NDArray[Any]

DTYPES = ("float16", "bfloat16", "float32", "float64")
BACKENDS = ("numpy", "torch", "jax", "cupy")
SUFFIXES = (".png", ".npz")
BATCH = 1024  # images at a time


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; a wrong argument leaves with one line on stderr and status 2."""
    parser = _Parser(prog="cmsched", description="Diffusion, flow and consistency schedulers.")
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    commands = parser.add_subparsers(metavar="command")

    make = commands.add_parser("sample", help="make images of handwritten digits")
    which = make.add_mutually_exclusive_group()
    which.add_argument(
        "--scheduler", default="dpmpp_2m", help="class, short name or sampler (%(default)s)"
    )
    which.add_argument("--compare", metavar="A,B,...|all", help="one row of images per scheduler")
    make.add_argument("--steps", type=_integer(1), help="20, or 4 for consistency models")
    make.add_argument("--backend", choices=BACKENDS, default="numpy", help="(%(default)s)")
    make.add_argument("--device", help="as the backend names it, such as cuda:0")
    make.add_argument("--dtype", choices=DTYPES, default="float32", help="(%(default)s)")
    make.add_argument("--number", type=_integer(1), help="images: 64, or 16 for each compared")
    make.add_argument("--seed", type=_integer(0, 2**64 - 1), default=0, help="(%(default)s)")
    make.add_argument("--out", default="digits.png", help=".png, .npz or .zarr (%(default)s)")
    big = make.add_argument_group("any number of images, into a store (--out x.zarr)")
    big.add_argument("--workers", type=_integer(1), default=1, help="at once (%(default)s)")
    big.add_argument("--engine", choices=ENGINES, help="who makes them: this process, or processes")
    big.add_argument("--address", help="of the cluster of dask or ray")
    big.add_argument(
        "--chunk", type=_integer(1), default=BATCH, help="saved together (%(default)s)"
    )
    big.add_argument("--mixed", action="store_true", help="go on in another environment")
    make.set_defaults(action=_sample, speaker=make)

    job_commands.add_commands(commands)

    table = commands.add_parser("list", help="print the table of schedulers")
    table.set_defaults(action=_list, speaker=table)

    show = commands.add_parser("show", help="print a scheduler's parameters and its coefficients")
    show.add_argument("name", help="class, short name or sampler")
    show.add_argument("--steps", type=_integer(1), help="20, or 4 for consistency models")
    show.set_defaults(action=_show, speaker=show)

    plot = commands.add_parser("plot", help="draw what the samplers are worth")
    plot.add_argument("what", choices=["quality"], help="error against network evaluations")
    plot.add_argument("--out", default="quality.png", help=".png (%(default)s)")
    plot.set_defaults(action=_plot, speaker=plot)

    args = parser.parse_args(argv)
    if args.version:
        print(f"cmsched {__version__}")
    elif "action" not in args:
        parser.print_help()
    else:
        try:
            args.action(args)
            sys.stdout.flush()
        except Wrong as wrong:
            args.speaker.error(str(wrong))
        except BrokenPipeError:  # `cmsched list | head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return the reader of a whole number from low to high."""
    rule = f"a whole number of at least {low}" + (f" and at most {high}" if high else "")

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text!r} is not {rule}")
        return value

    return read


# list and show


COLUMNS = ("name", "A1111", "class", "order", "evaluations", "noise", "paper")


def _row(entry: Entry) -> tuple[str, ...]:
    """Return what the table of schedulers says of one."""
    name = entry.cls.__name__
    known = ", ".join(key for key, value in A1111.items() if value[0] == name)
    plan = entry.plan(None)
    if isinstance(plan, TokenPlan):
        return entry.short, known, name, "-", "1", "yes", "arXiv:2111.14822, eq. 11"
    sampler = samplers.get(plan.sampler)
    order = sampler.trait("order", plan.options)
    noise = "yes" if sampler.trait("stochastic", plan.options) else "no"
    return (
        entry.short,
        known,
        name,
        f"{order or '-'}",
        f"{sampler.evaluations}",
        noise,
        sampler.paper,
    )


def _list(args: argparse.Namespace) -> None:
    """Print the table of schedulers, then the registered samplers that have no class."""
    rows = [COLUMNS, *map(_row, short_names().values())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    print(f"\nsamplers of cmsched.Scheduler(sampler=...): {', '.join(samplers.REGISTRY)}")


def _show(args: argparse.Namespace) -> None:
    """Print what a scheduler is, its parameters, and its plan as a table of coefficients."""
    entry = find(args.name)
    plan = entry.plan(args.steps)
    _, known, *_, paper = _row(entry)
    print(f"{entry.title} ({entry.short})")
    print(f"paper: {paper}")
    if known:
        print(f"A1111: {known}")
    print("\nparameters and defaults")
    for name, default in {**entry.cls.options, **entry.cls.hidden_options}.items():
        if name in entry.options:
            print(f"    {name} = {entry.options[name]!r} (here)")
        else:
            print(f"    {name} = {default!r}")
    if isinstance(plan, TokenPlan):
        print(f"\n{len(plan)} steps, at the times {', '.join(map(str, plan.timesteps))}")
    elif not plan.traced:
        print(f"\nsampler {plan.sampler}: what it does depends on the data, so it has no table")
        for name, value in plan.options.items():
            print(f"    {name} = {value!r}")
    else:
        print(f"\n{plan.describe()}")


# plot


def _plot(args: argparse.Namespace) -> None:
    """Measure all samplers, and draw what they are worth."""
    out = _check_out(args.out, (".png",))
    for module in ("scipy", "matplotlib"):
        if find_spec(module) is None:
            raise Wrong(f'plot needs {module}: pip install "cmsched[plot]"')
    work = quality.cases()
    bar = _Bar(len(work), "sampler")
    curves = []
    try:
        for case in work:
            bar.advance(case.label)
            curves.append(quality.measure(case))
    finally:
        bar.close()
    pictures.draw_curves(out, curves)
    print(f"{len(curves)} samplers, {max(quality.BUDGETS)} network evaluations at most: {out}")


# sample


@dataclass
class _Made:
    """One scheduler's images and what they took."""

    short: str
    images: Host  # (number, 8, 8), float32 or float64
    evaluations: int
    network: float  # seconds
    scheduler: float  # seconds


def _sample(args: argparse.Namespace) -> None:
    """Make the images, write them, and say what was done."""
    if args.out.rstrip("/").endswith(".zarr"):
        if args.compare:
            raise Wrong("--compare makes pictures: use --out x.png, or one --scheduler for a store")
        job_commands.run_digits(args)
        return
    if args.compare is None:
        chosen = [find(args.scheduler)]
    else:
        chosen = (
            everything() if args.compare == "all" else [find(n) for n in args.compare.split(",")]
        )
    plans = [entry.plan(args.steps) for entry in chosen]
    args.number = args.number or (64 if args.compare is None else 16)
    out = _check_out(args.out)
    place = checked_backend(args.backend, args.device, args.dtype)
    _check_demo(out)

    bar = _Bar(sum(map(len, plans)) * -(-args.number // BATCH))
    made = []
    try:
        for entry, plan in zip(chosen, plans, strict=True):
            made.append(_run(entry.short, plan, args, place, bar))
    finally:
        bar.close()
    try:
        pictures.write(out, [m.short for m in made], [m.images for m in made], args.seed)
    except OSError as error:
        raise Wrong(f"--out {out} could not be written: {error.strerror}") from error

    width = max(len(m.short) for m in made)
    for m in made:
        plural = "s" if m.evaluations > 1 else ""
        print(
            f"{m.short.ljust(width)}  {m.evaluations} model evaluation{plural},"
            f" {m.network:.3f} s in the network, {m.scheduler:.3f} s in the scheduler"
        )
    each = f" from each of {len(made)} schedulers" if len(made) > 1 else ""
    print(f"{args.number} digits{each} ({args.backend}, {args.dtype}, seed {args.seed}): {out}")


def _run(
    short: str, plan: Plan | TokenPlan, args: argparse.Namespace, place: Any, bar: "_Bar"
) -> _Made:
    """Run a plan in batches: noise is numbered by sample, so their size changes nothing."""
    images, spent, evaluations = [], 0.0, 0

    def timed(network: Any) -> Any:
        def model(x: Array, t: Array) -> Array:
            nonlocal spent, evaluations
            _wait(x)
            start = time.perf_counter()
            output = network(x, t)
            _wait(output)
            spent += time.perf_counter() - start
            evaluations += 1
            bar.advance(short)
            return output

        return model

    _denoiser()  # what the images come from is loaded before the clock starts
    start = time.perf_counter()
    for first in range(0, args.number, BATCH):
        batch = range(first, min(first + BATCH, args.number))
        rng = Rng(args.seed, sample=batch)
        made = made_digits(plan, rng, args.backend, args.dtype, place, timed)
        images.append(made[:, 0])
    total = time.perf_counter() - start
    return _Made(short, np.concatenate(images), evaluations, spent, total - spent)


def made_digits(
    plan: Plan | TokenPlan,
    rng: Rng,
    backend: str,
    dtype: str,
    place: Any,
    timed: Callable[[Any], Any] = lambda network: network,
) -> Host:
    """Return the digits (batch, 1, 8, 8) of the numbers of a portable generator."""
    noise = rng.normal((len(rng.sample), 1, 8, 8), xp=backend, dtype=dtype, device=place)  # type: ignore[arg-type]
    if isinstance(plan, TokenPlan):
        x = _tokens(plan, noise, rng, timed)
    else:
        x = _digits(plan, noise, rng, timed)
    _wait(x)
    images: Host = _host(x)
    return images


@lru_cache
def _denoiser() -> digits.Denoiser:
    return digits.Denoiser()


def _digits(plan: Plan, noise: Array, rng: Rng, timed: Callable[[Any], Any]) -> Array:
    """Return the digits of a plan, of noise (batch, 1, 8, 8) or of what its kind starts from.

    A sampler of given images gets training images and fills in their lower halves; one that goes to
    noise is followed back from there.
    """
    backend, given = resolve(noise), {}
    if samplers.get(plan.sampler).given:
        images = backend.to_device_of(_examples(len(noise), rng), noise, noise.dtype)
        mask = np.zeros((1, 1, 8, 8))
        mask[..., :4, :] = 1.0
        given = {"image": images, "mask": backend.to_device_of(mask, noise, noise.dtype)}
    if plan.grid.upward:
        images = backend.to_device_of(_examples(len(noise), rng), noise, noise.dtype)
        there = sample(timed(digits.network(plan, _denoiser())), plan, images, rng=rng)
        back = Grid(plan.grid.points[::-1], plan.grid.schedule, integral=plan.grid.integral)
        plan, noise = make_plan(plan.sampler, back, plan.prediction, plan.options), there
    network = timed(digits.network(plan, _denoiser()))
    return sample(network, plan, noise, rng=rng, given=given or None)


def _examples(number: int, rng: Rng) -> Host:
    """Return training images, (number, 1, 8, 8), those of these samples."""
    chosen = (271 * (rng.seed % 1009) + 613 * np.asarray(rng.sample)) % len(digits.images())
    images: Host = digits.images()[chosen]
    return images


def _tokens(plan: TokenPlan, noise: Array, rng: Rng, timed: Callable[[Any], Any]) -> Array:
    """Return the digits whose pixels are tokens, masked at first; noise says how many and where."""
    backend = resolve(noise)
    masked = np.full((len(noise), 64), plan.mask_class)
    tokens = backend.to_device_of(masked, noise, backend.default_int)
    dtype = backend.dtype_name(backend.accumulation(noise.dtype))
    made = discrete.sample(timed(digits.token_network(plan, dtype=dtype)), plan, tokens, rng)
    levels = backend.xp.reshape(backend.astype(made, noise.dtype), noise.shape)
    return levels / 8 - 1


def _wait(x: Array) -> None:
    """Wait until x is computed: JAX and GPUs return before, and would be timed wrongly."""
    name = resolve(x).name
    if name == "jax":
        x.block_until_ready()
    elif name == "cupy":
        import cupy

        cupy.cuda.get_current_stream().synchronize()
    elif name == "torch" and x.is_cuda:
        import torch

        torch.cuda.synchronize(x.device)


def _host(x: Array) -> Any:
    """Return x as a NumPy array; half precision as float32."""
    backend = resolve(x)
    x = backend.astype(x, backend.accumulation(x.dtype))
    if backend.name == "cupy":
        return x.get()
    return np.asarray(x.cpu() if backend.name == "torch" else x)


def _check_out(name: str, suffixes: Sequence[str] = SUFFIXES) -> Path:
    """Return the output path if it can be written; finds out by opening it."""
    out = Path(name)
    if out.suffix.lower() not in suffixes:
        raise Wrong(f"--out {name}: the name must end in {' or '.join(suffixes)}")
    new = not out.exists()
    try:
        out.open("ab").close()
    except OSError as error:
        raise Wrong(f"--out {name} cannot be written: {error.strerror}") from error
    if new:
        out.unlink()
    return out


def _check_demo(out: Path) -> None:
    """Find out whether the data and what writes the output are installed."""
    if find_spec("sklearn") is None:
        raise Wrong('the digits come with scikit-learn: pip install "cmsched[demo]"')
    if out.suffix.lower() == ".png" and find_spec("matplotlib") is None:
        raise Wrong('a .png needs matplotlib: pip install "cmsched[demo]", or use --out digits.npz')


def checked_backend(name: str, device: str | None, dtype: str) -> Any:
    """Return the device as the backend takes it, after trying both with the dtype."""
    if find_spec(name) is None:
        raise Wrong(f'--backend {name} is not installed: pip install "cmsched[{name}]"')
    if name == "numpy" and dtype == "bfloat16":
        raise Wrong("--dtype bfloat16: numpy has none; use float16, or --backend torch or jax")
    if name == "jax" and dtype == "float64":
        import jax

        jax.config.update("jax_enable_x64", True)  # in this process, which is ours
    try:
        place = _device(name, device)
        Rng(0).normal((1, 1), xp=name, dtype=dtype, device=place)
    except Exception as error:  # each framework refuses in its own way
        reason = str(error).strip().partition("\n")[0]
        asked = f" --device {device}" if device else ""
        raise Wrong(f"--backend {name}{asked} --dtype {dtype} cannot be used: {reason}") from error
    return place


def _device(backend: str, name: str | None) -> Any:
    """Return what the backend takes for a device of this name."""
    if name is None or backend == "torch":
        return name
    kind, _, index = name.partition(":")
    if backend == "jax":
        import jax

        return jax.devices(kind)[int(index or 0)]
    if backend == "cupy" and kind in ("cuda", "gpu"):
        import cupy

        return cupy.cuda.Device(int(index or 0))
    if backend == "numpy" and name == "cpu":
        return None
    raise ValueError(f"{backend} has no device {name!r}")


class _Bar:
    """A progress bar, if tqdm is installed and stderr is a terminal."""

    def __init__(self, total: int, unit: str = "evaluation") -> None:
        self.bar: Any = None
        if find_spec("tqdm"):
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit=unit, leave=False, disable=None)

    def advance(self, what: str) -> None:
        """Count one."""
        if self.bar is not None:
            self.bar.set_description(what, refresh=False)
            self.bar.update()

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()


if __name__ == "__main__":
    main()
