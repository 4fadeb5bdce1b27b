"""`/v1/search`, `/v1/extract` and their legacy variants (checklist 32 to 34)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio
from starlette.requests import Request
from starlette.responses import Response

from parallel_mcp.simulator.account import Quota
from parallel_mcp.simulator.answering import Answering, while_connected
from parallel_mcp.simulator.bodies import (
    BetaExtractRequest,
    BetaSearchRequest,
    ExtractRequest,
    SearchRequest,
    read_body,
)
from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.corpus import Page, address
from parallel_mcp.simulator.excerpts import focused_excerpts, within, within_total
from parallel_mcp.simulator.identities import Identities
from parallel_mcp.simulator.library import Library
from parallel_mcp.simulator.payloads import JsonObject
from parallel_mcp.simulator.web_requests import Extract, Search, beta_extract, beta_search, v1_extract, v1_search

SEARCH_LATENCY_S = {"turbo": 0.2, "fast": 0.7, "basic": 1.0, "advanced": 3.0}
CACHED_LATENCY_S = (1.0, 3.0)
LIVE_LATENCY_S = (3.0, 20.0)
INCLUDED_RESULTS = 10
ERROR_HOST = "errors.example"


@dataclass(frozen=True)
class WebRoutes:
    """The endpoints of search and extract."""

    answering: Answering
    clock: Clock
    identities: Identities
    library: Library
    searches: Quota
    extracts: Quota

    async def search(self, request: Request) -> Response:
        self.searches.admit()
        body, _ = read_body(await request.body(), SearchRequest)
        return await self._answer_search(request, v1_search(body))

    async def beta_search(self, request: Request) -> Response:
        self.searches.admit()
        body, _ = read_body(await request.body(), BetaSearchRequest)
        return await self._answer_search(request, beta_search(body))

    async def extract(self, request: Request) -> Response:
        self.extracts.admit()
        body, _ = read_body(await request.body(), ExtractRequest)
        return await self._answer_extract(request, v1_extract(body))

    async def beta_extract(self, request: Request) -> Response:
        self.extracts.admit()
        body, _ = read_body(await request.body(), BetaExtractRequest)
        return await self._answer_extract(request, beta_extract(body))

    async def _answer_search(self, request: Request, search: Search) -> Response:
        await self._take(SEARCH_LATENCY_S[search.mode], request)
        findings = self.library.find(search.queries, search.policy)[: search.most_results]
        pages = [finding.page for finding in findings]
        results = self._results(pages, "\n".join(search.queries), search.most_chars_each, search.most_chars_total)
        answer: JsonObject = {
            "search_id": self.identities.new("search_"),
            "results": results,
            "warnings": _warning_objects(search.warnings),
            "usage": _search_usage(len(results)),
        }
        return self.answering.json(self._with_session(answer, search.session_id, has_one=search.has_session))

    async def _answer_extract(self, request: Request, extract: Extract) -> Response:
        await self._take(self._extract_latency_s(extract), request)
        found = {url: self.library.corpus.by_address.get(address(url)) for url in extract.urls if _is_web_address(url)}
        pages = {url: page for url, page in found.items() if page is not None}
        answer: JsonObject = {
            "extract_id": self.identities.new("extract_"),
            "results": self._extracted(pages, extract),
            "errors": [self._fetch_error(url) for url in extract.urls if url not in pages],
            "warnings": _warning_objects(extract.warnings),
            "usage": [{"name": "sku_extract_excerpts", "count": len(extract.urls)}],
        }
        return self.answering.json(self._with_session(answer, extract.session_id, has_one=extract.has_session))

    def _results(
        self, pages: Sequence[Page], focus: str, most_chars_each: int | None, most_chars_total: int | None
    ) -> list[JsonObject]:
        """Write pages as results; without focus the whole page is the excerpt."""
        chosen = [focused_excerpts(self.library, page, focus) if focus else [page.markdown] for page in pages]
        excerpts = within_total([within(parts, most_chars_each) for parts in chosen], most_chars_total)
        return [_result(page, parts) for page, parts in zip(pages, excerpts, strict=True)]

    def _extracted(self, pages: dict[str, Page], extract: Extract) -> list[JsonObject]:
        focus = "\n".join(extract.focus)
        results = self._results(list(pages.values()), focus, extract.most_chars_each, extract.most_chars_total)
        return [
            result
            | {
                "url": url,
                "excerpts": result["excerpts"] if extract.with_excerpts else None,
                "full_content": page.markdown[: extract.most_full_chars] if extract.with_full_content else None,
            }
            for (url, page), result in zip(pages.items(), results, strict=True)
        ]

    def _fetch_error(self, url: str) -> JsonObject:
        """Say why a URL has no content: not a web address, no such site, no such page.

        `https://errors.example/<status>` answers with that status, for tests.
        """
        parts = urlsplit(url) if _is_web_address(url) else None
        if parts is None:
            return _extract_error(url, "invalid_url", None, None)
        code = parts.path.strip("/")
        if parts.hostname == ERROR_HOST and code.isdecimal() and 400 <= int(code) <= 599:
            return _extract_error(url, "fetch_error", int(code), f"Error fetching content from {url}")
        if parts.hostname in self.library.corpus.hosts:
            return _extract_error(url, "fetch_error", 404, f"Error fetching content from {url}")
        return _extract_error(url, "fetch_error", None, None)

    def _extract_latency_s(self, extract: Extract) -> float:
        shortest, longest = LIVE_LATENCY_S if extract.is_live else CACHED_LATENCY_S
        return math.exp(self.identities.dice("extract latency").uniform(math.log(shortest), math.log(longest)))

    async def _take(self, seconds: float, request: Request) -> None:
        """Let simulated seconds pass; a caller who hangs up is not waited for."""
        await while_connected(request, lambda: anyio.sleep(self.clock.real_seconds(seconds)))

    def _with_session(self, answer: JsonObject, session_id: str | None, *, has_one: bool) -> JsonObject:
        return answer | {"session_id": session_id or self.identities.new("session_")} if has_one else answer


def _result(page: Page, excerpts: list[str]) -> JsonObject:
    return {"url": page.url, "title": page.title, "publish_date": page.publish_date, "excerpts": excerpts}


def _extract_error(url: str, error_type: str, status: int | None, content: str | None) -> JsonObject:
    return {"url": url, "error_type": error_type, "http_status_code": status, "content": content}


def _search_usage(results: int) -> list[JsonObject]:
    additional = max(0, results - INCLUDED_RESULTS)
    usage: list[JsonObject] = [{"name": "sku_search", "count": 1}]
    return [*usage, {"name": "sku_search_additional_results", "count": additional}] if additional else usage


def _warning_objects(messages: Sequence[str]) -> list[JsonObject] | None:
    return [{"type": "warning", "message": message, "detail": None} for message in messages] or None


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
