"""The ledger that the settings name. Opening it is left to its first use: reading runs needs none."""

from __future__ import annotations

from pathlib import Path

from parallel_mcp.ledger import Ledger
from parallel_mcp.settings import Settings

REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


def chosen_ledger(settings: Settings) -> Ledger:
    """The ledger of a server: a file by default, `memory`, or Redis."""
    if settings.ledger.startswith(REDIS_SCHEMES):
        from parallel_mcp.ledger.redis import RedisLedger

        return RedisLedger(settings.ledger)
    # Imported here, as the other: what a ledger needs is no business of a server that only lists its tools.
    from parallel_mcp.ledger.sqlite import IN_MEMORY, SqliteLedger

    if settings.ledger == "memory":
        return SqliteLedger(IN_MEMORY)
    return SqliteLedger(settings.ledger or str(default_file()))


def default_file() -> Path:
    """Where the ledger is kept if no setting says so."""
    from platformdirs import user_data_path

    return user_data_path("parallel-mcp", appauthor=False) / "ledger.sqlite3"
