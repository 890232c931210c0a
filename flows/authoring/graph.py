"""`--methods` as a graph: which models, by which methods, from which parents."""

import re
from dataclasses import dataclass, field

from tasks.stage import recipe
from tasks.stage.config import suggest
from tasks.stage.errors import ConfigError

ROWS: dict[str, str] = {
    "sft": "sft", "dpo": "preferences", "kto": "feedback", "reward": "preferences", "ppo": "prompts",
    "grpo": "prompts", "rejection": "prompts", "adapt": "sft", "distill": "sft", "prune": "sft", "quantize": "sft",
    "merge": "sft",
}  # fmt: skip
"""Method of `dvc.yaml` to the kind of rows that it learns from."""
GRADED = ("merge", "prune")
"""Methods that grade answers to prompts besides."""
NEEDED = {
    "sft": "conversations, questions and answers, or preferences, whose better replies are learnt",
    "preferences": "pairs of a better and a worse reply (columns `prompt`, `chosen`, `rejected`)",
    "feedback": "replies with a verdict (columns `prompt`, `completion`, `label`), or preferences",
    "prompts": "questions whose answer a program can check: a number, or a few words",
}
"""Kind of rows to what they are, in words."""
OTHER_NAMES = {"rft": "rejection", "lora": "adapt"}
"""Names of methods to those of `dvc.yaml`."""
RAG = "rag"
"""Method that is a graph of its own: a reader with an index of documents."""
_ENTRY = re.compile(r"(?:(?P<name>[\w-]+)=)?(?P<method>[\w-]+)(?:@(?P<parent>[\w-]+))?")


@dataclass(frozen=True)
class Planned:
    """One model of the graph."""

    name: str
    method: str
    """Name of a method in `dvc.yaml`."""
    values: dict[str, str] = field(default_factory=dict)
    """What recipe.yaml says of it: `from`, and the keys of its method."""

    @property
    def answers(self) -> bool:
        """Whether it is a model that answers, which a reward model does not."""
        return self.method != "reward"

    @property
    def settings(self) -> str:
        """Name of the recipe file with the model's settings, without `.yaml`."""
        return self.values.get("settings", self.name)


def plan(text: str) -> tuple[list[Planned], list[str]]:
    """Read `--methods`.

    Args:
        text: methods with commas between, each alone or as `name=method@parent`. Without a parent, `sft` starts from
            the base model, and every other method from the first `sft` before it.

    Returns:
        The models in order, parents first, and notices of what was added.

    Raises:
        ConfigError: a method that is unknown here, a name twice, or a parent that is not there before its child.
    """
    models: dict[str, Planned] = {}
    notices: list[str] = []
    for entry in (part.strip() for part in text.split(",") if part.strip()):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise ConfigError(f"--methods: '{entry}' is no method; write `method` or `name=method@parent`")
        said = match["method"]
        method = OTHER_NAMES.get(said, said)
        if method not in ROWS:
            known = [*ROWS, *OTHER_NAMES, RAG]
            raise ConfigError(f"--methods: '{said}'{suggest(said, known)}; `polm new` writes {', '.join(known)}")
        name, parent = match["name"] or said, match["parent"] or _parent(method, models)
        if parent != recipe.BASE and (parent not in models or not models[parent].answers):
            raise ConfigError(f"--methods: {entry}: '{parent}' is no model that stands before it; name it first")
        if name in models or name == recipe.BASE:
            raise ConfigError(
                f"--methods: '{name}' stands there twice; call one of them otherwise, e.g. {name}2={said}"
            )
        if method == "ppo" and not any(model.method == "reward" for model in models.values()):
            models["reward"] = Planned("reward", "reward", {"from": parent})
            notices.append("ppo needs a reward model: `reward` is added")
        models[name] = Planned(name, method, {"from": parent, **_values(name, method, parent, models)})
    if not models:
        raise ConfigError("--methods: no method; write at least one, e.g. `sft`")
    return list(models.values()), notices


def _parent(method: str, models: dict[str, Planned]) -> str:
    if method == "sft":
        return recipe.BASE
    return next((name for name, model in models.items() if model.method == "sft"), recipe.BASE)


def _values(name: str, method: str, parent: str, models: dict[str, Planned]) -> dict[str, str]:
    """Give the keys of a method's models besides `from`. Raises ConfigError where there is nothing to name."""
    if method == "ppo":
        return {"reward": next(other for other, model in models.items() if model.method == "reward")}
    if method == "distill":
        return {"teacher": parent, "settings": name, "method": "logits"}
    if method == "adapt":
        return {"settings": name, "method": "lora"}
    if method == "prune":
        return {"settings": name, "method": "wanda"}
    if method == "quantize":
        return {"settings": name, "method": "w8a8"}
    if method == "merge":
        members = [other for other, m in models.items() if m.answers and other != parent and m.values["from"] == parent]
        if len(members) < 2:
            raise ConfigError(
                f"--methods: {name} merges two models that were made from '{parent}', and before it stand "
                f"{', '.join(members) or 'none'}; name two, e.g. `sft,dpo,kto,merge`"
            )
        return {"first": members[0], "second": members[1], "settings": name, "method": "linear"}
    return {}
