"""Short names of the classes, and the samplers that other programs' names stand for."""

import re
from collections.abc import Mapping
from typing import Any

from .. import samplers
from ..names import spelling
from .config import classes

__all__ = ["sampler_named", "short", "with_sampler"]

WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # where a word begins

# Short names are made from those of the classes; these are better known by another.
SHORT_NAMES: Mapping[str, str] = {
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


def short(name: str) -> str:
    """Return the short name of a class: EulerAncestralDiscreteScheduler is euler_ancestral."""
    stem = name.removesuffix("Scheduler").removesuffix("Discrete")
    return SHORT_NAMES.get(name) or WORDS.sub("_", stem).lower()


def sampler_named(name: str) -> tuple[str, dict[str, Any]]:
    """Return the sampler, with options, of a name in A1111, k-diffusion or the command line.

    A name that nobody has is returned as it is.
    """
    from .a1111 import A1111, ALIASES

    spelled = spelling(name)
    for sampler in samplers.REGISTRY:
        if spelling(sampler) == spelled:
            return sampler, {}
    known = {spelling(key): value for key, value in A1111.items()}
    known |= {spelling(key): A1111[value] for key, value in ALIASES.items()}
    if found := known.get(spelled):
        return found[2], dict(found[3])
    for title, cls in classes().items():
        if spelled in (spelling(short(title)), spelling(title)):
            recipe = getattr(cls(), "recipe", None) if "sampler" not in cls.options else None
            if recipe is not None:
                meant = recipe()
                fixed = {k: v for k, v in meant.options.items() if not callable(v)}
                own = samplers.get(meant.sampler).options
                return meant.sampler, {k: v for k, v in fixed.items() if own[k] != v}
    return name, {}


def with_sampler(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with the sampler that its name stands for, and that one's options."""
    name = config.get("sampler")
    if not isinstance(name, str) or name in samplers.REGISTRY:
        return config
    sampler, own = sampler_named(name)
    options = {**own, **(config.get("sampler_options") or {})}
    return {**config, "sampler": sampler, **({"sampler_options": options} if own else {})}
