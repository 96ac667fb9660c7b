"""A found subnet classifies files and images, as a program and as a command."""

import concurrent.futures
import csv
import dataclasses
import gc
import io
import json
import os
import weakref

import jax
import numpy as np
import PIL.Image
import pytest

from noah_jax.data import loader
from noah_jax.errors import UserError
from noah_jax.interop import predict, predictor, subnet
from noah_jax.interop.predict import Output
from noah_jax.interop.predictor import Predictor
from tests.helpers.commands import run_module
from tests.helpers.subnets import MEAN, STD, random_images, random_subnet

BATCH = 4


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(predictor, "_ON_CPU", BATCH)


@pytest.fixture(scope="module")
def found():
    return random_subnet(6, 3)[2]


@pytest.fixture
def export(found, tmp_path):
    subnet.export(found, tmp_path / "export")
    return tmp_path / "export"


def _expected(found, images):
    """The probabilities by the plain model."""
    mean, std = np.float32(MEAN), np.float32(STD)
    pixels = np.stack([loader.resize(PIL.Image.fromarray(image), 16) for image in images])
    return np.asarray(jax.nn.softmax(found.model()((pixels / np.float32(255) - mean) / std)))


def _encoded(image, **options):
    data = io.BytesIO()
    image.save(data, "PNG", **options)
    return data.getvalue()


def test_all_kinds_of_images_mean_the_same(found, export, tmp_path):
    """Seven are a batch, a batch that is filled up, and never a third program."""
    ready = Predictor(export)
    images = random_images(7)
    expected = _expected(found, images)
    pillows = [PIL.Image.fromarray(image) for image in images]
    for i, image in enumerate(pillows):
        image.save(tmp_path / f"{i}.png")
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    answers = ready.predict(images)
    np.testing.assert_allclose(answers.probabilities, expected, atol=1e-5)
    assert answers.probabilities.dtype == np.float32
    alike = [paths, [*map(str, paths)], pillows, [*map(_encoded, pillows)], list(images)]
    mixed = [paths[0], pillows[1], _encoded(pillows[2]), *images[3:]]
    for kind in (*alike, mixed, iter(pillows)):
        assert (ready.predict(kind).probabilities == answers.probabilities).all()
    for one in (paths[0], pillows[0], _encoded(pillows[0]), images[:1]):
        np.testing.assert_allclose(ready.predict(one).probabilities, expected[:1], atol=1e-5)
    for n in (0, 1, 5, 6):
        assert ready.predict(images[:n]).probabilities.shape == (n, 5)
    assert ready._programs.keys() == {1, BATCH}
    best = expected[0].argsort()[::-1]
    (top,) = ready.predict(paths[0]).labels(top=2)
    assert [name for name, _ in top] == [found.class_names[k] for k in best[:2]]
    assert top[0][1] == pytest.approx(expected[0].max(), abs=1e-5)
    sure = np.median(expected.max(axis=1))
    assert [bool(x) for x in answers.labels(threshold=sure)].count(True) in (3, 4)


