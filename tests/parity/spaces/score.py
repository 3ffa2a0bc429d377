"""Score SDEs, stochastic Heun, and inpainting by RePaint."""

from ..grid import Space

SPACES: list[Space] = []
