"""Results for people: a table on the terminal, report.html in the workdir."""

import pathlib
from typing import Any

from noah_jax.tasks import VTAB


def table(results: list[dict[str, Any]]) -> str:
    """One line a result: method, parameters, accuracy, and the published figure if there is one."""
    header = ("task", "method", "seed", "params (M)", "test accuracy (%)", "published (%)")
    rows = [header]
    for result in results:
        task = VTAB.get(result["task"])
        published = task.published.get(result["method"]) if task else None
        rows.append(
            (
                result["task"],
                result["method"],
                str(result["seed"]),
                f"{result['params'] / 1e6:.4f}",
                f"{100 * result['test_accuracy']:.2f}",
                f"{published:.1f}" if published else "-",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def write(workdir: pathlib.Path) -> None:
    pass
