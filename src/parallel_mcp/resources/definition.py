"""A resource: its address, what clients are told of it, and how it is read."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.shared.uri_template import UriTemplate
from mcp.types import Resource, ResourceTemplate

from parallel_mcp.tools.call import Call
from parallel_mcp.tools.reply import origin


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
    read_text: Callable[..., Awaitable[str]]
    """Called with the call and the variables of the address, by name."""
    meta: dict[str, Any] | None = None
    """What clients are told of one that is of our own writing."""

    @property
    def is_template(self) -> bool:
        """Whether it is listed as a template, since its address has variables."""
        return "{" in self.address

    def variables_in(self, uri: str) -> dict[str, str] | None:
        """What a URI says for the variables; None if it is of another resource."""
        values = self._template.match(uri)
        return None if values is None else {name: str(value) for name, value in values.items()}

    async def read(self, call: Call, variables: dict[str, str]) -> ReadResourceContents:
        """Its content now, which others have written unless it has a `meta` of its own.

        Raises:
            ResearchError: It cannot be read.
        """
        text = await self.read_text(call, **variables)
        return ReadResourceContents(content=text, mime_type=self.mime_type, meta=self.meta or origin("private"))

    def listed(self) -> Resource:
        """As an entry of `resources/list`."""
        return Resource(
            uri=self.address,
            name=self.name,
            title=self.title,
            description=self.description,
            mime_type=self.mime_type,
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
