"""A model that hears, asked by voices that no recipe trains on: recorded diphones, and a person.

    apt-get install flite festival festvox-kallpc16k asterisk-core-sounds-en-wav
    python -m bench.voices --model artifacts/models/speech

The model of `tiny` has heard espeak-ng alone, whose voices are computed. flite's and festival's are put together from
recordings of people's syllables, and Asterisk's English prompts (CC-BY-SA-3.0) were spoken by one; of those there are
ten digits and "plus", each once, said alone and joined to strings with pauses between. Voices that are not installed
are left out and named. The clips go through the data stage and the evaluation of the recipe, so rates, intervals and
controls are those of `params/tiny/evaluate_spoken.yaml`.
"""

import argparse
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tasks.generators.spoken import QUESTIONS, WORDS, trimmed
from tasks.stage import artifact

WORK = Path(".polm/bench/voices")
ASTERISK = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
FLITE = ("kal16", "awb", "rms", "slt")
CLIPS = 60
"""Clips of each voice."""
SUM_SHARE = 0.5
"""Share of the clips that ask for a sum."""
PAUSE = 0.15
"""Longest pause in seconds between the joined words of a person."""
Say = Callable[[list[str]], tuple[Any, int]]


def flite(voice: str) -> Say:
    """Return a function that says words by flite."""

    def say(words: list[str]) -> tuple[Any, int]:
        path = WORK / "said.wav"
        text = " ".join(words)
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(path)], check=True, capture_output=True)
        return _read(path)

    return say


def festival() -> Say:
    """Return a function that says words by festival's default voice."""

    def say(words: list[str]) -> tuple[Any, int]:
        path = WORK / "said.wav"
        command = ["text2wave", "-o", str(path)]
        subprocess.run(command, input=" ".join(words).encode(), check=True, capture_output=True)
        return _read(path)

    return say


def asterisk(rng: random.Random) -> Say:
    """Return a function that joins a person's words, with pauses of random lengths."""
    import numpy as np

    def say(words: list[str]) -> tuple[Any, int]:
        pieces, rate = [], 8_000
        for word in words:
            name = "letters/plus" if word == "plus" else f"digits/{WORDS.index(word)}"
            samples, rate = _read(ASTERISK / f"{name}.wav")
            pieces += [trimmed(samples, rate), np.zeros(int(rng.uniform(0, PAUSE) * rate), np.float32)]
        return np.concatenate(pieces[:-1]), rate

    return say


def _read(path: Path) -> tuple[Any, int]:
    import soundfile

    samples, rate = soundfile.read(path, dtype="float32")
    return samples, rate


def voices(rng: random.Random) -> tuple[dict[str, Say], list[str]]:
    """Return the voices that are installed, and the names of those that are not."""
    found: dict[str, Say] = {}
    if shutil.which("flite"):
        found |= {f"flite-{voice}": flite(voice) for voice in FLITE}
    if shutil.which("text2wave"):
        found["festival-kal"] = festival()
    if ASTERISK.is_dir():
        found |= {"person-single": asterisk(rng), "person-joined": asterisk(rng)}
    every = [*(f"flite-{voice}" for voice in FLITE), "festival-kal", "person-single", "person-joined"]
    return found, [name for name in every if name not in found]


def rows(name: str, say: Say, folder: Path, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Write the clips of a voice, and yield a row for each question."""
    import soundfile

    single = name == "person-single"
    for number in range(10 if single else CLIPS):
        digits = [number] if single else [rng.randrange(10) for _ in range(rng.choice((2, 3, 3)))]
        asks = not single and rng.random() < SUM_SHARE
        digits = digits[:2] if asks else digits
        words = [WORDS[digits[0]], "plus", WORDS[digits[1]]] if asks else [WORDS[digit] for digit in digits]
        samples, rate = say(words)
        clip = f"{name}-{number}.wav"
        soundfile.write(folder / clip, trimmed(samples, rate), rate)
        label = (" + " if asks else " ").join(map(str, digits))
        row = {"clip": clip, "voice": name}
        yield {**row, "set": "transcripts", "question": QUESTIONS["transcribe"], "answer": label}
        if asks:
            yield {**row, "set": "spoken_sums", "question": QUESTIONS["sum"], "answer": str(sum(digits))}


def recipe(folder: Path, clips: Path) -> None:
    """Write the recipe files of the voices beside copies of the tasks of `tiny`."""
    yaml = YAML()
    data = yaml.load(Path("params/tiny/spoken.yaml"))
    data["sources"], data["sets"] = {}, {}
    for name in ("transcripts", "spoken_sums"):
        data["sources"][name] = {
            "file": str(clips / f"{name}.jsonl"), "sha256": None, "media": str(clips), "licence": "of each voice",
        }  # fmt: skip
        columns = {"question": "{question}", "answer": "{answer}", "voice": "{voice}", "group": "{voice}"}
        entry = {"source": name, "split": "published", "limit": None, "map": {**columns, "audio": ["{clip}"]}}
        data["sets"][f"eval:{name}"] = {"near_duplicates": False, "rows": [entry]}
    folder.mkdir(parents=True)
    yaml.dump(data, folder / "voices.yaml")
    shutil.copy("params/tiny/evaluate_spoken.yaml", folder / "evaluate_voices.yaml")
    shutil.copytree("params/tiny/eval", folder / "eval")


def main() -> None:
    """Ask the model and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("artifacts/models/speech"))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    shutil.rmtree(WORK, ignore_errors=True)
    clips = WORK / "clips"
    clips.mkdir(parents=True)
    rng = random.Random(arguments.seed)
    found, missing = voices(rng)
    if missing:
        print(f"not installed: {', '.join(missing)}")
    if not found:
        sys.exit("no voice is installed; the first lines of bench/voices.py say which packages have some")
    asked = [row for name, say in found.items() for row in rows(name, say, clips, rng)]
    for name in ("transcripts", "spoken_sums"):
        mine = [{key: value for key, value in row.items() if key != "set"} for row in asked if row["set"] == name]
        artifact.write_jsonl(clips / f"{name}.jsonl", mine)
    recipe(WORK / "recipe", clips)
    python = [sys.executable, "-m"]
    subprocess.run(
        [*python, "tasks.data", str(WORK / "recipe/voices.yaml"), "--out", str(WORK / "data")],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    subprocess.run(
        [*python, "tasks.evaluate", str(WORK / "recipe/evaluate_voices.yaml"), "--model", str(arguments.model),
         "--data", str(WORK / "data"), "--out", str(WORK / "metrics")],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    show(artifact.read_json(WORK / "metrics" / "results.json")["tasks"])


def show(tasks: dict[str, Any]) -> None:
    """Print word error rates and sums by voice."""
    rates = tasks["transcripts"]["word_error_rate"]
    sums = tasks["spoken_sums"]
    print("| voice | words | word error rate | with silence | with noise | other sound | sums right |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for group, rate in rates["own"].items():
        voice = group.partition("=")[2]
        right = sums["metrics"] if not voice else sums["groups"]["voice"].get(voice)
        score = f"{right['exact_match']['value']:.3f}" if right else "–"
        others = " | ".join(f"{rates[control][group]['value']:.3f}" for control in ("silence", "noise", "other"))
        interval = f"{rate['value']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"
        print(f"| {voice or 'all'} | {rate['words']} | {interval} | {others} | {score} |")


if __name__ == "__main__":
    main()
