"""PPO of `tasks/rl/ppo.py` against the last one TRL had (1.12), from the same folders, on the same prompts and seeds.

    python -m bench.ppo --samples 640 --seeds 1 2

TRL 1.12 lives in its own virtual environment under `.polm/bench/`, made on the first run with plain pip. Both sides
train the same policy with the same reward and value model in float32 with one thread: a rollout of 64 answers, two
epochs over it in one minibatch of two micro-batches, the same clips, coefficients, λ, length limit, one learning rate
for both models, no gradient clipping (TRL's has none). Each training is its own process, and the sides take turns.

Samples/s are those of `trainer.train()` by CPU time, without imports and loading. Reward, KL and `helpful` are measured
afterwards by one and the same code: four answers a validation prompt, sampled at temperature 1, scored by the reward
model. TRL's side does not repeat itself to the bit from the same seed; ours does.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

VENV = Path(".polm/bench/trl-1.12")
PACKAGES = ("torch==2.13.0", "trl==1.12.*", "transformers==5.17.0")
ROLLOUT = 64
"""Answers to a rollout."""
MICRO = 32
"""Answers to a micro-batch."""
EPOCHS = 2
"""Passes over a rollout."""
LENGTH = 40
"""Longest answer, in tokens."""
LEARNING_RATE = 2e-4
KL_COEF = 0.05
MISSING_EOS_PENALTY = 1.0
VALUE_CLIP = 0.2
VALUE_COEF = 0.1
GAMMA = 1.0
LAMBDA = 0.95
CLIP = 0.2
COMMON: dict[str, Any] = {
    "per_device_train_batch_size": MICRO,
    "gradient_accumulation_steps": ROLLOUT // MICRO,
    "learning_rate": LEARNING_RATE,
    "lr_scheduler_type": "constant",
    "temperature": 1.0,
    "gradient_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 1000,
}


def ours(model: Path, reward: Path, prompts: list[Any], out: Path, seed: int) -> float:
    """Train with `tasks/rl/ppo.py`; returns the seconds."""
    from datasets import Dataset

    from tasks.models.folder import load_causal_lm, load_tokenizer
    from tasks.ppo import load_classifier
    from tasks.rl.ppo import PPOConfig, PPOTrainer

    tokenizer = load_tokenizer(model)
    trainer = PPOTrainer(
        model=load_causal_lm(model),
        value_model=load_classifier(reward, tokenizer),
        reward_funcs=[load_classifier(reward, tokenizer)],
        reward_processing_classes=[load_tokenizer(reward)],
        args=PPOConfig(
            output_dir=str(out),
            seed=seed,
            beta=1.0,
            max_completion_length=LENGTH,
            epsilon=CLIP,
            max_grad_norm=0.0,
            num_iterations=EPOCHS,
            max_steps=len(prompts) // ROLLOUT * EPOCHS,
            **COMMON,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=tokenizer,
        gamma=GAMMA,
        gae_lambda=LAMBDA,
        kl_coef=KL_COEF,
        kl_target=None,
        kl_horizon=1.0,
        value_clip=VALUE_CLIP,
        value_coef=VALUE_COEF,
        value_learning_rate=LEARNING_RATE,
        missing_eos_penalty=MISSING_EOS_PENALTY,
        whiten_advantages=True,
    )
    seconds = timed(trainer)
    trainer.model.save_pretrained(out)
    return seconds


def theirs(model: Path, reward: Path, prompts: list[Any], out: Path, seed: int) -> float:
    """Train with TRL 1.12's `PPOTrainer`; returns the seconds. Runs in its own environment and imports none of ours."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    settings: dict[str, Any] = {"num_labels": 1, "dtype": "float32", "pad_token_id": tokenizer.pad_token_id}
    ids = [tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=False) for p in prompts]
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=str(out),
            seed=seed,
            total_episodes=len(prompts),
            num_ppo_epochs=EPOCHS,
            num_mini_batches=1,
            response_length=LENGTH,
            stop_token="eos",
            kl_coef=KL_COEF,
            cliprange=CLIP,
            cliprange_value=VALUE_CLIP,
            vf_coef=VALUE_COEF,
            gamma=GAMMA,
            lam=LAMBDA,
            missing_eos_penalty=MISSING_EOS_PENALTY,
            num_sample_generations=0,
            local_rollout_forward_batch_size=ROLLOUT,
            **COMMON,
        ),
        processing_class=tokenizer,
        model=policy,
        ref_model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        reward_model=AutoModelForSequenceClassification.from_pretrained(reward, **settings),
        value_model=AutoModelForSequenceClassification.from_pretrained(reward, **settings),
        train_dataset=Dataset.from_list([{"input_ids": row} for row in ids]),
        eval_dataset=Dataset.from_list([{"input_ids": row} for row in ids[:MICRO]]),
    )
    seconds = timed(trainer)
    policy.save_pretrained(out)
    return seconds


def timed(trainer: Any) -> float:
    """Measure CPU seconds of `trainer.train()`: with one thread, the seconds of a machine that does nothing else."""
    start = time.process_time()
    trainer.train()
    return time.process_time() - start


