"""Facts about a ViT that its weights do not show, from a config beside them.

Heads, GELU and epsilon leave no trace in the shapes of tensors. Hugging Face, timm and OpenCLIP
write them into a `config.json` or an `open_clip_config.json` in the same folder.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from noah_jax.errors import UserError
from noah_jax.pretrained.backbones import BACKBONES
from noah_jax.pretrained.files import read_json
from noah_jax.vit import ViTConfig

_EXACT = {"quick_gelu": False, "tanh_gelu": False}
_QUICK, _TANH = _EXACT | {"quick_gelu": True}, _EXACT | {"tanh_gelu": True}
_GELUS = {  # name → fields
    **dict.fromkeys(("gelu", "gelu_python"), _EXACT),
    "quick_gelu": _QUICK,
    **dict.fromkeys(("gelu_pytorch_tanh", "gelu_new", "gelu_tanh"), _TANH),
}
_HUGGING_FACE = {
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "patch_size": "patch_size",
    "layer_norm_eps": "epsilon",
    "hidden_act": "gelu",
    "rope_theta": "rope_theta",
    "image_size": "image_size",
}
_TIMM = {
    "embed_dim": "width",
    "depth": "depth",
    "num_heads": "heads",
    "patch_size": "patch_size",
    "act_layer": "gelu",
}
# Keys of which a ViT here has these values alone.
_ONLY: dict[str, tuple] = {"rope_theta": (100, None), "rope": (), "pool_type": (), "image_size": ()}
_SHAPE = ("width", "depth", "patch_size")
_LARGEST = 1_000_000


@dataclasses.dataclass(frozen=True)
class Fact:
    """A field of a `ViTConfig` that a file states.

    Attributes:
      value: the field's value.
      origin: the file, the key and its value, for messages.
    """

    value: Any
    origin: str


def believed(
    config: ViTConfig, path: pathlib.Path, name: str = "", heads: int = 0
) -> tuple[ViTConfig, tuple[str, ...]]:
    """Adapts heads, GELU and epsilon to what the configs beside a file of weights state.

    Args:
      path: the file.
      name: the name of a shape, or of a backbone, that `config` comes from.
      heads: those that the user has set; 0 = none.

    Returns:
      The config, and what a user should know of it.

    Raises:
      UserError: what is stated is of another shape, contradicts `heads` or itself, or cannot be
        read.
    """
    facts, label = read(path), name or "the model"
    if wrong := [x for x in _SHAPE if x in facts and facts[x].value != getattr(config, x)]:
        stated = {x: facts[x].value for x in _SHAPE if x in facts}
        kind = ("registers", "pre_norm", "rope", "pooling", *_EXACT)
        same = {field: getattr(config, field) for field in kind}
        names = ViTConfig.names(**stated, **same)
        advice = f"give --config.backbone={names[0]}, or" if names else "no shape here fits it:"
        raise UserError(
            f"{path} is not of {label}: {', '.join(facts[x].origin for x in wrong)}, expected "
            f"{', '.join(f'{x} {getattr(config, x)}' for x in wrong)}; {advice} take the config "
            "away if it is another model's"
        )
    if heads and "heads" in facts and facts["heads"].value != heads:
        raise UserError(
            f"heads={heads}, but {facts['heads'].origin}: leave out --config.heads, or take the "
            "config away if it is another model's"
        )
    own = {x: getattr(config, x) for x in facts}
    changed = {x: facts[x].value for x in facts if facts[x].value != own[x]}
    notes = [f"{facts[x].origin}, which is used; {label} has {_said(x, own[x])}" for x in changed]
    # Whoever names a backbone, or one of OpenCLIP's models, means its GELU.
    asked = config.quick_gelu or config.tanh_gelu
    if asked and "quick_gelu" not in facts and name not in BACKBONES:
        notes.append(_unknown_gelu(config, path, label))
    try:
        return dataclasses.replace(config, **changed), tuple(notes)
    except ValueError as error:
        raise UserError(f"{facts['heads'].origin}: {error}") from error


def require_agreement(config: ViTConfig, path: pathlib.Path) -> None:
    """Raises UserError if a config beside a file of weights states other heads, or another GELU."""
    facts = read(path)
    for field in ("heads", *_EXACT):
        if field in facts and facts[field].value != (value := getattr(config, field)):
            raise UserError(
                f"{path} is of another model: {facts[field].origin}, but the ViT has "
                f"{_said(field, value)}"
            )


def read(path: pathlib.Path) -> dict[str, Fact]:
    """Reads what the configs beside a file of weights state, by field of `ViTConfig`.

    Raises:
      UserError: a config cannot be read, states what no ViT here has, or they contradict each
        other.
    """
    facts: dict[str, Fact] = {}
    for file, reader in (("open_clip_config.json", _open_clip), ("config.json", _config)):
        places = [path.parent]
        if path.is_symlink():  # as in the cache of the hub, or to it
            places.append((path.parent / os.readlink(path)).parent)
        beside = next((x for place in places if (x := place / file).is_file()), None)
        if beside is None:
            continue
        for what, key, value in reader(read_json(beside)):
            plain = isinstance(value, int | float | str)
            origin = f"{beside}: {key} is {repr(value)[:50] if plain else type(value).__name__}"
            for field, checked in _fields(what, value, origin).items():
                if field in facts and facts[field].value != checked:
                    raise UserError(f"two configs disagree: {facts[field].origin}, but {origin}")
                facts[field] = Fact(checked, origin)
    return facts


def _config(values: dict) -> Iterator[tuple[str, str, Any]]:
    """Yields field (or gelu), key and value of a `config.json` of Hugging Face or timm."""
    architecture, arguments = values.get("architecture"), values.get("model_args")
    if isinstance(architecture, str):  # timm's
        keys = {"num_features": "width"}
        yield from _known(values, keys)
        yield from _known(arguments, _TIMM, "model_args.")
        if "quickgelu" in architecture:  # other names leave it open
            yield "gelu", "architecture", "quick_gelu"
        if re.search("rope|_pe_|eva", architecture):  # whose rotations no tensor shows
            yield "rope", "architecture", architecture
        return
    part, prefix = values, ""
    inner = {key: x for key, x in values.items() if isinstance(x, dict) and "patch_size" in x}
    for key in inner if len(inner) == 1 else ("vision_config", "backbone_config"):
        if isinstance(values.get(key), dict):
            part, prefix = values[key], f"{key}."
    if isinstance(rope := part.get("rope_parameters"), dict):
        part = part | {"rope_theta": rope.get("rope_theta")}
    if values.get("model_type") == "clip" or part.get("model_type") == "clip_vision_model":
        part = {"hidden_act": "quick_gelu"} | part  # what transformers takes for it
    if "patch_size" in part or prefix:  # else it is no ViT's
        yield from _known(part, _HUGGING_FACE, prefix)


def _open_clip(values: dict) -> Iterator[tuple[str, str, Any]]:
    """Yields the same of an `open_clip_config.json`, with OpenCLIP's defaults."""
    model = values.get("model_cfg", values)
    vision = model.get("vision_cfg") if isinstance(model, dict) else None
    if not isinstance(vision, dict) or "timm_model_name" in vision:
        return
    keys = {"width": "width", "layers": "depth", "patch_size": "patch_size"}
    yield from _known(vision, keys, "vision_cfg.")
    yield from _known(vision.get("norm_kwargs"), {"eps": "epsilon"}, "vision_cfg.norm_kwargs.")
    width, head = vision.get("width"), vision.get("head_width", 64)
    if type(width) is int and type(head) is int and 0 < head <= width:
        heads = width // head if width % head == 0 else f"{width} / {head}"
        yield "heads", "vision_cfg.width / head_width", heads
    if vision.get("pool_type", "tok") != "tok":
        yield "pool_type", "vision_cfg.pool_type", vision["pool_type"]
    quick, kwargs = model.get("quick_gelu", False), vision.get("act_kwargs")
    exact = (
        f"gelu_{kwargs['approximate']}"
        if isinstance(kwargs, dict) and kwargs.get("approximate", "none") != "none"
        else "gelu"
    )
    yield "gelu", "quick_gelu", "quick_gelu" if quick is True else exact


