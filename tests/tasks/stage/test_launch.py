"""A stage in several processes: what the launcher is asked for, what comes up, and what a failure leaves behind."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks import reward, sft
from tasks.stage import artifact, launch, rank_failures
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import choose_method
from tests.conftest import REPO
from tests.support import adapters, distill, ppo, prune, rl, supervised
from tests.support.forking import Forking

WHERE = Path("params/test/sft.yaml")
BIN = Path(sys.executable).parent


def test_the_number_of_processes_is_read_from_the_launcher(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text("distributed_type: FSDP\nnum_processes: 2\n")
    given = {
        None: (1, None),
        "python -m": (1, None),
        "nice -n 5 python -m": (1, None),
        "torchrun -m": (1, None),
        "torchrun --nproc-per-node 2 -m": (2, None),
        "torchrun --nnodes=2 --nproc_per_node=4 -m": (8, None),
        "accelerate launch --num_processes 4 --multi_gpu -m": (4, None),
        f"accelerate launch --config_file {file} -m": (2, "FSDP"),
        f"accelerate launch --config_file {file} --num-processes 3 -m": (3, "FSDP"),
        "accelerate launch --use_deepspeed --num_processes 2 -m": (2, "DEEPSPEED"),
        f"accelerate launch --config_file {REPO / 'infra/accelerate/multi_gpu.yaml'} -m": (2, None),
    }
    for command, wanted in given.items():
        assert launch.processes(command, WHERE) == wanted, command
    for command in ("accelerate launch -m", "torchrun --nproc-per-node auto -m"):
        with pytest.raises(ConfigError, match=r"sft.yaml: launch .* how many|as many .* --num_processes"):
            launch.processes(command, WHERE)


def test_processes_that_nobody_asked_for_are_refused() -> None:
    for wanted, environment in ((launch.ONE_PROCESS, {"WORLD_SIZE": "2"}), (launch.Processes(2, None), {})):
        with pytest.raises(ConfigError, match=r"sft.yaml: launch asks for \d process\(es\), and \d came up"):
            launch.check_processes(wanted, WHERE, environment)
    launch.check_processes(launch.Processes(2, None), WHERE, {"WORLD_SIZE": "2"})


def test_the_state_that_came_up_is_held_against_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator
    from accelerate.utils import DynamoBackend
    from transformers import TrainingArguments

    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    alone = Accelerator(cpu=True)  # after the arguments, which take any other out of the state
    launch.check_accelerator(launch.ONE_PROCESS, WHERE, alone, arguments)
    for wanted in (launch.Processes(2, None), launch.Processes(1, "FSDP")):
        with pytest.raises(ConfigError, match=r"accelerate made 1 process\(es\) without sharding of it"):
            launch.check_accelerator(wanted, WHERE, alone, arguments)
    arguments.bf16 = True
    with pytest.raises(ConfigError, match=r"would compute in mixed_precision 'no', and trainer.bf16 .* say 'bf16'"):
        launch.check_accelerator(launch.ONE_PROCESS, WHERE, alone, arguments)
    arguments.bf16 = False
    monkeypatch.setattr(alone.state.dynamo_plugin, "backend", DynamoBackend.INDUCTOR)
    with pytest.raises(ConfigError, match=r"would compile the model by 'inductor', and trainer.torch_compile is false"):
        launch.check_accelerator(launch.ONE_PROCESS, WHERE, alone, arguments)
    arguments._n_gpu = 2
    with pytest.raises(ConfigError, match=r"one process sees 2 GPUs .* as many times the batch"):
        launch.check_accelerator(launch.ONE_PROCESS, WHERE, alone, arguments)


DATA_PARALLEL, SHARDED = launch.Processes(2, None), launch.Processes(2, "FSDP")
UNFIT: dict[str, tuple[Any, tuple[launch.Processes, ...], str]] = {
    "rejection": (rl.rejection_config, (DATA_PARALLEL, SHARDED), "rounds of sampling and training run in one"),
    "ppo": (ppo.configured, (SHARDED,), "the value model is not sharded; take DDP"),
    "adapt": (adapters.configured, (SHARDED,), "methods.prompt is a PromptTuningConfig, which PEFT keeps outside"),
    "distill": (distill.configured, (SHARDED,), "cannot answer, as methods.on_policy.on_policy asks"),
    "prune": (prune.configured, (SHARDED,), "the mask that keeps the zeros is of whole matrices; take DDP"),
    "calibrated": (prune.configured, (DATA_PARALLEL,), "the modifiers of methods.wanda are llm-compressor's"),
}


@pytest.mark.parametrize("stage", UNFIT)
def test_processes_in_which_a_stage_cannot_run_are_refused_before_any_is_started(stage: str) -> None:
    configured, refused, reason = UNFIT[stage]
    launch.check_fit(configured(), launch.ONE_PROCESS, WHERE)
    for wanted in refused:
        asked = r"sft.yaml: launch asks for 2 process\(es\) with.*: .*"
        with pytest.raises(ConfigError, match=asked + re.escape(reason)):
            launch.check_fit(configured(), wanted, WHERE)


def test_a_method_that_runs_is_not_refused_for_another_one() -> None:
    config = choose_method(prune.configured(), "magnitude", WHERE)
    launch.check_fit(config, DATA_PARALLEL, WHERE)
    launch.check_fit(choose_method(adapters.configured(), "dora", WHERE), SHARDED, WHERE)
    launch.check_fit(ppo.configured(), DATA_PARALLEL, WHERE)


@pytest.fixture(scope="module")
def python(forking: Forking, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interpreter for the processes that a launcher starts, which spares each of them the import of the libraries."""
    return forking.write_python(tmp_path_factory.mktemp("bin"), forks=("tasks.", "accelerate."))


