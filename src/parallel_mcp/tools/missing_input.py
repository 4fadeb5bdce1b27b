"""Asking the user what to research, where a request does not say it and the client can ask."""

from __future__ import annotations

from typing import Annotated, TypeVar

from mcp.server.elicitation import AcceptedElicitation, ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, Resolve
from pydantic import BaseModel, Field

from parallel_mcp.tools.approval import can_be_asked, offer_of, offer_of_task
from parallel_mcp.tools.call import App, Offer
from parallel_mcp.tools.tasks import TaskRequest, says_nothing

_Request = TypeVar("_Request", bound=TaskRequest)


class MissingInput(BaseModel):
    """The user's answer."""

    input: str = Field(description="What to find out, about whom or what, for which period.", max_length=25_000)


class NothingMissing(MissingInput):
    """In place of an answer, where there was no question."""

    input: str = ""


async def ask_for_input(request: TaskRequest, context: Context[App]) -> MissingInput | Elicit[MissingInput]:
    """The question, if the request says nothing to research and the client can be asked."""
    if not says_nothing(request) or not can_be_asked(context):
        return NothingMissing()
    return Elicit("What should be researched? A task costs money, so it needs a clear question.", MissingInput)


AnswerAboutInput = Annotated[ElicitationResult[MissingInput], Resolve(ask_for_input)]


async def offer_of_complete(request: TaskRequest, context: Context[App], told: AnswerAboutInput) -> Offer:
    """As `offer_of_task`, once it is known what to research; what is not known has no price."""
    complete = with_input(request, told)
    return Offer() if says_nothing(complete) else await offer_of(offer_of_task, complete, context)


def with_input(request: _Request, told: ElicitationResult[MissingInput]) -> _Request:
    """The request with what the user has said, if there was a question and an answer."""
    if not isinstance(told, AcceptedElicitation) or isinstance(told.data, NothingMissing):
        return request
    return request.model_copy(update={"input": told.data.input})
