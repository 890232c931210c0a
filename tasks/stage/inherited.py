"""What a shell would decide behind the recipe's back: variables that accelerate and torchrun read besides options.

`ACCELERATE_MIXED_PRECISION=bf16`, set for another project, would train in bf16 whatever the recipe says; `PET_NNODES=2`
would have torchrun wait for a second machine; and a `RANK` that a cluster's job left behind would make the only process
one that writes nothing.
"""

from collections.abc import MutableMapping

DECIDING = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_", "MEGATRON_LM_", "PET_")
"""Beginnings of the names: of accelerate's settings, and of torchrun's options."""
HARMLESS = ("ACCELERATE_DEBUG_MODE", "ACCELERATE_LOG_LEVEL")
"""Names among them that change no result."""
PLACES = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
"""Names by which a launcher tells a process its place among others."""


def take_out(environment: MutableMapping[str, str]) -> list[str]:
    """Take these variables out of the environment of a process that no recipe's launcher has started.

    A process that is told to be one of several keeps its place: its user has put a launcher in front of the command,
    which `tasks.stage.launch.check_processes` holds against the recipe.

    Returns:
        The names that are gone, sorted.
    """
    gone = [name for name in environment if name.startswith(DECIDING) and name not in HARMLESS]
    if environment.get("WORLD_SIZE", "1") == "1":
        gone += [name for name in PLACES if name in environment]
    for name in gone:
        del environment[name]
    return sorted(gone)
