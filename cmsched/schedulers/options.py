"""What the values of options are: kind, range and choices, declared once for all classes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import checks, spacings
from ..checks import check_choice
from ..discretizations import MOST
from ..frozen import FrozenDict
from ..schedules import check_betas

__all__ = ["RULES", "Rule", "check_kind", "check_options", "check_step_option", "in_order"]

NAMES = (str, int, float, list, tuple, dict, type(None))  # what stands for no object
LARGEST = 1e12  # its cube is still a float32


@dataclass(frozen=True)
class Rule:
    """What an option's values are, beside being of its default's kind.

    Args:
        kind: a value of the kind that the option takes, where its default is None.
        above: a number that values lie above, `least` one that is the lowest itself.
        most: the highest value, `below` a number that values lie below.
        choices: the values that there are.
        needs: an option without which this one is not looked at.
        unless: an option beside which it is not.
        optional: whether None is a value, though the default is another.
        objects: whether any object that is no string, number or list may stand for a name.
    """

    kind: Any = None
    above: float = -math.inf
    least: float = -math.inf
    most: float = math.inf
    below: float = math.inf
    choices: Sequence[Any] = ()
    needs: str = ""
    unless: str = ""
    optional: bool = False
    objects: bool = False

    def matters(self, config: Mapping[str, Any], default: Any) -> bool:
        """Return whether other options let this one be looked at.

        In a class without the option that it needs, one whose default is None is its own switch.
        """
        needed = not self.needs or config.get(self.needs, default is None)
        return bool(needed and (not self.unless or config.get(self.unless) is None))

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError unless the value is one of the choices, or lies within the range."""
        if self.choices:
            check_choice(name, value, self.choices)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return
        if self.above < value < self.below and self.least <= value <= self.most:
            return
        if self.most == self.below == math.inf:
            how = "be positive" if self.above == 0.0 else f"be at least {self.least:g}"
            raise ValueError(f"{name} must {how}, got {value}")
        low = f"[{self.least:g}" if self.least > -math.inf else f"({self.above:g}"
        high = f"{self.most:g}]" if self.most < math.inf else f"{self.below:g})"
        raise ValueError(f"{name} must lie in {low}, {high}, got {value}")


POSITIVE, AMOUNT, PART = Rule(above=0.0), Rule(least=0.0), Rule(above=0.0, below=1.0)
LEVEL = Rule(kind=1.0, above=0.0)

# by the names of options, which mean the same in every class
RULES: Mapping[str, Rule] = {
    "num_train_timesteps": Rule(kind=1),
    "original_inference_steps": Rule(kind=1),
    "beta_start": Rule(above=0.0, below=1.0, unless="trained_betas"),
    "beta_end": Rule(above=0.0, below=1.0, unless="trained_betas"),
    "timestep_spacing": Rule(choices=tuple(k for k, v in spacings.SPACINGS.items() if v.named)),
    "final_sigmas_type": Rule(choices=("zero", "sigma_min")),
    "time_shift_type": Rule(choices=tuple(spacings.SHIFTS)),
    "interpolation_type": Rule(choices=("linear", "log_linear")),
    "timestep_type": Rule(choices=("discrete", "continuous")),
    "sigma_schedule": Rule(choices=("karras", "exponential")),
    "third_order": Rule(choices=("published", "exact")),
    "clip_sample_range": Rule(kind=1.0, above=0.0, needs="clip_sample"),
    "dynamic_thresholding_ratio": Rule(kind=1.0, above=0.0, most=1.0, needs="thresholding"),
    "sample_max_value": Rule(above=0.0, needs="thresholding"),
    "variance_type": Rule(kind=""),
    "mu": Rule(kind=1.0),
    "shift_terminal": Rule(kind=0.1, least=0.0, below=1.0),
    "sigma_min": LEVEL,
    "sigma_max": LEVEL,
    "sampling_eps": Rule(kind=0.5, above=0.0, below=1.0),
    "sampler_options": Rule(kind={}),
    "schedule_options": Rule(kind={}),
    "spacing_options": Rule(kind={}),
    **dict.fromkeys(("schedule", "spacing", "prediction_type"), Rule(objects=True)),
    **dict.fromkeys(("sigma_data", "rho", "flow_shift", "shift", "snr_shift_scale"), POSITIVE),
    **dict.fromkeys(("timestep_scaling", "snr", "beta_min", "beta_max"), POSITIVE),
    **dict.fromkeys(("s_noise", "s_churn", "s_min", "s_max", "eta", "sde_eta"), AMOUNT),
    **dict.fromkeys(("steps_offset", "correct_steps"), AMOUNT),
    **dict.fromkeys(("base_shift", "max_shift"), Rule(optional=True)),  # pipelines write None
}


def check_kind(name: str, value: Any, default: Any) -> None:
    """Raise unless an option's value is of its default's kind, and a number within float32."""
    rule = RULES.get(name, Rule())
    default = rule.kind if default is None and value is not None else default
    if default is None or value is default or (value is None and rule.optional):
        return
    if rule.objects and not isinstance(value, NAMES):
        return
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a string, got {value!r}")
    elif isinstance(default, dict):
        if not isinstance(value, dict):
            raise TypeError(f"{name} must be a dict, got {value!r}")
    elif isinstance(default, int | float):
        kinds, kind = (int, "an integer") if isinstance(default, int) else (int | float, "a number")
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise TypeError(f"{name} must be {kind}, got {value!r}")
        if value != default and not abs(value) <= LARGEST:
            raise ValueError(f"{name} must be a finite number up to {LARGEST:g}, got {value!r}")


def check_step_option(name: str, value: Any, default: Any) -> None:
    """Do the same for an option of a sampler, whose numbers are not negative."""
    check_kind(name, value, default)
    if isinstance(value, int | float) and value < 0:
        raise ValueError(f"{name} must not be negative, got {value}")


def check_options(
    defaults: Mapping[str, Any],
    config: FrozenDict,
    rules: Mapping[str, Rule],
    choices: Mapping[str, Sequence[Any]],
) -> None:
    """Raise where an option's value is of the wrong kind, out of range, or no choice of the class.

    Args:
        defaults: of every option.
        config: a value for each.
        rules: what values they have, by name.
        choices: the values that there are in this class, by name.

    Raises:
        TypeError: a value of another kind.
        ValueError: a value out of range, or no choice.
    """
    for name, default in defaults.items():
        value = config[name]
        # the field's files write null where a switch is off
        if not (value is None and default is False):
            check_kind(name, value, default)
    if "num_train_timesteps" in config:
        checks.check_count("num_train_timesteps", config.num_train_timesteps, MOST)
    for name, default in defaults.items():
        rule = rules.get(name)
        if name in choices:
            check_choice(name, config[name], choices[name])
        elif rule and rule.matters(config, default):
            rule.check(name, config[name])
    if config.get("trained_betas") is not None and "beta_schedule" in config:
        count = len(check_betas(config.trained_betas))
        if count != config.num_train_timesteps:
            raise ValueError(
                f"trained_betas has {count} entries but num_train_timesteps="
                f"{config.num_train_timesteps}; pass num_train_timesteps={count}"
            )


def in_order(low: str, high: str) -> Callable[[FrozenDict], None]:
    """Return the relation that one option lies below another, where both are given."""

    def check(config: FrozenDict) -> None:
        a, b = config[low], config[high]
        if None not in (a, b) and not a < b:
            raise ValueError(f"{high}={b} must be above {low}={a}")

    return check
