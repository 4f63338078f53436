"""Where the enforcer is asked: the value of `--metrics-bind-address`. Pure."""

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

DEFAULT = "127.0.0.1:10260"
OFF = ("", "0")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address of this host, without brackets, and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Endpoint | None":
        """`127.0.0.1:10260` or `[::1]:10260`; None where it is off. `ValueError`.

        Brackets are taken around an IPv4 address too, so that a manifest need not know which
        family a node's address is of.
        """
        if text in OFF:
            return None
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        try:
            address = ip_address(host)
        except ValueError:
            address = None
        if not colon or address is None or (isinstance(address, IPv6Address) and not bracketed):
            raise ValueError(
                f"{text!r} is no address and port, such as {DEFAULT} or [::1]:10260; 0 is off"
            )
        if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r}: the port must be a number from 1 to 65535")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """How this host reaches it."""
        address = ip_address(self.host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
            return f"http://{Endpoint(host, self.port)}"
        return f"http://{self}"


def same_host(client: str, server: str) -> bool:
    """Whether a connection to our address `server` is from this host, or a pod in its network.

    The kernel takes no packet from outside with a loopback address, nor with one of its own, as
    its source.
    """
    address = ip_address(client)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return client == server or (mapped or address).is_loopback
