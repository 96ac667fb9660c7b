"""The page, from a result of the shape that a run writes."""

import json

import numpy as np

from noah_jax import report
from noah_jax.workdir import write_json

RESULT = {
    "task": "cifar100",
    "method": "noah",
    "seed": 3,
    "shots": 0,
    "test_accuracy": 0.7012,
    "more_tests": {
        "imagenet_r": {
            "accuracy": 0.5,
            "images": 30,
            "classes": 200,
            "accuracy_among_all": 0.25,
        }
    },
    "val_accuracy": 0.69,
    "genome": np.tile([5, 0, 1], (12, 1)).tolist(),
    "params": 74_700,
    "params_noah_count": 155_340,
    "head_params": 76_900,
    "stages": {"supernet": 60.0, "search": 5.0, "retrain": 20.0, "test": 4.0},
    "images": {"train": 800, "val": 200, "trainval": 1000, "test": 10_000},
    "image_size": 224,
    "normalisation": "half",
    "encoding": "png",
    "backbone": "vit_b16_in21k",
    "dtype": "bfloat16",
    "devices": ["TPU v4"] * 4,
    "warnings": ["2 images of the test are in trainval too"],
}


def _panels(genome):
    """Title → the label of each block's bar."""
    figure = report._architecture({"genome": genome})
    return {axis.get_title(): [text.get_text() for text in axis.texts] for axis in figure.axes}


def test_architecture_shows_the_columns_that_something_is_in():
    rows = [[5, 0, 1], [0, 8, 100]]
    three = {"Visual prompts": ["5", ""], "LoRA": ["", "8"], "Adapter": ["1", "100"]}
    assert _panels(rows) == three
    assert _panels([row + [0] * 4 for row in rows]) == three
    assert _panels([[0, 0, 0, 0, 1, 1, 1]]) == dict.fromkeys(three, [""])  # nothing is scaled
    seven = [[5, 0, 1, 0, 2, 3, -1], [0, 8, 100, 4, -1, 0, -3]]
    assert _panels(seven) == {
        "Visual prompts": ["5", ""],
        "LoRA": ["", "8 ×0.1"],
        "Adapter": ["1 ×1000", "100"],
        "Parallel adapter": ["", "4 ×0.001"],
    }


def test_page_holds_everything_in_one_file(tmp_path):
    write_json(tmp_path / "result.json", RESULT | {"task": "<cats>"})
    write_json(tmp_path / "config.json", {"search": {"budget_millions": 0.1}})
    log = [{"stage": "retrain", "epoch": i + 1, "loss": 1 / (i + 1)} for i in range(5)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, log)))
    (tmp_path / "search").mkdir()
    for number in range(3):
        rows = [
            {"params": 50_000 * i, "val_accuracy": 0.5 + 0.1 * i, "val_loss": 1.0}
            for i in range(1, 4)
        ]
        path = tmp_path / "search" / f"gen_{number:03d}.json"
        write_json(path, {"generation": number, "candidates": rows})
    page = report.write(tmp_path).read_text()
    assert page.count("<img") == page.count("data:image/png;base64") == 3
    assert "&lt;cats&gt;" in page and "<cats>" not in page and "://" not in page
    domain = "50.00 % of 30 images right among its 200 classes, 25.00 % among all"
    for fact in (
        "70.12 %",
        "7012 of 10000 images",
        "74,700",
        "4 × TPU v4",
        domain,
        *RESULT["warnings"],
    ):
        assert fact in page
