"""All settings of a run, each with its default, its bounds and its explanation.

This is the only place that has them: `recipes.defaults`, the complaints about single values and
`--help` come from it. validation.py has the rules that concern several settings, derived.py what
follows from them.
"""

import dataclasses
import math
from collections.abc import Sequence

from noah_jax.config.fields import setting
from noah_jax.pretrained import NORMALISATIONS
from noah_jax.runtime.trackers import TRACKERS
from noah_jax.space import OPERATORS
from noah_jax.space.budget import Budget
from noah_jax.space.genomes import MODULES
from noah_jax.space.modules import MAX_SIZE

SEARCHED = ("noah", "random")  # in a supernet
TUNED = ("tuned", *(f"tuned_{name}" for name in MODULES))  # by training one after the other
FOUND = (*SEARCHED, *TUNED, "uniform", "sensitivity")  # methods that find a genome
METHODS = {  # each with its genome
    "noah": "the best that an evolution finds in a supernet",
    "random": "the best of as many random ones in a supernet",
    "tuned": "the best of single modules of the sizes baseline.tuned, each trained by itself",
    "tuned_vpt": "the same with visual prompts alone",
    "tuned_lora": "the same with LoRA alone",
    "tuned_adapter": "the same with adapters alone",
    "uniform": "visual prompts, LoRA and adapters share the budget, alike in all blocks",
    "sensitivity": "the budget goes where one pass of gradients is large",
    "vpt": "baseline.vpt visual prompts in every block",
    "lora": "LoRA of rank baseline.lora in every block",
    "adapter": "an adapter of width baseline.adapter after every MLP",
    "parallel": "an adapter of width baseline.parallel beside every MLP",
    "linear": "no modules, only the head is trained",
    "full": "no modules, the whole network is trained",
}
_RETRAINED = ("tuning", "retrain", "calibration")
SCHEDULES = {"supernet": "supernet", **dict.fromkeys(_RETRAINED, "retrain")}  # by training
STAGES = ("supernet", "search", "retrain", "report")

_LAST_SEED = 2**32 - 1


def _epochs(default: int):
    return setting(default, "passes through the training images", least=1)


def _learning_rate(default: float):
    explanation = "the peak, after the warm-up and before the cosine"
    return setting(default, explanation, above=0, below=math.inf)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    epochs: int = _epochs(100)
    batch_size: int = setting(64, "images in a step", least=1)
    learning_rate: float = _learning_rate(1e-3)
    weight_decay: float = setting(
        1e-4, "AdamW's, for all but biases and norms", least=0, below=math.inf
    )
    warmup_epochs: int = setting(
        10, "the first epochs, in which the learning rate grows; fewer than epochs", least=0
    )


@dataclasses.dataclass(frozen=True)
class RetrainSchedule(Schedule):
    """The training of the subnet that was found, or of a baseline."""

    inherit: float = setting(
        0.0,
        "begin with the supernet's weights, at this share of the learning rate; 0 = fresh weights",
        least=0,
        most=1,
    )


@dataclasses.dataclass(frozen=True)
class SupernetSchedule(Schedule):
    """The training of the supernet."""

    epochs: int = _epochs(500)
    learning_rate: float = _learning_rate(5e-4)
    genomes_per_step: int = setting(
        1, "genomes that share a batch in equal parts; batch_size is a multiple of it", least=1
    )
    sampling: str = setting(
        "random",
        "how a step's genomes are drawn; broad leaves out whole modules, too; random as the paper",
        choices=("random", "broad"),
    )


