"""The model card of an export, `README.md`, with the front matter that the hub reads."""

import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from noah_jax import uncertainty
from noah_jax.data.loader import enlarged
from noah_jax.errors import printable
from noah_jax.interop.subnet import Subnet
from noah_jax.pretrained import BACKBONES
from noah_jax.runtime.durations import duration
from noah_jax.space.modules import PROMPT_MODULES

NAME = "README.md"
REPOSITORY = "OWNER/NAME"  # stands in the card for a name on the hub that is not known yet
_MARK = "<!-- noah_jax wrote this card, and replaces it. Without this line it is yours. -->"
_LICENCES_OF_THE_HUB = ("apache-2.0", "mit", "cc-by-nc-4.0")  # others are "other", with a name
_TRAINED = {"full": "trained as a whole", "linear": "of which the head alone was trained"}

_USE = f"""```python
import noah_jax

predictor = noah_jax.Predictor("{REPOSITORY}")
print(predictor.predict("photo.jpg").labels(top=3))
```

`python torch_model.py photo.jpg` does the same in PyTorch, without noah_jax. `model.onnx` and, if
it is there, `model.stablehlo` take uint8 images and return logits."""


def may_be_written(path: pathlib.Path) -> bool:
    """Tells whether there is no card at `path`, or one that is not the user's own.

    Raises:
      OSError: it cannot be read.
    """
    return not path.exists() or _MARK.encode() in path.read_bytes()


def text(subnet: Subnet, figure: str = "") -> str:
    """Writes the card.

    Args:
      figure: the file of a drawing of the subnet, beside the card; empty = there is none.
    """
    facts = subnet.facts
    drawing = [f"![The subnet, block by block]({figure})"] * bool(figure)
    parts = [
        f"---\n{_front_matter(facts)}\n---\n{_MARK}",
        f"# {_title(facts)}",
        _introduction(subnet),
        _table(("", ""), _rows(subnet)),
        "## The subnet",
        *drawing,
        _genome(subnet),
        f"## Use\n\n{_USE}",
        _preparation(subnet),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(facts: dict[str, Any]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    backbone, task = BACKBONES.get(facts.get("backbone", "")), _task(facts)
    results = None
    if "test_accuracy" in facts:
        result = EvalResult(
            task_type="image-classification",
            dataset_type=task,
            dataset_name=task,
            dataset_split="test",
            metric_type="accuracy",
            metric_value=facts["test_accuracy"],
        )
        results = [result]
    known = backbone is not None and backbone.licence in _LICENCES_OF_THE_HUB
    data = ModelCardData(
        license=None if backbone is None else backbone.licence if known else "other",
        license_name=None if backbone is None or known else backbone.licence,
        library_name="noah-jax",
        pipeline_tag="image-classification",
        tags=["vision-transformer", "parameter-efficient-fine-tuning", "jax", "onnx", "pytorch"],
        base_model=getattr(backbone and backbone.source, "repo_id", None),
        metrics=["accuracy"],
        model_name=_title(facts),
        eval_results=results,
    )
    return data.to_yaml()


def _task(facts: dict[str, Any]) -> str:
    return printable(facts.get("task", "images"))


def _backbone(facts: dict[str, Any]) -> str:
    """The name of the backbone; if it was a file, that of the file without its folder."""
    return printable(pathlib.PurePath(facts.get("backbone", "a Vision Transformer")).name)


def _title(facts: dict[str, Any]) -> str:
    return f"{_task(facts)}: {facts.get('method', 'prompts')} in {_backbone(facts)}"


def _introduction(subnet: Subnet) -> str:
    facts, method = subnet.facts, subnet.facts.get("method", "noah")
    trained = _TRAINED.get(method, "with prompt modules in its blocks, trained")
    return (
        f"It tells {subnet.config.num_classes} classes of the task `{_task(facts)}` apart. It is a "
        f"Vision Transformer, `{_backbone(facts)}`, {trained} by noah_jax's method `{method}` "
        "(Neural Prompt Search, "
        "[arXiv 2206.04673](https://arxiv.org/abs/2206.04673))."
    )


def _rows(subnet: Subnet) -> Iterator[tuple[str, str]]:
    """Yields what is known of the run that made the subnet, a name and a value each."""
    facts, config = subnet.facts, subnet.config
    images = facts.get("images", {})
    if "test_accuracy" in facts:
        yield "accuracy on test images", _accuracy(facts["test_accuracy"], images.get("test", 0))
    if images:
        yield "images to train and validate on", f"{images['trainval']:,}"
    place = "the backbone" if facts.get("method") == "full" else "prompt modules"
    params = f"{facts.get('params', 0):,} in {place}"
    if "head_params" in facts:
        params += f", {facts['head_params']:,} in the head"
    yield "trained parameters", params
    yield "all parameters", f"{sum(x.size for x in subnet.merged().tensors.values()):,}"
    if seconds := facts.get("stages"):
        each = ", ".join(f"{name} {duration(value)}" for name, value in seconds.items())
        devices = ", ".join(f"{n} × {kind}" for kind, n in Counter(facts["devices"]).items())
        yield (
            "time to train and test",
            f"{duration(sum(seconds.values()))} ({each}) on {devices}",
        )
    yield "input", f"RGB, {config.image_size} × {config.image_size} pixels"
    if "seed" in facts:
        yield "seed", str(facts["seed"])
    if "versions" in facts:
        yield "made with", ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    backbone = BACKBONES.get(facts.get("backbone", ""))
    weights = f"as the backbone's, {backbone.licence}" if backbone else "as the backbone's"
    yield "licence", f"noah_jax and `torch_model.py`: apache-2.0; weights: {weights}"


def _accuracy(share: float, images: int) -> str:
    """The accuracy in percent, with Wilson's interval if the number of images is known."""
    if not images:
        return f"{100 * share:.2f} %"
    low, high = uncertainty.of_share(round(share * images), images)
    return (
        f"{100 * share:.2f} % (95 % interval: {100 * low:.2f} to {100 * high:.2f} %; "
        f"{images:,} images)"
    )


def _genome(subnet: Subnet) -> str:
    """The sizes of the prompt modules in each block."""
    blocks = range(1, subnet.config.depth + 1)
    rows = [
        (PROMPT_MODULES[name].title, *(str(size or "·") for size in sizes))
        for name, sizes in subnet.sizes.items()
        if sizes.any()
    ]
    if not rows:
        return "It has no prompt modules."
    return "Sizes of the prompt modules by block:\n\n" + _table(("block", *map(str, blocks)), rows)


def _preparation(subnet: Subnet) -> str:
    side, facts = subnet.config.image_size, subnet.facts
    resized = enlarged(side, facts["center_crop"])
    cut = f" and cut to the middle {side} × {side} pixels" if resized != side else ""
    mean, std = (", ".join(f"{x:.4g}" for x in facts[name]) for name in ("mean", "std"))
    return (
        "Images are turned as their EXIF says, laid on white where they are transparent, resized "
        f"to {resized} × {resized} pixels by bicubic interpolation, whatever their aspect "
        f"ratio{cut}. The programs then normalise RGB values in [0, 1] by mean {mean} and standard "
        f"deviation {std}. Hugging Face's image processor does not turn images."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
