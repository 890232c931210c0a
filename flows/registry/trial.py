"""A question to an export that sees or hears, before it is registered: MLflow's own example has texts alone."""

from pathlib import Path

from tasks.export.multimodal_reader import Reader
from tasks.export.multimodal_session import Session, is_hearing
from tasks.export.prompt_reader import MediaPrompt
from tasks.export.sound_reader import SoundReader
from tasks.multimodal import hearing, prompts


def try_out(export: Path) -> None:
    """Have a model answer a question about a grey picture or a second of noise. Raises ModelError when it cannot."""
    question = [{"role": "user", "content": "Hello!"}]
    session = Session(export)
    prompt: MediaPrompt
    if is_hearing(export):
        import numpy as np

        ears = SoundReader(export)
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, ears.sampling_rate).astype(np.float32)
        prompt = ears.read(hearing.conversation(question, 1), [noise])
    else:
        from PIL import Image

        prompt = Reader(export).read(prompts.shown(question, 1), [Image.new("RGB", (32, 32), (128, 128, 128))])
    list(session.generate(session.embeddings(prompt), max_new_tokens=8))
