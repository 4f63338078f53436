"""Is it so? Looks at the host and probes the real hook, every few seconds, and tells the status."""

import asyncio

import structlog

from enforcer.host.bypass import Detector
from enforcer.host.canary import Canary, Unavailable
from enforcer.nft.kernel import Kernel, KernelError
from enforcer.telemetry.status import Status

LOOK = 10.0  # seconds
PROBE = 5.0
AGAIN = 300.0  # seconds until a canary that could not be made is tried again

log = structlog.get_logger()


async def watch_bypass(kernel: Kernel, detector: Detector, status: Status) -> None:
    """Tell the status of each way round the filter, and the log of those that are new."""
    known: frozenset[object] = frozenset()
    while True:
        try:
            found = await kernel.inside(detector.findings)
        except (OSError, KernelError) as error:
            log.warning("the host cannot be looked at", error=str(error))
        else:
            status.bypass(found)
            for finding in found:
                if finding not in known:
                    tell = log.error if finding in status.bypassed() else log.warning
                    tell(finding.text, kind=finding.kind, subject=finding.subject)
            known = frozenset(found)
        await asyncio.sleep(LOOK)


async def watch_canary(netns: str, status: Status, *, wanted: bool) -> None:
    """Probe for ever. `wanted`: that it cannot be made is an error in the log, not a warning."""
    while True:
        canary = Canary(netns=netns)
        pause = AGAIN
        try:
            await canary.start()
            pause = PROBE
            await _probe(canary, status)
        except Unavailable as error:
            status.canary(None, str(error))
            tell = log.error if wanted else log.warning
            tell("no canary: the filter is not probed", error=str(error))
        finally:
            await canary.close()
        await asyncio.sleep(pause)


async def _probe(canary: Canary, status: Status) -> None:
    """`Unavailable` when the pair is broken."""
    enforced: bool | None = None
    while True:
        # Before the first commit there is nothing to be probed.
        if status.complete:
            outcome = await canary.probe()
            status.canary(outcome)
            if outcome.enforced is not enforced:
                tell = log.info if outcome.enforced else log.error
                tell("canary", outcome=outcome.text)
            enforced = outcome.enforced
        await asyncio.sleep(PROBE if enforced else PROBE / 5)
