"""What is made of the tables of options: the page `docs/options.md`, and the types of the classes.

`python tests/generated.py` writes both; `test_options` keeps them equal.
"""

import inspect
import math
import textwrap
from pathlib import Path

from cmsched import samplers
from cmsched.schedulers import FAMILIES, explained, outputs
from cmsched.schedulers.base import PlanMixin, run_options
from cmsched.schedulers.config import classes
from cmsched.schedulers.habit import SchedulerMixin
from cmsched.schedulers.options import RULES, Rule

ROOT = Path(__file__).parents[1]
COMMAND = "python tests/generated.py"
REQUIRED = inspect.Parameter.empty

# Any text: names that may have other spellings, or be of parts that are entered from outside.
NAMES = ("prediction_type", "sampler", "schedule", "spacing")
# what the general scheduler takes in place of a name
PARTS = {
    "schedule": "str | Schedule",
    "spacing": "str | Callable[..., Any]",
    "prediction_type": "str | Prediction | Callable[..., Any]",
}
# what tables do not say: arrays of any framework are Any
KINDS = {
    "trained_betas": "Any",
    "recipe": "Recipe | None",
    "solver_p": "Any",
    "noise_sampler_seed": "int | Sequence[int] | None",
    "disable_corrector": "Sequence[int] | bool",
    "num_vec_classes": "int",
    "corrector": "str | tuple[Any, ...] | None",
    "half_step": "float | None",
    "variance_type": "",
    **dict.fromkeys(("device", "xp", "generator", "variance_noise"), "Any"),
    **dict.fromkeys(("timesteps", "sigmas", "per_token_timesteps", "pred_original_sample"), "Any"),
    "num_inference_steps": "int | None",
    "original_inference_steps=": "int | None",
    "num_train_timesteps=": "int | None",
    "mu": "float | None",
    "sampling_eps=": "float | None",
    "return_dict": "bool",
}
ANY_SAMPLER = ("Scheduler", "KDiffusionScheduler", "UniPCMultistepScheduler")


def own_classes():
    """The classes of cmsched that have options, by name."""
    families = [name for names in FAMILIES.values() for name in names]
    return {k: v for k, v in sorted(classes().items()) if k in families}


def own_samplers():
    """The registered samplers that are cmsched's own, by name."""
    known = sorted(samplers.REGISTRY.items())
    return {k: v for k, v in known if v.loop.__module__.startswith("cmsched.")}


def options_of(cls):
    return {**cls.options, **cls.hidden_options}


# types


def kind(name, default, cls=None, call=False):
    """The type of an option, as text."""
    named = KINDS.get(f"{name}=" if call else name) or (call and KINDS.get(name))
    if named:
        return named
    rule = RULES.get(name, Rule())
    if name in PARTS and cls is classes()["Scheduler"]:
        return PARTS[name]
    choices = list((cls.choices.get(name, ()) if cls else ()) or rule.choices)
    if choices and name not in NAMES:
        choices += [k for k, v in cls.aliases.items() if v in choices] if cls else []
        return f"Literal[{', '.join(map(repr, dict.fromkeys(choices)))}]"
    sample = rule.kind if default is None else default
    text = {dict: "dict[str, Any]", type(None): "Any", tuple: "Any"}.get(type(sample))
    text = text or type(sample).__name__
    nothing = default is None or default is False or rule.optional
    return f"{text} | None" if nothing and text != "Any" else text


def parameter(name, default, cls=None, call=False):
    """A parameter as a stub writes it."""
    text = f"{name}: {kind(name, default, cls, call)}"
    if default is REQUIRED:
        return f"{text} = None" if call else text
    if isinstance(default, float) and math.isinf(default):
        return f"{text} = ..."
    return f"{text} = {default!r}"


def method(name, positional, named, returns, decorators=()):
    """A method as a stub writes it."""
    inside = ["self", *positional, *(["*", *named] if named else [])]
    lines = [*decorators, f"def {name}("]
    body = [f"    {p}," for p in inside]
    return [f"    {line}" for line in [*lines, *body, f") -> {returns}: ..."]]


