"""Flow runs of this working copy on a Prefect server that others may use too.

A tag names the working copy, so that nobody's runs are taken for somebody else's. Prefect tells a run that is served
by a runner of its cancellation; a run that was called directly has to look for it.
"""

import contextlib
import platform
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Crashed

from flows import workspace
from tasks.stage.errors import PolmError

LOOK = 1.0
"""Seconds between two looks whether the run was cancelled."""
ANSWER = 10.0
"""Seconds that the server may take to answer a look."""
UNFINISHED = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
CANCELLED = [StateType.CANCELLING, StateType.CANCELLED]


def home() -> str:
    """Name this working copy: the tag of its flow runs, e.g. `polm:gpu1:/home/ann/polm:5e7c01b2a94d`.

    Machines may share a name and a path (containers do), hence the random part (`flows.workspace.identity`).
    """
    return f"polm:{platform.node()}:{Path.cwd()}:{workspace.identity()}"


@contextlib.contextmanager
def watched(cancel: Callable[[], None]) -> Iterator[None]:
    """Call `cancel` once, from a thread, when the flow run around this or its parent is cancelled in Prefect.

    A paused or late run is not cancelled, and a server that is away says nothing.
    """
    ids = [uuid.UUID(name) for name in (runtime.flow_run.id, runtime.flow_run.parent_flow_run_id) if name]
    cancelled = FlowRunFilterState(type=FlowRunFilterStateType(any_=CANCELLED))
    ours = FlowRunFilter(id=FlowRunFilterId(any_=ids), state=cancelled)
    ended = threading.Event()
    # A client of the thread's own, made here: settings of the flow are not seen from another thread.
    client = get_client(sync_client=True, httpx_settings={"timeout": ANSWER})

    def look() -> None:
        with client:
            while not ended.wait(LOOK):
                with contextlib.suppress(Exception):
                    if client.read_flow_runs(flow_run_filter=ours):
                        cancel()
                        return

    threading.Thread(target=look, name="cancellation", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def crash_killed() -> None:
    """Mark runs of this working copy whose process was killed as crashed: Prefect shows them as running for ever.

    To be called by the holder of the workspace's lock, the only one that runs anything here.

    Raises:
        PolmError: the server does not answer, or wants a key.
    """
    with _server() as client:
        for run in client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                tags=FlowRunFilterTags(all_=[home()]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED)),
            )
        ):
            if not _alive(run):
                client.set_flow_run_state(run.id, Crashed(message="its process was killed"), force=True)


def _alive(run: FlowRun) -> bool:
    """Tell whether a run may have a process: this one, or a scheduled one that its runner is just starting."""
    starting = run.deployment_id is not None and run.state_type == StateType.PENDING
    return starting or str(run.id) == runtime.flow_run.id


@contextlib.contextmanager
def _server() -> Iterator[SyncPrefectClient]:
    try:
        with get_client(sync_client=True) as client:
            yield client
    except PrefectHTTPStatusError as e:
        if e.response.status_code not in (401, 403):
            raise
        raise PolmError(
            f"Prefect at {e.request.url} refuses this command ({e.response.status_code}): set PREFECT_API_AUTH_STRING "
            f"to the server's key, USER:PASSWORD"
        ) from e
    except httpx.TransportError as e:
        raise PolmError(
            f"Prefect does not answer ({e}): start the server that PREFECT_API_URL names, or unset it"
        ) from e
