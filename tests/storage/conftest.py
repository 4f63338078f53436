"""A fresh store of each engine."""

from collections.abc import AsyncIterator

import pytest

from storage import Store
from storage.connect import connect
from tests.storage.engines import ENGINES, address


@pytest.fixture(params=ENGINES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """An empty store of each engine."""
    opened = await connect(**address(request, request.param))
    yield opened
    await opened.close()
