"""The method on arrays, by the names that a program imports."""

import pathlib
import re

import numpy as np
import pytest
import sklearn.datasets

import noah_jax
from noah_jax.errors import UserError

README = (pathlib.Path(__file__).parents[2] / "README.md").read_text()


def test_the_readmes_example(ti16, tmp_path, monkeypatch):
    """Word by word, but for a smaller backbone, shorter schedules and the place."""
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (example,) = [text for text in examples if "find_subnet" in text]
    assert len(example.splitlines()) <= 24
    lines = [
        *(f'config.weights = "{ti16}"', 'config.backbone = "vit_ti16"'),
        *('config.normalisation = "half"', "config.image_size = 48"),
        *("config.space.vpt = config.space.lora = config.space.adapter = (0, 1)",),
        *("config.search.update(population=4, generations=1, mutations=1, crossovers=1)",),
        *("config.search.budget_millions = 0.03",),
        *("for schedule in (config.supernet, config.retrain):",),
        *("    schedule.update(epochs=2, batch_size=8)",),
        "result = ",
    ]
    digits = sklearn.datasets.load_digits()
    few = slice(60)
    digits.images, digits.target = digits.images[few], digits.target[few]
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: digits)
    monkeypatch.chdir(tmp_path)
    assert example.count("result = ") == 1
    names = {}
    exec(example.replace("result = ", "\n".join(lines)), names)
    result, subnet = names["result"], names["subnet"]
    assert (tmp_path / "runs/mine/report.html").is_file()
    assert result["images"] == {"train": 40, "val": 10, "trainval": 50, "test": 10}
    assert result["genome"] == subnet.facts["genome"] and result["params"] <= 30_000
    chances = noah_jax.classify(subnet, names["images"])
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)


def test_what_is_wrong_with_arrays(tmp_path):
    images, labels = np.zeros((9, 8, 8, 3), np.uint8), np.arange(9) % 3
    for changed, message in (
        ((images[..., 0], labels), "expected uint8"),
        ((images / 255, labels), "expected uint8"),
        ((images, labels[:8]), "expected whole numbers"),
        ((images, labels / 2), "expected whole numbers"),
        ((images, labels - 1), "from 0 on"),
        ((images, 2 * labels), r"fewer than 3 images of the classes \[1, 3\]"),
    ):
        with pytest.raises(UserError, match=message):
            noah_jax.find_subnet(*changed, tmp_path / "run")
    with pytest.raises(UserError, match="class_names: expected 3, got 1"):
        noah_jax.find_subnet(images, labels, tmp_path / "run", class_names=["a"])
    config = noah_jax.defaults()
    config.method = "lora+noah"
    with pytest.raises(UserError, match="one run"):
        noah_jax.find_subnet(images, labels, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_all_names_are_there():
    for name in noah_jax.__all__:
        assert callable(getattr(noah_jax, name)) and name in noah_jax.__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = noah_jax.nothing
