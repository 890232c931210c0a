"""The version that an alias names, loaded; and the watch that loads another one when the alias moves."""

import logging
import threading
from dataclasses import dataclass
from typing import Any

from flows.registry import version as model_version
from flows.registry.version import INDEX, RAG
from flows.serving.answer import Delta, Sampling
from flows.serving.media import sample
from flows.serving.retrieval import Retriever
from flows.serving.sounds import sample as sound_sample
from flows.serving.worker import Event, Worker, is_last
from flows.tracking import client
from tasks.stage.errors import GateError, ModelError, PolmError

log = logging.getLogger("polm")
WARM_UP = [{"role": "user", "content": "Hello!"}]
"""Question that a version must answer before it gets requests."""
WORDS = [{"type": "text", "text": WARM_UP[0]["content"]}]
"""The same as a part, behind a picture or a sound for a version that takes one."""
SAMPLES = {"image": sample, "audio": sound_sample}
WARM_UP_SECONDS = 120.0


@dataclass(frozen=True)
class LoadedVersion:
    """One version of the registered model, ready to answer."""

    name: str
    """Registered model, e.g. `polm-tiny`."""
    version: str
    tags: dict[str, str]
    """The version's tags: `model`, `form`, `digest`, `export`, `commit`, …"""
    worker: Worker
    retriever: Retriever | None = None
    """The index that it was evaluated with; None for a version without one."""

    @property
    def alive(self) -> bool:
        """Whether all of it can answer."""
        return self.worker.alive and (self.retriever is None or self.retriever.alive)

    @property
    def label(self) -> str:
        """Name and version as MLflow writes them: `polm-tiny/3`."""
        return f"{self.name}/{self.version}"

    @property
    def fingerprint(self) -> str:
        """Version, and the first digits of the digests of its export, and of its index if it has one."""
        return "-".join([self.label, *(self.tags[key][:12] for key in ("export", INDEX) if key in self.tags)])

    @property
    def origin(self) -> dict[str, str]:
        """Tags of the version's traces."""
        digests = {key: self.tags[key] for key in ("digest", "export", INDEX) if key in self.tags}
        return {"model_name": self.name, "model_version": self.version, **digests}

    def close(self) -> None:
        """Refuse what is new, finish what has begun, and free it. Waits for it."""
        if self.retriever is not None:  # first: what it has found is still to be answered
            self.retriever.close()
        self.worker.close()


class Follower:
    """Holds the served version and exchanges it when the alias moves.

    The new version is loaded beside the old one, with its index if it has one, and has answered once before it gets
    requests; the old one finishes what it has begun, and is freed then. A version that cannot be loaded is left out,
    and the old one goes on.
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
        self.name = client.experiment(recipe)
        self.alias = alias
        self.swaps, self.failures = 0, 0
        self._batch, self._threads, self._seconds = batch, threads, seconds
        self._api = client.client()
        self._broken: str | None = None
        self._end = threading.Event()
        self._leaving: list[threading.Thread] = []
        version = self._version()
        if version is None:
            raise GateError(f"{self.name}: there is no {alias} yet; `polm promote MODEL` makes one")
        self.current = self._load(version)
        self._registered = version
        self._thread = threading.Thread(target=self._watch, name="alias", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the watch and the engines; what has begun is finished. A version that is being loaded is given up."""
        self._end.set()
        self._thread.join(self._seconds)
        self.current.close()
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
        if not self.current.alive:  # whatever the registry says now, this version has answered before
            self._swap(self._load(self._registered), self._registered)
        version = self._version()
        if version is None or str(version.version) in (self._broken, self.current.version):
            return
        try:
            new = self._load(version)
        except PolmError:
            self._broken = str(version.version)
            raise
        self._swap(new, version)

    def _swap(self, new: LoadedVersion, version: Any) -> None:
        """Serve another version from now on; the one before it finishes what it has begun and is freed then."""
        old = self.current
        self.current = new
        self._registered = version
        self._broken = None
        log.info("%s is served; %s finishes what it has begun", new.label, old.label)
        self.swaps += 1

        def leave() -> None:
            old.close()
            log.info("%s is freed", old.label)

        # A thread of its own: the watch goes on meanwhile, so that the next promotion is seen.
        self._leaving = [thread for thread in self._leaving if thread.is_alive()]
        self._leaving.append(threading.Thread(target=leave, name="leaving", daemon=True))
        self._leaving[-1].start()

    def _version(self) -> Any:
        """Look up the version that the alias names; None when there is nothing."""
        models = self._api.search_registered_models(f"name = '{self.name}'")
        number = models[0].aliases.get(self.alias) if models else None
        if number is None:
            return None
        return self._api.get_model_version(self.name, str(number))

    def _load(self, version: Any) -> LoadedVersion:
        """Load a version and have it answer once. Raises ModelError."""
        with model_version.exported(self._api, version) as folder:
            worker = Worker(folder, batch=self._batch, threads=self._threads)
            try:
                rag = folder.parent / RAG
                retriever = Retriever(rag, folder, threads=self._threads) if INDEX in version.tags else None
            except BaseException:
                worker.kill()
                raise
        loaded = LoadedVersion(self.name, str(version.version), dict(version.tags), worker, retriever)
        try:
            _try_out(loaded)
        except BaseException:
            worker.kill()
            if retriever is not None:
                retriever.kill()
            raise
        return loaded


def _try_out(loaded: LoadedVersion) -> None:
    """Have a version answer once; its index was asked when it was opened. Raises ModelError when it does not."""
    events: list[Event] = []
    ended = threading.Event()

    def on_event(event: Event) -> None:
        events.append(event)
        if is_last(event):
            ended.set()

    worker = loaded.worker
    shown = [SAMPLES[worker.takes]()] if worker.takes else []
    question = [{"role": "user", "content": [{"type": worker.takes}, *WORDS]}] if shown else WARM_UP
    worker.ask(question, Sampling(max_new_tokens=1, temperature=0.0), on_event, shown)
    if not ended.wait(WARM_UP_SECONDS) or not isinstance(events[-1], Delta) or events[-1].reason == "failed":
        found = str(events[-1:])
        raise ModelError(f"{loaded.label} does not answer ({found}); look at its run in `polm ui`, promote another")
