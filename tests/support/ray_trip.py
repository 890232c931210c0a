"""One stage of a toy project on Ray, as a command: Ray's cluster is in a network namespace, and its driver has to be.

    python -m tests.support.ray_trip '{"root": …, "resources": {…}, "event": 4, "then": [command] or "stop"}'

At the event `then` is run, or the run is stopped. The last line of JSON in the output says what came of it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from flows.runners import ray_jobs
from flows.runners.settings import Ray
from tasks.stage.errors import StageFailed, Stopped
from tests.support import cluster, toy

ADDRESS = "127.0.0.1:26379"


def main() -> None:
    asked = json.loads(sys.argv[1])
    root = Path(asked["root"])
    site = cluster.Site(toy.Toy(root / "project"), root / "shared")
    os.chdir(site.project.root)
    os.environ.update(site.project.environment())
    runner = {"resources": asked["resources"], "queue_minutes": asked.get("queue_minutes")}
    runners = cluster.parsed(site.runners(engine="ray", address=ADDRESS, cpus=1, **runner))
    there = runners.runners["there"]
    assert isinstance(there, Ray)
    told = cluster.Told()
    then = asked.get("then")
    if then == "stop":
        told.on_start = told.stopping.set
    elif then:
        told.on_event_done = asked["event"], lambda: subprocess.run(then, check=True)
    try:
        outcome = ray_jobs.run(told.job(site), runners, there, told.stopping)
    except StageFailed as e:
        outcome = f"failed: {e.reason}: {e.text}"
    except Stopped:
        outcome = "stopped"
    events = [event["done"] for event in told.events]
    sys.stdout.write(f"\n{json.dumps({'outcome': outcome, 'events': events, 'seconds': told.seconds})}\n")


if __name__ == "__main__":
    main()
