"""What a request wants to do, in the words that permissions are given in."""

from typing import NamedTuple

from apiserver.api.selectors import Requirement


class Attributes(NamedTuple):
    """On a resource; or, where `resource` is empty, on a `path`, the verb being the method.

    `fields` and `labels` are what the objects must have that a list, watch or deletecollection is
    to meet; none where a selector cannot be read, for which the request is refused later.
    """

    verb: str
    namespace: str = ""
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    path: str = ""
    fields: tuple[Requirement, ...] = ()
    labels: tuple[Requirement, ...] = ()

    def refusal(self, user: str) -> str:
        """Upstream's sentence (`endpoints/handlers/responsewriters/errors.go`)."""
        if not self.resource:
            return f'User "{user}" cannot {self.verb} path "{self.path}"'
        where = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        what = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        return (
            f'User "{user}" cannot {self.verb} resource "{what}" in API group "{self.group}"'
            f" {where}"
        )
