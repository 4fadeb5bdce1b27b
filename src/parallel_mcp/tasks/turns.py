"""Additions to the same group or FindAll run, one after the other, in the order in which the ledger has begun them."""

from __future__ import annotations

import logging

from parallel_mcp.errors import ResearchError, StillChanging
from parallel_mcp.ledger import Entry
from parallel_mcp.tasks.creating import LONGEST_CREATE_S, Creator

LONGEST_ADDITION_S = 2 * LONGEST_CREATE_S  # it may have waited for its turn for as long as sending it takes

logger = logging.getLogger(__name__)


async def open_in_turn(creator: Creator, owner: str, group_id: str, entry_id: str = "") -> list[Entry]:
    """What was added to a thing before this entry without a known outcome, or at all, if the addition is yet to begin.

    Those that this process has on their way are waited for.
    """
    for entry in await _open_before(creator, owner, group_id, entry_id):
        if made := creator.on_its_way(entry.entry_id):
            try:
                await made()
            except ResearchError as error:  # its caller is told
                logger.info("An addition failed: %s", error)
    return await _open_before(creator, owner, group_id, entry_id)


async def _open_before(creator: Creator, owner: str, group_id: str, entry_id: str) -> list[Entry]:
    """Intents by their turn, and unknown outcomes whatever theirs: one may be entered when its addition is answered."""
    last_first = await creator.ledger.of_group(owner, group_id)
    own = next((place for place, entry in enumerate(last_first) if entry.entry_id == entry_id), -1)
    return [
        entry
        for place, entry in enumerate(last_first)
        if entry.state == "unknown" or (entry.state == "intent" and place > own)
    ]


async def check_age(creator: Creator, entry_id: str) -> None:
    """Only an addition that nobody can have taken for lost yet may be sent.

    Raises:
        StillChanging: Somebody can.
    """
    own = await creator.ledger.entry(entry_id)
    if own is None or own.age_s >= LONGEST_CREATE_S:
        raise StillChanging("Its turn came so late that others may have taken it for lost")