@dataclasses.dataclass(frozen=True)
class Search:
    """The evolution (NOAH, section 3.3), and the budget of all methods that find a genome."""

    population: int = setting(50, "genomes in a generation", least=1)
    generations: int = setting(15, "generations after the first, random one", least=0)
    parents: int = setting(10, "the best genomes so far, from which new ones come", least=1)
    mutations: int = setting(25, "children by mutation in a generation", least=0)
    crossovers: int = setting(25, "children of two parents in a generation", least=0)
    m_prob: float = setting(0.2, "probability that a mutation draws a size anew", least=0, most=1)
    s_prob: float = setting(
        0.4, "probability that a mutation draws a module's depth anew", least=0, most=1
    )
    budget_millions: float = setting(
        0.64,
        "the most parameters of a genome in millions, without the head",
        above=0,
        below=math.inf,
    )
    least_millions: float = setting(
        0.0,
        "the fewest parameters of a genome in millions; at most budget_millions",
        least=0,
        below=math.inf,
    )
    operators: str = setting(
        "block",
        "how mutation and crossover work: on single blocks, or as the paper's",
        choices=OPERATORS,
    )
    objective: str = setting(
        "accuracy",
        "what is sought: the highest validation accuracy, or a front over all budgets (pareto)",
        choices=("accuracy", "pareto"),
    )
    folds: int = setting(
        1,
        "parts of train + val; a supernet trained on the others evaluates on each; 1 = on val",
        least=1,
    )
    genomes_per_call: int = setting(4, "genomes that each device evaluates side by side", least=1)

    @property
    def limits(self) -> Budget:
        """The budget in whole parameters."""
        return Budget(round(self.least_millions * 1e6), round(self.budget_millions * 1e6))


@dataclasses.dataclass(frozen=True)
class Baseline:
    """Single modules, and the linear probe; the sizes that the tuned methods choose from."""

    vpt: int = setting(100, "prompts in each block for method=vpt", most=MAX_SIZE)
    lora: int = setting(8, "rank for method=lora", most=MAX_SIZE)
    adapter: int = setting(8, "width for method=adapter", most=MAX_SIZE)
    parallel: int = setting(8, "width for method=parallel", most=MAX_SIZE)
    linear_rate: float = setting(
        1.0,
        "the learning rate of method=linear, as a multiple of retrain.learning_rate",
        above=0,
        below=math.inf,
    )
    linear_epochs: int = setting(0, "the epochs of method=linear; 0 = retrain.epochs", least=0)
    tuned: tuple[int, ...] = setting(
        (1, 2, 4, 8, 16, 32),
        "sizes that the tuned methods try, as far as they fit the budget",
        least=1,
        most=MAX_SIZE,
    )


