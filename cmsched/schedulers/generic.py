"""Any sampler with any schedule, spacing and prediction."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

from .. import samplers, spacings
from ..checks import check_choice
from ..discretizations import Spaced
from ..frozen import FrozenDict
from ..names import canonical
from ..predictions import OUTPUTS, Prediction
from ..recipe import Recipe, Start
from ..schedules import BETA_SCHEDULES, SCHEDULES, Betas, Schedule, make_schedule
from .habit import SchedulerMixin
from .short import with_sampler

__all__ = ["Scheduler"]


OPTIONS: Mapping[str, Any] = {
    "sampler": "dpmpp_multistep",
    "schedule": "scaled_linear",
    "spacing": "trailing",
    "prediction_type": "epsilon",
    "num_train_timesteps": 1000,
    "sampler_options": None,
    "schedule_options": None,
    "spacing_options": None,
    "steps_offset": 0,
    "sigma_min": None,
    "sigma_max": None,
    "final_sigmas_type": "zero",
    "shift": 1.0,
    "clip_sample_range": None,
    "dynamic_thresholding_ratio": None,
    "sample_max_value": 1.0,
}


def schedule_of(c: FrozenDict) -> Schedule:
    """Return the schedule by its name and options, or that which is given."""
    if not isinstance(c.schedule, str):
        if not isinstance(c.schedule, Schedule):
            raise TypeError(
                "schedule must be a name, or an object of a subclass of cmsched.schedules.Schedule,"
                f" got {c.schedule!r}"
            )
        if c.schedule_options:
            raise ValueError("schedule_options are for a schedule by name; this one has its own")
        own: Schedule = c.schedule
        return own
    options = dict(c.schedule_options or {})
    if c.schedule in BETA_SCHEDULES or c.schedule in ("betas", "flow"):
        options.setdefault("num_train_timesteps", c.num_train_timesteps)
    return make_schedule(c.schedule, **options)


def sampler_options_of(c: FrozenDict) -> dict[str, Any]:
    """Return the sampler's options."""
    options = dict(c.sampler_options or {})
    if "prediction_type" in samplers.get(c.sampler).options:
        options.setdefault("prediction_type", c.prediction_type)
    return options


def said_of(c: FrozenDict, sigma_data: float) -> Prediction:
    """Return what the network says."""
    ratio = c.dynamic_thresholding_ratio
    if isinstance(c.prediction_type, Prediction):
        if not (ratio is c.clip_sample_range is None):
            raise ValueError("clip_sample_range and thresholding are fields of a Prediction object")
        whole: Prediction = c.prediction_type
        return whole
    scaled = c.prediction_type in ("edm", "edm_v", "trigflow", "consistency")
    return Prediction(
        c.prediction_type,
        None if c.clip_sample_range is None else float(c.clip_sample_range),
        None if ratio is None else (float(ratio), float(c.sample_max_value)),
        sigma_data=(scaled and sigma_data) or Prediction.sigma_data,
        sigma_min=float(c.sigma_min or 0.0) if c.prediction_type == "consistency" else 0.0,
        variance_head=str((c.sampler_options or {}).get("variance")).startswith("learned"),
    )


def velocity(schedule: Any, options: Any) -> str:
    """Return the prediction type of dx / dt where the schedule is a flow, else nothing."""
    if isinstance(schedule, Schedule):
        flow, rising = schedule.frame == "flow", schedule.span[0] < schedule.span[1]
    else:
        own = options if isinstance(options, Mapping) else {}
        flow, rising = schedule == "flow", own.get("rising") is True
    return ("data_flow_prediction" if rising else "flow_prediction") if flow else ""


def of_unit_size(schedule: Schedule) -> bool:
    """Return whether samples are of the size of the noise that a run starts from."""
    return isinstance(schedule, Betas) and schedule.frame == "vp" and not schedule.sigma_data


def chosen(c: FrozenDict, reference: bool) -> Recipe:
    """Return the recipe put together from the options, or that which is given."""
    if c.recipe is not None:
        others = [name for name, default in OPTIONS.items() if c[name] != default]
        idle = tuple(f"{name} has no effect beside recipe" for name in others)
        given: Recipe = replace(c.recipe, idle=idle)
        return given
    schedule, unheeded = schedule_of(c), []
    # a consistency function that is the identity at sigma_min needs no evaluation there
    jumps = samplers.get(c.sampler).jumps and c.prediction_type == "consistency" and c.sigma_min
    ends_there = bool(c.final_sigmas_type == "sigma_min" or jumps)
    heeds = spacings.check_spacing(c.spacing, c.spacing_options or {})
    for name in ("sigma_max", "sigma_min", "steps_offset"):
        if name not in heeds and c[name] and not (name == "sigma_min" and ends_there):
            spacing = spacings.entry(c.spacing).name
            unheeded.append(f"{name} has no effect with spacing={spacing!r}")
    end = schedule.point(0.0, 0.0)
    if ends_there and c.sigma_min is None:
        end = schedule.at(t=schedule.span[1])
    elif ends_there:
        end = schedule.at(**{"sigma" if schedule.frame == "flow" else "ratio": c.sigma_min})
    where = Spaced(
        schedule=schedule,
        end=end,
        train=c.num_train_timesteps,
        repeats_end=reference,
        # the middle of a Runge-Kutta step lies between training steps
        whole=isinstance(schedule, Betas) and c.sampler != "pndm",
        evaluations=samplers.get(c.sampler).evaluations,
        spacing=c.spacing,
        spacing_options=FrozenDict(c.spacing_options or {}),
        sigma_max=c.sigma_max if "sigma_max" in heeds else None,
        sigma_min=c.sigma_min if "sigma_min" in heeds else None,
        offset=c.steps_offset if "steps_offset" in heeds else 0,
        shift=c.shift,
    )
    prediction = said_of(c, schedule.sigma_data)
    start = Start("unit" if of_unit_size(schedule) else "native")
    return Recipe(c.sampler, where, prediction, sampler_options_of(c), start, tuple(unheeded))


