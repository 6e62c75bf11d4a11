"""Columns with a value for each candidate or run: whole for files, cell by cell for what is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Values = Sequence[Any] | NDArray[Any]


@dataclass(frozen=True)
class Cell:
    """``value`` is what one sorts and computes by, ``text`` what one reads; ``mark`` says why it cannot be compared.

    Where the text says several things, ``parts`` has them, each a column of its own in a CSV: under the column's head
    with the part's name after it, or under the head alone for the part without a name.
    """

    value: float | str | None
    text: str
    best: bool = False
    mark: str = ""
    parts: dict[str, float | str | None] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The text, with a dagger if it cannot be compared."""
        return self.text + "†" * bool(self.mark)


@dataclass(frozen=True)
class Column:
    """``parts`` has what a CSV holds of it, by what follows the head there; ``cell`` makes what is shown of a row, and
    ``marks`` say of each row why it cannot be compared, if any cannot."""

    head: str
    parts: Mapping[str, Values]
    cell: Callable[[int], Cell]
    marks: Sequence[str] = ()

    @classmethod
    def of_cells(cls, head: str, cells: Sequence[Cell]) -> Column:
        names = dict.fromkeys(name for cell in cells for name in cell.parts) or [""]
        parts = {name: [cell.parts.get(name, None if name else cell.value) for cell in cells] for name in names}
        return cls(head, parts, cells.__getitem__, [cell.mark for cell in cells])

    @classmethod
    def of_texts(cls, head: str, texts: Sequence[str]) -> Column:
        return cls(head, {"": texts}, lambda row: Cell(texts[row], texts[row]))

    def __len__(self) -> int:
        parts = self.parts.parts if isinstance(self.parts, _Ordered) else self.parts
        return len(next(iter(parts.values())))

    def in_order(self, order: NDArray[np.int64]) -> Column:
        """With other rows first."""
        marks = [self.marks[row] for row in order.tolist()] if self.marks else ()
        return Column(self.head, _Ordered(self.parts, order), lambda row: self.cell(int(order[row])), marks)


class _Ordered(Mapping[str, Values]):
    """Parts with other rows first, made when they are looked at."""

    def __init__(self, parts: Mapping[str, Values], order: NDArray[np.int64]) -> None:
        self.parts, self.order = parts, order

    def __getitem__(self, name: str) -> Values:
        values = self.parts[name]
        return values[self.order] if isinstance(values, np.ndarray) else [values[row] for row in self.order.tolist()]

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


class Rows(Sequence[list[Cell]]):
    """The rows of columns, each made when it is looked at: all cells of a large table would fill the memory."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    @overload
    def __getitem__(self, place: int) -> list[Cell]: ...
    @overload
    def __getitem__(self, place: slice) -> list[list[Cell]]: ...
    def __getitem__(self, place: int | slice) -> list[Cell] | list[list[Cell]]:
        if isinstance(place, slice):
            return [self[row] for row in range(*place.indices(len(self)))]
        return [column.cell(place) for column in self.columns]