@dataclasses.dataclass(frozen=True)
class Choices:
    """The search space: sizes to choose from for each module, and depths."""

    vpt: tuple[int, ...] = setting(
        (1, 5, 10),
        "numbers of prompts; of any module: () = not used, a 0 = single blocks may lack it",
        most=MAX_SIZE,
    )
    lora: tuple[int, ...] = setting((1, 5, 10), "ranks of LoRA", most=MAX_SIZE)
    adapter: tuple[int, ...] = setting(
        (1, 5, 10), "widths of the adapter after the MLP", most=MAX_SIZE
    )
    parallel: tuple[int, ...] = setting((), "widths of an adapter beside the MLP", most=MAX_SIZE)
    depths: tuple[int, ...] = setting(
        (3, 6, 9, 12), "how many of the first blocks a module may be in"
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a run; after the colon of --config, KEY=VALUE sets one, too."""

    task: str = setting(
        "", "a benchmark's task, or a folder or file in data_dir; several joined by +"
    )
    method: str = setting("noah", "how the genome is found", choices=(*METHODS,), joined=True)
    stage: str = setting(
        "all", "the last stage to run; report = write the report anew", choices=("all", *STAGES)
    )
    seed: int = setting(
        0,
        "where all random numbers of a run come from; the first run's, if there are several",
        least=0,
        most=_LAST_SEED,
    )
    backbone: str = setting(
        "vit_b16_in21k",
        "a name from configs/README.md, or for a file of weights a shape, e.g. vit_l16",
    )
    weights: str = setting("", "a file or folder to use instead of the backbone's own")
    heads: int = setting(
        0, "attention heads, which weights do not show; 0 = the backbone's", least=0
    )
    image_size: int = setting(224, "pixels, a multiple of the backbone's patch size", least=1)
    normalisation: str = setting(
        "",
        "mean and deviation of pixel values; empty = the backbone's own; imagenet = the paper's",
        choices=("", *NORMALISATIONS),
    )
    data_dir: str = setting(
        "",
        "the folder in which each task has its folder, or hf://OWNER; otherwise TFDS's data folder",
    )
    label_column: str = setting(
        "",
        "the column of labels in a CSV or parquet file; empty = label, class, category, target …",
    )
    split_seed: int = setting(
        0,
        "draws the splits of digits, and of one's own images those that are not there",
        least=0,
        most=_LAST_SEED,
    )
    shots: int = setting(
        0, "training images a class, drawn with the seed; 0 = all; several joined by +", least=0
    )
    lists: str = setting(
        "", "published few-shot lists, used instead of drawing; see configs/fewshot.py"
    )
    whole_val: bool = setting(
        False, "few-shot: validate with all images that are left, as the original did"
    )
    augmentation: str = setting(
        "none",
        "of training images; randaugment includes erasing, mixup, cutmix and label smoothing",
        choices=("none", "randaugment"),
    )
    center_crop: bool = setting(
        False, "images that are not augmented are enlarged by 8/7 and cropped"
    )
    genome: str = setting("", "a file, JSON or one of NOAH's YAMLs, instead of supernet and search")
    supernet_from: str = setting(
        "", "a workdir of the same seed whose supernet to use instead of training one"
    )
    calibrate: bool = setting(
        False,
        "train the subnet once more, on train alone, and fit a temperature for its logits on val",
    )
    dtype: str = setting(
        "auto",
        "of the computation; auto = bfloat16 on TPU and GPU, float32 on CPU",
        choices=("auto", "float32", "bfloat16"),
    )
    attention: str = setting(
        "auto",
        "auto = cuDNN's on a single GPU in bfloat16, otherwise plain",
        choices=("auto", "plain"),
    )
    rematerialise: bool = setting(
        False, "compute each block again in the backward pass: less memory, slower"
    )
    drop_path: float = setting(
        0.1,
        "probability that training skips the last block; it grows linearly from 0 at the first",
        least=0,
        below=1,
    )
    dropout: float = setting(0.1, "probability inside the prompt modules", least=0, below=1)
    eval_batch_size: int = setting(
        100, "images that are evaluated at once, by all devices together", least=1
    )
    checkpoint_seconds: float = setting(60.0, "time between two checkpoints", least=0)
    weight_shards: int = setting(1, "devices that share one copy of the frozen matrices", least=1)
    trackers: str = setting(
        "", "other places that show the metrics; empty = none", choices=("", *TRACKERS), joined=True
    )
    space: Choices = Choices()
    baseline: Baseline = Baseline()
    supernet: SupernetSchedule = SupernetSchedule()
    retrain: RetrainSchedule = RetrainSchedule()
    search: Search = Search()

    @property
    def name(self) -> str:
        """The run's name among those of one configuration."""
        shots = f"-{self.shots}shot" if self.shots else ""
        return f"{self.task}{shots}-{self.method}-s{self.seed}"

    @staticmethod
    def common_name(configs: Sequence["Config"]) -> str:
        """The name of several runs together: their values, or how many if they are many."""
        parts = []
        for key, several in (("task", "tasks"), ("shots", "shots"), ("method", "methods")):
            values = [str(x) for x in dict.fromkeys(getattr(config, key) for config in configs)]
            if values != ["0"]:
                few = "+".join(values) + ("shot" if key == "shots" else "")
                parts.append(few if len(values) < 4 else f"{len(values)}-{several}")
        seeds = sorted({config.seed for config in configs})
        return "-".join([*parts, f"s{seeds[0]}" if len(seeds) == 1 else f"s{seeds[0]}-{seeds[-1]}"])

    @property
    def has_supernet(self) -> bool:
        """Whether the run trains a supernet, or takes one from another run."""
        return self.method in SEARCHED and not self.genome

    @property
    def inherits(self) -> bool:
        """Whether the subnet begins with the supernet's weights."""
        return self.has_supernet and self.retrain.inherit > 0
