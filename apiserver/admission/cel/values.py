"""Quantities, addresses and URLs in expressions: k8s.io/apiserver `pkg/cel/library`.

What upstream has a type for is a map of one key here, which is the same for equal values.
"""

import ipaddress
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from apiserver.admission.cel.library import Function

Value = dict[str, str]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
QUANTITY = re.compile(
    r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:([KMGTPE]i|[numkMGTPE]?)|[eE]([+-]?[0-9]{1,3}))"
)
SPECIAL = ipaddress.ip_address("255.255.255.255")
LINK_LOCAL_MULTICAST = ipaddress.ip_network("224.0.0.0/24")
IN_A_PATH = "/%:@!$&'()*+,;=~-._"


def _taken(value: Value, kind: str) -> str:
    if kind not in value:
        raise ValueError(f"no such overload: it is no {kind}")
    return value[kind]


def _succeeds(parse: Callable[[str], Value]) -> Callable[[str], bool]:
    def succeeds(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return succeeds


def quantity(text: str) -> Value:
    found = QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(
            "quantities must match the regular expression"
            " '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        )
    number, suffix, exponent = found.groups()
    if suffix in BINARY:
        return _quantity(Fraction(number) * 2 ** BINARY[suffix])
    return _quantity(Fraction(number) * Fraction(10) ** int(exponent or DECIMAL[suffix]))


def _quantity(amount: Fraction) -> Value:
    return {"quantity": str(amount)}


def _amount(value: Value | int) -> Fraction:
    return Fraction(value if isinstance(value, int) else _taken(value, "quantity"))


def _whole(value: Value) -> bool:
    amount = _amount(value)
    return amount.denominator == 1 and -(2**63) <= amount < 2**63


def _integer(value: Value) -> int:
    if not _whole(value):
        raise ValueError("cannot convert value to integer")
    return int(_amount(value))


def _compare(one: Value | int, other: Value | int = 0) -> int:
    difference = _amount(one) - _amount(other)
    return (difference > 0) - (difference < 0)


def ip(text: str) -> Value:
    return {"ip": str(_address(text))}


def _address(text: str) -> Address:
    """`ValueError`; a zone, or an IPv4 address within an IPv6 one, is none."""
    found = ipaddress.ip_address(text)
    if "%" in text or (found.version == 6 and found.ipv4_mapped):
        raise ValueError(f"IP Address {text!r} with a zone or mapped to IPv6 is not allowed")
    return found


def _ip(value: Value | str) -> Address:
    return _address(value if isinstance(value, str) else _taken(value, "ip"))


def _canonical(text: str) -> bool:
    return str(_address(text)) == text


def _link_local_multicast(value: Value) -> bool:
    found = _ip(value)
    if found.version == 4:
        return found in LINK_LOCAL_MULTICAST
    return found.packed[0] == 0xFF and found.packed[1] & 0x0F == 2


def _global_unicast(value: Value) -> bool:
    found = _ip(value)
    special = found.is_unspecified or found.is_loopback or found.is_multicast
    return not (special or found.is_link_local or found == SPECIAL)


def cidr(text: str) -> Value:
    return {"cidr": str(_interface(text))}


def _interface(text: str) -> Interface:
    address, slash, length = text.partition("/")
    if not (slash and re.fullmatch(r"0|[1-9][0-9]*", length)):
        raise ValueError(f"{text!r} is no address with the length of its prefix")
    return ipaddress.ip_interface(f"{_address(address)}/{length}")


def _cidr(value: Value | str) -> Interface:
    return _interface(value if isinstance(value, str) else _taken(value, "cidr"))


def _contains(one: Value, other: Value | str) -> bool:
    network, inner = _cidr(one).network, _cidr(other).network
    return network.version == inner.version and inner.subnet_of(network)  # type: ignore[arg-type]


def url(text: str) -> Value:
    """An absolute one, or an absolute path."""
    if not re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*:)?/", text):
        raise ValueError(f"URL parse error: parse {text!r}: invalid URI for request")
    if not re.fullmatch(r"[^:]*|\[[^]]*\]|(\[[^]]*\]|[^:]*):[0-9]*", _host(text)):
        raise ValueError(f"URL parse error: parse {text!r}: invalid port after host")
    return {"url": text}


def _host(text: str) -> str:
    return urlsplit(text).netloc.rpartition("@")[2]


def _port(value: Value) -> str:
    return _host(_taken(value, "url")).rpartition("]")[2].partition(":")[2]


def _hostname(value: Value) -> str:
    host = _host(_taken(value, "url"))
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _part(take: Callable[[str], Any]) -> Callable[[Value], Any]:
    return lambda value: take(_taken(value, "url"))


def _of_ip(take: Callable[[Address], Any]) -> Callable[[Value], Any]:
    return lambda value: take(_ip(value))


def _made(name: str, test: str, parse: Callable[[str], Value]) -> tuple[Function, Function]:
    return (
        Function(name, ("STRING",), "MAP", parse, member=False),
        Function(test, ("STRING",), "BOOL", _succeeds(parse), member=False),
    )


ONE, TWO, OR_TEXT = ("MAP",), ("MAP", "MAP"), ("MAP", "STRING")
FUNCTIONS = (
    *_made("quantity", "isQuantity", quantity),
    Function("sign", ONE, "INT", _compare),
    Function("isInteger", ONE, "BOOL", _whole),
    Function("asInteger", ONE, "INT", _integer),
    Function("asApproximateFloat", ONE, "DOUBLE", lambda value: float(_amount(value))),
    Function("isLessThan", TWO, "BOOL", lambda one, other: _compare(one, other) < 0),
    Function("isGreaterThan", TWO, "BOOL", lambda one, other: _compare(one, other) > 0),
    Function("compareTo", TWO, "INT", _compare),
    *(
        function
        for second in ("MAP", "INT")
        for function in (
            Function(
                "add",
                ("MAP", second),
                "MAP",
                lambda one, other: _quantity(_amount(one) + _amount(other)),
            ),
            Function(
                "sub",
                ("MAP", second),
                "MAP",
                lambda one, other: _quantity(_amount(one) - _amount(other)),
            ),
        )
    ),
    *_made("ip", "isIP", ip),
    Function("ip.isCanonical", ("STRING",), "BOOL", _canonical, member=False),
    Function("family", ONE, "INT", _of_ip(lambda found: found.version)),
    Function("isUnspecified", ONE, "BOOL", _of_ip(lambda found: found.is_unspecified)),
    Function("isLoopback", ONE, "BOOL", _of_ip(lambda found: found.is_loopback)),
    Function("isLinkLocalUnicast", ONE, "BOOL", _of_ip(lambda found: found.is_link_local)),
    Function("isLinkLocalMulticast", ONE, "BOOL", _link_local_multicast),
    Function("isGlobalUnicast", ONE, "BOOL", _global_unicast),
    *_made("cidr", "isCIDR", cidr),
    Function("ip", ONE, "MAP", lambda value: {"ip": str(_cidr(value).ip)}),
    Function("masked", ONE, "MAP", lambda value: {"cidr": str(_cidr(value).network)}),
    Function("prefixLength", ONE, "INT", lambda value: _cidr(value).network.prefixlen),
    *(
        function
        for parameters in (TWO, OR_TEXT)
        for function in (
            Function(
                "containsIP",
                parameters,
                "BOOL",
                lambda value, other: _ip(other) in _cidr(value).network,
            ),
            Function("containsCIDR", parameters, "BOOL", _contains),
        )
    ),
    *_made("url", "isURL", url),
    Function("getScheme", ONE, "STRING", _part(lambda text: urlsplit(text).scheme)),
    Function("getHost", ONE, "STRING", _part(_host)),
    Function("getHostname", ONE, "STRING", _hostname),
    Function("getPort", ONE, "STRING", _port),
    Function(
        "getEscapedPath",
        ONE,
        "STRING",
        _part(lambda text: quote(urlsplit(text).path, safe=IN_A_PATH)),
    ),
    Function(
        "getQuery",
        ONE,
        "MAP",
        _part(lambda text: parse_qs(urlsplit(text).query, keep_blank_values=True)),
    ),
)
