"""The page about speed says what the benchmarks found."""

from benchmarks import performance


def test_the_page_is_what_the_results_say():
    assert (performance.DOCS / "performance.md").read_text() == performance.page()


def test_what_was_not_measured_is_said_to_be_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(performance, "RESULTS", tmp_path)
    page = performance.page()
    assert page.count("not measured.") == len(performance.SECTIONS)
    assert "train_step_float32.json" in page
