"""Genomes in files: our own JSON, and the subnet YAMLs of the original NOAH."""

import json
import os
import pathlib

import numpy as np
import yaml

from noah_jax.errors import UserError, listed
from noah_jax.space.genomes import ALL_MODULES, MODULES
from noah_jax.space.modules import MAX_SIZE, PROMPT_MODULES

_KEYS = [module.noah_key for module in PROMPT_MODULES.values() if module.noah_key]
_MAX_BYTES = 1 << 16  # of a YAML; the original's have under 1,200
_MAX_JSON_BYTES = 1 << 20  # a result.json has a few thousand
_MAX_DEPTH = 10  # of nested lists and mappings in a YAML; the original's have 3


def genome_file(value: str) -> tuple[str, str]:
    """Splits `front.json:p3` into a file and the name of a point; the name is empty without one."""
    full = os.path.expanduser(value)  # unlike pathlib's, these raise nothing
    path, _, point = full.rpartition(":")
    return (path, point) if not os.path.isfile(full) and os.path.isfile(path) else (full, "")


def read_genome(path: str | pathlib.Path, blocks: int) -> np.ndarray:
    """Reads the genome in `best.json`, `result.json`, a bare nested list, or one of NOAH's YAMLs.

    Args:
      path: a file; `front.json:p3` means the point p3 of a front.
      blocks: the number of blocks that the genome must have.

    Returns:
      int32 `[blocks, columns]`; the columns are `MODULES`, or all of `ALL_MODULES`.

    Raises:
      UserError: the file holds no genome, or one of another shape.
    """
    file, point = genome_file(str(path))
    path = pathlib.Path(file)
    try:
        if path.suffix in (".yaml", ".yml"):
            rows = read_noah_yaml(path).tolist()
        else:
            value = json.loads(_read(path, _MAX_JSON_BYTES))
            if point or (isinstance(value, dict) and "points" in value):
                value = _point(value, point)
            rows = value["genome"] if isinstance(value, dict) else value
        if not isinstance(rows, list) or not all(map(_are_sizes, rows)):
            raise ValueError(f"it is not a list of lists of sizes, whole numbers 0 … {MAX_SIZE}")
        widths = sorted({len(row) for row in rows})
        columns = range(len(MODULES), len(ALL_MODULES) + 1)
        if len(rows) != blocks or len(widths) != 1 or widths[0] not in columns:
            raise ValueError(f"it is [{len(rows)}, {' or '.join(map(str, widths))}]")
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise UserError(
            f"no genome in {path} ({error}): expected JSON with {blocks} rows, one a block, of "
            f"{len(MODULES)} sizes {MODULES} or {len(ALL_MODULES)} {ALL_MODULES}, plain or under "
            "the key genome, or a .yaml of NOAH's with as many blocks"
        ) from error
    return np.array(rows, np.int32)


def _point(value, name: str) -> dict:
    """Picks the point of that name from the contents of a `front.json`."""
    points = value.get("points") if isinstance(value, dict) else None
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise ValueError("it is not a front")
    for point in points:
        if point.get("name") == name:
            return point
    names = ", ".join(f"{point.get('name')} ({point.get('params')})" for point in points)
    raise ValueError(f"it is a front: append :NAME, with one of the names (parameters) {names}")


def _read(path: pathlib.Path, limit: int) -> bytes:
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"more than {limit} bytes")
    return data


def read_noah_yaml(path: str | pathlib.Path) -> np.ndarray:
    """Reads the genome in one of NOAH's subnet files (`experiments/NOAH/subnet/**.yaml`).

    Only the section `RETRAIN` counts. It lists, under each module's key, the sizes of all blocks.

    Returns:
      int32 `[blocks, modules]`.

    Raises:
      UserError: the file cannot be read, or holds no genome, or one with prefix tuning.
    """
    path = pathlib.Path(path).expanduser()
    try:
        data = _read(path, _MAX_BYTES)
        _refuse_elaborate(data)
        content = yaml.safe_load(data)
    except (OSError, ValueError, ArithmeticError, yaml.YAMLError) as error:
        raise UserError(f"cannot read a genome from {path}: {error}") from error
    section = content.get("RETRAIN") if isinstance(content, dict) else None
    if not isinstance(section, dict):
        raise UserError(f"no genome in {path}: it has no section RETRAIN, as NOAH's subnets have")
    problems = [
        f"RETRAIN.{key}: expected a list of sizes 0 … {MAX_SIZE}, one a block"
        for key in _KEYS
        if not _are_sizes(section.get(key))
    ]
    prefix = section.get("PREFIX_DIM", [0])  # the baselines' files have none
    if not _are_sizes(prefix) or any(prefix):
        problems.append("RETRAIN.PREFIX_DIM: expected zeros; prefix tuning is not supported")
    if not problems and len({len(section[key]) for key in _KEYS}) > 1:
        lengths = ", ".join(f"RETRAIN.{key} {len(section[key])}" for key in _KEYS)
        problems.append(f"the lists differ in length: {lengths}")
    if problems:
        raise UserError(f"no genome in {path}:{listed(problems)}")
    return np.array([section[key] for key in _KEYS], np.int32).T


def _refuse_elaborate(data: bytes) -> None:
    """Raises ValueError for dangerous features of YAML, before anything is built from it."""
    depth = 0
    for event in yaml.parse(data, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError(f"it has an anchor or alias {event.anchor}")
        if getattr(event, "tag", None):
            raise ValueError(f"it has a tag {event.tag!r}")
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<":
            raise ValueError("it has a merge key <<")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")


def _are_sizes(value) -> bool:
    """Tells whether `value` is a list of sizes; `true` is no size, though Python takes it for 1."""
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(type(size) is int and 0 <= size <= MAX_SIZE for size in value)
    )
