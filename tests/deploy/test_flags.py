"""Every flag and variable that is passed exists, and the values are ones that are taken."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from apiserver.settings import Settings
from enforcer import main as enforcer_main
from enforcer.telemetry.endpoint import DEFAULT
from tests.deploy.rendering import DEPLOY, ROOT, Object, container
from tests.storage.newer_etcd import NEWER

UNITS = DEPLOY / "systemd"
Environment = dict[str, str]


@pytest.fixture(autouse=True)
def no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("NETPOL_")]:
        monkeypatch.delenv(name)


def server_takes(words: list[str], environment: Environment, patch: pytest.MonkeyPatch) -> Settings:
    """`Settings` knows flags and variables; pydantic ignores a variable that it does not know."""
    for name, value in environment.items():
        patch.setenv(name, value)
        if name.startswith("NETPOL_"):
            assert name.removeprefix("NETPOL_").lower() in Settings.model_fields, name
    return Settings(_cli_parse_args=words)


def enforcer_takes(words: list[str], environment: Environment) -> dict[str, Any]:
    """What `netpol-enforcer` would call its subcommand with."""
    group = typer.main.get_command(enforcer_main.app)
    commands = getattr(group, "commands")  # noqa: B009 - typer's type does not say that it has any
    command = commands[words[0]]
    variables = {option.envvar for option in command.params}
    for name in environment:
        assert not name.startswith("NETPOL_") or name in variables, name
    context = command.make_context(words[0], [*words[1:]])
    return dict(context.params)


def values(of: Object) -> Environment:
    """What the downward API fills in is a name of a pod or of a node."""
    return {entry["name"]: entry.get("value", "name-0") for entry in of.get("env", ())}


def expanded(words: list[str], environment: Environment) -> list[str]:
    """As the kubelet does it; a name that there is not would stay as it is."""
    done = [re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], word) for word in words]
    assert not any("$(" in word for word in done)
    return done


def test_of_the_server_in_a_cluster(objects: list[Object], monkeypatch: pytest.MonkeyPatch) -> None:
    server = container(objects, "apiserver")
    settings = server_takes(server["args"], values(server), monkeypatch)
    assert not settings.standalone
    assert len(settings.endpoints) == 3
    mounts = {mount["mountPath"] for mount in server["volumeMounts"]}
    for file in ("tls_cert_file", "tls_private_key_file", "etcd_cafile", "etcd_certfile"):
        assert str(getattr(settings, file).parent) in mounts


def test_of_the_enforcer_in_a_cluster(objects: list[Object]) -> None:
    enforcer = container(objects, "enforcer")
    environment = values(enforcer)
    taken = enforcer_takes(expanded(enforcer["args"], environment), environment)
    assert taken["node_name"] == "name-0"
    assert not taken["server"]


@pytest.mark.parametrize("binary", [Path("/usr/bin/etcd"), NEWER], ids=["older", "newer"])
def test_of_etcd_in_a_cluster(variants: dict[str, list[Object]], binary: Path | None) -> None:
    if binary is None:
        pytest.skip("no newer etcd on this machine")
    shown = subprocess.run([binary, "--help"], capture_output=True, text=True, check=False)
    known = set(re.findall(r"^\s+(--[a-z-]+)", shown.stdout + shown.stderr, re.MULTILINE))
    etcd = container(variants["cert-manager"], "etcd")
    words = expanded(etcd["command"], values(etcd))
    assert {word.partition("=")[0] for word in words[1:]} <= known


def compose() -> Object:
    loaded: Object = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return dict(loaded["services"])


def test_of_docker_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    services = compose()
    settings = server_takes(services["apiserver"]["command"], {}, monkeypatch)
    url = f"http://{settings.host}:{settings.insecure_port}"
    assert enforcer_takes(services["enforcer"]["command"], {})["server"] == url
    assert any(url in word for word in services["apiserver"]["healthcheck"]["test"])
    assert any(DEFAULT in word for word in services["enforcer"]["healthcheck"]["test"])
    assert f"--listen-client-urls={settings.etcd_servers}" in services["etcd"]["command"]


def test_docker_compose_builds_what_the_dockerfile_has() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    for name in ("apiserver", "enforcer"):
        assert compose()[name]["build"]["target"] in stages


def assignments(file: Path, *, commented: bool) -> Iterator[tuple[str, str]]:
    pattern = r"^#(NETPOL_\w+)=(.*)$" if commented else r"^(NETPOL_\w+)=(.*)$"
    yield from re.findall(pattern, file.read_text(), re.MULTILINE)


def unit(name: str) -> tuple[list[str], Environment]:
    """The words of ExecStart after the command, and what Environment sets."""
    text = (UNITS / f"netpol-{name}.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    command, *words = shlex.split(line)
    assert command == f"/opt/networkpolicys/bin/netpol-{name}"
    pairs = re.findall(r"^Environment=(.*)$", text, re.MULTILINE)
    return words, dict(pair.split("=", 1) for line in pairs for pair in shlex.split(line))


@pytest.mark.parametrize("commented", [False, True], ids=["as-it-is", "the-examples"])
def test_of_the_units(commented: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    words, environment = unit("apiserver")
    given = dict(assignments(UNITS / "apiserver.env", commented=commented))
    settings = server_takes(words, environment | given, monkeypatch)
    assert settings.standalone is not commented
    words, environment = unit("enforcer")
    given = dict(assignments(UNITS / "enforcer.env", commented=commented))
    assert given
    enforcer_takes(words, environment | given)
