"""Other libraries warn of themselves here; what cmsched warns of stays an error."""

import warnings
from collections.abc import Iterator

import diffusers
import pytest

THEIRS = (
    ("ignore", ".*", DeprecationWarning),
    ("ignore", ".*", FutureWarning),
    ("ignore", "Should have ta|Should have tb", UserWarning),  # torchsde, of rounding
)


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    """Let other libraries' warnings pass."""
    level = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        for action, message, category in THEIRS:
            warnings.filterwarnings(action, message, category)
        yield
    diffusers.utils.logging.set_verbosity(level)


@pytest.fixture(autouse=True)
def lifted_tables(request):
    """Where Flax' classes are compared, our tables are in float64, as what they stand beside."""
    if not request.module.__name__.rpartition(".")[2].startswith("test_flax"):
        yield
        return
    from parity.lifted import own_tables

    with own_tables(lifted=True):
        yield
