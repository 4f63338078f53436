#!/usr/bin/python3 -IS
"""netpol-cni: hold a pod's start until the packet filter has its rules.

A chained CNI plugin: it stands in a network's list after the plugin that gives a pod its addresses,
tells the enforcer of the node about them, and lets ADD go on when the enforcer says that the kernel
has the pod's rules. The runtime runs this file alone, on a host that may have nothing but Python
3.8: nothing is imported but the standard library. docs/cni.md says how to install it.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import sys
import time
from typing import Any, Mapping, NamedTuple  # noqa: UP035 - what 3.8 can subscript

SOCKET = "/run/netpol/wait.sock"
TIMEOUT = 10.0  # seconds; the kubelet gives a sandbox four minutes
LONGEST = 120.0
PAUSES = (0.05, 0.5)  # seconds between attempts: the first, and the longest
RELEASE = 2.0  # seconds that a DEL may take
PROTOCOL = 1
ANSWER = 64 * 1024  # bytes
PATH = 107  # bytes of the path of a socket, unix(7)

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SINCE = {"CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}
NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "STATUS": (),
    "GC": (),
}
OURS = frozenset({"socket", "timeout", "onTimeout", "excludeNamespaces"})
# What a runtime puts into the configuration of every plugin, or may.
COMMON = frozenset(
    {"cniVersion", "name", "type", "prevResult", "args", "capabilities", "runtimeConfig"}
)
ARGUMENTS = frozenset(
    {
        "IgnoreUnknown",
        "K8S_POD_NAMESPACE",
        "K8S_POD_NAME",
        "K8S_POD_UID",
        "K8S_POD_INFRA_CONTAINER_ID",
    }
)
# Answers of the enforcer after which another attempt may bring another.
PASSING = frozenset({"InternalError", "TooManyRequests", "UnsupportedVersion"})

# CNI's well-known error codes; from 100 on they are the plugin's own.
INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
INVALID_ENVIRONMENT = 4
DECODING_FAILURE = 6
INVALID_CONFIGURATION = 7
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
REFUSED = 100


class Failure(Exception):
    """What CNI calls an error: a code, a message, and details."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.details = details


class Late(Exception):
    """The time is over; with what was in the way."""


class Denied(Exception):
    """An answer of the enforcer that says no."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Config(NamedTuple):
    """The plugin's own keys. `timeout` is in seconds; `allow`: what to do when it is over."""

    socket: str = SOCKET
    timeout: float = TIMEOUT
    allow: bool = False
    excluded: tuple[str, ...] = ()


def main() -> None:
    """The command: what a runtime runs, and `--install FOLDER`."""
    words = sys.argv[1:]
    if len(words) == 2 and words[0] == "--install":
        install(words[1])
    elif words or "CNI_COMMAND" not in os.environ:
        sys.stderr.write(
            "netpol-cni: a container runtime runs this, by CNI "
            + ", ".join(VERSIONS)
            + ".\nusage: netpol-cni --install FOLDER   put it there, for example /opt/cni/bin\n"
        )
        sys.exit(2)
    else:
        sys.exit(command(os.environ, sys.stdin.buffer.read()))


def install(folder: str) -> None:
    """Copy this file; whoever runs it meanwhile has the old one or the new one."""
    with open(os.path.abspath(__file__), "rb") as source:
        content = source.read()
    target = os.path.join(folder, "netpol-cni")
    part = os.path.join(folder, f".netpol-cni.{os.getpid()}")
    try:
        with open(part, "wb") as copy:
            copy.write(content)
            os.fchmod(copy.fileno(), 0o755)
            os.fsync(copy.fileno())
        os.replace(part, target)
    except OSError as error:
        sys.stderr.write(f"netpol-cni: {target}: {error}\n")
        sys.exit(1)
    sys.stdout.write(f"{target}\n")


