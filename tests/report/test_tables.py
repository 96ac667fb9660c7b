"""Tables from results of the shape that a run writes."""

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
        "params": 74_700,
        "backbone": backbone,
        "image_size": 224,
    }


def _cells(results):
    """Row → method → what stands in the cell."""
    _, header, _, *lines, last = tables.benchmark(results).splitlines()
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
    header, line, first, second = tables.runs(
        [_result("cifar100", "noah", 3, 0.7012), other]
    ).splitlines()
    assert header.split("  ")[0] == "task" and set(line) == {"-", " "}
    assert first.split() == ["cifar100", "noah", "3", "0.0747", "70.12", "69.6"]
    assert second.split()[1] == "lora" and second.split()[-1] == "-"
    assert _cells([other])["cifar100"]["lora"] == "70.00"
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
    assert cells["kitti"]["noah"] == "81.70 ± 1.41 (81.7)"
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
        assert cells[row]["noah"].endswith(f" ± 1.41 ({figure})")
    assert cells["mean of 19 tasks"]["lora"] == "72.25 ± 1.41 (72.3)"


def test_an_incomplete_group_has_no_mean():
    results = [_result(name, "noah", 0, 0.5) for name in VTAB if name != "svhn"]
    cells = _cells([*results, _result("svhn", "lora", 0, 0.5)])
    assert cells["svhn"] == {"noah": "-", "lora": "50.00 (85.3)"}
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
    assert cells["food101, 16-shot"]["noah"] == "80.00 ± 0.00"
    assert cells["mean of 5, 2-shot"]["noah"] == "10.00 ± 0.00 (50.7)"
    domains = {
        "imagenet_v2": {"accuracy": 0.25},
        "imagenet_r": {"accuracy": 0.3, "accuracy_among_all": 0.2},
    }
    cells = _cells([_result("imagenet", "noah", 0, 0.5, shots=16, more_tests=domains)])
    assert cells == {
        "imagenet, 16-shot": {"noah": "50.00"},
        "imagenet_v2, 16-shot": {"noah": "25.00"},
        "imagenet_r, 16-shot": {"noah": "30.00"},
        "imagenet_r among all classes, 16-shot": {"noah": "20.00"},
    }
