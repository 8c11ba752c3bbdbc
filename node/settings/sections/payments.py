"""`[payments]`: what is paid, trusted and redeemed."""

from pydantic import Field

from node.settings.section import Section
from node.settings.value_types import Account, Tokens


class PaymentSettings(Section):
    """How this daemon pays as a gateway, and how far it trusts payers as an executor."""

    channel_deposit: Tokens = Field(default="10", description="Tokens to put into a payment channel when it is opened.")
    budget: Tokens = Field(default="100", description="Tokens that this gateway may put into channels altogether.")
    unpaid_tokens_max: int = Field(
        default=64,
        ge=1,
        description="Output tokens an executor gives beyond what vouchers paid for: what a payer can steal at most.",
    )
    free: bool = Field(
        default=False,
        description="Serve free of charge, for a private network: no vouchers are asked for, nor taken.",
    )
    free_accounts: list[Account] = Field(
        default=[],
        max_length=1024,
        description="Accounts that are served free of charge; empty: everyone. Others are refused.",
    )
    answers_kept_max: int = Field(
        default=1000,
        ge=0,
        le=1_000_000,
        description="Prompts and answers of this gateway's users to keep, the newest, so that their receipts can be\n"
        "checked to the token (`quern verify`). They lie unencrypted in the store; 0 keeps none, forgets those kept.",
    )
    private_answers_kept_seconds: int = Field(
        default=3600,
        ge=0,
        le=86_400,
        description="How long the tokens of private prompts and answers stay in memory, and nowhere else, so that\n"
        "`quern audit --challenge` can have an answer judged; the newest 256, 32 MiB. 0: not at all.",
    )
    decoys_per_day: int = Field(
        default=4,
        ge=0,
        le=1000,
        description="Questions that nobody wants answered, asked on average in a day, at random times, shaped like\n"
        "users' and paid out of the budget: this daemon audits the answers with an engine of its own. None are asked\n"
        "while no channel has a deposit, no engine has a model or the account has no weight. 0: none.",
    )
    decoys_cost_per_day_max: Tokens = Field(
        default="0.1", description="What decoys may cost in a day, in tokens: beyond it, none begins."
    )
    redeem_at_risk: Tokens = Field(
        default="100",
        description="What one payer may owe you in vouchers, in tokens; more is redeemed at once. Else vouchers are\n"
        "redeemed at the end of each epoch, and at once where a payer announces that it takes its deposit back.",
    )
    redeem_at_least: Tokens = Field(default="0", description="Smaller amounts wait until there is more, in tokens.")
    redeem_gas_high_percent: int = Field(
        default=150, ge=100, description="Wait while gas costs more than this part of what is usual (percent)."
    )
    redeem_wait_epochs_max: int = Field(
        default=4, ge=0, description="Epochs after which high gas prices are not waited for any longer."
    )
    redeem_coin_worth: Tokens = Field(
        default="0",
        description="What one coin of gas (10^18 wei) is worth in tokens. 0: not known; with it, nothing is redeemed\n"
        "that would cost more gas than it brings.",
    )
    redeem_cost_percent_max: int = Field(
        default=10,
        ge=1,
        le=100,
        description="Of an amount, what its redemption may cost (percent); only with redeem_coin_worth.",
    )
