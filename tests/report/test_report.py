"""The pages, from results of the shape that a run writes."""

import csv
import html
import html.parser
import json
import re
import urllib.parse
import xml.etree.ElementTree

import matplotlib
import numpy as np
import pytest

from noah_jax import report, uncertainty
from noah_jax.report import (
    calibration,
    comparison,
    comparison_figures,
    figures,
    search_figures,
)
from noah_jax.runtime.workdir import read_json_here, write_json
from noah_jax.space.candidates import Candidate

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
    "params": 73_740,
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
CONFIG = {
    "search": {"budget_millions": 0.16},
    "space": {"vpt": [1, 5, 10], "lora": [1, 5], "adapter": [1], "depths": [6, 12]},
}
HOSTILE = ["<b>cat</b>", "a$b$_{", "with\nnewline", "\udcff", "x" * 300, "'\"&--"]


@pytest.fixture
def workdir(tmp_path):
    """A finished run with six hostile names for its classes; images 0, 1, … are right or wrong."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 1000)
    predictions = np.where(np.arange(1000) < 700, labels, (labels + 1 + (labels == 2)) % 6)
    result = RESULT | {"task": "<cats>", "test_accuracy": 0.7}
    write_json(tmp_path / "result.json", result | {"images": RESULT["images"] | {"test": 1000}})
    write_json(tmp_path / "config.json", CONFIG)
    words = ["python", "-m", "noah_jax.main", "--config=a b.py", "--workdir=<x>"]
    log = [{"command": words}] + [
        {"stage": stage, "epoch": i + 1, "loss": 1 / (i + 1)}
        for stage in ("supernet", "retrain")
        for i in range(5)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, [*log, {"command": [1]}])))
    (tmp_path / "search").mkdir()
    for number in range(3):
        rows = [
            Candidate(np.array([[1, 0, 0]]), 50_000 * i, 0.5 + 0.1 * i + 0.01 * number, 1.0)
            for i in range(1, 4)
        ]
        path = tmp_path / "search" / f"gen_{number:03d}.json"
        write_json(path, {"generation": number, "candidates": [row.to_json() for row in rows]})
    test = {"labels": labels.tolist(), "predictions": predictions.tolist()}
    examples = [{"index": i, "name": f"<{i}>.jpg", "jpeg": "AAAA"} for i in (0, 1, 999)]
    kept = {"tests": {"test": test}, "class_names": HOSTILE, "examples": examples}
    write_json(tmp_path / "predictions.json", kept)
    return tmp_path


class _Skeleton(html.parser.HTMLParser):
    """The tags of a page and the names of their attributes, without what they say."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, ...]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, *(name for name, _ in attrs)))


def _fill(workdir, class_names) -> None:
    """Puts names wherever a page shows what somebody else has chosen."""

    def change(file, **values):
        write_json(workdir / file, read_json_here(workdir / file) | values)

    name, test = "".join(class_names), RESULT["more_tests"]["imagenet_r"]
    shown = dict.fromkeys(("task", "method", "encoding", "normalisation", "dtype"), name)
    change("result.json", **shown, more_tests={name: test}, warnings=[name], devices=[name])
    change("config.json", task=name)
    old = read_json_here(workdir / "predictions.json")["examples"]
    examples = [example | {"name": name, "jpeg": name} for example in old]
    change("predictions.json", class_names=list(class_names), examples=examples)
    (workdir / "metrics.jsonl").write_text(json.dumps({"command": ["python", name]}))


def test_names_stay_text(workdir):
    """The pages have the tags and attributes that they have with plain names, and no others."""
    hostile = (
        "<script>alert(1)</script>",
        "\"'><img src=x onerror=alert(1)>",
        "' onload='alert(1)",
        "</style></pre></h1><b>",
        "{{ 7 * 7 }}{% raw %}",
        "\x1b[31m\x00\u202e",
    )
    for number in (1, 2):  # their drawings show no names
        (workdir / f"search/gen_00{number}.json").unlink()
    pages = []
    for names in (["plain"] * len(hostile), hostile):
        _fill(workdir, names)
        compared = comparison.write(workdir / "both", [workdir], names)
        pages.append([path.read_text() for path in (report.write(workdir), compared)])
    for plain, page in zip(*pages, strict=True):
        assert _Skeleton(page).found == _Skeleton(plain).found
        assert "{{ 7 * 7 }}" in page
        _asks_for_nothing(page)


