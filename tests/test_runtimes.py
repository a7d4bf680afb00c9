"""The table of runtimes: what it says of answers, of runtimes that fail, and of Keras; and that the page has it."""

import numpy as np
import pytest
import runtimes
from runtimes import Pass, Runtime

IMAGES = np.zeros((3, 4, 4, 1), np.uint8)
KERAS = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32), np.array([0, 1, 2])


class Files:
    """In place of exported files: five bytes each."""

    def write(self, kind, precision, path):
        path.write_bytes(b"12345")

    def by_keras(self, images, all_glimpses):
        return KERAS


def test_what_is_compared():
    answers = np.array([[0.9, 0.1], [0.3, 0.7], [0.45, 0.55]], np.float32)
    passes = [Pass(answers, np.array([0, 2, 2]), np.array(seconds)) for seconds in ([9, 9, 9], [1, 2, 9], [1, 4, 9])]
    found = runtimes.compare(passes, *KERAS)
    assert found == {
        "loads": "yes",
        "images": 3,
        "labels differ": 1,
        "stages differ": 1,
        "largest difference": 0.15,
        "µs, median": 3e6,
        "µs, mean": pytest.approx(13e6 / 3, rel=1e-3),
    }
    silent = [Pass(answers[:2], np.array([None, None]), np.ones(2))] * 2
    found = runtimes.compare(silent, *KERAS)
    assert found["stages differ"] is None and found["labels differ"] == 0 and found["images"] == 2


def test_runtimes_that_fail_have_lines(monkeypatch):
    """One that is not installed, one that fails in its second pass, and one that works: it takes its turns."""
    turns = []

    def missing(path, images, stack):
        raise ImportError("No module named 'missing'")

    def failing(path, images, stack):
        assert path.read_bytes() == b"12345"

        def run():
            turns.append("failing")
            if turns.count("failing") == 2:
                raise RuntimeError("it broke\nhere")
            return Pass(*KERAS, np.ones(3))

        return run

    def working(path, images, stack):
        return lambda: turns.append("working") or Pass(*KERAS, np.ones(3))

    opens = {"missing": missing, "failing": failing, "working": working}
    monkeypatch.setattr(runtimes, "RUNTIMES", {name: Runtime(each, "litert", ("float32",), "") for name, each in opens.items()})
    rows = runtimes.measure("mnist", Files(), IMAGES, [(name, "float32") for name in opens], rounds=2)
    assert [row["loads"] for row in rows] == ["no: No module named 'missing'", "no: it broke", "yes"]
    assert [row["µs, median"] for row in rows] == [None, None, 1e6] and rows[2]["bytes"] == 5
    assert turns == 3 * ["failing", "working"]
    assert len({tuple(row) for row in rows}) == 1  # The columns, in their order.


def test_lines_are_replaced(monkeypatch, tmp_path):
    """Those of the same model and runtime; the page has what the file has."""
    monkeypatch.setattr(runtimes, "TABLE", tmp_path / "runtimes.csv")
    monkeypatch.setattr(runtimes, "PAGE", tmp_path / "page.md")
    runtimes.PAGE.write_text("before\n<!-- runtimes -->\nold\n<!-- end of runtimes -->\nafter\n")
    line = {"model": "mnist", "runtime": "MediaPipe", "precision": "int8", "loads": "yes", "images": 200, "labels differ": 3}
    line |= {"µs, median": 123.4, "µs, mean": 45.67}
    other = line | {"runtime": "LiteRT interpreter", "precision": "float32", "images": 1000}
    for rows in ([line], [line | {"labels differ": 4}], [other], [line | {"model": "jittered-mnist", "loads": "no: broken"}]):
        runtimes.keep(rows)
    found = [(each["model"], each["runtime"], each["labels differ"]) for each in runtimes.read()]
    expected = [("jittered-mnist", "MediaPipe", "3"), ("mnist", "LiteRT interpreter", "3"), ("mnist", "MediaPipe", "4")]
    assert found == expected and all(each["commit"] for each in runtimes.read())
    page = runtimes.PAGE.read_text()
    assert "| LiteRT interpreter | float32 |  |  | 123 (45.7), 3 |  |\n" in page
    assert "| MediaPipe | int8 | does not run |  | 123 (45.7), 4 of 200 |  |\n" in page
    assert page.startswith("before\n") and page.endswith("\nafter\n") and "old" not in page


def test_the_page_has_the_results():
    page = runtimes.PAGE.read_text()
    assert runtimes.replaced(page, "runtimes", runtimes.markdown(runtimes.read()), runtimes.PAGE) == page


def test_other_models_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["runtimes", "--model", "deeppcb-defects"])
    with pytest.raises(SystemExit):
        runtimes.main()
    assert "--data-dir: is needed for deeppcb-defects" in capsys.readouterr().err


@pytest.mark.slow
def test_real_runtimes(monkeypatch):
    """Those that are Python packages, in float32: Keras's labels and stages. The accelerator's folder is of integers."""
    rows = []
    monkeypatch.setattr("sys.argv", ["runtimes", "--smoke", "--rounds", "1"])
    monkeypatch.setattr(runtimes, "show_table", lambda title, found: rows.extend(found))
    for variable in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.setenv(variable, "1")  # Also to put it back.
    runtimes.main()
    assert {row["runtime"] for row in rows} == {*runtimes.RUNTIMES} - {*runtimes.OUTSIDE}
    for row in rows:
        missing = row["loads"].startswith(("no: No module named", "no: export_mediapipe needs MediaPipe"))
        assert row["loads"] == "yes" or missing, row
        if row["precision"] == "float32" and not missing:
            assert row["labels differ"] == 0 and row["stages differ"] in (0, None) and row["largest difference"] < 1e-4
