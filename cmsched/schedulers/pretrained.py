"""`cmsched.from_pretrained`: the scheduler that a configuration file names."""

import os
from typing import Any

from ..checks import nearest
from . import files
from .config import LOADING, ConfigMixin, classes
from .config_values import class_name, source_of

__all__ = ["from_pretrained"]


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
    source, name = source_of(pretrained_model_name_or_path), ConfigMixin.config_name
    where = {key: kwargs.pop(key) for key in LOADING if key in kwargs}
    try:
        file = files.find(source, name, subfolder, **where)
    except FileNotFoundError as error:
        if subfolder:
            raise
        try:
            file = files.find(source, name, "scheduler", **where)
        except FileNotFoundError:
            raise error from None
    origin = class_name(files.read(file))
    known = classes()
    if origin in known:
        return known[origin].from_pretrained(file, **kwargs)
    another = "cmsched.DDIMScheduler.from_pretrained(...)"
    if not origin:
        raise ValueError(f"{file} names no class as _class_name; load it with one, as {another}")
    raise ValueError(
        f"{file} is the config of {origin}, which is no scheduler of cmsched; where its model runs"
        f" with another one, load it with that class, as {another}"
        f"{nearest(origin, known, 0.95)}"  # all of them end alike
    )
