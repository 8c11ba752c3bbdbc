"""Cheats as small strategies: each overrides what it cheats at in netsim/conduct.py, and is honest in all the rest.

`STRATEGIES` names them, with what has to find each and how soon: what docs/soundness.md says, under the samples that a
simulation draws. A run in which one goes unfound for longer has failed.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from netsim.chain import SimulatedChain
from netsim.conduct import HONEST_NOISE, NODE_ID, Conduct, EngineSetting
from netsim.content import SimulatedContent
from netsim.engine import DrawingEngine
from netsim.forgeries import Forgery, ForgingEngine, ground, made_up, precomputed, replayed, shared_with
from netsim.imitation import FP8, INT4, INT8, LAYERS_DROPPED, TRUNCATED_PROMPT, ImitatingEngine, Imitation
from netsim.network import SimulatedNetwork, Switchboard
from netsim.slander import slandered
from netsim.validators import IdleValidator, LazyValidator, cartel_validator, vouching_validator
from node.ports import Chain, Engine
from node.protocol.actions import ChainAction, CommitPoc, CommitVotes
from node.protocol.audit_outcomes import ACCUSED, NO_BOOK
from node.protocol.draws import Drawn, Prefill
from node.protocol.identifiers import Address, PeerId
from node.protocol.messages import MessageBody, ResultSignature
from node.protocol.outcomes import FILE_WITHHELD
from node.protocol.signatures import DigestSigner
from node.protocol.tails import NOT_COMPUTED
from node.services.broker import Broker
from node.services.brokered import BrokeredEngine


@dataclass(frozen=True, slots=True)
class Scene:
    """What a cheat knows of the simulation it is in."""

    account: Address
    friends: tuple[Address, ...]
    """All accounts of its cartel, else of its strategy; its own among them."""
    victim: Address
    """An honest participant."""
    nonces_max: int
    sample_size: int


class Imitator(Conduct):
    """Runs something cheaper than the model: for everything, or for its users only."""

    def __init__(self, imitation: Imitation, *, for_users_only: bool = False) -> None:
        self._imitation = imitation
        self._for_users_only = for_users_only

    def engine(self, setting: EngineSetting) -> DrawingEngine:
        """An honest machine's numbers, with the imitation's noise on them."""
        return ImitatingEngine(
            NODE_ID,
            setting.model_id,
            setting.weights,
            HONEST_NOISE,
            setting.seed,
            setting.answers_with,
            imitation=self._imitation,
            for_users_only=self._for_users_only,
        )


class OtherModel(Conduct):
    """Runs another model: for everything, or for its users only."""

    def __init__(self, *, for_users_only: bool = False) -> None:
        self._for_users_only = for_users_only

    def engine(self, setting: EngineSetting) -> DrawingEngine:
        """An engine whose numbers have nothing to do with the model's."""
        if self._for_users_only:
            return super().engine(replace(setting, answers_with="another"))
        return super().engine(replace(setting, weights="another"))


class Forger(Conduct):
    """Mines other nonces than its own."""

    def __init__(self, forgery: Forgery) -> None:
        self._forgery = forgery

    def mining_engine(self, engine: DrawingEngine, broker: Broker, chain: Chain) -> Engine:
        """The engine, asked for something else."""
        return ForgingEngine(engine, broker, chain, self._forgery)


class Copier(Conduct):
    """Commits the batch of somebody else, as soon as there is one, as its own."""

    def prepare(self, account: Address, chain: SimulatedChain, content: SimulatedContent) -> None:
        """Have the chain send the copy."""

        async def rewrite(action: ChainAction) -> ChainAction:
            if not isinstance(action, CommitPoc):
                return action
            own = action.commit
            async for _ in chain.heads():
                for commit in chain.state.poc_commits.get(own.epoch, {}).values():
                    if commit.participant != account:
                        copy = replace(own, count=commit.count, root=commit.root, vectors_cid=commit.vectors_cid)
                        return CommitPoc(copy)
            raise AssertionError("heads never end")

        chain.rewrite = rewrite


class VoteWithholder(Conduct):
    """Judges and audits, and commits no votes."""

    def prepare(self, account: Address, chain: SimulatedChain, content: SimulatedContent) -> None:
        """Keep the votes off the chain."""

        async def rewrite(action: ChainAction) -> ChainAction | None:
            return None if isinstance(action, CommitVotes) else action

        chain.rewrite = rewrite


