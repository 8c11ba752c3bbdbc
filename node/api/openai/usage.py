"""What a call cost: tokens, as users are told, and money, as keys are charged."""

from collections.abc import Iterable
from dataclasses import dataclass

from node.services.attempt import AnswerSummary


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all answers of a call together: each answer is a request of its own, which reads the prompt."""

    prompt_tokens: int
    output_tokens: int
    price: int
    """In base units of the payment token."""

    def body(self) -> dict[str, int]:
        """Return it as OpenAI's API writes it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.prompt_tokens + self.output_tokens,
        }


def usage_of(summaries: Iterable[AnswerSummary]) -> Usage:
    """Return what answers cost so far."""
    found = list(summaries)
    return Usage(
        sum(summary.prompt_tokens for summary in found),
        sum(summary.output_tokens for summary in found),
        sum(summary.price for summary in found),
    )
