"""An exported subnet predicts what the masked one does, here and in other libraries."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import onnxruntime
import peft
import PIL.Image
import pytest
import safetensors.numpy
import torch
import transformers
from flax import nnx

from noah_jax import pretrained
from noah_jax.data.images import open_file
from noah_jax.data.loader import resize
from noah_jax.errors import UserError
from noah_jax.interop import export, layouts, onnx_graph, predict, subnet, torch_model
from noah_jax.pretrained import loading, weights
from noah_jax.vit import ViT, ViTConfig
from tests.helpers.subnets import (
    FAMILIES,
    VIT,
    logits_of,
    normalised,
    random_images,
    random_subnet,
)


@pytest.mark.parametrize(("family", "columns"), [("plain", 3), *((name, 4) for name in FAMILIES)])
def test_every_program_computes_what_the_masked_model_does(family, columns, tmp_path):
    """Compact, merged, in ONNX and in PyTorch."""
    model, genome, found = random_subnet(columns, columns, vit=FAMILIES[family])
    expected = logits_of(lambda images: model(images, genome))
    assert np.ptp(expected) > 0.1 and genome[0, 0] and not genome[2, :3].any()
    for one in (found, found.merged()):
        np.testing.assert_allclose(logits_of(one.model()), expected, atol=1e-5)
    merged, images = found.merged(), random_images()
    session = onnxruntime.InferenceSession(onnx_graph.serialised(merged, tmp_path))
    (logits,) = session.run(None, {"images": images})
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    (logits,) = session.run(["logits"], {"images": images[:1]})
    np.testing.assert_allclose(logits, expected[:1], atol=1e-5)
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"])[3] == "é"
    tensors = {name: torch.from_numpy(np.array(x)) for name, x in merged.tensors.items()}
    logits = torch_model.Model(found.facts, tensors)(torch.from_numpy(images))
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-5)
    assert not any("lora" in name for name in merged.tensors)
    sizes = {name: x.size for name, x in found.tensors.items() if name in found.trained}
    prompts = sum(size for name, size in sizes.items() if "head" not in name)
    assert prompts == _params(genome)


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
    expected = logits_of(found.model())
    again = subnet.read(tmp_path)
    assert again.class_names == found.class_names
    np.testing.assert_allclose(logits_of(again.model()), expected, atol=1e-5)

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
    np.testing.assert_array_equal(logits_of(subnet.read(tmp_path).model()), expected)

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
    np.save(tmp_path / "images.npy", random_images(5))
    script = (
        "import numpy, jax.export, sys; "
        "program = jax.export.deserialize(bytearray(open('program', 'rb').read())); "
        "numpy.save('logits.npy', program.call(numpy.load('images.npy'))); "
        "assert not any('noah' in name or 'flax' in name for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    expected = logits_of(found.model(), 5)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-5)


def test_too_much_for_one_file(tmp_path, monkeypatch):
    """More than 2 GB of weights: ONNX reads them from the file beside it, JAX's format cannot."""
    _, _, found = random_subnet(2, 4)
    subnet.write(found.facts, found.tensors, tmp_path)
    monkeypatch.setattr(export, "stablehlo", lambda merged: b"")
    export.export(tmp_path, tmp_path / "small")
    monkeypatch.setattr(onnx_graph, "_MOST_BYTES", 10_000)
    said = "\n".join(export.export(tmp_path, tmp_path / "large"))
    assert "not written: model.stablehlo" in said and "reads model.safetensors beside it" in said
    assert not (tmp_path / "large/model.stablehlo").exists()
    files = [tmp_path / name / "model.onnx" for name in ("small", "large")]
    assert files[1].stat().st_size < files[0].stat().st_size / 3
    one, other = (
        onnxruntime.InferenceSession(file).run(None, {"images": random_images()})[0]
        for file in files
    )
    np.testing.assert_array_equal(one, other)


