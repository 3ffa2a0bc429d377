"""What `step` returns: fields by attribute, name or position."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

__all__ = ["OriginalSampleOutput", "SchedulerOutput"]


class SchedulerOutput:
    """Output of a scheduler's step.

    Args:
        prev_sample: the sample at the next (less noisy) point, like the sample given.
    """

    fields: ClassVar[tuple[str, ...]] = ("prev_sample",)

    def __init__(self, prev_sample: Any, estimate: Callable[[], Any] | Any = None) -> None:
        self.prev_sample = prev_sample
        self._estimate = estimate

    def __getattr__(self, name: str) -> Any:
        """Compute the estimate of x0 at first use: most loops never look at it."""
        if name not in type(self).fields[1:]:
            raise AttributeError(f"{type(self).__name__} has no field {name!r}; it has {', '.join(self.fields)}")
        value = self._estimate() if callable(self._estimate) else self._estimate
        setattr(self, name, value)
        return value

    def __getitem__(self, key: str | int | slice) -> Any:
        """Return a field by name or position."""
        if isinstance(key, str):
            if key not in self.fields:
                raise KeyError(key)
            return getattr(self, key)
        return self.to_tuple()[key] if isinstance(key, slice) else getattr(self, self.fields[key])

    def to_tuple(self) -> tuple[Any, ...]:
        """Return all fields, in order."""
        return tuple(getattr(self, name) for name in self.fields)

    def keys(self) -> tuple[str, ...]:
        """Return the fields' names."""
        return self.fields

    def values(self) -> tuple[Any, ...]:
        """Return the fields' values."""
        return self.to_tuple()

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Return names and values."""
        return tuple(zip(self.fields, self.to_tuple(), strict=True))

    def __iter__(self) -> Iterator[str]:
        """Iterate over names, as a mapping does."""
        return iter(self.fields)

    def __len__(self) -> int:
        """Return the number of fields."""
        return len(self.fields)

    def __repr__(self) -> str:
        """Return the fields' names."""
        return f"{type(self).__name__}({', '.join(self.fields)})"


class OriginalSampleOutput(SchedulerOutput):
    """Output of a step that also reports the estimate of the clean sample.

    Args:
        prev_sample: the sample at the next point.
        pred_original_sample: the estimate x0 after clipping, like the sample.
    """

    fields = ("prev_sample", "pred_original_sample")
