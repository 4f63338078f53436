"""What a policy of the cluster notes in the audit, beside denying; the texts are upstream's."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from apiserver.admission import policies
from apiserver.admission.cel.evaluator import Budget, Evaluator
from apiserver.admission.judge import FAILURE, Outcome, judge
from apiserver.admission.parameters import Parameters
from apiserver.admission.policies import Asked
from apiserver.auth.attributes import Attributes
from apiserver.auth.user import User

OBJECT = {"metadata": {"name": "a", "labels": {"team": "red"}}}
ASKED = Asked(
    operation="CREATE",
    wanted=Attributes("create", "n", "g", "v", "things"),
    name="a",
    namespace={},
    objects=(OBJECT, None),
)


@pytest.fixture
async def evaluator() -> AsyncIterator[Evaluator]:
    made = Evaluator(None)  # type: ignore[arg-type]
    yield made
    await made.close()


async def judged(
    evaluator: Evaluator, *, actions: tuple[str, ...] = ("Deny",), bindings: int = 1, **spec: Any
) -> Outcome:
    policy = policies.parse_policy({"metadata": {"name": "p"}, "spec": spec})
    bound = [
        policies.parse_binding(
            {
                "metadata": {"name": f"b{number}"},
                "spec": {"policyName": "p", "validationActions": list(actions)},
            }
        )
        for number in range(bindings)
    ]
    in_force = policies.in_force([policy], bound)
    variables = {"object": OBJECT, "oldObject": None, "request": {}, "authorizer": {}}
    nowhere = Parameters(None)  # type: ignore[arg-type]
    return await judge(in_force, ASKED, variables, User("bob"), evaluator, nowhere, Budget())


def noting(*expressions: str) -> list[dict[str, str]]:
    return [{"key": f"k{n}", "valueExpression": text} for n, text in enumerate(expressions)]


async def test_annotations_are_noted_under_the_policys_name(evaluator: Evaluator) -> None:
    noted = noting("' team ' + object.metadata.labels.team", "null", "''", "'x' + 'y'")
    outcome = await judged(evaluator, auditAnnotations=noted, bindings=2)
    assert outcome.annotations == {"p/k0": "team red", "p/k3": "xy"}
    assert outcome.denied == []


async def test_an_annotation_is_a_text(evaluator: Evaluator) -> None:
    for action in ("Deny", "Warn"):
        outcome = await judged(evaluator, auditAnnotations=noting("1"), actions=(action,))
        ((who, denial),) = outcome.denied
        assert who == "ValidatingAdmissionPolicy 'p' with binding 'b0'"
        assert denial.message == (
            "valueExpression '1' resulted in unsupported return type."
            " Return type must be either string or null."
        )


async def test_failures_are_noted_where_the_binding_says_so(evaluator: Evaluator) -> None:
    no = [{"expression": "true"}, {"expression": "false", "message": "no"}]
    outcome = await judged(evaluator, validations=no, actions=("Audit", "Warn"), bindings=2)
    assert outcome.annotations == {
        FAILURE: '[{"message":"no","policy":"p","binding":"b0","expressionIndex":1,'
        '"validationActions":["Audit","Warn"]}]'
    }
    assert outcome.denied == []
    assert outcome.warnings == [
        f"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b{number}': no"
        for number in range(2)
    ]


async def test_a_message_that_is_too_long_is_not_used(evaluator: Evaluator) -> None:
    said = "'%s' + 'a'.replace('a', '" + "a" * 6000 + "')"
    for text, expected in ((said, "m"), ("'short'", "short")):
        no = {"expression": "false", "messageExpression": text, "message": "m"}
        outcome = await judged(evaluator, validations=[no])
        assert [denial.message for _, denial in outcome.denied] == [expected]


async def test_a_policy_that_nobody_bound_judges_nothing(evaluator: Evaluator) -> None:
    assert (await judged(evaluator, validations=[{"expression": "false"}], bindings=0)) == Outcome()
