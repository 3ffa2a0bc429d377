"""What the network's output m means: x0 = boundary(project(p x + q m)), on the host.

p, q and the boundary's two numbers are Python floats per point; only `project` (clipping, dynamic
thresholding) is not linear, and where it is absent all of it folds into the coefficients of a step.
Predictions are defined in the frame that the network sees, where its input is scale * x = a x0 +
s eps with a = scale * alpha and s = scale * sigma:

    epsilon          m = eps
    sample           m = x0
    v_prediction     m = a eps - s x0
    flow_prediction  m = eps - x0
    score            m = -eps / sigma
    edm              x0 = c_skip u + c_out m, u = x / alpha
    consistency      the same with the boundary condition c_skip = 1, c_out = 0 at sigma_min
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ._messages import choose, nonnegative
from .schedules import Point

__all__ = ["PREDICTION_TYPES", "Prediction", "output_from_x0"]

PREDICTION_TYPES = (
    "epsilon",
    "sample",
    "v_prediction",
    "flow_prediction",
    "score",
    "edm",
    "consistency",
)


@dataclass(frozen=True)
class Prediction:
    """How the network's output becomes the estimate x0.

    Args:
        type: a name in PREDICTION_TYPES.
        clip: clamp the estimate to [-clip, clip].
        threshold: (ratio, maximum) of dynamic thresholding (arXiv:2205.11487, section 2.3): clamp
            to the ratio quantile s of |x0| over each sample, s in [1, maximum], and divide by s.
        sigma_data: of the edm, consistency and boundary scalings (arXiv:2206.00364, table 1).
        sigma_min: of the consistency scalings (arXiv:2303.01469, appendix C).
        timestep_scaling: LCM's boundary condition c_skip x + c_out x0 around the projected
            estimate, with c(t * timestep_scaling); None for no such stage (arXiv:2310.04378,
            section 4.1).
        variance_head: the output has twice the sample's channels (axis 1); the second half
            describes the variance.
    """

    type: str = "epsilon"
    clip: float | None = None
    threshold: tuple[float, float] | None = None
    sigma_data: float = 0.5
    sigma_min: float = 0.0
    timestep_scaling: float | None = None
    variance_head: bool = False

    def __post_init__(self) -> None:
        choose("prediction_type", self.type, PREDICTION_TYPES)
        if self.clip is not None and not nonnegative("clip", self.clip) > 0.0:
            raise ValueError(f"clip must be positive, got {self.clip}")
        if self.threshold is not None:
            ratio, maximum = self.threshold
            if not (0.0 < ratio <= 1.0 and maximum > 0.0):
                raise ValueError(
                    "threshold must be a ratio in (0, 1] and a positive maximum, got"
                    f" {self.threshold}"
                )
        if not nonnegative("sigma_data", self.sigma_data) > 0.0:
            raise ValueError(f"sigma_data must be positive, got {self.sigma_data}")
        nonnegative("sigma_min", self.sigma_min)

    @property
    def projects(self) -> bool:
        """Whether the estimate is not linear in the output."""
        return self.clip is not None or self.threshold is not None

    def linear(self, at: Point) -> tuple[float, float]:
        """Return p and q of the estimate before projection, p x + q m.

        Raises:
            ValueError: the output says nothing about x0 here (epsilon where alpha is 0, say).
        """
        a, s = at.scale * at.alpha, at.scale * at.sigma
        match self.type:
            case "sample":
                return 0.0, 1.0
            case "v_prediction":
                return at.scale * a / (a * a + s * s), -s / (a * a + s * s)
            case "flow_prediction":
                return at.scale / (a + s), -s / (a + s)
        if at.alpha == 0.0:
            raise ValueError(
                f"prediction_type={self.type!r} does not determine x0 at t={at.t:g}, where alpha is"
                ' 0 (zero terminal SNR); use prediction_type="v_prediction" or "sample", or'
                " timesteps that start later"
            )
        match self.type:
            case "epsilon":
                return 1.0 / at.alpha, -at.sigma / at.alpha
            case "score":
                return 1.0 / at.alpha, at.sigma * at.sigma / at.alpha
        ratio, data, low = at.ratio, self.sigma_data, self.sigma_min
        if self.type == "edm":
            low = 0.0
        skip = data**2 / ((ratio - low) ** 2 + data**2)
        return skip / at.alpha, (ratio - low) * data / math.hypot(ratio, data)

    def boundary(self, at: Point) -> tuple[float, float]:
        """Return c_skip and c_out applied after projection; (0, 1) where there is no such stage."""
        if self.timestep_scaling is None:
            return 0.0, 1.0
        t = at.t * self.timestep_scaling
        return self.sigma_data**2 / (t**2 + self.sigma_data**2), t / math.hypot(t, self.sigma_data)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data; `Prediction(**data)` gives it back."""
        return dataclasses.asdict(self)


def output_from_x0(prediction: Prediction, at: Point, x: Any, x0: Any) -> Any:
    """Return the network output for which the estimate, unprojected, is x0; any framework's arrays.

    Raises:
        ValueError: no output gives this estimate here (sigma is 0).
    """
    p, q = prediction.linear(at)
    skip, out = prediction.boundary(at)
    if q == 0.0 or out == 0.0:
        raise ValueError(
            f"at t={at.t:g} the estimate does not depend on the {prediction.type} output"
        )
    return x0 * (1.0 / (out * q)) - x * ((skip / out + p) / q)
