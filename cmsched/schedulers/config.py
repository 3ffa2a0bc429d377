"""Options of the scheduler classes: declared once, kept frozen, stored as files and on the Hub.

The files and the rules are those of the field's `scheduler_config.json`: they go both ways.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, ClassVar, NoReturn

from .._messages import choose, nearest

__all__ = ["CLASSES", "REQUIRED", "ConfigMixin", "FrozenDict", "from_pretrained"]

CLASSES: dict[str, type[ConfigMixin]] = {}  # every class that has options, by name
REQUIRED = inspect.Parameter.empty  # the default of an option that must be given

_LOAD = ("subfolder", "revision", "cache_dir", "local_files_only", "force_download", "token")
_PUSH = ("repo_id", "commit_message", "private", "token", "create_pr", "subfolder")
_DROPPED = ("resume_download", "proxies")
_FORMER_NAMES = {"DPMSolverMultistepInverse": "DPMSolverMultistepInverseScheduler"}
_NON_FINITE = re.compile(r"[+-]?(inf(inity)?|nan)", re.IGNORECASE)


class FrozenDict(dict[str, Any]):
    """A dict that cannot be written to, and whose items are attributes as well."""

    __slots__ = ()

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        name = args[0] if args and isinstance(args[0], str) else "name"
        raise TypeError(f"a config is frozen; call scheduler.register_to_config({name}=value)")

    __setitem__ = __delitem__ = __setattr__ = __delattr__ = __ior__ = _refuse
    pop = popitem = clear = update = setdefault = _refuse

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"the config has no {name!r}{nearest(name, self)}")

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, Any]]]:
        return FrozenDict, (dict(self),)  # by default a copy is made by setting items


class _ModuleName(str):
    """Stands for a module in a pickle."""

    __slots__ = ()


class ConfigMixin:
    """A class whose constructor takes the options it declares and records them in `config`.

    `options` maps names to defaults (`REQUIRED`: none) in positional order; `hidden_options` are
    keyword-only and stand in the config only where they differ from their default. The keywords
    `compatibility` ("paper" or "diffusers") and `xp` become attributes and are not configuration.
    """

    config_name: ClassVar[str] = "scheduler_config.json"
    has_compatibles: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Any]] = {}
    hidden_options: ClassVar[Mapping[str, Any]] = {}
    _compatibles: ClassVar[list[str]] = []

    _internal_dict: Mapping[str, Any]  # the field's pipelines replace it
    compatibility: str
    xp: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Record the class by name and give it a constructor that shows its options."""
        super().__init_subclass__(**kwargs)
        if not cls.options:
            return
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
        choose("compatibility", compatibility, ("paper", "diffusers"))
        self._internal_dict = self._checked(self._bind(args, kwargs))
        self.compatibility = compatibility
        self.xp = xp

    @classmethod
    def _bind(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the value of every option, and which of them are only defaults."""
        call, own = f"{cls.__name__}()", _names(cls)
        if (most := len(cls.options)) < len(args):
            raise TypeError(f"{call} takes {most} options by position, got {len(args)}; name them")
        given = dict(zip(cls.options, args, strict=False))
        if twice := [key for key in given if key in kwargs]:
            raise TypeError(f"{call} got {_listed(twice)} both by position and by name")
        given |= kwargs
        # Underscored keys are bookkeeping: `Class(**scheduler.config)` must work.
        for key in sorted(_public(given) - {*own}):
            owners = [name for name, known in list(CLASSES.items()) if key in _names(known)]
            where = f", it is one of {', '.join(owners)}" if owners else ""
            raise TypeError(f"{call} has no option {key!r}{where}{nearest(key, own)}")
        defaults = [key for key in cls.options if key not in given]
        if missing := [key for key in defaults if cls.options[key] is REQUIRED]:
            raise TypeError(f"{call} needs a value for {_listed(missing)}")
        if defaults:
            given["_use_default_values"] = defaults
        return {**cls.options, **given}

    def _checked(self, values: Mapping[str, Any]) -> FrozenDict:
        """Return the valid config of these values: plain data, without what stays hidden."""
        known = {**self.options, **self.hidden_options}
        plain = {key: _plain(value, known.get(key, "")) for key, value in values.items()}
        for key, default in self.hidden_options.items():
            if key in plain and plain[key] == default and boolean(plain[key]) == boolean(default):
                del plain[key]
        self._validate(self._filled(plain))
        return FrozenDict(plain)

    def _filled(self, config: Mapping[str, Any]) -> FrozenDict:
        """Return a config with every option in it, the hidden ones too."""
        return FrozenDict({**self.options, **self.hidden_options, **config})

    def _validate(self, config: FrozenDict) -> None:
        """Raise ValueError where values do not fit; `config` is filled (see `_filled`)."""

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
        self._warn(kept=_public(kwargs) - self._known())
        self._internal_dict = config

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
        init |= {key: kwargs.pop(key) for key in own if key in kwargs}
        cls._warn(kept=unexpected, ignored=() if return_unused_kwargs else kwargs)
        scheduler = cls(**init)
        scheduler._internal_dict = FrozenDict({**scheduler._internal_dict, **hidden})
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
        origin = _class_name(config)
        known = cls._known(origin)
        if origin and origin not in CLASSES and all(config.get(key) is None for key in known):
            raise ValueError(
                f"this is the config of {origin}, which has no option of a scheduler; a pipeline "
                f"keeps its scheduler's {cls.config_name} in the subfolder 'scheduler'"
            )
        left_out = {"_use_default_values", *(config.get("_use_default_values") or ())}
        config = {key: _plain(value) for key, value in config.items() if key not in left_out}
        config = _renewed(config)
        if origin:
            config["_class_name"] = cls.__name__
        init = {key: config.pop(key) for key in _names(cls) if key in config}
        return init, config, _public(config) - known

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
        where = {key: kwargs.pop(key) for key in _LOAD if key in kwargs}
        if kwargs and not return_unused_kwargs:
            key = min(kwargs)
            raise TypeError(f"load_config has no keyword {key!r}{nearest(key, _LOAD)}")
        file = files.find(_source(pretrained_model_name_or_path), cls.config_name, **where)
        result = [files.read(file)]
        if return_unused_kwargs:
            result.append(kwargs)
        if return_commit_hash:
            result.append(files.commit_hash(file))
        return tuple(result) if len(result) > 1 else result[0]

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
                kind = type(value).__name__
                raise TypeError(f"config[{key!r}] cannot be saved: JSON has no {kind}") from None
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
        return list(dict.fromkeys([cls, *(CLASSES[name] for name in names if name in CLASSES)]))

    @classmethod
    def _known(cls, origin: str | None = None) -> set[str]:
        """Return the options of this class, its compatibles and the class of that name.

        A file of this class may have keys of any other: models are published with what is left of
        those they were trained with.
        """
        classes: Iterable[type[ConfigMixin]] = CLASSES.values()
        if origin != cls.__name__:
            classes = [*cls._get_compatibles(), CLASSES.get(origin or "", cls)]
        return {key for known in classes for key in _names(known)}

    @classmethod
    def _warn(cls, kept: Iterable[str] = (), ignored: Iterable[str] = ()) -> None:
        parts = [f"{_listed(kept)} (kept in the config)"] if kept else []
        hints = "".join(nearest(key, _names(cls)) for key in ignored)
        parts += [f"{_listed(ignored)} (ignored{hints})"] if ignored else []
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


def from_pretrained(
    pretrained_model_name_or_path: str | os.PathLike[str],
    subfolder: str | None = None,
    **kwargs: Any,
) -> Any:
    """Build the scheduler that a config file names, of any class.

    Args:
        pretrained_model_name_or_path: a folder, a file or a model id of the Hub; where there is no
            config at the top, that of its subfolder "scheduler" is found, as of a pipeline.
        subfolder: where the file is; then nowhere else is looked.
        **kwargs: those of the classes' own `from_pretrained`.

    Returns:
        The scheduler, of the class named by `_class_name`, which may be a former name, or that of a
        Flax class; with return_unused_kwargs or output_loading_info a tuple.

    Raises:
        OSError: there is no such file, or it is no JSON.
        TypeError: the first argument is no path or model id.
        ValueError: the file names no class, or one that is not here.
    """
    from . import files

    source, name = _source(pretrained_model_name_or_path), ConfigMixin.config_name
    where = {key: kwargs.pop(key) for key in _LOAD if key in kwargs}
    try:
        file = files.find(source, name, subfolder, **where)
    except FileNotFoundError as error:
        if subfolder:
            raise
        try:
            file = files.find(source, name, "scheduler", **where)
        except FileNotFoundError:
            raise error from None
    origin = _class_name(files.read(file))
    if origin in CLASSES:
        return CLASSES[origin].from_pretrained(file, **kwargs)
    another = "cmsched.DDIMScheduler.from_pretrained(...)"
    if not origin:
        raise ValueError(f"{file} names no class as _class_name; load it with one, as {another}")
    raise ValueError(
        f"{file} is the config of {origin}, which is no scheduler of cmsched; where its model runs"
        f" with another one, load it with that class, as {another}"
        f"{nearest(origin, CLASSES, 0.95)}"  # all of them end alike
    )


def _source(value: Any) -> str:
    """Return the first argument of `from_pretrained` as a string."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(
            "pretrained_model_name_or_path must be a folder, a file or a model id, got"
            f" {value!r:.80}"
        )
    return os.fspath(value)


