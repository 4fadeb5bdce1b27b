"""Accepting FindAll runs, enrichments and extensions: every check before them, in the order of the answers."""

from __future__ import annotations

from parallel_mcp.simulator.account import Account
from parallel_mcp.simulator.clock import Clock
from parallel_mcp.simulator.config import SimulatorConfig
from parallel_mcp.simulator.entities import Entities
from parallel_mcp.simulator.errors import FINDALL_NOT_FOUND, Invalid, invalid
from parallel_mcp.simulator.findall import FindAll
from parallel_mcp.simulator.findall_bodies import EnrichRequest, ExtendRequest, FindAllRequest
from parallel_mcp.simulator.findall_prices import Enrichment, Search
from parallel_mcp.simulator.generators import GENERATORS, MOST_MATCHES
from parallel_mcp.simulator.identities import Identities
from parallel_mcp.simulator.intake import story_in
from parallel_mcp.simulator.library import Library
from parallel_mcp.simulator.ownership import Owned
from parallel_mcp.simulator.processors import PROCESSORS
from parallel_mcp.simulator.specs import schema_problems
from parallel_mcp.simulator.stories import read_story


class FindAlls:
    """All FindAll runs, and the only way to make one."""

    def __init__(
        self, config: SimulatorConfig, clock: Clock, identities: Identities, library: Library, account: Account
    ) -> None:
        self.kept: Owned[FindAll] = Owned(FINDALL_NOT_FOUND)
        self._default_story = read_story(config.default_story)
        self._clock = clock
        self._identities = identities
        self._library = library
        self._account = account

    def entities(self, entity_type: str, objective: str) -> Entities:
        return Entities(self._library, entity_type, objective)

    def create(self, owner: str, body: FindAllRequest) -> FindAll:
        """Create a FindAll run.

        Raises:
            Invalid: Its story is not understood.
            Refused: 402, the credit does not cover as many matches as it may find.
        """
        story = story_in(body.metadata, self._default_story)
        generator = GENERATORS[body.generator]
        self._account.require([generator.price_mills + generator.match_mills * body.match_limit])
        findall = FindAll(
            self._identities.new("findall_"), body, story, self.entities(body.entity_type, body.objective), self._clock
        )
        self.kept.add(owner, findall.findall_id, findall)
        self._account.reserve(Search(findall, generator.price_mills, generator.match_mills, 0, body.match_limit))
        return findall

    def enrich(self, findall: FindAll, enrichment: EnrichRequest) -> None:
        """Add an enrichment.

        Raises:
            Invalid: The schema or the processor is not accepted, or the run takes no enrichments.
            Refused: 402, the credit does not cover it.
        """
        _require_open(findall, "enriched")
        if enrichment.processor not in PROCESSORS:
            raise invalid(f"unknown processor {enrichment.processor}", "body", "processor")
        problems = schema_problems(enrichment.output_schema.json_schema, "output_schema", "json_schema")
        if problems:
            raise Invalid(problems)
        number, run_mills = len(findall.enrichments), PROCESSORS[enrichment.processor].price_mills
        purchase = Enrichment(findall, number, run_mills, findall.match_limit)
        self._account.require([purchase.price_mills])
        findall.enrich(enrichment)
        self._account.reserve(purchase)

    def extend(self, findall: FindAll, extension: ExtendRequest) -> None:
        """Raise the match limit.

        Raises:
            Invalid: The limit would exceed what is possible, or the run cannot be extended.
            Refused: 402, the credit does not cover it.
        """
        _require_open(findall, "extended")
        additional, before = extension.additional_match_limit, findall.match_limit
        if before + additional > MOST_MATCHES:
            message = f"the match limit would exceed {MOST_MATCHES}"
            raise invalid(message, "body", "additional_match_limit", kind="less_than_equal")
        purchase = Search(findall, 0, findall.generator.match_mills, before, additional)
        self._account.require([purchase.price_mills])
        findall.extend(additional)
        self._account.reserve(purchase)

    def cancel(self, findall: FindAll) -> None:
        """Cancel a run.

        Raises:
            Invalid: It is a preview.
            Refused: 409, it has ended.
        """
        if findall.generator.is_final:
            raise _closed(findall, "cancelled")
        findall.cancel()


def _require_open(findall: FindAll, what: str) -> None:
    """A preview, and a run that was cancelled or failed, stays as it is; which answer they give is not published."""
    if findall.generator.is_final or findall.status in ("cancelling", "cancelled", "failed"):
        raise _closed(findall, what)


def _closed(findall: FindAll, what: str) -> Invalid:
    kind = "preview" if findall.generator.is_final else findall.status
    return invalid(f"a {kind} run cannot be {what}", "path", "findall_id")
