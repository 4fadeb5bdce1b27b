"""The ledger in an SQLite file, shared by all server processes of a user; or in memory, forgotten at the end."""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from parallel_mcp.errors import LedgerUnavailable
from parallel_mcp.ledger import (
    DAY_S,
    HOUR_S,
    KEPT_S,
    PERIODS,
    SAME_REQUEST_S,
    Begun,
    Entry,
    EntryState,
    Intent,
    KeyConflict,
    Known,
    Limits,
    New,
    OverSpent,
    Period,
    Spent,
    TooManyActive,
    wait_for_room,
)
from parallel_mcp.ledger.clock import Clock, Reading, advanced, system_clock

IN_MEMORY = ":memory:"
BUSY_S = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    entry_id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    processor TEXT NOT NULL,
    price_usd REAL NOT NULL,
    runs INTEGER NOT NULL,
    title TEXT NOT NULL,
    state TEXT NOT NULL,
    handle TEXT NOT NULL DEFAULT '',
    group_id TEXT NOT NULL DEFAULT '',
    active_until REAL NOT NULL,  -- ledger time
    at REAL NOT NULL,            -- ledger time
    created_at REAL NOT NULL     -- wall clock, for people
);
CREATE INDEX IF NOT EXISTS entries_of_owner ON entries (owner, at);
CREATE INDEX IF NOT EXISTS entries_by_key ON entries (owner, idempotency_key);
CREATE INDEX IF NOT EXISTS entries_by_handle ON entries (owner, handle);
CREATE TABLE IF NOT EXISTS clock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    ledger_s REAL NOT NULL,
    boot TEXT NOT NULL,
    uptime_s REAL NOT NULL,
    wall_s REAL NOT NULL
);
"""

# What may have to be paid: all that was created or is on its way, and for an hour what nobody knows of.
_CHARGED = "(state = 'created' OR (state IN ('intent', 'unknown') AND at > :now - 3600))"

_T = TypeVar("_T")


class SqliteLedger:
    """Each method is one immediate transaction, so the steps of several processes never interleave."""

    def __init__(self, path: str, clock: Clock = system_clock) -> None:
        self._path = path
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._threads = anyio.CapacityLimiter(40)  # of its own: those of all may be busy writing large results

    async def begin(self, intent: Intent, limits: Limits, *, ignore: frozenset[str] = frozenset()) -> Begun:
        """See `Ledger.begin`."""

        def step(db: sqlite3.Connection, now: float) -> Begun:
            db.execute("DELETE FROM entries WHERE at < ?", (now - KEPT_S,))
            answer = _answering(db, now, intent, ignore) or _exceeded(db, now, intent, limits)
            return answer or New(_insert(db, now, intent, self._clock().wall_s))

        return await self._run(step)

    async def attach_group(self, entry_id: str, group_id: str) -> bool:
        """See `Ledger.attach_group`."""

        def step(db: sqlite3.Connection, now: float) -> bool:
            db.execute("UPDATE entries SET group_id = ? WHERE entry_id = ?", (group_id, entry_id))
            return _is_in_state(db, entry_id, "intent")

        return await self._run(step)

    async def give_up(self, entry_id: str) -> bool:
        """See `Ledger.give_up`."""

        def step(db: sqlite3.Connection, now: float) -> bool:
            db.execute(
                "UPDATE entries SET state = 'failed' "
                "WHERE entry_id = ? AND group_id = '' AND state IN ('intent', 'unknown')",
                (entry_id,),
            )
            return _is_in_state(db, entry_id, "failed")

        return await self._run(step)

    async def settle(
        self, entry_id: str, state: EntryState, handle: str = "", *, price_usd: float | None = None
    ) -> None:
        """See `Ledger.settle`."""

        def step(db: sqlite3.Connection, now: float) -> None:
            db.execute(
                "UPDATE entries SET state = ?, handle = ?, price_usd = coalesce(?, price_usd) WHERE entry_id = ? "
                "AND (state IN ('intent', 'unknown') OR ? != 'unknown')",
                (state, handle, price_usd, entry_id, state),
            )

        await self._run(step)

    async def of_group(self, owner: str, group_id: str) -> list[Entry]:
        """See `Ledger.of_group`."""

        def step(db: sqlite3.Connection, now: float) -> list[Entry]:
            rows = db.execute(
                "SELECT * FROM entries WHERE owner = ? AND at > ? AND group_id = ? AND state != 'failed' "
                "ORDER BY rowid DESC",
                (owner, now - SAME_REQUEST_S, group_id),
            )
            return [_entry(row, now) for row in rows]

        return await self._run(step)

    async def entry(self, entry_id: str) -> Entry | None:
        """See `Ledger.entry`."""

        def step(db: sqlite3.Connection, now: float) -> Entry | None:
            row = db.execute("SELECT * FROM entries WHERE entry_id = ?", (entry_id,)).fetchone()
            return _entry(row, now) if row else None

        return await self._run(step)

    async def note_ended(self, owner: str, handle: str) -> None:
        """See `Ledger.note_ended`."""

        def step(db: sqlite3.Connection, now: float) -> None:
            db.execute("UPDATE entries SET active_until = 0 WHERE owner = ? AND handle = ?", (owner, handle))

        await self._run(step)

    async def recent(self, owner: str, limit: int) -> list[Entry]:
        """See `Ledger.recent`."""

        def step(db: sqlite3.Connection, now: float) -> list[Entry]:
            rows = db.execute(
                "SELECT *, max(rowid) FROM entries WHERE owner = ? AND state != 'failed' "
                "GROUP BY coalesce(nullif(handle, ''), entry_id) ORDER BY rowid DESC LIMIT ?",
                (owner, limit),
            )
            return [_entry(row, now) for row in rows]

        return await self._run(step)

    async def spent(self, owner: str) -> Spent:
        """See `Ledger.spent`."""

        def step(db: sqlite3.Connection, now: float) -> Spent:
            return Spent(_total(_charges(db, now, owner, HOUR_S)), _total(_charges(db, now, owner, DAY_S)))

        return await self._run(step)

    async def aclose(self) -> None:
        """See `Ledger.aclose`."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    async def _run(self, step: Callable[[sqlite3.Connection, float], _T]) -> _T:
        """Carry a step out in a thread; a caller who is cancelled meanwhile still leaves it done."""
        return await anyio.to_thread.run_sync(self._carry_out, step, limiter=self._threads)

    def _carry_out(self, step: Callable[[sqlite3.Connection, float], _T]) -> _T:
        with self._lock:
            try:
                with self._transaction() as db:
                    return step(db, _ledger_time(db, self._clock()))
            except (sqlite3.Error, OSError) as error:
                self._let_go_of_the_file()
                raise LedgerUnavailable(
                    "The ledger that keeps creates from being paid twice cannot be used "
                    f"({type(error).__name__}: {error})"
                ) from None

    def _let_go_of_the_file(self) -> None:
        """Open it anew next time: by then it may be another one, and this connection may be stuck in a transaction."""
        if self._connection is not None and self._path != IN_MEMORY:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        db = self._connection = self._connection or _opened(self._path)
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")


