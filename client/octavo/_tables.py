"""Plain text in columns, and sizes for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_GAP = "  "


def aligned(rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """Rows as lines with columns of one width, two spaces apart; the columns in `right` are set flush right."""
    if not rows:
        return ""
    flush_right = set(right)
    rows = [
        [cell.replace("\n", " ") for cell in row] for row in rows
    ]  # a layer's name must not begin a line of its own
    widths = _widths(rows)
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in flush_right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(_GAP.join(cells).rstrip())
    return "\n".join(lines)


def side_by_side(rows: Sequence[Sequence[str]], width: int) -> str:
    """Aligned rows; columns that do not fit into the width follow below, each time with the first column again."""
    if not rows:
        return ""
    widths = _widths(rows)
    blocks: list[list[int]] = [[]]
    used = widths[0]
    for column in range(1, len(widths)):
        if blocks[-1] and used + len(_GAP) + widths[column] > width:
            blocks.append([])
            used = widths[0]
        blocks[-1].append(column)
        used += len(_GAP) + widths[column]
    return "\n\n".join(aligned([[row[column] for column in (0, *block)] for row in rows]) for block in blocks)


def shortened(text: str, width: int) -> str:
    """The text, its middle left out where it is longer than that: names of layers differ at both ends."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def bytes_text(size_bytes: float) -> str:
    """A size for people, such as `12.3 kB` (1 kB is 1000 bytes)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} TB"


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
