"""Benchmarks from TensorFlow Datasets: prepared once with TensorFlow, read without it.

Preparation writes array_record files, whose records can be read one by one in any order.
"""

import copy
import importlib.util
import io
import pathlib
import shlex
import textwrap
from collections.abc import Callable, Sequence

import PIL.Image

from noah_jax.data.images import open_image
from noah_jax.data.loader import Source, Split, fingerprint
from noah_jax.data.shots import Shots
from noah_jax.data.tasks import DOMAINS, GIGABYTES, MANUAL, TASKS, Task
from noah_jax.errors import UserError


def open_tfds(name: str, data_dir: str, shots: Shots | None) -> Source:
    """Opens the data of a task in `TASKS`: VTAB-1k's splits, or a few images a class.

    Args:
      data_dir: TFDS's data folder; empty = its default.
      shots: draws few-shot images; None = VTAB-1k's splits.

    Raises:
      UserError: the task is not prepared there, or in another format or version; or `shots` leave
        nothing to validate with.
    """
    task = TASKS[name]
    builder = _prepared(name, task, data_dir)
    examples = {split: info.num_examples for split, info in builder.info.splits.items()}
    if shots:
        pool = _Records(builder, task.pool)
        names = _class_names(builder, task) or [str(label) for label in range(task.num_classes)]
        try:
            train, val = shots.split(_labels(builder, task, pool), len(pool), names)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        splits = {"train": pool.take(train), "val": pool.take(val), "trainval": pool.take(train)}
        splits["test"] = _Records(builder, task.test_split(examples))
    else:
        splits = {
            ours: _Records(builder, part) for ours, part in task.vtab_splits(examples).items()
        }
    opened = {ours: _split(name, builder, task, records) for ours, records in splits.items()}
    with _image(_parser(builder)(splits["train"][0])) as image:
        assert image.format  # as it was read
        encoding = image.format.lower()
    domains = _domains(task, data_dir)
    rows = {ours: [records.name, list(records.rows)] for ours, records in splits.items()}
    sizes = {other: len(split) for other, split in domains.items()}
    content = [builder.info.full_name, rows, sizes]  # the name has the version
    return Source(
        opened,
        task.num_classes,
        encoding,
        domains,
        fingerprint=fingerprint(content),
        class_names=_class_names(builder, task),
    )


def _class_names(builder, task: Task) -> tuple[str, ...]:
    """The names of the classes; empty if TFDS does not know them."""
    features = builder.info.features
    names = getattr(features["label"], "names", None) if "label" in features else None
    return tuple(names) if names and len(names) == task.num_classes else ()


def _domains(task: Task, data_dir: str) -> dict[str, Split]:
    """The task's further test sets, as far as they are prepared."""
    found = {}
    for name in task.more_tests:
        builder = _builder(name, DOMAINS[name], data_dir)
        if builder.is_prepared():
            found[name] = _split(name, builder, DOMAINS[name], _Records(builder, "test"))
    return found


class _Records:
    """The serialised examples of TFDS splits joined by +, or some of these examples."""

    def __init__(self, builder, instruction: str):
        self.name = instruction
        self._records = builder.as_data_source(split=instruction).data_source
        self.rows: Sequence[int] = range(len(self._records))

    def take(self, rows: Sequence[int]) -> "_Records":
        some = copy.copy(self)
        some.rows = rows
        return some

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index: int) -> bytes:
        return self._records[self.rows[index]]


def _split(name: str, builder, task: Task, records: _Records) -> Split:
    parse = _parser(builder)

    def read(index):
        example = parse(records[index])
        image = _image(example)
        if task.binary:
            image = image.point(lambda value: 255 * value)
        return image, int(task.label(example))

    label = _labels(builder, task, records)
    classes = {label(index) for index in range(len(records))} if task.partial else set()
    names = [f"{name} {records.name} example {index}" for index in range(len(records))]
    return Split(names, read, tuple(sorted(classes)))


def _image(example: dict) -> PIL.Image.Image:
    return open_image(io.BytesIO(example["image"]))


def _labels(builder, task: Task, records: _Records) -> Callable[[int], int]:
    parse = _parser(builder)
    return lambda index: int(task.label(parse(records[index])))


def _parser(builder) -> Callable[[bytes], dict]:
    """Makes the function record → the encoded image and the features that labels come from.

    The other features are left out here, because TFDS's own way to do so imports TensorFlow.
    """
    import tensorflow_datasets as tfds

    def is_label(key, feature):
        return key == "objects" or isinstance(feature, tfds.features.ClassLabel)

    found = builder.info.features.items()
    kept = {key: feature for key, feature in found if key == "image" or is_label(key, feature)}
    features = tfds.features.FeaturesDict(kept)
    skip = {"image": tfds.decode.SkipDecoding()}
    return lambda record: features.deserialize_example_np(record, decoders=skip)


