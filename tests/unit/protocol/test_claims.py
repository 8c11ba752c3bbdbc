"""What a receipt has of the log-probabilities that a user was told."""

from hypothesis import given
from hypothesis import strategies as st

from node.protocol.audits import ClaimedLogprobs
from node.protocol.claims import ALTERNATIVES_KEPT, ClaimsHash, claims_commitment, claims_of
from node.protocol.sampling import TokenAlternative, TokenLogprobs

LOGPROBS = st.integers(-(2**40), 0)
TOKENS = st.integers(0, 2**22)
CLAIMS = st.builds(
    ClaimedLogprobs, TOKENS, LOGPROBS, st.lists(st.tuples(TOKENS, LOGPROBS), max_size=ALTERNATIVES_KEPT).map(tuple)
)


@given(st.lists(CLAIMS, max_size=8), st.integers(0, 8))
def test_the_commitment_does_not_depend_on_the_pieces_in_which_an_answer_came(
    claims: list[ClaimedLogprobs], cut: int
) -> None:
    running = ClaimsHash()
    running.add(claims[:cut])
    running.add(claims[cut:])
    assert running.commitment() == claims_commitment(claims)


@given(st.lists(CLAIMS, max_size=4), st.lists(CLAIMS, max_size=4))
def test_other_claims_have_another_commitment(one: list[ClaimedLogprobs], other: list[ClaimedLogprobs]) -> None:
    assert (claims_commitment(one) == claims_commitment(other)) is (one == other)


def test_the_likeliest_five_are_kept_and_no_text() -> None:
    entry = TokenLogprobs(TokenAlternative(4, "four", -5), tuple(TokenAlternative(n, "", -n) for n in range(9)))
    assert claims_of((entry,)) == (ClaimedLogprobs(4, -5, tuple((n, -n) for n in range(5))),)
