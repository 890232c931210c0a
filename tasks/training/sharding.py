"""FSDP2 (`torch.distributed.fsdp.fully_shard`, by accelerate): each process holds a part of every weight.

Checkpoints stay in parts. An artifact is one whole model folder, so at the end of training the parts are gathered into
a whole model on the CPU of rank 0, which then goes the way of a model that was never sharded: adapters are merged,
tied weights are tied, the folder is written. Rank 0 needs memory for that one copy.
"""

import copy
import logging
from typing import Any

from tasks.stage.lifecycle import Run


def prepare(arguments: Any, run: Run) -> None:
    """Make processes without GPUs what the recipe's launcher says, before a trainer is built.

    Accelerate knows FSDP on accelerators alone and turns it into data parallelism on a CPU, although torch shards there
    too, by gloo. It also numbers the CPUs by rank (`cpu:1`), a device that checkpoints cannot be read to.

    Args:
        arguments: the trainer's, whose making has started the process group.
        run: the stage's run.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    logging.getLogger("accelerate").setLevel(logging.WARNING)  # it names every part of a checkpoint
    state = PartialState()
    if state.distributed_type != DistributedType.MULTI_CPU:
        return
    state.device = arguments.__dict__["_setup_devices"] = torch.device("cpu")
    if run.launched.sharding == "FSDP":
        state.distributed_type = DistributedType.MULTI_GPU  # from which accelerate goes on to FSDP


def is_sharded(trainer: Any) -> bool:
    """Tell whether a trainer's model is one of FSDP2."""
    return bool(trainer.accelerator.is_fsdp2)


def generate_in_step(model: Any) -> None:
    """Have a model that is sharded, or about to be, draw answers in all processes until the last of them has its own.

    Each token takes the parts of all processes, so one that ended early would leave the others waiting, or hand them
    the parts of its next step. `transformers` goes on by itself where it has sharded the model, and not where
    accelerate has.
    """
    from transformers import PreTrainedModel

    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module._is_fsdp_managed_module = True


def whole(tensor: Any) -> Any:
    """Return a weight, gathered from all processes if it is sharded; every process has to ask for it."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def skeleton(model: Any) -> Any:
    """Copy a model without its weights, which become empty tensors on the meta device; buffers and ties are kept."""
    import torch

    empty = {
        id(weight): torch.nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, empty)


def gather(model: Any, into: Any) -> None:
    """Gather the weights of all processes into a skeleton, on rank 0; every process has to call this.

    Args:
        model: as FSDP2 made it.
        into: what `skeleton` made of the model before; on rank 0 a whole model afterwards, on the CPU, and on the
            others what it was.

    Raises:
        RuntimeError: the weights are not those of the skeleton.
    """
    import torch
    from peft import PeftModel
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if torch.distributed.get_rank() == 0:
        into.load_state_dict(weights, assign=True)
        trained, base = (m.get_base_model() if isinstance(m, PeftModel) else m for m in (model, into))
        base.config = trained.config  # in which, and in the next, the trainer aligned the ends with the tokenizer's
        if base.can_generate():
            base.generation_config = trained.generation_config
        base.tie_weights()
