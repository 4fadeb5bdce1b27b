"""The messages of a run, each once and in order, however often the API replays them; and cursors into them.

A cursor says how many messages a caller has been given, with a digest of them. It holds no state of ours: any process
that reads the replay of the same run can continue from it.
"""

import base64
import hashlib
import re
from dataclasses import dataclass

MAX_MESSAGE_CHARS = 2_000
_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,200}")
_DIGEST_BYTES = 9
_FIRST_DIGEST = bytes(_DIGEST_BYTES)


@dataclass(frozen=True)
class Message:
    """One step of the research, as the API words it: untrusted text."""

    kind: str
    timestamp: str
    text: str


class Trace:
    """All messages of a run so far. Feed it one `Replay` per connection."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._known: set[Message] = set()
        self._digests = [_FIRST_DIGEST]  # of the messages before each position

    def __len__(self) -> int:
        return len(self._messages)

    def __getitem__(self, position: int) -> Message:
        return self._messages[position]

    def __contains__(self, message: Message) -> bool:
        return message in self._known

    def since(self, position: int) -> tuple[Message, ...]:
        """The messages from `position` on."""
        return tuple(self._messages[position:])

    def append(self, message: Message) -> None:
        """Add a message that is known to be new."""
        self._messages.append(message)
        self._known.add(message)
        self._digests.append(_digest(self._digests[-1], message))

    def cursor(self, position: int) -> str:
        """A cursor that says: given everything before `position`."""
        return base64.urlsafe_b64encode(position.to_bytes(4) + self._digests[position]).decode().rstrip("=")

    def position_of(self, cursor: "Cursor") -> int | None:
        """Where the caller of a cursor stands: None while the replay has not come that far, 0 if it does not fit."""
        if len(self._messages) < cursor.position:
            return None
        return cursor.position if self._digests[cursor.position] == cursor.digest else 0


class Replay:
    """The messages of one connection, which repeats those of earlier ones.

    A message is told from the known ones by its place in the order, or else by being equal to one of them.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._position = 0

    def add(self, message: Message) -> bool:
        """Take the next message of this connection; whether it is new."""
        known_so_far = len(self._trace)
        if self._position < known_so_far and self._trace[self._position] == message:
            self._position += 1
            return False
        if self._position < known_so_far and message in self._trace:
            return False  # out of step: the replay left something out
        if self._position == known_so_far:
            self._position += 1
        self._trace.append(message)
        return True


@dataclass(frozen=True)
class Cursor:
    """A decoded cursor."""

    position: int
    digest: bytes


START = Cursor(0, _FIRST_DIGEST)


def read_cursor(text: str) -> Cursor | None:
    """The cursor that `text` spells; None if it is none of ours."""
    if not _CURSOR.fullmatch(text):
        return None
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return None
    return Cursor(int.from_bytes(raw[:4]), raw[4:]) if len(raw) == 4 + _DIGEST_BYTES else None


def _digest(before: bytes, message: Message) -> bytes:
    text = f"{message.kind}\0{message.timestamp}\0{message.text}"
    return hashlib.sha256(before + text.encode("utf-8", "surrogatepass")).digest()[:_DIGEST_BYTES]
