"""Alerts of what happens beside spending: limits that are reached, keys that expire or rest, upstreams that cannot be used."""

import json
import time

import pytest

from harness import Fake, until
from test_alerts import hook, mail_to, mailbox, told  # noqa: F401

ALERTS = "/tollgate/v1/event_alerts"
DAY = 86_400


def webhook(hook):
    return {"type": "webhook", "url": hook.url}


def listen(server, channel, *events, **more):
    answer = server.post(ALERTS, {"events": list(events), "notification_channel": channel, **more})
    assert answer.status == 200, answer
    if "signing_secret" in answer.json:
        server.remember(answer.json["signing_secret"])
    return answer.json


def heard(hook, seconds=30):
    _, _, body = hook.posts.get(timeout=seconds)
    event = json.loads(body)
    return event["type"], event["data"]


def quiet(server, hook):
    """Nothing is on its way, after all has been looked at once more."""
    probe = server.post("/v1/organization/spend_alerts", {"threshold_amount": 0, "currency": "USD", "interval": "month", "notification_channel": webhook(hook)}).json
    server.remember(probe["signing_secret"])
    key = server.key(server.default_project)["value"]
    assert server.chat(key).status == 200
    event, data = heard(hook)
    assert event == "spend_alert.reached" and data["id"] == probe["id"], (event, data)
    server.delete(f"/v1/organization/spend_alerts/{probe['id']}")


def test_a_limit_that_is_reached_is_told_once_and_again_when_it_was_raised(told, hook, mailbox):
    project = told.project("Search")
    key = told.key(project, "crawler")
    everything, of_project = listen(told, webhook(hook), "spend_limit.reached"), listen(told, mail_to("lead@example.com"), "spend_limit.reached", project_id=project)
    path = f"/tollgate/v1/api_keys/{key['id']}/spend_limits"
    limit = told.post(path, {"threshold_amount": 1, "interval": "day"}).json["id"]
    ask = lambda tokens=900: told.chat(key["value"], model="gpt-4o", max_completion_tokens=tokens, simulate={"output_tokens": tokens})
    # One that is too large for what is left does not mean that it is reached.
    assert ask(300).status == 200 and ask(900).status == 429
    quiet(told, hook)
    assert ask(600).status == 200 and ask().status == 429 and ask().status == 429
    event, data = heard(hook)
    assert event == "spend_limit.reached" and (data["scope"], data["scope_id"], data["scope_name"], data["interval"]) == ("api_key", key["id"], "crawler", "day"), data
    assert (data["amount"], data["event_alert_id"]) == ("0.010000000", everything["id"]) and 0 < float(data["spent"]) < 0.01
    to, mail = mailbox.mails.get(timeout=30)
    assert to == ["lead@example.com"] and mail["Subject"] == "crawler has reached its spend limit of $0.01" and of_project["id"] in mail.get_content()
    quiet(told, hook)
    assert told.post(f"{path}/{limit}", {"threshold_amount": 2}).status == 200
    assert ask().status == 200 and ask().status == 429
    assert heard(hook)[1]["amount"] == "0.020000000"
    seen = told.get("/tollgate/v1/notifications").json["data"]
    assert {(n["event"], n["event_alert_id"], n["spend_alert_id"] is None) for n in seen if n["event"] != "spend_alert.reached"} == {
        ("spend_limit.reached", everything["id"], True), ("spend_limit.reached", of_project["id"], True)}
    assert until(lambda: told.get(f"{ALERTS}/{everything['id']}").json["last_notification"]["status"] == "delivered")
    # A limit of another project is nobody's business there.
    other = told.project()
    told.limit(other, 1)
    second = told.key(other)["value"]
    told.chat(second, model="gpt-4o", max_completion_tokens=900, simulate={"output_tokens": 900})
    until(lambda: told.chat(second, model="gpt-4o", max_completion_tokens=900).status == 429)
    assert heard(hook)[1]["scope_id"] == other
    mails = [mailbox.mails.get(timeout=30)]
    assert "$0.02" in mails[0][1]["Subject"] and mailbox.mails.empty()


def aged(server, ages):
    """Keys as old as they are said to be, by name: (made so many days ago, expires in so many days, used so many days ago)."""
    ids = {name: server.key(server.default_project, name)["id"] for name in ages}
    now = int(time.time())
    assert server.process.stop() == 0
    with server.database() as database:
        for name, (made, expires, used) in ages.items():
            at = lambda days, sign: None if days is None else now + sign * int(days * DAY)
            database.execute("UPDATE api_key SET created_at = ?, expires_at = ?, last_used_at = ? WHERE id = ?", (at(made, -1), at(expires, 1), at(used, -1), ids[name]))
    server.start()
    return ids