def judge(folder: Path, model: Path, reward: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Measure a policy's mean reward, KL to the model it started from (nats an answer) and share of helpful answers."""
    import torch

    from tasks.grading.answers import sums
    from tasks.models.folder import load_causal_lm, load_tokenizer
    from tasks.ppo import load_classifier

    tokenizer = load_tokenizer(model)
    tokenizer.padding_side = "left"
    policy, reference = load_causal_lm(folder), load_causal_lm(model)
    scorer = load_classifier(reward, tokenizer)
    prompts = [row["prompt"] for row in rows]
    batch = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    torch.manual_seed(0)
    with torch.inference_mode():
        ids = policy.generate(**batch, max_new_tokens=LENGTH, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
        start = batch["input_ids"].size(1)
        answers = ids[:, start:]
        ended = (answers == tokenizer.eos_token_id).cumsum(1)
        mask = (ended - (answers == tokenizer.eos_token_id).long()) == 0  # up to and with the first EOS
        attention_mask = torch.cat([batch["attention_mask"], mask.long()], 1)
        logps = [
            m(ids, attention_mask=attention_mask)
            .logits[:, start - 1 : -1]
            .log_softmax(-1)
            .gather(2, answers[..., None])[..., 0]
            for m in (policy, reference)
        ]
        texts = tokenizer.batch_decode(answers.masked_fill(~mask, tokenizer.pad_token_id), skip_special_tokens=True)
        whole = [
            tokenizer.apply_chat_template([*p, {"role": "assistant", "content": t}], tokenize=False)
            for p, t in zip(prompts, texts, strict=True)
        ]
        scores = scorer(
            **tokenizer(whole, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
        ).logits[:, 0]
    helpful = [sums({"answer": row["answer"]}, [text])["helpful"] for row, text in zip(rows, texts, strict=True)]
    kl = ((logps[0] - logps[1]) * mask).sum(1).mean().item()
    return {"reward": scores.mean().item(), "kl": kl, "helpful": mean(helpful)}


def prepare() -> Path:
    """Find the interpreter that has TRL 1.12; make its environment when there is none."""
    python = VENV / "bin/python"
    if not (VENV / "complete").exists():
        print(f"making {VENV} with {', '.join(PACKAGES)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (VENV / "complete").touch()
    return python


def train(side: str, python: Path, task: dict[str, Any]) -> float:
    """Run one training in its own process; returns its seconds."""
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "TRL_EXPERIMENTAL_SILENCE": "1", "TQDM_DISABLE": "1"}
    fixed = {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        [str(python), "-m", "bench.ppo", "--side", side],
        input=json.dumps(task),
        env=os.environ | quiet | fixed,
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def compare(args: argparse.Namespace) -> None:
    """Train both sides on every seed and print the table."""
    interpreters = {"ours": Path(sys.executable), "trl 1.12": prepare()}
    rows = {s: [json.loads(x) for x in (args.data / f"prompts/{s}.jsonl").open()] for s in ("train", "validation")}
    prompts = [row["prompt"] for row in rows["train"]][: args.samples // ROLLOUT * ROLLOUT]
    held_out = rows["validation"][:100] * 4  # four answers to each
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in interpreters}
    for seed in args.seeds:
        for name, python in interpreters.items():
            with tempfile.TemporaryDirectory() as out:
                task = {
                    "model": str(args.model),
                    "reward": str(args.reward),
                    "prompts": prompts,
                    "out": out,
                    "seed": seed,
                }
                seconds = train(name, python, task)
                scores = judge(Path(out), args.model, args.reward, held_out)
            figures[name].append({**scores, "samples/s": len(prompts) / seconds})
            print(f"seed {seed}  {name:9}", "  ".join(f"{k} {v:.3f}" for k, v in figures[name][-1].items()), flush=True)
    before = judge(args.model, args.model, args.reward, held_out)
    print(f"\n{len(prompts)} samples, mean of {len(args.seeds)} seeds   before      ours  trl 1.12")
    for key in figures["ours"][0]:
        values = [mean(row[key] for row in rows) for rows in figures.values()]
        print(f"{key:31} {before.get(key, float('nan')):9.3f} {values[0]:9.3f} {values[1]:9.3f}")
    print(f"{'speed, ours / trl 1.12':31} {'':9} {values[0] / values[1]:9.2f} x")


def main() -> None:
    """Compare, or (`--side`) be one training, its task on standard input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("artifacts/models/sft"))
    parser.add_argument("--reward", type=Path, default=Path("artifacts/models/reward"))
    parser.add_argument("--data", type=Path, default=Path("artifacts/data"))
    parser.add_argument("--samples", type=int, default=640)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--side", choices=["ours", "trl 1.12"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side is None:
        compare(args)
        return
    task = json.load(sys.stdin)
    side = ours if args.side == "ours" else theirs
    print(side(Path(task["model"]), Path(task["reward"]), task["prompts"], Path(task["out"]), task["seed"]))


if __name__ == "__main__":
    main()