def _opened(path: str) -> sqlite3.Connection:
    if path != IN_MEMORY:
        file = Path(path).expanduser()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        file.chmod(0o600)  # also of a file that was there; SQLite gives its side files the same mode
        path = str(file)
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")  # an intent must be on the disk before the request is on the wire
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _ledger_time(db: sqlite3.Connection, now: Reading) -> float:
    row = db.execute("SELECT * FROM clock").fetchone()
    ledger_s = advanced(row["ledger_s"], Reading(row["boot"], row["uptime_s"], row["wall_s"]), now) if row else 0.0
    db.execute("INSERT OR REPLACE INTO clock VALUES (1, ?, ?, ?, ?)", (ledger_s, now.boot, now.uptime_s, now.wall_s))
    return ledger_s


def _is_in_state(db: sqlite3.Connection, entry_id: str, state: EntryState) -> bool:
    return bool(db.execute("SELECT 1 FROM entries WHERE entry_id = ? AND state = ?", (entry_id, state)).fetchone())


def _answering(
    db: sqlite3.Connection, now: float, intent: Intent, ignore: frozenset[str]
) -> Known | KeyConflict | None:
    column = "idempotency_key" if intent.idempotency_key else "fingerprint"
    rows = db.execute(
        f"SELECT * FROM entries WHERE owner = ? AND {column} = ? AND state != 'failed' ORDER BY at DESC, rowid DESC",
        (intent.owner, intent.idempotency_key or intent.fingerprint),
    ).fetchall()
    for entry in (_entry(row, now) for row in rows if row["entry_id"] not in ignore):
        if intent.idempotency_key:
            return Known(entry, by_key=True) if entry.fingerprint == intent.fingerprint else KeyConflict()
        if entry.age_s < SAME_REQUEST_S:
            return Known(entry, by_key=False)
    return None