class BundleHider(Conduct):
    """Commits to its votes, and hands them to nobody; in every epoch or in one of some."""

    def __init__(self, one_of: int = 1) -> None:
        self._one_of = one_of

    def prepare(self, account: Address, chain: SimulatedChain, content: SimulatedContent) -> None:
        """Hide bundles that are committed."""

        async def rewrite(action: ChainAction) -> ChainAction:
            if isinstance(action, CommitVotes) and action.epoch % self._one_of == 0:
                content.hidden.add(action.bundle_cid)
            return action

        chain.rewrite = rewrite


class HidingLiar(BundleHider):
    """Answers its users with another model, and hides the books that would show it."""

    def engine(self, setting: EngineSetting) -> DrawingEngine:
        """The model for all but its users."""
        return super().engine(replace(setting, answers_with="another"))


class FileHider(Forger):
    """Makes up all its nonces, and hands the file to nobody; friends find it right all the same."""

    def __init__(self, friends: Collection[Address]) -> None:
        super().__init__(made_up(1000))
        self.validator = vouching_validator(friends)

    def prepare(self, account: Address, chain: SimulatedChain, content: SimulatedContent) -> None:
        """Hide the files of batches that are committed."""

        async def rewrite(action: ChainAction) -> ChainAction:
            if isinstance(action, CommitPoc):
                content.hidden.add(action.commit.vectors_cid)
            return action

        chain.rewrite = rewrite


class Idle(Conduct):
    """Judges no batch."""

    validator = IdleValidator


class Lazy(Conduct):
    """Votes with the crowd."""

    validator = LazyValidator


class SlanderingEngine(BrokeredEngine):
    """Reads the answers of others, and finds that none is the model's."""

    def __init__(self, engine: DrawingEngine, broker: Broker) -> None:
        super().__init__(engine, broker)
        self._vocabulary = engine.vocabulary_size

    async def prefill(
        self, token_ids: Sequence[int], first: int, *, top: int, priority: int, drawn: Drawn | None = None
    ) -> list[Prefill]:
        """Other tokens than those that were claimed are the likely ones."""
        read = await super().prefill(token_ids, first, top=top, priority=priority, drawn=drawn)
        return [slandered(one, self._vocabulary) for one in read]


class CartelMember(Conduct):
    """Proves its own compute and lies about everybody else's, in votes and in audits."""

    def __init__(self, friends: Collection[Address]) -> None:
        self.validator = cartel_validator(friends)

    def auditing_engine(self, engine: DrawingEngine, broker: Broker) -> Engine:
        """Slanders every answer."""
        return SlanderingEngine(engine, broker)


class CartelFaker(CartelMember):
    """Makes up all its nonces; the cartel vouches for it."""

    def mining_engine(self, engine: DrawingEngine, broker: Broker, chain: Chain) -> Engine:
        """Makes everything up."""
        return ForgingEngine(engine, broker, chain, made_up(1000))


class MutedNetwork(SimulatedNetwork):
    """Says everything but what it thinks of results."""

    async def publish(self, body: MessageBody, *, urgent: bool = False) -> None:
        """Say it, unless it is a signature of a result."""
        if not isinstance(body, ResultSignature):
            await super().publish(body, urgent=urgent)


class Silent(Conduct):
    """Signs no results: members with a third of the weight or more can halt a network so, with less they cannot."""

    def network(
        self, switchboard: Switchboard, peer_id: PeerId, account: Address, signer: DigestSigner
    ) -> SimulatedNetwork:
        """A network that says less."""
        return MutedNetwork(switchboard, peer_id, account, signer)


