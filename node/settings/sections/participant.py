"""`[participant]`: what is done on chain unasked."""

from pydantic import Field

from node.settings.section import Section


class ParticipantSettings(Section):
    """What the daemon may do on chain in your name without asking."""

    register_on_start: bool = Field(
        default=True,
        description="Register this account, its peer id and its ML nodes, and keep them equal to this file.\n"
        "Costs gas whenever something changed.",
    )
    claim_rewards: bool = Field(default=True, description="Claim reward coins after each epoch; costs gas.")
    redeem_vouchers: bool = Field(default=True, description="Redeem the vouchers users paid with; costs gas.")
    scale_preserved_weight: bool = Field(
        default=False,
        description="Vote that nodes which keep serving through Proof of Compute keep only as much weight as the\n"
        "tokens they served stand for. Holds in epochs in which more than two thirds of the weight vote so.",
    )
