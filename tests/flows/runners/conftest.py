"""A warm parent that has imported nothing, one for each module of tests."""

from collections.abc import Iterator

import pytest

from tests.support import warm


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[warm.Place]:
    """A project with the probe and its parent, in a folder whose path is longer than that of a socket may be."""
    root = tmp_path_factory.mktemp("a folder") / ("deep" * 40)
    root.mkdir()
    with warm.probing(root) as place:
        yield place
