"""Telling those who wait, within this process, that something has changed."""

from collections.abc import AsyncGenerator
from weakref import WeakValueDictionary

import anyio


class Change:
    """Something that changes now and then. Who follows it misses no change; several at once may count as one."""

    def __init__(self) -> None:
        self._times = 0
        self._next = anyio.Event()

    def tell(self) -> None:
        """It has changed."""
        self._times += 1
        told, self._next = self._next, anyio.Event()
        told.set()

    def from_now_on(self) -> AsyncGenerator[None]:
        """Each change after this call, without end."""
        return self._after(self._times)

    async def _after(self, seen: int) -> AsyncGenerator[None]:
        while True:
            while self._times == seen:
                await self._next.wait()
            seen = self._times
            yield


class ListChanges:
    """That the list of an owner's runs has changed, as far as this process knows; kept only while somebody follows."""

    def __init__(self) -> None:
        self._of: WeakValueDictionary[str, Change] = WeakValueDictionary()

    def of(self, owner: str) -> Change:
        """The changes of one owner's list, for as long as they are held."""
        change = self._of.get(owner)
        if change is None:
            change = self._of[owner] = Change()
        return change

    def tell(self, owner: str) -> None:
        """Something was created, or seen to have changed."""
        if (change := self._of.get(owner)) is not None:
            change.tell()
