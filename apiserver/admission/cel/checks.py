"""`authorizer` in an expression: `authorizer.group('').resource('pods').check('get').allowed()`.

k8s.io/apiserver `pkg/cel/library/authz.go`. The process that evaluates asks nobody: a check whose
answer is not there is an error and is remembered as asked, and the whole is evaluated again with
the answers. What upstream has a type for is a map here.
"""

import json
from collections.abc import Mapping
from typing import Any

from apiserver.admission.cel.library import Function

MOST = 28  # checks in an evaluation: what upstream's budget of 10,000,000 leaves room for

Json = dict[str, Any]


class Unanswered(Exception):
    """It has to be asked first."""


class Checks:
    """`answers` are by question; `asked` what there was no answer for.

    It begins with each policy or webhook, which have their checks each.
    """

    def __init__(self) -> None:
        self.answers: Mapping[str, Json] = {}
        self.asked: list[str] = []
        self._made: set[str] = set()

    def begin(self, answers: Mapping[str, Json]) -> None:
        self.answers, self.asked, self._made = answers, [], set()

    def check(self, wanted: Json, verb: str) -> Json:
        if not {"path", "resource"} & wanted.keys():
            raise ValueError("no such overload: check")
        question = json.dumps({**wanted, "verb": verb}, sort_keys=True)
        if question not in self._made and len(self._made) >= MOST:
            raise ValueError(f"more than {MOST} authorization checks")
        self._made.add(question)
        if question in self.answers:
            return self.answers[question]
        if question not in self.asked:
            self.asked.append(question)
        raise Unanswered("the authorization check is not answered")

    def functions(self) -> tuple[Function, ...]:
        def narrow(key: str) -> Function:
            return Function(
                key, ("MAP", "STRING"), "MAP", lambda wanted, value: {**wanted, key: value}
            )

        def answer(name: str, returns: str) -> Function:
            return Function(name, ("MAP",), returns, lambda decision: decision[name])

        return (
            Function("path", ("MAP", "STRING"), "MAP", _path),
            Function("group", ("MAP", "STRING"), "MAP", _group),
            Function("resource", ("MAP", "STRING"), "MAP", _resource),
            Function("serviceAccount", ("MAP", "STRING", "STRING"), "MAP", _account),
            *map(narrow, ("subresource", "namespace", "name", "fieldSelector", "labelSelector")),
            Function("check", ("MAP", "STRING"), "MAP", self.check),
            answer("allowed", "BOOL"),
            answer("errored", "BOOL"),
            answer("reason", "STRING"),
            answer("error", "STRING"),
        )


def _whose(authorizer: Json) -> Json:
    """For whom it asks: the one of the request, or a service account."""
    return {key: authorizer[key] for key in ("account",) if key in authorizer}


def _path(authorizer: Json, path: str) -> Json:
    if not path.strip():
        raise ValueError("path must not be empty")
    return {**_whose(authorizer), "path": path}


def _group(authorizer: Json, group: str) -> Json:
    return {**_whose(authorizer), "group": group}


def _resource(group: Json, resource: str) -> Json:
    if not resource.strip():
        raise ValueError("resource must not be empty")
    return {**group, "resource": resource}


def _account(_: Json, namespace: str, name: str) -> Json:
    return {"account": [namespace, name]}
