"""Options of the scheduler classes: declared once, kept frozen, stored as files and on the Hub.

The files and the rules are those of the field's `scheduler_config.json`: they go both ways.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar, Literal, Self, overload

import numpy as np

from ..backends import Backend, from_device, named, resolve
from ..checks import check_choice, nearest
from ..frozen import FrozenDict
from ..names import canonical
from .config_values import boolean, class_name, hashable, listed, plain, public, renewed, source_of
from .explained import Explained
from .options import Rule, check_options

Array = Any
__all__ = [
    "CLASSES",
    "LOADING",
    "REQUIRED",
    "ConfigMixin",
    "FrozenDict",
    "classes",
]

CLASSES: dict[str, type[ConfigMixin]] = {}  # those loaded that have options, by name
REQUIRED = inspect.Parameter.empty  # the default of an option that must be given

# what registers a part of one's own, by option
PARTS = {"schedule": "schedules", "spacing": "spacings", "prediction_type": "predictions"}
LOADING = ("subfolder", "revision", "cache_dir", "local_files_only", "force_download", "token")
_PUSH = ("repo_id", "commit_message", "private", "token", "create_pr", "subfolder")
_DROPPED = ("resume_download", "proxies")


def classes() -> dict[str, type[ConfigMixin]]:
    """Return every class that has options, by name; those of cmsched are loaded now."""
    from . import load_all

    load_all()
    return CLASSES


class _ModuleName(str):
    """Stands for a module in a pickle."""

    __slots__ = ()


class ConfigMixin:
    """A class whose constructor takes the options it declares and records them in `config`.

    The keywords `compatibility` ("paper" or "diffusers") and `xp`, the framework of `timesteps` and
    tables, become attributes and are not configuration.

    Class attributes:
        options: names and defaults (`REQUIRED`: none), in positional order.
        hidden_options: keyword-only ones, in the config only where they differ from their default.
        choices: the values of those options that have few in this class.
        aliases: values of other classes' options that mean one of these when a config is handed
            over.
        spellings: functions of a config that return it with the names that are here.
        relations: functions that raise where options do not go together.
        meanings: what options mean in this class, where that is not in `meanings.OPTIONS`.
        idle: options that are kept in the configuration and have no effect, and why.
        rules: what values options have, by name; None checks only what goes together.
        strict: whether options are checked when they are set, or only when they are used.
    """

    config_name: ClassVar[str] = "scheduler_config.json"
    has_compatibles: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Any]] = {}
    hidden_options: ClassVar[Mapping[str, Any]] = {}
    choices: ClassVar[Mapping[str, Sequence[Any]]] = {}
    aliases: ClassVar[Mapping[str, Any]] = {}
    spellings: ClassVar[Sequence[Callable[[dict[str, Any]], dict[str, Any]]]] = ()
    relations: ClassVar[Sequence[Callable[[FrozenDict], None]]] = ()
    meanings: ClassVar[Mapping[str, str]] = {}
    idle: ClassVar[Mapping[str, str]] = {}
    rules: ClassVar[Mapping[str, Rule] | None] = None
    strict: ClassVar[bool] = True
    _compatibles: ClassVar[list[str]] = []

    _internal_dict: Mapping[str, Any]  # the field's pipelines replace it
    compatibility: str
    xp: Any
    num_inference_steps: int | None = None
    last_seed: int | None = None  # of noise made of fresh entropy
    _timesteps: Array = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Record the class by name and give it a constructor that shows its options."""
        super().__init_subclass__(**kwargs)
        if not cls.options:
            return
        if type(cls.__dict__.get("__doc__")) is not Explained:
            cls.__doc__ = Explained(cls.__dict__.get("__doc__"))  # type: ignore[assignment]
        # A subclass of the same name (an adapter, say) does not take the original's place.
        if not issubclass(cls, CLASSES.get(cls.__name__, ())):
            CLASSES[cls.__name__] = cls
        if "__init__" in cls.__dict__:
            return

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            super(cls, self).__init__(*args, **kwargs)

        p = inspect.Parameter
        named = {**cls.hidden_options, "compatibility": "paper", "xp": None}
        parameters = [p("self", p.POSITIONAL_OR_KEYWORD)]
        parameters += [p(k, p.POSITIONAL_OR_KEYWORD, default=v) for k, v in cls.options.items()]
        parameters += [p(k, p.KEYWORD_ONLY, default=v) for k, v in named.items()]
        __init__.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        __init__.__qualname__ = f"{cls.__qualname__}.__init__"
        __init__.__module__ = cls.__module__
        cls.__init__ = __init__  # type: ignore[method-assign]

    def __init__(
        self, *args: Any, compatibility: str = "paper", xp: Any = None, **kwargs: Any
    ) -> None:
        """Take options by position or name; TypeError for a wrong name, ValueError for a value."""
        check_choice("compatibility", compatibility, ("paper", "diffusers"))
        self._internal_dict = self._checked(self._bind(args, kwargs))
        self.compatibility = compatibility
        self.xp = xp
        if xp is not None:
            named(xp)

    def __bool__(self) -> bool:
        """Return True: length is that of the training."""
        return True

    # the framework of what is shown

    def framework(self, device: Any = None, xp: Any = None) -> Backend:
        """Return that of xp, by default the constructor's, else of the device, else NumPy."""
        xp = self.xp if xp is None else xp
        return from_device(device) if xp is None else named(xp)

    def set_times(self, backend: Backend, host: np.ndarray, device: Any) -> None:
        """Set the timesteps, on a device."""
        try:
            self._timesteps = backend.to_device(host, device)
        except (RuntimeError, AssertionError) as error:  # PyTorch's: no such device
            raise ValueError(f"device={device!r} cannot be used: {error}") from error

    def show(self, host: np.ndarray) -> Array:
        """Return a host table in the framework of the timesteps."""
        given = self._timesteps
        return (self.framework() if given is None else resolve(given)).to_device(host)

    def noise_source(self, backend: Backend, device: Any) -> tuple[Any, int | None]:
        """Return where a run's noise comes from if none is given, and the seed if it is new."""
        return self.fresh_noise(backend, device)

    def fresh_noise(self, backend: Backend, device: Any) -> tuple[Any, int | None]:
        """Return where it comes from if the configuration does not say."""
        seed = int.from_bytes(os.urandom(8)) >> 1
        return backend.fresh(seed, device), seed

    # options

    @classmethod
    def _bind(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the value of every option, and which of them are only defaults."""
        call, own = f"{cls.__name__}()", _names(cls)
        if (most := len(cls.options)) < len(args):
            raise TypeError(f"{call} takes {most} options by position, got {len(args)}; name them")
        given = dict(zip(cls.options, args, strict=False))
        if twice := [key for key in given if key in kwargs]:
            raise TypeError(f"{call} got {listed(twice)} both by position and by name")
        given |= kwargs
        # Underscored keys are bookkeeping: `Class(**scheduler.config)` must work.
        for key in sorted(public(given) - {*own}):
            owners = [name for name, known in list(classes().items()) if key in _names(known)]
            where = f", it is one of {', '.join(owners)}" if owners else ""
            raise TypeError(f"{call} has no option {key!r}{where}{nearest(key, own)}")
        for key, why in cls.idle.items():
            if key in given and given[key] != cls.options[key]:
                warnings.warn(f"{cls.__name__}: {key} has no effect; {why}", stacklevel=4)
        defaults = [key for key in cls.options if key not in given]
        if missing := [key for key in defaults if cls.options[key] is REQUIRED]:
            raise TypeError(f"{call} needs a value for {listed(missing)}")
        if defaults:
            given["_use_default_values"] = defaults
        return {**cls.options, **given}

    def _checked(self, values: Mapping[str, Any]) -> FrozenDict:
        """Return the valid config of these values: plain data, without what stays hidden."""
        known = {**self.options, **self.hidden_options}
        config = {key: plain(value, known.get(key, "")) for key, value in values.items()}
        config = self.spelled(config)
        for key, default in self.hidden_options.items():
            value = config.get(key, REQUIRED)
            if value == default and boolean(value) == boolean(default):
                del config[key]
        if self.strict:
            self.check(self._filled(config))
        return FrozenDict(config)

    @classmethod
    def spelled(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return a config with the names that are here for those that people type."""
        chosen = {key: rule.choices for key, rule in (cls.rules or {}).items() if rule.choices}
        for key, known in {**chosen, **cls.choices}.items():
            if isinstance(config.get(key), str):
                names = [name for name in known if isinstance(name, str)]
                config[key] = canonical(key, config[key], names)
        for spelling in cls.spellings:
            config = spelling(config)
        return config

    def _filled(self, config: Mapping[str, Any]) -> FrozenDict:
        """Return every option of this class; keys that a config keeps for others have no effect."""
        known = {**self.options, **self.hidden_options}
        return FrozenDict({name: config.get(name, value) for name, value in known.items()})

    @property
    def filled_config(self) -> FrozenDict:
        """The present value of every option, the hidden ones too, and of nothing else."""
        return self._filled(self.config)

    @classmethod
    def meant(cls, config: FrozenDict) -> FrozenDict:
        """Return a filled config with this class's values in place of other classes' for them."""
        few = [name for name in cls.choices if hashable(config.get(name))]
        own = {name: cls.aliases.get(config[name], config[name]) for name in few if name in config}
        return FrozenDict({**config, **own})

    @classmethod
    def check(cls, config: FrozenDict) -> None:
        """Raise ValueError or TypeError where the values of a filled config do not fit."""
        config = cls.meant(config)
        if cls.rules is not None:
            check_options({**cls.options, **cls.hidden_options}, config, cls.rules, cls.choices)
        for relation in cls.relations:
            relation(config)

    @property
    def config(self) -> FrozenDict:
        """The present values of the options, frozen."""
        config = self._internal_dict
        return config if isinstance(config, FrozenDict) else FrozenDict(config)

    def register_to_config(self, **kwargs: Any) -> None:
        """Change options, or none where one is not valid; unknown names are kept with a warning."""
        config = {**getattr(self, "_internal_dict", {}), **kwargs}
        if "_use_default_values" not in kwargs:  # what is set is no longer a default
            defaults = [k for k in config.pop("_use_default_values", ()) if k not in kwargs]
            config |= {"_use_default_values": defaults} if defaults else {}
        config = self._checked(config)
        self._warn(kept=public(kwargs) - self._known())
        self._internal_dict = config

    @overload
    @classmethod
    def from_config(
        cls, config: dict[str, Any], return_unused_kwargs: Literal[False] = False, **kwargs: Any
    ) -> Self: ...
    @overload
    @classmethod
    def from_config(
        cls, config: dict[str, Any], return_unused_kwargs: bool, **kwargs: Any
    ) -> Any: ...
    @classmethod
    def from_config(
        cls, config: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """Build from a config, which may be another class's; keywords win over it.

        Values that were only defaults there take this class's defaults. Keys of other classes stay
        in the new config, without effect, so that they survive the way back; with
        `return_unused_kwargs` the result is (scheduler, those keys and the keywords not used).
        TypeError where `config` is no dict, ValueError where it is not a scheduler's.
        """
        init, hidden, unexpected = cls._sorted(config)
        own = [*_names(cls), "compatibility", "xp"]
        idle = {key: init.pop(key) for key in cls.idle if key in init}  # no one asked for these
        init |= {key: kwargs.pop(key) for key in own if key in kwargs}
        cls._warn(kept=unexpected, ignored=() if return_unused_kwargs else kwargs)
        scheduler = cls(**init)
        scheduler._internal_dict = FrozenDict({**scheduler._internal_dict, **hidden})
        if idle := {key: value for key, value in idle.items() if key not in init}:
            scheduler.register_to_config(**idle)
        return (scheduler, {**hidden, **kwargs}) if return_unused_kwargs else scheduler

    @classmethod
    def _sorted(cls, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], set[str]]:
        """Return (options of this class, other keys, the names of those that no class knows)."""
        if not isinstance(config, dict):
            hint = "a dict"
            if isinstance(config, str | os.PathLike):
                hint = f"{cls.__name__}.from_pretrained(...) for a path or a model id"
            elif isinstance(config, ConfigMixin):
                hint = "the scheduler's .config"
            raise TypeError(f"from_config takes a dict, got {type(config).__name__}; use {hint}")
        if odd := [key for key in config if not isinstance(key, str)]:
            raise TypeError(f"the keys of a config are strings, got {odd}")
        origin = class_name(config)
        known = cls._known(origin)
        if origin and origin not in classes() and all(config.get(key) is None for key in known):
            raise ValueError(
                f"this is the config of {origin}, which has no option of a scheduler; a pipeline "
                f"keeps its scheduler's {cls.config_name} in the subfolder 'scheduler'"
            )
        left_out = {"_use_default_values", *(config.get("_use_default_values") or ())}
        config = {key: plain(value) for key, value in config.items() if key not in left_out}
        config = renewed(config)
        if origin:
            config["_class_name"] = cls.__name__
        init = {key: config.pop(key) for key in _names(cls) if key in config}
        return init, config, public(config) - known

    @classmethod
    def load_config(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        return_unused_kwargs: bool = False,
        return_commit_hash: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Read a config from a folder, a file or the Hub; OSError or ValueError if that fails.

        Keywords: subfolder; for the Hub revision, cache_dir, local_files_only, force_download and
        token. Returns (config, unused keywords, commit hash), less what was not asked for.
        """
        from . import files  # and with it what only files need

        for key in _DROPPED:
            if key in kwargs:
                raise TypeError(f"{key}= is not supported: the Hub's client has dropped it")
        where = {key: kwargs.pop(key) for key in LOADING if key in kwargs}
        if kwargs and not return_unused_kwargs:
            key = min(kwargs)
            raise TypeError(f"load_config has no keyword {key!r}{nearest(key, LOADING)}")
        file = files.find(source_of(pretrained_model_name_or_path), cls.config_name, **where)
        result = [files.read(file)]
        if return_unused_kwargs:
            result.append(kwargs)
        if return_commit_hash:
            result.append(files.commit_hash(file))
        return tuple(result) if len(result) > 1 else result[0]

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        subfolder: str | None = None,
        return_unused_kwargs: Literal[False] = False,
        output_loading_info: Literal[False] = False,
        **kwargs: Any,
    ) -> Self: ...
    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any: ...
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Build from a folder, a file or a model id, with load_config's and from_config's keywords.

        Returns (scheduler, unused keywords, loading info), less what was not asked for. The info
        has missing_keys (options that took their default), unexpected_keys (keys that no class
        knows) and error_msgs.
        """
        config, kwargs = cls.load_config(
            pretrained_model_name_or_path, return_unused_kwargs=True, subfolder=subfolder, **kwargs
        )
        result = cls.from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)
        if not output_loading_info:
            return result
        scheduler, *unused = result if return_unused_kwargs else (result,)
        info = {
            "missing_keys": list(scheduler.config.get("_use_default_values", ())),
            "unexpected_keys": sorted(cls._sorted(config)[2]),
            "error_msgs": [],
        }
        return (scheduler, *unused, info)

    def save_config(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write the config into a folder, made if missing, and if asked to the Hub as well.

        Keywords for the Hub: repo_id (default: the folder's name), commit_message, private, token,
        create_pr, subfolder. OSError where the file cannot be written; then nothing is.
        """
        from . import files  # and with it what only files need

        for key in kwargs:
            if key not in _PUSH:
                raise TypeError(f"save_config has no keyword {key!r}{nearest(key, _PUSH)}")
            if not push_to_hub:
                raise TypeError(f"{key}= has no effect without push_to_hub=True")
        hub = files.hub_client() if push_to_hub else None
        text = self.to_json_string()  # before the folder is made: what fails here leaves nothing
        folder = os.path.abspath(os.fspath(save_directory))
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise NotADirectoryError(f"cannot save in {folder}: it is a file, not a directory")
        os.makedirs(folder, exist_ok=True)
        file = os.path.join(folder, self.config_name)
        files.write(file, text)
        if hub:
            files.push(hub, file, **{"repo_id": os.path.basename(folder), **kwargs})

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Do what save_config does."""
        self.save_config(save_directory, push_to_hub, **kwargs)

    def to_json_string(self) -> str:
        """Return the text of the config file; TypeError names a value that JSON cannot hold."""
        for key, value in self.config.items():
            try:
                json.dumps(value, sort_keys=True)
            except (TypeError, ValueError):
                kind, hint = type(value).__name__, ""
                if part := PARTS.get(key):
                    hint = f"; give it a name by cmsched.{part}.register, and pass that"
                raise TypeError(
                    f"config[{key!r}] cannot be saved: JSON has no {kind}{hint}"
                ) from None
        return self._json()

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write the config file at this path, whole or not at all."""
        from . import files

        files.write(os.fspath(json_file_path), self.to_json_string())

    def _json(self, default: Any = None) -> str:
        from . import files

        config = {**self.config, "_class_name": type(self).__name__}
        config["_cmsched_version"] = files.version()
        config.pop("_use_default_values", None)
        return json.dumps(config, indent=2, sort_keys=True, default=default) + "\n"

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self._json(default=repr)}"

    @property
    def compatibles(self) -> list[type[ConfigMixin]]:
        """The classes that this config is meant for, this one first."""
        return self._get_compatibles()

    @classmethod
    def _get_compatibles(cls) -> list[type[ConfigMixin]]:
        names = cls._compatibles if cls.has_compatibles else ()
        return list(dict.fromkeys([cls, *(classes()[name] for name in names if name in classes())]))

    @classmethod
    def _known(cls, origin: str | None = None) -> set[str]:
        """Return the options of this class, its compatibles and the class of that name.

        A file of this class may have keys of any other: models are published with what is left of
        those they were trained with.
        """
        among: Iterable[type[ConfigMixin]] = classes().values()
        if origin != cls.__name__:
            among = [*cls._get_compatibles(), classes().get(origin or "", cls)]
        return {key for known in among for key in _names(known)}

    @classmethod
    def _warn(cls, kept: Iterable[str] = (), ignored: Iterable[str] = ()) -> None:
        parts = [f"{listed(kept)} (kept in the config)"] if kept else []
        hints = "".join(nearest(key, _names(cls)) for key in ignored)
        parts += [f"{listed(ignored)} (ignored{hints})"] if ignored else []
        if parts:
            message = f"{cls.__name__} has no option {' and '.join(parts)}"
            warnings.warn(message, stacklevel=3)

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle an array namespace by its name: a module can be neither."""
        state = self.__dict__.copy()
        if isinstance(state.get("xp"), ModuleType):
            state["xp"] = _ModuleName(state["xp"].__name__)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what `__getstate__` made."""
        self.__dict__.update(state)
        if isinstance(state.get("xp"), _ModuleName):
            self.xp = importlib.import_module(state["xp"])


def _names(cls: type[ConfigMixin]) -> list[str]:
    return [*cls.options, *cls.hidden_options]
