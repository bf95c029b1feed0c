"""What is remembered: SQLAlchemy rows, repositories over them, migrations, and the `Store` that opens it all."""

from storage.campaign_repository import CampaignFilter, Patch, version
from storage.lease import Claim, Lease
from storage.store import Store
from storage.trial_repository import ImportedResult

__all__ = ["CampaignFilter", "Claim", "ImportedResult", "Lease", "Patch", "Store", "version"]
