"""Schedulers that diffusers accepts wherever its own are accepted, and pipelines changed to them.

    pipe = DiffusionPipeline.from_pretrained(...)
    cmsched.interop.diffusers.convert(pipe)

For every named scheduler with a counterpart there is a class of the same name here, which is both
cmsched's and diffusers': `isinstance` holds for either. Configuration, files and the Hub are
diffusers' own code; numbers are those of `compatibility="diffusers"`, which is the default here.
What else pipelines count on: torch tensors on the device asked for, torch's default generator where
none is given, `sigmas` and `timesteps` that may be written to, `model_outputs` that may be sliced.

A pipeline that is saved names diffusers' classes, so that it loads without cmsched; call `convert`
again to have ours. Classes without a counterpart (`Scheduler`, `KDiffusionScheduler`) can be a
pipeline's scheduler as well, but who loads that pipeline needs cmsched.
"""

import functools
import importlib
import inspect
from collections.abc import Collection, Iterator
from typing import Any

try:
    import diffusers
    import torch
    from diffusers.configuration_utils import ConfigMixin, FrozenDict
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from diffusers.utils.import_utils import DummyObject
    from diffusers.utils.torch_utils import randn_tensor
except ImportError as error:
    raise ImportError(
        f"cmsched.interop.diffusers needs diffusers and PyTorch, which cannot be imported here"
        f' ({error}): pip install "cmsched[diffusers]"'
    ) from error

from .. import samplers, schedulers
from ..schedulers.solver_parts import SolverScheduler
from .diffusers_habit import ADAPTED, Configured, Solved, Stepped

Array = Any

# where diffusers keeps classes that its top level does not name
ELSEWHERE = (
    "diffusers.schedulers.deprecated",
    "diffusers.schedulers.scheduling_consistency_decoder",
)


def movable(name: str, own: property) -> property:
    """Return the property of a table that code moves to another device or dtype, but cannot change.

    It is a copy: what counts is the configuration.
    """
    attribute = f"_moved_{name}"

    def shown(self: Any) -> Array:
        return vars(self).get(attribute, own.__get__(self))

    def move(self: Any, value: Array) -> None:
        table = own.__get__(self)
        same = isinstance(value, torch.Tensor) and value.shape == table.shape
        if not same or not torch.allclose(
            value.detach().cpu().float(), table.to(value.dtype).float()
        ):
            raise ValueError(
                f"{name} follows from the configuration and cannot be set to other values;"
                " construct the scheduler with trained_betas=, beta_schedule= or"
                " rescale_betas_zero_snr="
            )
        setattr(self, attribute, value)

    return property(shown, move, doc=own.__doc__)


def drawing_to_the_end(step: Any, least: int) -> Any:
    """Return a `step` that draws in the last step of `least` or more, though there is no use.

    As the reference does: what one generator gives to the next image is the same then.
    """
    signature = inspect.signature(step)

    @functools.wraps(step)
    def drawn(self: Any, *args: Any, **kwargs: Any) -> Any:
        result, run = step(self, *args, **kwargs), self.run
        plan = run.plan
        ended = least <= run.first + len(plan) == run.entry and not plan.rows[-1].draws
        if ended and samplers.get(plan.sampler).trait("stochastic", plan.options):
            given = signature.bind(self, *args, **kwargs).arguments
            sample, generator = given["sample"], given.get("generator")
            each = generator if isinstance(generator, list) else [generator]
            torchs = all(g is None or isinstance(g, torch.Generator) for g in each)
            if torchs and given.get("variance_noise") is None:
                like = {"dtype": sample.dtype, "device": sample.device}
                randn_tensor(sample.shape, generator=generator, **like)
        return result

    return drawn


# how many steps there must be for the last one to draw
WASTEFUL = {
    "CMStochasticIterativeScheduler": 2,
    "DDIMParallelScheduler": 1,
    "DDIMScheduler": 1,
    "DPMSolverMultistepScheduler": 1,
    "DPMSolverSinglestepScheduler": 1,
    "EulerAncestralDiscreteScheduler": 1,
    "FlowMatchEulerDiscreteScheduler": 1,
}


def reference_of(name: str) -> type | None:
    """Return diffusers' class of this name, if it has one."""
    for module in ("diffusers", *ELSEWHERE):
        found = getattr(importlib.import_module(module), name, None)
        if isinstance(found, type):
            return found
    return None


