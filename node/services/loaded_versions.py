"""Which version of a model the engines here run: an id stays the same when its owner puts other weights behind it.

*Detail.* Engines say which model they have ready, and not which version of it: that follows from the chain
(node/node_assignments.py). A new version is loaded in LOAD. Whoever judges by numbers that an older one made, or a
newer one, judges honest work to be false.
"""

from node.ports import Chain
from node.protocol.model_numbers import makes_same_numbers
from node.protocol.records import ModelRecord
from node.protocol.stages import Stage
from node.services.epochs import EpochBook
from node.services.timing import position


def may_be_loaded(chain: Chain, epochs: EpochBook, model: ModelRecord) -> bool:
    """Whether engines here that have a model of this id ready have nothing but this version now, as far as is known."""
    now = position(chain)
    groups = [epochs.group()]
    if now.stage is Stage.LOAD and (result := epochs.result(now.epoch)) is not None:
        groups.append(result.group)
    registered = chain.state.get_governance_model(model.model_id)
    loaded = [group.get_epoch_model(model.model_id) or registered for group in groups]
    return all(version is None or makes_same_numbers(version, model) for version in loaded)
