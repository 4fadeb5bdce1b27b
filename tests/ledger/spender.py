"""A server process, as far as a ledger file sees one: begins creates as fast as it can, and prints what became of them.

Says `ready` and waits for a line on its standard input, so that several of them begin at once.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from functools import partial

import anyio

from parallel_mcp.ledger import Begun, Limits
from parallel_mcp.ledger.sqlite import SqliteLedger
from tests.ledger.intents import NO_LIMITS, an_intent, at_once


async def spend(path: str, process: str) -> dict[str, dict[str, int]]:
    """Twenty creates of 10 cents out of a dollar, and ten with keys that all processes use."""
    ledger = SqliteLedger(path)
    priced = [an_intent(f"{process} {number}", owner="spender", price_usd=0.1) for number in range(20)]
    keyed = [an_intent(f"{number}", owner="keyed", key=f"k-{number}") for number in range(10)]
    outcomes = {
        "priced": _counted(
            await at_once([partial(ledger.begin, intent, Limits(usd_per_hour=1.0)) for intent in priced])
        ),
        "keyed": _counted(await at_once([partial(ledger.begin, intent, NO_LIMITS) for intent in keyed])),
    }
    await ledger.aclose()
    return outcomes


def _counted(answers: list[Begun]) -> dict[str, int]:
    return Counter(type(answer).__name__ for answer in answers)


if __name__ == "__main__":
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    sys.stdout.write(json.dumps(anyio.run(spend, sys.argv[1], sys.argv[2])))
