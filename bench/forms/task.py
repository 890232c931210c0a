"""The process that asks one form the recipe's evaluation tasks; `python -m bench.forms` starts one after the other.

python -m bench.forms.task PLACE PARAMS DATA OUT DTYPE     # PARAMS: the recipe's evaluate.yaml; OUT: scores of rows
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Answer the tasks, and write `{task: {metric: {row: score}}}`."""
    place, params, data, out = map(Path, sys.argv[1:5])
    from tasks.evaluate import Config
    from tasks.evaluation.task_files import load_task, read_rows
    from tasks.stage.config import load

    config = load(params, Config)
    os.environ["TQDM_DISABLE"] = "1"
    from tasks.evaluation import harness
    from tasks.evaluation.onnx_model import OnnxLM
    from tasks.stage.progress import Progress

    tasks = []
    for choice in config.own:
        path = params.parent / choice.file
        tasks.append(harness.build_task(path, task := load_task(path), read_rows(path, task, choice, data)))
    quiet = Progress(None)
    lm: Any
    if (place / "genai_config.json").is_file():
        lm = OnnxLM(place, config.threads, config.batch_size, config.chat_template_args, config.too_long, quiet)
    else:
        lm = harness.load(
            place, config.device, sys.argv[5], config.batch_size, config.chat_template_args, config.too_long, quiet
        )
    scores = {
        name: {metric: {row["id"]: row["scores"][metric] for row in rows} for metric in rows[0]["scores"]}
        for name, rows in harness.ask(lm, tasks, config.seed).items()
    }
    out.write_text(json.dumps(scores), encoding="utf-8")


if __name__ == "__main__":
    main()
