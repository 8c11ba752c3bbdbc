"""The money of the system test of three epochs: `python -m tests.vectors.three_epochs` writes three_epochs.json anew.

By plain arithmetic on fractions, from what is written down here about each participant: no rule of node/protocol is
called. So the rules are held against it (tests/unit/protocol/test_unpaid.py), and so is a whole network
(tests/system/test_three_epochs.py).

The case: six miners prove 96 nonces with each node. *keeper* and *witness* have a node of each of the two models, so a
tenth more; *faker* and *four-bits* are rejected, the former, which made up every nonce, is barred from the second epoch
on; *lazy* did not compute its votes of the epoch before, which costs it a tenth of its score from the second epoch on,
and so a twentieth of its share; *late* comes in the second epoch. Nobody adds work coins: each epoch shares out its
subsidy.
"""

import json
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path

PATH = Path(__file__).with_name("three_epochs.json")
NONCES = 96
INITIAL_SUBSIDY = 900 * 10**18
HALVING_EPOCHS = 1000
"""Far beyond the three."""
EPOCHS = 3
PLAIN, COVERING = Fraction(1), Fraction(11, 10)
"""What a nonce counts for, and for whoever serves all models."""


@dataclass(frozen=True)
class Doing:
    """What a participant did in an epoch."""

    counted_nodes: int
    """Whose nonces count."""
    lost_nodes: int = 0
    """Whose nonces do not."""
    lost_for: str = ""
    covers: bool = False
    score: int = 1000


HONEST_BOTH = Doing(counted_nodes=2, covers=True)
HONEST = Doing(counted_nodes=1)
AWAY = Doing(counted_nodes=0)
CAUGHT = Doing(counted_nodes=0, lost_nodes=1, lost_for="mismatches")
BARRED = Doing(counted_nodes=0, lost_nodes=1, lost_for="not-counted")
LAZY = Doing(counted_nodes=1, score=900)
FIRST = {
    "keeper": HONEST_BOTH,
    "witness": HONEST_BOTH,
    "faker": CAUGHT,
    "four-bits": CAUGHT,
    "lazy": HONEST,
    "late": AWAY,
}
LATER = FIRST | {"faker": BARRED, "lazy": LAZY, "late": HONEST}
CASE = (FIRST, LATER, LATER)


def compute() -> dict[str, object]:
    """Return the case and what follows, as in three_epochs.json. Amounts are base units in decimal."""
    return {
        "nonces": NONCES,
        "initialSubsidy": str(INITIAL_SUBSIDY),
        "halvingEpochs": HALVING_EPOCHS,
        "workCoinsAdded": "0",
        "epochs": [
            {
                "available": str(INITIAL_SUBSIDY),
                "participants": {name: _participant(name, doings) for name in doings},
            }
            for doings in CASE
        ],
    }


def _participant(name: str, doings: dict[str, Doing]) -> dict[str, object]:
    own = doings[name]
    others = sum(
        (_points(doing.counted_nodes, covers=doing.covers) for other, doing in doings.items() if other != name),
        start=Fraction(0),
    )
    most = _share(_points(own.counted_nodes + own.lost_nodes, covers=True), others)
    without_lost = _share(_points(own.counted_nodes, covers=True), others)
    without_bonus = _share(_points(own.counted_nodes, covers=own.covers), others)
    paid = floor(without_bonus * Fraction(1000 + own.score, 2000))
    parts = (
        (own.lost_for, "node-1", most - without_lost),
        ("coverage", "", without_lost - without_bonus),
        ("not-computed", "participation", without_bonus - paid),
    )
    return {
        "weight": own.counted_nodes * NONCES,
        **({"covers": own.covers, "score": own.score} if own.counted_nodes else {}),
        "most": str(most),
        "paid": str(paid),
        "parts": [[reason, subject, str(amount)] for reason, subject, amount in parts if amount],
    }


def _points(nodes: int, *, covers: bool) -> Fraction:
    return nodes * NONCES * (COVERING if covers else PLAIN)


def _share(own: Fraction, others: Fraction) -> int:
    return floor(INITIAL_SUBSIDY * own / (own + others)) if own else 0


if __name__ == "__main__":
    PATH.write_text(json.dumps(compute(), indent=1) + "\n")
