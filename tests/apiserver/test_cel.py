"""Expressions in CEL: what Kubernetes adds to the language, and what none of them can do."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from apiserver.admission.cel.evaluator import LARGEST, SECONDS, Budget, Evaluator, Failed, Result
from apiserver.admission.cel.job import SPENT, Task, exceeded
from apiserver.auth.attributes import Attributes
from apiserver.auth.authorize import Decision, Undecided
from apiserver.auth.user import User

BOB = User("bob", groups=("people",))


class Authorizer:
    """Bob may do anything to pods; of secrets nobody can say."""

    def __init__(self) -> None:
        self.asked: list[tuple[User, Attributes]] = []

    async def authorize(self, user: User, wanted: Attributes) -> Decision:
        self.asked.append((user, wanted))
        if wanted.resource == "secrets":
            raise Undecided("away")
        return Decision(user == BOB and wanted.resource == "pods", "as a test has it")


@pytest.fixture
def authorizer() -> Authorizer:
    return Authorizer()


@pytest.fixture
async def evaluator(authorizer: Authorizer) -> AsyncIterator[Evaluator]:
    made = Evaluator(authorizer)  # type: ignore[arg-type]
    yield made
    await made.close()


async def one(evaluator: Evaluator, expression: str, **variables: Any) -> Result:
    found = {"request": {}, "authorizer": {"requestResource": {"group": ""}}, **variables}
    task = Task(expressions=[expression])
    ((_, (result,)),) = await evaluator.evaluate([task], found, BOB, Budget())
    return result


async def error(evaluator: Evaluator, expression: str, **variables: Any) -> str:
    try:
        return (await one(evaluator, expression, **variables)).error
    except Failed as failure:
        return str(failure)


@pytest.mark.parametrize(
    "expression",
    [
        "'a1b2'.find('[0-9]') == '1' && 'ab'.find('[0-9]') == ''",
        "'a1b2'.findAll('[0-9]') == ['1', '2'] && 'a1b2'.findAll('[0-9]', 1) == ['1']",
        "'good\\n'.find('^[a-z]+$') == '' && 'a٣'.find('[0-9]|\\\\d') == ''",
        "'é1'.find('\\\\pL') == 'é' && 'a1'.find('[[:alpha:]]+') == 'a'",
        "'ab'.find('b\\\\z') == 'b'",
        "'baaab'.findAll('a*') == ['', 'aaa', ''] && 'ab'.findAll('.', 0) == []",
        "[1, 2, 2].isSorted() && !['b', 'a'].isSorted()",
        "[1, 2].sum() == 3 && [2, 1].min() == 1 && ['a', 'b'].max() == 'b'",
        "sets.contains([1, 2], [2]) && !sets.contains([1], [true])",
        "sets.contains([[1], {'a': 1}], [{'a': 1}]) && !sets.intersects([[1]], [[2]])",
        "sets.equivalent([1, 1, 2], [2, 1]) && !sets.equivalent([1], [1, 2])",
        "sets.intersects([1, 2], [2, 3]) && !sets.intersects([1], [])",
        "'aBc'.upperAscii() == 'ABC' && ' a '.trim() == 'a' && 'abc'.substring(1, 2) == 'b'",
        "'a,b'.split(',').join('-') == 'a-b' && 'abc'.replace('b', 'x') == 'axc'",
        "'%s is %d'.format(['one', 1]) == 'one is 1' && 'abcb'.lastIndexOf('b') == 3",
        "'pod-1'.matches('^pod-[0-9]+$') && math.greatest(1, 3, 2) == 3",
        "object.?a.?b.orValue('none') == 'none' && object.l[?5].hasValue() == false",
        "cel.bind(x, object.l.size(), x * x) == 9 && base64.encode(b'a') == 'YQ=='",
        "timestamp('2020-01-02T00:00:00Z') - duration('24h') == timestamp('2020-01-01T00:00:00Z')",
        "object.l.exists(x, x == 2) && object.l.map(x, x > 1, x * 2) == [4, 6]",
        "object.n == 3 && object.f == 1.5 && object.z == null && type(object.l) == list",
        "(object.missing == 1 || true) && !(false && object.missing)",
        "quantity('1.5Gi').isGreaterThan(quantity('1500M')) && quantity('1k') == quantity('1e3')",
        "quantity('250m').add(quantity('0.75')).asInteger() == 1",
        "quantity('2').sub(3).sign() == -1",
        "quantity('1').compareTo(quantity('1000m')) == 0",
        "quantity('1.5').asApproximateFloat() > 1.4",
        "isQuantity('1Ki') && !isQuantity('1KiB') && !quantity('1.5').isInteger()",
        "ip('10.0.0.1').family() == 4 && ip('::1').isLoopback() && !isIP('10.0.0.01')",
        "!isIP('a')",
        "ip('fe80::1').isLinkLocalUnicast() && ip('224.0.0.1').isLinkLocalMulticast()",
        "ip('8.8.8.8').isGlobalUnicast() && !ip('255.255.255.255').isGlobalUnicast()",
        "ip.isCanonical('2001:db8::1') && !ip.isCanonical('2001:DB8::1')",
        "ip('::').isUnspecified()",
        "cidr('10.0.0.0/8').containsIP('10.1.1.1') && !cidr('10.0.0.0/8').containsIP(ip('::1'))",
        "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && !isCIDR('10.0.0.0') && isCIDR('::/0')",
        "cidr('10.1.1.1/8').masked() == cidr('10.0.0.0/8')",
        "cidr('10.1.1.1/8').prefixLength() == 8",
        "cidr('10.1.1.1/8').ip() == ip('10.1.1.1') && !isCIDR('10.0.0.0/255.0.0.0')",
        "url('https://a.b:80/c d?x=1&x=2#f').getHost() == 'a.b:80' && isURL('/a') && !isURL('a')",
        "url('https://a.b:80/c d?x=1&x=2').getPort() == '80'",
        "url('https://[::1]/').getPort() == ''",
        "url('https://[::1]:80/').getHostname() == '::1'",
        "url('https://A/').getScheme() == 'https'",
        "url('https://a/c d?x=1&x=2').getEscapedPath() == '/c%20d' && !isURL('https://a:b/')",
        "url('/?x=1&x=2&y').getQuery() == {'x': ['1', '2'], 'y': ['']}",
        "object['a-b'] == 1 && 'a-b' in object && has(object.n) && !has(object.q)",
    ],
)
async def test_the_language(evaluator: Evaluator, expression: str) -> None:
    obj = {"l": [1, 2, 3], "n": 3, "f": 1.5, "z": None, "a-b": 1}
    assert await one(evaluator, expression, object=obj) == Result(True)


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("1 +", "compilation error: ERROR: <input>:1:4: Syntax error"),
        ("nothing", "compilation error: ERROR: <input>:1:1: undeclared reference to 'nothing'"),
        ("1 == 'a'", "compilation error: ERROR: <input>:1:3: found no matching overload"),
        ("semver('1.0.0').major() == 1", "compilation error: ERROR: <input>:1:7: undeclared"),
        ("quantity('1.5').asInteger() == 1", "resulted in error: cannot convert value to integer"),
        ("quantity('1 k').sign() == 1", "resulted in error: quantities must match"),
        ("ip('1.2.3').family() == 4", "resulted in error: '1.2.3' does not appear to be"),
        ("ip('::ffff:1.2.3.4').family() == 4", "is not allowed"),
        ("url('a/b').getHost() == ''", "invalid URI for request"),
        (
            "ip('1.1.1.1').asInteger() == 1",
            "resulted in error: no such overload: it is no quantity",
        ),
        ("object.a.b == 1", "expression 'object.a.b == 1' resulted in error: no such key: a"),
        ("object.size() > 9223372036854775807 + 1", "resulted in error: integer overflow"),
        ("[1, 'a'].max() == 1", "resulted in error: '>' not supported"),
        ("'a'.find('(') == ''", "resulted in error: error parsing regexp: missing ): ("),
        ("authorizer.path(' ').check('get').allowed()", "error: path must not be empty"),
        ("authorizer.group('').resource('').check('a').allowed()", "resource must not be empty"),
        ("authorizer.group('').check('get').allowed()", "error: no such overload: check"),
    ],
)
async def test_an_error_says_what_is_wrong(evaluator: Evaluator, expression: str, why: str) -> None:
    found = await one(evaluator, expression, object={"l": [1]})
    assert found.value is None
    assert why in found.error
    assert found.error


TIME = "object.list.all(x, object.text.find('[^a]') == '')"
MEMORY = "object.text.replace('a', object.text).size() > 0"
LARGE = {"text": "a" * 1_000_000, "list": ["a"] * 9000}


@pytest.mark.parametrize(
    "expression",
    [
        TIME,
        MEMORY,
        "object.list.map(x, object.list.map(y, x)).size() > 0",
        "object.list.all(x, object.list.all(y, object.list.all(z, z == x)))",
    ],
)
async def test_no_expression_takes_more_than_its_share(
    evaluator: Evaluator, expression: str
) -> None:
    found = await error(evaluator, expression, object=LARGE)
    assert found == exceeded(expression) or "Iteration budget exceeded" in found
    assert await one(evaluator, "object.list.size() == 9000", object=LARGE) == Result(True)


async def test_one_that_takes_too_much_leaves_the_results_of_others(evaluator: Evaluator) -> None:
    early, late = "object.list.size() == 9000", "object.text.size() == 1"
    composed = [("slow", TIME), ("size", "object.list.size()"), ("unused", MEMORY)]
    uses = ["variables.size == 9000", "variables.slow", "variables.size == 1"]
    tasks = [
        Task(expressions=[early, TIME, late]),
        Task(conditions=["true", MEMORY], expressions=["true"]),
        Task(expressions=uses, composed=composed),
        Task(conditions=["true"], expressions=["params == 1"], params=0),
        Task(conditions=["false", "1 +"], expressions=["true"]),
    ]
    budget = Budget()
    begun = time.monotonic()
    one, two, three, four, five = await evaluator.evaluate(
        tasks, {"object": LARGE}, BOB, budget, params=[1]
    )
    assert one.results == [Result(True), Result(error=exceeded(TIME)), Result(False)]
    assert one.conditions == []
    assert two.conditions == [Result(True), Result(error=exceeded(MEMORY))]
    assert two.results == []
    why = f'composited variable "slow" fails to evaluate: {exceeded(TIME)}'
    assert three.results == [Result(True), Result(error=why), Result(False)]
    assert four.results == [Result(True)]
    assert five.conditions[0] == Result(False)
    assert five.results == []
    assert budget.left < SECONDS / 2
    assert time.monotonic() - begun < 10


async def test_what_is_too_large_is_not_judged(evaluator: Evaluator) -> None:
    with pytest.raises(Failed, match="larger than 33554432 bytes"):
        await one(evaluator, "true", object={"text": "a" * LARGEST})


async def test_a_write_has_one_budget_for_all(evaluator: Evaluator) -> None:
    budget = Budget()
    costly = [f"{TIME} || {number} == 0" for number in range(20)]
    ((_, found),) = await evaluator.evaluate(
        [Task(expressions=[*costly, "true"])], {"object": LARGE}, BOB, budget
    )
    assert found[0] == Result(error=exceeded(costly[0]))
    assert found[-1] == Result(error=SPENT)
    assert budget.left < 0.1
    ((_, (late,)),) = await evaluator.evaluate([Task(expressions=["true"])], {}, BOB, budget)
    assert late == Result(error=SPENT) or budget.left > 0


async def test_the_authorizer_is_asked_for_what_is_checked(
    evaluator: Evaluator, authorizer: Authorizer
) -> None:
    pods = "authorizer.group('').resource('pods').subresource('log').namespace('n').name('p')"
    chosen = f"{pods}.fieldSelector('spec.nodeName=a').labelSelector('a in (b)').check('list')"
    secrets = "authorizer.group('').resource('secrets').check('get')"
    account = "authorizer.serviceAccount('n', 'a').group('').resource('pods').check('get')"
    for expression in (
        f"{chosen}.allowed() && {chosen}.reason() == 'as a test has it'",
        f"{secrets}.errored() && {secrets}.error() == 'away' && !{secrets}.allowed()",
        f"!{account}.allowed() && {account}.error() == ''",
        # One that depends on the answer to another.
        f"{chosen}.allowed() ? !{account}.allowed() : false",
    ):
        assert await one(evaluator, expression) == Result(True), expression
    user, wanted = authorizer.asked[0]
    assert user == BOB
    assert wanted[:7] == ("list", "n", "", "*", "pods", "log", "p")
    assert wanted.fields[0][0] == "spec.nodeName"
    assert wanted.labels[0][0] == "a"
    user, _ = next(asked for asked in authorizer.asked if asked[0] != BOB)
    assert user.name == "system:serviceaccount:n:a"
    assert user.groups == ("system:serviceaccounts", "system:serviceaccounts:n")


async def test_checks_are_bounded(evaluator: Evaluator, authorizer: Authorizer) -> None:
    each = "object.all(x, !authorizer.path('/' + string(x)).check('get').allowed())"
    assert await one(evaluator, each, object=list(range(28))) == Result(True)
    found = await one(evaluator, each, object=list(range(500)))
    assert "more than 28 authorization checks" in found.error
    assert len(authorizer.asked) == 56


async def test_composed_variables_see_those_before_them(evaluator: Evaluator) -> None:
    composed = [
        ("names", "object.map(x, x.name)"),
        ("many", "variables.names.size() > 1"),
        ("broken", "object[5].name"),
        ("time", "timestamp('2020-01-01T00:00:00Z')"),
    ]
    expressions = [
        "variables.many && variables.names == ['a', 'b']", "variables.broken == ''",
        "variables.time == variables.time", "variables.none == 1",
    ]  # fmt: skip
    objects = {"object": [{"name": "a"}, {"name": "b"}]}
    task = Task(expressions=expressions, composed=composed)
    ((_, found),) = await evaluator.evaluate([task], objects, BOB, Budget())
    assert found[0] == Result(True)
    assert found[1].error.startswith('composited variable "broken" fails to evaluate: ')
    assert found[2].error.startswith('composited variable "time" fails to evaluate: ')
    assert found[3].error.endswith("no such key: none")


def evaluating() -> set[str]:
    """The processes that this one has for it."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {pid for pid in children if b"cel.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()}


async def test_a_process_is_started_for_the_first_expression_and_replaced(
    evaluator: Evaluator,
) -> None:
    assert evaluating() == set()
    assert await one(evaluator, "1 == 1") == Result(True)
    (first,) = evaluating()
    environment = Path(f"/proc/{first}/environ").read_bytes()
    assert b"PATH" not in environment  # nor anything else of ours
    # When memory is short, the kernel begins with these.
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    assert len(children) == 1
    for pid in (first, *children):
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
    os.kill(int(first), signal.SIGKILL)
    async with asyncio.timeout(10):
        while evaluating() in (set(), {first}):
            assert await one(evaluator, "1 == 1") == Result(True)
    assert len(evaluating()) == 1
