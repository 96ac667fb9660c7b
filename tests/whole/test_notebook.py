"""All cells of the notebook, in a kernel of its own; a small random backbone, few images."""

import base64
import io
import pathlib

import nbclient
import nbformat
import numpy as np
import PIL.Image

ROOT = pathlib.Path(__file__).parents[2]


def test_all_cells_run(ti16, tmp_path):
    notebook = nbformat.read(ROOT / "notebooks/noah_jax_colab.ipynb", as_version=4)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (not cell.outputs and not cell.execution_count)
    changes = {
        'workdir = "runs/notebook"': f"""workdir = "{tmp_path}/run"
config.weights, config.backbone, config.normalisation = "{ti16}", "vit_ti16", "half"
config.image_size = 48
images, labels = images[:60], labels[:60]
for schedule in (config.supernet, config.retrain):
    schedule.update(epochs=2, batch_size=8)
config.search.update(population=4, generations=1, mutations=1, crossovers=1)
config.search.budget_millions = 0.04""",
    }
    for old, new in changes.items():
        (cell,) = [cell for cell in notebook.cells if old in cell.source]
        cell.source = cell.source.replace(old, new)
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "notebooks")}}
    )
    client.execute()
    (tmp_path / "seen.ipynb").write_text(nbformat.writes(notebook))
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in shown)
    assert "test accuracy" in text and text.count(" %, ") >= 2
    (png,) = [o["data"]["image/png"] for o in shown if "image/png" in o.get("data", {})]
    picture = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(png))).convert("L"))
    assert picture.std() > 10
    assert "model.stablehlo" in shown[-1]["data"]["text/plain"]
    assert any("<iframe" in output.get("data", {}).get("text/html", "") for output in shown)
