"""Reading the YAML documents that users write."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from campaigns.errors import InvalidInput, field_error


def read_document(path: Path) -> Mapping[str, Any]:
    """Return the mapping that the YAML or JSON file `path` holds. Raises `InvalidInput` saying what is wrong where."""
    try:
        document = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput([field_error(path.name, str(error), "not a YAML document")]) from None
    if not isinstance(document, Mapping):
        raise InvalidInput([field_error(path.name, document, "the document must be a mapping", "key: value")])
    return document
