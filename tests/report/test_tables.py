"""Tables from results of the shape that a run writes."""

import pathlib

from noah_jax.data.tasks import FEW_SHOT, GROUPS, VTAB
from noah_jax.report import tables


def _result(task, method, seed, accuracy, shots=0, backbone="vit_b16_in21k", more_tests=None):
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "shots": shots,
        "test_accuracy": accuracy,
        "more_tests": more_tests or {},
        "images": {"test": 100},
        "params": 74_700,
        "backbone": backbone,
        "image_size": 224,
    }


def _by_place(results):
    return {pathlib.Path(f"{number}"): result for number, result in enumerate(results)}


def _cells(results):
    """Row → method → what stands in the cell."""
    table = tables.benchmark(_by_place(results)).split("\n\n")[0]
    _, header, _, *lines, last = table.splitlines()
    assert last.split() == ["parameters", "(M)", *["0.075"] * len(header.split())]
    starts = [header.index(method) for method in header.split()]
    return {
        line[: starts[0]].strip(): dict(
            zip(
                header.split(),
                (line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)),
                strict=True,
            )
        )
        for line in lines
    }


def test_published_figures_stand_beside_comparable_runs_only():
    other = _result("cifar100", "lora", 3, 0.7, backbone="dinov2_vits14_saliency")
    results = _by_place([other, _result("cifar100", "noah", 3, 0.71)])
    header, line, first, second = tables.runs(results).splitlines()
    assert header.split("  ")[0] == "task" and set(line) == {"-", " "}
    assert first.split() == [
        *("cifar100", "noah", "3", "0.0747", "71.00", "[61.46,", "78.99]", "69.6", "best")
    ]
    assert second.split()[1] == "lora" and second.split()[7] == "-"
    assert _cells([other])["cifar100"]["lora"] == "70.00 [60.42, 78.11]"
    few = _result("cifar100", "noah", 0, 0.4, shots=8)
    assert tables.published(few) is None and tables.published(few | {"shots": 0}) == 69.6


def test_vtab_has_the_means_of_the_paper():
    """With the paper's own figures as results, ours and the published ones are equal."""
    results = [
        _result(name, method, seed, task.published[method] / 100 + shift)
        for name, task in VTAB.items()
        for method in ("lora", "noah")
        for seed, shift in ((0, -0.01), (1, 0.01))
    ]
    cells = _cells(results)
    assert list(cells)[:19] == list(VTAB)
    assert cells["kitti"]["noah"] == "81.70 [68.99, 94.41] (81.7)"
    means = {
        **{
            f"mean, {group}": figure
            for group, figure in zip(GROUPS, (80.3, 84.9, 61.3), strict=True)
        },
        "mean of 19 tasks": 73.2,
        "mean of groups": 75.5,
    }
    assert list(cells)[19:] == list(means)
    for row, figure in means.items():
        assert cells[row]["noah"].endswith(f"] ({figure})")
    # One point up and down, times Student's 12.71 for a single degree of freedom.
    assert cells["mean of 19 tasks"]["lora"] == "72.25 [59.55, 84.96] (72.3)"


def test_an_incomplete_group_has_no_mean():
    results = [_result(name, "noah", 0, 0.5) for name in VTAB if name != "svhn"]
    cells = _cells([*results, _result("svhn", "lora", 0, 0.5)])
    assert cells["svhn"] == {"noah": "-", "lora": "50.00 [40.38, 59.62] (85.3)"}
    assert "mean, natural" not in cells and "mean of 19 tasks" not in cells
    assert cells["mean, structured"]["lora"] == "-"


def test_few_shot_sets_and_domains():
    results = [
        _result(name, "noah", seed, shots / 20, shots=shots)
        for name in FEW_SHOT
        for shots in (2, 16)
        for seed in (1, 2)
    ]
    cells = _cells(results)
    assert cells["food101, 16-shot"]["noah"] == "80.00"  # both seeds
    assert cells["mean of 5, 2-shot"]["noah"] == "10.00 (50.7)"
    domains = {
        "imagenet_v2": {"accuracy": 0.25, "images": 1000},
        "imagenet_r": {"accuracy": 0.3, "images": 50, "accuracy_among_all": 0.2},
    }
    cells = _cells([_result("imagenet", "noah", 0, 0.5, shots=16, more_tests=domains)])
    assert cells == {
        "imagenet, 16-shot": {"noah": "50.00 [40.38, 59.62]"},
        "imagenet_v2, 16-shot": {"noah": "25.00 [22.42, 27.78]"},
        "imagenet_r, 16-shot": {"noah": "30.00 [19.10, 43.75]"},
        "imagenet_r among all classes, 16-shot": {"noah": "20.00 [11.24, 33.04]"},
    }