def adapted(name: str, ours: type) -> type:
    """Return the class of this name that is both cmsched's and diffusers'."""
    reference = named = reference_of(name)
    if isinstance(named, DummyObject):  # it wants packages that are not there; ours does not
        reference = None
    kinds = {SolverScheduler: Solved, schedulers.SchedulerMixin: Stepped}
    habit = next((mine for kind, mine in kinds.items() if issubclass(ours, kind)), Configured)
    theirs = (reference,) if reference else (SchedulerMixin, ConfigMixin)
    text = f"`cmsched.{name}` as diffusers' pipelines want it; see there for its options."
    members: dict[str, Any] = {
        **{"__module__": __name__, "__doc__": text, "_reference": reference},
        "_home": named and named.__module__,
        "counts": reference is None or hasattr(reference, "begin_index"),
        **{
            table: movable(table, own)
            for table in ("betas", "alphas", "alphas_cumprod", "final_alpha_cumprod")
            if isinstance(own := getattr(ours, table, None), property)
        },
    }
    if name in WASTEFUL:
        members["step"] = drawing_to_the_end(ours.step, WASTEFUL[name])  # type: ignore[attr-defined]
    cls: Any = type(name, (habit, ours, *theirs), members)
    return cls  # type: ignore[no-any-return]


ADAPTED.update({name: adapted(name, ours) for name, ours in dict(schedulers.CLASSES).items()})
# what a scheduler of diffusers, or a plain one of ours, becomes
BESIDE = {cls._reference: cls for cls in ADAPTED.values() if cls._reference}
BESIDE |= {ours: ADAPTED[name] for name, ours in schedulers.CLASSES.items()}
globals().update(ADAPTED)
__all__ = ["convert", *ADAPTED]


def convert(
    pipeline: Any,
    *,
    only: Collection[str] | None = None,
    back: bool = False,
    compatibility: str = "diffusers",
) -> dict[str, str]:
    """Exchange the schedulers that a pipeline holds for ours of the same class and configuration.

    Schedulers inside its models (that of `ConsistencyDecoderVAE`) and in pipelines inside it are
    exchanged too, everywhere that they are held. A new scheduler has no timesteps yet: pipelines
    set them in each call.

    Args:
        pipeline: a `DiffusionPipeline`, changed in place.
        only: names of the schedulers to exchange, such as "scheduler" or "vae.decoder_scheduler";
            by default all.
        back: exchange ours for diffusers' own.
        compatibility: of the new ones; "paper" follows the papers where diffusers does not.

    Returns:
        What was done: the classes, by the names of the schedulers.

    Raises:
        TypeError: `pipeline` is none.
        ValueError: a scheduler has no counterpart, or does not take the configuration, or `only`
            names what is not there. The pipeline is unchanged then.
    """
    if not isinstance(pipeline, diffusers.DiffusionPipeline):
        raise TypeError(
            f"convert takes a DiffusionPipeline, got {type(pipeline).__name__}; for a scheduler use"
            " cmsched.interop.diffusers.<its class>.from_config(scheduler.config)"
        )
    held = {name: place for name, *place in places(pipeline)}
    names = list(held) if only is None else [only] if isinstance(only, str) else list(only)
    if absent := [name for name in names if name not in held]:
        raise ValueError(
            f"only={absent[0]!r}: this {type(pipeline).__name__} holds no such scheduler, but"
            f" {', '.join(held) or 'none'}"
        )
    options = {} if back else {"compatibility": compatibility}
    made: dict[int, Any] = {}  # one scheduler may be held in several places
    for name in names:
        scheduler = held[name][-1]
        if isinstance(scheduler, Configured) is back and id(scheduler) not in made:
            made[id(scheduler)] = counterpart(name, scheduler, options, back=back)
    done = {}
    for name, (owner, attribute, scheduler) in held.items():
        if id(scheduler) in made:
            setattr(owner, attribute, made[id(scheduler)])
            sides = ("cmsched", "diffusers") if back else ("diffusers", "cmsched")
            done[name] = f"{type(scheduler).__name__} of {sides[0]} -> of {sides[1]}"
    return done


def places(
    owner: Any, path: str = "", seen: frozenset[int] = frozenset()
) -> Iterator[tuple[str, Any, str, Any]]:
    """Yield name, owner, attribute and scheduler for every scheduler that something holds."""
    holders, seen = diffusers.DiffusionPipeline | torch.nn.Module, seen | {id(owner)}
    for attribute, value in list(vars(owner).items()):
        name = path + attribute
        if isinstance(value, SchedulerMixin | schedulers.ConfigMixin):
            yield name, owner, attribute, value
        elif isinstance(value, holders) and id(value) not in seen:
            yield from places(value, f"{name}.", seen)


def counterpart(name: str, scheduler: Any, options: dict[str, Any], *, back: bool) -> Any:
    """Return the other side's scheduler of the same class and configuration."""
    kind: Any = type(scheduler)
    other = kind._reference if back else BESIDE.get(kind)
    if other is None:
        side = "diffusers does not have here" if back else "cmsched does not have"
        hint = "" if back else "; leave it out by only="
        raise ValueError(
            f"{name} is a {kind.__name__}, which {side}; the pipeline is unchanged{hint}"
        )
    config = {key: getattr(scheduler.config, key) for key in scheduler.config}
    try:
        # a default that a pipeline has changed in place is no default any more
        made = other.from_config({**config, "_use_default_values": []}, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: {other.__name__} does not take this configuration ({error}); the pipeline is"
            " unchanged"
        ) from error
    made._internal_dict = FrozenDict(config)
    return made