def _table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _asks_for_nothing(page):
    """Nothing that a browser would fetch: all images are in the page, and it has no scripts."""
    assert "://" not in page and "<script" not in page and "@import" not in page
    sources = re.findall(r'(?:src|href|data|action)="([^"]*)', page)
    assert all(
        source.startswith("data:image/") for source in sources if "report.html" not in source
    )
    assert page.count("<img") == page.count('src="data:image/')
    assert len(page.encode()) < 3_000_000


def test_page_holds_everything_in_one_file(workdir):
    page = report.write(workdir).read_text()
    _asks_for_nothing(page)
    assert page.count("image/svg+xml") == 7 and page.count("image/jpeg") == 3
    assert "&lt;cats&gt;" in page and "<cats>" not in page and "<b>" not in page
    domain = "25.00 % among all (95\N{NO-BREAK SPACE}% interval 14.18 to 44.45\N{NO-BREAK SPACE}%)"
    for fact in (
        "70.00 %",
        "700 of 1000 images",
        "73,740",
        "4 × TPU v4",
        domain,
        *RESULT["warnings"],
        "9 genomes were evaluated on validation images, in 3 generations.",
        "cuts off; the largest genome of the space has 0.304 M",
        "python -m noah_jax.main \\\n  &#39;--config=a b.py&#39; \\\n  &#39;--workdir=&lt;x&gt;",
        "&lt;999&gt;.jpg: ",
        "&lt;b&gt;cat&lt;/b&gt;",
        "67.4 %",  # of the time was the supernet's
    ):
        assert fact in page, fact
    assert page.count('class="right"') == 2 and page.count('class="wrong"') == 1


def test_figures_are_files_and_their_numbers_those_of_the_run(workdir):
    report.write(workdir)
    folder = workdir / "figures"
    names = {path.stem for path in folder.iterdir()}
    assert names == set(
        "architecture search generations progress training classes confusion".split()
    )
    for name in names:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        root = xml.etree.ElementTree.parse(folder / f"{name}.svg").getroot()
        assert root.tag.endswith("svg")
    rows = _table(folder / "architecture.csv")
    assert [[int(row[n]) for n in ("vpt", "lora", "adapter")] for row in rows] == RESULT["genome"]
    costs = [int(row[f"{n}_params"]) for row in rows for n in ("vpt", "lora", "adapter")]
    assert sum(costs) == RESULT["params"] and costs[0] == 5 * 768
    rows = _table(folder / "search.csv")
    assert [float(row["val_accuracy"]) for row in rows[3:6]] == pytest.approx([0.61, 0.71, 0.81])
    assert [row["generation"] for row in rows if row["on_front"] == "1"] == ["2"] * 3
    rows = _table(folder / "progress.csv")
    assert [float(row["best_so_far"]) for row in rows] == pytest.approx([0.8, 0.81, 0.82])
    rows = _table(folder / "training.csv")
    assert [float(row["loss"]) for row in rows] == 2 * [1 / i for i in range(1, 6)]
    test = json.loads((workdir / "predictions.json").read_text())["tests"]["test"]
    pairs = list(zip(test["labels"], test["predictions"], strict=True))
    rows = _table(folder / "classes.csv")
    assert len(rows) == 6
    for row in rows:
        own = [label == answer for label, answer in pairs if label == int(row["label"])]
        assert float(row["accuracy"]) == sum(own) / len(own) and int(row["images"]) == len(own)
    counts = [list(row.values())[1:] for row in _table(folder / "confusion.csv")]
    expected = [[str(pairs.count((i, j))) for j in range(6)] for i in range(6)]
    assert counts == expected


def test_progress_keeps_the_best_so_far():
    accuracies = {0: (0.5, 0.7), 1: (0.8, 0.6), 2: (0.1, 0.75)}
    found = {
        number: [Candidate(np.array([[1, 0, 0]]), 50_000, accuracy, 1.0) for accuracy in values]
        for number, values in accuracies.items()
    }
    found[2].append(Candidate(np.array([[1, 0, 0]]), 50_000, 0.9, np.inf))  # ranks last
    drawing = search_figures.progress(found)
    assert drawing.alt == "Best validation accuracy (%) by generation: 80 at the end."
    assert [row[1:4] for row in drawing.numbers[1:]] == [
        (2, 0.7, 0.7),
        (2, 0.8, 0.8),
        (2, 0.8, 0.75),
    ]


