"""Ids and dice. Each kind of thing has its own numbered sequence, so an id depends on the seed and on order only."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from random import Random


class Identities:
    """Hands out one seeded `Random` per thing; everything random about the thing comes from it."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def dice(self, kind: str) -> Random:
        """Return the dice of the next thing of this kind."""
        with self._lock:
            self._counts[kind] += 1
            return Random(f"{self._seed}:{kind}:{self._counts[kind]}")

    def new(self, prefix: str, hex_digits: int = 32) -> str:
        """Return an id such as `search_` and 32 hex digits (API reference, section 0.1)."""
        return prefix + hex_token(self.dice(prefix), hex_digits)

    def ref_id(self, prefix: str = "") -> str:
        """Return the reference of an error: a UUID, or `prefix` and 32 hex digits."""
        if prefix:
            return self.new(prefix)
        return uuid_of(self.dice("ref_id"))


def hex_token(dice: Random, digits: int) -> str:
    return f"{dice.getrandbits(digits * 4):0{digits}x}"


def uuid_of(dice: Random) -> str:
    return str(uuid.UUID(int=dice.getrandbits(128), version=4))
