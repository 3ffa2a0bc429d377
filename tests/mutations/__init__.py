"""Changes of one line that the tests must notice, by topic; `mutants.py` makes them."""

from . import engine, samplers, schedulers
from .mutant import Mutant

__all__ = ["MUTANTS", "Mutant"]

MUTANTS = [*samplers.MUTANTS, *engine.MUTANTS, *schedulers.MUTANTS]
