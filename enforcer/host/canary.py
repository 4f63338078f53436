"""A pair of tiny pods that nobody runs, probed through the real hook: is this host filtering?

`objects` are their namespace, pods and policy, as the API might have told of them. They pass
through the same compiler and the same transaction as all others, so a probe shows what the host's
packet filter does with packets. The caller probes every few seconds, and is ready while
`Outcome.enforced`.

Both pods are network namespaces without a name, each with one end of a veth; the other ends are in
the filtered namespace (`pair`). Only file descriptors hold them, so they go with the process,
however it ends. They are made with rtnetlink alone: no sysctl of the host is changed, no process is
started. It needs CAP_NET_ADMIN, and CAP_SYS_ADMIN for the namespaces.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from enforcer.compile import Compiler
from enforcer.host.pair import Pair, Unavailable
from policy import (
    Isolation,
    Namespace,
    Operator,
    Peer,
    Pod,
    Policy,
    Port,
    Protocol,
    Requirement,
    Rule,
    Selector,
)

__all__ = [
    "DEFAULT",
    "NAMESPACE",
    "Addresses",
    "Canary",
    "Outcome",
    "Passed",
    "Unavailable",
    "is_in",
    "objects",
    "put",
]

NAMESPACE = "netpol.canary"  # a namespace of the API has no dot in its name
ROLE = "role"
ALLOWED, DENIED = 4877, 4878  # UDP ports of the target
PATIENCE = 0.5  # seconds for a datagram to cross two veths, on a host that is very busy

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Of the source and of the target, IPv4 first; nothing else on any node may have them.

    IPv4 link-local ones are forwarded by Linux and by no router. IPv6 link-local ones are not
    forwarded, so these are unique local ones (RFC 4193): `fd`, and "netpol" in ASCII.
    """

    source: tuple[str, str] = ("169.254.77.2", "fd6e:6574:706f:6c00::2")
    target: tuple[str, str] = ("169.254.77.3", "fd6e:6574:706f:6c00::3")


DEFAULT = Addresses()


def objects(node: str, addresses: Addresses = DEFAULT) -> tuple[Namespace, tuple[Pod, ...], Policy]:
    """What the compiler has to know: one isolated pod that one other reaches on one UDP port."""
    target, source = ({ROLE: role} for role in ("target", "source"))
    pods = (
        Pod(NAMESPACE, "source", source, addresses.source, node),
        Pod(NAMESPACE, "target", target, addresses.target, node),
    )
    rule = Rule((Peer(pods=_selector(source)),), (Port(Protocol.UDP, ALLOWED, ALLOWED),))
    return (
        Namespace(NAMESPACE, isolation=Isolation.ON),
        pods,
        Policy(NAMESPACE, "canary", _selector(target), (rule,)),
    )


def put(compiler: Compiler, node: str, addresses: Addresses = DEFAULT) -> None:
    """Tell the compiler of the canary.

    Its namespace is left unknown: so it is isolated, and no policy's selector matches it.
    """
    _, pods, policy = objects(node, addresses)
    for pod in pods:
        compiler.put_pod((pod.namespace, pod.name), pod)
    compiler.put_policy((policy.namespace, policy.name), policy)


def is_in(elements: Mapping[str, Mapping[str, str]], addresses: Addresses = DEFAULT) -> bool:
    """Whether a table with these elements has a canary."""
    return addresses.target[0] in elements.get("pods4", {})


def _selector(labels: dict[str, str]) -> Selector:
    return Selector(tuple(Requirement(key, Operator.IN, (value,)) for key, value in labels.items()))


@dataclass(frozen=True, slots=True)
class Passed:
    """What arrived in one family, 4 or 6, of what the policy allows and of what it denies."""

    family: int
    allowed: bool
    denied: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """One probe of every family that the host forwards."""

    families: tuple[Passed, ...]
    milliseconds: float

    @property
    def allowed_passed(self) -> bool:
        return all(passed.allowed for passed in self.families)

    @property
    def denied_passed(self) -> bool:
        return any(passed.denied for passed in self.families)

    @property
    def enforced(self) -> bool:
        return self.allowed_passed and not self.denied_passed

    @property
    def text(self) -> str:
        """One line for people. What is denied and passes is the worse of the two."""
        for what, found in (
            ("denied traffic passes", [p.family for p in self.families if p.denied]),
            ("allowed traffic does not pass", [p.family for p in self.families if not p.allowed]),
        ):
            if found:
                return f"{what}: {', '.join(f'IPv{family}' for family in found)}"
        return "allowed traffic passes, denied traffic does not"


class Canary:
    """`netns` is a name of `ip netns`, a path, or empty for the process's own namespace."""

    def __init__(self, *, netns: str = "", addresses: Addresses = DEFAULT) -> None:
        # A thread of its own, because it changes namespaces and stays in the source's.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="canary")
        self._pair = Pair(
            netns=netns,
            source=addresses.source,
            target=addresses.target,
            allowed=ALLOWED,
            denied=DENIED,
        )
        self._closed = False

    async def start(self) -> None:
        """`Unavailable` where this host does not let it; nothing is left behind then."""
        await self._call(self._pair.open)

    async def probe(self) -> Outcome:
        """A datagram to either port in every family; takes `PATIENCE` where nothing arrives.

        `Unavailable` where the pair is broken, as when its devices were removed: make a new one.
        """
        return await self._call(self._probe)

    async def close(self) -> None:
        """Remove everything, once and for all. Without it everything goes with the process.

        `Unavailable` or `OSError` where its devices are not its own any more; the rest is gone.
        """
        if not self._closed:
            self._closed = True
            try:
                await self._call(self._pair.close)
            finally:
                self._thread.shutdown()

    def _probe(self) -> Outcome:
        begun = time.monotonic()
        arrived = self._pair.probe(PATIENCE)
        passed = tuple(Passed(family, *found) for family, found in arrived.items())
        return Outcome(passed, round((time.monotonic() - begun) * 1000, 3))

    async def _call(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)
