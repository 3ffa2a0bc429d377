"""What the comparisons share."""

import pytest

from .lifted import own_tables


@pytest.fixture(autouse=True)
def lifted_tables():
    """Our tables are in float64, as the reference's are where they are lifted."""
    with own_tables(lifted=True):
        yield
