"""espeak-ng's voices, out of the package `espeakng_loader`, which has the library and its data inside.

The library is called in this process, with no program and no sound card between. It is licensed under GPL-3 and comes
with the extra `polm[speech]`. It keeps state in static variables, so a sound depends on all that the library has said
before: each `Synthesiser` loads a copy of it, and the same calls in the same order give the same samples.
"""

import ctypes
import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tasks.stage.errors import DataError

PACKAGE = "espeakng_loader"
RETRIEVAL = 2
"""Output mode of `espeak_Initialize`: samples go to the callback, before `espeak_Synth` returns."""
RATE, PITCH = 1, 3
"""Numbers of `espeak_SetParameter`: words a minute; pitch, 0 to 100."""
SEED = 1
"""Seed of the breath and the flutter of voices."""
UTF8 = 1
"""Flag of `espeak_Synth`: the text is UTF-8."""
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Synthesiser:
    """A copy of the library that has said nothing yet."""

    def __init__(self) -> None:
        """Load it with its voices. Raises DataError where the package is missing or does not load."""
        if importlib.util.find_spec(PACKAGE) is None:
            raise DataError(f"no speech synthesiser: the package {PACKAGE} is missing; `pip install 'polm[speech]'`")
        import espeakng_loader

        folder = espeakng_loader.get_data_path()
        with tempfile.TemporaryDirectory() as copies:  # one path is loaded once, with one set of static variables
            try:
                self._library = ctypes.CDLL(shutil.copy(espeakng_loader.get_library_path(), copies))
            except OSError as e:
                raise DataError(f"{PACKAGE}: its library does not load on this system ({e})") from None
        self.sampling_rate: int = self._library.espeak_Initialize(RETRIEVAL, 0, str(folder).encode(), 0)
        """Samples a second."""
        if self.sampling_rate <= 0:
            raise DataError(f"{PACKAGE}: its voices cannot be read from {folder}; install the package anew")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(SEED))  # else it is the time
        self._chunks: list[Any] = []
        self._callback = _CALLBACK(self._take)  # the library keeps a bare pointer to it
        self._library.espeak_SetSynthCallback(self._callback)
        self.variants = tuple(sorted(path.name for path in (Path(folder) / "voices" / "!v").iterdir()))
        """Names of its voices: vocal tracts, each of which speaks every accent."""

    def _take(self, samples: Any, count: int, events: Any) -> int:
        import numpy as np

        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def say(self, text: str, accent: str, variant: str, rate: int, pitch: int) -> Any:
        """Say a text.

        Args:
            text: in English.
            accent: e.g. `en-us`.
            variant: of `variants`.
            rate: words a minute, 80 to 450.
            pitch: 0 to 100.

        Returns:
            Samples from -1 to 1, `[samples]` (float32).

        Raises:
            DataError: there is no such voice, or it says nothing.
        """
        import numpy as np

        voice = f"{accent}+{variant}"
        # The library takes a variant that it has not for none.
        if variant not in self.variants or self._library.espeak_SetVoiceByName(voice.encode()):
            raise DataError(f"{PACKAGE}: no voice '{voice}'")
        self._library.espeak_SetParameter(RATE, rate, 0)
        self._library.espeak_SetParameter(PITCH, pitch, 0)
        self._chunks.clear()
        content = text.encode() + b"\0"
        self._library.espeak_Synth(content, len(content), 0, 1, 0, UTF8, None, None)
        self._library.espeak_Synchronize()
        if not any(chunk.any() for chunk in self._chunks):
            raise DataError(f"{PACKAGE}: '{voice}' says nothing to {text!r}")
        return np.concatenate(self._chunks).astype(np.float32) / 32768
