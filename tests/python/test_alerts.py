"""Spend alerts: OpenAI's objects, and people who are told once, by e-mail, webhook or Slack, whatever fails on the way."""

import email
import email.policy
import http.server
import json
import queue
import socketserver
import threading
import time
from decimal import Decimal

import pytest
from openai import OpenAI

from harness import Server, request, run, until

ALERTS = "/v1/organization/spend_alerts"
MONTH = {"currency": "USD", "interval": "month"}


def mail_to(*recipients, **more):
    return {"type": "email", "recipients": list(recipients) or ["money@example.com"], **more}


class Mailbox:
    """A mail server as small as can be, which takes every mail, or refuses as it is told."""

    def __init__(self):
        mailbox = self
        self.mails, self.refuse, self.is_silent, self.silence = queue.Queue(), False, False, threading.Event()

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                if mailbox.is_silent:
                    return mailbox.silence.wait(60)
                say = lambda line: self.wfile.write(line.encode() + b"\r\n")
                say("220 here")
                to = []
                while line := self.rfile.readline().decode().rstrip():
                    verb = line.split(":")[0].split(" ")[0].upper()
                    if verb == "RCPT":
                        if "locked@" in line:
                            say("535 who are you")
                            continue
                        if "gone@" in line:
                            say("550 no such user; internal relay mx3.corp.local")
                            continue
                        to.append(line.split("<")[1].split(">")[0])
                    if verb == "DATA":
                        say("354 go on")
                        lines = list(iter(self.rfile.readline, b".\r\n"))
                        mailbox.mails.put((to, email.message_from_bytes(b"".join(lines), policy=email.policy.default)))
                    if verb == "MAIL" and mailbox.refuse:
                        say("451 not now")
                        continue
                    say("221 bye" if verb == "QUIT" else "250 yes")

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"smtp://127.0.0.1:{self.server.server_address[1]}"

    def stop(self):
        self.silence.set()
        self.server.shutdown()
        self.server.server_close()


class Hook:
    """A receiver of webhooks that answers as it is told."""

    def __init__(self):
        hook = self
        self.posts, self.status, self.hold = queue.Queue(), 200, None

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = hook.status
                hook.posts.put((self.path, dict(self.headers), body))
                if hook.hold:
                    hook.hold.wait(60)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", hook.url)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def mailbox():
    mailbox = Mailbox()
    yield mailbox
    mailbox.stop()


@pytest.fixture
def hook():
    hook = Hook()
    yield hook
    hook.stop()


@pytest.fixture
def told(tmp_path, simulator, mailbox):
    """A server that can send mail, and reaches webhooks on this machine."""
    home = tmp_path / "server"
    home.mkdir()
    server = Server(home, "--smtp-url", mailbox.url, "--mail-from", "Tollgate <ai@example.com>", "--webhook-networks", "127.0.0.0/8")
    server.upstream(simulator)
    server.mailbox = mailbox
    yield server
    server.finish()


def alert(server, threshold, channel, project=None):
    path = f"/v1/organization/projects/{project}/spend_alerts" if project else ALERTS
    answer = server.post(path, {"threshold_amount": threshold, "notification_channel": channel, **MONTH})
    assert answer.status == 200, answer
    if "signing_secret" in answer.json:
        server.remember(answer.json["signing_secret"])
    return answer.json


def spend(server, project=None):
    """Two cents, and a little."""
    key = server.key(project or server.default_project)
    assert server.chat(key["value"], model="gpt-4o", simulate={"output_tokens": 2000}).status == 200


def notifications(server, **query):
    return server.get("/tollgate/v1/notifications", **query).json["data"]


def delivered(server, count=1):
    return until(lambda: [n for n in notifications(server) if n["status"] == "delivered"][count - 1:] and notifications(server))