@pytest.mark.parametrize(
    ("bounds", "depths", "said"),
    [
        ({"budget_millions": 1.0}, [12], "cuts nothing off: none has over 0.304 M."),
        ({"budget_millions": 0.2}, [6], "cuts nothing off: none has over 0.152 M."),
        ({"budget_millions": 1.0, "least_millions": 0.05}, [12], "of 0.05 to 1 M parameters cuts"),
    ],
)
def test_what_the_budget_cuts_off(workdir, bounds, depths, said):
    space = CONFIG["space"] | {"depths": depths}
    write_json(workdir / "config.json", {"search": bounds, "space": space})
    for drawn in (
        "predictions.json",
        "metrics.jsonl",
        "search/gen_001.json",
        "search/gen_002.json",
    ):
        (workdir / drawn).unlink()  # as only the sentence counts here
    assert said in report.write(workdir).read_text()


def test_what_is_missing_or_damaged_is_said(workdir):
    (workdir / "predictions.json").unlink()
    page = report.write(workdir).read_text()
    assert "predictions.json is not there, as in workdirs of earlier versions" in page
    assert "Examples</h2>" not in page and "Training loss</h2>" in page
    (workdir / "predictions.json").write_text("{")
    (workdir / "search/gen_001.json").write_text("{}")
    (workdir / "metrics.jsonl").unlink()
    page = report.write(workdir).read_text()
    assert "predictions.json is damaged" in page and "gen_001.json is damaged" in page
    assert "6 genomes were evaluated on validation images, in 2 generations." in page
    assert "The command was not kept" in page and "Training loss</h2>" not in page
    for path in (workdir / "search").iterdir():
        path.write_text("")
    assert report.write(workdir).read_text().count("is damaged") == 4


def test_a_relative_path_of_weights_is_made_whole(workdir, monkeypatch):
    monkeypatch.chdir(workdir)
    (workdir / "my weights").write_text("")
    write_json(workdir / "config.json", CONFIG | {"weights": "my weights"})
    page = html.unescape(report.write(workdir).read_text())
    assert f"my_images '--weights={workdir.resolve()}/my weights'</pre>" in page
    assert f"Predictor('{workdir.resolve()}', weights='{workdir.resolve()}/my weights')" in page
    write_json(workdir / "config.json", CONFIG | {"weights": str(workdir / "my weights")})
    assert "--weights" not in report.write(workdir).read_text()  # subnet.json has it


def _panels(genome):
    """Title → the label of each block's bar."""
    figure = figures.architecture({"genome": genome, "backbone": "vit_b16"}).figure
    axes = figure.axes[:-1]  # the last has the parameters
    return {axis.get_title("left"): [text.get_text() for text in axis.texts] for axis in axes}


def test_architecture_shows_the_columns_that_something_is_in():
    rows = [[5, 0, 1], [0, 8, 100]]
    three = {"Visual prompts": ["5", ""], "LoRA": ["", "8"], "Adapter": ["1", "100"]}
    assert _panels(rows) == three
    assert _panels([row + [0] for row in rows]) == three
    assert _panels([[0, 0, 0, 0]]) == dict.fromkeys(three, [""])
    assert _panels([rows[0] + [0], rows[1] + [4]]) == three | {"Parallel adapter": ["", "4"]}


@pytest.mark.parametrize(
    ("backbone", "width"), [("vit_b16_in21k", 768), ("vit_ti16", 192), ("dinov2_vits14", 384)]
)
def test_a_block_costs_what_its_backbone_is_wide(backbone, width):
    drawing = figures.architecture({"genome": [[5, 0, 0], [0, 2, 1]], "backbone": backbone})
    header, *blocks = drawing.numbers
    assert header[1:4] == ("vpt", "lora", "adapter")
    assert [row[4:] for row in blocks] == [
        (5 * width, 0, 0),
        (0, 8 * width, 2 * width + 1 + width),
    ]


def test_what_the_budget_cuts_off_is_grey():
    """The grey goes from the budget to the end of the axis, if the budget is near the genomes."""
    rows = [Candidate(np.array([[1, 0, 0]]), n, 0.5, 1.0) for n in (100_000, 200_000)]

    def grey(least, most):
        drawing = search_figures.search({0: rows}, RESULT | {"params": 100_000}, (least, most))
        axis = drawing.figure.axes[0]
        spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axis.patches]
        return np.round(spans, 3).tolist(), round(axis.get_xlim()[1], 3)

    assert grey(0.0, 0.15) == ([[0.15, 0.206]], 0.206)
    assert grey(0.08, 0.25) == ([[0.074, 0.08], [0.25, 0.256]], 0.256)
    assert grey(0.0, 0.9) == ([], 0.206)


