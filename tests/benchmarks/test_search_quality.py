"""The script from its arguments to its report, and the tables on numbers that can be worked out by hand."""

import json
import math

import numpy as np
import pytest
import search_quality
from search_problems import build_problem
from search_report import (
    clock_tables,
    early_target,
    quality_tables,
    quartiles,
    random_target,
    ratio_text,
    reached_at,
    shares_by_method,
)

GRID = (0, 60, 240)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    words = [str(folder), "--quick", "--processes", "0", "--plots", str(folder / "plots")]
    search_quality.main(words)
    return folder, words


def test_the_quick_run_goes_from_end_to_end(quick):
    folder, _ = quick
    text = (folder / "quick" / "report.md").read_text()
    for problem in ("zoo3", "zoo2_constrained", "weights_sum", "zdt1"):
        assert f"### {problem}\n" in text
    for section in ("On simulated workers", "The loop's own time", "random search at every number of evaluations"):
        assert section in text
    assert sorted(file.name for file in (folder / "plots").iterdir()) == [
        "search_test.png",
        "search_weights.png",
        "search_zoo.png",
    ]


def test_what_is_on_record_is_not_run_again(quick, monkeypatch):
    folder, words = quick
    record = folder / "quick" / "results.jsonl"
    before = record.read_text()
    report = (folder / "quick" / "report.md").read_text()
    monkeypatch.setattr(search_quality, "RUNS", {})  # to run anything would fail
    search_quality.main(words)
    assert record.read_text() == before
    assert (folder / "quick" / "report.md").read_text() == report


def test_records_of_a_run_can_be_checked_by_running_it_again(quick):
    folder, _ = quick
    records = map(json.loads, (folder / "quick" / "results.jsonl").read_text().splitlines())
    for record in records:
        if record["part"] == "quality" and record["method"] in ("random", "nsga2") and record["seed"] == 1:
            found = search_quality.run_quality(record["problem"], record["method"], 1, record["budget"], None)
            assert found["hypervolumes"] == record["found"]["hypervolumes"]


def test_a_run_that_fails_holds_up_no_other_and_is_named_in_the_end(tmp_path, monkeypatch):
    def run(number):
        if number == 1:
            raise ZeroDivisionError("on purpose")
        return number

    monkeypatch.setattr(search_quality, "RUNS", {"numbers": run})
    wanted = [{"part": "numbers", "number": number} for number in range(3)]
    with pytest.raises(SystemExit, match=r"1 of 3 runs failed.*on purpose"):
        search_quality.run_all(wanted, tmp_path / "results.jsonl", processes=0)
    kept = [json.loads(line)["found"] for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert kept == [0, 2]


def test_random_search_is_measured_without_noise_along_the_grid():
    found = search_quality.run_quality("zoo3", "random", 0, 4, None)
    benchmark = build_problem("zoo3")
    points = [np.random.default_rng([0, draw]).random(8) for draw in range(4)]
    known = benchmark.measure(np.array(benchmark.first_points))[0]
    losses = np.concatenate([known, benchmark.measure(np.array(points))[0]])
    expected = [benchmark.hypervolume(losses[: 9 + count], np.zeros((9 + count, 0))) for count in range(5)]
    assert found["hypervolumes"] == pytest.approx(expected)
    assert found["evaluations"] == 4


def quality(problem, method, seed, volumes):
    found = {"hypervolumes": volumes, "seconds": 2.0, "evaluations": 240}
    return {"part": "quality", "problem": problem, "method": method, "seed": seed, "budget": 240, "found": found}


RECORDS = [
    {"part": "attainable", "problem": "p", "found": {"hypervolume": 3.0}},
    *(quality("p", "ours", seed, [1.0, 2.0 + 0.1 * seed, 2.5]) for seed in range(3)),
    *(quality("p", "nsga2_generational", seed, [1.0, 1.5, 2.1]) for seed in range(3)),
    *(quality("p", "random", seed, [1.0, 2.2, 2.3]) for seed in range(3)),
    *(quality("p", "brief", seed, [1.0, 1.4]) for seed in range(2)),
]


def test_shares_are_of_what_is_to_be_gained():
    shares = shares_by_method(RECORDS, GRID)["p"]
    np.testing.assert_allclose(shares["ours"][:, 1], [0.5, 0.55, 0.6])
    np.testing.assert_allclose(shares["brief"], [[0.0, 0.2, math.nan]] * 2)


def test_the_first_target_compares_the_default_at_60_with_the_baseline_at_240():
    [row] = early_target(shares_by_method(RECORDS, GRID), "ours", GRID)
    assert row == ["p", "3", "0.550 (0.525 to 0.575)", "0.550 (0.550 to 0.550)", "67%", "yes"]


def test_the_second_target_names_where_the_default_is_behind_random():
    [row] = random_target(shares_by_method(RECORDS, GRID), "ours", GRID)
    assert row == ["p", "3", "60 (-0.050)", "never", "within chance"]  # three seeds prove nothing
    many = [RECORDS[0]]
    for seed in range(12):
        many += [quality("p", "ours", seed, [1.0, 1.5, 2.5]), quality("p", "random", seed, [1.0, 1.6, 2.0])]
    [row] = random_target(shares_by_method(many, GRID), "ours", GRID)
    assert row[2:] == ["60 (-0.050)", "60 (-0.050)", "**no**"]


def test_methods_are_listed_best_first_with_their_seeds_and_cost():
    lines = quality_tables(RECORDS, GRID)
    rows = [line for line in lines if line.startswith("| ") and "seeds" not in line]
    assert [row.split(" | ")[0] for row in rows] == ["| ours", "| random", "| nsga2_generational", "| brief"]
    assert rows[0] == "| ours | 3 | 0.550 (0.525 to 0.575) | 0.750 (0.750 to 0.750) | 8.3 |"
    assert rows[3] == "| brief | 2 | 0.200 |  | 8.3 |"


def test_quartiles_are_in_order():
    assert quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (2.0, 3.0, 4.0)


def clock(method, ends, volumes):
    found = {"ends": ends, "hypervolumes": volumes, "busy": 0.9, "busy_while_asking": 1.0}
    found |= {"asks": [0.001, 0.002], "tells": [0.003, 0.004]}
    common = {"part": "clock", "problem": "zoo3", "seed": 0, "budget": 3, "workers": 8}
    return {**common, "method": method, "found": found}


def test_the_wall_clock_is_that_to_the_baselines_last_hypervolume():
    records = [clock("ours", [10, 20, 30], [1.0, 2.0, 3.0]), clock("nsga2_generational", [20, 40, 60], [1.0, 2.0, 2.0])]
    rows = clock_tables(records)[-2:]
    assert rows[0] == "| 8 | nsga2_generational | 3 | 1 | 100.0% | 90.0% | 1.00 | 1.0, 2.0 | 3.0, 4.0 |"
    assert "| 0.50 |" in rows[1]  # 20 of 40 seconds


def test_a_run_that_never_arrives_is_no_small_ratio():
    assert reached_at({"ends": [1, 2], "hypervolumes": [0.1, 0.2]}, 0.3) == math.inf
    assert ratio_text([math.inf]) == "not reached"
    assert ratio_text([0.5, 0.6, math.inf]) == "0.60, 1 not reached"
    assert ratio_text([0.5, 0.6, 0.7]) == "0.60 (0.55 to 0.65)"


def test_unknown_names_are_refused(capsys):
    with pytest.raises(SystemExit):
        search_quality.parsed(["--methods", "random,guess"])
    assert "guess" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        search_quality.parsed(["--parts", "quality,magic"])
    assert "magic" in capsys.readouterr().err