def test_openais_objects_of_the_organization_and_of_a_project(server):
    project = server.project()
    admin = server.admin
    for alerts, more, called in [(admin.spend_alerts, {}, "organization"), (admin.projects.spend_alerts, {"project_id": project}, "project")]:
        channel = {"type": "email", "recipients": ["Ada@Example.com", "bob@example.com", "ada@example.com"], "subject_prefix": "[AI]"}
        made = alerts.create(**more, threshold_amount=8000, notification_channel=channel, **MONTH)
        assert (made.object, made.threshold_amount, made.currency, made.interval) == (f"{called}.spend_alert", 8000, "USD", "month")
        assert made.notification_channel.recipients == ["ada@example.com", "bob@example.com"] and made.notification_channel.subject_prefix == "[AI]"
        assert alerts.retrieve(made.id, **more) == made
        changed = alerts.update(made.id, **more, threshold_amount=0, notification_channel=mail_to("eve@example.com"), **MONTH)
        assert changed.id == made.id and changed.threshold_amount == 0 and changed.notification_channel.subject_prefix is None
        others = [alerts.create(**more, threshold_amount=cents, notification_channel=channel, **MONTH).id for cents in range(4)]
        everything = [made.id, *others]
        assert [a.id for a in alerts.list(**more, limit=2)] == everything
        assert [a.id for a in alerts.list(**more, order="desc")] == everything[::-1]
        page = alerts.list(**more, before=everything[3], limit=2)
        assert [a.id for a in page.data] == everything[1:3] and page.has_more
        assert [a.id for a in alerts.list(**more, before=everything[1], order="desc", limit=2).data] == everything[3:1:-1]
        assert alerts.list(**more, limit=0).data == []
        gone = alerts.delete(made.id, **more)
        assert gone.deleted and gone.object == f"{called}.spend_alert.deleted"
    of_project = f"/v1/organization/projects/{project}/spend_alerts"
    mine = server.get(of_project).json["data"][0]["id"]
    assert server.get(f"{ALERTS}/{mine}").status == server.delete(f"{ALERTS}/{mine}").status == 404, "each has its own"
    told = [e for e in admin.audit_logs.list(event_types=["organization.updated"]) if e.organization_updated and "spend_alert" in e.organization_updated.changes_requested.model_dump()]
    assert len(told) == 7, "each change is in the audit log"
    server.post(f"/v1/organization/projects/{project}/archive")
    assert server.post(of_project, {"threshold_amount": 1, "notification_channel": mail_to(), **MONTH}).status == 400


@pytest.mark.parametrize("change, param", [
    ({"threshold_amount": -1}, "threshold_amount"), ({"threshold_amount": 2**62}, "threshold_amount"), ({"threshold_amount": "80"}, "threshold_amount"), ({"currency": "EUR"}, "currency"),
    ({"interval": "day"}, "interval"), ({"notification_channel": {"type": "pager"}}, "notification_channel.type"), ({"notification_channel": mail_to() | {"recipients": []}}, "notification_channel.recipients"),
    ({"notification_channel": mail_to("nobody")}, "notification_channel.recipients[0]"), ({"notification_channel": mail_to("a@b.c", "x@y z")}, "notification_channel.recipients[1]"),
    ({"notification_channel": mail_to(*[f"a{n}@b.c" for n in range(51)])}, "notification_channel.recipients"), ({"notification_channel": mail_to(subject_prefix="a\nBcc: x@y.z")}, "notification_channel.subject_prefix"),
    ({"notification_channel": mail_to(url="https://x.y")}, "notification_channel.url"), ({"notification_channel": {"type": "webhook", "url": "ftp://x"}}, "notification_channel.url"),
    ({"notification_channel": {"type": "webhook"}}, "notification_channel.url"), ({"notification_channel": {"type": "webhook", "url": "https://u:p@x.y/"}}, "notification_channel.url"),
    ({"notification_channel": {"type": "slack", "url": "https://x.y/\r\nHost: z"}}, "notification_channel.url"), ({"notification_channel": {"type": "slack", "url": "https://x.y", "recipients": ["a@b.c"]}}, "notification_channel.recipients"),
    ({"notification_channel": None}, "notification_channel"), ({"colour": "red"}, "colour")])
