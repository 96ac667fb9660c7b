"""The text of `--help`: configs, methods, settings."""

import textwrap
from collections.abc import Mapping
from typing import Any

from noah_jax.config.fields import Setting, walk
from noah_jax.config.installed import configs
from noah_jax.config.recipes import SEEDS, SEVERAL
from noah_jax.config.settings import METHODS, Config


def explained() -> str:
    """Lists the configs, the methods, and in groups all keys with their defaults."""
    groups: dict[str, list[str]] = {
        "configs": ["The configs. They are also files to copy and change.", *_lines(configs())],
        "methods": ["The methods, and the genome of each.", *_lines(METHODS)],
        "": [Config.__doc__ or ""],
    }
    for key, (default, known) in settings().items():
        group = key.rpartition(".")[0]
        if group not in groups:
            groups[group] = [getattr(Config(), group).__doc__]
        if isinstance(default, tuple):
            default = f'"({",".join(map(str, default))})"'
        expected = f" ({known.expected})" if known.expected else ""
        text = textwrap.fill(known.explanation + expected, 94)
        groups[group] += [f"  --config.{key}={default}", textwrap.indent(text, " " * 6)]
    return "\n\n".join("\n".join(lines) for lines in groups.values())


def _lines(names: Mapping[str, str]) -> list[str]:
    """Each name with what it is."""
    width = max(map(len, names)) + 4
    below = " " * width
    return [
        textwrap.fill(text, 100, initial_indent=f"  {name}".ljust(width), subsequent_indent=below)
        for name, text in names.items()
    ]


def settings() -> dict[str, tuple[Any, Setting]]:
    """The default, as users give it, and the `Setting` of each key."""
    found = {}
    for key, default, known in walk(Config()):
        found[key] = SEVERAL.get(key, default), known
        if key == "seed":
            found["seeds"] = SEVERAL["seeds"], SEEDS
    return found
