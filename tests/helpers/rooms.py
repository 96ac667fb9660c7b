"""The rooms of noah_jax, who imports whom, and their drawing in noah_jax/README.md.

`python -m tests.helpers.rooms` prints the drawing, with `--write` it also puts it in its place.
"""

import argparse
import ast
import pathlib
from collections.abc import Iterator

PACKAGE = pathlib.Path(__file__).parents[2] / "noah_jax"
README = PACKAGE / "README.md"
# From the ground up. A room imports only from floors below its own.
FLOORS = [
    ("errors", "digests", "faces", "uncertainty"),
    ("space", "data", "runtime"),
    ("vit",),
    ("pretrained",),
    ("config", "interop"),
    ("training",),
    ("search", "report"),
    ("pipeline",),
    ("sweep", "api"),
    ("main",),
    ("__main__",),
]
_BEGIN, _END = "<!-- rooms: made by `python -m tests.helpers.rooms --write` -->", "<!-- /rooms -->"


def modules() -> dict[str, pathlib.Path]:
    """The name of each module → its file; a package's face has the package's name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: pathlib.Path) -> Iterator[str]:
    """The dotted names in a file's imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def imports() -> dict[str, set[str]]:
    """Each module → the modules of noah_jax that it imports; without the package's own face."""
    known, arrows = modules(), {}
    del known["noah_jax"]
    for module, path in known.items():
        names = (name if name in known else name.rpartition(".")[0] for name in imported(path))
        arrows[module] = {name for name in names if name in known}
    return arrows


def room(module: str) -> str:
    return module.split(".")[1]


def between_rooms() -> dict[str, set[str]]:
    """Each room → the rooms that it imports from."""
    arrows: dict[str, set[str]] = {}
    for module, others in imports().items():
        arrows.setdefault(room(module), set()).update(map(room, others))
    return {name: others - {name} for name, others in arrows.items()}


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """The names in and above circles: what is left when all whose imports are gone have gone."""
    left = dict(arrows)
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def drawing() -> str:
    """A line a room, the top floor first: what it imports, from the nearest floor down."""
    arrows, floor = between_rooms(), {name: i for i, row in enumerate(FLOORS) for name in row}
    lines = []
    for number, row in reversed(list(enumerate(FLOORS))):
        for name in row:
            below = sorted(arrows.get(name, ()), key=lambda other: (-floor.get(other, 0), other))
            lines.append(f"{number}  {name:<11}{'→ ' if below else ''}{', '.join(below)}".rstrip())
    count = sum(map(len, arrows.values()))
    return f"```\n{chr(10).join(lines)}\n```\n\n{len(arrows)} rooms, {count} arrows.\n"


def drawn() -> str:
    """The drawing that the README has now."""
    return README.read_text().split(_BEGIN)[1].split(_END)[0].strip() + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into noah_jax/README.md")
    arguments = parser.parse_args(argv)
    print(drawing(), end="")
    if arguments.write:
        before, rest = README.read_text().split(_BEGIN)
        after = rest.split(_END)[1]
        README.write_text(f"{before}{_BEGIN}\n\n{drawing()}\n{_END}{after}")


if __name__ == "__main__":
    main()
