"""What the conformance suite wants to be asked: legacy clients by a request, modern ones by an unfinished result."""

from collections.abc import Callable
from typing import Any

from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.tools import Tool
from mcp.shared.message import ServerMessageMetadata
from mcp.types import (
    CallToolResult,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
)

from tests.conformance.fixture_content import Ctx, text

# Legacy: the server sends a request and waits for the answer.


async def sampling(prompt: str, ctx: Ctx) -> CallToolResult:
    """Asks the client's model."""
    metadata = ServerMessageMetadata(related_request_id=ctx.request_id)
    answer = await ctx.session.send_request(sampled(prompt), CreateMessageResult, metadata=metadata)
    return CallToolResult(content=[text(f"LLM response: {answer.content}")])


async def elicitation(message: str, ctx: Ctx) -> CallToolResult:
    """Asks the user for two texts."""
    return await _elicited(ctx, message, {"username": {"type": "string"}, "email": {"type": "string"}})


async def elicitation_defaults(ctx: Ctx) -> CallToolResult:
    """Asks with a default for a field of each type."""
    fields = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return await _elicited(ctx, "Who are you?", fields)


async def elicitation_enums(ctx: Ctx) -> CallToolResult:
    """Asks with choices of each form."""
    plain = ["option1", "option2", "option3"]
    titled = [{"const": "value1", "title": "First"}, {"const": "value2", "title": "Second"}]
    fields = {
        "untitledSingle": {"type": "string", "enum": plain},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    return await _elicited(ctx, "What do you choose?", fields)


async def _elicited(ctx: Ctx, message: str, fields: dict[str, Any]) -> CallToolResult:
    answer = await ctx.session.elicit_form(message, {"type": "object", "properties": fields}, ctx.request_id)
    return CallToolResult(content=[text(f"Elicitation completed: action={answer.action}, content={answer.content}")])


# Modern: the tool ends with what it wants to know, and is called again with the answers.


def asked(message: str, field: str, field_type: str = "string") -> ElicitRequest:
    """A question for one field."""
    schema = {"type": "object", "properties": {field: {"type": field_type}}, "required": [field]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sampled(prompt: str) -> CreateMessageRequest:
    """A question for the client's model."""
    message = SamplingMessage(role="user", content=text(prompt))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=100))


def answered(ctx: Ctx, question: str, field: str) -> object:
    """What the user has answered; None if they were not asked."""
    answer = (ctx.input_responses or {}).get(question)
    return (answer.content or {}).get(field) if isinstance(answer, ElicitResult) else None


def _unfinished(questions: dict[str, InputRequest], state: str | None = None) -> InputRequiredResult:
    return InputRequiredResult(input_requests=questions, request_state=state)


async def input_elicitation(ctx: Ctx) -> CallToolResult | InputRequiredResult:
    """Asks the user's name."""
    name = answered(ctx, "user_name", "name")
    if name is None:
        return _unfinished({"user_name": asked("What is your name?", "name")})
    return CallToolResult(content=[text(f"Hello, {name}!")])


async def input_sampling(ctx: Ctx) -> CallToolResult | InputRequiredResult:
    """Asks the client's model."""
    answer = (ctx.input_responses or {}).get("capital_question")
    if not isinstance(answer, CreateMessageResult):
        return _unfinished({"capital_question": sampled("What is the capital of France?")})
    return CallToolResult(content=[text(str(answer.content))])


async def input_roots(ctx: Ctx) -> CallToolResult | InputRequiredResult:
    """Asks for the client's roots."""
    answer = (ctx.input_responses or {}).get("client_roots")
    if not isinstance(answer, ListRootsResult):
        return _unfinished({"client_roots": ListRootsRequest()})
    return CallToolResult(content=[text(", ".join(str(root.uri) for root in answer.roots))])


async def input_with_state(ctx: Ctx) -> CallToolResult | InputRequiredResult:
    """Asks for a confirmation, and wants its own note back with the answer."""
    if ctx.request_state != "asked" or answered(ctx, "confirm", "ok") is None:
        return _unfinished({"confirm": asked("Please confirm", "ok", "boolean")}, "asked")
    return CallToolResult(content=[text("state-ok")])


async def input_multiple(ctx: Ctx) -> CallToolResult | InputRequiredResult:
    """Asks three things of different kinds at once."""
    questions: dict[str, InputRequest] = {
        "user_name": asked("What is your name?", "name"),
        "greeting": sampled("Generate a greeting"),
        "client_roots": ListRootsRequest(),
    }
    if not questions.keys() <= (ctx.input_responses or {}).keys():
        return _unfinished(questions, "asked")
    return CallToolResult(content=[text("Everything was answered.")])


async def input_rounds(ctx: Ctx) -> CallToolResult | InputRequiredResult:
    """Asks two things, one after the other."""
    name = answered(ctx, "step1", "name")
    if name is not None:
        return _unfinished({"step2": asked("Step 2: What is your favorite color?", "color")}, f"name: {name}")
    color = answered(ctx, "step2", "color")
    if color is not None:
        return CallToolResult(content=[text(f"{ctx.request_state}, color: {color}")])
    return _unfinished({"step1": asked("Step 1: What is your name?", "name")}, "nothing yet")


async def input_by_capability(ctx: Ctx) -> CallToolResult | InputRequiredResult:
    """Asks only what the client can answer."""
    known = ctx.client_capabilities
    questions: dict[str, InputRequest] = {}
    if known is not None and known.elicitation is not None:
        questions["user_name"] = asked("What is your name?", "name")
    if known is not None and known.sampling is not None:
        questions["greeting"] = sampled("Generate a greeting")
    return _unfinished(questions) if questions else CallToolResult(content=[text("Nobody can be asked.")])


async def streaming_elicitation(ctx: Ctx) -> CallToolResult | InputRequiredResult:
    """Reports progress, so that the answer is a stream, and asks."""
    await ctx.report_progress(1, 2)
    return await input_elicitation(ctx)


def question_tools() -> list[Tool]:
    """The tools, under the names by which the suite calls them."""
    functions: dict[str, Callable[..., Any]] = {
        "test_sampling": sampling,
        "test_elicitation": elicitation,
        "test_elicitation_sep1034_defaults": elicitation_defaults,
        "test_elicitation_sep1330_enums": elicitation_enums,
        "test_streaming_elicitation": streaming_elicitation,
        "test_input_required_result_elicitation": input_elicitation,
        "test_input_required_result_sampling": input_sampling,
        "test_input_required_result_list_roots": input_roots,
        "test_input_required_result_request_state": input_with_state,
        "test_input_required_result_tampered_state": input_with_state,
        "test_input_required_result_multiple_inputs": input_multiple,
        "test_input_required_result_multi_round": input_rounds,
        "test_input_required_result_capabilities": input_by_capability,
    }
    return [Tool.from_function(function, name) for name, function in functions.items()]


async def asking_prompt(ctx: Ctx) -> str | InputRequiredResult:
    """A prompt that asks what it is for."""
    context = answered(ctx, "user_context", "context")
    if context is None:
        return _unfinished({"user_context": asked("What context should the prompt use?", "context")})
    return f"Use this context: {context}"


def question_prompts() -> list[Prompt]:
    """The prompts, under the names by which the suite gets them."""
    return [Prompt.from_function(asking_prompt, "test_input_required_result_prompt")]
