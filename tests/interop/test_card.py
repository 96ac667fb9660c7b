"""The model card: what it says of a run, in words and for the hub, and how it tells to use it."""

import ast
import re

import huggingface_hub
import PIL.Image

from noah_jax.interop import card, predict, subnet
from noah_jax.pretrained import BACKBONES
from tests.helpers.subnets import random_images, random_subnet

FACTS = {
    "task": "birds",
    "method": "noah",
    "seed": 3,
    "test_accuracy": 0.75,
    "images": {"train": 80, "val": 20, "trainval": 100, "test": 400},
    "params": 1234,
    "head_params": 165,
    "stages": {"supernet": 90.0, "retrain": 30.0},
    "devices": ["TPU v5e", "TPU v5e"],
    "versions": {"noah_jax": "0.2.0", "jax": "0.10.2"},
    "backbone": "mae_vit_b16",
}


def test_what_it_says_of_a_run():
    _, genome, found = random_subnet(0, 4)
    found.facts.update(FACTS)
    text = card.text(found, "architecture.png")
    for words in (
        "75.00 % (95 % interval: 70.53 to 78.99 %; 400 images)",  # Wilson's, by R's binom.confint
        "| 100 |",
        "1,234 in prompt modules, 165 in the head",
        "2.0 min (supernet 1.5 min, retrain 30.0 s) on 2 × TPU v5e",
        "](architecture.png)",
        "cc-by-nc-4.0",
    ):
        assert words in text, words
    rows = {
        title: cells for title, *cells in re.findall(r"\| (\w[\w ]+) " + r"\| (\S+) " * 4, text)
    }
    assert rows["Visual prompts"] == [str(size or "·") for size in genome[:, 0]]
    data = huggingface_hub.ModelCard(text).data
    assert (data.license, data.base_model) == ("cc-by-nc-4.0", "timm/vit_base_patch16_224.mae")
    assert (data.library_name, data.pipeline_tag) == ("noah-jax", "image-classification")
    (result,) = data.eval_results
    assert (result.dataset_name, result.metric_value) == ("birds", 0.75)


def test_what_is_not_known_is_left_out():
    """In subnets of older versions, and where the weights were a file of the user's."""
    _, _, found = random_subnet(0, 3)
    text = card.text(found)
    assert "with prompt modules in its blocks, trained by noah_jax's method `noah`" in text
    assert "accuracy on" not in text and "min (" not in text and ".png" not in text
    assert huggingface_hub.ModelCard(text).data.license is None
    found.facts.update(FACTS, backbone="/home/me/secret/b16.safetensors")
    del found.facts["images"]
    text = card.text(found)
    assert "b16.safetensors" in text and "secret" not in text and "75.00 % |" in text
    data = huggingface_hub.ModelCard(text).data
    assert data.license is None and data.base_model is None
    found.facts["backbone"] = "dinov3_vits16"
    data = huggingface_hub.ModelCard(card.text(found)).data
    assert (data.license, data.license_name) == ("other", "dinov3-license")
    assert {each.licence for each in BACKBONES.values()} - {*card._LICENCES_OF_THE_HUB} == {
        "dinov3-license"
    }


def test_its_lines_of_python_run(tmp_path, monkeypatch, capsys):
    _, _, found = random_subnet(6, 3)
    subnet.export(found, tmp_path / "export")
    turned = PIL.Image.Exif()
    turned[0x112] = 3
    photo = random_images(1)[0]
    PIL.Image.fromarray(photo).save(tmp_path / "photo.jpg", exif=turned)
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"(?s)```python\n(.*?)```", card.text(found))
    exec(program.replace(card.REPOSITORY, "export"), {})
    ((best, *_),) = ast.literal_eval(capsys.readouterr().out)
    (line,) = predict.predict(tmp_path / "export", [tmp_path / "photo.jpg"])
    assert f"  {best[0]} {100 * best[1]:.1f} %" in line
