"""A stand-in for kube-apiserver: just the parts of it that an extension server meets.

It is a process of its own, with real TLS: it knows users by token, decides about permissions, has
namespaces and ConfigMaps that can be watched, polls the discovery of the servers behind it as the
aggregator does, and passes requests on with the certificate and the headers of the front proxy.

`python -m tests.lab.standin FOLDER PORT BACKEND...` takes its certificates from the folder.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import ssl
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

GROUP = "net.alpha.kubernetes.io"
VERSION = "v1alpha1"
EVERY = 0.3  # seconds between two looks at the discovery of a backend; really 30
SERVICE = "networkpolicys.kube-system.svc"
PROXIED = (f"/apis/{GROUP}", f"/openapi/v3/apis/{GROUP}", "/openapi/v2", "/version")
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
Json = dict[str, Any]

# Users by token, with their groups.
USERS = {
    "admin-token": ("admin", ["system:masters"]),
    "bob-token": ("bob", ["people"]),
    "editor-token": ("editor", ["people", "team, a"]),
    "patcher-token": ("patcher", ["people"]),
    "tenant-token": ("tenant", ["people"]),
    "server-token": ("system:serviceaccount:kube-system:networkpolicys", []),
}
VERBS = {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}
ADMISSION = {
    "mutatingwebhookconfigurations": "MutatingWebhookConfiguration",
    "validatingwebhookconfigurations": "ValidatingWebhookConfiguration",
    "validatingadmissionpolicies": "ValidatingAdmissionPolicy",
    "validatingadmissionpolicybindings": "ValidatingAdmissionPolicyBinding",
    "resourcequotas": "ResourceQuota",
}
READABLE = ("/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz")


ENFORCER = "system:serviceaccount:kube-system:netpol-enforcer"


def account(folder: Path) -> Json:
    """The `token` of the enforcer's service account, and the `resources` that it may follow."""
    file = folder / "enforcer.json"
    found: Json = json.loads(file.read_text()) if file.exists() else {}
    return found


def who(folder: Path, token: str) -> tuple[str, list[str]] | None:
    """The user of a token, with its groups."""
    if token and token == account(folder).get("token"):
        return ENFORCER, ["system:serviceaccounts"]
    return USERS.get(token)


def allowed(folder: Path, user: str, groups: list[str], spec: Json) -> bool:
    """What would be said here: masters all, the editor the policies of one namespace.

    The tenant may do what a label selector confines to what is the tenant's.
    """
    if "system:masters" in groups:
        return True
    if path := (spec.get("nonResourceAttributes") or {}).get("path"):
        return "system:authenticated" in groups and str(path).startswith(READABLE)
    asked = spec.get("resourceAttributes") or {}
    if asked.get("resource") in ("selfsubjectaccessreviews", "apiservices"):
        return True
    if user == "system:serviceaccount:kube-system:networkpolicys":
        what = (asked.get("verb"), asked.get("resource"))
        return what in {
            ("create", "tokenreviews"),
            ("create", "subjectaccessreviews"),
            ("create", "events"),
            *((verb, "namespaces") for verb in ("get", "list", "watch")),
            *((verb, "configmaps") for verb in ("get", "list", "watch")),
            *((verb, kind) for verb in ("list", "watch") for kind in ADMISSION),
        }
    if user == ENFORCER:
        following = asked.get("verb") in ("list", "watch") and not asked.get("namespace")
        return following and asked.get("resource") in account(folder)["resources"]
    if user == "tenant":
        chosen = (asked.get("labelSelector") or {}).get("requirements")
        return chosen == [{"key": "owner", "operator": "In", "values": ["tenant"]}]
    verbs = {"editor": VERBS, "patcher": {"get", "patch"}}.get(user, set())
    mine = asked.get("namespace") == "team-a" and asked.get("group") == GROUP
    return mine and asked.get("verb") in verbs


class Journal:
    """Every event of every collection, in a file: it outlives the process, as etcd would."""

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self._past = [json.loads(line) for line in lines]
        self._counter = itertools.count(self._past[-1][1] + 1 if self._past else 10)

    def past(self, kind: str) -> list[tuple[int, Json]]:
        return [(number, event) for of, number, event in self._past if of == kind]

    def next(self) -> int:
        return next(self._counter)

    def write(self, kind: str, number: int, event: Json) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps([kind, number, event]) + "\n")


