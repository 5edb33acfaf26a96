"""A call as an object of a CRM: HubSpot's calls, Salesforce's tasks; made once, then updated.

Both know a call by an id of ours in a field of theirs, and make it or change it in one request
(upsert), so that what is sent twice is one object. The request is told as data; who sends it is
`webhook.py`. Written by the vendors' public documentation, and never tried against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from schemas.events import CallEnriched
from services.notify.fields import external_id, values

# What stands in which field, unless the file of endpoints says otherwise: see fields.py.
HUBSPOT_FIELDS: Mapping[str, str] = {
    "hs_timestamp": "started_at",
    "hs_call_title": "title",
    "hs_call_body": "body",
    "hs_call_direction": "direction",
    "hs_call_duration": "duration_ms",
    "hs_call_from_number": "from_address",
    "hs_call_to_number": "to_address",
    "hs_call_status": "=COMPLETED",
}
SALESFORCE_FIELDS: Mapping[str, str] = {
    "Subject": "title",
    "Description": "body",
    "ActivityDate": "date",
    "CallDurationInSeconds": "duration_s",
    "CallObject": "call_id",
    "CallType": "call_type",
    "Status": "=Completed",
    "TaskSubtype": "=Call",
}


class CrmRequest(NamedTuple):
    """What is asked of a CRM: `path` comes behind its host."""

    method: str
    path: str
    body: bytes


def hubspot(event: CallEnriched, external: str, fields: Mapping[str, str]) -> CrmRequest:
    """One call, made or changed by its id in the property `external`, which must be unique."""
    id = external_id(event.tenant_id, event.call_id)
    # HubSpot takes every value as text.
    told = {name: str(value) for name, value in values(event, fields).items()}
    made = {"inputs": [{"idProperty": external, "id": id, "properties": {**told, external: id}}]}
    return CrmRequest("POST", "/crm/v3/objects/calls/batch/upsert", msgspec.json.encode(made))


def salesforce(
    event: CallEnriched, object: str, external: str, fields: Mapping[str, str], api: str
) -> CrmRequest:
    """One call, made or changed by its id in the external id field `external` of `object`."""
    id = external_id(event.tenant_id, event.call_id)
    path = f"/services/data/{api}/sobjects/{quote(object)}/{quote(external)}/{quote(id)}"
    return CrmRequest("PATCH", path, msgspec.json.encode(values(event, fields)))