def _exceeded(db: sqlite3.Connection, now: float, intent: Intent, limits: Limits) -> OverSpent | TooManyActive | None:
    caps: dict[Period, float] = {"hour": limits.usd_per_hour, "day": limits.usd_per_day}
    for period, cap in caps.items():
        charges = _charges(db, now, intent.owner, PERIODS[period]) if cap else []
        frees_in_s = wait_for_room(charges, cap - intent.price_usd, PERIODS[period]) if cap else 0
        if frees_in_s > 0:
            return OverSpent(period, cap, _total(charges), frees_in_s)
    if not limits.active_runs:
        return None
    counted = _active(db, now, intent.owner)
    active = sum(counted.values())
    if active + max(0, intent.runs - counted.get(intent.group_id, 0)) > limits.active_runs:
        return TooManyActive(limits.active_runs, active)
    return None


def _insert(db: sqlite3.Connection, now: float, intent: Intent, wall_s: float) -> str:
    entry_id = uuid.uuid4().hex
    db.execute(
        "INSERT INTO entries (entry_id, owner, fingerprint, idempotency_key, processor, price_usd, runs, title,"
        " group_id, state, active_until, at, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'intent', ?, ?, ?)",
        (
            entry_id,
            intent.owner,
            intent.fingerprint,
            intent.idempotency_key,
            intent.processor,
            intent.price_usd,
            intent.runs,
            intent.title,
            intent.group_id,
            now + intent.lasts_s,
            now,
            wall_s,
        ),
    )
    return entry_id


def _charges(db: sqlite3.Connection, now: float, owner: str, period_s: float) -> list[tuple[float, float]]:
    """Age and price of each create of the period that may have to be paid, the first to leave it first.

    What nobody knows of leaves after an hour whatever the period, and so is shown as that much older.
    """
    rows = db.execute(
        "SELECT CASE state WHEN 'created' THEN at ELSE at - :period + 3600 END AS since, price_usd FROM entries "
        f"WHERE owner = :owner AND at > :now - :period AND {_CHARGED} ORDER BY since",
        {"owner": owner, "now": now, "period": period_s},
    )
    return [(now - row["since"], row["price_usd"]) for row in rows]


def _active(db: sqlite3.Connection, now: float, owner: str) -> dict[str, int]:
    """As how many active runs each thing counts that may be active, whatever was added to it."""
    rows = db.execute(
        "SELECT coalesce(nullif(group_id, ''), nullif(handle, ''), entry_id) AS thing, max(runs) AS runs FROM entries "
        f"WHERE owner = :owner AND active_until > :now AND {_CHARGED} GROUP BY thing",
        {"owner": owner, "now": now},
    )
    return {row["thing"]: row["runs"] for row in rows}


def _total(charges: list[tuple[float, float]]) -> float:
    return sum(price for _, price in charges)


def _entry(row: Any, now: float) -> Entry:
    return Entry(
        entry_id=row["entry_id"],
        fingerprint=row["fingerprint"],
        idempotency_key=row["idempotency_key"],
        processor=row["processor"],
        price_usd=row["price_usd"],
        title=row["title"],
        state=row["state"],
        handle=row["handle"],
        group_id=row["group_id"],
        created_at=row["created_at"],
        age_s=now - row["at"],
    )
