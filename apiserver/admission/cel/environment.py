"""The environment that expressions are compiled in. Only the process that evaluates loads it.

Its variables are those of k8s.io/apiserver `pkg/admission/plugin/cel/compile.go`; objects have no
schema here, so that a misspelt field is an error when it is read and not before.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext import ext_bindings, ext_encoders, ext_math, ext_optional, ext_strings

from apiserver.admission.cel.library import Function

PROGRAMS = 4096  # compiled expressions that are kept
VARIABLES = {
    "object": cel.Type.DYN,  # null in a delete
    "oldObject": cel.Type.DYN,  # null in a create
    "namespaceObject": cel.Type.DYN,  # null for webhooks
    "params": cel.Type.DYN,
    "request": cel.Type.MAP,
    "authorizer": cel.Type.MAP,
    "variables": cel.Type.MAP,  # a policy's own
}

# What differs between policies is kept out of the activation, which converts what it has once: the
# object, above all. `cel.bind` is lazy.
BOUND = "cel.bind(variables, bound__variables(), cel.bind(params, bound__params(), (%s\n)))"

Json = dict[str, Any]


class Failed(Exception):
    """No value came out; `compiled` is whether it was an expression at all."""

    def __init__(self, message: str, *, compiled: bool = True) -> None:
        super().__init__(message)
        self.compiled = compiled


class Environment:
    """Compiles each expression once. `variables` and `params` are what the bound ones find."""

    def __init__(self, functions: Iterable[Function]) -> None:
        self.variables: Json = {}
        self.params: Any = None
        binding = (
            Function("bound__variables", (), "MAP", lambda: self.variables, member=False),
            Function("bound__params", (), "DYN", lambda: self.params, member=False),
        )
        self._env = cel.NewEnv(
            variables=VARIABLES,
            functions=_declared((*functions, *binding)),
            extensions=[
                ext_bindings.ExtBindings(),
                ext_encoders.ExtEncoders(),
                ext_math.ExtMath(),
                ext_optional.ExtOptional(),
                ext_strings.ExtStrings(),
            ],
        )
        self._env.compile("true")  # it is built at the first, and must not be built of what is left
        self._compiled = functools.lru_cache(PROGRAMS)(self._compile)

    def activation(self, variables: Mapping[str, Any]) -> Any:
        return self._env.Activation(variables)

    def program(self, expression: str, *, bound: bool = False) -> Any:
        """`Failed` where it is no expression."""
        program = self._compiled(expression)
        if bound and not isinstance(program, str):
            program = self._compiled(BOUND % expression)
        if isinstance(program, str):
            raise Failed(f"compilation error: {program}", compiled=False)
        return program

    def run(self, program: Any, expression: str, activation: Any) -> Any:
        """The runtime's value. `Failed`."""
        try:
            found = program.eval(activation)
            if found.type() != cel.Type.ERROR:
                return found
            why = str(found.plain_value())
        except (RuntimeError, ValueError, TypeError, OverflowError) as error:
            why = str(error)
        raise Failed(f"expression '{expression}' resulted in error: {_upstream(why)}")

    def _compile(self, expression: str) -> Any:
        """The program; or why there is none."""
        try:
            return self._env.compile(expression)
        except (RuntimeError, ValueError) as error:
            return str(error).partition("\n")[0].removeprefix("INVALID_ARGUMENT: ")


def _declared(functions: Iterable[Function]) -> list[Any]:
    overloads: dict[str, list[Any]] = {}
    for number, function in enumerate(functions):
        made = cel.Overload(
            f"{function.name}_{number}",
            return_type=getattr(cel.Type, function.returns),
            parameters=[getattr(cel.Type, name) for name in function.parameters],
            is_member=function.member,
            impl=function.call,
        )
        overloads.setdefault(function.name, []).append(made)
    return [cel.FunctionDecl(name, made) for name, made in overloads.items()]


def _upstream(why: str) -> str:
    """In the words of cel-go, which users know."""
    text = re.sub(r"^[A-Z_]+: ", "", why)
    if missing := re.fullmatch(r'Key not found in map : "?(.*?)"?', text):
        return f"no such key: {missing[1]}"
    return text.replace("No matching overloads found :", "no such overload:")
