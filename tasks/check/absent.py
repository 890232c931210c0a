"""What TRL and transformers import where it is installed, and no check needs: it can seem not to be installed."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def absent(*packages: str) -> Iterator[None]:
    """Let packages seem not to be installed, until the end of the block; one that is loaded already stays.

    TRL loads MLflow and transformers loads scikit-learn, more than a second of a core each, for what is done when a
    model trains or answers. `None` in `sys.modules` is how Python is told that there is no such module.

    Args:
        packages: names of top-level modules.
    """
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
