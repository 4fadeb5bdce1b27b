"""The ledger as a file: who may read it, who shares it, and what happens when it cannot be used."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from parallel_mcp.errors import LedgerUnavailable
from parallel_mcp.ledger import HOUR_S, Spent
from parallel_mcp.ledger.sqlite import SqliteLedger
from tests.connecting import ROOT
from tests.ledger.conftest import FakeClock
from tests.ledger.intents import NO_LIMITS, an_intent, begun, created, known, spent

OWNER = "owner-1"
PROCESSES = 3


async def test_file_and_its_folder_are_for_their_owner_only(tmp_path: Path) -> None:
    """Titles say what somebody is working on; other users of the machine must not read them."""
    file = tmp_path / "data" / "ledger.sqlite3"
    ledger = SqliteLedger(str(file))

    await begun(ledger, an_intent())

    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
    assert found == {"ledger.sqlite3": 0o600, "ledger.sqlite3-wal": 0o600, "ledger.sqlite3-shm": 0o600}
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    await ledger.aclose()


async def test_nothing_is_opened_before_the_first_use(tmp_path: Path) -> None:
    """A server that only lists its tools leaves no files behind."""
    ledger = SqliteLedger(str(tmp_path / "data" / "ledger.sqlite3"))

    await ledger.aclose()

    assert _names_in(tmp_path) == set()


async def test_reopened_file_remembers_everything(tmp_path: Path, clock: FakeClock) -> None:
    """A restart must neither buy again what was bought nor refill the budget."""
    path = str(tmp_path / "ledger.sqlite3")
    before = SqliteLedger(path, clock)
    await created(before, an_intent("trees", key="k", price_usd=0.3), "trun_1")
    await before.settle(await begun(before, an_intent("birds", price_usd=0.1)), "unknown")
    await before.aclose()
    clock.advance(HOUR_S / 2)

    after = SqliteLedger(path, clock)

    assert known(await after.begin(an_intent("trees", key="k"), NO_LIMITS)).handle == "trun_1"
    assert await spent(after) == Spent(0.4, 0.4)
    assert [entry.handle for entry in await after.recent(OWNER, 10)] == ["", "trun_1"]
    await after.aclose()


async def test_processes_that_share_a_new_file_never_overshoot_and_never_begin_a_key_twice(tmp_path: Path) -> None:
    """Each chat window starts a server of its own; they are one user with one budget."""
    path = str(tmp_path / "ledger.sqlite3")

    outcomes = _spending_at_once(path, PROCESSES)

    assert outcomes["priced"] == {"New": 10, "OverSpent": 20 * PROCESSES - 10}
    assert outcomes["keyed"] == {"New": 10, "Known": 10 * PROCESSES - 10}
    ledger = SqliteLedger(path)
    assert await spent(ledger, "spender") == Spent(1.0, 1.0)
    await ledger.aclose()


async def test_directory_in_place_of_the_file_is_reported_and_can_be_repaired(tmp_path: Path) -> None:
    """Whoever repairs what the error names need not restart anything."""
    path = tmp_path / "ledger.sqlite3"
    path.mkdir()
    ledger = SqliteLedger(str(path))
    await _is_unavailable(ledger)

    path.rmdir()

    await _works(ledger)


async def test_folder_that_cannot_be_made_is_reported_and_can_be_repaired(tmp_path: Path) -> None:
    """A file where the folder should be, as it is with a disk that is not mounted or may not be written to."""
    in_the_way = tmp_path / "data"
    in_the_way.touch()
    ledger = SqliteLedger(str(in_the_way / "ledger.sqlite3"))
    await _is_unavailable(ledger)

    in_the_way.unlink()

    await _works(ledger)


async def test_file_that_is_no_ledger_is_reported_and_can_be_repaired(tmp_path: Path) -> None:
    """Neither overwritten, for it may be somebody's, nor taken for an empty ledger."""
    path = tmp_path / "ledger.sqlite3"
    path.write_bytes(b"a letter to the editor\n" * 500)
    ledger = SqliteLedger(str(path))
    await _is_unavailable(ledger)
    assert path.read_bytes() == b"a letter to the editor\n" * 500

    path.unlink()

    await _works(ledger)


async def test_file_damaged_while_open_is_reported_and_can_be_restored(tmp_path: Path) -> None:
    """A disk fills or fails under a running server; the restored copy is what counts then."""
    path = tmp_path / "ledger.sqlite3"
    ledger = SqliteLedger(str(path))
    await created(ledger, an_intent(key="k"), "trun_1")
    await ledger.aclose()
    shutil.copy(path, tmp_path / "backup")
    await ledger.spent(OWNER)

    path.write_bytes(b"\0" * path.stat().st_size)
    (tmp_path / "ledger.sqlite3-wal").unlink()
    await _is_unavailable(ledger)
    shutil.copy(tmp_path / "backup", path)

    assert known(await ledger.begin(an_intent(key="k"), NO_LIMITS)).handle == "trun_1"
    await ledger.aclose()


async def _is_unavailable(ledger: SqliteLedger) -> None:
    intent = an_intent("a confidential question", key="a-confidential-key", title="a confidential title")
    with pytest.raises(LedgerUnavailable) as failure:
        await ledger.begin(intent, NO_LIMITS)
    assert "confidential" not in str(failure.value)
    with pytest.raises(LedgerUnavailable):
        await ledger.spent(OWNER)


async def _works(ledger: SqliteLedger) -> None:
    await begun(ledger, an_intent())
    assert await spent(ledger) == Spent(0.1, 0.1)
    await ledger.aclose()


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _spending_at_once(path: str, processes: int) -> dict[str, Counter[str]]:
    """What processes that begin at the same moment are told, added up."""
    spenders = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.ledger.spender", path, str(number)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    told: dict[str, Counter[str]] = {"priced": Counter(), "keyed": Counter()}
    try:
        for spender in spenders:
            assert spender.stdout is not None
            assert spender.stdout.readline() == "ready\n"
        for spender in spenders:
            assert spender.stdin is not None
            spender.stdin.write("begin\n")
            spender.stdin.flush()
        for spender in spenders:
            for kind, outcomes in json.loads(spender.communicate(timeout=120)[0]).items():
                told[kind].update(outcomes)
    finally:
        for spender in spenders:
            spender.kill()
            spender.communicate()
    return told