def _known(values: Any, keys: dict[str, str], prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    if isinstance(values, dict):
        for key, field in keys.items():
            if values.get(key) is not None:
                yield field, prefix + key, values[key]


def _fields(what: str, value: Any, origin: str) -> dict[str, Any]:
    """Turns what a file states into fields of a `ViTConfig`; UserError if it cannot be any."""
    if what in _ONLY:
        if value not in _ONLY[what] and not (what == "image_size" and _square(value)):
            raise UserError(f"{origin}: no ViT here has that")
        return {}
    if what == "gelu":
        if not isinstance(value, str) or value not in _GELUS:
            raise UserError(f"{origin}: expected one of {', '.join(_GELUS)}")
        return _GELUS[value]
    if what == "epsilon":
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise UserError(f"{origin}: expected a small number")
        return {what: float(value)}
    if isinstance(value, list) and value and value.count(value[0]) == len(value):
        value = value[0]  # height and width
    if type(value) is not int or not 0 < value < _LARGEST:
        raise UserError(f"{origin}: expected a number")
    return {what: value}


def _square(value: Any) -> bool:
    return not isinstance(value, list) or len({*map(str, value)}) == 1


def _said(field: str, value: Any) -> str:
    """The value of a field as a user would say it."""
    if field == "quick_gelu":
        return "the quick GELU" if value else "the exact GELU"
    if field == "tanh_gelu":
        return "the GELU by tanh" if value else "no GELU by tanh"
    return str(value)


def _unknown_gelu(config: ViTConfig, path: pathlib.Path, label: str) -> str:
    same = {x: getattr(config, x) for x in (*_SHAPE, "pre_norm", "pooling")}
    own = {x: getattr(config, x) for x in _EXACT}
    names, exact = ViTConfig.names(**same, **own), ViTConfig.names(**same, **_EXACT)
    advice = ""
    if names and exact:
        one, other = "SigLIP (GELU by tanh)", "others"
        if config.pre_norm:
            one, other = "OpenAI's CLIP (quick GELU)", "OpenCLIP's own models"
        advice = f". For {one} give {names[0]}, for {other} (exact GELU) {exact[0]}"
    return (
        f"no config beside {path} says which GELU it was trained with, and weights do not show it: "
        f"{label} is taken at its word{advice}"
    )
