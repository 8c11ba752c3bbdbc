"""Who may judge the batches of a model, and with which weight: what a group has frozen, not what a vote says of itself.

Purpose: whoever wants to harm a rival, or to help a friend, would say that it has the model. So it has to have proven
compute on that very model, and what it says weighs as much as it proved with it.

Detail: the judges of a model are the members that the group in charge has with it. Where the group has nobody else with
it (the model is new, or its only other member failed an epoch), those members judge that the registry named for it
before the first block of GENERATE. That is only a claim, so they can have a batch paid and leave it unpaid, and never
reject it. Before the first result the founders are taken at their word.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, EpochNumber, ModelId
from node.protocol.records import EpochGroup


@dataclass(frozen=True, slots=True)
class Bench:
    """Who may judge one batch."""

    weights: Mapping[Address, int]
    """By member. Its participant may be among them, and is no judge of itself."""
    total: int
    """Of all of them but the participant."""
    can_reject: bool


@dataclass(frozen=True, slots=True)
class Judges:
    """Who may judge batches, by model."""

    proven: Mapping[ModelId, Mapping[Address, int]] = field(default_factory=dict)
    """The members that proved compute with it, and how much."""
    declared: Mapping[ModelId, Mapping[Address, int]] = field(default_factory=dict)
    """The members that the registry names for it, with all their weight."""
    counted: frozenset[Address] = frozenset()
    """Whose proofs counted before mining began: everybody knew then that their batches would have to be judged."""
    is_first: bool = False
    """There is no result yet: what is declared is as good as proven."""

    def bench(self, model_id: ModelId, participant: Address) -> Bench:
        """Return who judges batches of `participant` with this model."""
        weights = self.proven.get(model_id, {})
        total = _without(weights, participant)
        if total:
            return Bench(weights, total, can_reject=True)
        weights = self.declared.get(model_id, {})
        return Bench(weights, _without(weights, participant), can_reject=self.is_first)

    def models_to_check(self, validator: Address) -> tuple[ModelId, ...]:
        """Return the models on which `validator`'s votes are checked: those it proved; ascending."""
        proven = self._taken_as_proven.items()
        return tuple(sorted(model_id for model_id, of_model in proven if of_model.get(validator, 0) > 0))

    def able_to_check(
        self, validator: Address, model_id: ModelId, weights: Mapping[Address, int]
    ) -> dict[Address, int]:
        """Return the other members that can recompute `validator`'s votes on a model, and what each one's word weighs.

        They proved the model, as it did, and weigh what they proved with it alone. `weights` are those of the group in
        charge: who has none there is left out.
        """
        of_model = self._taken_as_proven.get(model_id, {})
        if of_model.get(validator, 0) <= 0:
            return {}
        return {
            member: weight
            for member, weight in of_model.items()
            if weight > 0 and member != validator and weights.get(member, 0) > 0
        }

    @property
    def _taken_as_proven(self) -> Mapping[ModelId, Mapping[Address, int]]:
        return self.declared if self.is_first else self.proven


def judges_for(
    epoch: EpochNumber, weights: Mapping[Address, int], state: ChainState, frozen: EpochGroup | None
) -> Judges:
    """Return who may judge the batches of `epoch`.

    `weights` are those of the group in charge, `state` is the chain before the first block of GENERATE, and `frozen` is
    the group in charge as a result made it, None if none did.
    """
    proven: dict[ModelId, dict[Address, int]] = {}
    for member in () if frozen is None else frozen.members:
        for node in member.ml_nodes:
            of_model = proven.setdefault(node.model_id, {})
            of_model[member.participant] = of_model.get(member.participant, 0) + node.poc_weight
    declared: dict[ModelId, dict[Address, int]] = {}
    for account, weight in weights.items():
        participant = state.participants.get(account)
        if weight > 0 and participant is not None:
            for model_id in {model_id for node in participant.ml_nodes for model_id in node.models}:
                declared.setdefault(model_id, {})[account] = weight
    counted = frozenset(account for account in state.participants if state.counts(account, epoch))
    return Judges(proven, declared, counted, is_first=frozen is None)


def _without(weights: Mapping[Address, int], participant: Address) -> int:
    return sum(weights.values()) - weights.get(participant, 0)
