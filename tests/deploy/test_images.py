"""The steps of the Dockerfile work, and what comes of them runs confined as in the cluster."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy import dockerfile
from tests.deploy.rendering import DEPLOY, ROOT

UV = Path(sys.prefix) / "bin" / "uv"
CONTEXT = [
    *("pyproject.toml", "uv.lock", "README.md", "LICENSE", "deploy/build.sh"),
    *("policy", "storage", "apiserver", "enforcer", "migrations"),
]

# The processes run in what the images hold, with nothing to write to but /tmp.
CONFINED = """
ip link set lo up
for image in apiserver enforcer; do
  mount -t tmpfs tmp "$scratch/$image/root/tmp"
  mount -o remount,ro "$scratch/$image/root"
done
until_seen() { # until_seen COMMAND...
  for attempt in $(seq 150); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  cat "$log"/* >&2; exit 1
}
{server} >"$log/server" 2>&1 &
server=$!
until_seen curl -fs http://127.0.0.1:8080/readyz
{enforcer} >"$log/enforcer" 2>&1 &
enforcer=$!
until_seen grep '"enforcing"' "$log/enforcer"
nft list tables >"$log/tables"
cp /proc/$server/status "$log/server.status"
cp /proc/$enforcer/status "$log/enforcer.telemetry.status"
kill $server $enforcer
wait
"""
CAP_NET_ADMIN = 1 << 12
ABLE = """
mount -t tmpfs able /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
"""
INSTALL = """
mkdir -p /etc/networkpolicys
echo mine stays >/etc/networkpolicys/enforcer.env
deploy/install.sh
test -s /etc/networkpolicys/apiserver.env
cat /etc/networkpolicys/enforcer.env
systemd-analyze verify /etc/systemd/system/netpol-*.service
echo verified
"""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What .dockerignore leaves of the repository."""
    listed = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in listed if line.startswith("!")} == set(CONTEXT)
    folder = tmp_path_factory.mktemp("context")
    for name in CONTEXT:
        (folder / name).parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def ran(context: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the logs are of what was built, run and installed."""
    able = subprocess.run(
        [*dockerfile.ISOLATED, "sh", "-ec", ABLE], capture_output=True, text=True, check=False
    )
    if able.returncode:
        pytest.skip(f"no overlay can be mounted here: {able.stderr.strip()}")
    log = tmp_path_factory.mktemp("images")
    text = (DEPLOY / "Dockerfile").read_text()
    script, stages = dockerfile.build(text, context, commands={"uv": UV})
    server, enforcer, built = (stages[name] for name in ("apiserver", "enforcer", "build"))
    assert (server.user, enforcer.user) == ("65532:65532", "0:0")
    store = ["--standalone", "--database-url", "memory:", "--log-format", "json"]
    url = ["run", "--server", "http://127.0.0.1:8080"]
    run = CONFINED.replace("{server}", server.confined(store, capabilities=[]))
    run = run.replace("{enforcer}", enforcer.confined(url, capabilities=["net_admin"]))
    # The folder of the build is a copy of the repository, but for the files that no image needs.
    install = f'cp -a {DEPLOY}/. "{built.root}/src/deploy/"\n'
    install += built.chroot(["sh", "-ec", INSTALL], more=dockerfile.OFFLINE)
    (log / "scratch").mkdir()
    cache = subprocess.check_output([UV, "cache", "dir"], text=True).strip()
    done = subprocess.run(
        [*dockerfile.ISOLATED, "sh", "-c", script + run + install],
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": dockerfile.PATH,
            "log": str(log),
            "scratch": str(log / "scratch"),
            "cache": cache,
        },
    )
    (log / "installed").write_text(done.stdout)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return log


def test_the_images_are_built_and_run_confined(ran: Path) -> None:
    assert "table inet netpol" in (ran / "tables").read_text()
    assert capabilities(ran / "server.status") == 0
    assert capabilities(ran / "enforcer.telemetry.status") == CAP_NET_ADMIN


def test_the_units_are_installed_and_name_commands_that_there_are(ran: Path) -> None:
    assert (ran / "installed").read_text().endswith("mine stays\nverified\n")


def capabilities(status: Path) -> int:
    (effective,) = re.findall(r"^CapEff:\s*(\w+)$", status.read_text(), re.MULTILINE)
    return int(effective, 16)
