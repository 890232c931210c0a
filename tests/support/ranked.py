"""Settings of the stages that train, for one process and for two with as large batches, and what each is given."""

from pathlib import Path
from typing import Any

from tasks import dpo, vlm
from tests.conftest import TRAINER
from tests.support import adapters, pictures, prune, sounds, supervised

LORA = adapters.LORA | {"target_modules": r".*language_model.*(q|v)_proj"}
SHARDED = ("adapt-dora", "judge", "rlaif", "vlm", "vlm-lora", "vlm_dpo", "speech", "speech-lora")
"""Cases that FSDP2 takes too."""
CASES = (*SHARDED, "adapt-prompt", "adapt-prefix", "prune-magnitude", "prune-depth")


def stage_of(case: str) -> tuple[str, str | None]:
    """The stage of a case, and the entry of its `methods:`."""
    stage, _, kind = case.partition("-")
    return ("dpo" if stage == "vlm_dpo" else stage), (kind if stage in ("adapt", "prune") else None)


def settings(case: str, processes: int) -> dict[str, Any]:
    """Three steps of 8 rows; batches of 6 rows, and then fewer, in the evaluation."""
    batches: dict[str, Any] = {
        "per_device_train_batch_size": 8 // processes, "per_device_eval_batch_size": 6 // processes,
        "max_steps": 3, "save_steps": 3,
    }  # fmt: skip
    stage, _, kind = case.partition("-")
    lora = LORA if kind == "lora" else None
    parts: Any = ["projector", "language_model"]
    if stage == "adapt":
        values = adapters.values(trainer=batches)
    elif stage == "judge":
        trainer = TRAINER | batches | {"max_length": 256, "assistant_only_loss": True}
        common = {"seed": 1, "launch": None, "max_left_out": 0.0, "max_cut": 0.0, "peft": None}
        values = common | {"dataset": "preferences", "constitution": "constitution.yaml", "trainer": trainer}
    elif stage == "rlaif":
        values = supervised.configured(dpo, None, **batches, beta=0.5).model_dump()
    elif stage == "prune":
        values = prune.configured().model_dump(mode="json")
        values["trainer"] |= batches
    elif stage == "vlm_dpo":
        values = pictures.configured(dpo, None, **batches, beta=0.5).model_dump()
    elif stage == "vlm":
        values = pictures.configured(vlm, lora, parts, **batches).model_dump()
    else:
        values = sounds.tuning(parts, lora, None if lora else sounds.CHANGES, **batches).model_dump()
    return values | {"threads": 1}


def inputs(case: str, given: dict[str, Path]) -> dict[str, Path]:
    """What the stage of a case is given.

    Args:
        case: one of `CASES`.
        given: artifacts by the names of their fixtures, and `labels`.
    """
    stage = case.partition("-")[0]
    if stage == "rlaif":
        return {"model": given["chat_model"], "labels": given["labels"]}
    if stage in ("vlm", "vlm_dpo"):
        return {"model": given["seeing_model"], "data": given["pictures_data"]}
    if stage == "speech":
        return {"model": given["hearing_model"], "data": given["spoken_data"]}
    return {"model": given["chat_model"], "data": given["sums_data"]}
