"""A correspondence of parameter names that is written once and read in both directions."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# What a field stands for where no table says so.
_FIELDS = {"i": r"\d+", "j": r"\d+", "leaf": r"\w+", "rest": r"[\w.]+"}


class Names(NamedTuple):
    """Templates of the same parameters' names, with the same {fields} in both."""

    released: str
    ours: str


class NameMap:
    """Translates names by the first template that fits."""

    def __init__(self, names: Sequence[Names], tables: Mapping[str, Mapping[str, str]]):
        """
        Args:
            names: {i} and {j} are numbers, {leaf} is a word, {rest} words with dots between them.
            tables: field -> released -> ours, for fields that are spelled differently.
        """
        inverse = {
            field: {ours: released for released, ours in table.items()}
            for field, table in tables.items()
        }
        self._forward = [_Rule(n.released, n.ours, tables) for n in names]
        self._back = [_Rule(n.ours, n.released, inverse) for n in names]

    def to_ours(self, name: str) -> str | None:
        """Our name for a released one, or None where there is no such parameter here."""
        return _first(self._forward, name)

    def to_released(self, name: str) -> str | None:
        """The released name for one of ours, or None where the released models lack it."""
        return _first(self._back, name)


class _Rule:
    def __init__(self, source: str, target: str, tables: Mapping[str, Mapping[str, str]]):
        self._target, self._tables = target, tables
        # Literal text and names of fields alternate.
        parts = re.split(r"\{(\w+)\}", source)
        for index, part in enumerate(parts):
            parts[index] = f"(?P<{part}>{self._values(part)})" if index % 2 else re.escape(part)
        self._pattern = re.compile("".join(parts))

    def _values(self, field: str) -> str:
        if field in self._tables:
            return "|".join(map(re.escape, self._tables[field]))
        return _FIELDS[field]

    def apply(self, name: str) -> str | None:
        match = self._pattern.fullmatch(name)
        if match is None:
            return None
        values = match.groupdict()
        spelled = {k: self._tables[k][v] if k in self._tables else v for k, v in values.items()}
        return self._target.format(**spelled)


def _first(rules: Sequence[_Rule], name: str) -> str | None:
    return next((found for rule in rules if (found := rule.apply(name))), None)
