"""`netpol-apiserver doctor`: what is wrong between the cluster and the server, and what to type.

It asks as the server would: with its kubeconfig, or as its service account from within a pod.
"""

import base64
import datetime
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.x509 import verification

from apiserver.auth.trust import CONFIG_MAP, CONFIG_NAMESPACE, Trust
from apiserver.cluster.access import Access
from apiserver.cluster.client import Cluster, Json, Refused, Unreachable

NAME = "v1alpha1.net.alpha.kubernetes.io"
ROOT = "/apis/net.alpha.kubernetes.io/v1alpha1"
SERVICES = f"/apis/apiregistration.k8s.io/v1/apiservices/{NAME}"
MAY = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
CONFIG = f"ConfigMap {CONFIG_NAMESPACE}/{CONFIG_MAP}"
SKEW = 5.0  # seconds that two clocks may differ
SOON = datetime.timedelta(days=14)  # before a certificate expires

# What Go asks of certificates, which is less than the rules of the web.
ANY = verification.Criticality.AGNOSTIC
AUTHORITY = verification.ExtensionPolicy.permit_all().require_present(
    x509.BasicConstraints, ANY, None
)
OWN_CERTIFICATE = verification.ExtensionPolicy.permit_all().require_present(
    x509.SubjectAlternativeName, ANY, None
)