def test_what_is_wrong_with_an_alert_is_said(server, change, param):
    body = {"threshold_amount": 8000, "notification_channel": mail_to(), **MONTH}
    answer = server.post(ALERTS, body | change)
    assert answer.status == 400 and answer.error["param"] == param, answer
    for name in body:
        assert server.post(ALERTS, {k: v for k, v in body.items() if k != name}).error["param"] == name
    assert server.get(ALERTS).json["data"] == []


def test_a_threshold_is_told_once_by_mail_within_seconds(told):
    project = told.project("Research")
    alert(told, 2, mail_to("ada@example.com", "bob@example.com", subject_prefix="[AI]"), project)
    whole = alert(told, 4, mail_to("cfo@example.com"))
    alert(told, 1_000_000, mail_to("never@example.com"))
    spend(told, project)
    got = [told.mailbox.mails.get(timeout=30) for _ in range(2)]
    assert sorted(to for to, _ in got) == [["ada@example.com"], ["bob@example.com"]], "each has a mail of their own"
    mail = got[0][1]
    assert mail["Subject"] == f"[AI] Research has spent $0.02 in {time.strftime('%Y-%m', time.gmtime())}" and mail["From"] == "Tollgate <ai@example.com>"
    text = mail.get_content()
    assert "The project Research of" in text and "$0.02 is what you wanted to be told at" in text
    # The organization's is reached by the sum of its projects.
    spend(told)
    to, mail = told.mailbox.mails.get(timeout=30)
    assert to == ["cfo@example.com"] and "The organization" in mail.get_content()
    spend(told, project)
    found = delivered(told, 3)
    assert len(found) == 3 and {n["event"] for n in found} == {"spend_alert.reached"} and all(n["attempts"] == 1 for n in found)
    assert told.get(f"{ALERTS}/{whole['id']}").json["last_notification"]["status"] == "delivered"
    # Another threshold is another thing to be told of, in the same month.
    told.post(f"{ALERTS}/{whole['id']}", {"threshold_amount": 5, "notification_channel": mail_to("ceo@example.com"), **MONTH})
    to, _ = told.mailbox.mails.get(timeout=30)
    assert to == ["ceo@example.com"]
    # And the same one is not, even if the process has ended meanwhile.
    told.restart()
    told.post(f"{ALERTS}/{whole['id']}", {"threshold_amount": 4, "notification_channel": mail_to("cfo@example.com"), **MONTH})
    fresh = alert(told, 1, mail_to("new@example.com"))
    to, _ = told.mailbox.mails.get(timeout=30)
    assert to == ["new@example.com"] and told.mailbox.mails.empty(), fresh


def test_a_webhook_is_signed_as_openai_signs_its_own(told, hook):
    project = told.project("Research")
    url = hook.url + "?token=SECRETTOKEN"
    told.remember("SECRETTOKEN")
    made = alert(told, 1, {"type": "webhook", "url": url}, project)
    assert made["notification_channel"]["url"] == hook.url.removesuffix("/hook") + "/..." and made["signing_secret"].startswith("whsec_")
    assert "signing_secret" not in told.get(f"/v1/organization/projects/{project}/spend_alerts/{made['id']}").json
    spend(told, project)
    path, headers, body = hook.posts.get(timeout=30)
    assert path == "/hook?token=SECRETTOKEN" and headers["Content-Type"] == "application/json"
    OpenAI(api_key="x").webhooks.verify_signature(body.decode(), headers, secret=made["signing_secret"])
    with pytest.raises(Exception):
        OpenAI(api_key="x").webhooks.verify_signature(body.decode() + " ", headers, secret=made["signing_secret"])
    event = json.loads(body)
    assert (event["object"], event["type"], event["id"]) == ("event", "spend_alert.reached", headers["webhook-id"])
    data = event["data"]
    assert (data["id"], data["project_id"], data["project_name"], data["threshold_amount"], data["interval"]) == (made["id"], project, "Research", 1, "month")
    assert Decimal(data["spent"]) == sum(Decimal(row["cost"]) for row in told.requests())
    # The same address keeps its secret, another gets another.
    path = f"/v1/organization/projects/{project}/spend_alerts/{made['id']}"
    kept = told.post(path, {"threshold_amount": 2, "notification_channel": {"type": "webhook", "url": url}, **MONTH}).json
    assert "signing_secret" not in kept
    _, headers, body = hook.posts.get(timeout=30)
    OpenAI(api_key="x").webhooks.verify_signature(body.decode(), headers, secret=made["signing_secret"])
    other = told.post(path, {"threshold_amount": 3_000, "notification_channel": {"type": "webhook", "url": hook.url}, **MONTH}).json
    assert told.remember(other["signing_secret"]) != made["signing_secret"]


