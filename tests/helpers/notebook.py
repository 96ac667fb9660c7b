"""Runs the notebook and stores what it shows: `python -m tests.helpers.notebook`.

To show what happens in Colab, run this by a Python that has Colab's versions of JAX, Flax and
NumPy, and ipykernel, nbclient and nbformat. The first cell installs the rest there.
"""

import hashlib
import pathlib

import nbclient
import nbformat

PATH = pathlib.Path(__file__).parents[2] / "notebooks/noah_jax_colab.ipynb"


def read() -> nbformat.NotebookNode:
    """Reads the notebook with the outputs that are stored in it."""
    return nbformat.read(PATH, as_version=4)


def execute(notebook: nbformat.NotebookNode, folder: pathlib.Path, timeout: int = 300) -> None:
    """Runs all cells in a kernel of their own, whose folder is `folder`, and keeps their outputs.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
    """
    client = nbclient.NotebookClient(
        notebook,
        timeout=timeout,
        coalesce_streams=True,  # of a progress bar, only its end
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()


def sources(notebook: nbformat.NotebookNode) -> str:
    """Makes the SHA-256 of all cells' sources, to tell whether stored outputs are of these."""
    return hashlib.sha256("\0".join(cell.source for cell in notebook.cells).encode()).hexdigest()


def main() -> None:
    notebook = read()
    execute(notebook, PATH.parent, timeout=3600)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    notebook.metadata["executed_sources"] = sources(notebook)
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, PATH)


if __name__ == "__main__":
    main()
