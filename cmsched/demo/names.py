"""The names that the command line knows: short ones, of classes, and of registered samplers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import samplers, schedulers
from ..checks import nearest
from ..discrete import TokenPlan
from ..names import spelling
from ..plan import Plan
from ..schedulers import CLASSES, ConfigMixin, Scheduler
from ..schedulers.a1111 import A1111
from ..schedulers.short import short
from . import digits

__all__ = ["Entry", "Wrong", "everything", "find", "other_samplers", "short_names"]


class Wrong(Exception):
    """What the user asked for cannot be done; the message says what to do instead."""


@dataclass(frozen=True)
class Entry:
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


def short_names() -> dict[str, Entry]:
    """Return the named schedulers by their short names, in alphabetical order."""
    names = [name for name in CLASSES if name in schedulers.__all__ and name != "Scheduler"]
    entries = [Entry(short(name), CLASSES[name], NEEDED.get(name, {})) for name in names]
    return {entry.short: entry for entry in sorted(entries, key=lambda entry: entry.short)}


def other_samplers() -> dict[str, Entry]:
    """Return the registered samplers whose names no class has."""
    entries = {}
    for name in sorted({*samplers.REGISTRY} - {*short_names()}):
        final = "zero" if samplers.get(name).trait("singular") else "sigma_min"
        options = {"sampler": name, **SMOOTH, "final_sigmas_type": final}
        entries[name] = Entry(name, Scheduler, options)
    return entries


def everything() -> list[Entry]:
    """Return one of everything: each class, and each sampler that no class runs by itself."""
    classes = list(short_names().values())
    run = {plan.sampler for e in classes if isinstance(plan := e.plan(None), Plan)}
    return [*classes, *(entry for name, entry in other_samplers().items() if name not in run)]


def find(name: str) -> Entry:
    """Return the scheduler of a name, in any case and spelling.

    Short names, those of classes, of registered samplers and A1111's are known.
    """
    classes = short_names()
    known = {**classes, **other_samplers()}
    titles = {entry.cls.__name__: entry for entry in classes.values()}
    theirs = {
        key: known[sampler]
        if cls == "KDiffusionScheduler"
        else Entry(short(cls), CLASSES[cls], options)
        for key, (cls, options, sampler, _) in A1111.items()
    }
    exact = {**theirs, **titles, **known}
    folded = {spelling(key): entry for key, entry in exact.items()}
    for asked, names in ((name, exact), (spelling(name), folded)):
        if asked in names:
            return names[asked]
    hint = nearest(name, [*known, *titles])
    raise Wrong(
        f"unknown scheduler {name!r}" + (hint if "mean" in hint else f"; known: {', '.join(known)}")
    )
