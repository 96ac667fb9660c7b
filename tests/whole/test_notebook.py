"""The notebook: what is stored in it, and its cells in a Colab that is a few lines of Python."""

import os
import re
import shlex
import shutil

import nbclient
import nbformat
import numpy as np
import pytest

from tests.helpers import notebook as helper
from tests.helpers.commands import TINY_FLAGS
from tests.helpers.images import write_photo

_COLAB = {
    "drive": """
import pathlib

def mount(place):
    pathlib.Path(place, "MyDrive").mkdir(parents=True)
""",
    "files": """
import shutil

def upload():
    return {{"one photo.png": b""}}

def download(path):
    shutil.copy(path, "{folder}/downloaded.zip")
""",
}


def test_it_shows_a_run_of_the_cells_that_it_has():
    notebook = helper.read()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.metadata["executed_sources"] == helper.sources(notebook), (
        "run `python -m tests.helpers.notebook` again"
    )
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    text = _text(notebook)
    assert len(re.findall(r"test accuracy \d", text)) == 2  # LoRA's and the found mix's
    assert "best" in text and "side by side: runs/notebook/comparison.html" in text
    assert "model.onnx" in text and text.count("digits/") >= 5
    assert not re.search(r"Traceback|(?<![\w.])/\w+/\w+/", text), "a path of a machine"


def test_in_colab_with_a_zip_on_drive(ti16, tmp_path, monkeypatch):
    for name, source in _COLAB.items():
        path = tmp_path / f"google/colab/{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source.format(folder=tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(helper.PATH.parents[1])]))
    rng = np.random.default_rng(0)
    for label, colour in enumerate(("red", "green", "blue")):
        (tmp_path / "photos/colours" / colour).mkdir(parents=True)
        for i in range(10):
            write_photo(tmp_path / f"photos/colours/{colour}/{i}.png", label, rng)
    shutil.make_archive(tmp_path / "colours", "zip", tmp_path / "photos")
    shutil.copy(tmp_path / "photos/colours/red/0.png", tmp_path / "one photo.png")

    flags = shlex.join([*TINY_FLAGS, f"--config.weights={ti16}"])
    notebook = helper.read()
    for old, new in {
        '"/content/drive': f'"{tmp_path}/drive',
        'IMAGES = ""\n': f'os.chdir("{tmp_path}"); IMAGES = "{tmp_path}/colours.zip"\n',
        '" ".join(first_look)': repr(flags),
    }.items():
        assert sum(cell.source.count(old) for cell in notebook.cells) >= 1, old
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source = cell.source.replace(old, new)
    helper.execute(notebook, helper.PATH.parent)
    text = _text(notebook)
    assert (tmp_path / "drive/MyDrive/noah_jax/comparison.html").exists()
    assert len(re.findall(r"test accuracy \d", text)) == 2
    assert re.search(r"one photo.png\s.*red", text), text
    assert (tmp_path / "downloaded.zip").stat().st_size > 10_000


@pytest.mark.parametrize("wheel", ["", "noah_jax-9.9-py3-none-any.whl"])
def test_no_package_to_be_had(wheel, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    if wheel:
        (tmp_path / wheel).write_bytes(b"not a wheel")
    notebook = helper.read()
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code"][:1]
    with pytest.raises(nbclient.exceptions.CellExecutionError) as error:
        helper.execute(notebook, tmp_path)
    assert f"pip could not install {wheel or 'noah-jax'}" in str(error.value)


def _text(notebook: nbformat.NotebookNode) -> str:
    """All that the cells have printed, and the pages that they show."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert all(output.output_type != "error" for output in outputs)
    return "".join(o.get("text", "") for o in outputs)
