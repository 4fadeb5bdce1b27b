"""The messages of a run, each once and in order, however often the API replays them; and cursors into them.

A cursor says how many messages a caller has been given, with a digest of them. It holds no state of ours: any process
that reads the replay of the same run can continue from it.
"""

import base64
import hashlib
import re
from collections import deque
from dataclasses import dataclass
from itertools import islice

KEPT_MESSAGES = 1_000
KEPT_CHARS = 1_000
_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,200}")
_DIGEST_BYTES = 9
_FIRST_DIGEST = bytes(_DIGEST_BYTES)


@dataclass(frozen=True)
class Message:
    """One step of the research, as the API words it: untrusted text."""

    kind: str
    timestamp: str
    text: str


FORGOTTEN = Message("", "", "(an older step, whose text is no longer kept)")
"""Stands for a message whose text was dropped to save memory, so that counts and positions stay right."""


class Trace:
    """All messages of a run so far. Feed it one `Replay` per connection.

    However many there are, only the newest 1,000 texts are kept, each to 1,000 characters, and 18 bytes of every other.
    """

    def __init__(self) -> None:
        self._newest: deque[Message] = deque(maxlen=KEPT_MESSAGES)
        self._own = _Digests()  # of each message
        self._before = _Digests()  # of all messages before each position
        self._before.append(_FIRST_DIGEST)

    def __len__(self) -> int:
        return len(self._own)

    def since(self, position: int) -> tuple[Message, ...]:
        """The messages from `position` on; `FORGOTTEN` for each whose text is no longer kept."""
        dropped = len(self) - len(self._newest)
        kept = islice(self._newest, max(0, position - dropped), None)
        return (FORGOTTEN,) * (dropped - position) + tuple(kept)

    def append(self, message: Message, digest: bytes) -> None:
        """Add a message that is known to be new."""
        self._newest.append(Message(message.kind, message.timestamp, message.text[:KEPT_CHARS]))
        self._own.append(digest)
        self._before.append(_short_hash(self._before[len(self._before) - 1] + digest))

    def has_at(self, position: int, digest: bytes) -> bool:
        """Whether the message at `position` has this digest."""
        return position < len(self) and self._own[position] == digest

    def digests(self) -> set[bytes]:
        """The digests of all messages."""
        return {self._own[position] for position in range(len(self))}

    def cursor(self, position: int) -> str:
        """A cursor that says: given everything before `position`."""
        return base64.urlsafe_b64encode(position.to_bytes(4) + self._before[position]).decode().rstrip("=")

    def position_of(self, cursor: "Cursor") -> int | None:
        """Where the caller of a cursor stands: None while the replay has not come that far, 0 if it does not fit."""
        if len(self) < cursor.position:
            return None
        return cursor.position if self._before[cursor.position] == cursor.digest else 0


class Replay:
    """The messages of one connection, which repeats those of earlier ones.

    A message is told from the known ones by its place in the order, or else by being equal to one of them.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._position = 0
        self._known: set[bytes] | None = None  # made when the replay is out of step: it left something out

    def add(self, message: Message) -> bool:
        """Take the next message of this connection; whether it is new."""
        digest = _digest(message)
        known_so_far = len(self._trace)
        if self._trace.has_at(self._position, digest):
            self._position += 1
            return False
        if self._position < known_so_far and self._is_known(digest):
            return False
        if self._position == known_so_far:
            self._position += 1
        self._trace.append(message, digest)
        if self._known is not None:
            self._known.add(digest)
        return True

    def _is_known(self, digest: bytes) -> bool:
        if self._known is None:
            self._known = self._trace.digests()
        return digest in self._known


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


class _Digests:
    """Digests one after the other: a tenth of the memory that a list of them takes."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes) // _DIGEST_BYTES

    def __getitem__(self, position: int) -> bytes:
        start = position * _DIGEST_BYTES
        return bytes(self._bytes[start : start + _DIGEST_BYTES])

    def append(self, digest: bytes) -> None:
        self._bytes += digest


def _digest(message: Message) -> bytes:
    text = f"{message.kind}\0{message.timestamp}\0{message.text}"
    return _short_hash(text.encode("utf-8", "surrogatepass"))


def _short_hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_DIGEST_BYTES]
