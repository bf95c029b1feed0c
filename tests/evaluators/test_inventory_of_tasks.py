import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from campaigns.inventory import MetricOffer
from evaluators.inventory import offered_tasks, versions


def write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.yaml").write_text(text)


def test_folder_tasks(task_folder: Path) -> None:
    offers = offered_tasks([task_folder], built_in=False)
    assert set(offers) == {"sums", "sums_filtered", "sums_sampled", "fruit", "texts", "letters"}
    assert offers["fruit"].output_type == "multiple_choice"
    assert offers["fruit"].metrics == (MetricOffer(metric="acc"), MetricOffer(metric="acc_norm"))
    assert {(m.metric, m.filter) for m in offers["sums_filtered"].metrics} == {
        ("exact_match", "digits"),
        ("exact_match", "plain"),
    }
    assert not any(m.higher_is_better for m in offers["texts"].metrics)


def test_defaults_and_includes(tmp_path: Path) -> None:
    (tmp_path / "common").write_text("output_type: loglikelihood_rolling\ntest_split: test\n")
    write(tmp_path, "child", "include: common\ntask: child\n")
    write(tmp_path, "bare", "task: bare\n")
    write(
        tmp_path,
        "silent",
        "task: silent\noutput_type: multiple_choice\nmetric_list:\n- metric: brier_score\n- metric: new\n",
    )
    offers = offered_tasks([tmp_path], built_in=False)
    assert [(m.metric, m.filter, m.higher_is_better) for m in offers["child"].metrics] == [
        ("word_perplexity", "none", False),
        ("byte_perplexity", "none", False),
        ("bits_per_byte", "none", False),
    ]
    assert offers["bare"].output_type == "generate_until"
    assert offers["bare"].metrics == (MetricOffer(metric="exact_match"),)
    assert [(m.metric, m.higher_is_better) for m in offers["silent"].metrics] == [("brier_score", False), ("new", True)]


def test_nothing_is_run_and_the_unsupported_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("raise SystemExit('ran')\n")
    write(
        tmp_path,
        "with_code",
        "task: with_code\nprocess_docs: !function code.run\nmetric_list:\n- metric: !function code.hits\n",
    )
    write(tmp_path, "unsafe", "task: unsafe\nunsafe_code: true\n")
    write(tmp_path, "seen", "task: seen\ndoc_to_image: picture\n")
    write(tmp_path, "group", "group: a_group\ntask: [with_code]\n")
    write(tmp_path, "python", "task: python\nclass: !function code.Task\n")
    write(tmp_path, "broken", "task: [\n")
    offers = offered_tasks([tmp_path], built_in=False)
    assert set(offers) == {"with_code"}
    assert offers["with_code"].metrics == (MetricOffer(metric="hits"),)


def test_a_malformed_task_is_left_out_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "malformed", "task: malformed\nmetric_list: [acc]\n")
    write(tmp_path, "sound", "task: sound\n")
    assert set(offered_tasks([tmp_path], built_in=False)) == {"sound"}
    assert "malformed.yaml" in caplog.text


def test_later_folders_hide_earlier_ones(tmp_path: Path) -> None:
    for index, kind in enumerate(["multiple_choice", "loglikelihood"]):
        folder = tmp_path / str(index)
        folder.mkdir()
        write(folder, "twice", f"task: twice\noutput_type: {kind}\n")
    assert offered_tasks([tmp_path / "0", tmp_path / "1"], built_in=False)["twice"].output_type == "loglikelihood"


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="nowhere"):
        offered_tasks([tmp_path / "nowhere"])


def test_built_in_tasks_are_kept_on_disk(tmp_path: Path, task_folder: Path) -> None:
    offers = offered_tasks([task_folder], tmp_path / "cache")
    assert len(offers) > 10_000 and "sums" in offers
    assert {m.filter for m in offers["gsm8k"].metrics} == {"strict-match", "flexible-extract"}
    assert offers["hellaswag"].output_type == "multiple_choice"
    (file,) = (tmp_path / "cache").iterdir()
    assert file.name == f"lm-eval-tasks-{version('lm_eval')}.json"
    assert "sums" not in json.loads(file.read_text()), "the operator's folders are read anew each time"
    assert offered_tasks([task_folder], tmp_path / "cache") == offers
    file.write_text(json.dumps({"only": {"name": "only", "output_type": "multiple_choice", "metrics": []}}))
    assert set(offered_tasks([], tmp_path / "cache")) == {"only"}


def test_needs_no_torch() -> None:
    code = "import sys, evaluators.inventory; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_versions() -> None:
    assert versions()["lm_eval"] == version("lm_eval")
    assert {"transformers", "torch", "datasets"} <= set(versions())
