"""Where we and diffusers 0.42.1 do not give the same numbers: who is right, and proofs.

They are declared in `declared`, one file a family. `python -m tests.parity.differences` prints what
`compatibility` changes.
"""

from . import declared  # noqa: F401
from .declaring import DECLARED, Concern
from .grid import Case, Space

DIFFERENCES = DECLARED


def active(space: Space, case: Case) -> list[Concern]:
    """Why a case meets differences that both values of `compatibility` have."""
    return [concern for d in DIFFERENCES if not d.copied for concern in d.met(space, case)]


def table() -> list[tuple[str, str, str, str]]:
    """What `compatibility` changes: name, class, paper, diffusers."""
    return [
        (d.name, name.removesuffix("Scheduler"), d.paper, d.diffusers)
        for d in DIFFERENCES
        if d.copied
        for name in d.classes
    ]


def main() -> None:
    """Print the table."""
    print("| what | class | paper | diffusers |\n| --- | --- | --- | --- |")
    for row in table():
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
