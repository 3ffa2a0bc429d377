"""Flow matching."""

from ..grid import Space

SPACES: list[Space] = []
