"""Control tokens of a chat template that a passage writes out, made harmless: a document must not end the user's turn.

Tokenizers read `<|im_end|>` in any text as the token itself, in that of a document too. A space behind its first
character leaves a person the same words and the tokenizer none of its own: `< |im_end|>`.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path


def control_tokens(folder: Path) -> tuple[str, ...]:
    """List the tokens that a tokenizer finds in a text before it cuts it into words, the longest first.

    Args:
        folder: a model folder, of PyTorch or ONNX Runtime GenAI: `tokenizer.json` and `tokenizer_config.json` count.

    Returns:
        Their texts; white space and single characters, which some vocabularies list here, are no control tokens.
    """
    found: set[str] = set()
    for name, key in (("tokenizer.json", "added_tokens"), ("tokenizer_config.json", "added_tokens_decoder")):
        path = folder / name
        tokens = json.loads(path.read_text(encoding="utf-8")).get(key) if path.is_file() else None
        found |= {token["content"] for token in (tokens.values() if isinstance(tokens, dict) else tokens or [])}
    return tuple(sorted((token for token in found if len(token.strip()) > 1), key=lambda token: (-len(token), token)))


def harmless(text: str, tokens: Iterable[str]) -> str:
    """Take the control tokens out of a text, so that no tokenizer with these tokens finds one.

    A text without any comes back as it is. Case makes no difference, and a text that would hold a token only in
    Unicode's compatibility form (NFKC), as some tokenizers read it, comes back in that form.
    """
    pattern = re.compile("|".join(re.escape(token) for token in tokens) or "(?!)", re.IGNORECASE)
    if not pattern.search(text):
        composed = unicodedata.normalize("NFKC", text)
        if not pattern.search(composed):
            return text
        text = composed
    while pattern.search(text):  # what is left and right of a broken token may be another one
        text = pattern.sub(lambda token: re.sub(r"(\S)", r"\1 ", token[0], count=1), text)
    return text
