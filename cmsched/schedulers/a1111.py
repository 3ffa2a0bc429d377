"""Schedulers by the names of k-diffusion and of the programs built on it."""

import contextlib
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import samplers, spacings
from .._messages import nearest
from .betas import BETA_OPTIONS, EXCHANGEABLE
from .config import CLASSES, FrozenDict
from .variance_exploding import RAMP_OPTIONS, SigmaScheduler

__all__ = ["A1111", "KDiffusionScheduler", "from_a1111"]


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
    _compatibles: ClassVar = EXCHANGEABLE

    @property
    def order(self) -> int:  # type: ignore[override]
        """Evaluations per step."""
        return samplers.get(self._options.sampler).evaluations

    def _validate(self, config: FrozenDict) -> None:
        super()._validate(config)
        samplers.get(config.sampler).complete(config.sampler_options or {})

    def _sampler(self, config: FrozenDict, n: int) -> tuple[str, dict[str, Any]]:
        return config.sampler, dict(config.sampler_options or {})

    def _entries(self, name: str, values: Any) -> list[float]:
        """Return an explicit list; one of all evaluations is reduced to the steps that have it."""
        table = np.asarray(spacings.host(values))
        if self.order == 2 and table.ndim == 1 and table.size > 1 and table.dtype.kind in "if":
            if name == "timesteps":
                self._at_timesteps(self._options, [])  # where there can be none it says so
            ends = self._exposed(self._last(self._options)), 0.0
            count = table.size - (name == "sigmas" and np.isclose(table[-1], ends, rtol=1e-6).any())
            steps = np.concatenate([table[:count:2], table[count:]])
            with contextlib.suppress(ValueError):
                lists: dict[str, Any] = {name: steps}
                plan = self.plan(**lists) if steps.size < table.size else None
                listed = [] if plan is None else plan.timesteps.tolist()
                if plan is not None and name == "sigmas":
                    listed = [*map(self._exposed, plan.points), *table[count:]]
                if len(listed) == table.size and np.allclose(listed, table, rtol=1e-7, atol=1e-9):
                    values = steps
        return super()._entries(name, values)


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
    known = {_plain(key): key for key in A1111} | {_plain(k): v for k, v in ALIASES.items()}
    base, _, suffix = name.strip().rpartition(" ")
    ramps = {_plain(key): option for key, option in SUFFIXES.items()}
    ramp = ramps.get(_plain(suffix)) if base else None
    plain = _plain(base if ramp else name)
    if plain not in known:
        raise ValueError(
            f"there is no A1111 sampler {name!r}{nearest(name, (*A1111, *ALIASES))}; known:"
            f" {', '.join(A1111)}, each also with {', '.join(SUFFIXES)} behind it"
        )
    cls, preset, sampler, sampler_options = A1111[known[plain]]
    if ramp and ramp not in CLASSES[cls].options:
        cls, preset = "KDiffusionScheduler", {}
    if cls == "KDiffusionScheduler":
        preset = {"sampler": sampler, "sampler_options": sampler_options}
    if ramp:
        preset = {**preset, ramp: True}
    known_options = [*CLASSES[cls].options, *CLASSES[cls].hidden_options, "xp", "compatibility"]
    for option in options:
        if option not in known_options:
            raise TypeError(f"{cls} has no option {option!r}{nearest(option, known_options)}")
    trained = TRAINED if config is None else dict(config)
    return CLASSES[cls].from_config(trained, **{**preset, **options})


def _plain(name: str) -> str:
    """Return a name without what spelling changes."""
    return re.sub(r"\s+", "", name).lower()