class Collection:
    """Objects with revisions, that can be watched. The key of one in a namespace is `a/b`."""

    def __init__(self, kind: str, journal: Journal) -> None:
        self.kind = kind
        self.objects: dict[str, Json] = {}
        self._journal = journal
        self._log = journal.past(kind)
        for _, event in self._log:
            meta = event["object"]["metadata"]
            inside = meta.get("namespace") if kind == "Pod" else None
            key = f"{inside}/{meta['name']}" if inside else meta["name"]
            if event["type"] == "DELETED":
                self.objects.pop(key, None)
            else:
                self.objects[key] = event["object"]
        self._news = asyncio.Event()
        self._ends = object()

    def put(self, name: str, obj: Json, *, kind: str = "") -> Json:
        event = kind or ("MODIFIED" if name in self.objects else "ADDED")
        number = self._journal.next()
        inside, _, short = name.rpartition("/")
        meta = {**obj.get("metadata", {}), "name": short, "resourceVersion": str(number)}
        meta |= {"namespace": inside} if inside else {}
        made = {"kind": self.kind, "apiVersion": "v1", **obj, "metadata": meta}
        if event == "DELETED":
            self.objects.pop(name, None)
        else:
            self.objects[name] = made
        self._log.append((number, {"type": event, "object": made}))
        self._journal.write(self.kind, *self._log[-1])
        self._news.set()
        self._news = asyncio.Event()
        return made

    def end_watches(self) -> None:
        """As when the time of each is over."""
        self._ends = object()
        self._news.set()
        self._news = asyncio.Event()

    def answer(self, request: Request) -> Response:
        query = request.query_params
        wanted = query.get("fieldSelector", "").removeprefix("metadata.name=")
        if query.get("watch") in ("1", "true"):
            after = int(query.get("resourceVersion") or 0)
            return StreamingResponse(self._events(after, wanted), media_type="application/json")
        items = [o for name, o in self.objects.items() if wanted in ("", name)]
        meta = {"resourceVersion": str(self._log[-1][0] if self._log else 1)}
        return JSONResponse(
            {"kind": f"{self.kind}List", "apiVersion": "v1", "metadata": meta, "items": items}
        )

    async def _events(self, after: int, wanted: str) -> AsyncIterator[str]:
        ends = self._ends
        while ends is self._ends:
            news = self._news
            for number, event in self._log:
                if number > after:
                    after = number
                    if wanted in ("", event["object"]["metadata"]["name"]):
                        yield json.dumps(event) + "\n"
            await news.wait()


