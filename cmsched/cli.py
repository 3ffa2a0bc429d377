"""The command line: `sample` makes digits, `list` and `show` describe, `plot` compares."""

import argparse
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from . import digits, discrete, quality, samplers, schedulers
from ._messages import nearest
from .backends import resolve
from .discrete import TokenPlan
from .engine import sample
from .noise import Rng
from .plan import Plan, make_plan
from .schedulers import CLASSES, ConfigMixin, Scheduler
from .schedulers.a1111 import A1111
from .spacings import Grid

__all__ = ["main"]

Array = Any
Host = npt.NDArray[Any]

DTYPES = ("float16", "bfloat16", "float32", "float64")
BACKENDS = ("numpy", "torch", "jax", "cupy")
SUFFIXES = (".png", ".npz")
BATCH = 1024  # images at a time
WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # where a word begins

# Short names are made from those of the classes; these are better known by another.
SHORT_NAMES = {
    "CMStochasticIterativeScheduler": "cm",
    "CogVideoXDDIMScheduler": "cogvideox_ddim",
    "CogVideoXDPMScheduler": "cogvideox_dpm",
    "DEISMultistepScheduler": "deis",
    "DPMSolverMultistepInverseScheduler": "dpmpp_2m_inverse",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "DPMSolverSDEScheduler": "dpmpp_sde",
    "DPMSolverSinglestepScheduler": "dpmpp_2s",
    "RePaintScheduler": "repaint",
    "UniPCMultistepScheduler": "unipc",
}


class Wrong(Exception):
    """What the user asked for cannot be done; the message says what to do instead."""


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
    make.add_argument("--out", default="digits.png", help=".png or .npz (%(default)s)")
    make.set_defaults(action=_sample, speaker=make)

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
        print(f"cmsched {_version()}")
    elif "action" not in args:
        parser.print_help()
    else:
        try:
            args.action(args)
        except Wrong as wrong:
            args.speaker.error(str(wrong))


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


def _version() -> str:
    from importlib import metadata  # slow to import, and rarely needed

    try:
        return metadata.version("cmsched")
    except metadata.PackageNotFoundError:  # a source tree that is not installed
        return "unknown"


# list and show


def _short(name: str) -> str:
    """Return the short name of a class: EulerAncestralDiscreteScheduler is euler_ancestral."""
    stem = name.removesuffix("Scheduler").removesuffix("Discrete")
    return SHORT_NAMES.get(name) or WORDS.sub("_", stem).lower()


@dataclass(frozen=True)
class _Entry:
    """A scheduler that can be named: a class, or the general one with a registered sampler."""

    short: str
    cls: type[ConfigMixin]
    options: Mapping[str, Any]

    @property
    def title(self) -> str:
        """The name of the class, with the sampler where that says what it is."""
        sampler = self.options.get("sampler")
        return self.cls.__name__ + (f"(sampler={sampler!r})" if sampler else "")

    def plan(self, steps: int | None) -> Plan | TokenPlan:
        """Return the plan with the defaults; consistency models need few steps."""
        made: Any = self.cls(**self.options)
        try:
            if self.cls is schedulers.VQDiffusionScheduler:  # steps over the whole chain
                times = np.linspace(len(made) - 1, 0, steps or 20)
                tokens: TokenPlan = made.plan(timesteps=np.round(times).astype(int))
                return tokens
            plan: Plan = made.plan(num_inference_steps=steps or 20)
            if steps is None and samplers.get(plan.sampler).trait("order", plan.options) == 0:
                plan = made.plan(num_inference_steps=4)
        except (ValueError, ImportError) as error:
            raise Wrong(f"{self.title}: {error}") from error
        return plan


# What a class needs to be told where it has no defaults.
NEEDED = {"VQDiffusionScheduler": {"num_vec_classes": digits.LEVELS + 1}}
SMOOTH = {"schedule": "vp_sde", "spacing": "karras", "sigma_max": 80.0, "sigma_min": 0.02}


def _schedulers() -> dict[str, _Entry]:
    """Return the named schedulers by their short names, in alphabetical order."""
    names = [name for name in CLASSES if name in schedulers.__all__ and name != "Scheduler"]
    entries = [_Entry(_short(name), CLASSES[name], NEEDED.get(name, {})) for name in names]
    return {entry.short: entry for entry in sorted(entries, key=lambda entry: entry.short)}


def _samplers() -> dict[str, _Entry]:
    """Return the registered samplers whose names no class has."""
    entries = {}
    for name in sorted({*samplers.REGISTRY} - {*_schedulers()}):
        final = "zero" if samplers.get(name).trait("singular") else "sigma_min"
        options = {"sampler": name, **SMOOTH, "final_sigmas_type": final}
        entries[name] = _Entry(name, Scheduler, options)
    return entries


