"""The types of meta/v1 that every object shares."""

from typing import Any

from apiserver.api.schemas.build import (
    array,
    boolean,
    integer,
    keyed,
    obj,
    ref,
    strings,
    text,
    time,
)

_V1 = "io.k8s.apimachinery.pkg.apis.meta.v1."

DEFINITIONS: dict[str, dict[str, Any]] = {
    _V1 + "ObjectMeta": obj(
        "What every object has: what it is called, what is noted on it, and what the server knows"
        " of its life.",
        name=text("The name of the object, unique within its namespace. Cannot be changed."),
        generateName=text(
            "The beginning of a name that the server completes, where name is not given."
        ),
        namespace=text("The namespace that the object is in. Cannot be changed."),
        labels=strings("Short facts for selectors to find the object by."),
        annotations=strings("Notes of any kind that selectors do not look at."),
        uid=text(
            "Tells this object from any other that had or will have its name. Set by the server."
        ),
        resourceVersion=text(
            "The version of the object, for watches and for safe updates. Opaque; set by the"
            " server."
        ),
        generation=integer("How often the wanted state has changed. Set by the server.", 64),
        creationTimestamp=time("When the object was created. Set by the server."),
        deletionTimestamp=time(
            "When the object was deleted, while something still holds it. Set by the server."
        ),
        deletionGracePeriodSeconds=integer("Seconds between the deletion and its effect.", 64),
        finalizers={
            **array(
                "Who must act before a deleted object is gone; each removes its entry.",
                {"type": "string", "default": ""},
            ),
            "x-kubernetes-list-type": "set",
            "x-kubernetes-patch-strategy": "merge",
        },
        ownerReferences=keyed(
            "The objects that this one depends on; it is collected when all are gone.",
            _V1 + "OwnerReference",
            "uid",
        ),
        managedFields=array(
            "Who set which field. Kept by the server.",
            {"allOf": [{"$ref": _V1 + "ManagedFieldsEntry"}], "default": {}},
        ),
        selfLink=text("No longer set."),
    ),
    _V1 + "OwnerReference": obj(
        "An object that another depends on.",
        required=("apiVersion", "kind", "name", "uid"),
        apiVersion=text("The API version of the owner."),
        kind=text("The kind of the owner."),
        name=text("The name of the owner."),
        uid=text("The UID of the owner."),
        controller=boolean("Whether the owner manages this object."),
        blockOwnerDeletion=boolean("Whether the owner waits for this object to go."),
    ),
    _V1 + "ManagedFieldsEntry": obj(
        "The fields that one manager set.",
        apiVersion=text("The version that the fields are written in."),
        fieldsType=text("The form of fieldsV1: FieldsV1."),
        fieldsV1=obj("The set of fields."),
        manager=text("Who set them."),
        operation=text("Apply or Update."),
        subresource=text("The subresource that was written through, if any."),
        time=time("When they were set."),
    ),
    _V1 + "ListMeta": obj(
        "What a list says of itself.",
        resourceVersion=text("The version of the whole list; a watch can go on from it."),
        remainingItemCount=integer("How many objects follow on later pages, if known.", 64),
        reserved={"continue": text("The token of the next page; absent on the last.")},
        selfLink=text("No longer set."),
    ),
    _V1 + "Preconditions": obj(
        "What must be true of an object for it to be deleted.",
        uid=text("The UID that it must have."),
        resourceVersion=text("The version that it must have."),
    ),
    _V1 + "DeleteOptions": obj(
        "How an object is to be deleted.",
        apiVersion=text("May be left out."),
        kind=text("May be left out."),
        dryRun=array("All: check everything, store nothing.", {"type": "string", "default": ""}),
        gracePeriodSeconds=integer("Not used by these resources.", 64),
        orphanDependents=boolean("Replaced by propagationPolicy."),
        preconditions=ref(_V1 + "Preconditions", "What must be true of the object."),
        propagationPolicy=text("What happens to dependents: Foreground, Background or Orphan."),
    ),
    _V1 + "Patch": obj("A patch, in the form that its Content-Type says."),
    _V1 + "StatusCause": obj(
        "One of the reasons of a failure.",
        field=text("The field that caused it."),
        message=text("What is wrong, for people."),
        reason=text("What is wrong, for machines."),
    ),
    _V1 + "StatusDetails": obj(
        "What a status is about.",
        name=text("The name of the object."),
        group=text("The API group."),
        kind=text("The resource or kind."),
        uid=text("The UID of the object."),
        causes=array(
            "All reasons of a failure.",
            {"allOf": [{"$ref": _V1 + "StatusCause"}], "default": {}},
        ),
        retryAfterSeconds=integer("When to try again."),
    ),
    _V1 + "Status": {
        **obj(
            "The outcome of a request that answers with no object.",
            apiVersion=text("v1"),
            kind=text("Status"),
            metadata=ref(_V1 + "ListMeta", "Empty, or the token to continue a list with."),
            status=text("Success or Failure."),
            message=text("What happened, for people."),
            reason=text("What happened, for machines."),
            details=ref(_V1 + "StatusDetails", "What it is about."),
            code=integer("The HTTP status code."),
        ),
        "x-kubernetes-group-version-kind": [{"group": "", "kind": "Status", "version": "v1"}],
    },
    _V1 + "WatchEvent": obj(
        "One line of a watch.",
        required=("type", "object"),
        type=text("ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."),
        object={
            "description": "The object as it is now; its last state if it was DELETED.",
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
        },
    ),
}
