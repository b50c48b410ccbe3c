"""Training steps as tables for people, and as JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from tabulate import tabulate

from .training import Gain, TrainingResult, TrainingRow
from .training_profile import OTHER

_REMARKS = """\
- A step: forward, losses, backward and AdamW's update on random images and labels. Every row ran in
  fresh processes ("repeats"), in turn with the others of its config: one step untimed, then as many
  timed as "rounds" says. Times are medians over all, in brackets quartiles.
- Time / the first: median over the repetitions of the ratio of the processes' medians, in brackets
  the least and the largest.
- Memory: at the peak of a process, beyond what it held with the model and the inputs before the
  first step (AdamW's state comes into being in that), and all in all: {how}.
- Freed memory: "kept" where the process keeps it for its next tensors (lrformer.host_memory); what
  building the model left is then among what was held before.
"""
_ON_GPU = "as PyTorch allocated it on the GPU"
_ON_CPU = "resident memory"
_NAMED, _NAMED_OTHER = 3, 8  # operators that the table of a profile names


def to_json(result: TrainingResult, command: str) -> str:
    """Seconds and bytes."""
    return json.dumps({"command": command, **asdict(result)}, indent=2) + "\n"


def markdown(result: TrainingResult, command: str) -> str:
    """The run as a page of Markdown.

    Args:
        result: the run.
        command: that printed it.
    """
    known = [f"{name}: {x}" for name, x in result.conditions.items() if x is not None]
    titles = [
        *("config", "step", "freed memory", "loss", "time", "time / the first"),
        *("memory", "/ the first", "memory in all", "/ the first"),
    ]
    on_cpu = result.conditions["threads"] is not None
    remarks = _REMARKS.format(how=_ON_CPU if on_cpu else _ON_GPU)
    return "\n".join(
        [
            f"Printed by `{command}`.\n",
            f"{', '.join(known)}.\n",
            _table([_cells(row) for row in result.rows], titles, "lll" + 7 * "r"),
            "",
            *(_sentence(gain) for gain in result.gains),
            remarks,
            *(_profile(config, work, on_cpu) for config, work in result.profiles.items()),
        ]
    )


def _table(rows: Sequence[Sequence[str]], titles: Sequence[str], sides: str) -> str:
    """``sides``: "l" or "r" for each column."""
    sides = [{"l": "left", "r": "right"}[side] for side in sides]
    return tabulate(rows, titles, tablefmt="pipe", colalign=sides, disable_numparse=True)


def _cells(row: TrainingRow) -> list[str]:
    milliseconds = [f"{x * 1e3:.0f}" for x in (row.time, row.time_p25, row.time_p75)]
    return [
        row.config,
        row.step,
        "kept" if row.keeps_memory else "released",
        f"{row.loss:.4f}",
        f"{milliseconds[0]} ({milliseconds[1]}–{milliseconds[2]}) ms",
        _with_extremes(row),
        _mebibytes(row.memory),
        _ratio(row.memory_ratio),
        _mebibytes(row.total_memory),
        _ratio(row.total_memory_ratio),
    ]


def _with_extremes(x: TrainingRow | Gain) -> str:
    return f"{x.time_ratio:.3f} ({x.time_ratio_min:.3f}–{x.time_ratio_max:.3f})"


def _mebibytes(count: int | None) -> str:
    return "–" if count is None else f"{count / 2**20:.0f} MiB"


def _ratio(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.3f}"


def _sentence(gain: Gain) -> str:
    return (
        f"{gain.config}, float32, over {gain.against}: time {_with_extremes(gain)}, memory "
        f"{_ratio(gain.memory_ratio)}, memory in all {_ratio(gain.total_memory_ratio)}; the first "
        f"step's loss differs by {gain.loss_difference:.2%}.\n"
    )


def _profile(config: str, work: Sequence[dict], on_cpu: bool) -> str:
    rows = []
    for row in work:
        names = list(row["operators"].items())
        shown = names[: _NAMED_OTHER if row["kind"] == OTHER else _NAMED]
        more = f", {len(names) - len(shown)} more" if len(names) > len(shown) else ""
        operators = ", ".join(f"{name.removeprefix('aten::')} {s * 1e3:.1f}" for name, s in shown)
        rows.append(
            [
                row["kind"],
                f"{row['seconds'] * 1e3:.1f}",
                f"{row['share']:.1%}",
                f"{operators}{more}",
            ]
        )
    total = sum(row["seconds"] for row in work)
    rows.append(["all", f"{total * 1e3:.1f}", "100.0%", ""])
    where = "the calling CPU thread's own time of operators" if on_cpu else "time of GPU kernels"
    return "\n".join(
        [
            f"Where the time of one step of {config} goes: {where}, under torch.profiler, which "
            "slows it a little.\n",
            _table(rows, ["work", "ms", "share", "main operators (ms)"], "lrrl"),
            "",
            "Pools that are computed as matrix products count as those; loss and optimizer are "
            "all that runs for them, forward and backward.\n",
        ]
    )