MISMATCHING = frozenset({"mismatches", "cumulated-mismatches", "batch-of-fakes", "copied"})
PROVEN = frozenset(
    {"audit-margin", "audit-tokens", "audit-logprobs", "audit-too-likely", "audit-too-unlikely", "audit-vectors"}
)
AUDITED = PROVEN | {ACCUSED}
SLANDERS = frozenset({ACCUSED, NOT_COMPUTED})
"""What a cartel can have said of anybody: beside one it finds nobody by itself (netsim/trial_findings.py)."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """A cheat, and what finds it."""

    name: str
    conduct: Callable[[Scene], Conduct]
    reasons: frozenset[str] = frozenset()
    """Codes of an epoch's result, any of which finds it; none for what nothing has to find."""
    differing_per_mille: int = 0
    """Of its nonces: it has to be found once so many were drawn that the test finds it (node.protocol.binomial)."""
    tokens_to_proof: int = 0
    """Audited tokens by which it is proven on average, by docs/soundness.md."""
    found_within_epochs: int = 0
    """Results by which it has to be found; 0: its nonces or tokens say when, or nothing does."""
    honest_batches: int = 0
    """Before it begins to cheat."""
    unfound: str = "outvoted; nothing punishes it"
    """Why nothing has to find it, if it has no reasons."""


def _forger(name: str, forgery: Callable[[Scene], Forgery], differing_per_mille: int) -> Strategy:
    return Strategy(name, lambda scene: Forger(forgery(scene)), MISMATCHING, differing_per_mille)


def _fakes(per_mille: int) -> Strategy:
    return _forger(f"made-up-{per_mille}", lambda _: made_up(per_mille), per_mille)


def _weights(imitation: Imitation, differing_per_mille: int) -> Strategy:
    return Strategy(imitation.name, lambda _: Imitator(imitation), MISMATCHING, differing_per_mille)


def _answers(imitation: Imitation, tokens_to_proof: int) -> Strategy:
    name = imitation.name if imitation is TRUNCATED_PROMPT else f"answers-{imitation.name}"
    return Strategy(name, lambda _: Imitator(imitation, for_users_only=True), AUDITED, tokens_to_proof=tokens_to_proof)


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("honest", lambda _: Conduct()),
        _weights(INT8, 31),
        _weights(FP8, 990),
        _weights(INT4, 1000),
        _weights(LAYERS_DROPPED, 1000),
        Strategy("other-model", lambda _: OtherModel(), MISMATCHING, differing_per_mille=1000),
        *(_fakes(per_mille) for per_mille in (10, 20, 50, 100, 1000)),
        _forger("ground-100", lambda scene: ground(100, scene.nonces_max, scene.sample_size), 100),
        replace(_forger("replayed", lambda _: replayed(), 1000), honest_batches=1),
        _forger("precomputed", lambda _: precomputed, 1000),
        _forger("shared", lambda scene: shared_with(scene.victim), 1000),
        Strategy("copied", lambda _: Copier(), MISMATCHING, differing_per_mille=1000),
        Strategy("answers-other-model", lambda _: OtherModel(for_users_only=True), AUDITED, tokens_to_proof=5),
        _answers(LAYERS_DROPPED, 12),
        _answers(TRUNCATED_PROMPT, 46),
        _answers(INT4, 86),
        _answers(FP8, 808),
        _answers(INT8, 36_000),  # five epochs of a busy engine, and more than a simulation audits
        Strategy("lazy", lambda _: Lazy(), frozenset({NOT_COMPUTED, "evidence-differs"}), found_within_epochs=3),
        Strategy("judges-nothing", lambda _: Idle(), frozenset({"unjudged"}), found_within_epochs=2),
        Strategy(
            "hides-fakes", lambda scene: FileHider(scene.friends), frozenset({FILE_WITHHELD}), found_within_epochs=1
        ),
        Strategy("withholds-votes", lambda _: VoteWithholder(), frozenset({"no-votes"}), found_within_epochs=2),
        Strategy("hides-votes", lambda _: BundleHider(), frozenset({"no-votes"}), found_within_epochs=2),
        Strategy("hides-answers", lambda _: HidingLiar(), frozenset({NO_BOOK})),
        Strategy("hides-half-its-answers", lambda _: HidingLiar(2), AUDITED, tokens_to_proof=5),
        Strategy("cartel", lambda scene: CartelMember(scene.friends)),
        Strategy("cartel-faker", lambda scene: CartelFaker(scene.friends), MISMATCHING, differing_per_mille=1000),
        Strategy("silent", lambda _: Silent()),
    )
}
"""By name. The number in a name is of a thousand nonces."""
CARTEL = frozenset({"cartel", "cartel-faker"})
"""Strategies that work together."""