def started(
    module: Any, launcher: str, folder: Path, model: Path, data: Path, python: Path | str = sys.executable, **extra: Any
) -> "subprocess.CompletedProcess[str]":
    """Run a stage's command in an empty folder, with the recipe file that its own tests have."""
    trainer: dict[str, Any] = {"assistant_only_loss": True} if module is sft else {}
    values = supervised.configured(module, max_steps=2, **trainer).model_dump()
    params = folder / "params.yaml"
    YAML().dump(values | {"threads": 1, "launch": launcher, **extra}, params)
    command = [sys.executable, "-m", module.__name__, str(params), "--model", str(model), "--data", str(data)]
    environment = os.environ | {"PYTHONPATH": str(REPO), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHON_EXEC"] = str(python)  # of torchrun, which accelerate rests on
    return subprocess.run(
        [*command, "--out", "artifacts/made"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


TWO = "torchrun --standalone --nproc-per-node 2 -m"


def test_two_processes_leave_one_whole_artifact_or_nothing(
    workspace: Path, chat_model: Path, sums_data: Path, python: Path
) -> None:
    failed = started(reward, TWO, workspace, chat_model, sums_data, python, calibration_bins=99)
    assert failed.returncode == 2, failed.stderr
    assert failed.stderr.strip().splitlines()[-1].startswith("error: 16 held-out pairs for 99 calibration bins")
    assert not (workspace / "artifacts").exists()
    assert not list((workspace / ".polm").glob("tmp/*/*"))
    done = started(reward, TWO, workspace, chat_model, sums_data)
    assert done.returncode == 0, done.stderr
    files = artifact.verify(workspace / "artifacts/made").files
    assert {"curves.jsonl", "audit.json", "metrics.json", "model.safetensors"} <= set(files)
    assert artifact.read_json(workspace / "artifacts/made/metrics.json")["steps"] == 2


def test_a_launcher_that_starts_one_process_instead_of_two(workspace: Path, chat_model: Path, sums_data: Path) -> None:
    ended = started(sft, "accelerate launch --cpu --num_processes 2 -m", workspace, chat_model, sums_data)
    assert ended.returncode == 2, ended.stderr
    assert "params.yaml: launch asks for 2 process(es), and 1 came up" in ended.stderr.strip().splitlines()[-1]
    assert not (workspace / "artifacts").exists()


def test_the_first_version_of_fsdp(workspace: Path, chat_model: Path, sums_data: Path, python: Path) -> None:
    text = (REPO / "infra/accelerate/fsdp2.yaml").read_text()
    (workspace / "fsdp.yaml").write_text(text.replace("fsdp_version: 2", "fsdp_version: 1"))
    launcher = f"{python} -m accelerate.commands.launch --config_file {workspace / 'fsdp.yaml'} -m"
    ended = started(sft, launcher, workspace, chat_model, sums_data, python)
    assert ended.returncode == 2, ended.stderr
    assert "launch asks for version 1 of FSDP" in ended.stderr.strip().splitlines()[-1]
    assert not (workspace / "artifacts").exists()


def test_each_configuration_file_is_read_by_accelerate_as_by_us() -> None:
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
    from accelerate.utils import DistributedType

    kinds = {
        "one_gpu": (DistributedType.NO, None),
        "multi_gpu": (DistributedType.MULTI_GPU, None),
        "fsdp2": (DistributedType.FSDP, "FSDP"),
        "fsdp2_two_machines": (DistributedType.FSDP, "FSDP"),
        "cpu": (DistributedType.MULTI_GPU, None),
    }
    files = {path.stem: path for path in (REPO / "infra/accelerate").iterdir()}
    assert files.keys() == kinds.keys()
    for name, (kind, sharding) in kinds.items():
        config = load_config_from_file(str(files[name]))  # refuses a key that it does not know
        assert isinstance(config, ClusterConfig)
        assert config.distributed_type == kind
        assert not config.use_cpu
        assert config.mixed_precision == "no"
        assert not sharding or config.fsdp_config["fsdp_version"] == 2
        command = f"accelerate launch --config_file {files[name]} -m"
        assert launch.processes(command, WHERE) == (config.num_processes, sharding)
        assert f"launch: accelerate launch --config_file infra/accelerate/{name}.yaml -m" in files[name].read_text()


TABLE = """[rank0]: RuntimeError: Connection closed by peer
torch.distributed.elastic.multiprocessing.errors.ChildFailedError: 
============================================================
tasks.sft FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-30_08:35:48
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 23544)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-30_08:35:47
  host      : localhost
  rank      : 3 (local_rank: 1)
  exitcode  : {code} (pid: 23545)
  error_file: <N/A>
  traceback : {why}
============================================================
"""
"""What torch 2.13 says of two processes that failed, the second one first."""


def test_the_first_rank_that_failed_is_named(tmp_path: Path) -> None:
    left = tmp_path / "error.crash"
    killed = TABLE.format(code=-9, why="Signal 9 (SIGKILL) received by PID 23545").encode()
    failed = TABLE.format(code=1, why="To enable traceback see: …").encode()
    assert rank_failures.find(failed, left, 1) == ("rank 3 ended with exit code 1; its output is above", 1)
    assert rank_failures.find(b"no table", left, 4) == ("the launcher ended with exit code 4; its output is above", 4)
    assert rank_failures.find(b"", left, -15) == ("the launcher was killed by signal 15", 143)
    rank_failures.leave(left, 3, ValueError("no such column"))
    rank_failures.leave(left, 0, RuntimeError("Connection closed by peer"))
    assert rank_failures.find(failed, left, 1) == ("rank 3 failed: ValueError: no such column", 1)
    named = "rank 3 was killed by signal 9, SIGKILL (out of memory?)"
    assert rank_failures.find(killed, left, 1) == (named, 137), "and not the one that missed it"