def test_slack_is_told_in_a_sentence(told, hook):
    told.remember("T000/B000/XXXX")
    made = alert(told, 0, {"type": "slack", "url": hook.url.replace("/hook", "/services/T000/B000/XXXX")})
    assert made["notification_channel"]["url"].endswith("/...") and "XXXX" not in json.dumps(made)
    time_before = time.time()
    assert notifications(told) == [], "nothing was spent yet"
    spend(told)
    path, headers, body = hook.posts.get(timeout=30)
    assert path == "/services/T000/B000/XXXX" and set(json.loads(body)) == {"text"} and "has spent $0.02" in json.loads(body)["text"], time_before


def test_what_does_not_arrive_is_tried_again_and_shown(told, hook):
    hook.status = 500
    made = alert(told, 1, {"type": "webhook", "url": hook.url})
    spend(told)
    _, first, _ = hook.posts.get(timeout=30)
    [waiting] = until(lambda: [n for n in notifications(told, status="pending") if n["attempts"] == 1])
    assert waiting["error"] == "it answered with 500" and waiting["next_attempt_at"] > waiting["created_at"] + 5
    assert told.get(f"{ALERTS}/{made['id']}").json["last_notification"] == {"id": waiting["id"], "status": "pending", "error": "it answered with 500", "created_at": waiting["created_at"]}
    looked = run("doctor", env={"TOLLGATE_URL": told.base_url, "TOLLGATE_ADMIN_KEY": told.admin_key})
    assert f"A notification of the alert {made['id']} has not arrived: it answered with 500." in looked.stdout, looked
    hook.status = 200
    again = told.post(f"/tollgate/v1/notifications/{waiting['id']}/retry")
    assert again.status == 200, again
    _, second, _ = hook.posts.get(timeout=30)
    assert first["webhook-id"] == second["webhook-id"] == waiting["id"], "a receiver knows that it is the same"
    [done] = delivered(told)
    assert done["status"] == "delivered" and done["error"] is None and told.get(f"/tollgate/v1/notifications/{done['id']}").json == done
    assert notifications(told, status="failed") == []
    told.mailbox.refuse = True
    alert(told, 2, mail_to())
    [refused] = until(lambda: [n for n in notifications(told, status="pending") if n["attempts"] == 1])
    assert refused["error"] == "the mail server refused it for now"
    told.delete(f"{ALERTS}/{refused['spend_alert_id']}")
    assert notifications(told, status="failed")[0]["error"] == "the alert was deleted, or is told elsewhere now"
    assert told.post(f"/tollgate/v1/notifications/{refused['id']}/retry").error["code"] == "alert_gone"


