"""Schedulers by the names of k-diffusion and of the programs built on it."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from .. import checks, samplers
from ..checks import check_choice, nearest
from ..frozen import FrozenDict
from ..names import spelling
from ..recipe import Recipe
from .betas import BETA_OPTIONS
from .config import classes
from .short import with_sampler
from .sigma import RAMP_OPTIONS, SigmaScheduler, one_ramp, sigma_recipe

__all__ = ["A1111", "KDiffusionScheduler", "from_a1111"]


@dataclass(frozen=True)
class AllEvaluations:
    """Reads an explicit list of all evaluations, two of each step, as the steps that have it.

    Args:
        recipe: of the steps.
    """

    recipe: Recipe

    def __call__(self, name: str, values: Any) -> Any:
        """Return the list of steps."""
        table = np.asarray(checks.host(values))
        if table.ndim != 1 or table.size < 2 or table.dtype.kind not in "if":
            return values
        where = self.recipe.discretization
        if name == "timesteps":
            where.at_times([])  # where there can be none it says so
        ends = where.level(where.end), 0.0
        count = table.size - (name == "sigmas" and np.isclose(table[-1], ends, rtol=1e-6).any())
        steps = np.concatenate([table[:count:2], table[count:]])
        if steps.size == table.size:
            return values
        with contextlib.suppress(ValueError):
            lists: dict[str, Any] = {name: steps}
            plan = self.recipe.plan(**lists)
            listed = plan.timesteps.tolist()
            if name == "sigmas":
                listed = [*map(where.level, plan.points), *table[count:]]
            if len(listed) == table.size and np.allclose(listed, table, rtol=1e-7, atol=1e-9):
                return steps
        return values


def k_diffusion(c: FrozenDict, reference: bool) -> Recipe:
    """Return what the options mean: any sampler as k-diffusion runs it."""
    evaluations = samplers.get(c.sampler).evaluations
    options = dict(c.sampler_options or {})
    recipe = sigma_recipe(c, reference, c.sampler, options, evaluations=evaluations)
    if evaluations != 2:
        return recipe
    where = replace(recipe.discretization, reading=AllEvaluations(recipe))
    return replace(recipe, discretization=where)


def complete(c: FrozenDict) -> None:
    """Raise where the sampler is unknown, or does not have these options."""
    check_choice("sampler", c.sampler, samplers.REGISTRY)
    samplers.get(c.sampler).complete(c.sampler_options or {})


class KDiffusionScheduler(SigmaScheduler):
    """Any registered sampler as k-diffusion runs it: x0 + sigma eps, scaled inputs, model betas.

    Options beside those of `EulerDiscreteScheduler`: sampler, a registered name
    (`cmsched.samplers.REGISTRY`); sampler_options, its keywords.
    """

    options: ClassVar = {
        **BETA_OPTIONS,
        "sampler": "dpmpp_2s_ancestral",
        "sampler_options": None,
        "prediction_type": "epsilon",
        **RAMP_OPTIONS,
        "sigma_min": None,
        "sigma_max": None,
        "timestep_spacing": "linspace",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
        "final_sigmas_type": "zero",
    }
    spellings = (with_sampler,)
    relations = (one_ramp, complete)
    meaning = staticmethod(k_diffusion)

    @property
    def order(self) -> int:  # type: ignore[override]
        """Evaluations per step."""
        return samplers.get(self.filled_config.sampler).evaluations


SDE = {"algorithm_type": "sde-dpmsolver++"}
THIRD = {**SDE, "solver_order": 3, "solver_type": "heun", "lower_order_final": False}

# name: (class, its options, the registered sampler, its options)
A1111: Mapping[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "Euler": ("EulerDiscreteScheduler", {}, "euler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}, "euler_ancestral", {}),
    "LMS": ("LMSDiscreteScheduler", {}, "lms", {}),
    "Heun": ("HeunDiscreteScheduler", {}, "heun", {}),
    "DPM2": ("KDPM2DiscreteScheduler", {}, "dpm2", {}),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}, "dpm2_ancestral", {}),
    "DPM++ 2S a": ("KDiffusionScheduler", {}, "dpmpp_2s_ancestral", {}),
    "DPM++ SDE": ("DPMSolverSDEScheduler", {}, "dpmpp_sde", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}, "dpmpp_multistep", {}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", SDE, "dpmpp_multistep", {"eta": 1.0}),
    "DPM++ 2M SDE Heun": (
        "DPMSolverMultistepScheduler",
        {**SDE, "solver_type": "heun"},
        "dpmpp_multistep",
        {"eta": 1.0, "solver_type": "heun"},
    ),
    "DPM++ 3M SDE": (
        "DPMSolverMultistepScheduler",
        THIRD,
        "dpmpp_multistep",
        {"eta": 1.0, "solver_order": 3, "solver_type": "heun"},
    ),
    "DPM fast": ("KDiffusionScheduler", {}, "dpm_fast", {}),
    "DPM adaptive": ("KDiffusionScheduler", {}, "dpm_adaptive", {}),
    "DDIM": ("DDIMScheduler", {}, "ddim", {}),
    "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}, "plms", {}),
    "UniPC": ("UniPCMultistepScheduler", {}, "unipc", {}),
    "DEIS": ("DEISMultistepScheduler", {}, "deis", {}),
    "LCM": ("LCMScheduler", {}, "lcm", {}),
}
ALIASES = {
    "DPM自适应": "DPM adaptive",
    "DPM快速": "DPM fast",
    "sample_euler": "Euler",
    "sample_euler_ancestral": "Euler a",
    "sample_lms": "LMS",
    "sample_heun": "Heun",
    "sample_dpm_2": "DPM2",
    "sample_dpm_2_ancestral": "DPM2 a",
    "sample_dpmpp_2s_ancestral": "DPM++ 2S a",
    "sample_dpmpp_sde": "DPM++ SDE",
    "sample_dpmpp_2m": "DPM++ 2M",
    "sample_dpmpp_2m_sde": "DPM++ 2M SDE",
    "sample_dpmpp_3m_sde": "DPM++ 3M SDE",
    "sample_dpm_fast": "DPM fast",
    "sample_dpm_adaptive": "DPM adaptive",
}
SUFFIXES = {
    "Karras": "use_karras_sigmas",
    "Exponential": "use_exponential_sigmas",
    "Beta": "use_beta_sigmas",
}
# of the models that these names are used with
TRAINED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def from_a1111(name: str, config: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """Return the scheduler that A1111 and k-diffusion know by this name.

    "DPM++ SDE" is k-diffusion's two-stage algorithm (`DPMSolverSDEScheduler`); older tables name
    `DPMSolverSinglestepScheduler` for it, which is another one. Where a name's class has no such
    placement of sigmas, `KDiffusionScheduler` runs its sampler.

    Args:
        name: a name in A1111, also in the spelling of ALIASES; with "Karras", "Exponential" or
            "Beta" behind it for that placement of sigmas. Case and spaces do not matter.
        config: the configuration of the model's own scheduler, whose training schedule and
            prediction type are kept; by default that of Stable Diffusion.
        options: options of the class.

    Raises:
        ValueError: unknown name (the nearest one is given), or a placement the sampler has not.
        TypeError: an option that the class does not have.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {name!r}")
    if not isinstance(config, Mapping | None):
        raise TypeError(f"config must be a dict, got {config!r}")
    known = {spelling(key): key for key in A1111} | {spelling(k): v for k, v in ALIASES.items()}
    base, _, suffix = name.strip().rpartition(" ")
    ramps = {spelling(key): option for key, option in SUFFIXES.items()}
    ramp = ramps.get(spelling(suffix)) if base else None
    plain = spelling(base if ramp else name)
    if plain not in known:
        hint = nearest(name, (*A1111, *ALIASES))
        raise ValueError(
            f"there is no A1111 sampler {name!r}{hint if 'mean' in hint else ''}; known:"
            f" {', '.join(A1111)}, each also with {', '.join(SUFFIXES)} behind it"
        )
    cls, preset, sampler, sampler_options = A1111[known[plain]]
    known_classes = classes()
    if ramp and ramp not in known_classes[cls].options:
        cls, preset = "KDiffusionScheduler", {}
    if cls == "KDiffusionScheduler":
        preset = {"sampler": sampler, "sampler_options": sampler_options}
    if ramp:
        preset = {**preset, ramp: True}
    made = known_classes[cls]
    known_options = [*made.options, *made.hidden_options, "xp", "compatibility"]
    for option in options:
        if option not in known_options:
            raise TypeError(f"{cls} has no option {option!r}{nearest(option, known_options)}")
    trained = TRAINED if config is None else dict(config)
    return known_classes[cls].from_config(trained, **{**preset, **options})
