"""What a mutant is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One change, and the tests that notice it: files, or pytest's ids, without the .py."""

    name: str
    file: str
    before: str
    after: str
    tests: str