def test_a_webhook_goes_where_it_may_and_follows_nobody(server, hook):
    """The server lists no private network, so that this machine is none of its business."""
    fake = server.fake(lambda body, handler: (200, {"id": "x", "object": "chat.completion", "created": 1, "model": "fake", "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}],
                                                      "usage": {"prompt_tokens": 100_000, "completion_tokens": 1, "total_tokens": 100_001}}), context_tokens=1_000_000)
    for url in (hook.url, hook.url.replace("127.0.0.1", "localhost"), hook.url.replace("127.0.0.1", "[::ffff:127.0.0.1]"), "http://169.254.169.254/latest"):
        alert(server, 1, {"type": "webhook", "url": url})
    assert server.chat(server.key(server.default_project)["value"], model="fake", text="x" * 1000).status == 200 and fake.bodies
    failed = until(lambda: len(tried := [n for n in notifications(server) if n["attempts"] == 1]) == 4 and tried)
    assert {n["error"] for n in failed} == {"it cannot be reached, or is at an address that is not allowed"}, "nothing of what is where"
    assert hook.posts.empty()


def test_a_redirect_is_not_followed(told, hook):
    hook.status = 302
    alert(told, 1, {"type": "webhook", "url": hook.url})
    spend(told)
    hook.posts.get(timeout=30)
    [tried] = until(lambda: [n for n in notifications(told) if n["attempts"] == 1])
    assert tried["error"] == "it answered with 302" and hook.posts.empty()


def test_without_a_mail_server_an_alert_says_so(gateway):
    made = alert(gateway, 1, mail_to())
    spend(gateway)
    [tried] = until(lambda: [n for n in notifications(gateway) if n["attempts"] == 1])
    assert "--smtp-url" in tried["error"] and gateway.get(f"{ALERTS}/{made['id']}").json["last_notification"]["status"] == "pending"


def test_another_organizations_alerts_are_its_own(told):
    theirs = told.post("/tollgate/v1/organizations", {"name": "Theirs", "owner_email": "eve@example.com"}).json
    told.remember(theirs["admin_api_key"])
    mine = alert(told, 1, mail_to())
    spend(told)
    [sent] = delivered(told)
    for path in (f"{ALERTS}/{mine['id']}", f"/tollgate/v1/notifications/{sent['id']}"):
        assert request(told.url, "GET", path, key=theirs["admin_api_key"]).status == 404
    for path in (ALERTS, "/tollgate/v1/notifications"):
        assert request(told.url, "GET", path, key=theirs["admin_api_key"]).json["data"] == []
    assert request(told.url, "POST", f"/tollgate/v1/notifications/{sent['id']}/retry", key=theirs["admin_api_key"], body={}).status == 404


def test_a_mail_server_that_says_nothing_keeps_nobody_else_from_being_told(told, hook):
    told.mailbox.is_silent = True
    alert(told, 1, mail_to("a@example.com", "b@example.com", "c@example.com"))
    spend(told)
    until(lambda: len(notifications(told)) == 3)
    alert(told, 1, {"type": "webhook", "url": hook.url})
    hook.posts.get(timeout=25)
    assert [n["status"] for n in notifications(told)].count("delivered") <= 1
    told.mailbox.silence.set()


def test_who_is_gone_keeps_nobody_else_from_getting_mail(told):
    made = alert(told, 1, mail_to("gone@example.com", "ok@example.com"))
    spend(told)
    to, _ = told.mailbox.mails.get(timeout=30)
    assert to == ["ok@example.com"]
    [failed] = until(lambda: notifications(told, status="failed"))
    assert failed["notification_channel"]["recipients"] == ["gone@example.com"] and failed["attempts"] == 1, "for good"
    assert failed["error"] == "the mail server refused it for good", "and not in the server's words"
    alert(told, 1, mail_to("locked@example.com"))
    [waiting] = until(lambda: [n for n in notifications(told, status="pending") if n["attempts"] == 1])
    assert waiting["error"] == "the mail server refused it for now", "a password can be mended"
    assert told.get(f"{ALERTS}/{made['id']}").json["last_notification"]["id"] == failed["id"]