def samplers_of(cls):
    """The samplers that the settings of a class mean, changed one at a time."""
    if cls.__name__ in ANY_SAMPLER:
        return list(own_samplers())
    base, found = cls._filled(cls, {}), {}
    changes = [{}]
    for name, default in options_of(cls).items():
        values = cls.choices.get(name, (not default,) if isinstance(default, bool) else ())
        changes += [{name: value} for value in values]
    changes += [{"sde_eta": 0.5}] if "sde_eta" in base else []
    for change in changes:
        for reference in (False, True):
            try:
                config = cls.meant(type(base)({**base, **change}))
                found[cls.meaning(config, reference).sampler] = None
            except (ValueError, TypeError, ImportError):
                continue
    return sorted(found)


def sampler_options(cls):
    """What `plan` takes of the samplers, under the class's names."""
    known = {}
    for name in samplers_of(cls):
        for option, default in samplers.get(name).options.items():
            known.setdefault(option, default)
    own = {v: k for k, v in cls.renamed.items()}
    return known | {new: known[old] for old, new in own.items() if old in known}


def is_own(cls, base, name):
    """Whether a method is that of the base, whose arguments the tables say."""
    return getattr(cls, name).__code__ is getattr(base, name).__code__


def class_stub(name, cls, family):
    """The lines of one class."""
    lines = [f"class {name}({family}.{name}):"]
    required = [parameter(k, v, cls) for k, v in cls.options.items()]
    named = [parameter(k, v, cls) for k, v in cls.hidden_options.items()]
    named += ['compatibility: Literal["paper", "diffusers"] = "paper"', "xp: Any = None"]
    lines += method("__init__", required, named, "None")
    if issubclass(cls, PlanMixin):
        lines += run_stubs(cls)
    if issubclass(cls, SchedulerMixin) and is_own(cls, SchedulerMixin, "step"):
        lines += step_stubs(cls)
    return lines


def run_stubs(cls):
    """`plan` and `set_timesteps` of a class."""
    placing = {k: None for k in run_options(cls.meaning) if k != "strength"}
    extra = placing | {k: v for k, v in sampler_options(cls).items() if k not in placing}
    count = ["num_inference_steps: int | None = None"]
    lists = ["timesteps: Any = None", "sigmas: Any = None", "strength: float = 1.0"]
    options = [parameter(k, v, call=True) for k, v in extra.items()]
    lines = method("plan", count, [*lists, *options], "Plan")
    if is_own(cls, PlanMixin, "set_timesteps"):
        positional = cls.timesteps_options
        rest = {"timesteps": None, "sigmas": None, "strength": 1.0, "xp": None} | extra
        rest = {k: v for k, v in rest.items() if k not in positional}
        args = [parameter(k, v, call=True) for k, v in positional.items()]
        named = [parameter(k, v, call=True) for k, v in rest.items()]
        lines += method("set_timesteps", args, named, "None")
    return lines


def step_stubs(cls):
    """`step` of a class: an object, or with return_dict=False a tuple."""
    arrays = ["model_output: A", "timestep: Any", "sample: A"]
    options = dict(cls.step_options)
    rest = {k: None for k in ("generator", "variance_noise") if k not in options}
    short = {k: v for k, v in {**options, **rest}.items() if k != "return_dict"}
    named = ["return_dict: Literal[False]"]
    named += [parameter(k, v, call=True) for k, v in short.items()]
    lines = method("step", arrays, named, "tuple[A, ...]", ["@overload"])
    args = arrays + [parameter(k, v, call=True) for k, v in options.items()]
    named = [parameter(k, v, call=True) for k, v in rest.items()]
    returns = f"{cls.output_class.__name__}[A]"
    return lines + method("step", args, named, returns, ["@overload"])


def stub():
    """The text of `cmsched/schedulers/typed.pyi`."""
    own = own_classes()
    families = sorted({f for f, names in FAMILIES.items() if own.keys() & set(names)})
    others = [
        f"from .{family} import {name} as {name}"
        for family, names in FAMILIES.items()
        for name in names
        if name not in own and family != "outputs"
    ]
    lines = [
        f"# Made of the tables of options by `{COMMAND}`: change those, and run it.",
        "# No module stands behind this file. Each class is the one of its family, whose methods",
        "# are checked where they are written, with the arguments that its tables give it.",
        "# ruff: noqa",
        '# mypy: disable-error-code="override,overload-overlap"',
        "# pyright: reportIncompatibleMethodOverride=false, reportOverlappingOverload=false",
        "from collections.abc import Callable, Sequence",
        "from typing import Any, Generic, Literal, overload",
        "",
        "from ..backends import A",
        "from ..plan import Plan",
        "from ..predictions import Prediction",
        "from ..recipe import Recipe",
        "from ..schedules import Schedule",
        *(f"from . import {family}" for family in sorted([*families, "outputs"])),
        *others,
        "",
    ]
    for name in sorted({"OriginalSampleOutput", *FAMILIES["outputs"]}):
        fields = getattr(outputs, name).fields
        lines += [f"class {name}(outputs.SchedulerOutput, Generic[A]):"]
        lines += [f"    {field}: {'A' if field == 'prev_sample' else 'Any'}" for field in fields]
    for family, names in FAMILIES.items():
        for name in names:
            if name in own:
                lines += class_stub(name, own[name], family)
    return "\n".join(lines).rstrip() + "\n"


