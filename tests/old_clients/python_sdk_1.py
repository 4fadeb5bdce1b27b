"""A user's session with the Python SDK 1.x, run by a Python that has that (`mcp<2`).

The argument says where the server is, as JSON. What was seen is printed as two lines of JSON: the first when a waiting
call was cancelled; the second after a line on stdin.
"""

import json
import sys
from contextlib import AsyncExitStack
from datetime import timedelta

import anyio
from mcp import ClientSession, McpError, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client


async def main(server):
    """Initialize, list, research with progress, cancel, look again."""
    async with AsyncExitStack() as opened:
        if "url" in server:
            transport = streamablehttp_client(server["url"], headers=server["headers"])
        else:
            transport = stdio_client(StdioServerParameters(**server))
        incoming, outgoing, *_ = await opened.enter_async_context(transport)
        session = await opened.enter_async_context(ClientSession(incoming, outgoing))
        await use(session)


async def use(session):
    initialized = await session.initialize()
    tools = (await session.list_tools()).tools
    await session.list_resources()
    templates = (await session.list_resource_templates()).resourceTemplates
    prompts = (await session.list_prompts()).prompts

    run_id = (await create(session, "latency=300 messages=20"))["run_id"]
    progress = []

    async def note(value, total, message):
        progress.append([value, total, message])

    watched = await session.call_tool("watch_progress", {"id": run_id}, progress_callback=note)
    result = await session.call_tool("get_result", {"id": run_id})
    report = (await session.read_resource(f"parallel://runs/{run_id}/report.md")).contents[0]

    endless = (await create(session, "never messages=2"))["run_id"]
    say(
        {
            "server": initialized.serverInfo.name,
            "tools": [tool.name for tool in tools],
            "templates": [template.uriTemplate for template in templates],
            "prompts": [prompt.name for prompt in prompts],
            "progress": progress,
            "watched": watched.structuredContent,
            "result": result.content[0].text,
            "report": report.text,
            "gave_up": await give_up_watching(session, endless),
        }
    )
    await anyio.to_thread.run_sync(sys.stdin.readline)
    say({"status": (await session.call_tool("get_status", {"ids": [endless]})).structuredContent})


async def create(session, story):
    arguments = {"input": "What does grid-scale battery storage cost?", "metadata": {"sim": story}}
    return (await session.call_tool("create_task", arguments)).structuredContent


async def give_up_watching(session, run_id):
    """Wait for a second, and tell the server that nobody waits any more. How the call ended."""
    number = session._request_id  # of the next request; this SDK leaves telling to its user, who does not learn it
    try:
        await session.call_tool("watch_progress", {"id": run_id}, read_timeout_seconds=timedelta(seconds=1))
    except McpError as error:
        params = types.CancelledNotificationParams(requestId=number, reason="gave up")
        await session.send_notification(types.ClientNotification(types.CancelledNotification(params=params)))
        return error.error.message
    return ""


def say(seen):
    sys.stdout.write(json.dumps(seen) + "\n")
    sys.stdout.flush()


anyio.run(main, json.loads(sys.argv[1]))
