"""Finds the backbone among a file's tensors: its layout, and what stands before the layout's names.

Training programs wrap models, so that `blocks.0.…` is `module.encoder.blocks.0.…` in their files.
They save other models and heads beside the backbone, too.
"""

import dataclasses
import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterable

from noah_jax.errors import UserError, joined
from noah_jax.pretrained.name_tables import FORMATS, Table

# Parts of a name that PyTorch's wrappers put anywhere in it.
_WRAPPERS = r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
_USUAL = ("", "vit.", "deit.", "dinov2.", "dinov2_with_registers.", "vision_model.")
# Self-supervised training makes two copies of a model, one the moving average of the other.
_AVERAGED = {"teacher", "ema", "momentum", "target", "averaged", "average", "avg", "swa", "k"}
_TRAINED = {"student", "online", "base", "query", "q"}
# A tensor outside the layout's own modules is a head's, unless its name could be of something that
# changes the features.
_HEAD = r"head|decoder|classif|predict|project"
_NO_HEAD = (
    r"pos|pool|rel_|rope|rotary|token|embed|prompt|lora|adapter|stem|block|stage|norm|^ln|conv"
)
_OTHERS = (  # a part of a name, and the models that have it
    (r"lora_[AB]\.|\.lora\.", "LoRA's matrices alone, as of an adapter"),
    (r"patch_embed\.kernel$", "an export of this program: `python -m noah_jax.interop predict`"),
    (r"encoder_layer_0\.|conv_proj\.", "a ViT of torchvision"),
    (r"relative_position_bias", "a Swin or BEiT"),
    (r"layer1\.0\.conv1\.|stages\.0\.", "a convolutional network"),
    (r"word_embeddings|embed_tokens|\bwte\.", "a language model"),
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the backbone's tensors are among a file's.

    Attributes:
      prefix: what stands before the layout's names.
      table: the name table of the layout.
      ignored: a pattern of names, without prefix, that are not the backbone's.
      notes: what a user should know of it.
    """

    prefix: str
    table: Table
    ignored: str
    notes: tuple[str, ...] = ()


def unwrapped(name: str) -> str:
    """Leaves out of a tensor's name what PyTorch's wrappers put into it."""
    return re.sub(_WRAPPERS, "", name)


def find(names: Collection[str], path: object) -> Place:
    """Finds the backbone among the tensors of the file `path`.

    Where training left two copies, the averaged one is taken.

    Raises:
      UserError: there is none, or there are several, and nothing says which one is meant.
    """
    rows: dict[str, tuple[Table, str]] = {}
    marks: set[str] = set()  # a longer mark can end in a shorter one
    for mark, table, ignored in FORMATS:
        for name in names:
            if name in marks or not name.endswith(mark):
                continue
            if name[: -len(mark)][-1:] in ("", ".", "/"):
                rows.setdefault(name[: -len(mark)], (table, ignored))
                marks.add(name)
    if not rows:
        raise UserError(_unknown(names, path))
    known = {prefix: _known(prefix, table, names) for prefix, (table, _) in rows.items()}
    # A single tensor may end in a mark by chance.
    likely = [prefix for prefix in rows if 2 * known[prefix] >= max(known.values())]
    prefix = _choose(sorted(likely), path)
    notes = []
    if len(likely) > 1:
        notes.append(
            f"{path} holds {len(likely)} backbones, {joined(sorted(likely))}: {prefix} is used, "
            "the moving average or teacher"
        )
    if prefix not in _USUAL:
        notes.append(f"{path}: {prefix} before the names of the tensors is left out")
    return Place(prefix, *rows[prefix], tuple(notes))


def has_layout(names: Iterable[str]) -> bool:
    """Tells whether some of the tensors have the names of a known layout, with any prefix."""
    marks = tuple(mark for mark, _, _ in FORMATS)
    return any(unwrapped(name).endswith(marks) for name in names)


def role(name: str) -> int:
    """Tells whether a name is of a moving average, 1, of what it is made of, -1, or neither, 0."""
    words = set(re.split(r"[._/]", name))
    return -1 if words & _TRAINED else int(bool(words & _AVERAGED))


def heads(names: Iterable[str], table: Table) -> list[str]:
    """Lists those tensors on which the features do not depend: of heads, and beside the network.

    Args:
      names: without prefix, of tensors that have no place in the layout.
    """
    trunk = {_first(theirs) for entry in table.values() for theirs in entry.names}
    return [name for name in names if (first := _first(name)) not in trunk and _is_head(first)]


def _is_head(first: str) -> bool:
    if not first or re.fullmatch(r"layers?\d*|encoder|backbone|trunk", first):
        return False
    return bool(re.search(_HEAD, first.lower()) or not re.search(_NO_HEAD, first.lower()))


def grouped(names: Iterable[str], prefix: str) -> str:
    """Lists names by their first part that is not in `prefix`, and how many each part has."""
    counts = Counter(_group(name, prefix) for name in names)
    return joined([f"{group} ({n} tensors)" if n > 1 else group for group, n in counts.items()])


def _group(name: str, prefix: str) -> str:
    group = ""
    for part in re.findall(r"[^./]*[./]?", name):
        group += part
        if not prefix.startswith(group):
            break
    return group.rstrip("./")


def _first(name: str) -> str:
    return re.split("[./]", name)[0]


def _known(prefix: str, table: Table, names: Collection[str]) -> int:
    """Counts the tensors of a layout that are there, but of blocks only those of the first."""
    theirs = {name.replace("{i}", "0") for entry in table.values() for name in entry.names}
    return sum(prefix + name in names for name in theirs)


def _choose(prefixes: list[str], path: object) -> str:
    if len(prefixes) == 1:
        return prefixes[0]
    averaged = [prefix for prefix in prefixes if role(prefix) > 0]
    if len(averaged) == 1:
        return averaged[0]
    command = f"python -m noah_jax.pretrained convert {shlex.quote(str(path))} NEW.safetensors"
    single = str(path).endswith(".safetensors")  # which alone the command reads
    raise UserError(
        f"{path} holds {len(prefixes)} backbones, and nothing says which one is meant. Their "
        f"tensors begin with {joined([prefix or 'nothing' for prefix in prefixes])}: keep one"
        + f", e.g. `{command} --keep={shlex.quote(max(prefixes))}`"
        * single
    )


def _unknown(names: Collection[str], path: object) -> str:
    """The message about tensors that have no known layout."""
    for pattern, what in _OTHERS:
        if any(re.search(pattern, name) for name in names):
            return f"the tensors in {path} are those of {what}: expected a plain ViT's"
    blocks = [re.search(r"(?:block_|blocks\.|layers?\.)(\d{1,4})\b", name) for name in names]
    numbers = {int(block[1]) for block in blocks if block}
    part = numbers and 0 not in numbers
    advice = ". It may be a part of a model: give the folder of all parts" if part else ""
    return (
        f"the tensors in {path} have no known layout: expected one of the tensors "
        f"{', '.join(mark for mark, _, _ in FORMATS)}; "
        f"it has {joined(sorted(names), 5) or 'none'}{advice}"
    )