def _finished(folder, **values):
    folder.mkdir(parents=True)
    write_json(folder / "result.json", RESULT | values)
    losses = [{"stage": "retrain", "epoch": i, "loss": 1 / i} for i in range(1, 4)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, losses)))
    return folder


def test_methods_side_by_side(tmp_path):
    zeros = np.zeros((12, 3), int).tolist()
    runs = [
        *(("linear", 0, 0, 0.2), ("lora", 0, 147_456, 0.52), ("noah", 1, 73_740, 0.6)),
        *(("noah", 0, 73_740, 0.5), ("<vpt>", 0, 46_080, 0.54), ("full", 0, 86_000_000, 0.53)),
    ]
    workdirs = [
        _finished(
            tmp_path / f"{method}-{seed}",
            method=method,
            seed=seed,
            params=params,
            test_accuracy=accuracy,
            genome=RESULT["genome"] if 0 < params < 1e6 else zeros,
        )
        for method, seed, params, accuracy in runs
    ]
    page = comparison.write(tmp_path, workdirs, ["runs/<i>lost</i>"]).read_text()
    _asks_for_nothing(page)
    assert "imagenet_r" in page  # the other test set of all
    assert "5 methods on cifar100" in page and "55.00" in page and "86.0000" in page
    assert "&lt;i&gt;lost" in page and "&lt;vpt&gt;" in page and "<vpt>" not in page
    order = [("noah", 0), ("noah", 1), ("<vpt>", 0), ("full", 0), ("lora", 0), ("linear", 0)]
    links = re.findall('href="([^"]*)', page)
    expected = [f"{method}-{seed}/report.html" for method, seed in order]
    assert [urllib.parse.unquote(link) for link in links] == expected
    assert re.findall("<tr>\n<td>(.*?)</td>", html.unescape(page)) == list(
        dict.fromkeys(method for method, _ in order)
    )
    rows = _table(tmp_path / "figures/accuracy.csv")
    assert [(row["method"], row["seed"]) for row in rows] == [
        *((method, str(seed)) for method, seed in order[:2]),
        ("noah", "mean"),
        *((method, str(seed)) for method, seed in order[2:]),
    ]
    assert rows[3]["interval_low"] == str(uncertainty.of_share(5400, 10_000).low)
    rows = _table(tmp_path / "figures/learning.csv")
    assert [(row["method"], int(row["seed"])) for row in rows[::3]] == order
    # Not of what is alike in all blocks: LoRA alone.
    assert len(list(tmp_path.glob("figures/architecture_*.svg"))) == 3
    titles = re.findall("<h3>(.*?), seed", html.unescape(page))
    assert titles == ["noah", "noah", "<vpt>"]

    other = _finished(tmp_path / "other", task="dtd", method="linear", params=0, genome=zeros)
    page = comparison.write(tmp_path / "both", [*workdirs, other]).read_text()
    assert "5 methods on 2 tasks" in page and "mean over seeds [95 % interval]" in page
    assert "../other/report.html" in page
    assert len(_table(tmp_path / "both/figures/accuracy_2.csv")) == 1


def _keep_confidences(workdir, **columns):
    kept = read_json_here(workdir / "predictions.json")
    test = kept["tests"]["test"] | {key: list(map(float, x)) for key, x in columns.items()}
    write_json(workdir / "predictions.json", kept | {"tests": {"test": test}})


def test_the_calibration_error_is_that_of_counting_by_hand(workdir):
    """700 of 1,000 images are right, however sure the subnet is; older runs do not know that."""
    assert "ECE" not in report.write(workdir).read_text()
    sure = np.where(np.arange(1000) % 2, 0.99, 0.8)
    _keep_confidences(workdir, confidences=sure)
    page = report.write(workdir).read_text()
    _asks_for_nothing(page)
    assert "<p>ECE 19.5 %</p>" in page and page.count("image/svg+xml") == 8
    rows = _table(workdir / "figures/calibration.csv")
    assert [int(row["images"]) for row in rows] == [500, 500]
    assert [float(row["confidence"]) for row in rows] == pytest.approx([0.8, 0.99])
    assert [float(row["accuracy"]) for row in rows] == pytest.approx([0.7, 0.7])
    _keep_confidences(workdir, confidences=0 * sure + 0.7, uncalibrated_confidences=sure)
    write_json(
        workdir / "result.json", read_json_here(workdir / "result.json") | {"temperature": 1.5}
    )
    page = report.write(workdir).read_text()
    assert "<p>ECE 0.0 % with the temperature 1.500, 19.5 % without</p>" in page


