"""A judge behind an OpenAI-compatible endpoint: `POST <base_url>/chat/completions`, one request a prompt.

Every reply is kept under `.polm/judge/`, one JSON file named by the SHA-256 of the request, so that a stage that was
killed does not pay twice and a finished one repeats without a network. Files and no database: two processes may share
them, and reading one runs no code. The key comes from the environment and is written nowhere.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
from pydantic import Field

from tasks.judges.protocol import named_label
from tasks.stage import artifact
from tasks.stage.config import Strict
from tasks.stage.errors import ConfigError, DataError

log = logging.getLogger("polm")
logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every request

CACHE = artifact.STATE / "judge"


class Price(Strict):
    """What the provider takes for a million tokens, in its currency."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class Endpoint(Strict):
    """An OpenAI-compatible server."""

    base_url: str = Field(pattern=r"^https?://[^\s@?]+$")
    """Up to and with `/v1`. No user, password or query: secrets belong in the environment."""
    model: str
    """The server's name for the model."""
    api_key_env: str | None
    """Environment variable that holds the key; null for a server that asks for none."""
    body: dict[str, Any]
    """Put into every request as it is, e.g. `temperature: 0`, `max_tokens: 4`."""
    concurrency: int = Field(ge=1)
    """Requests under way at once."""
    timeout_seconds: float = Field(gt=0)
    """Longest wait for a connection, and for each part of a reply."""
    attempts: int = Field(ge=1)
    """Tries of a request that fails by HTTP 408, 429, 5xx or on the way."""
    backoff_seconds: float = Field(ge=0)
    """Wait before the second try; doubles with each one. A longer `Retry-After` of the server is honoured."""
    max_wait_seconds: float = Field(ge=0)
    """Longest single wait; when the server asks for more, the stage ends, and goes on from there when run again."""
    price_per_million: Price
    """For the cost line."""


class EndpointJudge:
    """The judge that the endpoint is."""

    def __init__(self, config: Endpoint, labels: tuple[str, str], params: Path, section: str = "endpoint") -> None:
        """Prepare; nothing is sent yet.

        Args:
            config: the endpoint.
            labels: what a reply may name.
            params: the recipe file, for messages.
            section: where in it the endpoint stands, for messages.

        Raises:
            ConfigError: the environment does not hold the key.
        """
        self.name = f"{config.model} at {config.base_url}"
        self.requests = self.cached = 0
        self._config = config
        self._labels = labels
        self._params = params
        self._section = section
        self._used: list[dict[str, Any]] = []
        self._counting = threading.Lock()
        headers = {}
        if config.api_key_env is not None:
            key = os.environ.get(config.api_key_env, "").strip()
            if not key:
                raise ConfigError(
                    f"{params}: {section}.api_key_env: the environment variable {config.api_key_env} is not set; "
                    f"export it, or write null for a server that asks for no key"
                )
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx.Client(base_url=config.base_url, headers=headers, timeout=config.timeout_seconds)

    def __call__(self, prompts: Sequence[str]) -> list[float | None]:
        """Return 1 or 0 for the label that each reply names; None for a reply that names neither or both.

        Raises:
            ConfigError: the server refuses the key or the request.
            DataError: it cannot be reached, stays busy, or does not speak the protocol. What was replied is kept.
        """
        with ThreadPoolExecutor(self._config.concurrency) as pool:
            replies = list(pool.map(self._reply, prompts))
        self._used += replies
        return [named_label(reply["reply"], self._labels) for reply in replies]

    def usage(self) -> dict[str, float | None]:
        """Sum up tokens and cost of all replies, kept ones too: what the labels cost, whenever that was."""
        read, written = (sum(reply[key] for reply in self._used) for key in ("prompt_tokens", "completion_tokens"))
        price = self._config.price_per_million
        cost = round((read * price.input + written * price.output) / 1e6, 6)
        return {"prompt_tokens": read, "completion_tokens": written, "cost": cost}

    def _reply(self, prompt: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self._config.model, "messages": messages, **self._config.body}
        name = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        path = CACHE / name[:2] / f"{name}.json"
        if path.exists():
            with self._counting:
                self.cached += 1
            kept: dict[str, Any] = artifact.read_json(path)
            return kept
        reply = self._parsed(self._post(body))
        path.parent.mkdir(parents=True, exist_ok=True)
        artifact.write_json(path, reply)
        return reply

    def _post(self, body: dict[str, Any]) -> httpx.Response:
        """Send a request, and again as often as it takes, for the server's answer."""
        config = self._config
        problem = ""
        for attempt in range(config.attempts):
            wait = min(config.backoff_seconds * 2**attempt, config.max_wait_seconds)
            with self._counting:
                self.requests += 1
            try:
                response = self._client.post("/chat/completions", json=body)
            except httpx.TransportError as e:
                problem = f"cannot be reached ({type(e).__name__}: {e})"
            else:
                if response.status_code not in (408, 429) and response.status_code < 500:
                    return response
                wait = max(wait, retry_after := _retry_after(response.headers.get("Retry-After", "")))
                problem = f"answers HTTP {response.status_code}"
                if retry_after > config.max_wait_seconds:
                    problem += f" and asks to wait {retry_after:.0f} s, longer than {self._section}.max_wait_seconds"
                    break
            if attempt + 1 < config.attempts:
                log.info("judge: %s %s; trying again in %.1f s", config.base_url, problem, wait)
                time.sleep(wait)
        raise DataError(
            f"{self._params}: {self._section}.base_url: {config.base_url} {problem}, after {attempt + 1} tries; check "
            f"address and server, then run again: the replies so far are kept in {CACHE}"
        )

    def _parsed(self, response: httpx.Response) -> dict[str, Any]:
        """Read `reply` and tokens. A server's words are shown but for a refused key: it may repeat the key."""
        config, section = self._config, self._section
        where = f"{self._params}: {section}: {config.base_url}"
        if response.status_code in (401, 403):
            key = f"the key in {config.api_key_env}" if config.api_key_env else "requests without a key"
            raise ConfigError(f"{where} refuses {key} (HTTP {response.status_code}); set {section}.api_key_env right")
        if response.status_code != 200:
            words = f"HTTP {response.status_code}: {response.text[:200]}"
            raise ConfigError(f"{where} refuses the request ({words}); check {section}.model and {section}.body")
        try:
            data = response.json()
            text = data["choices"][0]["message"]["content"]
            usage = data.get("usage") or {}  # not every server counts
            tokens = {key: int(usage.get(key, 0)) for key in ("prompt_tokens", "completion_tokens")}
        except (ValueError, LookupError, TypeError, AttributeError) as e:
            raise DataError(
                f"{where} does not speak the chat completions protocol ({type(e).__name__}: {e}); base_url usually "
                f"ends in /v1"
            ) from None
        return {"reply": text or "", **tokens}


def _retry_after(value: str) -> float:
    """Read the seconds that a `Retry-After` header asks for, a number or a date (RFC 9110, 10.2.3); 0 without one."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
