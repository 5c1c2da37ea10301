import io

import pytest

from trainer.data.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_without_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("trainer.data.progress._QUIET", 0)
    monkeypatch.setattr("trainer.data.progress._BETWEEN_LINES", 0)
    with progress("reading", 4_000_000) as advance:
        advance(1_000_000)
        advance(3_000_000)
    first, second, last = capsys.readouterr().err.splitlines()
    assert first == "reading: 1.0 of 4.0 MB (25 %)"
    assert second == "reading: 4.0 of 4.0 MB (100 %)"
    assert last.startswith("reading: 4.0 MB in ")


def test_what_is_quick_says_nothing(capsys):
    with progress("reading", 10) as advance:
        advance(10)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("trainer.data.progress._QUIET", 0)
    with progress("reading", 4_000_000) as advance:
        advance(4_000_000)
    assert "reading: 100%" in terminal.getvalue()


def test_an_error_is_not_followed_by_a_summary(monkeypatch, capsys):
    monkeypatch.setattr("trainer.data.progress._QUIET", 0)
    with pytest.raises(KeyError), progress("reading", 10):
        raise KeyError
    assert capsys.readouterr().err == ""
