"""netpol-apiserver: read the settings, open the store, serve until told to stop."""

import gc
import random
import signal
import sys
import time
from typing import TYPE_CHECKING

import structlog
import uvicorn
import uvloop
from pydantic import ValidationError

import storage
from apiserver import logs
from apiserver.api import origins
from apiserver.app import Tuning, create_app
from apiserver.cluster.access import BadAccess
from apiserver.lifecycle import Lifecycle
from apiserver.server import DRAIN, KEEP_ALIVE, Protocol, Server, WebSocket
from apiserver.settings import Settings, default_database, listed
from storage.connect import connect, without_password

if TYPE_CHECKING:
    from apiserver.http.audit import Auditor

COLLECT = (50_000, 20, 100)  # objects, then collections of the younger generation
COMMANDS = ("migrate", "backup", "restore", "doctor")  # of `apiserver.commands`

log = structlog.get_logger()


def main() -> None:
    """The console script. Exit status 2: bad settings; 1: the store cannot be opened."""
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        from apiserver import commands

        commands.app(prog_name="netpol-apiserver")
    try:
        settings = Settings(_cli_parse_args=True)
    except ValidationError as error:
        for problem in error.errors():
            place = ".".join(str(part) for part in problem["loc"]) or "settings"
            sys.stderr.write(f"netpol-apiserver: {place.replace('_', '-')}: {problem['msg']}\n")
        raise SystemExit(2) from None
    # Nearly all that lives long here is free of cycles, and to look through it takes long.
    gc.set_threshold(*COLLECT)
    logs.configure(settings.log_format)
    # uvicorn raises the signal that ended it once more when it is done: then this ends the process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    shown = settings.model_dump(mode="json", exclude_none=True)
    for name in ("database_url", "etcd_servers"):
        shown[name] = without_password(shown[name])
    log.info("settings", **shown)
    try:
        uvloop.run(serve(settings))
    except (storage.StorageError, BadAccess, OSError) as error:
        log.error("cannot serve", error=str(error))
        raise SystemExit(1) from None


async def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM."""
    audits = auditor(settings)
    try:
        await _serve(settings, audits)
    finally:
        if audits is not None:
            await audits.close()


async def _serve(settings: Settings, audits: "Auditor | None") -> None:
    store = await connect(
        etcd_servers=settings.endpoints,
        etcd_prefix=settings.etcd_prefix,
        etcd_cafile=settings.etcd_cafile,
        etcd_certfile=settings.etcd_certfile,
        etcd_keyfile=settings.etcd_keyfile,
        database_url=settings.database_url or ("" if settings.endpoints else default_database()),
    )
    lifecycle, rand = Lifecycle(), random.SystemRandom()
    extension = None
    if not settings.standalone:
        from apiserver.extension import Extension  # and with it all that speaks with a cluster

        try:
            extension = Extension(settings, rand=rand)
        except ValueError as error:
            raise BadAccess(str(error)) from error
    app = create_app(
        store=store,
        lifecycle=lifecycle,
        clock=time.time,
        rand=rand,
        tuning=Tuning(
            reads=settings.max_requests_inflight,
            writes=settings.max_mutating_requests_inflight,
            timeout=settings.request_timeout,
            min_watch=settings.min_request_timeout,
            retention=settings.history_retention,
            compaction=settings.compaction_interval,
        ),
        store_name="etcd" if settings.endpoints else "storage",
        extension=extension,
        auditor=audits,
        origins=origins.parse(listed(settings.cors_allowed_origins)),
    )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.insecure_port if extension is None else settings.secure_port,
        ssl_context_factory=None if extension is None else extension.context,
        http=Protocol,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=DRAIN,
        ws=WebSocket,
    )
    try:
        await Server(config, lifecycle=lifecycle, delay=settings.shutdown_delay_duration).serve()
    finally:
        if lifecycle.failed.is_set():
            raise SystemExit(1)


def auditor(settings: Settings) -> "Auditor | None":
    """None where there is no policy, or no place to go: then nothing is audited, as upstream."""
    places = settings.audit_log_path or settings.audit_webhook_config_file
    if settings.audit_policy_file is None or not places:
        if settings.audit_policy_file or places:
            log.warning(
                "nothing is audited: --audit-policy-file goes together with --audit-log-path or"
                " --audit-webhook-config-file"
            )
        return None
    from apiserver.audit import outputs, policy
    from apiserver.http.audit import UNSECURED, Auditor

    try:
        rules = policy.read(settings.audit_policy_file)
        return Auditor(
            rules,
            outputs.opened(settings, rand=random.SystemRandom()),
            user=UNSECURED if settings.standalone else None,
        )
    except ValueError as error:
        raise BadAccess(str(error)) from error


def _leave(number: int, frame: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