def backdate(server, days):
    """As if keys had been looked at so many days ago, and not since."""
    assert server.process.stop() == 0
    with server.database() as database:
        database.execute("UPDATE spend_alert SET looked_at = looked_at - ?", (int(days * DAY),))
    server.start()


def names(data):
    return sorted(key["name"] for key in data["keys"])


def test_keys_that_expire_are_told_of_at_fourteen_and_three_days_and_when_they_have(told, hook):
    listen(told, webhook(hook), "api_key.expiring")
    quiet(told, hook)
    ids = aged(told, {"far": (100, 30, None), "two weeks": (100, 13.9, None), "days": (100, 2.9, None), "over": (100, -0.1, None), "hourly": (0.1, 0.5, None), "ever": (100, None, None)})
    backdate(told, 1)
    seen = {}
    for _ in range(3):
        event, data = heard(hook)
        assert event == "api_key.expiring" and data["organization_name"]
        seen[data["days"]] = data
    assert {days: names(data) for days, data in seen.items()} == {14: ["two weeks"], 3: ["days"], 0: ["over"]}
    [key] = seen[14]["keys"]
    assert key["id"] == ids["two weeks"] and key["project_id"] == told.default_project and abs(key["expires_at"] - time.time() - 13.9 * DAY) < 600
    told.restart()
    quiet(told, hook)
    backdate(told, 0.05)
    quiet(told, hook)


def test_a_new_alert_tells_of_keys_that_expire_soon_or_rest_already(told, hook, mailbox):
    aged(told, {"soon": (100, 9, 1), "short": (5, 5, 1), "resting": (200, None, 95), "never used": (91, None, None), "young": (80, None, None), "busy": (200, None, 1), "expired": (200, -1, 150)})
    listen(told, webhook(hook), "api_key.expiring", "api_key.unused")
    seen = dict(heard(hook) for _ in range(2))
    assert names(seen["api_key.expiring"]) == ["short", "soon"] and seen["api_key.expiring"]["days"] == 14
    assert names(seen["api_key.unused"]) == ["never used", "resting"] and (seen["api_key.unused"]["days"], seen["api_key.unused"]["count"]) == (90, 2)
    listen(told, mail_to("ops@example.com"), "api_key.unused", unused_after_days=79)
    to, mail = mailbox.mails.get(timeout=30)
    text = mail.get_content()
    assert "3 API keys" in mail["Subject"] and "not used for 79 days" in mail["Subject"]
    assert "- young (" in text and ": never" in text and "busy" not in text
    told.restart()
    quiet(told, hook)


def test_an_upstream_that_cannot_be_used_is_told_to_operators_once_and_so_is_its_return(told, hook):
    broken = [True]
    fake = told.fake(lambda body, handler: (500, {"error": {"message": "x"}}) if broken else (200, Fake.completion()))
    listen(told, webhook(hook), "upstream.down")
    key = told.key(told.default_project)["value"]
    until(lambda: told.chat(key, model="fake").status and not hook.posts.empty())
    event, data = heard(hook)
    assert event == "upstream.down" and (data["upstream_id"], data["name"]) == (fake.id, "fake1"), data
    told.restart()
    for _ in range(8):
        told.chat(key, model="fake")
    quiet(told, hook)
    broken.clear()
    until(lambda: told.chat(key, model="fake").status == 200)
    event, data = heard(hook)
    assert event == "upstream.recovered" and data["since"] <= data["recovered_at"]
    # One that follows it closely is not told.
    broken.append(True)
    for _ in range(10):
        told.chat(key, model="fake")
    quiet(told, hook)


def test_event_alerts_are_listed_replaced_and_deleted(told, hook):
    one, two = listen(told, mail_to(), "api_key.unused", "spend_limit.reached", "api_key.unused", unused_after_days=10), listen(told, mail_to(), "upstream.down")
    assert one["object"] == "tollgate.event_alert" and one["events"] == ["spend_limit.reached", "api_key.unused"] and one["unused_after_days"] == 10 and one["project_id"] is None
    assert [a["id"] for a in told.get(ALERTS).json["data"]] == [one["id"], two["id"]]
    assert told.get(ALERTS, limit=1).json["has_more"] is True and [a["id"] for a in told.get(ALERTS, after=one["id"]).json["data"]] == [two["id"]]
    assert [a["id"] for a in told.get(ALERTS, order="desc").json["data"]] == [two["id"], one["id"]]
    assert told.get("/v1/organization/spend_alerts").json["data"] == [], "they are no spend alerts"
    changed = told.post(f"{ALERTS}/{one['id']}", {"events": ["api_key.expiring"], "notification_channel": webhook(hook)})
    assert changed.status == 200 and changed.json["events"] == ["api_key.expiring"] and told.remember(changed.json["signing_secret"])
    assert told.delete(f"{ALERTS}/{two['id']}").json == {"object": "tollgate.event_alert.deleted", "id": two["id"], "deleted": True}
    assert told.get(f"{ALERTS}/{two['id']}").status == 404 and told.get("/v1/organization/spend_alerts/" + one["id"].replace("event", "spend")).status == 404
    kinds = [e for e in told.get("/v1/organization/audit_logs").json["data"] if "event_alert" in json.dumps(e)]
    assert len(kinds) == 4


