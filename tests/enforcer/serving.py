"""What an enforcer serves, as a process of its own for other network namespaces: one argument, the
address."""

import asyncio
import sys

from enforcer.endpoint import Endpoint
from enforcer.metrics import Metrics
from enforcer.routes import application
from enforcer.serve import bind, serve
from tests.enforcer.reporting import BRIDGE, Clock, enforcing


def main() -> None:
    endpoint = Endpoint.parse(sys.argv[1])
    assert endpoint is not None
    status = enforcing(Clock())
    status.bypass([BRIDGE])
    asyncio.run(serve(application(status, Metrics(status)), bind(endpoint)))


if __name__ == "__main__":
    main()
