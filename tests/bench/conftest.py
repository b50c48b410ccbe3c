"""A small model, and the command line in this process."""

import pytest
import torch

from bench import options
from bench.main import main


@pytest.fixture
def tiny(tiny_opts):
    """KEY VALUE pairs that make LRFormer small."""
    return [str(text) for pair in tiny_opts.items() for text in pair]


@pytest.fixture(autouse=True)
def settings_of_the_process(monkeypatch):
    """They would last for the tests that follow."""
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(options, "keep_freed_memory", lambda: True)


@pytest.fixture
def bench(capsys):
    """Runs a command that succeeds; what it printed."""

    def run(*arguments):
        code = main([str(x) for x in arguments])
        out = capsys.readouterr()
        assert code == 0, out.err
        return out.out

    return run


@pytest.fixture
def refused(capsys):
    """Runs a command that fails with 2 and one line on standard error, which it returns."""

    def run(*arguments):
        assert main([str(x) for x in arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    return run


@pytest.fixture
def cells():
    """Rows of a Markdown table, as lists of (title, cell) pairs; titles may repeat."""

    def read(markdown):
        lines = [line for line in markdown.splitlines() if line.startswith("|")]
        titles, _, *rows = ([c.strip() for c in line.strip("|").split("|")] for line in lines)
        return [list(zip(titles, row, strict=True)) for row in rows]

    return read
