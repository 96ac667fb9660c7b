"""The facts of every benchmark task that is reached by name."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of a benchmark.

    Attributes:
      num_classes: of the benchmark, whatever part of them a split shows.
      tfds: dataset name and version in TFDS; empty where TFDS does not have it.
      train_percent: part of TFDS's `train` split that is training data; the rest is validation.
      published: method → test accuracy in percent (NOAH's table 1, ViT-B/16 IN-21k).
    """

    num_classes: int
    tfds: str = ""
    train_percent: int = 90
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def splits(self, train_examples: int) -> dict[str, str]:
        """VTAB-1k's splits in TFDS's notation (google-research/task_adaptation).

        The first 800 examples of the training part and the first 200 of the validation part.
        """
        first = self.train_percent * train_examples // 100
        val = f"train[{first}:{first + 200}]"
        return {
            "train800": "train[:800]",
            "val200": val,
            "train800val200": f"train[:800]+{val}",
            "test": "test",
        }


VTAB = {
    "cifar100": Task(100, "cifar100:3.*.*", published={"noah": 69.6}),
    "caltech101": Task(102, "caltech101:3.*.*", published={"noah": 92.7}),
}
