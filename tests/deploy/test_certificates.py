"""The script makes certificates that are good for what they are for, and for nothing else."""

import subprocess
from pathlib import Path


def openssl(*words: str | Path) -> str:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_the_serving_authority_does_not_open_the_store(certificates: Path) -> None:
    for authority, ok in (("serving-ca", True), ("etcd-ca", False)):
        checked = openssl(
            *("verify", "-CAfile", certificates / f"{authority}.crt"),
            certificates / "serving.crt",
        )
        assert checked.strip().endswith("OK") is ok
    wrong = openssl(
        *("verify", "-purpose", "sslserver", "-CAfile", certificates / "etcd-ca.crt"),
        certificates / "etcd-client.crt",
    )
    assert "unsuitable certificate purpose" in wrong


def test_members_are_certified_by_the_names_that_they_are_looked_up_by(
    certificates: Path,
) -> None:
    shown = openssl("x509", "-in", certificates / "etcd.crt", "-noout", "-ext", "subjectAltName")
    for member in range(3):
        name = f"networkpolicys-etcd-{member}.networkpolicys-etcd.networkpolicys.svc"
        assert f"DNS:{name}" in shown


def test_keys_are_read_by_nobody_else_and_authorities_stay(certificates: Path) -> None:
    assert {file.stat().st_mode & 0o077 for file in certificates.glob("*.key")} == {0}
    before = {
        name: (certificates / name).read_bytes() for name in ("serving-ca.crt", "serving.crt")
    }
    subprocess.run([certificates.parent / "make.sh"], check=True, capture_output=True)
    assert (certificates / "serving-ca.crt").read_bytes() == before["serving-ca.crt"]
    assert (certificates / "serving.crt").read_bytes() != before["serving.crt"]
