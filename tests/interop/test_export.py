"""An exported subnet predicts what the masked one does, here and in other libraries."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import peft
import PIL.Image
import pytest
import safetensors.numpy
import torch
import transformers
from flax import nnx

from noah_jax import pretrained
from noah_jax.data.loader import resize
from noah_jax.errors import UserError
from noah_jax.interop import export, layouts, subnet
from noah_jax.pretrained import loading, weights
from noah_jax.vit import ViT, ViTConfig
from tests.helpers import models
from tests.helpers.models import SHALLOW as VIT
from tests.helpers.models import random_subnet

FAMILIES = {
    "plain": VIT,
    "dinov3": dataclasses.replace(VIT, registers=4, rope=True, epsilon=1e-5),
    "siglip": dataclasses.replace(VIT, pooling="attention", tanh_gelu=True, mlp_width=100),
    "mean": dataclasses.replace(VIT, pooling="mean", tanh_gelu=True),
}


def _images(n=3):
    return np.random.default_rng(1).integers(0, 256, (n, 16, 16, 3), np.uint8)


def _normalised(images):
    mean, std = np.float32(models.MEAN), np.float32(models.STD)
    return ((images / np.float32(255) - mean) / std).astype(np.float32)


@pytest.mark.parametrize(("family", "columns"), [("plain", 3), *((name, 4) for name in FAMILIES)])
def test_compact_and_merged_are_the_masked_model(family, columns):
    model, genome, found = random_subnet(columns, columns, vit=FAMILIES[family])
    expected = _logits(lambda images: model(images, genome))
    assert np.ptp(expected) > 0.1 and genome[0, 0] and not genome[2, :3].any()
    for one in (found, found.merged()):
        np.testing.assert_allclose(_logits(one.model()), expected, atol=1e-5)
    assert not any("lora" in name for name in found.merged().tensors)
    sizes = {name: x.size for name, x in found.tensors.items() if name in found.trained}
    prompts = sum(size for name, size in sizes.items() if "head" not in name)
    assert prompts == _params(genome)


def _logits(model, n=3):
    return np.asarray(jax.jit(model)(_normalised(_images(n))))


def _params(genome):
    """Counts parameters as NOAH's section 4 does, written down once more."""
    d, total = VIT.width, 0
    for row in genome.tolist():
        vpt, lora, *adapters = row[:4]
        total += vpt * d + lora * 4 * d + sum(a * (2 * d + 1) + d for a in adapters if a)
    return total


