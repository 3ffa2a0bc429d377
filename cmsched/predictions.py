"""What the network's output m means: x0 = boundary(project(p x + q m)), on the host.

Without its projection and boundary an output is linear in the clean sample and the noise of
x = alpha x0 + sigma eps, m = c x0 + d eps, so one table of c and d gives the estimates of x0 and of
eps, and converts any output to any other. Here a = scale alpha and s = scale sigma are what the
network sees, and N = sqrt(alpha^2 sigma_data^2 + sigma^2):

    epsilon          m = eps
    sample           m = x0
    v_prediction     m = a eps - s x0
    flow_prediction  m = eps - x0
    data_flow_prediction  m = x0 - eps, the same in the time 1 - sigma
    score            m = -eps / sigma
    scaled_score     m = -eps, the score times sigma
    trigflow         m = cos(t) sigma_data eps - sin(t) x0, sin(t) = sigma / N (arXiv:2410.11081)
    edm              x0 = c_skip u + c_out m, u = x / alpha (arXiv:2206.00364, table 1)
    edm_v            the same with -c_out, which is trigflow's m / sigma_data
    consistency      the same with the boundary condition c_skip = 1, c_out = 0 at sigma_min

The paper's TrigFlow network F gives m = sigma_data F.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .checks import Named, check_name, check_nonnegative
from .names import named
from .schedules import Point

__all__ = ["OUTPUTS", "PREDICTION_TYPES", "Prediction", "output_from_x0", "register"]


def _trigflow(alpha: Any, sigma: Any, scale: Any, o: "Prediction") -> tuple[Any, Any]:
    size = o.size(alpha, sigma)
    return -sigma / size, alpha * (o.sigma_data**2 / size)


def _edm(alpha: Any, sigma: Any, scale: Any, o: "Prediction") -> tuple[Any, Any]:
    size = o.size(alpha, sigma)
    return sigma / (size * o.sigma_data), -alpha * (o.sigma_data / size)


def _edm_v(alpha: Any, sigma: Any, scale: Any, o: "Prediction") -> tuple[Any, Any]:
    c, d = _edm(alpha, sigma, scale, o)
    return -c, -d


def _consistency(alpha: Any, sigma: Any, scale: Any, o: "Prediction") -> tuple[Any, Any]:
    above, data = sigma - alpha * o.sigma_min, o.sigma_data
    size, part = o.size(alpha, sigma), above * above + (alpha * data) ** 2
    return above * size / (part * data), -alpha * sigma * (size * data) / (above * part)


# c and d of m = c x0 + d eps from alpha, sigma and scale, which are numbers or arrays
OUTPUTS: dict[str, Callable[[Any, Any, Any, "Prediction"], tuple[Any, Any]]] = Named(
    "What a network may say, by name; `help(cmsched.Scheduler)` says who says it.",
    {
        "epsilon": lambda alpha, sigma, scale, o: (0.0, 1.0),
        "sample": lambda alpha, sigma, scale, o: (1.0, 0.0),
        "v_prediction": lambda alpha, sigma, scale, o: (-scale * sigma, scale * alpha),
        "flow_prediction": lambda alpha, sigma, scale, o: (-1.0, 1.0),
        "data_flow_prediction": lambda alpha, sigma, scale, o: (1.0, -1.0),
        "score": lambda alpha, sigma, scale, o: (0.0, -1.0 / sigma),
        "scaled_score": lambda alpha, sigma, scale, o: (0.0, -1.0),
        "trigflow": _trigflow,
        "edm": _edm,
        "edm_v": _edm_v,
        "consistency": _consistency,
    },
)
OWN = frozenset(OUTPUTS)
PREDICTION_TYPES = tuple(OUTPUTS)
Output = Callable[[Any, Any, Any, "Prediction"], tuple[Any, Any]]


def register(name: str, rule: Output) -> None:
    """Enter what a network of one's own says under a name, for `prediction_type=name`.

    Args:
        name: none of those that are here already.
        rule: of (alpha, sigma, scale, prediction) returns c and d of m = c x0 + d eps. All of them
            but the last are numbers, or arrays of any framework.

    Raises:
        TypeError: name is no string, or rule no function.
        ValueError: the name of another prediction.
    """
    check_name("prediction type", name, PREDICTION_TYPES)
    if not callable(rule):
        raise TypeError(
            f"rule={rule!r} cannot be called: pass a function (alpha, sigma, scale, prediction)"
        )
    OUTPUTS[name] = rule


@dataclass(frozen=True)
class Prediction:
    """How the network's output becomes the estimate x0.

    Args:
        type: a name in OUTPUTS, also as the field spells it ("eps", "v", "x0"), or a function as
            `register` takes it.
        clip: clamp the estimate to [-clip, clip].
        threshold: (ratio, maximum) of dynamic thresholding (arXiv:2205.11487, section 2.3): clamp
            to the ratio quantile s of |x0| over each sample, s in [1, maximum], and divide by s.
        sigma_data: of the edm, consistency, trigflow and boundary scalings, the data's spread.
        sigma_min: of the consistency scalings (arXiv:2303.01469, appendix C).
        timestep_scaling: LCM's boundary condition c_skip x + c_out x0 around the projected
            estimate, with c(t * timestep_scaling); None for no such stage (arXiv:2310.04378,
            section 4.1).
        variance_head: the output has twice the sample's channels (axis 1); the second half
            describes the variance.
    """

    type: str | Output = "epsilon"
    clip: float | None = None
    threshold: tuple[float, float] | None = None
    sigma_data: float = 0.5
    sigma_min: float = 0.0
    timestep_scaling: float | None = None
    variance_head: bool = False

    def __post_init__(self) -> None:
        if not callable(self.type):
            object.__setattr__(self, "type", named("prediction_type", self.type, OUTPUTS))
        if self.clip is not None and not check_nonnegative("clip", self.clip) > 0.0:
            raise ValueError(f"clip must be positive, got {self.clip}")
        if self.threshold is not None:
            if len(self.threshold) != 2:
                raise ValueError(f"threshold must be (ratio, maximum), got {self.threshold}")
            object.__setattr__(self, "threshold", tuple(self.threshold))
            ratio, maximum = self.threshold
            if not (0.0 < ratio <= 1.0 and maximum > 0.0):
                raise ValueError(
                    "threshold must be a ratio in (0, 1] and a positive maximum, got"
                    f" {self.threshold}"
                )
        if not check_nonnegative("sigma_data", self.sigma_data) > 0.0:
            raise ValueError(f"sigma_data must be positive, got {self.sigma_data}")
        check_nonnegative("sigma_min", self.sigma_min)
        if self.timestep_scaling is not None:
            check_nonnegative("timestep_scaling", self.timestep_scaling)
        if not isinstance(self.variance_head, bool):
            raise TypeError(f"variance_head must be True or False, got {self.variance_head!r}")
        if callable(self.type):
            try:
                c, d = map(float, self.type(0.6, 0.8, 1.0, self))
            except Exception as error:  # whatever a function of another kind raises
                raise TypeError(
                    f"prediction_type={self.type!r} is no function (alpha, sigma, scale,"
                    f" prediction) that returns c and d of m = c x0 + d eps: {error}"
                ) from error
            if not math.isfinite(c + d):
                raise ValueError(f"prediction_type={self.type!r} gives c={c} and d={d}")

    @property
    def projects(self) -> bool:
        """Whether the estimate is not linear in the output."""
        return self.clip is not None or self.threshold is not None

    def size(self, alpha: Any, sigma: Any) -> Any:
        """Return N, the spread of x where the data's is sigma_data; numbers or arrays."""
        return ((alpha * self.sigma_data) ** 2 + sigma * sigma) ** 0.5

    def output(self, alpha: Any, sigma: Any, scale: Any = 1.0) -> tuple[Any, Any]:
        """Return c and d of m = c x0 + d eps; numbers, or arrays of any framework."""
        rule = self.type if callable(self.type) else OUTPUTS[self.type]
        return rule(alpha, sigma, scale, self)

    def _bounded(self, at: Point) -> bool:
        """Whether a consistency function stops here."""
        return self.type == "consistency" and at.sigma > 0.0 and at.ratio == self.sigma_min

    def linear(self, at: Point) -> tuple[float, float]:
        """Return p and q of the estimate before projection, p x + q m.

        Raises:
            ValueError: the output says nothing about x0 here (epsilon where alpha is 0, say).
        """
        if at.sigma == 0.0 or self._bounded(at):  # x is x0, or stands for it, whatever m is
            return 1.0 / at.alpha, 0.0
        c, d = self.output(at.alpha, at.sigma, at.scale)
        det = at.alpha * d - at.sigma * c
        if det == 0.0:
            raise ValueError(
                f"prediction_type={self.type!r} does not determine x0 at t={at.t:g}, where alpha is"
                ' 0 (zero terminal SNR); use prediction_type="v_prediction" or "sample", or'
                " timesteps that start later"
            )
        return d / det, -at.sigma / det

    def weights(
        self, other: "Prediction", alpha: Any, sigma: Any, scale: Any = 1.0
    ) -> tuple[Any, Any]:
        """Return w and u of another prediction's output w m + u x; numbers, or arrays."""
        c, d = self.output(alpha, sigma, scale)
        c_other, d_other = other.output(alpha, sigma, scale)
        det = alpha * d - sigma * c
        return (alpha * d_other - sigma * c_other) / det, (c_other * d - d_other * c) / det

    def conversion(self, other: "Prediction", at: Point) -> tuple[float, float]:
        """Return these at a point.

        Raises:
            ValueError: this output says nothing about the other there.
        """
        if self == other:
            return 1.0, 0.0
        try:
            return self.weights(other, at.alpha, at.sigma, at.scale)
        except ZeroDivisionError:
            what = {"epsilon": "eps", "sample": "x0"}.get(str(other.type), other.type)
            end = "alpha" if at.alpha == 0.0 else "sigma"
            raise ValueError(
                f"prediction_type={self.type!r} does not determine {what} at t={at.t:g}, where"
                f" {end} is {getattr(at, end):g}"
            ) from None

    def noise(self, at: Point) -> tuple[float, float]:
        """Return p and q of the noise estimate before projection, p x + q m.

        Raises:
            ValueError: the output says nothing about eps here (the clean sample where sigma is 0).
        """
        if self.type == "score":  # E[eps | x] goes to 0 with sigma
            return 0.0, -at.sigma
        if self._bounded(at):
            return 0.0, 0.0
        w, u = self.conversion(Prediction("epsilon"), at)
        return u, w

    def boundary(self, at: Point) -> tuple[float, float]:
        """Return c_skip and c_out applied after projection; (0, 1) where there is no such stage."""
        if self.timestep_scaling is None:
            return 0.0, 1.0
        t = at.t * self.timestep_scaling
        size = self.size(1.0, t)
        return (self.sigma_data / size) ** 2, t / size

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data; `Prediction(**data)` gives it back."""
        if callable(self.type):
            raise TypeError(
                f"prediction_type={self.type!r} has no name: give it one,"
                " cmsched.predictions.register"
            )
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
