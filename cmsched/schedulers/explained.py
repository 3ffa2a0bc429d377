"""The docstrings of the classes: what is written there, then every option with its default."""

import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from .. import samplers
from ..predictions import OUTPUTS
from ..schedules import SCHEDULES
from ..spacings import SPACINGS
from . import meanings
from .meanings import CALLS, OPTIONS, SAMPLERS
from .options import RULES

__all__ = ["Explained", "call_options", "explained", "meaning_of", "parts", "sampler_meaning"]

EVERYWHERE = ("device", "xp", "num_inference_steps", "timesteps", "sigmas", "strength")
OF_STEPS = ("generator", "variance_noise", "return_dict")


class Explained:
    """A docstring that is put together when somebody reads it."""

    def __init__(self, written: str | None) -> None:
        """Keep what the class says of itself."""
        self.written = inspect.cleandoc(written or "")

    def __get__(self, instance: Any, owner: Any = None) -> str:
        """Return it with the options of the class."""
        return explained(type(instance) if owner is None else owner, self.written)


def explained(cls: Any, written: str) -> str:
    """Return a docstring with what every option of a class means."""
    own = {**cls.options, **cls.hidden_options}
    lines = [written, "", "Args:"]
    for name, default in own.items():
        lines += entry(name, default, meaning_of(cls, name))
    for name, default in (("compatibility", "paper"), ("xp", None)):
        lines += entry(name, default, OPTIONS[name])
    calls = dict(call_options(cls))
    if calls:
        lines += ["", "Options of `plan` and `set_timesteps`, and where it has them of `step`:"]
        for name, (default, text) in calls.items():
            lines += entry(name, default, text)
    if "schedule" in own:
        for head, names in parts().items():
            lines += ["", f"Values of {head}:"]
            lines += [line for name, text in names.items() for line in wrapped(f"{name}: {text}")]
    return "\n".join(lines) + "\n"


def parts() -> dict[str, dict[str, str]]:
    """Return the names of schedules, spacings, predictions, samplers, and what each is for."""
    return {
        "schedule": {
            **meanings.SCHEDULES,
            **{k: first_line(v) for k, v in SCHEDULES.items() if k not in meanings.SCHEDULES},
        },
        "spacing": {
            **meanings.SPACINGS,
            **{k: first_line(v.rule) for k, v in SPACINGS.items() if k not in meanings.SPACINGS},
        },
        "prediction_type": {
            **meanings.PREDICTIONS,
            **{k: first_line(v) for k, v in OUTPUTS.items() if k not in meanings.PREDICTIONS},
        },
        "sampler": {k: f"{first_line(v.loop)} {v.paper}." for k, v in samplers.REGISTRY.items()},
    }


def first_line(thing: Any) -> str:
    """Return the first line of what something says of itself."""
    return (inspect.getdoc(thing) or "one's own.").splitlines()[0]


def entry(name: str, default: Any, text: str) -> list[str]:
    """Return the lines of one option."""
    shown = "required" if default is inspect.Parameter.empty else repr(default)
    return wrapped(f"{name} ({shown}): {text}")


def wrapped(text: str) -> list[str]:
    """Return the lines of an entry of a list."""
    return textwrap.wrap(
        text,
        96,
        initial_indent="    ",
        subsequent_indent="        ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def meaning_of(cls: Any, name: str, choices: bool = True) -> str:
    """Return what an option of a class means, and its choices; "" where nobody has said so."""
    text = str(cls.meanings.get(name, OPTIONS.get(name, "")))
    if name in cls.idle:
        text = f"kept for files, without effect: {cls.idle[name]}."
    rule = RULES.get(name)
    few = cls.choices.get(name, rule.choices if rule else ())
    if few and text and choices:
        text += f" One of {', '.join(map(repr, few))}."
    return text


def sampler_meaning(sampler: str, name: str) -> str:
    """Return what an option of a registered sampler means; "" where nobody has said so."""
    return SAMPLERS.get(f"{sampler}:{name}", SAMPLERS.get(name, ""))


def call_options(cls: Any) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Return what a run may be given beside what all classes take: defaults, and what they mean."""
    known = {**getattr(cls, "timesteps_options", {}), **getattr(cls, "step_options", {})}
    sampler = default_sampler(cls)
    of_sampler = {} if sampler is None else dict(samplers.get(sampler).options)
    places = getattr(cls, "renamed", {})
    for name, default in known.items():
        if name not in (*EVERYWHERE, *OF_STEPS):
            text = cls.meanings.get(f"{name}=", CALLS.get(name, ""))
            yield name, (default, text or sampler_meaning(sampler or "", places.get(name, name)))
    for name, default in of_sampler.items():
        if name not in known and name not in places.values():
            yield name, (default, sampler_meaning(sampler or "", name))


def default_sampler(cls: Any) -> str | None:
    """Return the name of the sampler that the defaults of a class mean, if it has one."""
    defaults = {**cls.options, **cls.hidden_options}.values()
    if not hasattr(cls, "meaning") or inspect.Parameter.empty in defaults:
        return None
    return str(cls.meaning(cls.meant(cls._filled(cls, {})), False).sampler)
