"""The page about mergekit keeps up with what is read and written."""

import re
from pathlib import Path

import yaml

from campaigns.merge_config import METHODS as OURS
from campaigns.merge_config import parse_merge_config
from campaigns.mergekit.methods import METHODS
from campaigns.mergekit.parsing import KEYS
from campaigns.mergekit.settings import PARAMETERS

PAGE = (Path(__file__).parents[2] / "docs" / "mergekit.md").read_text()
ONLY_OF_METHODS_THAT_ARE_NOT_HERE = {"r", "alpha"}


def test_the_page_names_every_method_key_and_parameter():
    named = set(re.findall(r"`([a-z_0-9]+)(?:[.:=][^`]*)?`", PAGE))
    wanted = {*METHODS, *OURS, *KEYS, *PARAMETERS} - ONLY_OF_METHODS_THAT_ARE_NOT_HERE
    assert not wanted - named


def test_the_example_of_our_own_document_is_one():
    [example] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert parse_merge_config(yaml.safe_load(example)).method == "ties"