def _class_name(config: Mapping[str, Any]) -> str | None:
    """Return the name of the class that a config is of, as it is here."""
    name = config.get("_class_name")
    if isinstance(name, list | tuple) and name:  # [module, class]: code kept with a model
        name = name[-1]
    if not isinstance(name, str | None):
        raise ValueError(f"_class_name must be a string or a list of them, got {name!r}")
    return name and _FORMER_NAMES.get(name, name.removeprefix("Flax"))


def _renewed(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with today's keys in place of those of the field's first files."""
    old = {key: config[key] for key in ("predict_epsilon", "tensor_format") if key in config}
    if "predict_epsilon" in old:
        meant = {"prediction_type": "epsilon" if old["predict_epsilon"] else "sample"}
        config = {**meant, **config}
    return {key: value for key, value in config.items() if key not in old}


def boolean(value: Any) -> bool:
    """Return whether a value is True or False, and not 1 or 0 in its place."""
    return isinstance(value, bool)


def _names(cls: type[ConfigMixin]) -> list[str]:
    return [*cls.options, *cls.hidden_options]


def _public(keys: Iterable[str]) -> set[str]:
    return {key for key in keys if not key.startswith("_")}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))


def _plain(value: Any, default: Any = "") -> Any:
    """Return arrays as lists, array scalars as numbers, lists as copies, "-inf" as a float.

    The last only where the option's default is no string.
    """
    if isinstance(value, str) and not isinstance(default, str) and _NON_FINITE.fullmatch(value):
        return float(value)
    if callable(getattr(value, "tolist", None)):
        return value.tolist()
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