# the page


def wrapped(text, **indents):
    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False, **indents)


def items(texts):
    """A list of names and what they mean."""
    texts = [wrapped(f"- `{k}`: {v}", subsequent_indent="  ") for k, v in texts.items()]
    return [line for text in texts for line in text]


def page():
    """The text of `docs/options.md`."""
    own = own_classes()
    by_name = {}
    for cls in own.values():
        for name in options_of(cls):
            by_name.setdefault(name, []).append(cls)
    lines = [
        "# Options",
        "",
        "What every option means, and what it means in the classes where that is another thing.",
        "`help(cmsched.LCMScheduler)` and `cmsched show lcm` say it of one class.",
        "Levels are sigma / alpha, of flows sigma; times are those that the network is told.",
        "",
        f"Made of the tables in `cmsched/schedulers` by `{COMMAND}`.",
        "",
        "## By class",
        "",
    ]
    for name, cls in own.items():
        links = ", ".join(f"[{o}](#{o.lower()})" for o in options_of(cls))
        calls = ", ".join(f"`{o}`" for o, _ in explained.call_options(cls))
        more = f" With `plan`, `set_timesteps` or `step`: {calls}." if calls else ""
        lines += [*wrapped(f"**{name}**: {links}.{more}"), ""]
    lines += ["## By option", ""]
    for name in sorted(by_name):
        lines += option_lines(name, by_name[name])
    lines += ["## Of calls", ""]
    lines += items(explained.CALLS)
    lines += ["", "## Of samplers", "", *sampler_lines(), ""]
    for head, names in explained.parts().items():
        names = {k: v for k, v in names.items() if head != "sampler" or k in own_samplers()}
        lines += [f"## Values of {head}", "", *items(names), ""]
    return "\n".join(lines).rstrip() + "\n"


def option_lines(name, users):
    """What an option means, with its defaults: once for each meaning."""
    lines, meanings = [f"### {name}", ""], {}
    for cls in users:
        meanings.setdefault(explained.meaning_of(cls, name, choices=False), []).append(cls)
    for text, those in sorted(meanings.items(), key=lambda item: -len(item[1])):
        defaults = {}
        for cls in those:
            defaults.setdefault(repr(options_of(cls)[name]), []).append(cls.__name__)
        if len(defaults) == 1 and next(iter(defaults)) == repr(REQUIRED):
            defaults = {"required": [cls.__name__ for cls in those]}
        most = len(meanings) == 1 and len(defaults) == 1
        who = {d: "" if most else f": {', '.join(names)}" for d, names in defaults.items()}
        shown = "; ".join(f"`{d}`{names}" for d, names in who.items())
        lines += [*wrapped(text[0].upper() + text[1:]), "", *wrapped(f"Default {shown}."), ""]
    return lines


def sampler_lines():
    """What the options of samplers mean, with who has them."""
    meanings = {}
    for entry in own_samplers().values():
        for option in entry.options:
            key = option, explained.sampler_meaning(entry.name, option)
            meanings.setdefault(key, []).append(entry.name)
    return [
        line
        for (option, text), who in sorted(meanings.items())
        for line in wrapped(f"- `{option}` ({', '.join(who)}): {text}", subsequent_indent="  ")
    ]


FILES = {
    ROOT / "docs" / "options.md": page,
    ROOT / "cmsched" / "schedulers" / "typed.pyi": stub,
}

if __name__ == "__main__":
    for path, text in FILES.items():
        path.write_text(text(), encoding="utf-8")
        print(path.relative_to(ROOT))
