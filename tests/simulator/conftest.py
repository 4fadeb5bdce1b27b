from collections.abc import AsyncGenerator

import pytest

from tests.simulator.calls import Api, connected


@pytest.fixture
async def api() -> AsyncGenerator[Api]:
    async with connected() as api:
        yield api
