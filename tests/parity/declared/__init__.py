"""The differences, one file a family; `shared` has the themes of several."""

from . import first_order, flow, linear, score, shared, sigma, solvers  # noqa: F401
