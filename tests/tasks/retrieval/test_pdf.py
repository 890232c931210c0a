"""PDF: pages as titles; what needs no password is read although it is encrypted."""

from tasks.retrieval.pdf import read_pdf
from tests.support.documents import pdf, shown


def test_a_page_is_a_title() -> None:
    document = read_pdf(pdf(["Ada lives here.", "", "A heron flies."]), 1000)
    assert shown(document) == [("page 1", "Ada lives here."), ("page 3", "A heron flies.")]


def test_a_file_that_opens_without_a_password_is_read() -> None:
    assert shown(read_pdf(pdf(["Ada."], password=""), 1000)) == [("page 1", "Ada.")]
