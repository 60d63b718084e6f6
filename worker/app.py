"""The worker's composition root: everything is built here, once, and handed down."""

from __future__ import annotations

import logging
import threading
import warnings
from typing import Any

from celery import signals
from celery.apps.worker import Worker
from celery.exceptions import SecurityWarning

from shared.database import Database
from shared.errors import SandboxUnavailable
from shared.job import new_id
from shared.object_store import open_store
from shared.reconciler import Reconciler
from shared.settings import Settings
from shared.task_queue import RUN_JOB, TaskQueue, make_celery, own_queue
from shared.telemetry import configure_logging
from worker.execution import Execution
from worker.job_limits import job_limits
from worker.node import Presence, describe_worker
from worker.node_sharing import NodeSharing
from worker.plan_answering import PlanAnswering
from worker.sandbox import SandboxLevel, probe_level
from worker.warm_runners import WarmRunners
from worker.workspace import Workspace

_LOG = logging.getLogger(__name__)


def run_worker(settings: Settings) -> None:
    """Run one worker node until it is told to stop (SIGTERM or SIGINT); blocks.

    Raises SandboxUnavailable when this node reaches less than `worker.min_sandbox_level`, DatabaseUnavailable when the
    database cannot be reached or has another schema.
    """
    configure_logging(settings.log)
    level = _required_level(settings)
    database = Database(settings.database_url)
    database.require_current_schema()
    store = open_store(settings)
    task_queue = TaskQueue(settings.queue)
    worker_id = new_id("wrk")
    workspace = Workspace(settings.workspace_path, worker_id)
    description = describe_worker(settings.worker, level)
    presence = Presence(database, worker_id, description)
    stopping, stopped = threading.Event(), threading.Event()
    sharing, limits = NodeSharing(settings.node_path), job_limits(settings.worker)
    runners = WarmRunners(is_measured=sharing.is_measured)
    execution = Execution(
        worker_id=worker_id,
        worker=description,
        database=database,
        store=store,
        workspace=workspace,
        runners=runners,
        sharing=sharing,
        settings=settings.jobs,
        limits=limits,
        sandbox_level=level,
        shutdown=stopping,
    )
    reconciler = Reconciler(
        database,
        store,
        task_queue.publish_hint,
        settings.jobs,
        worker_id=worker_id,
        worker=description,
        free_slots=presence.free_slots,
    )
    answering = PlanAnswering(
        worker=description,
        database=database,
        store=store,
        workspace=workspace,
        runners=runners,
        sharing=sharing,
        limits=limits,
        sandbox_level=level,
    )
    threads = [
        threading.Thread(target=runners.run, args=(stopped,), name="warm-runners"),
        threading.Thread(target=answering.run, args=(stopped,), name="plan-answering"),
        threading.Thread(target=presence.run, args=(stopped,), name="presence"),
        threading.Thread(target=reconciler.run, args=(stopped,), name="reconciler"),
    ]
    try:
        for thread in threads:
            thread.start()
        _LOG.info("Worker %s is ready (sandbox: %s)", worker_id, level)
        _consume_hints(settings, worker_id, execution, presence, stopping)
    finally:
        stopping.set()
        stopped.set()
        for thread in threads:
            thread.join()
        runners.close()
        workspace.close()
        task_queue.close()
        store.close()
        database.close()


def _consume_hints(
    settings: Settings, worker_id: str, execution: Execution, presence: Presence, stopping: threading.Event
) -> None:
    celery = make_celery(settings.queue)
    celery.amqp.queues.select_add(own_queue(settings.queue, worker_id))

    @celery.task(name=RUN_JOB)  # type: ignore[untyped-decorator]  # celery is untyped
    def run_job(job_id: str) -> None:
        presence.job_began()
        try:
            execution.run_job(job_id)
        finally:
            presence.job_ended()

    @signals.setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]  # celery is untyped
    def keep_our_logging(**_: Any) -> None:
        """Celery leaves logging alone when somebody listens to this signal."""

    @signals.worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]  # celery is untyped
    def hand_back_jobs(**_: Any) -> None:
        # Jobs that end within the grace end well; the others are handed back, so that another worker begins at once.
        timer = threading.Timer(settings.worker.shutdown_grace_seconds, stopping.set)
        timer.daemon = True
        timer.start()

    # Celery warns whoever runs as root, because of pickle, which it is told not to accept.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    for noisy in ("celery.worker.strategy", "celery.app.trace"):  # a line a hint; Execution tells what became of it
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Threads, not processes: the supervisor waits and copies; what computes is the runner.
    Worker(
        app=celery,
        pool="threads",
        concurrency=settings.worker.concurrency,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    ).start()


def _required_level(settings: Settings) -> SandboxLevel:
    level = probe_level()
    minimum = SandboxLevel(settings.worker.min_sandbox_level)
    if not level.reaches(minimum):
        raise SandboxUnavailable(
            f"This node reaches sandbox level {level!s}; {minimum!s} is required.",
            hint="Landlock needs Linux 5.13 and seccomp; OCTAVO_WORKER__MIN_SANDBOX_LEVEL lowers the demand.",
        )
    return level
