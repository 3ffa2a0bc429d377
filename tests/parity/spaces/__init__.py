"""The option spaces of the reference classes, one file a family; `SPACES` has all by name."""

from ..grid import Space
from . import first_order, flow, linear, score, sigma, solvers

FAMILIES = (first_order, sigma, solvers, flow, linear, score)
SPACES: dict[str, Space] = {space.name: space for family in FAMILIES for space in family.SPACES}
