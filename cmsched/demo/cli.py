"""The command line: `sample` makes digits, `list` and `show` describe, `plot` compares."""

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__, samplers
from ..discrete import TokenPlan
from ..jobs import ENGINES
from ..schedulers.a1111 import A1111
from ..schedulers.explained import meaning_of
from . import job_commands, making, pictures, quality
from .names import Entry, Wrong, everything, find, short_names
from .progress import Bar, say

__all__ = ["main"]

DTYPES = ("float16", "bfloat16", "float32", "float64")
BACKENDS = ("numpy", "torch", "jax", "cupy")
SUFFIXES = (".png", ".npz")


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
        "--scheduler", default="dpmpp_2m", help="any name that `list` prints (%(default)s)"
    )
    which.add_argument(
        "--compare",
        metavar="A,B:STEPS,...|all",
        help="one row of images per scheduler, such as lcm:4,ddim,ddim:50",
    )
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
        "--chunk", type=_integer(1), default=making.BATCH, help="saved together (%(default)s)"
    )
    big.add_argument("--mixed", action="store_true", help="go on in another environment")
    make.set_defaults(action=_sample, speaker=make)

    job_commands.add_commands(commands)

    table = commands.add_parser("list", help="print the table of schedulers")
    table.add_argument("--json", action="store_true", help="as JSON, with papers and options")
    table.set_defaults(action=_list, speaker=table)

    show = commands.add_parser("show", help="print a scheduler's parameters and its coefficients")
    show.add_argument("name", help="any name that `list` prints")
    show.add_argument("--steps", type=_integer(1), help="20, or 4 for consistency models")
    show.add_argument("--json", action="store_true", help="as JSON, with the plan's own")
    show.set_defaults(action=_show, speaker=show)

    plot = commands.add_parser("plot", help="draw what the samplers are worth")
    plot.add_argument("what", choices=["quality"], help="error against network evaluations")
    plot.add_argument("--all", action="store_true", help="every sampler, not six")
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


COLUMNS = ("name", "class", "order", "evaluations", "noise", "A1111")
WIDEST = 34  # of the last column


def _facts(entry: Entry) -> dict[str, Any]:
    """Return what is known of a scheduler, as plain data.

    order: that of convergence with the defaults, at least where noise is drawn; None where there is
    none, as of what jumps to the end.
    """
    name, plan = entry.cls.__name__, entry.plan(None)
    facts = {
        "name": entry.short,
        "class": name,
        "order": None,
        "evaluations": 1,
        "noise": True,
        "A1111": [key for key, value in A1111.items() if value[0] == name],
        "paper": "arXiv:2111.14822, eq. 11",
        "options": {**entry.cls.options, **entry.cls.hidden_options, **entry.options},
    }
    if isinstance(plan, TokenPlan):
        return facts
    sampler = samplers.get(plan.sampler)
    return {
        **facts,
        "order": sampler.trait("order", plan.options) or None,
        "evaluations": sampler.evaluations,
        "noise": bool(sampler.trait("stochastic", plan.options)),
        "paper": sampler.paper,
    }


def _cells(facts: dict[str, Any]) -> tuple[str, ...]:
    """Return a row of the table; an order that noise may better has a plus."""
    order = f"{facts['order'] or '-'}" + "+" * bool(facts["order"] and facts["noise"])
    noise = "yes" if facts["noise"] else "no"
    known = ", ".join(facts["A1111"])
    return facts["name"], facts["class"], order, f"{facts['evaluations']}", noise, known


