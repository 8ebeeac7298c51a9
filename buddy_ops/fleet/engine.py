"""Steps on many targets at once, as tasks of Dask distributed: on a cluster of this machine, or on any that exists.

Dask queues the steps, finds workers for them, notices which are lost, and repeats their steps elsewhere. A step of
which no end is known is ``LOST``: what its alias serves decides.
"""

import logging
import math
import os
import queue
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from buddy_ops.core import project
from buddy_ops.core.errors import UNCHANGED, BuddyError
from buddy_ops.core.extras import require_distributed
from buddy_ops.fleet import shipping
from buddy_ops.fleet.shipping import Source
from buddy_ops.fleet.step import Step, StepResult, lost, run_step

if TYPE_CHECKING:
    from distributed import Client, Future

ADDRESS = "DASK_SCHEDULER_ADDRESS"
"""The environment variable by which Dask's clients find a scheduler."""

SIDE_BY_SIDE = 64
"""Steps at once on a cluster of this machine, at most."""

STEP_BYTES = 400e6
"""Memory of a step's three processes: supervisor, engine and kernel. Measured with a canary: 330 to 380 MB."""

MEMORY_SHARE = 0.8
"""How much of this machine's memory its steps may take."""

CONNECT_S = 30.0
"""Seconds to reach a scheduler, and to find the first worker."""

CHECK_S = 15.0
"""Seconds between two checks of whether there are workers."""

CHECKS = 20
"""So many checks without any worker, and what runs is lost: five minutes."""

Said = Callable[[str, str, str], None]
"""Called with a target, a runbook and one line of its progress."""


def _say_nothing(target: str, runbook: str, line: str) -> None:
    pass


@dataclass
class Engine:
    """A cluster that runs steps. See ``open_engine``."""

    where: str
    _client: "Client"
    _source: Source
    _topic: str
    _running: "dict[str, tuple[Step, Future]]" = field(default_factory=dict)
    _ended: "queue.SimpleQueue[str]" = field(default_factory=queue.SimpleQueue)

    def submit(self, *steps: Step) -> None:
        """Submit steps, in turn from each place: a place with many targets delays no other."""
        by_place = defaultdict[str, list[Step]](list)
        for step in steps:
            by_place[step.place].append(step)
        for turn in zip_longest(*by_place.values()):
            for step in filter(None, turn):
                self._submit(step)

    def _submit(self, step: Step) -> None:
        # Dask answers a key that it has seen with that task's result: a step that is submitted again must run.
        key = f"{step.runbook}-{step.target}-{secrets.token_hex(4)}"
        source = self._source
        if source.copies and (build := shipping.copy_build(step.parameters.get("artifact", ""))):
            artifact, copy = build
            source = replace(_send(self._client, source, copy), artifact=artifact)
        future = self._client.submit(run_step, step, source, self._topic, key=key, pure=False)
        self._running[key] = (step, future)
        # Dask calls it in a thread of its own. Results are kept by the one thread that takes keys from the queue.
        future.add_done_callback(lambda done: self._ended.put(done.key))

    def results(self) -> Iterator[StepResult]:
        """The results of all steps, each when it ends. More may be submitted meanwhile."""
        checks = 0
        while self._running:
            try:
                key = self._ended.get(timeout=CHECK_S)
            except queue.Empty:
                # Counted in a row: as long as workers come and go, the steps get their turn.
                checks = 0 if self._has_workers() else checks + 1
                if checks == CHECKS:
                    yield from self._give_up()
                continue
            # A step that was given up as lost may end after all: it was reported once.
            if key in self._running:
                yield _keep(_result(*self._running.pop(key)))

    def _has_workers(self) -> bool:
        try:
            return bool(self._client.nthreads())
        except (OSError, TimeoutError):  # the scheduler: the client cancels all steps when it notices
            return False

    def _give_up(self) -> Iterator[StepResult]:
        for step, _ in self._running.values():
            yield lost(step, f"Its cluster ({self.where}) has had no worker for {CHECK_S * CHECKS / 60:g} minutes.")
        self._running.clear()


def _result(step: Step, future: "Future") -> StepResult:
    """The result of a task that ended, however it did."""
    if future.status == "finished":
        result: StepResult = future.result()
        return result
    if future.status == "error":
        return lost(step, f"Its worker failed: {future.exception()}")
    return lost(step, "The connection to the scheduler was lost.")


