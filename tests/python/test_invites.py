"""Invites: sent once as a link, accepted once, by whoever the address belongs to."""

import time
import urllib.parse

import openai
import pytest

from harness import request, run

PASSWORD = "correct horse battery"


def token_of(invite):
    return urllib.parse.parse_qs(urllib.parse.urlsplit(invite["accept_url"]).query)["token"][0]


def accept(server, token, key=None, password=PASSWORD, **more):
    """Without any key, unless one is given."""
    body = {"token": token, "password": password, **more}
    return request(server.url, "POST", "/tollgate/v1/invites/accept", key=key, body={name: value for name, value in body.items() if value is not None})


def invite(server, email="ada@example.com", role="reader", **more):
    sent = server.post("/v1/organization/invites", {"email": email, "role": role, "projects": [], **more})
    assert sent.status == 200, sent
    server.remember(token_of(sent.json))
    return sent.json


def test_the_life_of_an_invite(server):
    invites, project = server.admin.invites, server.project()
    sent = invites.create(email="Ada@Example.com", role="reader", projects=[{"id": project, "role": "member"}])
    server.remember(sent.accept_url.split("=")[1])
    assert (sent.object, sent.email, sent.role, sent.status, sent.accepted_at) == ("organization.invite", "ada@example.com", "reader", "pending", None)
    assert [(one.id, one.role) for one in sent.projects] == [(project, "member")] and sent.expires_at - sent.created_at == 7 * 86_400
    assert sent.accept_url.startswith(f"{server.url}/invite?token=")
    again = invites.retrieve(sent.id)
    assert again.status == "pending" and not hasattr(again, "accept_url"), "the link is shown once"
    others = [invite(server, f"{name}@example.com")["id"] for name in ("bob", "eve")]
    assert [one.id for one in invites.list(limit=1)] == [sent.id, *others]
    deleted = invites.delete(sent.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (sent.id, True, "organization.invite.deleted")
    for call in [invites.retrieve, invites.delete]:
        with pytest.raises(openai.NotFoundError):
            call(sent.id)
    assert accept(server, sent.accept_url.split("=")[1]).error["code"] == "invite_invalid"


def test_whoever_accepts_is_a_member_with_what_the_invite_says(server):
    project = server.project()
    sent = invite(server, role="owner", projects=[{"id": project, "role": "owner"}])
    accepted = accept(server, token_of(sent), name="Ada")
    assert accepted.status == 200 and accepted.json["object"] == "tollgate.invite.accepted", accepted
    assert (accepted.json["id"], accepted.json["organization_id"], accepted.json["email"]) == (sent["id"], server.organization, "ada@example.com")
    ada = server.admin.users.retrieve(accepted.json["user_id"])
    assert (ada.email, ada.name, ada.role) == ("ada@example.com", "Ada", "owner")
    assert server.admin.projects.users.retrieve(ada.id, project_id=project).role == "owner"
    used = server.admin.invites.retrieve(sent["id"])
    assert used.status == "accepted" and used.accepted_at
    with pytest.raises(openai.BadRequestError) as refused:
        server.admin.invites.delete(sent["id"])
    assert refused.value.code == "invite_accepted"
    twice = accept(server, token_of(sent))
    assert twice.status == 400 and twice.error["code"] == "invite_accepted"
    resent = server.post(f"/tollgate/v1/invites/{sent['id']}/resend", {})
    assert resent.status == 400 and resent.error["code"] == "invite_accepted"
    [event] = [event for event in server.admin.audit_logs.list(event_types=["invite.accepted"])]
    assert event.invite_accepted.id == sent["id"] and event.actor.type == "session" and event.actor.session.user.email == "ada@example.com"


def test_without_a_word_of_projects_it_is_for_the_default_one(server):
    sent = server.post("/v1/organization/invites", {"email": "ada@example.com", "role": "reader"}).json
    server.remember(token_of(sent))
    assert sent["projects"] == [{"id": server.default_project, "role": "member"}]
    user = accept(server, token_of(sent)).json["user_id"]
    assert server.admin.projects.users.retrieve(user, project_id=server.default_project).role == "member"


def test_sent_again_it_has_another_link(server):
    sent = invite(server)
    again = server.post(f"/tollgate/v1/invites/{sent['id']}/resend", {}).json
    server.remember(token_of(again))
    assert again["id"] == sent["id"] and token_of(again) != token_of(sent)
    assert accept(server, token_of(sent)).error["code"] == "invite_invalid"
    assert accept(server, token_of(again)).status == 200


def test_an_invite_ends_after_a_week(server):
    sent = invite(server)
    assert server.process.stop() == 0
    with server.database() as database:
        database.execute("UPDATE invite SET expires_at = 1000")
    server.start()
    assert server.admin.invites.retrieve(sent["id"]).status == "expired"
    late = accept(server, token_of(sent))
    assert late.status == 400 and late.error["code"] == "invite_expired"
    again = server.post(f"/tollgate/v1/invites/{sent['id']}/resend", {}).json
    server.remember(token_of(again))
    assert again["status"] == "pending" and accept(server, token_of(again)).status == 200


@pytest.mark.parametrize("body, param", [
    ({"role": "reader"}, "email"), ({"email": "nonsense", "role": "reader"}, "email"), ({"email": "a@b.c"}, "role"), ({"email": "a@b.c", "role": "admin"}, "role"),
    ({"email": "owner@localhost", "role": "reader"}, "email"), ({"email": "pending@example.com", "role": "reader"}, "email"),
    ({"email": "a@b.c", "role": "reader", "projects": [{"id": "proj_absent", "role": "member"}]}, "projects[0].id"),
    ({"email": "a@b.c", "role": "reader", "projects": [{"id": "DEFAULT", "role": "viewer"}]}, "projects[0].role"),
    ({"email": "a@b.c", "role": "reader", "projects": [{"id": "DEFAULT", "role": "member"}] * 2}, "projects[1].id"),
    ({"email": "a@b.c", "role": "reader", "projects": "x"}, "projects"), ({"email": "a@b.c", "role": "reader", "x": 1}, "x"),
])
def test_a_bad_invite_is_refused_by_parameter(server, body, param):
    invite(server, "pending@example.com")
    for project in body.get("projects", []) if isinstance(body.get("projects"), list) else []:
        project["id"] = project["id"].replace("DEFAULT", server.default_project)
    refused = server.post("/v1/organization/invites", body)
    assert refused.status == 400 and refused.error["param"] == param, refused


@pytest.mark.parametrize("body, param", [({}, "token"), ({"token": "T"}, "password"), ({"token": "T", "password": "short"}, "password"),
                                         ({"token": "T", "password": PASSWORD, "name": "x" * 256}, "name"), ({"token": "T", "password": PASSWORD, "x": 1}, "x"),
                                         ({"token": "0" * 64, "password": PASSWORD}, "token"), ({"token": "x" * 5000, "password": PASSWORD}, "token")])
def test_a_bad_acceptance_is_refused_by_parameter_and_spends_nothing(server, body, param):
    token = token_of(invite(server))
    body = {**body, **({"token": token} if body.get("token") == "T" else {})}
    refused = request(server.url, "POST", "/tollgate/v1/invites/accept", body=body)
    assert refused.status == 400 and refused.error["param"] == param, refused
    assert accept(server, token).status == 200


def test_an_account_that_is_there_is_proved_and_never_gets_another_password(server):
    first = accept(server, token_of(invite(server))).json["user_id"]
    with server.database() as database:
        [(before,)] = database.execute("SELECT password FROM app_user WHERE id = ?", (first,))
    assert before.startswith("$argon2id$")
    server.admin.users.delete(first)
    token = token_of(invite(server))
    wrong = accept(server, token, password="another password")
    assert wrong.status == 401 and wrong.error["code"] == "sign_in_failed"
    [told] = list(server.admin.audit_logs.list(event_types=["login.failed"]))
    assert told.login_failed.error_code == "sign_in_failed" and told.actor.session.user.email == "ada@example.com" and told.actor.session.ip_address == "127.0.0.1"
    assert server.get("/v1/organization/users", emails="ada@example.com").json["data"] == []
    assert accept(server, token).json["user_id"] == first, "the same person"
    with server.database() as database:
        assert database.execute("SELECT password FROM app_user WHERE id = ?", (first,)).fetchone() == (before,)


def test_refused_sign_ins_are_counted_together(server):
    first = accept(server, token_of(invite(server))).json["user_id"]
    server.admin.users.delete(first)
    token = token_of(invite(server))
    began = time.time() // 60
    answers = [accept(server, token, password="another password").status for _ in range(15)]
    # A minute may end in the middle of them.
    assert set(answers) <= {401, 429} and answers.count(401) <= 10 * (time.time() // 60 - began + 1), answers
    server.restart()
    told = [event.login_failed.to_dict() for event in server.admin.audit_logs.list(event_types=["login.failed"])]
    # By its address somebody is refused before it is known whose account it is about.
    assert answers.count(401) <= sum(event["attempts"] for event in told) <= 15
    # In each minute the first, and then the others; a test takes no three minutes.
    assert 2 <= len(told) <= 6, told
    assert run("audit", "verify", *server.place_and_secrets).returncode == 0


def test_an_account_without_a_password_is_not_taken_over_by_an_invite(server):
    """As of an owner who was there from the beginning: invited elsewhere, it is theirs to accept, and nobody else's."""
    other = server.user("other@example.com", role="owner")
    assert other
    key = server.remember(server.post("/v1/organization/admin_api_keys", {"name": "mine"}).json["value"])
    assert server.process.stop() == 0
    with server.database() as database:
        # Another organization beside ours that the owner is no member of.
        elsewhere = "org-" + "0" * 25 + "1"
        database.execute("INSERT INTO organization (id, name, created_at) VALUES (?, 'Other', 0)", (elsewhere,))
        database.execute("INSERT INTO role_assignment VALUES (?, ?, 'role-api-organization-owner', ?, 0, NULL)", (elsewhere, other, elsewhere))
        database.execute("INSERT INTO organization_user (organization_id, user_id, added_at) VALUES (?, ?, 0)", (elsewhere, other))
    server.start()
    token = token_of(invite(server, "new@example.com"))
    assert server.process.stop() == 0
    with server.database() as database:
        database.execute("UPDATE invite SET organization_id = ?, email = 'owner@localhost', created_by = ?", (elsewhere, other))
    server.start()
    stolen = accept(server, token)
    assert stolen.status == 403 and stolen.error["code"] == "sign_in_required", stolen
    scoped = server.remember(server.post("/v1/organization/admin_api_keys", {"name": "less", "scopes": ["api.usage.read"]}).json["value"])
    assert accept(server, token, key=scoped).status == 403, "a key that may little proves little"
    accepted = accept(server, token, key=key, password=None)
    assert accepted.status == 200 and accepted.json["user_id"] == server.owner and accepted.json["organization_id"] == elsewhere
    assert server.process.stop() == 0
    with server.database() as database:
        for table in ("invite", "role_assignment", "organization_user", "audit_head"):
            database.execute(f"DELETE FROM {table} WHERE organization_id = ?", (elsewhere,))
        database.execute("DELETE FROM audit_log WHERE organization_id = ?", (elsewhere,))
        database.execute("DELETE FROM organization WHERE id = ?", (elsewhere,))
    server.start()


def test_an_invite_gives_no_more_than_its_sender_holds(server):
    """When it is sent, and when it is accepted."""
    helper = server.remember(server.post("/v1/organization/admin_api_keys", {"name": "h", "scopes": ["api.organization.invites.write"]}).json["value"])
    assert server.post("/v1/organization/invites", {"email": "eve@example.com", "role": "owner", "projects": []}, key=helper).status == 403
    sent = server.post("/v1/organization/invites", {"email": "eve@example.com", "role": "reader", "projects": []}, key=helper)
    assert sent.status == 200
    server.remember(token_of(sent.json))
    strong = invite(server, "bob@example.com", role="owner")
    server.user("other@example.com", role="owner")
    server.admin.users.update(server.owner, role="reader")
    late = accept(server, token_of(strong))
    assert late.status == 400 and late.error["code"] == "invite_invalid", late
    assert accept(server, token_of(sent.json)).status == 200, "a reader can still vouch for a reader"


def test_a_frozen_sender_vouches_for_nobody(server):
    mallory = server.user("mallory@example.com", role="owner")
    key = server.remember(server.post("/v1/organization/admin_api_keys", {"name": "hers"}).json["value"])
    assert server.process.stop() == 0
    with server.database() as database:
        database.execute("UPDATE api_key SET user_id = ? WHERE name = 'hers'", (mallory,))
    server.start()
    sent = server.post("/v1/organization/invites", {"email": "second@example.com", "role": "owner", "projects": []}, key=key).json
    server.remember(token_of(sent))
    assert server.post(f"/tollgate/v1/users/{mallory}/freeze", {}).status == 200
    refused = accept(server, token_of(sent))
    assert refused.status == 400 and refused.error["code"] == "invite_invalid"
    assert server.post(f"/tollgate/v1/users/{mallory}/unfreeze", {}).status == 200 and accept(server, token_of(sent)).status == 200


def test_a_member_s_open_invites_end_with_them(server):
    """Who is put in by hand needs no invite, and who is removed must not come back by an old one."""
    sent = invite(server, role="owner")
    user = server.user("ada@example.com")
    assert server.get(f"/v1/organization/invites/{sent['id']}").status == 404
    server.admin.users.delete(user)
    assert accept(server, token_of(sent)).error["code"] == "invite_invalid"


def test_who_joins_a_project_by_an_invite_is_in_its_log(server):
    project = server.project()
    user = accept(server, token_of(invite(server, projects=[{"id": project, "role": "owner"}]))).json["user_id"]
    [event] = list(server.admin.audit_logs.list(project_ids=[project], event_types=["user.added"]))
    assert (event.user_added.id, event.user_added.data.role) == (user, "owner")


def test_a_password_that_somebody_else_had_set_can_be_taken_away(server):
    user = accept(server, token_of(invite(server))).json["user_id"]
    server.admin.users.delete(user)
    assert server.process.stop() == 0
    assert "has no password now" in run("password", "clear", "ada@example.com", *server.place_and_secrets, check=0).stdout
    assert "had no password" in run("password", "clear", "ada@example.com", *server.place_and_secrets, check=0).stdout
    server.start()
    assert accept(server, token_of(invite(server)), password="the real one's password").json["user_id"] == user


def test_attempts_are_limited(server):
    token = token_of(invite(server))
    answers = [accept(server, "0" * 64).status for _ in range(22)]
    # A minute may end in the middle of them.
    assert 429 in answers and answers[0] == 400
    limited = accept(server, token)
    if limited.status == 429:
        assert limited.error["code"] == "rate_limit_exceeded" and 1 <= int(limited.headers["retry-after"]) <= 60


def test_the_page_takes_it_without_scripts(server):
    sent = invite(server)
    path = sent["accept_url"].removeprefix(server.url)
    shown = request(server.url, "GET", path)
    assert shown.status == 200 and shown.headers["content-type"] == "text/html; charset=utf-8" and b"<form method=\"post\"" in shown.body
    assert shown.headers["content-security-policy"].startswith("default-src 'none'") and shown.headers["referrer-policy"] == "no-referrer"
    assert shown.body.count(b"<script") == 1 and b"<script src=\"/assets/" in shown.body and b"http" not in shown.body.split(b"</head>")[1]
    odd = request(server.url, "GET", "/invite?token=" + urllib.parse.quote('"><script>alert(1)</script>'))
    assert odd.status == 400 and b"<script>alert" not in odd.body and b"There is no such invite" in odd.body
    post = lambda **form: request(server.url, "POST", "/invite", body=urllib.parse.urlencode(form).encode(), headers={"content-type": "application/x-www-form-urlencoded"})
    again = post(token=token_of(sent), name="Ada, the <first>", password="short")
    assert again.status == 400 and b"role=\"alert\"" in again.body and b"12" in again.body
    done = post(token=token_of(sent), name="Ada, the <first>", password="correct, horse & battery + staple")
    assert done.status == 200 and b"url=/" in done.body, done
    # Whoever has accepted is signed in.
    cookie = done.headers["set-cookie"]
    assert cookie.startswith("__Host-tollgate=") and {"Path=/", "HttpOnly", "SameSite=Strict", "Secure"} <= set(cookie.split("; ")), cookie
    server.remember(cookie.split("=", 1)[1].split(";")[0])
    inside = request(server.url, "GET", "/me", headers={"cookie": cookie.split(";")[0]})
    assert inside.status == 200 and b"Ada, the &lt;first&gt;" in inside.body, inside
    [ada] = server.get("/v1/organization/users", emails="ada@example.com").json["data"]
    assert ada["name"] == "Ada, the <first>"
    used = post(token=token_of(sent), name="x", password=PASSWORD)
    assert used.status == 400 and b"accepted already" in used.body and b"accepted already" in request(server.url, "GET", path).body
    assert request(server.url, "DELETE", "/invite").status == 405
