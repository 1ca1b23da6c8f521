"""The verdict on a GPU says of each claim what was measured, and nothing good of what was not."""

import json

import pytest

from benchmarks.gpu_claims import judged

ERRORS = {"bfloat16": [0.004, 0.006], "float32": [1e-6, 2e-6]}


def attention(length, window, packed, pairs, **contenders):
    return {
        "length": length,
        "window": window,
        "packed": packed,
        "pairs": pairs,
        "contenders": {name: {"both_ms": time} for name, time in contenders.items()},
    }


def measured():
    """Results in which every claim holds."""
    attended = {}
    for part, length, faster in (("attention_32k", 32_768, 4), ("attention_128k", 131_072, 13)):
        attended[part] = [
            attention(length, 4096, False, 100, pallas_gpu=10, cudnn=8),
            attention(length, 4096, True, 50, pallas_gpu=5.5),
            attention(length, None, False, 1000, pallas_gpu=10 * faster, cudnn=8 * faster),
            attention(length, None, True, 200, pallas_gpu=8),
        ]
    shares = {8192: 0.56, 32_768: 0.51, 131_072: 0.46}
    return {
        "agreement": {"agreement": {f"pallas_gpu, full, packed, {t}": errors for t, errors in ERRORS.items()}},
        **{part: {"cases": cases} for part, cases in attended.items()},
        "train": {
            "cases": [
                {"length": length, "model": {"num_layers": 8}, "share_of_matmul": share}
                for length, share in shares.items()
            ]
        },
        "beside_8k": {"best_peer_ratio": 1.6},
        "beside_32k": {"best_peer_ratio": 3.1},
        "decode": {
            "cases": [{"batch": 1, "context": 2048, "best_peer_ratio": 3.2, "rnope_jax": {"share_of_bandwidth": 0.7}}]
        },
    }


def lines(folder, found):
    for part, results in found.items():
        (folder / f"gpu_{part}.json").write_text(json.dumps({"found": results}))
    return list(judged(folder))


def test_every_claim_holds_where_all_was_measured_so(tmp_path):
    claims = lines(tmp_path, measured())
    assert [claim.what for claim in claims if claim.holds is not True] == []
    assert len(claims) == 2 + 6 + 4 + 3 + 2 + 2


def test_nothing_holds_that_was_not_measured(tmp_path):
    claims = lines(tmp_path, {})
    assert {claim.holds for claim in claims} == {None}
    assert all("not measured" in str(claim) for claim in claims)


def spoil(found, part, change):
    change(found[part])
    return found


@pytest.mark.parametrize(
    ("part", "change", "what"),
    [
        ("agreement", lambda f: f["agreement"].update({"pallas_gpu, bfloat16": [0.001, float("nan")]}), "in bfloat16"),
        ("agreement", lambda f: f["agreement"].update({"pallas_gpu, float32": [2e-4, 0.0]}), "in float32"),
        (
            "attention_32k",
            lambda f: f["cases"][0]["contenders"]["pallas_gpu"].update(both_ms=12),
            "pallas_gpu: windows",
        ),
        ("attention_32k", lambda f: f["cases"][1]["contenders"]["pallas_gpu"].update(both_ms=5.8), "per pair, windows"),
        ("attention_32k", lambda f: f["cases"][2]["contenders"].update(another={"both_ms": 20}), "anybody's"),
        ("train", lambda f: f["cases"][2].update(share_of_matmul=0.44), "131,072 tokens"),
        ("beside_32k", lambda f: f.update(best_peer_ratio=2.9), "beside transformers' best, beside_32k"),
        ("decode", lambda f: f["cases"][0]["rnope_jax"].update(share_of_bandwidth=0.59), "bandwidth"),
    ],
)
def test_what_is_off_fails_alone(tmp_path, part, change, what):
    failed = [claim for claim in lines(tmp_path, spoil(measured(), part, change)) if claim.holds is not True]
    assert len(failed) == 1
    assert failed[0].holds is False
    assert what in failed[0].what
    assert str(failed[0]).startswith("FAIL")


def test_a_contender_without_a_backward_pass_is_not_judged(tmp_path):
    found = measured()
    for case, name in ((0, "cudnn"), (1, "pallas_gpu")):
        found["attention_32k"]["cases"][case]["contenders"][name] = {"forward_ms": 3}
    told = [claim.what for claim in lines(tmp_path, found) if claim.holds is None]
    assert told == [
        "cudnn: windows faster than full attention, 32,768 tokens",
        "packed rows beside one document, per pair, windows, 32,768 tokens",
    ]


def test_a_failure_is_told_where_its_number_is_missing(tmp_path):
    found = measured()
    found["train"]["cases"][0] = {"length": 8192, "model": {"num_layers": 4}, "failure": "out of memory"}
    found["decode"]["cases"][0] = {"batch": 1, "context": 2048, "failures": {"rnope_jax": "no device"}}
    told = [str(claim) for claim in lines(tmp_path, found) if claim.holds is None]
    assert len(told) == 3
    assert "out of memory" in told[0]
    assert "rnope_jax: no device" in told[1]
