"""Markdown: headings, lists, tables and code as blocks; no script."""

from tasks.retrieval.markdown import read_markdown
from tests.support.documents import shown

PAGE = """---
title: Pumps
---
# All *about* pumps

A pump moves [water](http://example.org "w"),
and `valves` ![picture of one](x.png) stop it.

- first item
- second item
  - inner item

| part | price |
|------|-------|
| seal | 3     |

```python
x = 1

y = 2
```

<script>evil()</script>
<div>In <b>HTML</b></div>

Setext
------
Last<br>line <script>x</script>.

# Other
End.
"""


def test_every_part_of_a_page_is_a_block_below_its_headings() -> None:
    assert shown(read_markdown(PAGE, 10_000)) == [
        ("", "title: Pumps"),
        ("All about pumps", "A pump moves water,\nand valves picture of one stop it."),
        ("All about pumps", "first item"),
        ("All about pumps", "second item"),
        ("All about pumps", "inner item"),
        ("All about pumps", "part | price"),
        ("All about pumps", "seal | 3"),
        ("All about pumps", "x = 1\n\ny = 2"),
        ("All about pumps", "In HTML"),
        ("All about pumps > Setext", "Lastline x."),
        ("Other", "End."),
    ]


def test_code_is_cut_at_lines() -> None:
    document = read_markdown("```\na\nb\n```\n\ntext", 100)
    assert [block.lines for block in document.blocks] == [True, False]


def test_lists_within_lists_are_read_as_deep_as_people_write_them() -> None:
    nested = "\n".join("  " * depth + f"- item {depth}" for depth in range(30))
    assert len(shown(read_markdown(nested, 10_000))) == 30
