"""Long work says how far it is: a bar on a terminal, a line now and then elsewhere."""

from expander_sae.records import progress
from expander_sae.records.progress import Bars


def test_a_line_now_and_then_where_there_is_no_terminal(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Bars("train") as bars:
        bar = bars.begin(total=1000, done=200)
        for step in range(1, 9):
            clock[0] += 6.0
            bars.update(bar, done=200 + 50 * step, text=f"fvu .{step}")
        endless = bars.begin("[red]documents")
        clock[0] += 30.0
        bars.advance(endless, 60)
    assert capsys.readouterr().err.splitlines() == [
        "train fvu .4: 400 of 1,000 (40%), about 72 s left",
        "train fvu .8: 600 of 1,000 (60%), about 48 s left",
        "train [red]documents: 60, 2 a second",
    ]


def test_nothing_is_said_of_short_work_or_where_nothing_is_shown(capsys, monkeypatch):
    with Bars("train") as bars:
        bars.update(bars.begin(total=10), done=10)
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    with Bars("train", show=False) as bars:
        bars.update(bars.begin(total=10), done=10)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Bars("train") as bars:
        bars.update(bars.begin(total=10), done=4, text="[fvu]")
    shown = capsys.readouterr().err
    assert "4/10" in shown
    assert "[fvu]" in shown
