"""Who a request comes from, as every part of the server and the cluster's reviews name them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

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

    def authenticated(self) -> "User":
        """The same, in the group of all who are known (`group/authenticated_group_adder.go`)."""
        if self.name == ANONYMOUS.name or {ALL_AUTHENTICATED, ALL_UNAUTHENTICATED} & {*self.groups}:
            return self
        return self._replace(groups=(*self.groups, ALL_AUTHENTICATED))


ANONYMOUS = User("system:anonymous", groups=(ALL_UNAUTHENTICATED,))
