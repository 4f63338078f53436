"""`netpol-apiserver doctor`: what it says of a cluster that is well, and of one that is not."""

import asyncio
import sys

from tests.cluster.conftest import World


async def doctor(world: World, token: str, *arguments: str) -> tuple[int, str]:
    config = world.place.kubeconfig(f"doctor-{token}", token)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "apiserver.main", "doctor", "--kubeconfig", str(config), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_all_is_well(world: World) -> None:
    certificate = str(world.place.folder / "serving.crt")
    code, told = await doctor(world, "server-token", "--tls-cert-file", certificate)
    assert code == 0, told
    for line in (
        "[ok] may create subjectaccessreviews",
        "[ok] the front proxy is known: front-proxy-client",
        "[ok] APIService v1alpha1.net.alpha.kubernetes.io: Passed: all checks passed",
        f"[ok] {certificate} holds as networkpolicys.kube-system.svc",
        "[ok] /apis/net.alpha.kubernetes.io/v1alpha1 is served through the cluster",
    ):
        assert line in told


async def test_an_account_without_rights_and_a_strange_certificate(world: World) -> None:
    certificate = str(world.place.folder / "cluster.crt")
    made = world.place.certificates.cluster.issue_cert("networkpolicys.kube-system.svc")
    made.cert_chain_pems[0].write_to_path(certificate)
    code, told = await doctor(world, "bob-token", "--tls-cert-file", certificate)
    assert code == 1
    assert "[!!] may create tokenreviews\n     -> kubectl create clusterrolebinding" in told
    assert "--role=extension-apiserver-authentication-reader" in told
    assert "does not hold as networkpolicys.kube-system.svc under spec.caBundle" in told


async def test_the_servers_are_away(fragile: World) -> None:
    for replica in fragile.replicas:
        await replica.kill()
    async with asyncio.timeout(10):
        while not all((await fragile.place.control("state"))["available"].values()):
            await asyncio.sleep(0.1)
    code, told = await doctor(fragile, "server-token")
    assert code == 1
    assert "FailedDiscoveryCheck" in told
    assert "-> the message tells what the aggregator met" in told


async def test_the_cluster_is_away(world: World) -> None:
    config = world.place.kubeconfig("doctor-lost", "server-token")
    config.write_text(config.read_text().replace(str(world.place.port), "1"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "apiserver.main", "doctor", "--kubeconfig", str(config),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 1
    assert output.decode().startswith("[!!] the cluster at https://127.0.0.1:1 cannot be reached")
