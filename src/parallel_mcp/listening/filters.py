"""What a client asks to be told of, and the answer that says what it will be told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mcp.types import SubscriptionFilter

if TYPE_CHECKING:
    from parallel_mcp.listening.topics import Topic

ACKNOWLEDGED = "notifications/subscriptions/acknowledged"


class Asked(SubscriptionFilter):
    """The filter of `subscriptions/listen`, with the field of the Tasks extension, of which the SDK has no model."""

    task_ids: list[str] | None = None


def asked_in(notifications: SubscriptionFilter) -> Asked:
    """The whole filter of a request: what the SDK does not know, it keeps aside.

    Raises:
        ValidationError: A field that the SDK does not know has the wrong form.
    """
    return Asked.model_validate(notifications.model_dump(by_alias=True))


def granted(topics: Iterable[Topic]) -> dict[str, Any]:
    """The filter of the acknowledgement: the part of what was asked that is followed, on the wire's own names."""
    flags = {topic.kind: True for topic in topics if not topic.item}
    lists: dict[str, list[str]] = {}
    for topic in topics:
        if topic.item:
            lists.setdefault(topic.kind, []).append(topic.item)
    return {**flags, **lists}