def test_an_alert_that_is_read_and_written_back_keeps_its_address(told, hook):
    told.remember("SECRETTOKEN")
    for channel in ({"type": "webhook", "url": hook.url + "/?token=SECRETTOKEN"}, {"type": "slack", "url": hook.url + "/services/SECRETTOKEN"}):
        made = alert(told, 1_000_000, channel)
        shown = told.get(f"{ALERTS}/{made['id']}").json["notification_channel"]
        assert "SECRETTOKEN" not in json.dumps(shown)
        answer = told.post(f"{ALERTS}/{made['id']}", {"threshold_amount": 1, "notification_channel": shown, **MONTH})
        assert answer.status == 200 and "signing_secret" not in answer.json and answer.json["notification_channel"] == shown, answer
        spend(told)
        path, headers, body = hook.posts.get(timeout=30)
        assert path == "/hook" + channel["url"].removeprefix(hook.url), "to the slash at its end"
        if channel["type"] == "webhook":
            OpenAI(api_key="x").webhooks.verify_signature(body.decode(), headers, secret=made["signing_secret"])
        other = alert(told, 1_000_000, mail_to())
        refused = told.post(f"{ALERTS}/{other['id']}", {"threshold_amount": 1, "notification_channel": shown, **MONTH})
        assert refused.status == 400 and refused.error["param"] == "notification_channel.url", "it is no address of anything else"


def test_what_is_deleted_while_it_is_sent_is_not_sent_again(told, hook):
    hook.hold, hook.status = threading.Event(), 500
    made = alert(told, 1, {"type": "webhook", "url": hook.url})
    spend(told)
    hook.posts.get(timeout=30)
    assert told.delete(f"{ALERTS}/{made['id']}").status == 200
    hook.hold.set()
    # Another goes through all of it, and after that the first still stands as it was put.
    hook.status = 200
    alert(told, 2, {"type": "webhook", "url": hook.url})
    delivered(told)
    [gone] = notifications(told, status="failed")
    assert gone["spend_alert_id"] == made["id"] and gone["error"] == "the alert was deleted, or is told elsewhere now" and gone["next_attempt_at"] is None


def test_an_update_takes_along_what_waits(told, hook):
    hook.status = 500
    made = alert(told, 1, {"type": "webhook", "url": hook.url})
    spend(told)
    [waiting] = until(lambda: [n for n in notifications(told, status="pending") if n["attempts"] == 1])
    hook.status = 200
    changed = told.post(f"{ALERTS}/{made['id']}", {"threshold_amount": 1, "notification_channel": {"type": "slack", "url": hook.url + "/elsewhere"}, **MONTH})
    assert changed.status == 200
    hook.posts.get(timeout=30)
    assert told.get(f"/tollgate/v1/notifications/{waiting['id']}").json["notification_channel"]["type"] == "slack"
    told.post(f"/tollgate/v1/notifications/{waiting['id']}/retry")
    assert hook.posts.get(timeout=30)[0] == "/hook/elsewhere"
    told.post(f"{ALERTS}/{made['id']}", {"threshold_amount": 1, "notification_channel": mail_to(), **MONTH})
    assert delivered(told)[0]["id"] == waiting["id"]
    refused = told.post(f"/tollgate/v1/notifications/{waiting['id']}/retry")
    assert refused.error["code"] == "alert_gone", "what was for an address is no mail"
    told.post(f"{ALERTS}/{made['id']}", {"threshold_amount": 1, "notification_channel": {"type": "slack", "url": hook.url}, **MONTH})
    again = told.post(f"/tollgate/v1/notifications/{waiting['id']}/retry").json
    assert (again["status"], again["delivered_at"], again["attempts"]) == ("pending", None, 0)


def test_alerts_of_an_archived_project_can_be_taken_away_and_there_are_so_many_at_most(server):
    project = server.project()
    made = [alert(server, cents, mail_to(), project)["id"] for cents in range(100)]
    path = f"/v1/organization/projects/{project}/spend_alerts"
    assert server.post(path, {"threshold_amount": 1, "notification_channel": mail_to(), **MONTH}).error["code"] == "too_many_spend_alerts"
    server.post(f"/v1/organization/projects/{project}/archive")
    assert server.delete(f"{path}/{made[0]}").status == 200