def _all() -> list[_Entry]:
    """Return one of everything: each class, and each sampler that no class runs by itself."""
    classes = list(_schedulers().values())
    run = {plan.sampler for e in classes if isinstance(plan := e.plan(None), Plan)}
    return [*classes, *(entry for name, entry in _samplers().items() if name not in run)]


def _find(name: str) -> _Entry:
    """Return the scheduler of a name: short, of the class, or of a registered sampler."""
    classes = _schedulers()
    known = {**classes, **_samplers()}
    titles = {entry.cls.__name__: entry for entry in classes.values()}
    if name in known or name in titles:
        return known.get(name) or titles[name]
    hint = nearest(name, [*known, *titles])
    raise Wrong(
        f"unknown scheduler {name!r}" + (hint if "mean" in hint else f"; known: {', '.join(known)}")
    )


COLUMNS = ("name", "A1111", "class", "order", "evaluations", "noise", "paper")


def _row(entry: _Entry) -> tuple[str, ...]:
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
    rows = [COLUMNS, *map(_row, _schedulers().values())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    print(f"\nsamplers of cmsched.Scheduler(sampler=...): {', '.join(samplers.REGISTRY)}")


def _show(args: argparse.Namespace) -> None:
    """Print what a scheduler is, its parameters, and its plan as a table of coefficients."""
    entry = _find(args.name)
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
    elif plan.layout is None:
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
    quality.picture(out, curves)
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
    if args.compare is None:
        chosen = [_find(args.scheduler)]
    else:
        chosen = _all() if args.compare == "all" else [_find(n) for n in args.compare.split(",")]
    plans = [entry.plan(args.steps) for entry in chosen]
    args.number = args.number or (64 if args.compare is None else 16)
    out = _check_out(args.out)
    place = _check_backend(args.backend, args.device, args.dtype)
    _check_demo(out)

    bar = _Bar(sum(map(len, plans)) * -(-args.number // BATCH))
    made = []
    try:
        for entry, plan in zip(chosen, plans, strict=True):
            made.append(_run(entry.short, plan, args, place, bar))
    finally:
        bar.close()
    try:
        _write(out, made, args.seed)
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
        noise = rng.normal((len(batch), 1, 8, 8), xp=args.backend, dtype=args.dtype, device=place)
        if isinstance(plan, TokenPlan):
            x = _tokens(plan, noise, rng, timed)
        else:
            x = _digits(plan, noise, rng, timed)
        _wait(x)
        images.append(_host(x)[:, 0])
    total = time.perf_counter() - start
    return _Made(short, np.concatenate(images), evaluations, spent, total - spent)


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
        images = backend.put(_examples(len(noise), rng), noise, noise.dtype)
        mask = np.zeros((1, 1, 8, 8))
        mask[..., :4, :] = 1.0
        given = {"image": images, "mask": backend.put(mask, noise, noise.dtype)}
    if plan.grid.upward:
        images = backend.put(_examples(len(noise), rng), noise, noise.dtype)
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
    tokens = backend.put(masked, noise, backend.default_int)
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


def _check_backend(name: str, device: str | None, dtype: str) -> Any:
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


def _write(out: Path, made: list[_Made], seed: int) -> None:
    """Write the images: as a square, or with several schedulers a row for each."""
    if out.suffix.lower() == ".npz":
        images = np.stack([m.images for m in made])[:, :, None]
        names = [m.short for m in made]
        np.savez_compressed(out, images=images, schedulers=names, seed=np.uint64(seed))
    elif len(made) == 1:
        _picture(out, [_tiles(made[0].images, math.isqrt(len(made[0].images) - 1) + 1)])
    else:
        rows = [_tiles(m.images, len(m.images)) for m in made]
        _picture(out, rows, [m.short for m in made])


def _tiles(images: Host, columns: int) -> Host:
    """Return images (number, 8, 8) side by side, enlarged: ink is 1, paper 0."""
    rows = -(-len(images) // columns)
    ink = np.zeros((rows * columns, 8, 8))
    ink[: len(images)] = np.clip((images + 1.0) / 2.0, 0.0, 1.0)
    tiles = np.pad(ink.repeat(6, axis=1).repeat(6, axis=2), ((0, 0), (2, 2), (2, 2)))
    height, width = tiles.shape[1:]
    grid = tiles.reshape(rows, columns, height, width).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width)


def _picture(out: Path, rows: list[Host], labels: Sequence[str] = ()) -> None:
    """Write rows of one height as a picture, pixel for pixel, with their labels to the left."""
    from matplotlib.figure import Figure

    pixels = np.concatenate(rows)
    margin = 10 + 7 * max(map(len, labels)) if labels else 0
    height, width = pixels.shape[0], pixels.shape[1] + margin
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    figure.figimage(pixels, xo=margin, cmap="gray_r", vmin=0, vmax=1)
    for i, label in enumerate(labels):
        y = 1 - (i + 0.5) / len(labels)
        figure.text(5 / width, y, label, va="center", family="monospace", fontsize=8)
    figure.savefig(out)


if __name__ == "__main__":
    main()
