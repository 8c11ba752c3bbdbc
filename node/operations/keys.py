"""What the daemon tells of API keys, over their file and their books."""

from dataclasses import dataclass

from node.api.keys import ApiKey, KeyBook
from node.control.jsonrpc import ErrorCode, RpcError
from node.control.key_views import KeySpendingView, KeysView, KeyView
from node.ports import WallClock
from node.private_files import PrivateFileError
from node.store.key_spending import KeySpending, Spending, day_of


@dataclass(frozen=True, slots=True)
class DaemonKeyOperations:
    """Implements node.control.key_methods.KeyOperations."""

    book: KeyBook
    spending: KeySpending
    wall_clock: WallClock

    async def usage(self) -> KeysView:
        """All keys and what they have spent."""
        try:
            keys = self.book.keys()
        except PrivateFileError as error:
            raise RpcError(ErrorCode.REFUSED, str(error)) from error
        known = {key.key_id for key in keys or ()}
        revoked = [key_id for key_id in self.spending.key_ids() if key_id not in known]
        views = [self._view(key.key_id, key) for key in keys or ()] + [self._view(key_id, None) for key_id in revoked]
        return KeysView(keys=views, has_file=keys is not None)

    def _view(self, key_id: str, key: ApiKey | None) -> KeyView:
        now = self.wall_clock()
        return KeyView(
            name="" if key is None else key.name,
            key_id=key_id,
            expires_at=None if key is None else key.expires_at,
            is_expired=key is not None and key.is_expired(now),
            day_amount_max=None if key is None else key.day_amount_max,
            total_amount_max=None if key is None else key.total_amount_max,
            requests_per_minute=None if key is None else key.requests_per_minute,
            tokens_per_minute=None if key is None else key.tokens_per_minute,
            models=[] if key is None else list(key.models),
            today=_spending_view(self.spending.on_day(key_id, day_of(now))),
            total=_spending_view(self.spending.total(key_id)),
            reserved=str(self.spending.reserved(key_id)),
        )


def _spending_view(spending: Spending) -> KeySpendingView:
    return KeySpendingView(
        requests=spending.requests,
        prompt_tokens=spending.prompt_tokens,
        output_tokens=spending.output_tokens,
        amount=str(spending.amount),
    )
