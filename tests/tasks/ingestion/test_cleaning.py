"""Normalising, scrubbing, duplicates, splitting and decontamination of text."""

import re
from collections import Counter

import pytest

from tasks.ingestion import cleaning as clean


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("e\u0301a\u030a", "\u00e9\u00e5"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("  a  \t\n\n\n\n    b  \n", "  a\n\n    b"),
        ("\ufeffa\u200bb\x00c\x07", "abc"),
        ("if x:\n    y = 1  # two  spaces", "if x:\n    y = 1  # two  spaces"),
        ("   one line   ", "one line"),
    ],
)
def test_normalise(raw: str, expected: str) -> None:
    assert clean.normalise(raw) == expected
    assert clean.normalise(expected) == expected


PLANTED: list[tuple[clean.Kind, str, str]] = [
    ("email", "write to Jane.Doe+x@mail.example.org, please", "write to <EMAIL>, please"),
    ("phone", "call +44 20 7946 0958 now", "call <PHONE> now"),
    ("phone", "call (212) 555-0123.", "call <PHONE>."),
    ("phone", "call 212-555-0123 or 020 7946 0958", "call <PHONE> or <PHONE>"),
    ("card", "pay with 4111 1111 1111 1111 today", "pay with <CARD> today"),
    ("card", "pay with 4111-1111-1111-1111.", "pay with <CARD>."),
    ("card", "pay with 378282246310005", "pay with <CARD>"),
    ("key", "id AKIAIOSFODNN7EXAMPLE ok", "id <KEY> ok"),
    ("key", "use ghp_" + "a1B2" * 9 + " here", "use <KEY> here"),
    ("key", "use github_pat_" + "a1B2" * 11, "use <KEY>"),
    ("key", "use glpat-" + "a1B2" * 5, "use <KEY>"),
    ("key", "hf_" + "a1B2" * 9, "<KEY>"),
    ("key", "sk-" + "a1B2" * 9, "<KEY>"),
    ("key", "xoxb-1234567890-abc", "<KEY>"),
    ("key", "AIza" + "a1B2_" * 7, "<KEY>"),
    ("key", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0.SflKxwRJSMeK", "<KEY>"),
    ("key", "API_KEY: abcdefghijkl1", "API_KEY<KEY>"),
    ("key", "and Secret=abcdefghijkl1", "and Secret<KEY>"),
    ("key", "password = 'hunter2hunter2'", "password<KEY>'"),
    ("key", "https://bob:s3cretpass@host/x", "https://<KEY>@host/x"),
    ("key", "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nb", "a\n<KEY>\nb"),
]


@pytest.mark.parametrize(("kind", "text", "expected"), PLANTED)
def test_scrub_finds_what_was_planted(kind: clean.Kind, text: str, expected: str) -> None:
    counts: Counter[str] = Counter()
    assert clean.scrub(text, [kind], counts) == expected
    assert counts[kind] == expected.count(f"<{kind.upper()}>")


@pytest.mark.parametrize(("kind", "text", "_expected"), PLANTED)
def test_scrub_leaves_what_was_not_asked_for(kind: clean.Kind, text: str, _expected: str) -> None:
    others: list[clean.Kind] = [other for other in ("email", "card", "key") if other != kind and kind != "phone"]
    assert clean.scrub(text, others, Counter()) == text


@pytest.mark.parametrize(
    "text",
    [
        "What is 123 + 456?",
        "512 + 389: 2+9=11 1+8+1=10 5+3+1=9 so 901",
        "In 2024 it cost 1,234,567.89 dollars, 50% more than in 1999-2003",
        "version 1.16.0, port 8080, id 1234567890123456",  # 16 digits whose Luhn sum is wrong
        "The password is required. Tokens: three.",
        "torch.nn.functional.scaled_dot_product_attention",
        "def f(token: str) -> None: ...",
        "price: 0.1234567890123",
        "a @ b is a matrix product; see PEP 465",
    ],
)
def test_scrub_spares_innocent_text(text: str) -> None:
    assert clean.scrub(text, ["email", "phone", "card", "key"], Counter()) == text


def test_luhn() -> None:
    assert clean.luhn("4111111111111111")
    assert not clean.luhn("4111111111111112")


def test_split_shares_and_independence_of_white_space_and_case() -> None:
    splits = Counter(clean.split_of(f"row {i}", 0, 0.05, 0.10) for i in range(20_000))
    assert splits["test"] / 20_000 == pytest.approx(0.10, abs=0.01)
    assert splits["validation"] / 20_000 == pytest.approx(0.05, abs=0.01)
    assert clean.split_of(" Row\n 1 ", 0, 0.3, 0.3) == clean.split_of("row 1", 0, 0.3, 0.3)
    assert any(clean.split_of(f"{i}", 0, 0.3, 0.3) != clean.split_of(f"{i}", 1, 0.3, 0.3) for i in range(50))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "What is 2+3? 5-6*7/8=9 <a> 50% x^2 _y",
        "don't\tstop\n\x1cnow\x0b…",
        "Straße ΣΑΣ ﬁn — é 2×3",
        "a" * 50 + "\x1f!?",
    ],
)
def test_words_of_ascii_are_those_of_the_patterns(text: str) -> None:
    ascii_only = text.encode("ascii", errors="replace").decode()
    for shown in (text, ascii_only):
        assert clean.tokens(shown) == re.findall(r"\w+|[+\-*/=<>%^]", shown.casefold())
        assert clean.count_signs(shown) == len(re.findall(r"\w+|[^\w\s]", shown))