def test_bins_of_confidence_include_their_upper_ends():
    confidences = np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 0.5, 1.0])
    count, *_ = calibration.by_bin(confidences, np.ones(5, bool)).T
    assert np.flatnonzero(count).tolist() == [0, 1, 7, 14] and count[0] == 2
    assert calibration.error(confidences, np.ones(5, bool)) == pytest.approx(
        (2 * (1 - 1 / 30) + (1 - 1 / 15) + 0.5) / 5
    )


def _panels_of(values, images=797):
    """What the axes of a figure of accuracies and millions show: their ranges and labels."""
    results = [
        RESULT
        | {"method": method, "params": round(1e6 * size), "test_accuracy": score / 100}
        | {"images": {"test": images}}
        for method, (size, score) in values.items()
    ]
    looks = {method: ("#000000", "o") for method in values}
    with matplotlib.rc_context(figures.STYLE):
        figure = comparison_figures.trade("accuracy", results, looks).figure
    labels = [{text.get_text() for text in axis.texts} for axis in figure.axes]
    return figure, labels


def test_rivals_can_be_told_apart():
    """The linear probe and full fine-tuning are far off; the others fill the rest of the axes."""
    close = {"lora": (0.147, 98.62), "noah": (0.098, 98.12), "vpt": (0.046, 97.37)}
    figure, (above,) = _panels_of(close)
    assert above == set(close) and not figure.legends
    figure, (above, below) = _panels_of(close | {"linear": (0.0, 79.67)})
    assert above == set(close) and below == {"linear"}
    low, high = figure.axes[0].get_ylim()
    assert 95 < low < 97.37 and 98.62 < high < 100 and "broken" in figure.get_supylabel()
    figure, labels = _panels_of(close | {"linear": (0.0, 79.67), "full": (86.0, 97.9)})
    assert labels == [set(close), {"full"}, {"linear"}, set()]
    assert figure.axes[0].get_xlim()[1] < 0.2 and 50 < figure.axes[1].get_xlim()[0] < 86
    assert "broken" in figure.get_supxlabel()
    figure, labels = _panels_of(close | {"linear": (0.0, 79.67)}, images=9)
    assert len(labels) == 1  # the intervals of nine images overlap
    figure, labels = _panels_of({"noah": (0.098, 98.12), "linear": (0.0, 79.67)})
    assert len(labels) == 1  # of two neither is the rule
    crowd = {f"method_{number}": (0.1, 90 + number / 100) for number in range(9)}
    figure, (none,) = _panels_of(crowd)
    assert none == set() and len(figure.legends) == 1
    said = [text.get_text()[-1] for text in figure.legends[0].get_texts()]
    assert said == list("840" + "73" + "62" + "51")  # line by line: 8 7 6 5, 4 3 2 1, 0


def test_a_long_interval_does_not_squeeze_the_rest():
    """Two seeds say little: their interval reaches far beyond all that there is to see."""
    results = [
        RESULT | {"method": method, "seed": seed, "test_accuracy": accuracy}
        for method, accuracies in {"noah": (0.80, 0.86), "lora": (0.81, 0.84)}.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    looks = dict.fromkeys(("noah", "lora"), ("#000000", "o"))
    drawing = comparison_figures.trade("accuracy", results, looks)
    assert "noah 83.00 % (44.88 to 100.00)" in drawing.alt
    low, high = drawing.figure.axes[0].get_ylim()
    assert 55 < low < 80 and 86 < high < 110


def test_the_accuracy_of_validation_is_explained(workdir):
    page = html.unescape(report.write(workdir).read_text()).replace("\N{NO-BREAK SPACE}", " ")
    assert "of the test images are right; 95 % interval 67.09 to 72.76 %" in page
    said = "69.00 % of 200 images right (95 % interval 62.28 to 75.00 %)"
    assert (
        said in page
        and "picked the genome from 9" in page
        and "whose weights serve all genomes at once" in page
    )
    assert (
        "50.00 % of 30 images right among its 200 classes (95 % interval 33.15 to 66.85 %)" in page
    )
    tuned = read_json_here(workdir / "result.json") | {"method": "tuned"}
    write_json(workdir / "result.json", tuned)
    for path in (workdir / "search").iterdir():
        path.unlink()
    page = report.write(workdir).read_text()
    assert "training on the training images alone" in page and "picked" not in page
