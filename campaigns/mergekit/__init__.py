"""mergekit's YAML as a second language for merges: read into a pool and a recipe, written from a recipe.

What is read, what differs and what is refused is in `docs/mergekit.md`.
"""

from campaigns.mergekit.merge import MergekitMerge
from campaigns.mergekit.parsing import is_mergekit, parse_mergekit
from campaigns.mergekit.writing import export

__all__ = ["MergekitMerge", "export", "is_mergekit", "parse_mergekit"]
