"""cmsched's own schedulers in diffusers' pipelines: in torch, with diffusers' configuration.

They are those with `compatibility="paper"`, those with options that only cmsched has, and those
that diffusers does not have; their checks and habits are cmsched's.
"""

import inspect
from typing import Any, ClassVar

import diffusers
import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import PushToHubMixin

from ..frozen import FrozenDict as Options

__all__ = ["ADAPTED", "Configured"]

Array = Any
ADAPTED: dict[str, Any] = {}  # the classes for pipelines, by name, which diffusers.py makes
Beside: Any = object  # stands for the cmsched class that a class here is mixed with


class Configured(Beside):  # type: ignore[misc]
    """A cmsched scheduler with diffusers' configuration, in torch."""

    _internal_dict: Any
    _reference: type | None = None  # diffusers' own class
    _home: str | None = None  # its module
    idle: ClassVar[Any] = {}  # no warning of options without effect, which pipelines write

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show the default of `compatibility` here, and no `xp`, in the constructor's signature."""
        super().__init_subclass__(**kwargs)
        signature = inspect.signature(cls.__init__)
        if "__init__" in vars(cls) and "xp" in signature.parameters:
            shown = [
                p.replace(default="diffusers") if p.name == "compatibility" else p
                for p in signature.parameters.values()
                if p.name != "xp"
            ]
            cls.__init__.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]

    def __init__(self, *args: Any, compatibility: str = "diffusers", **kwargs: Any) -> None:
        if "xp" in kwargs:
            name = type(self).__name__
            raise TypeError(f"{name}() is for torch and has no xp; cmsched.{name} has")
        registered = getattr(self, "_internal_dict", {})  # a subclass's own options
        super().__init__(*args, compatibility=compatibility, xp="torch", **kwargs)
        # before this it is cmsched's, which nobody can write to
        self._internal_dict = FrozenDict({**registered, **self._internal_dict})
        if self._home and type(self).__module__ == Configured.__module__.rpartition("_")[0]:
            # A saved pipeline has the name of this module and the class, and shall load anywhere.
            self.__module__ = self._home

    @classmethod
    def spelled(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return a config as it is: the reference knows its own names."""
        return config

    @property
    def filled_config(self) -> Options:
        """Every option; pipelines assign to attributes of the config, not to its items."""
        known, config = {**self.options, **self.hidden_options}, self._internal_dict
        return Options({k: getattr(config, k, v) for k, v in known.items()})

    @classmethod
    def _get_compatibles(cls) -> list[type]:
        """Return the classes that the config is meant for: ours where there is one."""
        return compatibles(cls)

    def set_times(self, backend: Any, host: np.ndarray, device: Any) -> None:
        """Set the timesteps, on a device."""
        super().set_times(backend, single(host), device)

    def show(self, host: np.ndarray) -> Array:
        """Return a host table in torch."""
        return super().show(single(host))

    def fresh_noise(self, backend: Any, device: Any) -> tuple[Any, int | None]:
        """Return torch's default generator of the device, which diffusers draws from."""
        device = torch.device(device)
        if device.type in ("cpu", "meta"):
            return torch.default_generator, None
        generators = getattr(torch, device.type).default_generators
        return generators[device.index or 0], None


# The rest of the configuration is diffusers' code, which inheritance alone would put last.
machinery = {**vars(PushToHubMixin), **vars(ConfigMixin), **vars(SchedulerMixin)}
for name, member in machinery.items():
    special = name.startswith("__") and name not in ("__getattr__", "__repr__")
    if not special and name not in (*vars(Configured), "_compatibles"):
        setattr(Configured, name, member)


def compatibles(cls: Any) -> list[type]:
    """Return the classes that a class's config is meant for: ours where there is one."""
    names = dict.fromkeys([cls.__name__, *cls._compatibles])
    found = [ADAPTED.get(name) or getattr(diffusers, name, None) for name in names]
    return [known for known in found if known]


def single(host: np.ndarray) -> np.ndarray:
    """Return floats as diffusers has them."""
    return host.astype(np.float32) if host.dtype == np.float64 else host
