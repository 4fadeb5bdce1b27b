"""Search and extract requests of both versions, brought to one form, with the warnings they deserve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parallel_mcp.simulator.bodies import (
    BetaExcerpts,
    BetaExtractRequest,
    BetaSearchRequest,
    ExtractRequest,
    ExtractSettings,
    FetchPolicy,
    FullContentSettings,
    SearchRequest,
    SearchSettings,
    SourcePolicy,
)

DEFAULT_RESULTS = 10
MOST_RESULTS = 20
LEAST_BETA_CHARS = 1000
BETA_MODES = {"agentic": "advanced", "fast": "basic", "one-shot": "basic"}
_LOCATIONS_TEXT = (
    "ae ar at au be bg bo br ca ch cl cn co cr cz de dk ec ee eg es fi fr gb gr gt hk hr hu id ie il in is it jp ke kr "
    "lt lu lv ma mx my ng nl no nz pe ph pk pl pt py ro rs sa se sg si sk th tn tr tw ua us uy ve vn za"
)
LOCATIONS = frozenset(_LOCATIONS_TEXT.split())
DEPRECATED = "This endpoint is deprecated; use the same endpoint under /v1."


@dataclass(frozen=True)
class Search:
    """A search, whichever version it was asked in. `most_chars_*` of None: no limit."""

    queries: Sequence[str]
    mode: str
    policy: SourcePolicy | None
    most_results: int
    most_chars_each: int | None
    most_chars_total: int | None
    session_id: str | None
    has_session: bool
    warnings: Sequence[str]


@dataclass(frozen=True)
class Extract:
    """An extract, whichever version it was asked in."""

    urls: Sequence[str]
    focus: Sequence[str]
    is_live: bool
    with_excerpts: bool
    with_full_content: bool
    most_chars_each: int | None
    most_chars_total: int | None
    most_full_chars: int | None
    session_id: str | None
    has_session: bool
    warnings: Sequence[str]


def v1_search(body: SearchRequest) -> Search:
    settings = body.advanced_settings or SearchSettings()
    return Search(
        queries=_asked(body.search_queries, body.objective),
        mode=body.mode or "advanced",
        policy=settings.source_policy,
        most_results=_most_results(settings.max_results),
        most_chars_each=settings.excerpt_settings.max_chars_per_result if settings.excerpt_settings else None,
        most_chars_total=body.max_chars_total,
        session_id=body.session_id,
        has_session=True,
        warnings=[*_location_warnings(settings.location), *_results_warnings(settings.max_results)],
    )


def beta_search(body: BetaSearchRequest) -> Search:
    """Read a legacy search: modes are mapped, small limits raised to 1,000 (section 6.2)."""
    excerpts = body.excerpts or BetaExcerpts()
    return Search(
        queries=_asked(body.search_queries, body.objective),
        mode=BETA_MODES[body.mode or "one-shot"],
        policy=body.source_policy,
        most_results=_most_results(body.max_results),
        most_chars_each=_raised(excerpts.max_chars_per_result or body.max_chars_per_result),
        most_chars_total=_raised(excerpts.max_chars_total),
        session_id=body.session_id,
        has_session=False,
        warnings=[DEPRECATED, *_location_warnings(body.location), *_results_warnings(body.max_results)],
    )


def v1_extract(body: ExtractRequest) -> Extract:
    settings = body.advanced_settings or ExtractSettings()
    focus = _asked(body.search_queries or [], body.objective)
    return Extract(
        urls=list(dict.fromkeys(body.urls)),
        focus=focus,
        is_live=_is_live(settings.fetch_policy),
        with_excerpts=True,
        with_full_content=settings.full_content is not False,
        most_chars_each=settings.excerpt_settings.max_chars_per_result if settings.excerpt_settings else None,
        most_chars_total=body.max_chars_total,
        most_full_chars=_full_chars(settings.full_content),
        session_id=body.session_id,
        has_session=True,
        warnings=_redundancy_warnings(settings.full_content, focus),
    )


def beta_extract(body: BetaExtractRequest) -> Extract:
    excerpts = body.excerpts if isinstance(body.excerpts, BetaExcerpts) else BetaExcerpts()
    focus = _asked(body.search_queries or [], body.objective)
    return Extract(
        urls=list(dict.fromkeys(body.urls)),
        focus=focus,
        is_live=_is_live(body.fetch_policy),
        with_excerpts=body.excerpts is not False,
        with_full_content=body.full_content is not False,
        most_chars_each=_raised(excerpts.max_chars_per_result),
        most_chars_total=_raised(excerpts.max_chars_total),
        most_full_chars=_full_chars(body.full_content),
        session_id=body.session_id,
        has_session=False,
        warnings=[DEPRECATED, *_redundancy_warnings(body.full_content, focus)],
    )


def _asked(queries: Sequence[str] | None, objective: str | None) -> list[str]:
    return [text for text in (*(queries or []), objective or "") if text.strip()]


def _most_results(asked: int | None) -> int:
    return min(asked or DEFAULT_RESULTS, MOST_RESULTS)


def _results_warnings(asked: int | None) -> list[str]:
    return [f"max_results was lowered to {MOST_RESULTS}."] if asked and asked > MOST_RESULTS else []


def _location_warnings(location: str | None) -> list[str]:
    return [f'Location "{location}" is not supported and was ignored.'] if location not in (None, *LOCATIONS) else []


def _redundancy_warnings(full_content: FullContentSettings | bool, focus: Sequence[str]) -> list[str]:
    if full_content is False or focus:
        return []
    return ["Without objective and search_queries, excerpts and full_content hold the same text."]


def _is_live(policy: FetchPolicy | None) -> bool:
    return policy is not None and policy.max_age_seconds is not None


def _full_chars(full_content: FullContentSettings | bool) -> int | None:
    return full_content.max_chars_per_result if isinstance(full_content, FullContentSettings) else None


def _raised(limit: int | None) -> int | None:
    return None if limit is None else max(limit, LEAST_BETA_CHARS)