class StandIn:
    """The application."""

    def __init__(self, folder: Path, backends: list[str]) -> None:
        journal = Journal(folder / "objects.jsonl")
        self.folder = folder
        self.namespaces = Collection("Namespace", journal)
        self.pods = Collection("Pod", journal)
        self.config_maps = Collection("ConfigMap", journal)
        self.parameters: dict[tuple[str, str], Json] = {}
        self.admission = {key: Collection(kind, journal) for key, kind in ADMISSION.items()}
        self.reviewed: list[Json] = []
        self.events: list[Json] = []
        self.reviews: dict[str, int] = {"tokenreviews": 0, "subjectaccessreviews": 0}
        self.asked: deque[Json] = deque(maxlen=100)  # the latest of them
        self.available: dict[str, str] = dict.fromkeys(backends, "not looked at yet")
        self._clients: dict[object, httpx.AsyncClient] = {}
        self._turn = itertools.count()
        for name in ("default", "kube-system", "team-a"):
            if name not in self.namespaces.objects:
                self.namespaces.put(name, {"status": {"phase": "Active"}})
        self.publish()
        self.app = Starlette(
            routes=[
                Route("/hook/{what}", self.hook, methods=["POST"]),
                Route("/control/{what}", self.control, methods=["GET", "POST"]),
                Route(
                    "/{path:path}",
                    self.serve,
                    methods=METHODS,
                ),
            ],
            lifespan=self.lifespan,
        )

    def publish(self) -> None:
        data = {
            "client-ca-file": (self.folder / "client-ca.pem").read_text(),
            "requestheader-client-ca-file": (self.folder / "proxy-ca.pem").read_text(),
            "requestheader-allowed-names": '["front-proxy-client"]',
            "requestheader-username-headers": '["X-Remote-User"]',
            "requestheader-uid-headers": '["X-Remote-Uid"]',
            "requestheader-group-headers": '["X-Remote-Group"]',
            "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
        }
        self.config_maps.put(
            "extension-apiserver-authentication",
            {"metadata": {"namespace": "kube-system"}, "data": data},
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self.look())
        yield
        task.cancel()

    async def look(self) -> None:
        """The availability controller."""
        while True:
            for backend in self.available:
                headers = {
                    "X-Remote-User": "system:kube-aggregator",
                    "X-Remote-Group": "system:masters",
                }
                try:
                    path = f"{backend}/apis/{GROUP}/{VERSION}"
                    answer = await self.client().get(path, headers=headers, **SNI)
                    good = 200 <= answer.status_code < 300
                    self.available[backend] = "" if good else f"{answer.status_code} {answer.text}"
                except httpx.HTTPError as error:
                    self.available[backend] = repr(error)
            await asyncio.sleep(EVERY)

    def client(self) -> httpx.AsyncClient:
        """With the certificates that are in the folder now."""
        files = [self.folder / name for name in ("serving-ca.pem", "front-proxy.pem")]
        stamp = tuple(file.stat().st_mtime_ns for file in files)
        if stamp not in self._clients:
            context = ssl.create_default_context(cafile=files[0])
            context.load_cert_chain(files[1])
            self._clients[stamp] = httpx.AsyncClient(verify=context, trust_env=False, timeout=None)
        return self._clients[stamp]

    async def control(self, request: Request) -> Response:
        """What a test asks of the stand-in itself."""
        match request.path_params["what"]:
            case "state":
                return JSONResponse({"available": self.available, "reviews": self.reviews})
            case "publish":
                self.publish()
            case "end-watches":
                self.namespaces.end_watches()
                self.pods.end_watches()
                for collection in self.admission.values():
                    collection.end_watches()
            case "events":
                return JSONResponse({"events": self.events})
            case "asked":
                return JSONResponse({"asked": list(self.asked)})
            case "reviewed":
                return JSONResponse({"reviewed": self.reviewed})
            case "parameters":
                made = await request.json()
                meta = made["metadata"]
                self.parameters[meta["namespace"], meta["name"]] = made
            case "admission":
                kind, name = (request.query_params[key] for key in ("kind", "name"))
                body = await request.body()
                gone = self.admission[kind].objects.get(name, {})
                made = json.loads(body) if body else gone
                self.admission[kind].put(name, made, kind="" if body else "DELETED")
            case "terminate":
                name = request.query_params["namespace"]
                meta = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
                self.namespaces.put(name, {"metadata": meta, "status": {"phase": "Terminating"}})
            case "backends":
                self.available = dict.fromkeys(request.query_params.getlist("url"), "not yet")
        return JSONResponse({})

    async def hook(self, request: Request) -> Response:
        """A webhook of each kind."""
        asked = (await request.json())["request"]
        self.reviewed.append(asked)
        answer: Json = {"uid": asked["uid"], "allowed": True}
        match request.path_params["what"]:
            case "label":
                answer |= patching("/metadata/labels", {"from": "webhook"})
                answer["warnings"] = ["labelled"]
            case "record":
                entry: Json = {"manager": "hook", "operation": "Update", "apiVersion": "v1"}
                entry |= {"fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}
                answer |= patching("/metadata/managedFields", [entry])
            case "misrecord":
                answer |= patching("/metadata/managedFields", [{"manager": "hook"}])
            case "spoil":
                answer |= patching("/spec/bogus", 1)
            case "deny":
                status: Json = {"code": 409, "message": "not on my watch", "reason": "Conflict"}
                answer |= {"allowed": False, "status": status}
            case "broken":
                return Response("no", 500)
            case "forge":
                answer |= patching("/status", {"forged": 1})
                more = patching("/metadata/deletionTimestamp", "2020-01-01T00:00:00Z")
                both = [json.loads(base64.b64decode(p["patch"]))[0] for p in (answer, more)]
                answer["patch"] = base64.b64encode(json.dumps(both).encode()).decode()
            case "drip":
                return StreamingResponse(dripping(json.dumps({"response": answer})))
            case "slow":
                await asyncio.sleep(30)
        return JSONResponse({"kind": "AdmissionReview", "response": answer})

    async def serve(self, request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        found = who(self.folder, token) if scheme == "Bearer" else None
        if found is None:
            return refuse(401, "Unauthorized", "Unauthorized")
        user, groups = found[0], [*found[1], "system:authenticated"]
        path = request.url.path
        # What a real one would refuse already is left to the servers here: they must do it as well.
        if path.startswith(PROXIED):
            return await self.proxy(request, user, groups)
        spec = attributes(request)
        if not allowed(self.folder, user, groups, spec):
            return refuse(403, "Forbidden", f'forbidden: User "{user}" cannot {spec}')
        return await self.own(request, path, user, groups)

    async def own(self, request: Request, path: str, user: str, groups: list[str]) -> Response:
        parts = path.strip("/").split("/")
        match parts:
            case ["api"]:
                return JSONResponse({"kind": "APIVersions", "versions": ["v1"]})
            case ["api", "v1"]:
                listed = (
                    ("namespaces", "Namespace", "ns", False),
                    ("configmaps", "ConfigMap", "cm", True),
                )
                secrets = "secrets", "Secret", "", True
                missing = (self.folder / "without-configmaps").exists()
                return JSONResponse(resources("v1", *listed[: 1 if missing else 2], secrets))
            case ["apis"]:
                version = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}
                group = {"name": GROUP, "versions": [version], "preferredVersion": version}
                return JSONResponse({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]})
            case ["openapi", "v3"]:
                name = f"apis/{GROUP}/{VERSION}"
                url = {"serverRelativeURL": f"/openapi/v3/{name}"}
                return JSONResponse({"paths": {name: url}})
            case ["apis", "authentication.k8s.io", "v1", "tokenreviews"]:
                self.reviews["tokenreviews"] += 1
                return JSONResponse(review_token(self.folder, await request.json()), 201)
            case ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"]:
                body = await request.json()
                yes = allowed(self.folder, user, groups, body["spec"])
                return JSONResponse({**body, "status": {"allowed": yes}}, 201)
            case ["apis", "apiregistration.k8s.io", "v1", "apiservices", _]:
                return JSONResponse(self.api_service())
            case ["api", "v1", "namespaces", _, "events"]:
                self.events.append(await request.json())
                return JSONResponse(self.events[-1], 201)
            case ["api", "v1", "namespaces", "kube-system", "configmaps", name]:
                return JSONResponse(self.config_maps.objects[name])
            case ["apis", "authorization.k8s.io", "v1", "subjectaccessreviews"]:
                self.reviews["subjectaccessreviews"] += 1
                body = await request.json()
                spec = body["spec"]
                self.asked.append(spec)
                yes = allowed(self.folder, spec.get("user", ""), spec.get("groups") or [], spec)
                reason = "" if yes else "RBAC: there is no rule for it"
                return JSONResponse({**body, "status": {"allowed": yes, "reason": reason}}, 201)
            case ["api", "v1", "namespaces"]:
                if request.method == "POST":
                    body = await request.json()
                    return JSONResponse(self.namespaces.put(body["metadata"]["name"], body), 201)
                return self.namespaces.answer(request)
            case ["api", "v1", "namespaces", name]:
                found = self.namespaces.objects.get(name)
                if found is None:
                    return refuse(404, "NotFound", f'namespaces "{name}" not found')
                if request.method == "DELETE":
                    self.namespaces.put(name, found, kind="DELETED")
                if request.method == "PATCH":
                    found = self.namespaces.put(name, merged(found, await request.json()))
                return JSONResponse(found)
            case ["api", "v1", "pods"]:
                return self.pods.answer(request)
            case ["api", "v1", "namespaces", inside, "pods", *rest]:
                return await self.pod(request, inside, rest)
            case ["apis", "admissionregistration.k8s.io", "v1", kind] | ["api", "v1", kind] if (
                kind in ADMISSION and not (self.folder / f"without-{kind}").exists()
            ):
                return self.admission[kind].answer(request)
            case ["api", "v1", "namespaces", "kube-system", "configmaps"]:
                return self.config_maps.answer(request)
            case ["api", "v1", "namespaces", inside, "configmaps", name]:
                found = self.parameters.get((inside, name))
                if found is not None and not (self.folder / "without-configmaps").exists():
                    return JSONResponse(found)
            case ["api", "v1", "namespaces", inside, "configmaps"]:
                key, _, value = request.query_params["labelSelector"].partition("=")
                items = [
                    made
                    for (where, _), made in self.parameters.items()
                    if where == inside and made["metadata"]["labels"].get(key) == value
                ]
                return JSONResponse({"kind": "ConfigMapList", "items": items})
        return refuse(404, "NotFound", "the server could not find the requested resource")

    async def pod(self, request: Request, inside: str, rest: list[str]) -> Response:
        """Create, read, patch (the status as well) or delete one."""
        if request.method == "POST" and not rest:
            body = await request.json()
            return JSONResponse(self.pods.put(f"{inside}/{body['metadata']['name']}", body), 201)
        key = f"{inside}/{rest[0]}" if rest else ""
        found = self.pods.objects.get(key)
        if found is None:
            return refuse(404, "NotFound", f'pods "{key}" not found')
        if request.method == "DELETE":
            self.pods.put(key, found, kind="DELETED")
        if request.method == "PATCH":
            found = self.pods.put(key, merged(found, await request.json()))
        return JSONResponse(found)

    def api_service(self) -> Json:
        """With the condition that the availability controller found."""
        failures = [why for why in self.available.values() if why]
        good = len(failures) < len(self.available)
        authority = (self.folder / "serving-ca.pem").read_bytes()
        condition = {
            "type": "Available",
            "status": str(good),
            "reason": "Passed" if good else "FailedDiscoveryCheck",
            "message": "all checks passed" if good else "; ".join(failures),
        }
        spec = {
            "group": GROUP,
            "version": VERSION,
            "service": {"name": "networkpolicys", "namespace": "kube-system"},
            "caBundle": base64.b64encode(authority).decode(),
        }
        return {"kind": "APIService", "spec": spec, "status": {"conditions": [condition]}}

    async def proxy(self, request: Request, user: str, groups: list[str]) -> Response:
        """To one server that is available; to another where that one cannot be reached."""
        headers = [
            (name, value)
            for name, value in request.headers.items()
            if name not in ("authorization", "host") and not name.startswith("x-remote-")
        ]
        headers += [("X-Remote-User", user), *(("X-Remote-Group", group) for group in groups)]
        body = await request.body()
        there = [backend for backend, why in self.available.items() if not why]
        turn = next(self._turn)
        for index in range(len(there)):
            backend = there[(turn + index) % len(there)]
            made = self.client().build_request(
                request.method, backend + request.url.path + "?" + request.url.query,
                headers=headers, content=body, **SNI,
            )  # fmt: skip
            try:
                answer = await self.client().send(made, stream=True)
            except httpx.TransportError:
                continue

            async def passed(answer: httpx.Response = answer) -> AsyncIterator[bytes]:
                async with contextlib.aclosing(answer):
                    async for chunk in answer.aiter_raw():
                        yield chunk

            response = StreamingResponse(passed(), status_code=answer.status_code)
            response.raw_headers = [
                (name.lower(), value)
                for name, value in answer.headers.raw
                if name.lower() not in (b"connection", b"transfer-encoding")
            ]
            return response
        return Response("service unavailable", 503)


