"""What people type for names: other spellings, and lines that explain what has several meanings."""

from collections.abc import Iterable, Mapping
from typing import Any

from .checks import check_choice

__all__ = ["canonical", "spelling"]

# by argument: what a name in other code stands for here
ALIASES: Mapping[str, Mapping[str, str]] = {
    "prediction_type": {
        "eps": "epsilon",
        "noise": "epsilon",
        "x0": "sample",
        "denoised": "sample",
        "v": "v_prediction",
        "velocity": "v_prediction",
        "flow": "flow_prediction",
        "rectified flow": "flow_prediction",
    },
    "schedule": {
        "vp": "vp_sde",
        "ve": "ve_sde",
        "rectified flow": "flow",
        "squaredcos": "squaredcos_cap_v2",
    },
    "beta_schedule": {"squaredcos": "squaredcos_cap_v2"},
    "spacing": {"uniform": "linspace", "sgm": "sgm_uniform"},
}
# in a flow these are the derivative of the sample
OF_FLOWS = {spelled: "flow" for spelled in ("v", "velocity", "vprediction")}
EXPLAINED: Mapping[str, Mapping[str, str]] = {
    "schedule": {
        "edm": '"identity" for a denoiser D(x, sigma) with prediction_type="sample", "logarithmic"'
        ' for a raw network F with prediction_type="edm", which is told log(sigma) / 4',
        "karras": 'a spacing: spacing="karras", on the schedule of your network',
        "sigma": '"identity" for a network that is told sigma, "logarithmic" for its logarithm',
    },
    "spacing": {
        "ays": '"ays_sd15", "ays_sdxl" or "ays_svd", by the model',
        "align your steps": '"ays_sd15", "ays_sdxl" or "ays_svd", by the model',
    },
}


def spelling(name: str) -> str:
    """Return a name without what spelling changes: DPM++ 2M is dpmpp2m, as dpmpp_2m is."""
    return "".join(c for c in name.casefold().replace("+", "p") if c.isalnum())


def canonical(argument: str, value: Any, known: Iterable[str], *, flow: str = "") -> Any:
    """Return the name that a value stands for, in any case and spelling; others as they are.

    Args:
        argument: what the name is given as.
        value: the name; what is no string is returned.
        known: the names that there are.
        flow: the prediction type of a network that says velocities, where the schedule is a flow.

    Raises:
        ValueError: a name that has several meanings here; each is explained.
    """
    if not isinstance(value, str) or value in (known := tuple(known)):
        return value
    spelled = spelling(value)
    if flow and argument == "prediction_type" and (spelled in OF_FLOWS or spelled == "flow"):
        return flow
    for name in known:
        if spelling(name) == spelled:
            return name
    for name, meant in ALIASES.get(argument, {}).items():
        if spelling(name) == spelled and meant in known:
            return meant
    for name, why in EXPLAINED.get(argument, {}).items():
        if spelling(name) == spelled:
            raise ValueError(f"{argument}={value!r} is here {why}")
    return value


def named(argument: str, value: Any, known: Iterable[str]) -> str:
    """Return the known name that a value stands for; ValueError with the nearest where none is."""
    known = tuple(known)
    found: str = canonical(argument, value, known)
    check_choice(argument, found, known)
    return found