def _list(args: argparse.Namespace) -> None:
    """Print the table of schedulers, then the registered samplers that have no class."""
    facts = [_facts(entry) for entry in short_names().values()]
    if args.json:
        print(json.dumps({"schedulers": facts, "samplers": [*samplers.REGISTRY]}, indent=1))
        return
    rows = []
    for *cells, known in [COLUMNS, *map(_cells, facts)]:
        unbroken = known.replace(" ", "\0").replace(",\0", ", ")  # between names only
        first, *more = (part.replace("\0", " ") for part in textwrap.wrap(unbroken, WIDEST) or [""])
        rows += [(*cells, first), *(("",) * len(cells) + (line,) for line in more)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    registered = f"samplers of cmsched.Scheduler(sampler=...): {', '.join(samplers.REGISTRY)}"
    print("", *textwrap.wrap(registered, 118), sep="\n")


def _show(args: argparse.Namespace) -> None:
    """Print what a scheduler is, its parameters, and its plan as a table of coefficients."""
    entry = find(args.name)
    plan, facts = entry.plan(args.steps), _facts(entry)
    if args.json:
        if isinstance(plan, TokenPlan):
            made = {"timesteps": [*plan.timesteps]}
        else:
            made = json.loads(plan.to_json())
        print(json.dumps({**facts, "plan": made}, indent=1))
        return
    print(f"{entry.title} ({entry.short})")
    print(f"paper: {facts['paper']}")
    if facts["A1111"]:
        print(f"A1111: {', '.join(facts['A1111'])}")
    print("\nparameters and defaults")
    for name, default in {**entry.cls.options, **entry.cls.hidden_options}.items():
        value = f"{entry.options[name]!r} (here)" if name in entry.options else repr(default)
        print(f"    {name} = {value}")
        print(textwrap.indent(textwrap.fill(meaning_of(entry.cls, name), 88), " " * 8))
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
    """Measure samplers, and draw what they are worth."""
    out = _check_out(args.out, (".png",))
    _check_packages("plot", "scipy", "matplotlib")
    work = quality.cases() if args.all else list(quality.SIX)
    budgets = quality.BUDGETS if args.all else quality.FROM_ONE
    say(f"{len(work)} samplers: loading")
    same = None if args.all else quality.distribution()
    bar = Bar(len(work), "sampler", quality.expected(work, budgets, same))
    curves = []
    try:
        for case in work:
            bar.advance(case.label)
            curves.append(quality.measure(case, budgets, same))
    finally:
        bar.close()
    (pictures.draw_curves if args.all else pictures.draw_six)(out, curves)
    print(f"{len(curves)} samplers, {max(budgets)} network evaluations at most: {out}")


# sample


def _sample(args: argparse.Namespace) -> None:
    """Make the images, write them, and say what was done."""
    if args.out.rstrip("/").endswith(".zarr"):
        if args.compare:
            raise Wrong("--compare makes pictures: use --out x.png, or one --scheduler for a store")
        job_commands.run_digits(args)
        return
    if args.compare == "all":
        chosen = [(entry.short, entry, args.steps) for entry in everything()]
    else:
        asked = [args.scheduler] if args.compare is None else args.compare.split(",")
        chosen = [_asked(text.strip(), args.steps) for text in asked]
    plans = [entry.plan(steps) for _, entry, steps in chosen]
    names = [name for name, _, _ in chosen]
    number = args.number or (64 if args.compare is None else 16)
    out = _check_out(args.out)
    place = making.checked_place(args.backend, args.device, args.dtype)
    _check_packages("sample", "scikit-learn", *(["matplotlib"] if _is_png(out) else []))

    shown = ", ".join(names) if len(names) <= 8 else f"each of {len(names)} schedulers"
    say(f"{number} digits by {shown}: loading")
    with making.one_thread():
        evaluations = sum(map(len, plans)) * -(-number // making.BATCH)
        bar = Bar(evaluations, "evaluation", making.expected(plans, number, place))
        try:
            made = [
                making.make(name, plan, number, args.seed, place, bar)
                for name, plan in zip(names, plans, strict=True)
            ]
        finally:
            bar.close()
    try:
        pictures.write(out, names, [m.images for m in made], args.seed)
    except OSError as error:
        raise Wrong(f"--out {out} could not be written: {error.strerror}") from error

    width = max(map(len, names))
    for m in made:
        plural = "s" if m.evaluations > 1 else ""
        print(
            f"{m.name.ljust(width)}  {m.evaluations} model evaluation{plural},"
            f" {m.network:.3f} s in the network, {m.scheduler:.3f} s in the scheduler"
        )
    each = f" from each of {len(made)} schedulers" if len(made) > 1 else ""
    print(f"{number} digits{each} ({args.backend}, {args.dtype}, seed {args.seed}): {out}")


def _asked(text: str, steps: int | None) -> tuple[str, Entry, int | None]:
    """Return what NAME or NAME:STEPS asks for: its title, the scheduler, the steps."""
    name, colon, number = text.partition(":")
    entry = find(name.strip())
    if not colon:
        return text, entry, steps
    try:
        return text, entry, _integer(1)(number.strip())
    except argparse.ArgumentTypeError as error:
        raise Wrong(f"{text!r}: {error}") from error


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


def _is_png(out: Path) -> bool:
    return out.suffix.lower() == ".png"


def _check_packages(command: str, *packages: str) -> None:
    """Find out whether what a command needs is installed."""
    modules = {"scikit-learn": "sklearn"}
    missing = [name for name in packages if find_spec(modules.get(name, name)) is None]
    if missing:
        other = (
            ", or use --out digits.npz" if missing == ["matplotlib"] and command != "plot" else ""
        )
        raise Wrong(
            f"{command} needs {' and '.join(missing)}: pip install {' '.join(missing)}{other}"
        )


if __name__ == "__main__":
    main()
