"""Cursors into the events of a group or FindAll run: the id of the last one told, which the API can resume from.

They hold no state of ours, so any process understands them; a digest tells those of another handle apart.
"""

import base64
import hashlib
import re

_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,200}")
_DIGEST_BYTES = 6
MAX_EVENT_ID_BYTES = 140


def event_cursor(handle: str, event_id: str) -> str | None:
    """A cursor that says: told everything up to this event. None if it has no id, or one too long for a cursor."""
    raw = event_id.encode("utf-8", "surrogatepass")
    if not 0 < len(raw) <= MAX_EVENT_ID_BYTES:
        return None
    return base64.urlsafe_b64encode(_digest(handle, raw) + raw).decode().rstrip("=")


def event_id_in(cursor: str, handle: str) -> str | None:
    """The event id in a cursor of this handle; None if it is none."""
    if not _CURSOR.fullmatch(cursor):
        return None
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        digest, event_id = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        return event_id.decode() if digest == _digest(handle, event_id) else None
    except ValueError:
        return None


def _digest(handle: str, event_id: bytes) -> bytes:
    return hashlib.sha256(handle.encode() + b"\0" + event_id).digest()[:_DIGEST_BYTES]
