"""How a recipe says in which form vectors are stored: exact, in a byte a dimension, in cells or a table on the disk."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from tasks.stage.config import Strict

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

Take = Callable[[int, int], "NDArray[float32]"]
"""Start and end of a range of rows to their vectors, float32 of shape [end - start, dimensions], of length 1."""


class Stored(Strict):
    """What every kind has."""

    shard_rows: int = Field(gt=0)
    """Vectors that are added at a time, and of an inverted file those of one shard."""


class Flat(Stored):
    """Exact search."""

    kind: Literal["flat"]


class Sq8(Stored):
    """Search over a byte a dimension (scalar quantisation)."""

    kind: Literal["sq8"]
    train_rows: int = Field(gt=0)
    """Vectors, drawn by the seed, from which the ranges of the dimensions are learnt."""


class Cells(Stored):
    """What both kinds of inverted file have."""

    train_rows: int = Field(gt=0)
    """Vectors, drawn by the seed, from which the cells are learnt; k-means wants 40 a cell or more."""
    iterations: int = Field(gt=0)
    """Iterations of k-means."""
    nlist: int = Field(gt=0)
    """Cells; about the square root of the number of chunks, or some times that."""
    nprobe: int = Field(gt=0)
    """Cells that are searched for a query."""


class Ivf(Cells):
    """Search in some cells of an inverted file on the disk."""

    kind: Literal["ivf"]
    codes: Literal["float32", "float16", "int8"]
    """Form of a number of a vector; `int8` reads a quarter of the bytes, and is as much faster."""


class IvfPq(Cells):
    """The same with product quantisation."""

    kind: Literal["ivfpq"]
    m: int = Field(gt=0)
    """Parts of a vector that are quantised apart; divides the number of dimensions."""
    nbits: int = Field(ge=1, le=16)
    """Bits of a part's code; 2 to its power is the number of its codes."""


class LanceDb(Stored):
    """Exact search in a table of LanceDB on the disk (`tasks/retrieval/lance.py`); wants the extra `polm[lancedb]`."""

    kind: Literal["lancedb"]


Settings = Annotated[Flat | Sq8 | Ivf | IvfPq | LanceDb, Field(discriminator="kind")]
"""How vectors are stored and searched."""
