"""The tables in configs/README.md of what is said about the user's own weights."""

import gzip
import json
import re

import numpy as np
import pytest
import safetensors.numpy
import torch

from noah_jax import pretrained
from noah_jax.errors import UserError
from noah_jax.vit import ViTConfig
from tests.helpers import damage
from tests.helpers.commands import ROOT

TIMM = damage.tensors("safetensors")


def _tables():
    """The two tables under "Your own weights": first column → the message in the second."""
    text = (ROOT / "configs/README.md").read_text().split("### Your own weights")[1]
    tables = re.findall(r"\|---\|---\|\n((?:\|.*\n)+)", text)
    return [
        dict(re.fullmatch(r"\| (.*) \| `+(.*?)`+ \|", row).groups() for row in table.splitlines())
        for table in tables
    ]


SAID, REFUSED = _tables()


def _tensors(tensors):
    def make(folder):
        path = folder / "model.safetensors"
        safetensors.numpy.save_file({k: np.asarray(x) for k, x in tensors.items()}, path)
        return path

    return make


def _prefixed(prefix, tensors=TIMM):
    return {prefix + name: x for name, x in tensors.items()}


def _contents(name, data):
    def make(folder):
        (folder / name).write_bytes(data)
        return folder / name

    return make


def _checkpoint(folder):
    torch.save({"model": {}}, folder / "w.safetensors")
    return folder / "w.safetensors"


def _in_folder(name, data=b""):
    return lambda folder: _contents(name, data)(folder).parent


def _beside(**values):
    """A file with a config.json beside it; its tensors do not matter."""

    def make(folder):
        (folder / "config.json").write_text(json.dumps({"patch_size": 16} | values))
        return _tensors(TIMM)(folder)

    return make


def _first_words(words, table):
    (row,) = (row for row in table if row.startswith(words))
    return row


CASES = {  # the first words of a row → what makes the file, and the shape that it is given as
    "a prefix": (_tensors(_prefixed("module.")), ""),
    "heads of any name": (_tensors(TIMM | {"fc.weight": np.ones(3)}), ""),
    "a student": (_tensors(_prefixed("student.backbone.") | _prefixed("teacher.backbone.")), ""),
    "other heads": (_beside(num_attention_heads=6), "vit_ti16"),
    "another GELU": (_beside(hidden_act="gelu"), "vit_b16_clip"),
    "a CLIP": (_tensors(TIMM), "vit_b16_clip"),
    "a Git LFS": (_contents("w.npz", b"version https://git-lfs.github.com/spec/v1\n"), ""),
    "a web page": (_contents("w.safetensors", b"<!doctype html>"), ""),
    "JSON": (_contents("w.safetensors", b'{"error": 1}'), ""),
    "empty": (_contents("w.safetensors", b""), ""),
    "cut short": (_contents("w.safetensors", safetensors.numpy.save(TIMM)[:-9]), ""),
    "a checkpoint": (_checkpoint, ""),
    "of TensorFlow": (_contents("model.ckpt-1.data-00000-of-00001", b"\1\xff"), ""),
    "packed": (_contents("w.npz.gz", gzip.compress(b"x")), ""),
    "one part": (_contents("model-00001-of-00002.safetensors", b""), ""),
    "a folder or": (_in_folder("model-00001-of-00002.safetensors"), ""),
    "a folder without": (_in_folder("notes.txt"), ""),
    "two models": (_tensors(_prefixed("left.") | _prefixed("right.")), ""),
    "no ViT": (_tensors({"layer1.0.conv1.weight": np.ones(3)}), ""),
    "of a model that": (_tensors({re.sub("^norm", "fc_norm", k): x for k, x in TIMM.items()}), ""),
    "of a ViT with more": (_tensors(TIMM | {"blocks.0.attn.rel_pos": np.ones(3)}), ""),
    "beside a `config.json` of": (_beside(hidden_size=768, num_hidden_layers=12), "vit_ti16"),
    "beside a `config.json` with": (_beside(hidden_act="relu"), "vit_ti16"),
}


def test_every_row_has_its_case():
    rows = [*SAID, *REFUSED]
    assert len(rows) > 20 and all(sum(row.startswith(x) for row in rows) == 1 for x in CASES)
    assert len(rows) == len(CASES) + 1  # one has a test of its own


def _messages(path, shape):
    if shape:
        return pretrained.believed(ViTConfig.named(shape), str(path), shape)[1]
    return pretrained.backbone_and_notes(damage.VIT, str(path))[1]


@pytest.mark.parametrize("words", CASES)
def test_it_is_said_as_documented(words, tmp_path):
    make, shape = CASES[words]
    path, row = make(tmp_path), _first_words(words, [*SAID, *REFUSED])
    if row in SAID:
        said = "\n".join(_messages(path, shape))
    else:
        with pytest.raises(UserError) as error:
            _messages(path, shape)
        said = str(error.value)
    assert (SAID | REFUSED)[row].replace("PATH", str(path)) in said


def test_another_size_is_said_as_documented(ti16):
    with pytest.raises(UserError) as error:
        pretrained.backbone(ViTConfig.named("vit_s16"), str(ti16))
    assert REFUSED["of another size"] in str(error.value)
