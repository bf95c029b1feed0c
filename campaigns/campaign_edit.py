"""What may still change in a campaign's spec once it was launched: what it is called and what is noted about it."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from campaigns.errors import FieldError, InvalidInput, field_error, from_validation, unknown_name
from campaigns.noun import Noun
from campaigns.spec import MAX_NAME, MAX_NOTES, CampaignSpec


class CampaignEdit(Noun):
    """The fields that are set replace the campaign's own. Neither has any part in its results."""

    name: str = Field("", min_length=1, max_length=MAX_NAME)
    notes: str = Field("", max_length=MAX_NOTES)

    @property
    def changes(self) -> dict[str, str]:
        """The new value of each field that was set, without NUL, which not every database can hold."""
        return {
            field: getattr(self, field).replace("\0", "\N{REPLACEMENT CHARACTER}") for field in self.model_fields_set
        }


EDITABLE = tuple(CampaignEdit.model_fields)


def parse_edit(document: Mapping[str, Any]) -> CampaignEdit:
    """Return the edit that `document` says, or raise `InvalidInput` naming every field that is wrong or locked."""
    locked = [_refused(field, value) for field, value in document.items() if field not in EDITABLE]
    try:
        edit = CampaignEdit.model_validate({field: document[field] for field in EDITABLE if field in document})
    except ValidationError as error:
        raise InvalidInput([*from_validation(error).errors, *locked]) from None
    if locked:
        raise InvalidInput(locked)
    return edit


def _refused(field: str, value: object) -> FieldError:
    if field not in CampaignSpec.model_fields:
        return unknown_name(field, field, EDITABLE, "field to change")
    message = "locked when the campaign was launched: fork the campaign to change it"
    return field_error(field, value, message, ", ".join(EDITABLE))
