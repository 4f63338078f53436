"""Is it so? Looks at the host and probes the real hook, every few seconds, and tells the status."""

import asyncio
import contextlib
import math
import time

import structlog

from enforcer.host.bypass import Detector
from enforcer.host.canary import Canary, Unavailable
from enforcer.host.finding import Finding, Severity
from enforcer.host.tags import Tags
from enforcer.nft.kernel import Kernel, KernelError
from enforcer.telemetry.status import Status

LOOK = 10.0  # seconds
PROBE = 5.0
AGAIN = 300.0  # seconds until a canary that could not be made is tried again

log = structlog.get_logger()


class Ways:
    """All ways round the filter, of those who look for them: told the status, and new ones the log.

    For one thread.
    """

    def __init__(self, status: Status) -> None:
        self._status = status
        self._found: dict[str, list[Finding]] = {}

    def tell(self, who: str, found: list[Finding]) -> None:
        """All that one of them finds now."""
        known = self._found.get(who, [])
        self._found[who] = found
        self._status.bypass(sorted(item for items in self._found.values() for item in items))
        for finding in found:
            if finding not in known:
                tell = log.error if finding.severity is Severity.BYPASSED else log.warning
                tell(finding.text, kind=finding.kind, subject=finding.subject)


async def watch_bypass(kernel: Kernel, detector: Detector, ways: Ways) -> None:
    """Look for ways round the filter for ever."""
    while True:
        try:
            ways.tell("bypass", await kernel.inside(detector.findings))
        except (OSError, KernelError) as error:
            log.warning("the host cannot be looked at", error=str(error))
        await asyncio.sleep(LOOK)


async def watch_tags(kernel: Kernel, tags: Tags, ways: Ways) -> None:
    """Keep frames with VLAN tags of pods out of bridges, of each port once it is announced."""
    looked = -math.inf
    while True:
        begun = time.monotonic()
        whole = begun >= looked + LOOK
        try:
            await kernel.inside(tags.open)
            kept = await kernel.inside(tags.keep, whole=whole)
        except (OSError, KernelError) as error:
            log.warning("links cannot be followed", error=str(error))
            looked = -math.inf
            await asyncio.sleep(LOOK)
            continue
        looked = begun if whole else looked
        ways.tell("tags", kept.findings)
        if kept.mended:
            log.error("somebody changed the table against tagged frames; it is as it should be")
        if kept.findings:
            # What links do does not change that.
            looked = -math.inf
            await asyncio.sleep(LOOK)
        else:
            await _readable(tags.fileno(), looked + LOOK - time.monotonic())


async def _readable(number: int, seconds: float) -> None:
    """Until there is something to read, or the seconds are over."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(number, ready.set)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await ready.wait()
    finally:
        loop.remove_reader(number)


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
            await _close(canary)
        await asyncio.sleep(pause)


async def _close(canary: Canary) -> None:
    """What is in its way, such as a device of another kind with its name, is told at the start."""
    try:
        await canary.close()
    except (OSError, Unavailable) as error:
        log.warning("the canary has left something behind", error=str(error))


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
