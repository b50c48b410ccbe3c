import pytest

from lrformer import cli


def parse(*argv):
    parser = cli.parser("A tool.")
    cli.add_model_options(parser)
    parser.add_argument("--input", nargs="+", default=[])
    return cli.parse(parser, ["--config-file", "a.yaml", *argv])


def test_overrides_end_a_list_of_values():
    args = parse("--input", "a.jpg", "MODEL.x.jpg", "SOLVER.MAX_ITER", "5", "OUTPUT_DIR", "out")
    assert args.input == ["a.jpg", "MODEL.x.jpg"]
    assert args.opts == ["SOLVER.MAX_ITER", "5", "OUTPUT_DIR", "out"]
    assert parse().opts == []


def test_a_file_named_like_a_key_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "TEST.PNG").touch()
    assert parse("--input", "TEST.PNG").input == ["TEST.PNG"]


def test_options_after_overrides_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse("SOLVER.MAX_ITER", "5", "--input", "a.jpg")
    assert "--input comes after a KEY VALUE pair" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(ValueError, 2), (FileNotFoundError, 2), (FloatingPointError, 1), (KeyboardInterrupt, 130)],
)
def test_exit_codes(error, code, capsys):
    def fail():
        raise error("what\nhappened")

    assert cli.run(fail) == code
    assert capsys.readouterr().err == ("" if code == 130 else "error: what happened\n")


def test_a_bug_keeps_its_traceback():
    with pytest.raises(AttributeError):
        cli.run(lambda: None.gone)
    assert cli.run(lambda: None) == 0 and cli.run(lambda: 1) == 1