# What the server needs: verb, group, resource, namespace, name; and what grants it.
DELEGATOR = (
    "kubectl create clusterrolebinding networkpolicys:system:auth-delegator"
    " --clusterrole=system:auth-delegator --serviceaccount={namespace}:{account}"
)
READER = (
    f"kubectl -n {CONFIG_NAMESPACE} create rolebinding networkpolicys-authentication-reader"
    " --role=extension-apiserver-authentication-reader --serviceaccount={namespace}:{account}"
)
OWN = "kubectl apply -k deploy/kustomize/base"
NEEDED = (
    ("create", "authentication.k8s.io", "tokenreviews", "", "", DELEGATOR),
    ("create", "authorization.k8s.io", "subjectaccessreviews", "", "", DELEGATOR),
    ("get", "", "configmaps", CONFIG_NAMESPACE, CONFIG_MAP, READER),
    *((verb, "", "namespaces", "", "", OWN) for verb in ("get", "list", "watch")),
    *(
        (verb, "admissionregistration.k8s.io", kind, "", "", OWN)
        for kind in (
            "mutatingwebhookconfigurations",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "validatingwebhookconfigurations",
        )
        for verb in ("list", "watch")
    ),
    *((verb, "", "resourcequotas", "", "", OWN) for verb in ("list", "watch")),
)
# Why an APIService is not available, by the reason of its condition.
ADVICE = {
    "ServiceNotFound": "create its Service: " + OWN,
    "MissingEndpoints": "no server is ready: kubectl -n {namespace} get pods; then their /readyz",
    "EndpointsNotFound": "no server is ready: kubectl -n {namespace} get pods; then their /readyz",
    "FailedDiscoveryCheck": "the message tells what the aggregator met: a certificate of another"
    " name or authority (see spec.caBundle), a firewall between control plane and pods, or 401 and"
    " 403 (see the checks of the ConfigMap and of RBAC here)",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """`advice` is what to type or to look at where it is not `good`."""

    good: bool
    text: str
    advice: str = ""

    def __str__(self) -> str:
        head = f"[{'ok' if self.good else '!!'}] {self.text}"
        return head if self.good or not self.advice else f"{head}\n     -> {self.advice}"


async def examine(
    access: Access, *, certificate: Path | None, account: str
) -> AsyncIterator[Finding]:
    """All findings, one after the other; without the cluster there is only the first."""
    namespace = access.namespace
    reached = await _reach(access)
    for finding in reached:
        yield finding
    if not reached[0].good:
        return
    cluster = Cluster(access)
    try:
        fill = {"namespace": namespace, "account": account}
        async for finding in _permissions(cluster, fill):
            yield finding
        yield await _trust(cluster, fill)
        service: Json = {}
        try:
            service = await cluster.get(SERVICES)
        except (Refused, Unreachable) as error:
            yield Finding(False, f"APIService {NAME}: {error}", OWN)
        if service:
            for finding in _available(service):
                yield finding
        if certificate is not None:
            yield _certificate(certificate, service, namespace)
        yield await _discovery(cluster)
    finally:
        await cluster.close()


async def _reach(access: Access) -> list[Finding]:
    begun = time.time()
    try:
        async with httpx.AsyncClient(verify=access.context(), trust_env=False) as http:
            answer = await http.get(f"{access.server}/version", timeout=10)
    except (httpx.HTTPError, OSError, ValueError) as error:
        return [
            Finding(
                False,
                f"the cluster at {access.server} cannot be reached: {error!r}",
                "see the server and certificate-authority of the kubeconfig, DNS and firewalls",
            )
        ]
    found = [Finding(True, f"the cluster at {access.server} answers")]
    if date := answer.headers.get("date"):
        there = parsedate_to_datetime(date).timestamp()
        skew = max(0.0, abs(there - (begun + time.time()) / 2) - 1)  # the header has whole seconds
        found.append(
            Finding(
                skew <= SKEW,
                f"clocks differ by {skew:.0f} s",
                "run NTP on this host and on the control plane: certificates and tokens have dates",
            )
        )
    return found


async def _permissions(cluster: Cluster, fill: Mapping[str, str]) -> AsyncIterator[Finding]:
    for verb, group, resource, namespace, name, grant in NEEDED:
        asked = {"verb": verb, "group": group, "resource": resource}
        asked |= {"namespace": namespace, "name": name} if namespace else {}
        body = {
            "kind": "SelfSubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "spec": {"resourceAttributes": asked},
        }
        what = f"may {verb} {resource}" + (f" {namespace}/{name}" if namespace else "")
        try:
            status = (await cluster.post(MAY, body)).get("status") or {}
        except (Refused, Unreachable) as error:
            yield Finding(False, f"{what}: {error}", "see the token of the kubeconfig")
            return
        yield Finding(status.get("allowed") is True, what, grant.format(**fill))


async def _trust(cluster: Cluster, fill: Mapping[str, str]) -> Finding:
    path = f"/api/v1/namespaces/{CONFIG_NAMESPACE}/configmaps/{CONFIG_MAP}"
    try:
        trust = Trust.published((await cluster.get(path)).get("data") or {})
    except (Refused, Unreachable) as error:
        return Finding(False, f"{CONFIG}: {error}", READER.format(**fill))
    except ValueError as error:
        return Finding(False, f"{CONFIG}: {error}")
    if not trust.proxy.authorities:
        return Finding(
            False,
            f"{CONFIG} has no requestheader-client-ca-file",
            "start kube-apiserver with its aggregation layer: --requestheader-client-ca-file,"
            " --proxy-client-cert-file, --proxy-client-key-file",
        )
    names = ", ".join(sorted(trust.proxy.names)) or "anyone of its authority"
    return Finding(True, f"the front proxy is known: {names}")


def _available(service: Json) -> list[Finding]:
    conditions = (service.get("status") or {}).get("conditions") or ()
    condition: Json = next((c for c in conditions if c.get("type") == "Available"), {})
    good = condition.get("status") == "True"
    reason, message = condition.get("reason", "no condition"), condition.get("message", "")
    spec = service.get("spec") or {}
    owner = spec.get("service") or {}
    advice = ADVICE.get(reason, "").format(namespace=owner.get("namespace", ""))
    found = [Finding(good, f"APIService {NAME}: {reason}: {message}", advice)]
    if spec.get("insecureSkipTLSVerify"):
        found.append(
            Finding(
                False,
                f"APIService {NAME} has insecureSkipTLSVerify: whoever can answer for the Service"
                " can read and forge policies",
                "set spec.caBundle to the authority of the serving certificate instead",
            )
        )
    return found


def _certificate(path: Path, service: Json, namespace: str) -> Finding:
    """Whether the certificate that is served is what the APIService expects."""
    spec = service.get("spec") or {}
    owner = spec.get("service") or {"name": "networkpolicys", "namespace": namespace}
    name = f"{owner.get('name')}.{owner.get('namespace')}.svc"
    try:
        leaf, *above = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        return Finding(False, f"{path}: {error}")
    left = leaf.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    if left < SOON:
        return Finding(False, f"{path} expires in {left.days} days", "renew it; it is read again")
    bundle = spec.get("caBundle")
    if not bundle:
        return Finding(True, f"{path} holds for {left.days} days")
    try:
        authorities = x509.load_pem_x509_certificates(base64.b64decode(bundle, validate=True))
    except ValueError as error:
        return Finding(False, f"APIService {NAME}: spec.caBundle: {error}")
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store(authorities))
        .extension_policies(ca_policy=AUTHORITY, ee_policy=OWN_CERTIFICATE)
        .build_server_verifier(x509.DNSName(name))
    )
    try:
        verifier.verify(leaf, above)
    except verification.VerificationError as error:
        return Finding(
            False,
            f"{path} does not hold as {name} under spec.caBundle of the APIService: {error}",
            f"issue it for the DNS name {name}, and put its authority into spec.caBundle",
        )
    return Finding(True, f"{path} holds as {name} for {left.days} days")


async def _discovery(cluster: Cluster) -> Finding:
    try:
        await cluster.get(ROOT)
    except (Refused, Unreachable) as error:
        return Finding(
            False,
            f"{ROOT} through the cluster: {error}",
            "after 503 see the APIService above; after 403 bind system:discovery to the account",
        )
    return Finding(True, f"{ROOT} is served through the cluster")
