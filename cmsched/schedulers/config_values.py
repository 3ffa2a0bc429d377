"""What configurations hold: plain data, under the keys and names of today."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

FORMER_NAMES = {"DPMSolverMultistepInverse": "DPMSolverMultistepInverseScheduler"}
NON_FINITE = re.compile(r"[+-]?(inf(inity)?|nan)", re.IGNORECASE)


def source_of(value: Any) -> str:
    """Return the first argument of `from_pretrained` as a string."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(
            "pretrained_model_name_or_path must be a folder, a file or a model id, got"
            f" {value!r:.80}"
        )
    return os.fspath(value)


def class_name(config: Mapping[str, Any]) -> str | None:
    """Return the name of the class that a config is of, as it is here."""
    name = config.get("_class_name")
    if isinstance(name, list | tuple) and name:  # [module, class]: code kept with a model
        name = name[-1]
    if not isinstance(name, str | None):
        raise ValueError(f"_class_name must be a string or a list of them, got {name!r}")
    return name and FORMER_NAMES.get(name, name.removeprefix("Flax"))


def renewed(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with today's keys in place of those of the field's first files."""
    old = {key: config[key] for key in ("predict_epsilon", "tensor_format") if key in config}
    if "predict_epsilon" in old:
        meant = {"prediction_type": "epsilon" if old["predict_epsilon"] else "sample"}
        config = {**meant, **config}
    return {key: value for key, value in config.items() if key not in old}


def plain(value: Any, default: Any = "") -> Any:
    """Return arrays as lists, array scalars as numbers, lists as copies, "-inf" as a float.

    The last only where the option's default is no string.
    """
    if isinstance(value, str) and not isinstance(default, str) and NON_FINITE.fullmatch(value):
        return float(value)
    if callable(getattr(value, "tolist", None)):
        return value.tolist()
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def hashable(value: Any) -> bool:
    """Return whether a value can be looked up; lists and arrays cannot."""
    return isinstance(value, str | int | float | None)


def boolean(value: Any) -> bool:
    """Return whether a value is True or False, and not 1 or 0 in its place."""
    return isinstance(value, bool)


def public(keys: Iterable[str]) -> set[str]:
    """Return those of the keys that are not bookkeeping."""
    return {key for key in keys if not key.startswith("_")}


def listed(names: Iterable[str]) -> str:
    """Return the names in quotes, in alphabetical order."""
    return ", ".join(repr(name) for name in sorted(names))
