"""The keys of `result.json`, with their types and units."""

from typing import Any, NotRequired, TypedDict


class TestResult(TypedDict):
    """The outcome on one test set; accuracies are shares, 0 to 1.

    The last two keys are there only if the set shows just some of the classes. Then `accuracy` is
    that among these classes.
    """

    accuracy: float
    loss: float | None  # mean cross-entropy in nats; None if it is not finite
    images: int
    classes: NotRequired[int]  # that the set shows
    accuracy_among_all: NotRequired[float]


class ComputedBy(TypedDict):
    """The software and hardware that a result comes from."""

    versions: dict[str, str]  # by name: noah_jax, python, jax and the libraries around it
    devices: list[str]  # the kind of each device


class Result(ComputedBy):
    """The keys of `result.json`; `workdir.read_json` returns such a dict."""

    task: str
    method: str
    seed: int
    shots: int  # training images a class; 0 = the task's whole training set
    test_accuracy: float  # share, 0 to 1, of `test`
    test_loss: float | None  # as in `TestResult`
    more_tests: dict[str, TestResult]  # by name: the other test sets
    val_accuracy: float | None  # share; None where no genome was searched for
    genome: list[list[int]]  # a row a block, a column a prompt module
    params: int  # of the prompt modules; of `full` all that is trained but the head
    params_noah_count: int  # the same as the original's code counts
    head_params: int
    stages: dict[str, float]  # seconds by stage, summed over all starts of the run
    memory: dict[str, Any]  # largest peaks in MB, see `Writer.memory`
    images: dict[str, int]  # by split: train, val, trainval, test
    class_names: list[str]  # in the labels' order; empty if the data has none
    image_size: int  # pixels, height and width
    normalisation: str  # a key of `pretrained.NORMALISATIONS`
    encoding: str  # how the images are stored: png, jpeg …
    warnings: list[str]  # what is odd about the images and the weights
    inputs: dict[str, str]  # fingerprints of images, weights and, if one is given, genome
    backbone: str  # a key of `pretrained.BACKBONES`, or a name for `ViTConfig.named`
    heads: int  # of its attention
    dtype: str  # of the computation
    fused_attention: bool
    temperature: NotRequired[float]  # that probabilities divide logits by, see `calibrate`
