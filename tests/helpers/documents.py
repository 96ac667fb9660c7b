"""The commands and programs that the READMEs, the pages and the configs' docstrings show."""

import ast
import pathlib
import re

from tests.helpers.commands import ROOT

_READMES = [ROOT / folder / "README.md" for folder in ("", "configs", "launch", "noah_jax")]
PAGES = [*_READMES, *sorted((ROOT / "docs").glob("*.md"))]


def documented() -> dict[str, pathlib.Path]:
    """Command → the file that it stands in first."""
    found = {}
    for path in [*PAGES, *sorted((ROOT / "configs").glob("*.py"))]:
        for line in _in_blocks(path).replace("\\\n", " ").splitlines():
            line = re.sub(r" +#.*|\[[^]]*…\]", "", line)  # comments, and what may be left out
            if command := " ".join(line.split()):
                found.setdefault(command, path.relative_to(ROOT))
    return found


def programs(page: str) -> list[str]:
    """The Python blocks of a page, by its path in the repository."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def _in_blocks(path):
    """The lines of a page's bash blocks, or of the indented commands of a docstring."""
    if path.suffix == ".md":
        blocks = re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL)
        return "".join(blocks)
    text = ast.get_docstring(ast.parse(path.read_text()))
    return "\n".join(re.findall(r"^    (?=python|bash)((?:.*\\\n)*.*)", text, re.MULTILINE))
