"""Things that belong to a caller: for any other key a FindAll run or a monitor does not exist."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

from parallel_mcp.simulator.errors import Refused

MOST_KEPT = 10_000
T = TypeVar("T")


class Owned(Generic[T]):
    """Things by id, each with the key that made it. The newest 10,000 are kept. Safe to use from several threads."""

    def __init__(self, not_found: str) -> None:
        self.ever = 0
        self._not_found = not_found
        self._things: dict[str, tuple[str, T]] = {}
        self._lock = threading.Lock()

    def __getitem__(self, thing_id: str) -> T:
        return self._things[thing_id][1]

    def __contains__(self, thing_id: str) -> bool:
        return thing_id in self._things

    def add(self, owner: str, thing_id: str, thing: T) -> None:
        with self._lock:
            self.ever += 1
            self._things[thing_id] = (owner, thing)
            if len(self._things) > MOST_KEPT:
                self._things.pop(next(iter(self._things)))

    def get(self, owner: str, thing_id: str) -> T:
        """Return a thing of this owner.

        Raises:
            Refused: 404, there is none with this id, or it is somebody else's.
        """
        found = self._things.get(thing_id)
        if found is None or found[0] != owner:
            raise Refused(404, self._not_found)
        return found[1]

    def of(self, owner: str) -> list[T]:
        """Return everything of an owner, oldest first."""
        with self._lock:
            return [thing for whose, thing in self._things.values() if whose == owner]