def test_written_and_read(tmp_path, monkeypatch):
    _, _, found = random_subnet(5, 4)
    subnet.export(found, tmp_path)
    expected = _logits(found.model())
    again = subnet.read(tmp_path)
    assert again.class_names == found.class_names
    np.testing.assert_allclose(_logits(again.model()), expected, atol=1e-5)

    (tmp_path / "model.safetensors").rename(tmp_path / "elsewhere")  # what was trained is enough
    own = safetensors.numpy.load_file(tmp_path / "subnet.safetensors")
    backbone = nnx.state(ViT(VIT, {}, rngs=nnx.Rngs(0)))
    _, backbone = nnx.split_state(backbone, nnx.PathContains("head"), ...)
    frozen = {name: x for name, x in found.tensors.items() if name not in own}
    backbone = loading.arrange(backbone, frozen, "the test")
    monkeypatch.setattr(pretrained, "backbone", lambda config, name: backbone)
    monkeypatch.setattr(pretrained, "fingerprint", lambda name: "of some")
    found.facts.update(backbone="some", weights="of another")
    subnet.write(found.facts, own, tmp_path)
    with pytest.raises(UserError, match="weights of some are not those"):
        subnet.read(tmp_path)
    found.facts["weights"] = "of some"
    subnet.write(found.facts, own, tmp_path)
    np.testing.assert_array_equal(_logits(subnet.read(tmp_path).model()), expected)

    damaged = bytearray((tmp_path / "subnet.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "subnet.safetensors").write_bytes(damaged)
    with pytest.raises(UserError, match="is damaged"):
        subnet.read(tmp_path)
    with pytest.raises(UserError, match="holds no subnet.json"):
        subnet.read(tmp_path / "nothing")
    less = {name: x for name, x in found.tensors.items() if name != "blocks.3.qkv.bias"}
    with pytest.raises(UserError, match=r"missing blocks\.3\.qkv\.bias \[96\]"):
        dataclasses.replace(found, tensors=less).model()


def test_a_bare_jax_process_runs_the_program(tmp_path):
    _, _, found = random_subnet(2, 4)
    (tmp_path / "program").write_bytes(export.stablehlo(found.merged()))
    np.save(tmp_path / "images.npy", _images(5))
    script = (
        "import numpy, jax.export, sys; "
        "program = jax.export.deserialize(bytearray(open('program', 'rb').read())); "
        "numpy.save('logits.npy', program.call(numpy.load('images.npy'))); "
        "assert not any('noah' in name or 'flax' in name for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    expected = _logits(found.model(), 5)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's call
def test_other_libraries_give_the_same_logits(tmp_path):
    _, genome, found = random_subnet(4, 4, only="lora")
    expected = _logits(found.model())
    pixels = torch.from_numpy(_normalised(_images()).transpose(0, 3, 1, 2).copy())
    merged, files = found.merged(), layouts.hugging_face_files(found)
    assert not genome[2, 1] and export._why_not_plain(found) is None

    def logits(model):
        with torch.no_grad():
            return model.eval()(pixels).logits.numpy()

    export._write(tmp_path / "hf", layouts.to_hugging_face(merged), files)
    hf, info = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not any(info.values()) and hf.config.id2label[3] == "é"
    np.testing.assert_allclose(logits(hf), expected, atol=1e-5)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    image = PIL.Image.fromarray(np.random.default_rng(3).integers(0, 256, (30, 20, 3), np.uint8))
    theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_allclose(theirs, _normalised(resize(image, 16)), atol=1e-5)

    base = export._without_lora(found)
    export._write(tmp_path / "peft/base", layouts.to_hugging_face(base), files)
    config = {"adapter_config.json": layouts.peft_config(found)}
    export._write(tmp_path / "peft", layouts.to_peft(found), config, "adapter_model.safetensors")
    base = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "peft/base")
    assert np.abs(logits(base) - expected).max() > 0.01
    adapted = peft.PeftModel.from_pretrained(base, str(tmp_path / "peft"))
    np.testing.assert_allclose(logits(adapted), expected, atol=1e-5)

    export._write(tmp_path / "timm", layouts.to_timm(merged), {"m": layouts.timm_arguments(found)})
    read = weights.read_files([tmp_path / "timm/model.safetensors"])
    for name, tensor in merged.tensors.items():
        if not name.startswith("head"):
            np.testing.assert_array_equal(read[name], tensor)
    try:
        from timm.models import VisionTransformer
    except (ImportError, RuntimeError):
        return  # it needs torchvision
    arguments = json.loads((tmp_path / "timm/m").read_text())["arguments"]
    model = VisionTransformer(**arguments)
    model.load_state_dict(safetensors.torch.load_file(tmp_path / "timm/model.safetensors"))
    with torch.no_grad():
        np.testing.assert_allclose(model.eval()(pixels).numpy(), expected, atol=1e-5)


def test_what_is_no_plain_vit_is_said():
    _, _, found = random_subnet(0, 3)
    assert "vpt, adapter" in export._why_not_plain(found)
    _, _, found = random_subnet(0, 3, only="lora")
    for name, value in {
        **{"registers": 4, "rope": True, "pooling": "mean", "mlp_width": 100},
        **{"pre_norm": True, "quick_gelu": True, "tanh_gelu": True},
    }.items():
        vit = found.facts["vit"] | {name: value}
        other = dataclasses.replace(found, facts=found.facts | {"vit": vit})
        assert export._why_not_plain(other) == f"the backbone is no plain ViT: {name}"


def test_an_export_from_before_the_later_families_is_read():
    _, _, found = random_subnet(0, 3)
    first = subnet.SHAPE[: subnet.SHAPE.index("epsilon") + 1]
    older = found.facts | {"vit": {name: found.facts["vit"][name] for name in first}}
    assert dataclasses.replace(found, facts=older).config == found.config


@pytest.mark.parametrize("name", ViTConfig.names(depth=12, patch_size=16))
def test_a_subnets_facts_say_all_of_its_shape(name):
    """So that an export computes, and resizes positions, as the run did."""
    vit = ViTConfig.named(name, image_size=48, num_classes=5)
    assert ViTConfig(**{field: getattr(vit, field) for field in subnet.SHAPE}) == vit
