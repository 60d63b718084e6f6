"""The queues that carry hints, one that all workers share and one of each worker's own: Celery on Redis, JSON only.

A message holds a job id and nothing else, and may be lost, doubled or late: the database row is the truth. Celery's own
redelivery is not relied on (with it, a killed worker's task came back after 92 s, and a long task ran twice at once).
"""

from __future__ import annotations

import logging

from celery import Celery
from kombu.entity import Exchange, Queue
from kombu.exceptions import KombuError, OperationalError
from redis.exceptions import RedisError

from shared.settings import QueueSettings

RUN_JOB = "octavo.run_job"
_LOG = logging.getLogger(__name__)
# After so long the queue of a worker that went away is gone, whatever was left in it.
_OWN_QUEUE_SECONDS = 3600


def own_queue(settings: QueueSettings, worker_id: str) -> Queue:
    """The queue for hints that only this worker should get: of jobs that ask for hardware which it has."""
    name = f"{settings.name}.{worker_id}"
    exchange = Exchange(name, type="direct")  # type: ignore[no-untyped-call]  # kombu is untyped
    return Queue(name, exchange, routing_key=name, expires=_OWN_QUEUE_SECONDS)  # type: ignore[no-untyped-call]


def make_celery(settings: QueueSettings) -> Celery:
    """The Celery application, the same in the API (which only sends) and the worker."""
    celery = Celery("octavo", broker=settings.broker_url.get_secret_value(), set_as_current=False)
    celery.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        task_default_queue=settings.name,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_soft_shutdown_timeout=0,  # the supervisor hands its jobs back itself
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": 86400,
            "socket_timeout": 30,  # without it a half-open connection is never noticed
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    return celery


class TaskQueue:
    """Sends hints."""

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings
        self._celery = make_celery(settings)
        # A hint is best effort: kombu's own patience holds its sender up for 6 s where nothing listens (seen).
        self._celery.conf.broker_transport_options |= {"max_retries": 1, "interval_start": 0, "interval_step": 0.1}

    def publish_hint(self, job_id: str, worker_id: str | None = None) -> bool:
        """Tell the workers, or this one, of a job; False when the broker does not answer.

        The reconciler will send it again.
        """
        queue = self._settings.name if worker_id is None else own_queue(self._settings, worker_id)
        try:
            self._celery.send_task(RUN_JOB, args=[job_id], queue=queue, retry=False, ignore_result=True)
        except (KombuError, OperationalError, RedisError, OSError) as error:
            _LOG.warning("No hint sent for %s: %s", job_id, error)
            return False
        return True

    def check(self) -> bool:
        """Whether the broker answers."""
        try:
            with self._celery.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
        except (KombuError, OperationalError, RedisError, OSError):
            return False
        return True

    def close(self) -> None:
        """Close the pooled connections."""
        self._celery.close()
