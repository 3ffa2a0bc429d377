"""Linear multistep methods in eps: PNDM and its kin."""

from ..grid import Space

SPACES: list[Space] = []
