"""What can keep a daemon from starting and its operator can do something about: one line, no traceback."""

from node.api.server import ApiPortError
from node.chain.account_lock import AccountInUseError
from node.chain.adapter import WrongChainError
from node.chain.addresses import DeploymentFileError
from node.chain.rpc import RpcError, RpcUnavailableError
from node.chain.watcher import DeepReorganisationError, NoFinalityError
from node.control.server import ControlSocketError
from node.engine.arguments import EngineArgumentsError
from node.store.migrations import SchemaTooNewError
from node.supervisor import ServiceGaveUpError
from p2p.content.gateway.server import GatewayPortError
from p2p.host import PortInUseError

StartError = (
    DeploymentFileError,
    WrongChainError,
    NoFinalityError,
    AccountInUseError,
    DeepReorganisationError,
    RpcUnavailableError,
    RpcError,
    PortInUseError,
    GatewayPortError,
    ApiPortError,
    ControlSocketError,
    SchemaTooNewError,
    EngineArgumentsError,
    ServiceGaveUpError,
)
