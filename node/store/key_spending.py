"""What API keys have spent: kept over restarts, with what running requests may still spend.

A request's greatest cost is on disk before it is asked, its true cost before its answer ends. After a crash what was
reserved counts as spent: a budget errs towards spending too little.
"""

from dataclasses import dataclass

from node.store.database import Database

DAYS_KEPT_MAX = 92
"""Days that are told one by one; older ones are added up under day 0."""
FOLDED_DAY = 0
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Spending:
    """What was spent. `amount` is in base units of the payment token."""

    requests: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    amount: int = 0

    def __add__(self, other: "Spending") -> "Spending":
        return Spending(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
            self.amount + other.amount,
        )


class KeySpending:
    """The books of all keys, by key id. Every method returns only when its effect would survive kill -9."""

    def __init__(self, database: Database) -> None:
        """Open the books; what a daemon that died had reserved is spent."""
        self._database = database
        for reservation, key, day, amount in self._reservations():
            self.settle(reservation, key, day, Spending(1, 0, 0, amount))

    def total(self, key: str) -> Spending:
        """Return all that a key has spent."""
        return sum(self.by_day(key).values(), Spending())

    def on_day(self, key: str, day: int) -> Spending:
        """Return what a key has spent on a day, in days since 1970 (UTC)."""
        return self.by_day(key).get(day, Spending())

    def by_day(self, key: str) -> dict[int, Spending]:
        """Return what a key has spent by day; days long ago together as FOLDED_DAY."""
        rows = self._database.connection.execute(
            "SELECT day, requests, prompt_tokens, output_tokens, amount FROM key_spending WHERE key = ?", (key,)
        )
        return {day: Spending(requests, prompt, output, int(amount)) for day, requests, prompt, output, amount in rows}

    def key_ids(self) -> tuple[str, ...]:
        """Return the ids of all keys that have spent anything, revoked ones included."""
        return tuple(key for (key,) in self._database.connection.execute("SELECT DISTINCT key FROM key_spending"))

    def reserved(self, key: str, day: int | None = None) -> int:
        """Return what running requests of a key may still spend: all, or those that began on `day`."""
        return sum(amount for _, owner, began, amount in self._reservations() if owner == key and day in (None, began))

    def reserve(self, key: str, day: int, amount: int) -> int:
        """Set aside the most that a request may cost; return the reservation."""
        with self._database.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO key_reservations (key, day, amount) VALUES (?, ?, ?)", (key, day, str(amount))
            )
        if cursor.lastrowid is None:
            raise AssertionError("SQLite numbers every row")
        return cursor.lastrowid

    def settle(self, reservation: int | None, key: str, day: int, spent: Spending) -> None:
        """A request is over: what it had reserved, if anything, is free, and what it cost is spent."""
        sums = self.on_day(key, day) + spent
        with self._database.transaction() as connection:
            if reservation is not None:
                connection.execute("DELETE FROM key_reservations WHERE id = ?", (reservation,))
            self._put(key, day, sums)
            self._fold(key, day - DAYS_KEPT_MAX)

    def _put(self, key: str, day: int, sums: Spending) -> None:
        self._database.connection.execute(
            "INSERT OR REPLACE INTO key_spending VALUES (?, ?, ?, ?, ?, ?)",
            (key, day, sums.requests, sums.prompt_tokens, sums.output_tokens, str(sums.amount)),
        )

    def _fold(self, key: str, before: int) -> None:
        days = self.by_day(key)
        old = [day for day in days if FOLDED_DAY < day < before]
        if not old:
            return
        sums = sum((days[day] for day in old), days.get(FOLDED_DAY, Spending()))
        self._database.connection.executemany(
            "DELETE FROM key_spending WHERE key = ? AND day = ?", [(key, day) for day in old]
        )
        self._put(key, FOLDED_DAY, sums)

    def _reservations(self) -> list[tuple[int, str, int, int]]:
        rows = self._database.connection.execute("SELECT id, key, day, amount FROM key_reservations")
        return [(number, key, day, int(amount)) for number, key, day, amount in rows]


def day_of(at: int) -> int:
    """Return the day of a UNIX second, in days since 1970 (UTC)."""
    return at // SECONDS_PER_DAY
