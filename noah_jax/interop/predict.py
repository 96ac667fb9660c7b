"""Classifies image files with a found subnet: `python -m noah_jax.interop predict FOLDER IMAGE …`

Each format has a line for each image, in order:

    text    the path and the likeliest classes; images that cannot be read are left out
    csv     a header, then path, label, probability, error, and the likeliest classes
    jsonl   an object with the keys path, label, probability, top and, if it cannot be read, error

With a threshold, an image whose best class is less probable has no class: text says so before the
likeliest classes; in csv label and probability are empty, in jsonl they are null.
"""

import csv
import dataclasses
import io
import itertools
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

from tqdm import tqdm

from noah_jax.data.folders import described, walk
from noah_jax.errors import UserError, listed, printable
from noah_jax.interop.predictor import Predictor, ranked

_UNTIMED = 64  # the first images, which wait for the compiler


class Unread(Exception):
    """Some of the images could not be read; the message names them. All others are classified."""


@dataclasses.dataclass(frozen=True)
class Output:
    """How answers are written.

    Attributes:
      format: a key of `_LINES`.
      top: how many of the likeliest classes are named.
      threshold: the least probability of a class, 0 to 1, for an image to be of it.
    """

    format: str = "text"
    top: int = 3
    threshold: float = 0.0


def predict(
    folder: str | pathlib.Path,
    paths: Sequence[pathlib.Path],
    output: Output = Output(),
    weights: str = "",
) -> Iterator[str]:
    """Yields the lines of the answers.

    Lines on stderr say what else folders hold and, if there are many images, the speed in images/s.

    Args:
      folder: an export, the workdir of a finished run, or `OWNER/NAME` on the Hugging Face hub.
      paths: files, and folders of images.
      weights: where the backbone's file is now, if it has moved since the run.

    Raises:
      UserError: the folder holds no subnet, there are no images, or `output` cannot be meant.
      Unread: at the end, if images cannot be read.
    """
    if not 0 <= output.threshold <= 1:
        raise UserError(f"--threshold={output.threshold}: expected a probability, 0 to 1")
    predictor = Predictor(folder, weights)
    names = predictor.class_names
    if not 1 <= output.top <= len(names):
        raise UserError(f"--top={output.top}: expected 1 to {len(names)}, the number of classes")
    files, left_out = _files(paths)
    if not files:
        raise UserError(f"no images in {', '.join(map(str, paths))}{listed(left_out)}")
    for line in left_out:
        print(line, file=sys.stderr)
    if output.format == "csv":
        yield _csv_header(output.top)
    line, start, unread = _LINES[output.format], time.perf_counter(), []
    quiet = sys.stdout.isatty() or not sys.stderr.isatty()  # the lines themselves show progress
    rows = tqdm(predictor.stream(files), total=len(files), unit="images", disable=quiet)
    for done, (path, row) in enumerate(zip(files, rows, strict=True), 1):
        if isinstance(row, str):
            unread.append(row)
            answer = _Answer(str(path), [], False, row.removeprefix(f"{path}: "))
        else:
            top = ranked(row, names, output.top)
            answer = _Answer(str(path), top, top[0][1] >= output.threshold)
        if output.format != "text" or not answer.error:
            yield line(answer, output)
        if done == _UNTIMED:
            start = time.perf_counter()
    if len(files) > _UNTIMED:
        speed = (len(files) - _UNTIMED) / (time.perf_counter() - start)
        print(f"{speed:.1f} images/s after the first {_UNTIMED}", file=sys.stderr)
    if unread:
        raise Unread(f"{len(unread)} of {len(files)} images cannot be read:{listed(unread)}")


def _files(paths: Sequence[pathlib.Path]) -> tuple[list[pathlib.Path], list[str]]:
    """The images at `paths`, and a line about the other files of folders, if there are any."""
    files, left = [], []
    for path in paths:
        if path.is_dir():
            images, others = walk(path)
            files += [path / image for image in images]
            left += [(why, str(path / other)) for why, other in others]
        else:
            files.append(path)
    return files, described(left)


# --- Formats -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Answer:
    """The likeliest classes of an image, and whether it is of the first; or why it is not read."""

    path: str
    top: Sequence[tuple[str, float]]
    sure: bool
    error: str = ""


def _text(answer: _Answer, output: Output) -> str:
    classes = "  ".join(f"{printable(name)} {100 * share:.1f} %" for name, share in answer.top)
    none = "" if answer.sure else f"no class reaches {100 * output.threshold:g} %: "
    return f"{printable(answer.path)}  {none}{classes}"


def _csv_header(top: int) -> str:
    pairs = ((f"class_{i}", f"probability_{i}") for i in range(1, top + 1))
    return _csv_row("path", "label", "probability", "error", *itertools.chain(*pairs))


def _csv(answer: _Answer, output: Output) -> str:
    pairs = [(name, f"{share:.6f}") for name, share in answer.top]
    label = pairs[0] if answer.sure else ("", "")
    pairs = pairs or [("", "")] * output.top
    return _csv_row(answer.path, *label, answer.error, *itertools.chain(*pairs))


def _csv_row(*cells: str) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue().removesuffix("\r\n")


def _jsonl(answer: _Answer, output: Output) -> str:
    top = [{"label": name, "probability": round(share, 6)} for name, share in answer.top]
    label = top[0] if answer.sure else {"label": None, "probability": None}
    error = {"error": answer.error} if answer.error else {}
    return json.dumps({"path": answer.path, **label, "top": top, **error})


_LINES = {"text": _text, "csv": _csv, "jsonl": _jsonl}
