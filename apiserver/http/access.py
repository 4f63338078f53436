"""`kubectl auth can-i`: may the caller do something? In standalone mode, which knows no users: yes.

What the AlwaysAllow authorizer of kube-apiserver answers; in a cluster kube-apiserver itself is
asked.
"""

from fastapi import APIRouter, Request
from starlette.responses import Response

from apiserver.api import strict
from apiserver.http import body, negotiation, responses
from apiserver.registry.large import Room

PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
REASON = "standalone mode knows no users: everybody who reaches it may do everything"


def router() -> APIRouter:
    routes = APIRouter()

    @routes.post(PATH)
    async def review(request: Request) -> Response:
        data = await body.read(request, Room(0))  # none is large
        media = negotiation.body(request.headers.get("content-type", ""))
        asked = {} if media == negotiation.PROTOBUF else strict.decode_json(data)[0]
        spec = asked.get("spec") if isinstance(asked, dict) else None
        answer = {
            "kind": "SelfSubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "metadata": {},
            "spec": spec or {},
            "status": {"allowed": True, "reason": REASON},
        }
        return responses.document(answer, code=201)

    return routes
