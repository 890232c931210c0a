"""The aliases of a registered model, moved by one command at a time wherever it runs.

MLflow sets an alias for whoever comes last and knows no "set it if it still is v3". What its database does decide is
who writes a run's param first: the key is unique, and a second value is refused. So every move is written down before
it is made, as the param `move.N` of the run of the oldest version: whoever writes `move.N` first has won it, the others
read there who that was. The aliases then follow what is written, and whoever finds them behind it puts them right.
Nothing expires and no clock is asked: a mover that is killed has either written its move, which the next command
finishes, or has moved nothing.
"""

import json
import logging
import os
import platform
import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.stage.errors import GateError

log = logging.getLogger("polm")
TRIES = 5
"""Times that aliases are set which somebody else sets too."""
PAUSE = 0.2
"""Seconds before they are set again."""


@dataclass(frozen=True)
class State:
    """What a decision rests on."""

    aliases: dict[str, str]
    """Alias to version; empty when nothing was ever registered."""
    number: int
    """Number of the last move; 0 before the first."""
    run: str | None
    """Run that the moves are written in; None without a version that has one."""


class Aliases:
    """The aliases of one registered model."""

    def __init__(self, api: Any, name: str) -> None:
        """Args: api: MLflow's client; name: name of the registered model."""
        self._api, self._name = api, name

    def read(self) -> dict[str, str]:
        """Read which version each alias names now; empty when nothing was ever registered."""
        models = self._api.search_registered_models(f"name = '{self._name}'")
        return {alias: str(version) for model in models for alias, version in model.aliases.items()}

    def state(self) -> State:
        """Read the aliases, after a move that was written and not made has been finished.

        Raises:
            GateError: somebody moves them by hand meanwhile.
        """
        run, number, record, done = self._last()
        if record and not done:
            log.warning("%s: finishing the move of %s (%s)", self._name, record["by"], record["what"])
            self._follow(str(run))
        return State(self.read(), number, run)

    def move(self, before: State, aliases: dict[str, str], what: str, remedy: str) -> None:
        """Set aliases, if nobody has moved any since.

        Args:
            before: state that the decision rested on.
            aliases: alias to version.
            what: decision in words, for those who lose to it, e.g. `made v3 (dpo) the champion`.
            remedy: advice for those who lose to it.

        Raises:
            GateError: somebody else was first, who is named; or moves aliases by hand.
        """
        run = self._run()
        if run is None and before.run is None:
            raise GateError(
                f"{self._name}: no version has an MLflow run, where moves are written down; only what `polm promote` "
                f"registered can be moved: promote first"
            )
        if run is None or before.run not in (None, run.info.run_id):
            raise GateError(f"{self._name}: versions were deleted meanwhile; nothing was moved, try again")
        by = f"{platform.node()}:{Path.cwd()}, process {os.getpid()}"
        record = {"aliases": aliases, "by": by, "what": what, "token": uuid.uuid4().hex}
        number = before.number + 1
        first = self._write(run.info.run_id, f"move.{number}", json.dumps(record))
        if first["token"] != record["token"]:
            raise GateError(f"{self._name}: lost to {first['by']}, which {first['what']} meanwhile; {remedy}")
        last = self._follow(run.info.run_id)
        if last["token"] != record["token"]:
            log.warning("%s: since then, %s has moved on: it %s", self._name, last["by"], last["what"])

    def _follow(self, run: str) -> dict[str, Any]:
        """Bring the aliases to the last move that is written, and say that it is made; returns its record.

        Whoever sets an alias looks afterwards whether the moves have gone on, so the last one to set any sets the
        right ones.
        """
        for _ in range(TRIES):
            _, number, record, _ = self._last()
            there = {alias: version for alias, version in record["aliases"].items() if self._set(alias, version)}
            actual = self.read()
            wrong = [alias for alias, version in there.items() if actual.get(alias) != version]
            if self._last()[1] == number and not wrong:
                self._api.log_param(run, f"move.{number}.made", "yes")
                return record
            time.sleep(PAUSE)
        shown = ", ".join(f"'{alias}' was set to v{there[alias]} and reads v{actual.get(alias)}" for alias in wrong)
        raise GateError(
            f"{self._name}: alias {shown or 'after alias moves'}: somebody else moves them at the same time; look at "
            f"the registry (`polm ui`) and promote or roll back again"
        )

    def _set(self, alias: str, version: str) -> bool:
        """Set one alias; returns whether there is such a version."""
        from mlflow.exceptions import MlflowException

        try:
            self._api.set_registered_model_alias(self._name, alias, version)
        except MlflowException as e:
            if e.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            log.warning("%s: v%s was deleted; the alias '%s' stays where it is", self._name, version, alias)
            return False
        return True

    def _last(self) -> tuple[str | None, int, dict[str, Any], bool]:
        """Find the run with the moves, the last one's number and record (0 and empty before the first), and whether it
        was made."""
        run = self._run()
        if run is None:
            return None, 0, {}, True
        params = run.data.params
        number = max((int(key[5:]) for key in params if re.fullmatch(r"move\.\d+", key)), default=0)
        record = json.loads(params[f"move.{number}"]) if number else {}
        return run.info.run_id, number, record, f"move.{number}.made" in params

    def _run(self) -> Any:
        """Find the run of the oldest version that has one."""
        from mlflow.exceptions import MlflowException

        for version in self._api.search_model_versions(f"name = '{self._name}'", order_by=["version_number ASC"]):
            if not version.run_id:  # registered by hand, from a folder
                continue
            try:
                run = self._api.get_run(version.run_id)
            except MlflowException as e:
                if e.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                continue
            if run.info.lifecycle_stage == "active":
                return run
        return None

    def _write(self, run: str, key: str, value: str) -> dict[str, Any]:
        """Write a param unless it is there; returns what it holds."""
        from mlflow.exceptions import MlflowException

        try:
            self._api.log_param(run, key, value)
        except MlflowException:
            if key not in self._api.get_run(run).data.params:
                raise
        written: dict[str, Any] = json.loads(self._api.get_run(run).data.params[key])
        return written
