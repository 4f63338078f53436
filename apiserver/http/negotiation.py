"""Which representation a request's Accept header asks for, and what it sends.

Pure; k8s.io/apiserver `pkg/endpoints/handlers/negotiation`. Clauses that cannot be served are
skipped, so that a Go client's `protobuf,json` falls through to JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from apiserver.api import status

JSON = "application/json"
YAML = "application/yaml"
FORM = "application/x-www-form-urlencoded"  # what `curl -d` sends, whatever the body is
PROTOBUF = "application/vnd.kubernetes.protobuf"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
PATCHES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)
BROWSERS = ("curl", "Wget", "Mozilla/5.0")
META = "meta.k8s.io"
TRUE = ("1", "t", "T", "TRUE", "true", "True")


@dataclass(frozen=True, slots=True)
class Output:
    """A chosen representation.

    `transform` is "", "Table", "PartialObjectMetadata" or "PartialObjectMetadataList"; `version`
    is the meta.k8s.io version of a transform; `include` is what a row of a Table holds of its
    object: None, Metadata or Object.
    """

    media: str = JSON
    transform: str = ""
    version: str = "v1"
    pretty: bool = False
    include: str = "Metadata"


@dataclass(frozen=True, slots=True)
class Clause:
    """One clause of an Accept header: its media type and parameters, and how much it is wanted."""

    media: str
    parameters: Mapping[str, str]
    quality: float


def clauses(accept: str) -> list[Clause]:
    """The clauses in order of preference."""
    found = []
    for text in accept.split(","):
        media, *rest = (part.strip() for part in text.split(";"))
        if not media:
            continue
        pairs = dict(part.split("=", 1) for part in rest if "=" in part)
        try:
            quality = float(pairs.pop("q", 1))
        except ValueError:
            quality = 1.0
        found.append(Clause(media.lower(), pairs, quality))
    return sorted(found, key=lambda clause: -clause.quality)


def output(
    accept: str,
    *,
    agent: str = "",
    pretty: str = "",
    include: str = "",
    stream: bool = False,
) -> Output:
    """The first clause that can be served. 406 where none can, 400 for a bad `include`."""
    return _output(accept, agent.startswith(BROWSERS), pretty, include, stream)


@lru_cache(maxsize=256)
def _output(accept: str, person: bool, pretty: str, include: str, stream: bool) -> Output:
    wanted = clauses(accept) or [Clause("*/*", {}, 1.0)]
    for clause in wanted:
        media = {"*/*": JSON, "application/*": JSON}.get(clause.media, clause.media)
        if media not in (JSON, YAML) or (stream and media == YAML):
            continue
        transform, version = clause.parameters.get("as", ""), clause.parameters.get("v", "v1")
        if transform and not _transforms(transform, version, clause.parameters.get("g")):
            continue
        held = _include(include) if transform == "Table" else ""
        return Output(media, transform, version, _pretty(pretty, person, clause), held)
    if stream:
        raise status.not_acceptable([f"{JSON};stream=watch"])
    raise status.not_acceptable([JSON, YAML])


def _transforms(transform: str, version: str, group: str | None) -> bool:
    if group != META or version not in ("v1", "v1beta1"):
        return False
    return transform in ("Table", "PartialObjectMetadata", "PartialObjectMetadataList")


def _include(asked: str) -> str:
    if asked not in ("", "None", "Metadata", "Object"):
        raise status.bad_request(
            f'Unable to convert to Table as requested: includeObject: Invalid value: "{asked}":'
            " must be 'Metadata', 'Object', 'None', or empty"
        )
    return asked or "Metadata"


def for_errors(accept: str, *, agent: str, pretty: str) -> Output:
    """How a Status is written: as the object would have been, but never transformed.

    Whoever asked for a Table or for something unknown is taken for a person and gets it indented.
    """
    try:
        found = output(accept, agent=agent, pretty=pretty)
    except status.StatusError:
        return Output(pretty=True)
    return Output(found.media, pretty=found.pretty or bool(found.transform))


def _pretty(asked: str, person: bool, clause: Clause) -> bool:
    if asked:
        return asked in TRUE
    return clause.parameters.get("pretty") in TRUE or person


def body(content_type: str) -> str:
    """The media type of a request's object: JSON, YAML or protobuf. 415 for any other.

    A form is read as JSON: `curl -d` labels every body so, and the post's own command is one.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media in ("", JSON, FORM):
        return JSON
    if media in (YAML, PROTOBUF):
        return media
    raise status.unsupported_media_type([JSON, YAML])


def patch(content_type: str) -> str:
    """The media type of a patch. 415 for any that is not served."""
    media = content_type.partition(";")[0].strip().lower()
    if media not in PATCHES:
        raise status.unsupported_media_type(PATCHES)
    return media
