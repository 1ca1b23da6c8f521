"""Results that outlive a process."""

import pytest

from rnope_jax.errors import UserError
from rnope_jax.evaluation.records import Records


def test_what_follows_a_torn_line_is_not_lost_with_it(tmp_path):
    file = tmp_path / "deep" / "results.jsonl"
    Records(file).append([{"index": 0, "text": "a\u2028b"}, {"index": 1}])
    with file.open("ab") as opened:
        opened.write(b'{"index": 2, "te')  # killed here
    records = Records(file)
    assert records.found == [{"index": 0, "text": "a\u2028b"}, {"index": 1}]
    records.append([{"index": 2}])  # and killed again
    assert Records(file).found == [{"index": 0, "text": "a\u2028b"}, {"index": 1}, {"index": 2}]


def test_a_file_of_something_else_is_refused_and_kept(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text("no JSON\n")
    with pytest.raises(UserError, match=r"results\.jsonl: not a file of results"):
        Records(file)
    assert file.read_text() == "no JSON\n"