def test_pytorch_alone_runs_an_export(tmp_path):
    _, _, found = random_subnet(2, 4)
    subnet.write(found.facts, found.tensors, tmp_path)
    export.export(tmp_path, tmp_path / "export")
    PIL.Image.fromarray(random_images(1)[0]).save(tmp_path / "a b.png")
    script = (
        "import runpy, sys; sys.argv = ['', 'a b.png']; "
        "runpy.run_path('export/torch_model.py', run_name='__main__'); "
        "assert not {'noah_jax', 'jax', 'flax'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    chances = np.asarray(jax.nn.softmax(logits_of(found.model(), 1)))[0]
    best = found.class_names[chances.argmax()]
    assert done.stdout == f"a b.png  {best} {100 * chances.max():.1f} %\n"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's call
def test_other_libraries_give_the_same_logits(tmp_path, monkeypatch):
    _, genome, found = random_subnet(4, 4, only="lora")
    expected = logits_of(found.model())
    pixels = torch.from_numpy(normalised(random_images()).transpose(0, 3, 1, 2).copy())
    merged, files = found.merged(), layouts.hugging_face_files(found)
    assert not genome[2, 1] and layouts._why_not_plain(found) is None

    def logits(model):
        with torch.no_grad():
            return model.eval()(pixels).logits.numpy()

    layouts._write(tmp_path / "hf", layouts.to_hugging_face(merged), files)
    hf, info = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not any(info.values()) and hf.config.id2label[3] == "é"
    np.testing.assert_allclose(logits(hf), expected, atol=1e-5)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    image = PIL.Image.fromarray(np.random.default_rng(3).integers(0, 256, (30, 20, 3), np.uint8))
    theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_allclose(theirs, normalised(resize(image, 16)), atol=1e-5)

    base = layouts._without_lora(found)
    layouts._write(tmp_path / "peft/base", layouts.to_hugging_face(base), files)
    config = {"adapter_config.json": layouts.peft_config(found)}
    layouts._write(tmp_path / "peft", layouts.to_peft(found), config, "adapter_model.safetensors")
    base = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "peft/base")
    assert np.abs(logits(base) - expected).max() > 0.01
    adapted = peft.PeftModel.from_pretrained(base, str(tmp_path / "peft"))
    np.testing.assert_allclose(logits(adapted), expected, atol=1e-5)
    monkeypatch.chdir(tmp_path / "peft")
    np.testing.assert_allclose(logits(peft.AutoPeftModel.from_pretrained(".")), expected, atol=1e-5)

    layouts._write(tmp_path / "timm", layouts.to_timm(merged), {"m": layouts.timm_arguments(found)})
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
    assert "vpt, adapter" in layouts._why_not_plain(found)
    _, _, found = random_subnet(0, 3, only="lora")
    for name, value in {
        **{"registers": 4, "rope": True, "pooling": "mean", "mlp_width": 100},
        **{"pre_norm": True, "quick_gelu": True, "tanh_gelu": True},
    }.items():
        vit = found.facts["vit"] | {name: value}
        other = dataclasses.replace(found, facts=found.facts | {"vit": vit})
        assert layouts._why_not_plain(other) == f"the backbone is no plain ViT: {name}"


def test_an_export_from_before_the_later_families_is_read():
    _, _, found = random_subnet(0, 3)
    first = subnet.SHAPE[: subnet.SHAPE.index("epsilon") + 1]
    older = found.facts | {"vit": {name: found.facts["vit"][name] for name in first}}
    assert dataclasses.replace(found, facts=older).config == found.config


def test_predictions(tmp_path):
    _, _, found = random_subnet(6, 3)
    subnet.export(found, tmp_path / "export")
    images = random_images(4)
    (tmp_path / "more").mkdir()
    for i, image in enumerate(images):
        folder = tmp_path / "more" if i else tmp_path
        PIL.Image.fromarray(image).save(folder / f"{i}.png")
    paths = [tmp_path / "0.png", tmp_path / "more"]
    *lines, _ = [*predict.predict(tmp_path / "export", paths, top=2), ""]
    chances = jax.nn.softmax(logits_of(found.model(), 4))
    for i, (line, row) in enumerate(zip(lines, np.asarray(chances), strict=True)):
        path, *classes = line.split("  ")
        assert path.endswith(f"/{i}.png") and len(classes) == 2
        first, second = (found.class_names[k] for k in np.argsort(-row)[:2])
        assert classes[0] == f"{first} {100 * row.max():.1f} %" and classes[1].startswith(second)
    for top in (0, -1, len(found.class_names) + 1):
        with pytest.raises(UserError, match=f"--top={top}: expected 1 to {len(chances[0])}"):
            next(predict.predict(tmp_path / "export", paths, top))