SNI: Any = {"extensions": {"sni_hostname": SERVICE}}


def merged(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    made = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = merged(made.get(key), value)
    return made


def attributes(request: Request) -> Json:
    parts = request.url.path.strip("/").split("/")
    verb = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch"}
    if parts[:1] == ["apis"] and len(parts) > 3:
        group, rest = parts[1], parts[3:]
    elif parts[:1] == ["api"] and len(parts) > 2:
        group, rest = "", parts[2:]
    else:
        path = {"path": request.url.path, "verb": request.method.lower()}
        return {"nonResourceAttributes": path}
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    asked = verb.get(request.method, "delete")
    if len(rest) == 1:
        asked = {"get": "list", "delete": "deletecollection"}.get(asked, asked)
    return {
        "resourceAttributes": {
            "verb": asked, "group": group, "namespace": namespace, "resource": rest[0],
        }
    }  # fmt: skip


async def dripping(text: str) -> AsyncIterator[str]:
    """An answer that always seems to be about to come."""
    for char in text:
        await asyncio.sleep(0.2)
        yield char


def patching(path: str, value: Any) -> Json:
    """The part of a webhook's answer that adds something to the object."""
    patch = json.dumps([{"op": "add", "path": path, "value": value}])
    return {"patchType": "JSONPatch", "patch": base64.b64encode(patch.encode()).decode()}


def review_token(folder: Path, body: Json) -> Json:
    found = who(folder, body["spec"]["token"])
    if found is None:
        return {**body, "status": {"authenticated": False, "error": "no such token"}}
    extra = {"Example.com/Scopes": ["a", "b"]}
    user = {"username": found[0], "uid": f"uid-of-{found[0]}", "groups": found[1], "extra": extra}
    return {**body, "status": {"authenticated": True, "user": user}}


def resources(version: str, *listed: tuple[str, str, str, bool]) -> Json:
    verbs = ["create", "delete", "get", "list", "watch"]
    entries = [
        {
            "name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind,
            "shortNames": [short], "verbs": verbs,
        }
        for plural, kind, short, namespaced in listed
    ]  # fmt: skip
    return {"kind": "APIResourceList", "groupVersion": version, "resources": entries}


def refuse(code: int, reason: str, message: str) -> JSONResponse:
    body: Mapping[str, Any] = {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": message,
    }  # fmt: skip
    return JSONResponse(body, code)


def main() -> None:
    folder, port, *backends = sys.argv[1:]
    uvicorn.run(
        StandIn(Path(folder), backends).app,
        port=int(port),
        ssl_certfile=f"{folder}/cluster.pem",
        log_level="warning",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
