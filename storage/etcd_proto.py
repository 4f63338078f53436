"""The messages and stubs of etcd's protocol, from the descriptors that the etcd3 package ships.

etcd3 0.12.0 was generated for protobuf 3, and today's protobuf refuses its `_pb2` modules; the
serialized descriptors in them are as good as ever. They are read from the sources without running
them, and modules with freshly made message classes stand in for them. What etcd 3.4 added to the
protocol since is added here. `storage.etcd_client` imports it.
"""

import ast
import gc
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "etcd3"
FILES = ("kv", "auth", "rpc")  # each after what it depends on

Field = descriptor_pb2.FieldDescriptorProto
# etcd 3.4, `api/etcdserverpb/rpc.proto`: message, field, number, type.
ADDED = (
    ("WatchCreateRequest", "watch_id", 7, Field.TYPE_INT64),
    ("WatchCreateRequest", "fragment", 8, Field.TYPE_BOOL),
    ("WatchResponse", "fragment", 7, Field.TYPE_BOOL),
    ("WatchRequest", "progress_request", 3, Field.TYPE_MESSAGE),
)
PROGRESS = "WatchProgressRequest"


def load() -> tuple[Any, Any]:
    """The modules `etcdrpc.rpc_pb2` (and with it kv) and `etcdrpc.rpc_pb2_grpc`."""
    name = f"{PACKAGE}.etcdrpc"
    if f"{name}.rpc_pb2" not in sys.modules:
        folder = _folder()
        pool = descriptor_pool.DescriptorPool()
        modules = [
            _messages(pool, (folder / f"{file}_pb2.py").read_text(), f"{name}.{file}_pb2")
            for file in FILES
        ]
        # The package's own __init__ imports a client that this project does not use.
        parent = ModuleType(PACKAGE)
        parent.__path__ = [str(folder.parent)]
        sys.modules.setdefault(PACKAGE, parent)
        sys.modules.update({module.__name__: module for module in modules})
    return (
        importlib.import_module(f"{name}.rpc_pb2"),
        importlib.import_module(f"{name}.rpc_pb2_grpc"),
    )


def _folder() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"the package {PACKAGE} is not installed")
    return Path(found.submodule_search_locations[0]) / "etcdrpc"


def _messages(pool: descriptor_pool.DescriptorPool, source: str, name: str) -> ModuleType:
    """A module with a class for each message of a file, and its enums by name."""
    file = descriptor_pb2.FileDescriptorProto.FromString(_serialized(source))
    _bring_up_to_date(file)
    pool.Add(file)
    module = ModuleType(name)
    prefix = f"{file.package}." if file.package else ""
    for message in file.message_type:
        found = pool.FindMessageTypeByName(prefix + message.name)
        setattr(module, message.name, message_factory.GetMessageClass(found))
    return module


def _bring_up_to_date(file: descriptor_pb2.FileDescriptorProto) -> None:
    messages = {message.name: message for message in file.message_type}
    if "WatchRequest" not in messages:
        return
    file.message_type.add(name=PROGRESS)
    for message, name, number, kind in ADDED:
        field = messages[message].field.add(
            name=name, number=number, type=kind, label=Field.LABEL_OPTIONAL
        )
        if kind == Field.TYPE_MESSAGE:
            field.type_name = f".{file.package}.{PROGRESS}"
            field.oneof_index = 0


def _parse(source: str) -> ast.AST:
    """The tree, made without a garbage collection in between.

    CPython 3.11 refuses its own tree (`AST constructor recursion depth mismatch`) if a finalizer
    that a collection runs happens to call into it.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if collecting:
            gc.enable()


def _serialized(source: str) -> bytes:
    """The argument `serialized_pb=_b('…')` of a generated module."""
    for node in ast.walk(_parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "serialized_pb":
            call = node.value
            if isinstance(call, ast.Call) and isinstance(call.args[0], ast.Constant):
                text = call.args[0].value
                if isinstance(text, str):
                    return text.encode("latin1")
    raise ImportError("a module of etcd3 holds no serialized descriptor")