def _keep(result: StepResult) -> StepResult:
    """Archive here what a worker with another disk sent."""
    if not result.files:
        return result
    try:
        entry = shipping.keep_run(result.folder, result.target, result.files)
    except (BuddyError, OSError) as error:
        said = f"{result.trouble}\n\nNOT ARCHIVED in runs/: {error}".strip()
        return replace(result, files={}, folder="", manifest="", trouble=said)
    return replace(result, files={}, manifest=entry.sha256)


@contextmanager
def open_engine(scheduler: str, steps: int, said: Said = _say_nothing) -> Iterator[Engine]:
    """A cluster to run steps on. What is still running at the end is interrupted on a cluster of this machine.

    Args:
        scheduler: the address of a Dask scheduler, 'tcp://...' or 'tls://...'; empty: DASK_SCHEDULER_ADDRESS, else a
            cluster of this machine, which is stopped at the end.
        steps: how many steps run at once, at most.
        said: called, in a thread of Dask's, with each line of a step's progress.

    Raises:
        InvalidInput: ``extra-missing``.
        BuddyError: ``scheduler-unreachable``, ``no-workers``.
    """
    require_distributed()
    from distributed import Client

    root = project.project_root()
    source = Source(str(root))
    address = _address(scheduler)
    with ExitStack() as stack:
        if address:
            where = address
            client = stack.enter_context(_connect(address))
            source = stack.enter_context(shipping.open_source(root))
            source = _send(client, source, shipping.copy_project(root))
        else:
            cluster = stack.enter_context(_local_cluster(steps))
            where = "this machine"
            # Not Dask's default client: other code of the same notebook would send its work to this cluster.
            client = stack.enter_context(Client(cluster, set_as_default=False))
        # Other fleets may use the same scheduler.
        topic = f"buddy-ops-{secrets.token_hex(4)}"
        # Dask sends a pair of the time and what ``log_event`` was given.
        client.subscribe_topic(topic, lambda event: said(*event[1]))
        yield Engine(where, client, source, topic)


def require_engine(scheduler: str) -> None:
    """Check that steps could run: Dask is installed, and a scheduler that was named answers and has a worker.

    Args:
        scheduler: as of ``open_engine``.

    Raises:
        InvalidInput, BuddyError: as ``open_engine``.
    """
    require_distributed()
    address = _address(scheduler)
    if address:
        with _connect(address):
            pass


def _address(scheduler: str) -> str:
    """The address of the scheduler that steps are sent to; empty: they run on this machine."""
    return scheduler or os.environ.get(ADDRESS, "")


@contextmanager
def _connect(address: str) -> "Iterator[Client]":
    """A client of a cluster that has a worker."""
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    # ValueError: Dask's, for an address of a protocol that it does not have.
    except (OSError, TimeoutError, ValueError) as error:
        raise _unreachable(address, error) from None
    with client:
        _require_workers(client, address)
        yield client


def _local_cluster(steps: int) -> Any:
    """A cluster of this machine: a worker for each core, with as many steps as its memory takes."""
    import dask
    from distributed import LocalCluster
    from distributed.system import MEMORY_LIMIT

    side_by_side = max(1, min(steps, SIDE_BY_SIDE, int(MEMORY_SHARE * MEMORY_LIMIT // STEP_BYTES)))
    # A worker's thread only waits for its step's own process.
    workers = min(side_by_side, os.cpu_count() or 1)
    # Other users of this machine can reach its ports: they get no pages, and only its own certificate is let in.
    pages: dict[str, list[str]] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
    with dask.config.set(pages):
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=math.ceil(side_by_side / workers),
            processes=True,
            security=True,
            dashboard_address=None,
            # Of the workers themselves; their steps' memory is counted above.
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        )


def _send(client: "Client", source: Source, copy: shipping.Copy) -> Source:
    """Let Dask bring a copy to each worker; the source with it."""
    # Dask is imported once it is used.
    from buddy_ops.fleet._plugin import CopyPlugin

    client.register_plugin(CopyPlugin(copy))
    return replace(source, copies=(*source.copies, copy.name))


def _require_workers(client: "Client", address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except TimeoutError:
        raise BuddyError(
            "no-workers",
            f"The Dask scheduler {address} has no worker.",
            now=UNCHANGED,
            next=f"Start one where buddy-ops[fleet] is installed: `dask worker {address}`. Then run this again.",
        ) from None


def _unreachable(address: str, error: Exception) -> BuddyError:
    return BuddyError(
        "scheduler-unreachable",
        f"The Dask scheduler {address} cannot be reached ({type(error).__name__}).",
        now=UNCHANGED,
        next="Check the address and that the scheduler runs (`dask scheduler`). Without `scheduler` and without the "
        f"environment variable {ADDRESS} the steps run on this machine.",
    )
