"""The ASGI application: who may reach the MCP endpoint, and what is refused before MCP runs."""

from contextlib import suppress

from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from parallel_mcp import __version__
from parallel_mcp.errors import SettingsError
from parallel_mcp.server import ParallelServer
from parallel_mcp.settings import Settings, env_name, is_loopback
from parallel_mcp.tools.call import key_in

MCP_PATH = "/mcp"
HEALTH_PATH = "/health"
MAX_BODY_BYTES = 256 << 10

_LOOPBACK_HOSTS = ["127.0.0.1", "localhost", "[::1]"]


def http_app(server: ParallelServer, settings: Settings) -> ASGIApp:
    """Streamable HTTP at `/mcp` and `GET /health`.

    Stateless: any replica answers any request. Answers are event streams, never plain JSON, which would drop progress
    and the cancelling of calls whose caller has gone.

    Raises:
        SettingsError: It would be reachable from elsewhere without saying under which names, or with our own key.
    """
    check_exposure(settings)
    server.custom_route(HEALTH_PATH, methods=["GET"])(_health)
    app = server.streamable_http_app(
        streamable_http_path=MCP_PATH,
        stateless_http=True,
        max_request_body_size=MAX_BODY_BYTES,
        transport_security=_transport_security(settings),
    )
    return KeyGate(app, settings)


def check_exposure(settings: Settings) -> None:
    """Refuse settings under which strangers could use the server in ways its operator did not ask for.

    Raises:
        SettingsError: Saying which, and what to set.
    """
    if settings.auth == "local" and settings.api_key is None:
        raise SettingsError(f"{env_name('auth')}=local uses the server's own key, and {env_name('api_key')} is not set")
    if not is_loopback(settings.host) and not settings.allowed_hosts:
        raise SettingsError(
            f"it would bind {settings.host}, which others can reach, without knowing its own name, so any web page "
            f"could talk to it. Set {env_name('allowed_hosts')} to the host names under which clients reach it"
        )
    others_reach = [host for host in (settings.host, *settings.allowed_hosts) if not is_loopback(_name_in(host))]
    if settings.auth == "local" and others_reach:  # a name of a server on loopback is that of a proxy before it
        raise SettingsError(
            f"others could reach it as {others_reach[0]}, and it would spend its own API key on them. "
            f"{env_name('auth')}=local is for loopback only; use {env_name('auth')}=caller"
        )


def _name_in(host: str) -> str:
    """The name or address in a host that may be given with a port."""
    name, separator, port = host.lower().rpartition(":")
    return name if separator and port.isdecimal() and (":" not in name or name.endswith("]")) else host.lower()


class KeyGate:
    """Lets only requests with a usable key through to MCP; the key is read again, from the request, by each call."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._own_key_serves = settings.auth == "local" and settings.api_key is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in place of the application, or pass the request on."""
        if not self._may_pass(scope):
            await _unauthorized()(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == MCP_PATH and scope["method"] != "POST":
            # Without sessions there is nothing to listen to or to delete; an open GET would only hold a connection.
            await Response("Method Not Allowed", 405, {"Allow": "POST"})(scope, receive, send)
        else:
            with suppress(ClientDisconnect):  # left before its request was read: nobody to answer, nothing to report
                await self._app(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["path"] == HEALTH_PATH or self._own_key_serves:
            return True
        return key_in(Headers(scope=scope)) is not None


def _unauthorized() -> Response:
    message = (
        "Send your Parallel API key with each request, as `x-api-key: <key>` or `Authorization: Bearer <key>`. "
        "Keys are made at https://platform.parallel.ai."
    )
    body = {"error": "missing_api_key", "message": message}
    return JSONResponse(body, status_code=401, headers={"WWW-Authenticate": 'Bearer realm="parallel-mcp"'})


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok", "version": __version__})


def _transport_security(settings: Settings) -> TransportSecuritySettings:
    own = f"[{settings.host}]" if ":" in settings.host else settings.host
    hosts = [*([*_LOOPBACK_HOSTS, own] if is_loopback(settings.host) else []), *settings.allowed_hosts]
    return TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=[form for host in hosts for form in (host, f"{host}:*")],
        allowed_origins=[
            form
            for host in hosts
            for scheme in ("http", "https")
            for form in (f"{scheme}://{host}", f"{scheme}://{host}:*")
        ],
    )
