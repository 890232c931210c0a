"""Documents in binary formats, made on the spot, and how a test looks at what was read."""

import io
import zipfile

from docx import Document
from pypdf import PdfWriter
from pypdf.generic import DictionaryObject, NameObject, StreamObject

from tasks.retrieval.extracted import Extracted


def pdf(pages: list[str], password: str | None = None) -> bytes:
    """A PDF with one line of text a page; an empty one is a page without text, as a scan is."""
    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(300, 300)
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): writer._add_object(font)})}
        )
        if text:
            content = StreamObject()
            content.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode("latin-1"))
            page[NameObject("/Contents")] = writer._add_object(content)
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def docx(paragraphs: list[tuple[str, str]], table: list[list[str]] | None = None) -> bytes:
    """A DOCX of paragraphs, each with the name of its style, and a table behind them."""
    document = Document()
    for text, style in paragraphs:
        document.add_paragraph(text, style)
    if table:
        grid = document.add_table(len(table), len(table[0]))
        for row, cells in zip(grid.rows, table, strict=True):
            for cell, text in zip(row.cells, cells, strict=True):
                cell.text = text
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def zip_bomb(megabytes: int) -> bytes:
    """A DOCX of some kilobytes with a member of zeros that unpacks to megabytes."""
    data = io.BytesIO(docx([("Text", "Normal")]))
    with zipfile.ZipFile(data, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/media/zeros.bin", bytes(megabytes << 20))
    return data.getvalue()


def lying_bomb(megabytes: int) -> bytes:
    """The same, whose archive says that the member unpacks to ten bytes."""
    data = bytearray(zip_bomb(megabytes))
    said, lie = (megabytes << 20).to_bytes(4, "little"), (10).to_bytes(4, "little")
    at = data.find(said, data.find(b"word/media/zeros.bin") - 30)
    while at >= 0:
        data[at : at + 4] = lie
        at = data.find(said, at + 4)
    return bytes(data)


def shown(document: Extracted) -> list[tuple[str, str]]:
    """Each block that is no heading, with the headings above it, `Pumps > Parts`."""
    return [
        (" > ".join(block.title), document.text[block.start : block.end])
        for block in document.blocks
        if not block.level
    ]
