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

from collections.abc import Collection, Iterator
from typing import Any

try:
    import diffusers
    import torch
    from diffusers.configuration_utils import ConfigMixin, FrozenDict
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from diffusers.utils.import_utils import DummyObject
except ImportError as error:
    raise ImportError(
        f"cmsched.interop.diffusers needs diffusers and PyTorch, which cannot be imported here"
        f' ({error}): pip install "diffusers>=0.42" torch'
    ) from error

from .. import schedulers
from .diffusers_habits import HABITS
from .diffusers_own import ADAPTED, Configured
from .diffusers_step import Either, Stepping, reference_of

Array = Any


def own(name: str, cls: type, base: type | None) -> type:
    """Return cmsched's own class of a name with diffusers' configuration."""
    theirs = (base,) if base else (SchedulerMixin, ConfigMixin)
    text = f"`cmsched.{name}` in torch, with diffusers' configuration; see there for its options."
    members: dict[str, Any] = {"__module__": __name__, "__doc__": text}
    if issubclass(cls, schedulers.SchedulerMixin):
        members["ready"] = True  # for a run over all training steps, as in training loops
    return type(name, (Configured, cls, *theirs), members)


def adapted(name: str, cls: type) -> type:
    """Return the class of a name that takes the place of diffusers' here.

    It is diffusers' own with our steps. With `compatibility="paper"`, or an option that only
    cmsched has, it makes cmsched's scheduler; where diffusers has no such class it is that.
    """
    reference = named = reference_of(name)
    if isinstance(named, DummyObject):  # it wants packages that are not there; ours does not
        reference = None
    if reference is None:
        alone: Any = own(name, cls, None)
        alone._reference, alone._home = None, named and named.__module__
        return alone  # type: ignore[no-any-return]
    text = f"diffusers' `{name}`, whose steps are cmsched's; `cmsched.{name}` says what they are."
    members = {
        **{"__module__": __name__, "__doc__": text},
        **{"_reference": reference, "_home": reference.__module__, "core": cls},
        **({"habit": HABITS[name]} if name in HABITS else {}),
    }
    made: Any = type(name, (Stepping if name in HABITS else Either, reference), members)
    made._own = own(name, cls, made)
    return made  # type: ignore[no-any-return]


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
        if isinstance(scheduler, Configured | Either) is back and id(scheduler) not in made:
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
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"{name}: {other.__name__} does not take this configuration ({error}); the pipeline is"
            " unchanged"
        ) from error
    made._internal_dict = FrozenDict(config)
    return made
