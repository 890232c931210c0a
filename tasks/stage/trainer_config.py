"""What the YAML of a stage that trains through TRL holds, and what of it goes to a library's own class as it is."""

from typing import Any, NamedTuple

from pydantic import Field

from tasks.stage.config import TrainingConfig

RESERVED = ("output_dir", "seed", "report_to", "disable_tqdm", "save_strategy", "push_to_hub", "model_init_kwargs")
"""Keys of TRL's config classes that the stage sets, because resuming and lineage rest on them."""


class Verbatim(NamedTuple):
    """A mapping of a recipe file that goes to a library's config class as it is."""

    section: str
    """Where it stands, e.g. `trainer`."""
    values: dict[str, Any]
    config_class: type[Any]
    """The dataclass whose fields it may hold."""
    reserved: tuple[str, ...]
    """Fields that the stage sets."""


class TrlConfig(TrainingConfig):
    """What every stage that trains through TRL has in common."""

    dataset: str
    """Set of the data artifact to learn from, e.g. `sft`, `sft:rationales`, `preferences`."""
    max_left_out: float = Field(default=0.0, ge=0, le=1)
    """Largest share of a split's rows of which nothing is learnt because they are too long; none, if not given."""
    max_cut: float = Field(default=0.0, ge=0, le=1)
    """Largest share of a split's rows that are learnt in part because they are too long; none, if not given."""
    trainer: dict[str, Any]
    """Passed verbatim to TRL's config class; `seed`, `output_dir` and checkpoints' strategy are set by the stage."""

    def verbatim(self, trainer_class: type[Any]) -> list[Verbatim]:
        """Name each mapping that the recipe check compares with a library's own class; imports the library."""
        return [Verbatim("trainer", self.trainer, trainer_class, RESERVED)]


class AdapterConfig(TrlConfig):
    """What the methods with an optional LoRA adapter have in common."""

    peft: dict[str, Any] | None
    """Passed verbatim to `peft.LoraConfig`; null trains all weights. Stored merged, with the adapter beside it."""

    def verbatim(self, trainer_class: type[Any]) -> list[Verbatim]:
        """Name `trainer:` as every trainer does, and `peft:` where it is given."""
        sections = super().verbatim(trainer_class)
        if self.peft is None:
            return sections
        from peft import LoraConfig

        return [*sections, Verbatim("peft", self.peft, LoraConfig, ("task_type",))]