def test_a_photo_is_upright_and_what_is_transparent_is_white(found):
    ready = Predictor(found)
    rng = np.random.default_rng(2)
    photo = rng.integers(0, 256, (20, 30, 3), np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 3  # upside down
    turned = _encoded(PIL.Image.fromarray(photo[::-1, ::-1]), exif=exif)
    clear = np.concatenate([photo, np.zeros_like(photo[..., :1])], axis=-1)
    grey = photo[..., :1]
    with PIL.Image.open(io.BytesIO(turned)) as opened:
        kinds = [turned, opened, photo, clear, grey, grey[..., 0], opened]
        rows = ready.predict(kinds).probabilities
    plain = [photo, photo, photo, np.full_like(photo, 255), grey.repeat(3, -1), grey.repeat(3, -1)]
    np.testing.assert_allclose(rows, _expected(found, [*plain, photo]), atol=1e-5)


def test_threads_get_the_bits_of_one(found):
    """They may all be the first, and wait for one of them to compile."""
    images = random_images(6)
    whole = Predictor(found).predict(images).probabilities
    shared = Predictor(found)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        rows = threads.map(lambda _: shared.predict(images).probabilities, range(24))
        assert all((row == whole).all() for row in rows)


def test_bad_images_are_named_or_left_out(found, tmp_path):
    ready, images = Predictor(found), random_images(3)
    (tmp_path / "no image.png").write_bytes(b"no image")
    mixed = [images[0], tmp_path / "no image.png", b"", images[1], images[2] / 255, tmp_path]
    with pytest.raises(UserError, match="(?s)^4 images cannot be read:.*no image.png: no image"):
        ready.predict(mixed)
    answers = ready.predict(mixed, skip_unread=True)
    assert answers.unread.keys() == {1, 2, 4, 5}
    assert answers.unread[2] == "image 2: there are no bytes"
    assert "image 4: float64 [16, 16, 3], expected uint8" in answers.unread[4]
    good = [0, 3]
    np.testing.assert_allclose(answers.probabilities[good], _expected(found, images[:2]), atol=1e-5)
    assert np.isnan(answers.probabilities[[1, 2, 4, 5]]).all()
    assert [len(names) for names in answers.labels(top=2)] == [2, 0, 0, 2, 0, 0]
    for wrong, message in (
        (images[0], "is a single image, which images.None. would make"),
        (images.transpose(0, 3, 1, 2), "colours first"),
        (None, "images: it is NoneType"),
    ):
        with pytest.raises(UserError, match=message):
            ready.predict(wrong)


def test_a_temperature_softens_what_is_said(found, tmp_path):
    images = random_images(5)
    hot = dataclasses.replace(found, facts=found.facts | {"temperature": 2.5})
    cold, warm = (predictor.classify(each, images) for each in (found, hot))
    softened = cold ** (1 / 2.5)
    np.testing.assert_allclose(warm, softened / softened.sum(axis=1, keepdims=True), atol=1e-5)
    for wrong in (0, "warm"):
        subnet.export(
            dataclasses.replace(found, facts=found.facts | {"temperature": wrong}), tmp_path
        )
        with pytest.raises(UserError, match=r"subnet.json cannot be read: .*"):
            Predictor(tmp_path)


def test_classify_compiles_once_and_keeps_no_subnet():
    one = random_subnet(6, 3)[2]
    first = predictor.classify(one, random_images(5))
    kept = predictor._PREDICTORS[one]
    programs = list(kept._programs.values())
    assert (predictor.classify(one, random_images(5)) == first).all()
    assert predictor._PREDICTORS[one] is kept and list(kept._programs.values()) == programs
    gone = weakref.ref(kept)
    del one, kept, programs
    gc.collect()
    assert gone() is None


def test_classify_refuses_what_is_no_image(found):
    with pytest.raises(UserError, match="(?s)2 images cannot be read:.*image 0: .*image 1: "):
        predictor.classify(found, np.zeros((2, 8, 8, 3), np.float32))


# --- The command ---------------------------------------------------------------------------------


def test_predictions(found, export, tmp_path):
    images = random_images(4)
    (tmp_path / "more").mkdir()
    for i, image in enumerate(images):
        folder = tmp_path / "more" if i else tmp_path
        PIL.Image.fromarray(image).save(folder / f"{i}.png")
    paths = [tmp_path / "0.png", tmp_path / "more"]
    lines = predict.predict(export, paths, Output(top=2))
    chances = _expected(found, images)
    for i, (line, row) in enumerate(zip(lines, chances, strict=True)):
        path, *classes = line.split("  ")
        assert path.endswith(f"/{i}.png") and len(classes) == 2
        first, second = (found.class_names[k] for k in np.argsort(-row)[:2])
        assert classes[0] == f"{first} {100 * row.max():.1f} %" and classes[1].startswith(second)
    for top in (0, -1, len(found.class_names) + 1):
        with pytest.raises(UserError, match=f"--top={top}: expected 1 to {len(chances[0])}"):
            next(predict.predict(export, paths, Output(top=top)))


def test_broken_images_do_not_hide_the_others(found, export, tmp_path):
    """Wherever they are in a batch; all are named at the end."""
    for i, image in enumerate(random_images(5)):
        PIL.Image.fromarray(image).save(tmp_path / f"{i}.png")
    whole = [line.split("/")[-1] for line in predict.predict(export, [tmp_path], Output(top=1))]
    (tmp_path / "0a.png").write_bytes(b"no image")
    (tmp_path / "1a.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    (tmp_path / "4a.png").touch()
    lines = []
    with pytest.raises(predict.Unread) as unread:
        for line in predict.predict(export, [tmp_path], Output(top=1)):
            lines.append(line.split("/")[-1])
    assert [line for line in lines if " %" in line] == whole
    message = str(unread.value)
    assert message.startswith("3 of 8 images cannot be read:") and message.count("\n") == 3
    assert "0a.png: no image" in message and "4a.png: the file is empty" in message
    with pytest.raises(predict.Unread, match="1 of 1 images cannot be read"):
        [*predict.predict(export, [tmp_path / "0a.png"], Output(top=1))]


def test_text_shows_odd_names_as_text(found, tmp_path):
    """Neither a class nor a file can write on the terminal, or break its encoding."""
    export, names = tmp_path / "export", ["\x1b[2J", "a\nb", "c", "d", "e"]
    named = dataclasses.replace(found, facts=found.facts | {"class_names": names})
    subnet.export(named, export)
    path = tmp_path / os.fsdecode(b"\xff \x1b.png")
    PIL.Image.fromarray(random_images(1)[0]).save(path)
    (line,) = predict.predict(export, [path], Output(top=len(found.class_names)))
    assert line.isprintable() and line.encode() and r"'a\nb'" in line


def test_predict_withoutrandom_images(export, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/notes.txt").write_text("none")
    with pytest.raises(UserError, match=r"(?s)no images in .*left out: 1 .txt \(.*/notes.txt\)"):
        [*predict.predict(export, [tmp_path / "more"], Output(top=1))]


def test_tables_and_objects_hold_all_that_is_said(found, tmp_path):
    """Names as they are, images that cannot be read in their place, and notes on stderr alone."""
    names = ['a, "b"', "c\nd\re", "é", "", "f"]
    named = dataclasses.replace(found, facts=found.facts | {"class_names": names})
    subnet.export(named, tmp_path / "export")
    images, folder = random_images(8), tmp_path / "images"
    folder.mkdir()
    paths = [folder / f'{i}, "x"\ny.png' for i in range(8)]
    for path, image in zip(paths, images, strict=True):
        PIL.Image.fromarray(image).save(path)
    paths[3].write_bytes(b"no image")
    (folder / "notes.txt").write_text("none")
    chances = _expected(found, images)
    least = float(np.median(np.delete(chances, 3, axis=0).max(axis=1)) + 1e-4)
    sure = chances.max(axis=1) >= least
    flags = tmp_path / "export", folder, "--top=2", f"--threshold={least}"

    def printed(form):
        done = run_module("noah_jax.interop", "predict", *flags, f"--format={form}", code=1)
        assert "1 of 8 images cannot be read:" in done.stderr and "notes.txt" in done.stderr
        return done.stdout

    rows = list(csv.DictReader(io.StringIO(printed("csv"), newline="")))
    objects = [json.loads(line) for line in printed("jsonl").splitlines()]
    lines = printed("text").splitlines()
    assert len(lines) == 7 and len(rows) == len(objects) == 8
    assert sum("no class reaches" in line for line in lines) == 4
    for i, (row, said) in enumerate(zip(rows, objects, strict=True)):
        assert row["path"] == said["path"] == str(paths[i])
        if i == 3:
            assert {*row.values()} == {str(paths[3]), "", said["error"]}
            assert said["error"].startswith("no image that") and not said["top"]
            continue
        order = (-chances[i]).argsort()[:2]
        assert [row["class_1"], row["class_2"]] == [names[k] for k in order]
        assert [each["label"] for each in said["top"]] == [names[k] for k in order]
        share = said["top"][1]["probability"]
        assert share == float(row["probability_2"]) == pytest.approx(chances[i, order[1]], abs=1e-5)
        first = names[order[0]]
        assert (row["label"], said["label"]) == ((first, first) if sure[i] else ("", None))
        assert bool(row["probability"]) == (said["probability"] is not None) == sure[i]
    for wrong in (-0.1, 1.1, "nan"):
        done = run_module("noah_jax.interop", "predict", *flags, f"--threshold={wrong}", code=2)
        assert "expected a probability, 0 to 1" in done.stderr
