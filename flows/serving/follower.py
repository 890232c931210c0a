"""The version that an alias names, loaded; and the watch that loads another one when the alias moves."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flows.registry import version as model_version
from flows.serving.answer import Piece, Sampling
from flows.serving.worker import Heard, Refused, Worker
from flows.tracking import client
from tasks.stage.errors import GateError, ModelError, PolmError

log = logging.getLogger("polm")
WARM_UP = [{"role": "user", "content": "Hello!"}]
"""Asked of a version before it gets requests: one that cannot answer never does."""
WARM_UP_SECONDS = 120.0


@dataclass(frozen=True)
class Served:
    """One version of the registered model, ready to answer."""

    name: str
    """Registered model, e.g. `polm-tiny`."""
    version: str
    tags: dict[str, str]
    """The version's tags: `model`, `form`, `digest`, `export`, `commit`, …"""
    worker: Worker

    @property
    def label(self) -> str:
        """As MLflow writes it: `polm-tiny/3`."""
        return f"{self.name}/{self.version}"

    @property
    def fingerprint(self) -> str:
        """Version and bytes of the export."""
        return f"{self.label}-{self.tags['export'][:12]}"

    @property
    def origin(self) -> dict[str, str]:
        """Tags of its traces."""
        digests = {key: self.tags[key] for key in ("digest", "export")}
        return {"model_name": self.name, "model_version": self.version, **digests}


class Follower:
    """Holds the served version and exchanges it when the alias moves.

    The new version is loaded beside the old one and has answered once before it gets requests; the old one finishes
    what it has begun, and is freed then. A version that cannot be loaded is left out, and the old one goes on.
    """

    def __init__(self, recipe: str, alias: str, *, batch: int, threads: int | None, seconds: float) -> None:
        """Load the version that the alias names.

        Args:
            recipe: whose registered model.
            alias: `champion`, `candidate` or `previous`.
            batch: most requests that are answered together.
            threads: of ONNX Runtime; None takes every core.
            seconds: between two looks at the alias.

        Raises:
            GateError: nothing is registered under the alias.
            ModelError: its model cannot be loaded.
        """
        self.name, self.alias = client.experiment(recipe), alias
        self.swaps, self.failures = 0, 0
        self._batch, self._threads, self._seconds = batch, threads, seconds
        self._api = client.client()
        self._refused: str | None = None
        self._end = threading.Event()
        self._leaving: list[threading.Thread] = []
        version = self._version()
        if version is None:
            raise GateError(f"{self.name}: there is no {alias} yet; `polm promote MODEL` makes one")
        self.current, self._serving = self._load(version), version
        self._thread = threading.Thread(target=self._watch, name="alias", daemon=True)
        self._thread.start()

    def ask(
        self, messages: list[dict[str, str]], sampling: Sampling, hear: Callable[[Heard], None]
    ) -> tuple[Served, int]:
        """Give a conversation to the version that is served now; for the arguments see `Worker.ask`.

        Returns:
            The version, and the number to cancel the answer by.

        Raises:
            ModelError: the version has died; it is loaded again within seconds.
        """
        while True:
            served = self.current
            try:
                return served, served.worker.ask(messages, sampling, hear)
            except ModelError:
                if served is self.current:
                    raise  # else it was exchanged between the two lines above

    def close(self) -> None:
        """End the watch and the engines; what has begun is finished. A version that is being loaded is given up."""
        self._end.set()
        self._thread.join(self._seconds)
        self.current.worker.close()
        for leaving in self._leaving:
            leaving.join()

    def _watch(self) -> None:
        while not self._end.wait(self._seconds):
            try:
                self._look()
            except Exception as e:
                # The registry is away, or a version is broken: what is loaded goes on answering.
                self.failures += 1
                log.warning("%s: still serving v%s: %s", self.name, self.current.version, e)

    def _look(self) -> None:
        if not self.current.worker.alive:  # whatever the registry says now, this version has answered before
            self._exchange(self._load(self._serving), self._serving)
        version = self._version()
        if version is None or str(version.version) in (self._refused, self.current.version):
            return
        try:
            new = self._load(version)
        except PolmError:
            self._refused = str(version.version)
            raise
        self._exchange(new, version)

    def _exchange(self, new: Served, version: Any) -> None:
        old, self.current, self._serving, self._refused = self.current, new, version, None
        log.info("%s is served; %s finishes what it has begun", new.label, old.label)
        self.swaps += 1

        def leave() -> None:
            old.worker.close()
            log.info("%s is freed", old.label)

        # A thread of its own: the watch goes on meanwhile, so that the next promotion is seen.
        self._leaving = [thread for thread in self._leaving if thread.is_alive()]
        self._leaving.append(threading.Thread(target=leave, name="leaving", daemon=True))
        self._leaving[-1].start()

    def _version(self) -> Any:
        """What the alias names; None when there is nothing."""
        found = self._api.search_registered_models(f"name = '{self.name}'")
        number = found[0].aliases.get(self.alias) if found else None
        if number is None:
            return None
        return self._api.get_model_version(self.name, str(number))

    def _load(self, version: Any) -> Served:
        label = f"{self.name}/{version.version}"
        with model_version.exported(self._api, version) as folder:
            worker = Worker(folder, batch=self._batch, threads=self._threads)
        served = Served(self.name, str(version.version), dict(version.tags), worker)
        ended = threading.Event()
        last: list[Heard] = []

        def hear(heard: Heard) -> None:
            last[:] = [heard]
            if isinstance(heard, Refused) or (isinstance(heard, Piece) and heard.reason):
                ended.set()

        worker.ask(WARM_UP, Sampling(max_new_tokens=1, temperature=0.0), hear)
        if not ended.wait(WARM_UP_SECONDS) or not isinstance(last[0], Piece) or last[0].reason == "failed":
            worker.kill()
            raise ModelError(f"{label} does not answer ({last}); look at its run in `polm ui`, promote another")
        return served
