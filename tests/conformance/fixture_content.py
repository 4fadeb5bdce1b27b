"""What the conformance suite wants to find at a server: tools, resources and prompts of fixed content."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.resources import BinaryResource, Resource
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp.types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    CallToolResult,
    ClientCapabilities,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    MissingRequiredClientCapabilityErrorData,
    SamplingCapability,
    TextContent,
    TextResourceContents,
)
from pydantic import Field

from parallel_mcp.resources.definition import ResourceDefinition
from parallel_mcp.tools.call import App, Call

PNG = b"\x89PNG\r\n\x1a\n"
STEP_S = 0.02

Ctx = Context[App]


def text(value: str) -> TextContent:
    """A block of text."""
    return TextContent(text=value)


def _image() -> ImageContent:
    return ImageContent(data=b64encode(PNG).decode(), mime_type="image/png")


def _embedded(uri: str, content: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=content))


async def simple_text() -> CallToolResult:
    """Returns a text."""
    return CallToolResult(content=[text("This is a simple text response for testing.")])


async def image_content() -> CallToolResult:
    """Returns an image."""
    return CallToolResult(content=[_image()])


async def audio_content() -> CallToolResult:
    """Returns a sound."""
    return CallToolResult(content=[AudioContent(data=b64encode(b"RIFF").decode(), mime_type="audio/wav")])


async def embedded_resource() -> CallToolResult:
    """Returns a resource within the result."""
    return CallToolResult(content=[_embedded("test://embedded-resource", "This is an embedded resource content.")])


async def multiple_content_types() -> CallToolResult:
    """Returns blocks of three kinds."""
    resource = _embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json")
    return CallToolResult(content=[text("Multiple content types test:"), _image(), resource])


async def error_handling() -> CallToolResult:
    """Fails."""
    raise ToolError("This tool intentionally returns an error for testing")


async def tool_with_progress(ctx: Ctx) -> CallToolResult:
    """Reports progress three times."""
    for percent in (0, 50, 100):
        await ctx.report_progress(percent, 100)
        await anyio.sleep(STEP_S)
    return CallToolResult(content=[text("Done.")])


async def tool_with_logging(ctx: Ctx) -> CallToolResult:
    """Logs three messages to the client."""
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.log("info", message)  # pyright: ignore[reportDeprecated]
        await anyio.sleep(STEP_S)
    return CallToolResult(content=[text("Done.")])


async def missing_capability(ctx: Ctx) -> CallToolResult:
    """Needs a client that can sample."""
    if ctx.client_capabilities is None or ctx.client_capabilities.sampling is None:
        needed = MissingRequiredClientCapabilityErrorData(
            required_capabilities=ClientCapabilities(sampling=SamplingCapability())
        )
        data = needed.model_dump(mode="json", by_alias=True, exclude_none=True)
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "The client cannot sample", data)
    return CallToolResult(content=[text("The client can sample.")])


async def greet(name: str) -> CallToolResult:
    """Greets; never a task."""
    return CallToolResult(content=[text(f"Hello, {name}!")])


async def region(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})],
) -> CallToolResult:
    """Has an argument that HTTP clients repeat in a header."""
    return CallToolResult(content=[text(region)])


async def json_schema_tool(name: str = "") -> CallToolResult:
    """Has an input schema of many keywords."""
    return CallToolResult(content=[text(name)])


# Keywords of JSON Schema 2020-12 which a server must hand through.
_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {"city": {"type": "string"}}}},
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"required": ["name"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def content_tools() -> list[Tool]:
    """The tools, under the names by which the suite calls them."""
    functions: dict[str, Callable[..., Any]] = {
        "test_simple_text": simple_text,
        "test_image_content": image_content,
        "test_audio_content": audio_content,
        "test_embedded_resource": embedded_resource,
        "test_multiple_content_types": multiple_content_types,
        "test_error_handling": error_handling,
        "test_tool_with_progress": tool_with_progress,
        "test_tool_with_logging": tool_with_logging,
        "test_logging_tool": tool_with_logging,
        "test_missing_capability": missing_capability,
        "test_region_header": region,
        "greet": greet,
    }
    schema_tool = Tool.from_function(json_schema_tool, "json_schema_2020_12_tool")
    return [
        *(Tool.from_function(function, name) for name, function in functions.items()),
        schema_tool.model_copy(update={"parameters": _SCHEMA}),
    ]


async def _static_text(call: Call) -> str:
    return "This is the content of the static text resource."


async def _data_of(call: Call, id: str) -> str:
    return f'{{"id":"{id}","templateTest":true,"data":"Data for ID: {id}"}}'


def content_resources() -> list[ResourceDefinition]:
    """The resources of text, at the addresses at which the suite reads them."""
    about = "For the conformance suite."
    return [
        ResourceDefinition("test://static-text", "static_text", "Text", about, "text/plain", _static_text),
        ResourceDefinition("test://watched-resource", "watched", "Watched", about, "text/plain", _static_text),
        ResourceDefinition("test://template/{id}/data", "data", "Data", about, "application/json", _data_of),
    ]


def binary_resource() -> Resource:
    """The resource of bytes; ours are all texts."""
    return BinaryResource(uri="test://static-binary", name="static_binary", mime_type="image/png", data=PNG)


async def simple_prompt() -> str:
    """A prompt without arguments."""
    return "This is a simple prompt for testing."


async def prompt_with_arguments(arg1: str, arg2: str) -> str:
    """A prompt with two arguments."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


async def prompt_with_resource(resourceUri: str) -> Sequence[ContentBlock]:
    """A prompt that holds a resource."""
    return [_embedded(resourceUri, "Embedded resource content for testing."), text("Please process the resource.")]


async def prompt_with_image() -> Sequence[ContentBlock]:
    """A prompt that holds an image."""
    return [_image(), text("Please analyze the image above.")]


def content_prompts() -> list[Prompt]:
    """The prompts, under the names by which the suite gets them."""
    return [
        Prompt.from_function(simple_prompt, "test_simple_prompt"),
        Prompt.from_function(prompt_with_arguments, "test_prompt_with_arguments"),
        Prompt.from_function(prompt_with_resource, "test_prompt_with_embedded_resource"),
        Prompt.from_function(prompt_with_image, "test_prompt_with_image"),
    ]