def command(environ: Mapping[str, str], text: bytes) -> int:
    """Do what `CNI_COMMAND` says with the configuration; the exit status."""
    version = VERSIONS[-1]
    try:
        verb = environ["CNI_COMMAND"]
        if verb == "VERSION":
            asked = _version(text)
            write({"cniVersion": asked or version, "supportedVersions": list(VERSIONS)})
            return 0
        if verb not in NEEDED:
            raise Failure(INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {verb}")
        given = decode(text)
        version = check_version(verb, given)
        result = run(verb, environ, given)
    except Failure as failure:
        said = {"cniVersion": version, "code": failure.code, "msg": str(failure)}
        write({**said, "details": failure.details} if failure.details else said)
        return 1
    if result is not None:
        write(result)
    return 0


def run(verb: str, environ: Mapping[str, str], given: dict[str, Any]) -> dict[str, Any] | None:
    """The result to print, if the command has one. `Failure`."""
    missing = [name for name in NEEDED[verb] if not environ.get(name)]
    if missing:
        raise Failure(INVALID_ENVIRONMENT, f"missing in the environment: {', '.join(missing)}")
    if verb == "DEL":
        delete(environ, given)
        return None
    config = configuration(given)
    if verb == "STATUS":
        status(config)
    elif verb != "GC":  # it keeps nothing that could be left over
        hold(config, environ, given)
    return dict(given["prevResult"], cniVersion=result_version(given)) if verb == "ADD" else None


def hold(config: Config, environ: Mapping[str, str], given: dict[str, Any]) -> None:
    """Wait for the pod's rules, or for as long as the configuration allows. `Failure`."""
    ips = addresses(previous(given))
    pod = pod_of(environ.get("CNI_ARGS", ""))
    if pod is None or pod["namespace"] in config.excluded:
        return
    name = "{namespace}/{name}".format(**pod)
    if not ips:
        warn(f"{name} has no address to wait for")
        return
    try:
        ask(config, request("claim", pod, environ, ips), config.timeout)
    except Late as late:
        message = f"pod {name} has no rules in the packet filter after {config.timeout:g} seconds"
        if not config.allow:
            raise Failure(TRY_AGAIN_LATER, message, str(late)) from None
        warn(f"{message}; it starts all the same: {late}")
    except Denied as denied:
        raise Failure(REFUSED, f"the enforcer refuses pod {name}: {denied}") from None


def delete(environ: Mapping[str, str], given: dict[str, Any]) -> None:
    """Say that the addresses are free; a pod's end never fails by what is said about it.

    An enforcer that is away has forgotten all claims, so nothing is lost.
    """
    try:
        config = configuration(given)
        pod = pod_of(environ.get("CNI_ARGS", ""))
        if pod is None or pod["namespace"] in config.excluded:
            return
        try:
            ips = addresses(previous(given))
        except Failure:
            ips = []  # not every runtime has the result, and none has that of an ADD that failed
        wanted = request("release", pod, environ, ips)
        ask(config, wanted, RELEASE, patient=False)
    except (Failure, Late, Denied) as error:
        warn(f"not released: {error}")


def status(config: Config) -> None:
    """`Failure` when pods could not be added. A restart of the enforcer is waited for."""
    try:
        ask(config, {"operation": "status"}, config.timeout)
    except (Late, Denied) as error:
        if not config.allow:
            message = f"no enforcer answers on {config.socket}"
            raise Failure(NOT_AVAILABLE, message, str(error)) from None


# -- What is given ---------------------------------------------------------------------------------


def decode(text: bytes) -> dict[str, Any]:
    try:
        given = json.loads(text.decode("utf-8"))
    except ValueError as error:
        raise Failure(DECODING_FAILURE, "the configuration is no JSON", str(error)) from None
    if not isinstance(given, dict):
        raise Failure(DECODING_FAILURE, "the configuration is no JSON object")
    return given


def check_version(verb: str, given: dict[str, Any]) -> str:
    version = given.get("cniVersion", "0.1.0")
    if version not in VERSIONS:
        supported = ", ".join(VERSIONS)
        raise Failure(
            INCOMPATIBLE_VERSION,
            f"cniVersion {version!r} is not supported",
            f"supported are {supported}",
        )
    if VERSIONS.index(version) < VERSIONS.index(SINCE.get(verb, VERSIONS[0])):
        raise Failure(INCOMPATIBLE_VERSION, f"cniVersion {version} has no {verb}")
    return str(version)


def configuration(given: dict[str, Any]) -> Config:
    """Every key is known and has a value that can be meant. `Failure`."""
    for key, value in given.items():
        # The specification keeps this prefix for itself, and adds keys of it as it goes on.
        if key not in OURS | COMMON and not key.startswith("cni.dev/"):
            said = json.dumps(value)[:200]
            raise Failure(UNSUPPORTED_FIELD, f"netpol-cni has no key {key!r} (given: {said})")
    path = given.get("socket", SOCKET)
    if not isinstance(path, str) or not path.startswith("/") or len(os.fsencode(path)) > PATH:
        raise wrong("socket", path, f"an absolute path of at most {PATH} bytes")
    timeout = given.get("timeout", TIMEOUT)
    number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not number or not 0 < timeout <= LONGEST:
        raise wrong("timeout", timeout, f"a number of seconds, up to {LONGEST:g}")
    policy = given.get("onTimeout", "fail")
    if policy not in ("fail", "allow"):
        raise wrong("onTimeout", policy, '"fail" or "allow"')
    excluded = given.get("excludeNamespaces", [])
    if not isinstance(excluded, list) or not all(isinstance(item, str) for item in excluded):
        raise wrong("excludeNamespaces", excluded, "a list of names")
    return Config(path, float(timeout), policy == "allow", tuple(excluded))


def wrong(key: str, value: Any, wanted: str) -> Failure:
    said = json.dumps(value)[:200]
    return Failure(INVALID_CONFIGURATION, f"{key}: {said} is not {wanted}")


def previous(given: dict[str, Any]) -> dict[str, Any]:
    result = given.get("prevResult")
    if not isinstance(result, dict):
        raise Failure(
            INVALID_CONFIGURATION,
            "no prevResult: netpol-cni stands in a list, after the plugin that gives addresses",
        )
    return result


def result_version(given: dict[str, Any]) -> Any:
    """A result keeps its own version; the specification's examples have some without."""
    return previous(given).get("cniVersion", given["cniVersion"])


def addresses(result: dict[str, Any]) -> list[str]:
    """What the pod can be reached by: of interfaces in its sandbox, and not just on the link."""
    interfaces = result.get("interfaces") or []
    found: dict[str, None] = {}
    try:
        for entry in result.get("ips") or []:
            index = entry.get("interface")
            if index is not None and interfaces and not interfaces[index].get("sandbox"):
                continue
            ip = ipaddress.ip_interface(entry["address"]).ip
            if not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified):
                found[str(ip)] = None
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        details = f"{type(error).__name__}: {error}"
        raise Failure(DECODING_FAILURE, "prevResult: ips cannot be read", details) from None
    return list(found)