def test_broken_images_do_not_hide_the_others(tmp_path, monkeypatch):
    """Wherever they are in a batch; all are named at the end."""
    _, _, found = random_subnet(6, 3)
    subnet.export(found, tmp_path / "export")
    for i, image in enumerate(random_images(5)):
        PIL.Image.fromarray(image).save(tmp_path / f"{i}.png")
    whole = [line.split("/")[-1] for line in predict.predict(tmp_path / "export", [tmp_path], 1)]
    (tmp_path / "0a.png").write_bytes(b"no image")
    (tmp_path / "1a.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    (tmp_path / "4a.png").touch()
    monkeypatch.setattr(predict, "_BATCH", 2)
    lines = []
    with pytest.raises(predict.Unread) as unread:
        for line in predict.predict(tmp_path / "export", [tmp_path], top=1):
            lines.append(line.split("/")[-1])
    assert [line for line in lines if " %" in line] == whole
    message = str(unread.value)
    assert message.startswith("3 of 8 images cannot be read:") and message.count("\n") == 3
    assert "0a.png: no image" in message and "4a.png: the file is empty" in message
    with pytest.raises(predict.Unread, match="1 of 1 images cannot be read"):
        [*predict.predict(tmp_path / "export", [tmp_path / "0a.png"], top=1)]


@pytest.mark.parametrize("name", ViTConfig.names(depth=12, patch_size=16))
def test_a_subnets_facts_say_all_of_its_shape(name):
    """So that an export computes, and resizes positions, as the run did."""
    vit = ViTConfig.named(name, image_size=48, num_classes=5)
    assert ViTConfig(**{field: getattr(vit, field) for field in subnet.SHAPE}) == vit


def test_classify_refuses_what_is_no_image():
    _, _, found = random_subnet(6, 3)
    with pytest.raises(UserError, match="(?s)2 images cannot be read:.*image 0: .*image 1: "):
        predict.classify(found, np.zeros((2, 8, 8, 3), np.float32))


def test_predict_shows_odd_names_as_text(tmp_path):
    """Neither a class nor a file can write on the terminal, or break its encoding."""
    _, _, found = random_subnet(6, 3)
    found.facts["class_names"] = ["\x1b[2J", "a\nb", *map(str, range(len(found.class_names) - 2))]
    subnet.export(found, tmp_path / "export")
    path = tmp_path / os.fsdecode(b"\xff \x1b.png")
    PIL.Image.fromarray(random_images(1)[0]).save(path)
    (line,) = predict.predict(tmp_path / "export", [path], top=len(found.class_names))
    assert line.isprintable() and line.encode() and r"'a\nb'" in line


def test_predict_without_images(tmp_path):
    _, _, found = random_subnet(6, 3)
    subnet.export(found, tmp_path / "export")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/notes.txt").write_text("none")
    with pytest.raises(UserError, match=r"(?s)no images in .*left out: 1 .txt \(.*/notes.txt\)"):
        [*predict.predict(tmp_path / "export", [tmp_path / "more"], top=1)]


def _files(folder, rng):
    """Files of every kind, by name."""
    pixels = PIL.Image.fromarray(rng.integers(0, 256, (30, 20, 3), np.uint8))
    clear = pixels.copy()
    clear.putalpha(PIL.Image.fromarray(rng.integers(0, 256, (30, 20), np.uint8)))
    turned = PIL.Image.Exif()
    turned[0x112] = 6
    kinds = {
        **{"grey.png": pixels.convert("L"), "palette.gif": pixels.convert("P")},
        **{"clear.png": clear, "cmyk.jpg": pixels.convert("CMYK"), "bits.png": pixels.convert("1")},
    }
    for name, image in kinds.items():
        image.save(folder / name)
    pixels.save(folder / "turned.jpg", exif=turned)
    return [*kinds, "turned.jpg"]


def test_files_of_every_kind_become_the_same_pixels(tmp_path):
    """By the PyTorch program, and by Hugging Face's processor but for the rule of EXIF."""
    _, _, found = random_subnet(4, 3, only="lora")
    files = layouts.hugging_face_files(found)["preprocessor_config.json"]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(files))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    for crop in (False, True):
        model = torch_model.Model(found.facts | {"center_crop": crop}, {})
        for name in _files(tmp_path, np.random.default_rng(0)):
            with open_file(tmp_path / name, upright=True) as image:
                expected = resize(image, 16, crop)
            np.testing.assert_array_equal(model.read_image(tmp_path / name).numpy(), expected)
            with PIL.Image.open(tmp_path / name) as image:
                theirs = processor(image, return_tensors="np")["pixel_values"][0]
            same = np.abs(theirs.transpose(1, 2, 0) - normalised(expected)).max() < 1e-4
            assert same == (not crop and name != "turned.jpg"), name
    PIL.Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="deep.png: mode I;16, convert it to 8 bits"):
        model.read_image(tmp_path / "deep.png")