def _prepared(name: str, task: Task, data_dir: str):
    builder = _builder(name, task, data_dir)
    if not builder.is_prepared():
        folder = pathlib.Path(builder.data_path)
        others = sorted(path.name for path in folder.parent.glob("[0-9]*.*.*"))
        there = f" (there is version {', '.join(others)}, which cannot be used)" if others else ""
        raise UserError(
            f"{name} is not prepared in {folder}{there}: run {_command(name, data_dir)}, or give a "
            "folder with --config.data_dir"
        )
    return builder


def _builder(name: str, task: Task, data_dir: str):
    import tensorflow_datasets as tfds

    if not task.tfds:
        raise UserError(
            f"TFDS does not have {name}: put its images into <dir>/{name} and give "
            "--config.data_dir=<dir>, with --config.lists=<folder of its lists>"
        )
    folder = str(pathlib.Path(data_dir).expanduser()) if data_dir else None
    try:
        return tfds.builder(task.tfds, data_dir=folder, file_format="array_record")
    except (ValueError, AssertionError) as error:
        raise UserError(
            f"{name} in {data_dir or 'the default data folder of TFDS'} cannot be read: {error}\n"
            f"Expected {task.tfds} in array_record format: move that one away and run "
            f"{_command(name, data_dir)}"
        ) from error


def _command(name: str, data_dir: str) -> str:
    option = f" --data_dir={shlex.quote(data_dir)}" if data_dir else ""
    return f"`python -m noah_jax.data prepare {name}{option}`"


# --- Preparation ---------------------------------------------------------------------------------


def prepare(tasks: Sequence[str], data_dir: str) -> None:
    """Downloads datasets and writes them as array_record, once; only this uses TensorFlow.

    Prepared datasets are left as they are and finished downloads are kept, so that a second call
    goes on where the first stopped.

    Args:
      tasks: keys of `TASKS` and `DOMAINS`.
      data_dir: TFDS's data folder; empty = its default.

    Raises:
      UserError: some datasets could not be prepared; the message says what to do for each. All
        others are prepared.
    """
    from tensorflow_datasets.core.download import downloader

    downloader.MAX_RETRIES = 5  # with TFDS's 10 it takes minutes to report a missing network
    facts = TASKS | DOMAINS
    named = {facts[name].tfds: name for name in tasks}  # tasks can share a dataset
    todo, problems = {}, []
    for name in named.values():
        try:
            builder = _builder(name, facts[name], data_dir)
        except UserError as error:
            problems.append(str(error))
            continue
        if builder.is_prepared():
            print(f"{name} is prepared already, in {builder.data_path}")
        else:
            todo[name] = builder
    if todo and importlib.util.find_spec("tensorflow") is None:
        problems.append(
            f"{', '.join(todo)}: TensorFlow is missing. Run `pip install 'noah-jax[prepare]'`, or "
            "`pip install -r launch/requirements-prepare.txt` in a clone"
        )
        todo = {}
    if todo:
        size = sum(_gigabytes(facts[name], builder) for name, builder in todo.items())
        print(f"{', '.join(todo)}: {size:.2f} GB to download", flush=True)
    for name, builder in todo.items():
        if problem := _prepare(name, facts[name], builder):
            problems.append(f"{name}: {problem}")
    if problems:
        raise UserError("not prepared:\n\n" + "\n\n".join(problems))


def _gigabytes(task: Task, builder) -> float:
    files = sum(info.size for info in builder.url_infos.values()) / 2**30
    return GIGABYTES.get(task.tfds.split(":")[0], files)


def _prepare(name: str, task: Task, builder) -> str | None:
    """Prepares one dataset; returns a message, with what to do, if that fails."""
    manual = pathlib.Path(builder.data_dir_root) / "downloads" / "manual"
    wanted = MANUAL.get(task.tfds.split(":")[0], ())
    if missing := [file for file in wanted if not (manual / file).exists()]:
        steps = textwrap.dedent(builder.MANUAL_DOWNLOAD_INSTRUCTIONS).strip()
        return f"put {', '.join(missing)} into {manual}.\n{steps}"
    size = _gigabytes(task, builder)
    print(f"preparing {name} ({size:.2f} GB) in {builder.data_path}", flush=True)
    try:
        builder.download_and_prepare()
    except Exception as error:  # TFDS and the network raise many kinds of errors
        problem = f"{type(error).__name__}: {error}"
        if files := [info.filename for info in builder.url_infos.values() if info.filename]:
            problem += (
                f"\nFiles that you find elsewhere can be put into {manual}, under the names "
                f"{', '.join(files)}."
            )
        return problem
    return None
