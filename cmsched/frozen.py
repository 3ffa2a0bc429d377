"""A dict that is a value: frozen, hashable where its items are, with items as attributes."""

from __future__ import annotations

from typing import Any, NoReturn

from .checks import nearest

__all__ = ["FrozenDict"]


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

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, Any]]]:
        return FrozenDict, (dict(self),)  # by default a copy is made by setting items
