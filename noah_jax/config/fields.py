"""Dataclass fields that carry their explanation and the values that they may have."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from noah_jax.errors import nearest


@dataclasses.dataclass(frozen=True)
class Setting:
    """The facts about a key besides its type and its default.

    Attributes:
      explanation: one line, for `--help`.
      choices: all values there are; empty = any.
      joined: whether several choices may be joined by +.
      least, above: the lower bound of numbers, included or excluded.
      most, below: the upper bound, included or excluded; `below=math.inf` admits finite numbers.

    The bounds of a tuple are those of its items.
    """

    explanation: str
    choices: tuple[str, ...] = ()
    joined: bool = False
    least: float = -math.inf
    above: float | None = None
    most: float = math.inf
    below: float | None = None

    def complaint(self, key: str, value: Any) -> str:
        """Says what is wrong with a value of the right type; empty if nothing is."""
        several = isinstance(value, tuple)
        parts = value if several else value.split("+") if self.joined else [value]
        wrong = [part for part in parts if not self._admits(part)]
        if not wrong:
            return ""
        hint = " for each" if several else nearest(wrong[0], self.choices) if self.choices else ""
        part = f"no {wrong[0]}: " if self.joined and len(parts) > 1 else ""
        return f"{key}={value!r}: {part}expected {self.expected}{hint}"

    @property
    def expected(self) -> str:
        """The values that the key may have, in words; empty if it may have any."""
        if self.choices:
            names = [name for name in self.choices if name]
            few = len(names) < 3
            text = " or ".join(names) if few else f"one of {', '.join(names)}"
            return text + (", or several joined by +" if self.joined else "")
        if -math.inf < self.least and self.most < math.inf:
            return f"{self.least} to {self.most}"
        words = []
        if self.above is not None:
            words.append(f"more than {self.above}")
        elif self.least > -math.inf:
            words.append(f"at least {self.least}")
        if self.below is not None:
            words.append("finite" if self.below == math.inf else f"less than {self.below}")
        elif self.most < math.inf:
            words.append(f"at most {self.most}")
        return " and ".join(words)

    def _admits(self, value) -> bool:
        """Tells whether a single value is a choice or within the bounds; NaN never is."""
        if self.choices:
            return value in self.choices
        if not self.expected:
            return True
        return (
            self.least <= value <= self.most
            and (self.above is None or self.above < value)
            and (self.below is None or value < self.below)
        )


def setting(default: Any, explanation: str, **values: Any) -> Any:
    """Makes a dataclass field with this default; `values` are further attributes of `Setting`."""
    return dataclasses.field(default=default, metadata={"setting": Setting(explanation, **values)})


def walk(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Setting]]:
    """Yields key, value and `Setting` of all keys; a nested key has its path, as `search.folds`."""
    for field in dataclasses.fields(config):
        key, value = prefix + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from walk(value, f"{key}.")
        else:
            yield key, value, field.metadata["setting"]


def complaints(config: Any) -> list[str]:
    """A line for each well-typed value that is not allowed."""
    return [line for key, value, known in walk(config) if (line := known.complaint(key, value))]
