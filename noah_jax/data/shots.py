"""Few-shot sampling: which images of a larger set to train on, and which to validate with."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from noah_jax.errors import UserError, listed

_MOST_VAL_SHOTS = 4  # as in CoOp (arXiv 2109.01134)


@dataclasses.dataclass(frozen=True)
class Shots:
    """How many images a class to draw, and how.

    Attributes:
      number: training images a class; validation has as many, at most 4.
      seed: draws the images.
      lists: the path of published lists, see folders/published.py; empty = the images are drawn.
      whole_val: validates with all images that are left, as the original does.
    """

    number: int
    seed: int
    lists: str = ""
    whole_val: bool = False

    def split(
        self, label: Callable[[int], int], count: int, class_names: Sequence[str]
    ) -> tuple[list[int], list[int]]:
        """Draws training and validation indices from one pool of examples.

        A class with fewer images than are wanted validates with what is left, at least one.

        Args:
          label: index → class.
          count: number of examples in the pool.
          class_names: of the classes, all of which are in the pool.

        Raises:
          UserError: a class has too few images.
        """
        val = 0 if self.whole_val else min(self.number, _MOST_VAL_SHOTS)
        rows = self.first(self.number + val, label, count, len(class_names))
        least = self.number + min(val, 1)
        short = [row for row in rows if len(row) < least]
        if short:
            few = [f"{len(row)} of class {class_names[label(row[0])]}" for row in short]
            most = min(map(len, rows)) - min(val, 1)
            raise UserError(
                f"shots={self.number} takes {self.number} images of each class to train on"
                + (f" and {val} to validate with, or at least 1" if val else "")
                + f"; there are only{listed(few)}\n"
                + (f"Set shots to {most} or less" if most else "Add images to these classes")
            )
        train = [i for row in rows for i in row[: self.number]]
        if self.whole_val:
            if not (rest := sorted(set(range(count)) - set(train))):
                raise UserError(f"shots={self.number} leaves no images to validate with")
            return train, rest
        return train, [i for row in rows for i in row[self.number :]]

    def val(self, label: Callable[[int], int], count: int, num_classes: int) -> list[int]:
        """Draws validation indices from a pool without training images; see `split`."""
        if self.whole_val:
            return list(range(count))
        shots = min(self.number, _MOST_VAL_SHOTS)
        return [i for row in self.first(shots, label, count, num_classes) for i in row]

    def first(
        self, wanted: int, label: Callable[[int], int], count: int, num_classes: int
    ) -> list[list[int]]:
        """The first images of each class in a random order, or all if it has fewer.

        So the 1 shot of a seed is among its 2 shots. It looks at no more labels than it must, since
        an image may have to be read for each.
        """
        found: dict[int, list[int]] = {}
        complete = 0
        for index in np.random.default_rng(self.seed).permutation(count).tolist():
            rows = found.setdefault(label(index), [])
            if len(rows) < wanted:
                rows.append(index)
                complete += len(rows) == wanted
            if complete == num_classes:
                break
        return [found[name] for name in sorted(found)]