def exists(c: FrozenDict) -> None:
    """Raise where a part is unknown, or does not have these options."""
    if c.recipe is not None:
        if not isinstance(c.recipe, Recipe):
            raise TypeError(f"recipe must be a Recipe, as scheduler.recipe() is, got {c.recipe!r}")
        return
    check_choice("sampler", c.sampler, samplers.REGISTRY)
    if isinstance(c.schedule, str):
        check_choice("schedule", c.schedule, (*BETA_SCHEDULES, *SCHEDULES))
    spacings.check_spacing(c.spacing, c.spacing_options or {})
    if not callable(c.prediction_type) and not isinstance(c.prediction_type, Prediction):
        check_choice("prediction_type", c.prediction_type, OUTPUTS)
    said_of(c, schedule_of(c).sigma_data)
    samplers.get(c.sampler).complete(sampler_options_of(c))
    if c.shift != 1.0 and schedule_of(c).frame != "flow":
        raise ValueError(f"shift={c.shift} is for flow schedules, not for {c.schedule!r}")


def with_names(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with the names that are here for those that people type, and for objects.

    An object that has no name stays.
    """
    c = dict(config)
    if isinstance(c.get("schedule"), Schedule) and not c.get("schedule_options"):
        with suppress(TypeError):  # it has no name
            fields = c["schedule"].to_dict()
            c |= {"schedule": fields.pop("curve"), "schedule_options": fields}
    for name, rule in spacings.SPACINGS.items():
        if c.get("spacing") in (rule, rule.rule):
            c["spacing"] = name
            break
    known = {"schedule": (*SCHEDULES, *BETA_SCHEDULES), "spacing": spacings.SPACINGS}
    for key, names in known.items():
        c[key] = canonical(key, c.get(key, OPTIONS[key]), names)
    c["prediction_type"] = canonical(
        "prediction_type",
        c.get("prediction_type", OPTIONS["prediction_type"]),
        OUTPUTS,
        flow=velocity(c["schedule"], c.get("schedule_options")),
    )
    c = with_sampler(c)
    return {key: value for key, value in c.items() if key in config or value != OPTIONS[key]}


class Scheduler(SchedulerMixin):
    """A scheduler put together from its parts; the named classes are presets of these.

    Names may be spelled as elsewhere ("eps", "v", "vp", "DPM++ 2M", "dpmpp_2m", any case); the
    configuration has those of cmsched. Of a flow "v", "velocity" and "flow" are dx / dt. Parts of
    one's own stand in place of names: an object of `cmsched.schedules.Schedule`, a function (n,
    high, low) for the spacing, a `Prediction` or a function as `cmsched.predictions.register`
    takes it.
    """

    meanings: ClassVar = {
        "prediction_type": "what the network says, see below.",
        "num_train_timesteps": "training steps of tables of betas and of flows; spacings in time "
        "number them.",
        "sigma_min": "lowest level of spacings between two levels, and where final_sigmas_type="
        '"sigma_min" ends; None for that of the schedule. Of "consistency" the level where the '
        "network is the identity.",
        "sigma_max": "highest level of spacings between two levels; None for that of the schedule.",
        "steps_offset": 'training steps to add to those of spacing="leading".',
        "final_sigmas_type": 'the level after the last step: "zero", a clean sample; "sigma_min", '
        "that level, for samplers that cannot reach 0.",
        "clip_sample_range": "clamp the estimate of x0 to [-this, this], in units of the sample; "
        "None for no clamp.",
        "dynamic_thresholding_ratio": "project the estimate of x0 by dynamic thresholding "
        "(arXiv:2205.11487, section 2.3) with this quantile, in (0, 1]; None for no projection.",
        "shift": "sigma -> shift sigma / (1 + (shift - 1) sigma) of flow schedules "
        "(arXiv:2403.03206, eq. 23).",
        "schedule": "the noise levels over time, see below.",
        "spacing": "the rule that places the steps, see below.",
    }
    options: ClassVar = OPTIONS
    hidden_options: ClassVar = {"recipe": None}
    spellings = (with_names,)
    relations = (exists,)
    meaning = staticmethod(chosen)

    @property
    def order(self) -> int:  # type: ignore[override]
        """Evaluations per step."""
        return samplers.get(self.recipe().sampler).evaluations