def pod_of(text: str) -> dict[str, str] | None:
    """The pod that `CNI_ARGS` name; None for a container that is of no pod. `Failure`."""
    found = {}
    for pair in text.split(";") if text else []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise Failure(INVALID_ENVIRONMENT, f"CNI_ARGS: {pair!r} is no KEY=VALUE")
        found[key] = value
    ignore = found.get("IgnoreUnknown", "0").lower()
    if ignore not in ("0", "1", "false", "true"):
        raise Failure(INVALID_ENVIRONMENT, f"CNI_ARGS: IgnoreUnknown={ignore} is no boolean")
    unknown = sorted(found.keys() - ARGUMENTS)
    if unknown and ignore in ("0", "false"):
        raise Failure(INVALID_ENVIRONMENT, f"CNI_ARGS: unknown: {', '.join(unknown)}")
    namespace, name = found.get("K8S_POD_NAMESPACE", ""), found.get("K8S_POD_NAME", "")
    if not namespace and not name:
        return None
    if not namespace or not name:
        raise Failure(INVALID_ENVIRONMENT, "CNI_ARGS: a pod has a namespace and a name")
    return {"namespace": namespace, "name": name, "uid": found.get("K8S_POD_UID", "")}


def _version(text: bytes) -> str:
    """Of a VERSION command, for which not every runtime sends a configuration."""
    try:
        version = json.loads(text.decode("utf-8"))["cniVersion"]
    except (ValueError, KeyError, TypeError):
        return ""
    return version if isinstance(version, str) else ""


# -- The enforcer ----------------------------------------------------------------------------------


def request(
    operation: str,
    pod: dict[str, str],
    environ: Mapping[str, str],
    ips: list[str],
) -> dict[str, Any]:
    return {
        "operation": operation,
        **pod,
        "ips": ips,
        "containerID": environ.get("CNI_CONTAINERID", ""),
        "ifname": environ.get("CNI_IFNAME", ""),
    }


def ask(config: Config, wanted: dict[str, Any], seconds: float, *, patient: bool = True) -> None:
    """Ask until the answer is yes. `Denied` for a no that stays one, `Late` when time is over.

    An enforcer that is away or ends meanwhile is waited for; not so by the impatient.
    """
    deadline = time.monotonic() + seconds
    pause, longest = PAUSES
    while True:
        left = deadline - time.monotonic()
        try:
            if wanted["operation"] == "claim":
                # A little less than one listens, so that it is the enforcer that says what is late.
                wanted["timeout"] = max(left - 0.1, 0.01)
            exchange(config.socket, {"version": PROTOCOL, **wanted}, deadline)
            return
        except Denied as denied:
            if denied.reason == "Timeout":
                raise Late(str(denied)) from None
            if denied.reason not in PASSING:
                raise
            cause = str(denied)
        except (OSError, ValueError) as error:
            cause = f"{config.socket}: {error}"
            busy = isinstance(error, BlockingIOError)  # its queue is full
            if not patient and not busy:
                raise Late(cause) from None
        time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
        pause = min(pause * 2, longest)
        if time.monotonic() >= deadline:
            raise Late(cause)


def exchange(path: str, wanted: dict[str, Any], deadline: float) -> None:
    """One line there and one back, on its own connection. `OSError`, `ValueError`, `Denied`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_left(deadline))
        connection.connect(path)
        connection.sendall(json.dumps(wanted).encode() + b"\n")
        line = b""
        while not line.endswith(b"\n"):
            connection.settimeout(_left(deadline))
            part = connection.recv(ANSWER)
            line += part
            if not part or len(line) > ANSWER:
                raise ConnectionError("the enforcer ended the connection")
    said = json.loads(line.decode("utf-8"))
    if not isinstance(said, dict):
        raise ValueError("the answer is no JSON object")
    if said.get("ok") is not True:
        raise Denied(str(said.get("reason")), str(said.get("message")))


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise OSError("no answer in time")
    return left


def write(said: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(said) + "\n")


def warn(message: str) -> None:
    sys.stderr.write(f"netpol-cni: {message}\n")


if __name__ == "__main__":
    main()
