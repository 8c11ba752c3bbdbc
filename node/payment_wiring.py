"""Builds the services that pay and are paid, from the settings."""

from dataclasses import dataclass

from node.amounts import tokens_to_amount
from node.ports import Chain
from node.services.epochs import EpochBook
from node.services.payments import PayerBook
from node.services.redeem_policy import RedeemPolicy
from node.services.redeeming import RedeemingService
from node.services.settling import SettlingService
from node.settings import Settings
from node.settings.sections.payments import PaymentSettings
from node.store.books import Books
from node.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Payments:
    """What pays, and what is paid."""

    payer: PayerBook
    redeeming: RedeemingService


def add_payments(settings: Settings, chain: Chain, store: Books, epochs: EpochBook, supervisor: Supervisor) -> Payments:
    """Make the services and have the supervisor run them."""
    payer = PayerBook(
        chain,
        store,
        channel_deposit=tokens_to_amount(settings.payments.channel_deposit),
        budget=tokens_to_amount(settings.payments.budget),
    )
    supervisor.add("payments", payer.run)
    supervisor.add("store", store.database.keep_log_short)
    store.forget_answers(kept_max=settings.payments.answers_kept_max)
    settling = SettlingService(chain, epochs, claim_rewards=settings.participant.claim_rewards)
    supervisor.add("settling", settling.run)
    redeeming = RedeemingService(chain, store, redeem_policy(settings.payments))
    if settings.participant.redeem_vouchers:
        supervisor.add("redeeming", redeeming.run)
    return Payments(payer, redeeming)


def redeem_policy(payments: PaymentSettings) -> RedeemPolicy:
    """Return the policy that the settings ask for."""
    return RedeemPolicy(
        at_risk_max=tokens_to_amount(payments.redeem_at_risk),
        at_least=tokens_to_amount(payments.redeem_at_least),
        gas_high_percent=payments.redeem_gas_high_percent,
        wait_epochs_max=payments.redeem_wait_epochs_max,
        coin_worth=tokens_to_amount(payments.redeem_coin_worth),
        cost_percent_max=payments.redeem_cost_percent_max,
    )
