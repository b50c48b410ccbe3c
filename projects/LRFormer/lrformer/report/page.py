"""The page: one HTML file with everything inside, about one run or two."""

from pathlib import Path

from jinja2 import Environment, PackageLoader

from .plots import curves_plot, reliability_plot

# A larger matrix is more than a page shows: it has the classes with the most wrong pixels.
_MAX_CONFUSED = 30


def write_page(
    file: Path,
    title: str,
    runs: dict[str, dict],
    **sections,
) -> None:
    """Write the page to ``file``.

    Args:
        file: in a folder that exists.
        title: of the page.
        runs: name -> content of a report's JSON file, of one run or two.
        sections: of one run "colors" of classes by name, "galleries" and "suspects"; of two
            "difference", see :func:`~lrformer.report.compare.compare`.
    """
    environment = Environment(
        loader=PackageLoader("lrformer.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "signed": lambda x: _number(x, 2, "+")}
    html = environment.get_template("report.html").render(
        title=title,
        runs=runs,
        reliability=reliability_plot({name: run["calibration"] for name, run in runs.items()}),
        curves=curves_plot({name: run["curves"] for name, run in runs.items()}),
        matrices={name: _matrix(run) for name, run in runs.items()},
        **sections,
    )
    file.write_text(html, encoding="utf-8")


def _number(value: float | None, digits: int = 2, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign},.{digits}f}".replace("-", "−")


def _matrix(run: dict) -> dict:
    """The confusion matrix's "classes", and its "rows" of (share of the row, pixels)."""
    names, confusion = [row["name"] for row in run["classes"]], run["confusion"]
    wrong = [
        sum(row) + sum(other[i] for other in confusion) - 2 * row[i]
        for i, row in enumerate(confusion)
    ]
    chosen = sorted(sorted(range(len(names)), key=lambda i: -wrong[i])[:_MAX_CONFUSED])
    totals = [max(sum(row), 1) for row in confusion]
    return {
        "all": len(chosen) == len(names),
        "classes": [names[i] for i in chosen],
        "rows": [[(confusion[i][j] / totals[i], confusion[i][j]) for j in chosen] for i in chosen],
    }
