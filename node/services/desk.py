"""What a call of an executor needs of its gateway."""

from dataclasses import dataclass, field

from node.ports import Chain, Store
from node.services.answers_at_hand import AnswersAtHand
from node.services.epochs import EpochBook
from node.services.payment_rounds import PaymentRounds
from node.services.payments import PayerBook


@dataclass(frozen=True, slots=True)
class Desk:
    """The same for all calls of a gateway."""

    chain: Chain
    store: Store
    epochs: EpochBook
    payer: PayerBook
    rounds: PaymentRounds
    answers_kept_max: int = 0
    """How many answers are kept with their receipts; 0: none."""
    at_hand: AnswersAtHand = field(default_factory=AnswersAtHand)
    """What is kept of private answers, in memory alone."""
