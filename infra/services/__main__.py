"""`infra/services.sh`: start the shared services, say how they are, stop them, or delete them with their data."""

import argparse
import functools
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console

from flows import workspace
from flows.doctor.machine import GIB
from flows.doctor.space import LITTLE
from infra.services import layout as layouts
from infra.services import postgres, processes, servers, store
from infra.services.layout import Layout
from tasks.stage.errors import PolmError

console = Console(highlight=False, soft_wrap=True)
ORDER = (("worker", "prefect", "mlflow", "store"), ("volume", "master", "postgres"))
"""Services in the order in which they are stopped, those together that do not need each other for it."""
CHECKS: dict[str, tuple[Callable[[Layout], bool], Callable[[Layout], bool]]] = {
    "postgres": (postgres.healthy, postgres.refuses),
    "store": (store.healthy, store.refuses),
    "mlflow": (servers.mlflow_healthy, servers.mlflow_refuses),
    "prefect": (servers.prefect_healthy, servers.prefect_refuses),
}
"""Service to what tells that it is well, and that it refuses who has no credentials."""


def start(first_port: int | None, cron: str | None) -> None:
    """Start what does not run, wait until it is well, and write the variables for its users."""
    begin = time.monotonic()
    layout = layouts.make(first_port)
    started = {"postgres": postgres.start(layout), "store": store.start(layout)}
    for name in started:
        _wait(layout, name)
    postgres.prepare(layout)
    store.prepare(layout)
    started |= {"mlflow": servers.start_mlflow(layout), "prefect": servers.start_prefect(layout)}
    with ThreadPoolExecutor() as pool:
        waits = [pool.submit(_wait, layout, name) for name in ("mlflow", "prefect")]
        for wait in waits:
            wait.result()
    servers.create_user(layout)
    environment = layouts.write_environment(layout)
    if cron:
        started["worker"] = servers.start_worker(layout, cron)
    for name, new in started.items():
        console.print(f"{name:9} {'started' if new else 'runs already'}")
    console.print(f"up in {time.monotonic() - begin:.1f} s; use them with `source {os.path.relpath(environment)}`")


def status() -> bool:
    """Print how each service is; returns whether all are well and refuse who has no credentials."""
    layout = _layout()
    fine = True
    for name, (healthy, refuses) in CHECKS.items():
        port = layout.port(name)
        if processes.running(layout, name) is None:
            console.print(f"{name:9} stopped")
            fine = False
            continue
        well, closed = healthy(layout), refuses(layout)
        fine = fine and well and closed
        console.print(
            f"{name:9} 127.0.0.1:{port}  {'well' if well else 'NOT WELL, see ' + os.path.relpath(layout.log(name))}; "
            f"{'refuses requests without credentials' if closed else 'ANSWERS WITHOUT CREDENTIALS'}"
        )
    worker = processes.running(layout, "worker")
    console.print(f"{'worker':9} {'runs' if worker else 'not asked for (`start --cron`)'}")
    return _room(layout) and fine


def _room(layout: Layout) -> bool:
    """Print what the databases and the store hold and what their disks have left; returns whether that is enough."""
    sizes = postgres.sizes(layout) if processes.running(layout, "postgres") and postgres.healthy(layout) else {}
    objects = store.size(layout)
    held = {
        "postgres": (
            ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in sizes.items()),
            postgres.folder(layout),
        ),
        "store": (f"{objects / 2**20:.1f} MiB", layout.home / "store"),
    }
    enough = True
    for name, (size, folder) in held.items():
        if folder.exists():
            free = shutil.disk_usage(folder).free / GIB
            enough = enough and free > LITTLE
            little = "" if free > LITTLE else f", LESS THAN {LITTLE:.0f}"
            console.print(
                f"{name:9} holds {size or 'what it does not tell now'}; {free:.1f} GiB free{little} at {folder}"
            )
    return enough


def stop() -> None:
    """Stop what runs; the data stay."""
    layout = _layout()

    def end(name: str) -> bool:
        return postgres.end(layout) if name == "postgres" else processes.end(layout, name)

    with ThreadPoolExecutor() as pool:
        for names in ORDER:
            for name, ran in zip(names, pool.map(end, names), strict=True):
                if ran:
                    console.print(f"{name:9} stopped")


def destroy(*, yes: bool) -> None:
    """Stop everything and delete it with all its data. Raises PolmError without `--yes`."""
    layout = _layout()
    if not yes:
        raise PolmError(f"this deletes every run, model and object in {layout.home}; add --yes")
    stop()
    postgres.delete(layout)
    shutil.rmtree(layout.home)


def _wait(layout: Layout, name: str) -> None:
    processes.wait(layout, name, functools.partial(CHECKS[name][0], layout))


def _layout() -> Layout:
    found = layouts.find()
    if found is None:
        raise PolmError("there are no services in this working copy; `infra/services.sh start` makes them")
    return found


def main() -> int:
    """Run the command; returns its exit code: 1 when `status` finds something wrong, 2 for what a person can mend."""
    parser = argparse.ArgumentParser(prog="infra/services.sh", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    starting = commands.add_parser("start", help="start what does not run")
    starting.add_argument("--first-port", type=int, help=f"first of seven ports (default {layouts.FIRST_PORT})")
    starting.add_argument("--cron", help="also run the active recipe at these times, e.g. '0 2 * * *'")
    commands.add_parser("status", help="say how each service is")
    commands.add_parser("stop", help="stop them; the data stay")
    commands.add_parser("destroy", help="stop them and delete their data").add_argument("--yes", action="store_true")
    given = parser.parse_args()
    workspace.enter()
    try:
        if given.command == "status":
            return 0 if status() else 1
        with layouts.alone():
            if given.command == "start":
                start(given.first_port, given.cron)
            elif given.command == "stop":
                stop()
            else:
                destroy(yes=given.yes)
    except PolmError as e:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {e}", markup=False)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
