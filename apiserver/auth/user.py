"""Who a request comes from, as every part of the server and the cluster's reviews name them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

NOTHING: Mapping[str, tuple[str, ...]] = MappingProxyType({})
ALL_AUTHENTICATED = "system:authenticated"
ALL_UNAUTHENTICATED = "system:unauthenticated"
MASTERS = "system:masters"


class User(NamedTuple):
    """`extra` is what authenticators add, by lower-case key."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = NOTHING

    def details(self) -> dict[str, Any]:
        """What there is to say beside the name, as the cluster's reviews and the audit write it."""
        extra = {key: list(values) for key, values in sorted(self.extra.items())}
        found = {"uid": self.uid, "groups": list(self.groups), "extra": extra}
        return {key: value for key, value in found.items() if value}

    def authenticated(self) -> "User":
        """The same, in the group of all who are known (`group/authenticated_group_adder.go`)."""
        if self.name == ANONYMOUS.name or {ALL_AUTHENTICATED, ALL_UNAUTHENTICATED} & {*self.groups}:
            return self
        return self._replace(groups=(*self.groups, ALL_AUTHENTICATED))


ANONYMOUS = User("system:anonymous", groups=(ALL_UNAUTHENTICATED,))
