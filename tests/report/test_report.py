"""The page shows what a run has recorded, tells how to make what is missing, and is safe to open."""

import json
import re
from html import unescape
from html.parser import HTMLParser

import pytest

from rnope_jax.checkpoint import integrity
from rnope_jax.layers import rope
from rnope_jax.report import page, read
from tests.end_to_end.commands import rnope_here
from tests.report.recorded import config, record
from tests.training.runs import tree_hash

#: Elements that are never closed.
_VOID = {"meta"}


class _Balanced(HTMLParser):
    """Counts elements, and sees that each is closed where it should be."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "data", "action")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(html):
    parser = _Balanced()
    parser.feed(html)
    assert parser.open == []
    return parser


def visible(html):
    """The words of the body."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("reports")
    return {
        "hybrid": record(config("hybrid", root / "hybrid")),
        "rope": record(config("rope", root / "rope", rope()), seed=1, per_head=False),
        "fresh": record(config("fresh", root / "fresh"), parts=False),
    }


@pytest.fixture(scope="module")
def one(runs):
    return page(read([runs["hybrid"]]), "now")


def test_a_page_holds_everything_and_fetches_nothing(one):
    parser = parsed(one)
    assert all(link.startswith("#") for link in parser.links)
    assert "default-src 'none'" in one
    assert "url(" not in one
    assert "@import" not in one
    assert not {"link", "img", "iframe", "object"} & set(parser.seen)


def test_it_shows_what_the_run_has_recorded(one):
    words = visible(one)
    for shown in (
        "100 of 100, finished",
        "window 64 + RoPE 50000",
        "11,091 (best_fit)",
        "4.56%",
        "niah_multikey_2",
        "hellaswag acc 0.2561",
        "def main(args):",
        "model.num_kv_heads",
        "question and answer",
    ):
        assert shown in words, shown
    assert (
        one.count('class="canvas"') == 8 + 1 + 3 + 3
    )  # training, loss by position, attention and heads at three lengths
    assert "Not measured" not in words


def test_curves_end_at_the_values_of_the_metrics(one, runs):
    lines = [json.loads(line) for line in (runs["hybrid"] / "metrics.jsonl").read_text().splitlines()]
    plots = [json.loads(unescape(data)) for data in re.findall(r'data-plot="([^"]*)"', one)]
    loss, _, norm, rate = plots[:4]
    names = [name for name, _, _ in loss["curves"]]
    assert names == ["hybrid, training", "hybrid, held-out"]
    wanted = next(line["loss"] for line in lines if line["step"] == 50 and "loss" in line)
    assert dict(map(tuple, loss["curves"][0][2]))[50] == pytest.approx(wanted, rel=1e-4)
    assert rate["x"][:2] == [1, 100]
    # What is not finite has no place, and takes the curve apart.
    assert 33 not in dict(map(tuple, norm["curves"][0][2]))
    paths = re.findall(r'<path d="([^"]*)" class="line c0"', one)
    assert paths[2].count("M") == 2
    assert paths[3].count("M") == 1


def test_the_map_of_heads_shows_what_was_measured_of_each(one, runs):
    kept = json.loads((runs["hybrid"] / "evaluations/step-100/attention.json").read_text())
    (own,) = (model for model in kept["models"] if model["model"] == "hybrid")
    maps = re.findall(r'<figure class="plot heads">.*?</figure>', one)
    most = max(needle for found in own["findings"] for layer in found["heads"]["mass"] for _, needle, _, _ in layer)
    for drawn, found in zip(maps, own["findings"], strict=True):
        cells = re.findall(r'<rect x="(\d+)" y="(\d+)" width="1" height="1" fill-opacity="([\d.]+)">', drawn)
        shown = {(int(layer), int(head)): float(opacity) for layer, head, opacity in cells}
        assert len(shown) == len(cells) == 8 * 4
        for layer, heads in enumerate(found["heads"]["mass"]):
            for head, (_, needle, _, _) in enumerate(heads):
                assert shown[layer, head] == pytest.approx(needle / most, abs=6e-4)
                assert f"layer {layer}, head {head}: {needle:.2%}" in drawn
        framed = re.findall(r'<rect x="(\d+)" y="(\d+)" width="1" height="1" class="frame">', drawn)
        assert {(int(x), int(y)) for x, y in framed} == {(h["layer"], h["head"]) for h in found["retrieval_heads"]}
    first = own["findings"][-1]["retrieval_heads"][0]
    words = visible(one)
    assert f"{first['layer']} {first['head']} full + NoPE {first['needle']:.1%} {first['needle'] / 0.05:.1f}" in words
    assert f"{most:.1%} of a head's attention" in words


def test_where_heads_were_not_kept_the_first_of_them_are_named(runs):
    words = visible(page(read([runs["rope"]]), "now"))
    assert f"Do it with rnope analyze {runs['rope']} --per-head" in words
    assert "times its share" in words
    assert "of a head's attention" not in words


