"""The table of decisions is up to date, and every row of it is demonstrated."""

from collections.abc import Callable
from pathlib import Path

import pytest

from . import decisions
from .decisions import DECISIONS, PARTS
from .differences import DIFFERENCES

pytestmark = pytest.mark.peers
PROOFS = [d.proof for d in DECISIONS if d.proof]


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.__name__)
def test_proof(proof: Callable[[], None]) -> None:
    proof()


def test_rows() -> None:
    """Each says something else, and is shown; `compatibility` chooses where a proof says so."""
    entries = {proof.__name__: d for d in DIFFERENCES for proof in d.proofs}
    assert len(entries) == sum(len(d.proofs) for d in DIFFERENCES)
    assert not entries.keys() & {proof.__name__ for proof in PROOFS}
    assert len({proof.__name__ for proof in PROOFS}) == len(PROOFS)
    assert len({d.reference for d in DECISIONS}) == len(DECISIONS)
    for d in DECISIONS:
        assert d.part in PARTS
        assert d.proof or d.entries
        assert {*d.entries} <= entries.keys()
        assert not d.entries or d.copied == any(entries[name].copied for name in d.entries)
        assert all(d.cells)
        assert not any("|" in cell or "\n" in cell for cell in d.cells)


def test_table_is_up_to_date() -> None:
    """Written by: python -m tests.parity.decisions > tests/parity/decisions.md."""
    stored = Path(decisions.__file__).with_suffix(".md").read_text(encoding="utf-8")
    assert stored == decisions.table()
