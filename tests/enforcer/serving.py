"""What an enforcer serves, as a process of its own for other network namespaces: one argument, the
address."""

import asyncio
import sys

from enforcer.telemetry.endpoint import Endpoint
from enforcer.telemetry.metrics import Metrics
from enforcer.telemetry.routes import application
from enforcer.telemetry.serve import bind, serve
from tests.enforcer.reporting import BRIDGE, Clock, enforcing


def main() -> None:
    endpoint = Endpoint.parse(sys.argv[1])
    assert endpoint is not None
    status = enforcing(Clock())
    status.bypass([BRIDGE])
    asyncio.run(serve(application(status, Metrics(status)), bind(endpoint)))


if __name__ == "__main__":
    main()