def test_of_what_is_missing_it_tells_the_command(runs):
    words = visible(page(read([runs["fresh"]]), "now"))
    for command in (
        f"python train.py {runs['fresh']}",
        f"rnope evaluate {runs['fresh']} --loss-by-position",
        f"rnope evaluate {runs['fresh']} --needle",
        f"rnope evaluate {runs['fresh']} --ruler",
        f"rnope analyze {runs['fresh']}",
        f"rnope generate {runs['fresh']}",
    ):
        assert command in words, command


def test_runs_stand_side_by_side_with_what_differs(runs):
    html = page(read(list(runs.values())), "now")
    parsed(html)
    words = visible(html)
    differing = words[words.index("What differs") : words.index("All ")]
    assert "model.pattern window 64 + RoPE 50000" in differing
    assert "model.num_layers" not in differing
    plots = [json.loads(unescape(data)) for data in re.findall(r'data-plot="([^"]*)"', html)]
    assert [name for name, _, _ in plots[2]["curves"]] == ["hybrid", "rope", "fresh"]
    assert {colour for _, colour, _ in plots[2]["curves"]} == {0, 1, 2}
    assert "fresh has reported nothing yet" in words


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def test_names_samples_and_results_stay_text(tmp_path):
    run = record(config("x" + HOSTILE.replace("/", ""), tmp_path / HOSTILE.replace("/", "")))
    (run / "samples.txt").write_text(HOSTILE)
    results = run / "evaluations" / "step-100" / "ruler.json"
    results.write_text(results.read_text().replace("niah_single_1", json.dumps(HOSTILE)[1:-1]))
    html = page(read([run]), "now")
    parser = parsed(html)
    assert parser.seen.count("script") == 1
    assert "img" not in parser.seen
    assert HOSTILE in visible(html)


def test_a_run_that_goes_on_can_be_looked_at(tmp_path):
    run = record(config("going", tmp_path / "going"))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 101, "lo')
    assert read([run])[0].last_step == 100
    assert read([run])[0].unreadable == []


def test_what_cannot_be_read_is_told_and_spoils_nothing_else(tmp_path):
    run = record(config("torn", tmp_path / "torn"))
    results = run / "evaluations" / "step-100"
    (results / "needle.json").write_text("{")
    (results / "ruler.json").write_text('{"model": {}}')
    (results / "attention.json").write_text('{"models": [{"model": "torn", "findings": [{}]}]}')
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join([*lines[:4], "nonsense\n", *lines[4:]]))
    html = page(read([run]), "now")
    parsed(html)
    words = visible(html)
    assert re.search(r"Cannot be read: \S*metrics\.jsonl, line 5", words)
    assert re.search(r"Cannot be read: \S*needle\.json", words)
    assert words.count("not in the form that this version writes") >= 2
    assert "def main(args):" in words


def test_checkpoints_are_listed_with_what_is_wrong_with_them(tmp_path):
    run = record(config("kept", tmp_path / "kept"))
    for step in (40, 80):
        files = run / "checkpoints" / str(step) / "state"
        files.mkdir(parents=True)
        (files / "array").write_bytes(bytes(2_000_000))
        integrity.seal(files.parent)
    (files / "array").write_bytes(bytes(1_000_000))
    words = visible(page(read([run]), "now"))
    assert re.search(r"40 \d{4}-\d\d-\d\d \S+ 2\.0 MB short complete", words)
    assert re.search(r"80 \d{4}-\d\d-\d\d \S+ 1\.0 MB long damaged: state/array has 1,000,000 bytes", words)
    assert f"rnope checkpoints {run} --verify" in words


def test_the_newest_results_are_taken_and_their_age_is_told(tmp_path):
    run = record(config("older", tmp_path / "older"))
    old = run / "evaluations" / "step-40"
    old.mkdir()
    new = old.with_name("step-100")
    for name in ("needle.json", "ruler.json"):
        (new / name).rename(old / name)
    (old / "loss_by_position.json").write_bytes((new / "loss_by_position.json").read_bytes())
    found = read([run])[0].evaluations
    assert (found["needle"].step, found["loss_by_position"].step) == (40, 100)
    assert "Of the checkpoint of step 40; the run has come to step 100." in visible(page(read([run]), "now"))


def test_the_command_writes_a_page_and_changes_nothing_else(capsys, runs, tmp_path):
    before = tree_hash(runs["rope"])
    ended = rnope_here(capsys, "report", runs["rope"], runs["hybrid"], "--out", tmp_path / "deep" / "page.html")
    assert (ended.code, ended.err) == (0, "")
    assert (tmp_path / "deep" / "page.html").read_text().startswith("<!doctype html>")
    assert tree_hash(runs["rope"]) == before
    assert rnope_here(capsys, "report", runs["fresh"], "--verify").code == 0
    assert (runs["fresh"] / "report.html").is_file()


def test_mistakes(capsys, runs, tmp_path):
    for arguments, message in (
        ((), "there is no run"),
        ((tmp_path,), "is not a run directory"),
        ((runs["rope"], runs["rope"]), "given twice"),
        ((runs["rope"], "--out", tmp_path), "is a directory"),
    ):
        ended = rnope_here(capsys, "report", *arguments)
        assert ended.code == 2
        assert message in ended.err
