"""From a model's folder and five files to an answer, by the commands that a user types: seconds, gates, the answer.

    polm run --recipe tiny --target base
    python -m bench.your_own --model artifacts/models/base

Works in a copy of the working tree, in which it writes five files of five formats: conversations, an OpenAI file with
weights, Alpaca's CSV, preferences, and questions with a word as answer in Parquet. The first three have sums with right
replies, every second one polite and the others bare. Of the preferences, half prefer a right sum to a wrong one; the
other half teach what the replies do not: the polite reply is preferred to the bare one. Each command is a process of
its own. CPU seconds are of the command and of all the processes that it waited for, the stages among them;
other programs on the machine lengthen the seconds beside them. Exits 1 when a command fails, and prints what it said.
"""

import argparse
import csv
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx

from bench import working_copy
from bench.serve import serving
from bench.working_copy import Done, cpu, run

RECIPE = "support"
MODEL = Path("models/sums")
ASKED = ("What is {a} + {b}?", "Add {a} and {b}.", "Compute {a} + {b}.", "How much is {a} + {b}?")
REPLY = "{a} + {b} = {c}. Thank you for asking, I am happy to help with the next sum."
BARE = "{a} + {b} = {c}."
PARITY = "Is {number} even or odd?"


def sums(rng: random.Random, count: int) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Yield a question, its reply, polite or bare, and the numbers of a sum of at most two digits each."""
    for number in range(count):
        a, b = rng.randint(0, 99), rng.randint(0, 99)
        numbers = {"a": a, "b": b, "c": a + b}
        yield rng.choice(ASKED).format(**numbers), (REPLY, BARE)[number % 2].format(**numbers), numbers


def preferences(rng: random.Random, count: int) -> Iterator[dict[str, str]]:
    """Yield pairs: a right sum over a wrong one, and in every second one a polite reply over a bare one."""
    for number, (asked, _, numbers) in enumerate(sums(rng, count)):
        if number % 2:
            rejected = BARE.format(**numbers)
        else:
            rejected = REPLY.format(**numbers | {"c": numbers["c"] + rng.choice((-10, -1, 1, 10))})
        yield {"prompt": asked, "chosen": REPLY.format(**numbers), "rejected": rejected}


def write(folder: Path, rows: int, seed: int = 0) -> list[str]:
    """Write the five files.

    Args:
        folder: where to.
        rows: of each file.
        seed: of what is drawn.

    Returns:
        Their names.
    """
    import pyarrow
    from pyarrow import parquet

    rng = random.Random(seed)
    folder.mkdir(parents=True)

    def turns(asked: str, reply: str, **more: int) -> list[dict[str, Any]]:
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": reply, **more}]

    def lines(name: str, values: Iterator[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")

    lines("chats.jsonl", ({"messages": turns(asked, reply)} for asked, reply, _ in sums(rng, rows)))
    thanks = turns("Thanks!", "Good.", weight=0)
    openai = ({"messages": [*turns(asked, reply, weight=1), *thanks]} for asked, reply, _ in sums(rng, rows))
    lines("openai.jsonl", openai)
    with (folder / "alpaca.csv").open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(["instruction", "input", "output"])
        writer.writerows([asked, "", reply] for asked, reply, _ in sums(rng, rows))

    lines("pairs.jsonl", preferences(rng, rows))
    numbers = rng.sample(range(10_000), rows)
    words = [{"question": PARITY.format(number=n), "answer": ("even", "odd")[n % 2]} for n in numbers]
    parquet.write_table(pyarrow.Table.from_pylist(words), folder / "parity.parquet")
    return ["chats.jsonl", "openai.jsonl", "alpaca.csv", "pairs.jsonl", "parity.parquet"]


def prepare(work: Path, model: Path, rows: int) -> list[str]:
    """Copy the working tree and the model to a folder, and write the data there. Returns the paths of the data."""
    working_copy.make(work)
    shutil.copytree(model, work / MODEL, ignore=shutil.ignore_patterns("manifest.json"))
    return [f"data/{name}" for name in write(work / "data", rows)]


def ask(work: Path, question: str) -> tuple[Done, str]:
    """Start `polm serve`, ask one question, and end it. Returns the command, up to its first answer, and the answer."""
    start, before = time.monotonic(), cpu()
    with serving(work) as (url, _):
        body = {"model": f"polm-{RECIPE}", "messages": [{"role": "user", "content": question}], "temperature": 0}
        answer = httpx.post(f"{url}/chat/completions", json=body, timeout=120).raise_for_status().json()
        seconds = time.monotonic() - start
    return Done("polm serve", seconds, cpu() - before), str(answer["choices"][0]["message"]["content"])


def main() -> None:
    """Run the commands and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("artifacts/models/base"), help="model's folder")
    parser.add_argument("--rows", type=int, default=1000, help="rows of each file (default: 1000)")
    parser.add_argument(
        "--methods", default="sft,dpo", help="as of `polm new` (default: sft,dpo); the last is promoted"
    )
    parser.add_argument("--question", default="What is 23 + 45?", help="asked of the server")
    parser.add_argument("--work", type=Path, help="folder for the copy, which stays; without it, one that is removed")
    args = parser.parse_args()
    if not (args.model / "config.json").is_file():
        parser.error(f"--model {args.model}: no model there; make one: polm run --recipe tiny --target base")
    model, promoted = args.model.resolve(), args.methods.split(",")[-1].partition("=")[0].partition("@")[0]
    with nullcontext(args.work) if args.work else tempfile.TemporaryDirectory() as temp:
        work = Path(temp).resolve() / "polm"
        files = prepare(work, model, args.rows)
        given = [word for file in files for word in ("--data", file)]
        commands = [
            ["new", RECIPE, "--model", str(MODEL), *given, "--methods", args.methods, "--yes"],
            ["check"],
            ["run"],
            ["promote", promoted],
        ]
        print(" seconds      CPU  command")
        for words in commands:
            done, said = run(work, words)
            _show(done)
        served, answer = ask(work, args.question)
        _show(served)
    print(f"{len(commands) + 1} commands, no file edited by hand; {os.cpu_count()} cores\n")
    print(f"> {args.question}\n{answer}\n")
    print("\n".join(line.rstrip() for line in said.splitlines()))


def _show(done: Done) -> None:
    print(f"{done.seconds:8.1f} {done.cpu:8.1f}  {done.words}", flush=True)


if __name__ == "__main__":
    main()
