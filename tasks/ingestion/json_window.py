"""A stretch of a JSON file's text that moves along with what is read, so that memory holds an item and not the file."""

import codecs
import json
import re
from typing import IO

from tasks.stage.errors import DataError

BLOCK = 1 << 20
"""Bytes that are read at once."""
LONGEST = 1 << 28
"""Characters of one value at most; where a quote is missing, the rest of the file is one."""
_NEAR = 16
"""Characters before the end of the stretch in which the end of a number, or a mistake, may be nothing but that end."""
_BLANK = re.compile(r"\s*")
_LENIENT = json.JSONDecoder(parse_int=str, parse_float=str)
"""Finds where a value ends; what it holds is read anew, strictly."""


class Window:
    """The text of a file from a place on."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        """Begin at the first character. Args: name: how messages name the file."""
        self._file = file
        self._name = name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._bytes = 0
        self._text = ""
        self._at = 0
        self._ended = False
        self.number = 1
        """The line of the place, from 1."""
        self._column = 0

    def peek(self) -> str:
        """Go to the next character that is no white space and return it; empty at the end of the file."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            self.take((blank.end() if blank else self._at) - self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, count: int) -> None:
        """Go on by some characters of the stretch."""
        self.number += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def line(self) -> str:
        """Return the text from the place to the end of its line, or as much of it as a value may have."""
        while "\n" not in self._text[self._at :] and len(self._text) - self._at <= LONGEST and self._more():
            pass
        return self._text[self._at :].partition("\n")[0]

    def value(self) -> str:
        """Go over one value and return its text.

        Raises:
            DataError: it is not JSON, too deep or too long.
        """
        while True:
            try:
                _, end = _LENIENT.raw_decode(self._text, self._at)
            except json.JSONDecodeError as e:
                open_string = e.msg.startswith("Unterminated string")
                if (open_string or e.pos > len(self._text) - _NEAR) and not self._ended:
                    self._more()
                    continue
                line = self.number + self._text.count("\n", self._at, e.pos)
                column = e.colno + (self._column if e.lineno == 1 else 0)
                raise DataError(
                    f"{self._name}:{line}: not JSON ({e.msg}, column {column}); is the file cut off?"
                ) from None
            except RecursionError:
                raise DataError(f"{self._name}:{self.number}: lists or objects are nested too deep") from None
            if end > len(self._text) - _NEAR and not self._ended:
                self._more()
                continue
            value = self._text[self._at : end]
            self.take(end - self._at)
            return value

    def _more(self) -> bool:
        """Read on, twice as much as is held of a value, and let go of what lies before the place, which moves.

        Returns:
            Whether there was more; false at the end of the file.

        Raises:
            DataError: no UTF-8, or a value of more than `LONGEST` characters.
        """
        if self._ended:
            return False
        held = len(self._text) - self._at
        if held > LONGEST:
            raise DataError(
                f"{self._name}:{self.number}: a value of more than {LONGEST >> 20} million characters; is a quote "
                f"missing? Else write one object a line, as .jsonl"
            )
        raw = self._file.read(max(BLOCK, held))
        pending = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as e:
            at = self._bytes - pending + e.start + 1
            raise DataError(f"{self._name}: not UTF-8 at byte {at}; write the file anew in that encoding") from None
        self._bytes += len(raw)
        self._ended = not raw
        newline = self._text.rfind("\n", 0, self._at)
        self._column = self._at - newline - 1 if newline >= 0 else self._column + self._at
        self._text = self._text[self._at :] + text
        self._at = 0
        return not self._ended or bool(text)
