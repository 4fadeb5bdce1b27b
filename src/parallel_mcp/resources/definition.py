"""A resource: its address, what clients are told of it, how it is read, and when it changes."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import anyio
from mcp.shared.exceptions import MCPError
from mcp.shared.uri_template import UriTemplate
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextResourceContents,
)

from parallel_mcp.errors import InvalidArguments, NotFound, ResearchError
from parallel_mcp.render.errors import error_text
from parallel_mcp.resources.sending import check_sendable
from parallel_mcp.tools.call import Call
from parallel_mcp.tools.reply import origin

FINAL_TTL_MS = 3_600_000


@dataclass(frozen=True)
class FinalText:
    """A text that will be the same whenever it is read again, so that a client may keep it."""

    text: str


@dataclass(frozen=True)
class ResourceDefinition:
    """One resource, or as many as its address has values for `{variables}`.

    The SDK's own templates could do this, but make a pydantic model of every function at each start, and give no
    context, and so no key of the caller, to an address without variables.
    """

    address: str
    name: str
    title: str
    description: str
    mime_type: str
    read_text: Callable[..., Awaitable[str | FinalText]]
    """Called with the call and the variables of the address, by name."""
    follow: Callable[..., AbstractAsyncContextManager[AsyncGenerator[float]]] | None = None
    """Called in the same way; see `following`. None if it never changes."""
    meta: dict[str, Any] | None = None
    """What clients are told of one that is of our own writing."""
    size: int | None = None
    """In bytes, where it is always the same."""

    @property
    def is_template(self) -> bool:
        """Whether it is listed as a template, since its address has variables."""
        return "{" in self.address

    def variables_in(self, uri: str) -> dict[str, str] | None:
        """What a URI says for the variables; None if it is of another resource."""
        values = self._template.match(uri)
        return None if values is None else {name: str(value) for name, value in values.items()}

    async def read(self, call: Call, uri: str, variables: dict[str, str]) -> ReadResourceResult:
        """Its content now, which others have written unless it has a `meta` of its own.

        Raises:
            ResearchError: It cannot be read, or is too large for this connection.
        """
        asked_at = anyio.current_time()
        answer = await self.read_text(call, **variables)
        text, ttl_ms = (answer.text, FINAL_TTL_MS) if isinstance(answer, FinalText) else (answer, 0)
        check_sendable(text, call, "".join(variables.values()), asked_at=asked_at)
        content = TextResourceContents(
            uri=uri, text=text, mime_type=self.mime_type, _meta=self.meta or origin("private")
        )
        return ReadResourceResult(contents=[content], ttl_ms=ttl_ms, cache_scope="private")

    def listed(self) -> Resource:
        """As an entry of `resources/list`."""
        return Resource(
            uri=self.address,
            name=self.name,
            title=self.title,
            description=self.description,
            mime_type=self.mime_type,
            size=self.size,
            _meta=self.meta,
        )

    def listed_template(self) -> ResourceTemplate:
        """As an entry of `resources/templates/list`."""
        return ResourceTemplate(
            uri_template=self.address,
            name=self.name,
            title=self.title,
            description=self.description,
            mime_type=self.mime_type,
        )

    @cached_property
    def _template(self) -> UriTemplate:
        return UriTemplate.parse(self.address)


def resource_at(
    uri: str, definitions: Sequence[ResourceDefinition]
) -> tuple[ResourceDefinition, dict[str, str]] | None:
    """The resource that an address names, and what it says for the variables; None if there is none of that form."""
    for definition in definitions:
        variables = definition.variables_in(uri)
        if variables is not None:
            return definition, variables
    return None


def resource_error(error: ResearchError, uri: str) -> MCPError:
    """What a client is told that cannot read, or follow, a resource."""
    code = INVALID_PARAMS if isinstance(error, InvalidArguments | NotFound) else INTERNAL_ERROR
    return MCPError(code, error_text(error), {"uri": uri})
