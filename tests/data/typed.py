"""A driver's errand with the client that openapi-python-client made out of the OpenAPI document: a breakdown is reported,
looked at and found in the listing. Prints the incident's id.

Arguments: the folder that the package `roadcall_client` is in, the door's URL, the driver's token."""

import sys

folder, url, token = sys.argv[1:]
sys.path.insert(0, folder)

from roadcall_client import AuthenticatedClient
from roadcall_client.api.incident import all_incident_list, one_incident_get, post_incident_create
from roadcall_client.models import Incident, IncidentWithTimeline, PageOfIncident, PostIncidentCreateBody, Problem

client = AuthenticatedClient(base_url=url, token=token, raise_on_unexpected_status=True)
body = PostIncidentCreateBody.from_dict({"type": "tire", "lat": 40.7128, "lon": -74.006})
made = post_incident_create.sync(client=client, body=body)
assert isinstance(made, Incident), made
assert made.status == "created" and made.version == 1, made
seen = one_incident_get.sync(made.incident_id, client=client)
assert isinstance(seen, IncidentWithTimeline), seen
assert seen.incident_id == made.incident_id and len(seen.timeline) == 1, seen
page = all_incident_list.sync(client=client, limit=10)
assert isinstance(page, PageOfIncident), page
assert [item.incident_id for item in page.items] == [made.incident_id], page

nowhere = PostIncidentCreateBody.from_dict({"type": "tire", "lat": 91.0, "lon": 0.0})
refused = post_incident_create.sync(client=client, body=nowhere)
assert isinstance(refused, Problem), refused
assert (refused.status, refused.code, refused.field) == (400, "VALIDATION_ERROR", "lat"), refused
print(made.incident_id)
