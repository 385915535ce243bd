"""What an estimator is given as X: a list of texts, an array or a data frame, read as named columns of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softprompt.errors import DataError
from softprompt.registry import nearest
from softprompt.tasks.sources.table import text_of

FIELD = "text"
"""What the only column is called where X does not name it."""

_NO_TEXT = frozenset({"NAType", "NaTType"})
"""Types of a missing value in a data frame."""


Cells = Sequence[Any] | np.ndarray
"""The cells of one column, [N]."""


@dataclass(frozen=True)
class TextTable:
    """The cells of X by column.

    Attributes:
        names: the columns' names, of a data frame; `None` where X names none.
        columns: each column's cells, K of them with N cells each.
        rows: N.
    """

    names: tuple[str, ...] | None
    columns: tuple[Cells, ...]
    rows: int

    @classmethod
    def read(cls, X: Any) -> TextTable:
        """Read X: texts, an array [N] or [N, K] of them, or a data frame of K columns.

        >>> TextTable.read(["a gripping film", "dull"]).rows
        2

        Raises:
            DataError: it is one text, an array of numbers, of another shape, or has no row or no column.
        """
        if isinstance(X, str | bytes):
            raise DataError(f"X is one text, {X[:40]!r}; give a list of texts")
        if hasattr(X, "columns") and hasattr(X, "__getitem__"):
            found = cls(tuple(map(str, X.columns)), tuple(list(X[name]) for name in X.columns), len(X))
        else:
            found = _of_array(X)
        if not found.columns:
            raise DataError(
                f"X has 0 feature(s) (shape=({found.rows}, 0)) while a minimum of 1 is required; give a column of text"
            )
        if not found.rows:
            raise DataError("X has 0 sample(s), while a minimum of 1 is required; give at least one text")
        return found

    def settle(self, asked: Sequence[str] | None) -> tuple[str, ...]:
        """Return the names of the columns to learn from, in order.

        Args:
            asked: as the user or the template has them; `None`: all there are.

        Raises:
            DataError: one is not there, or there are several without names.
        """
        if self.names is not None:
            return self._named(asked if asked is not None else self.names)
        if asked is None and len(self.columns) > 1:
            raise DataError(
                f"X has {len(self.columns)} columns without names; give a data frame, or name them with text=[...]"
            )
        names = (FIELD,) if asked is None else tuple(asked)
        self._require_as_many(names)
        return names

    def texts(self, names: Sequence[str], *, named: bool = True) -> list[dict[str, str]]:
        """Return each row's texts by column name.

        Args:
            names: the columns that were learned from.
            named: whether they had these names in the X that was learned from; otherwise, where this X has not all of
                them, columns are taken in order.

        Raises:
            DataError: a column is missing, their number is another, or a cell holds no text.
        """
        if self.names is not None and (named or not set(names) - set(self.names)):
            chosen = [self.columns[self.names.index(name)] for name in self._named(names)]
        else:
            self._require_as_many(names)
            chosen = list(self.columns)
        cells = [self._cells(column, name) for name, column in zip(names, chosen, strict=True)]
        return [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]

    def _named(self, names: Sequence[str]) -> tuple[str, ...]:
        assert self.names is not None, "only called for named columns"
        for name in names:
            if name not in self.names:
                there = ", ".join(f"`{column}`" for column in self.names)
                near = "".join(f"; did you mean `{known}`?" for known in nearest(name, self.names)[:1])
                raise DataError(f"X has no column `{name}`; its columns are {there}{near}")
        return tuple(names)

    def _require_as_many(self, names: Sequence[str]) -> None:
        if len(self.columns) != len(names):
            raise DataError(
                f"X has {len(self.columns)} features, but PromptClassifier is expecting {len(names)} features as "
                f"input: {', '.join(f'`{name}`' for name in names)}"
            )

    def _cells(self, column: Cells, name: str) -> list[str]:
        return [self._text(value, name, f"row {row} of X") for row, value in enumerate(column)]

    def _text(self, value: Any, name: str, where: str) -> str:
        if _is_missing(value):
            raise DataError(f"{where}: the column `{name}` is empty ({value!r}); fill it in, or take the row out")
        if self.names is None and not isinstance(value, str):
            raise DataError(f"{where} holds a {type(value).__name__}, not text; PromptClassifier reads texts")
        plain = value.item() if isinstance(value, np.generic) else value
        return str(text_of(plain, name, where))


def _of_array(X: Any) -> TextTable:
    array = X if isinstance(X, np.ndarray) else _objects(X)
    if array.dtype.kind in "biufcmM":
        raise DataError(f"X is an array of {array.dtype}; PromptClassifier reads texts: give strings")
    if array.ndim == 1:
        return TextTable(None, (array,), len(array))
    if array.ndim == 2:
        return TextTable(None, tuple(array.T) if array.shape[1] else (), len(array))
    shown = f"of shape {array.shape}" if array.ndim else f"a {type(X).__name__}"
    raise DataError(
        f"X is {shown}. Reshape your data: give texts, an array of them with one or two dimensions, or a data frame"
    )


def _objects(X: Any) -> np.ndarray:
    try:
        return np.asarray(X, dtype=object)
    except ValueError as error:
        raise DataError(f"X has rows of different length ({error}); give every row the same columns") from error


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in _NO_TEXT
