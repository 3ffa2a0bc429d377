"""What `step` returns: fields by attribute, name or position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

__all__ = ["OriginalSampleOutput", "SchedulerOutput", "output_of"]


class SchedulerOutput(Mapping[str, Any]):
    """Output of a scheduler's step.

    Args:
        prev_sample: the sample at the next (less noisy) point, like the sample given.
    """

    fields: ClassVar[tuple[str, ...]] = ("prev_sample",)

    __hash__ = object.__hash__
    __eq__ = object.__eq__  # a mapping's would compare arrays, whose truth is not defined

    def __init__(self, *values: Any, **named: Any) -> None:
        """Take the fields by position or name; those left out are None."""
        given = {**dict(zip(self.fields, values, strict=False)), **named}
        if len(values) + len(named) != len(given) or not given.keys() <= {*self.fields}:
            raise TypeError(f"{type(self).__name__} takes {', '.join(self.fields)}")
        for name in self.fields:
            setattr(self, name, given.get(name))

    prev_sample: Any

    def __getattr__(self, name: str) -> Any:
        fields = ", ".join(self.fields)
        raise AttributeError(f"{type(self).__name__} has no field {name!r}; it has {fields}")

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, slice):
            return self.to_tuple()[key]
        if isinstance(key, str) and key not in self.fields:
            raise KeyError(key)
        return getattr(self, key if isinstance(key, str) else self.fields[key])

    def __iter__(self) -> Iterator[str]:
        """Iterate over names, as a mapping does."""
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __reduce__(self) -> tuple[type[SchedulerOutput], tuple[Any, ...]]:
        return type(self), self.to_tuple()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.fields)})"

    def to_tuple(self) -> tuple[Any, ...]:
        """Return all fields, in order."""
        return tuple(getattr(self, name) for name in self.fields)


class OriginalSampleOutput(SchedulerOutput):
    """Output of a step that also reports the estimate of the clean sample.

    Args:
        prev_sample: the sample at the next point.
        pred_original_sample: the estimate x0 after clipping, like the sample.
    """

    fields = ("prev_sample", "pred_original_sample")


def output_of(scheduler: str, *fields: str) -> Any:
    """Return the output class of a scheduler, named after it; by default with the estimate x0."""
    fields = fields or OriginalSampleOutput.fields
    base = OriginalSampleOutput if fields == OriginalSampleOutput.fields else SchedulerOutput
    members = {
        "fields": fields,
        "__doc__": f"Output of `{scheduler}.step`: {', '.join(fields)}.",
        "__module__": __name__,
    }
    return type(f"{scheduler}Output", (base,), members)


DDIMSchedulerOutput = output_of("DDIMScheduler")
DDIMParallelSchedulerOutput = output_of("DDIMParallelScheduler")
DDPMSchedulerOutput = output_of("DDPMScheduler")
DDPMParallelSchedulerOutput = output_of("DDPMParallelScheduler")
DPMSolverSDESchedulerOutput = output_of("DPMSolverSDEScheduler")
EDMEulerSchedulerOutput = output_of("EDMEulerScheduler")
EulerDiscreteSchedulerOutput = output_of("EulerDiscreteScheduler")
EulerAncestralDiscreteSchedulerOutput = output_of("EulerAncestralDiscreteScheduler")
HeunDiscreteSchedulerOutput = output_of("HeunDiscreteScheduler")
KDPM2DiscreteSchedulerOutput = output_of("KDPM2DiscreteScheduler")
KDPM2AncestralDiscreteSchedulerOutput = output_of("KDPM2AncestralDiscreteScheduler")
LMSDiscreteSchedulerOutput = output_of("LMSDiscreteScheduler")
RePaintSchedulerOutput = output_of("RePaintScheduler")
# the other fields are: the consistency function's value; the sample where the step's deterministic
# part ends; d x / d sigma at the first evaluation; the sample without the noise of the step
LCMSchedulerOutput = output_of("LCMScheduler", "prev_sample", "denoised")
TCDSchedulerOutput = output_of("TCDScheduler", "prev_sample", "pred_noised_sample")
KarrasVeOutput = output_of("KarrasVe", "prev_sample", "derivative", "pred_original_sample")
SdeVeOutput = output_of("SdeVe", "prev_sample", "prev_sample_mean")
ConsistencyDecoderSchedulerOutput = output_of("ConsistencyDecoderScheduler", "prev_sample")
CMStochasticIterativeSchedulerOutput = output_of("CMStochasticIterativeScheduler", "prev_sample")
FlowMatchEulerDiscreteSchedulerOutput = output_of("FlowMatchEulerDiscreteScheduler", "prev_sample")
FlowMatchHeunDiscreteSchedulerOutput = output_of("FlowMatchHeunDiscreteScheduler", "prev_sample")
VQDiffusionSchedulerOutput = output_of("VQDiffusionScheduler", "prev_sample")