@pytest.mark.parametrize("body, param", [
    ({"events": []}, "events"), ({"events": ["nonsense"]}, "events"), ({"events": "api_key.unused"}, "events"), ({}, "events"),
    ({"events": ["api_key.unused"], "unused_after_days": 0}, "unused_after_days"), ({"events": ["api_key.unused"], "unused_after_days": 9999}, "unused_after_days"),
    ({"events": ["api_key.expiring"], "unused_after_days": 9}, "unused_after_days"), ({"events": ["api_key.unused"], "project_id": "proj_absent"}, "project_id"),
    ({"events": ["upstream.down"], "project_id": "default"}, "events"), ({"events": ["api_key.unused"], "notification_channel": {"type": "email", "recipients": []}}, "notification_channel.recipients"),
    ({"events": ["api_key.unused"], "notification_channel": None}, "notification_channel"), ({"events": ["api_key.unused"], "until": 1}, "until"),
])
def test_event_alerts_that_cannot_be_are_refused(server, body, param):
    body = {"notification_channel": mail_to(), **body}
    if body.get("project_id") == "default":
        body["project_id"] = server.default_project
    before = server.stored()
    refused = server.post(ALERTS, body)
    assert refused.status == 400 and refused.error["param"] == param, refused
    assert server.stored() == before


def test_nobody_has_keys_named_whom_they_are_not_shown_and_names_call_no_channel(told, hook):
    made = told.post("/v1/organization/admin_api_keys", {"name": "money", "scopes": ["api.organization.spend_limits.read", "api.organization.spend_limits.write"]}).json
    key = told.remember(made["value"])
    for event in ("api_key.unused", "api_key.expiring"):
        refused = told.post(ALERTS, {"events": [event], "notification_channel": mail_to()}, key=key)
        assert refused.status == 403, refused
    assert told.post(ALERTS, {"events": ["spend_limit.reached"], "notification_channel": mail_to()}, key=key).status == 200
    aged(told, {"<!channel> <https://evil.example|Renew & win>": (200, None, 95)})
    listen(told, {"type": "slack", "url": hook.url}, "api_key.unused")
    text = json.loads(hook.posts.get(timeout=30)[2])["text"]
    assert "&lt;!channel&gt; &lt;https://evil.example|Renew &amp; win&gt;" in text and "<" not in text


def test_an_outage_that_follows_another_closely_is_told_if_it_lasts_and_only_to_operators(told, hook):
    broken = [True]
    told.fake(lambda body, handler: (500, {"error": {"message": "x"}}) if broken else (200, Fake.completion()))
    listen(told, webhook(hook), "upstream.down")
    key = told.key(told.default_project)["value"]
    fail = lambda: until(lambda: told.chat(key, model="fake").status >= 500 and told.chat(key, model="fake").status >= 500)
    for _ in range(6):
        fail()
    assert heard(hook)[0] == "upstream.down"
    broken.clear()
    until(lambda: told.chat(key, model="fake").status == 200)
    assert heard(hook)[0] == "upstream.recovered"
    broken.append(True)
    for _ in range(6):
        fail()
    quiet(told, hook)
    assert told.process.stop() == 0
    with told.database() as database:
        database.execute("UPDATE upstream_outage SET since = since - 3600, told_at = told_at - 3600")
    told.start()
    for _ in range(6):
        fail()
    event, data = heard(hook)
    assert event == "upstream.down" and data["since"] < time.time() - 3_000
    assert told.process.stop() == 0
    with told.database() as database:
        database.execute("UPDATE app_user SET is_operator = FALSE")
    told.start()
    broken.clear()
    until(lambda: told.chat(key, model="fake").status == 200)
    quiet(told, hook)


def test_only_operators_are_told_how_upstreams_are(server):
    theirs = server.post("/tollgate/v1/organizations", {"name": "Theirs", "owner_email": "eve@example.com"}).json
    key = server.remember(theirs["admin_api_key"])
    refused = server.post(ALERTS, {"events": ["upstream.down"], "notification_channel": mail_to()}, key=key)
    assert refused.status == 403 and refused.error["code"] == "operator_required"
    assert server.post(ALERTS, {"events": ["api_key.unused"], "notification_channel": mail_to()}, key=key).status == 200
