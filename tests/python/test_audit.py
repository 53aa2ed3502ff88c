"""The audit log: who did what, and that nobody changes it unseen."""

import json
import subprocess

import pytest

from harness import BINARY, clean_environment, run, until


def verify(server, *more, secrets=None):
    return run("audit", "verify", *server.place, "--secrets", secrets or server.data / "secrets/master.json", *more)


def checkpoint(server, home):
    path = home / "checkpoint"
    path.write_text(run("audit", "checkpoint", *server.place, check=0).stdout)
    return path


@pytest.fixture
def log(server):
    """A server with some events."""
    for number in range(5):
        server.project(f"Project {number}")
    server.user()
    return server


def test_it_is_intact_also_while_a_server_runs(log, tmp_path):
    kept = checkpoint(log, tmp_path)
    assert kept.read_text().startswith(log.organization + ":")
    log.project("One more")
    whole = verify(log, "--since", kept)
    assert whole.returncode == 0 and "of 1 organizations: intact" in whole.stdout, whole
    events = list(log.admin.audit_logs.list(limit=100))
    assert whole.stdout.startswith(f"audit: {len(events)} events")
    log.restart()
    assert verify(log, "--since", kept).returncode == 0


@pytest.mark.parametrize("sql, said", [
    ("UPDATE audit_log SET payload = replace(payload, 'Project 1', 'Project X') WHERE seq = 5", "is not what was written"),
    ("UPDATE audit_log SET actor_email = 'eve@example.com' WHERE seq = 5", "is not what was written"),
    ("UPDATE audit_log SET effective_at = effective_at + 1 WHERE seq = 5", "is not what was written"),
    ("DELETE FROM audit_log WHERE seq = 5", "1 are missing before 6"),
    ("UPDATE audit_log SET seq = 11 - seq + 1000 WHERE seq IN (5, 6)", "are missing"),
    ("UPDATE audit_log SET seq = NULL, mac = NULL WHERE seq = 5", "is in no chain"),
    ("DELETE FROM audit_log WHERE seq >= 5", "its end was written as"),
    ("DELETE FROM audit_log", "its end was written as"),
    ("DELETE FROM audit_head", "its end was written as 0"),
])
def test_what_somebody_with_the_database_changes_is_found(log, sql, said):
    assert log.process.stop() == 0
    with log.database() as database:
        database.execute(sql)
    found = verify(log)
    assert found.returncode == 1 and "NOT INTACT" in found.stdout and said in found.stdout, found
    log.start()
    assert verify(log).returncode == 1, "a start does not hide it"


def test_a_cut_end_is_found_by_a_checkpoint_that_was_kept_elsewhere(log, tmp_path):
    kept = checkpoint(log, tmp_path)
    assert log.process.stop() == 0
    with log.database() as database:
        database.execute("DELETE FROM audit_log WHERE seq > 4")
        database.execute("UPDATE audit_head SET seq = 4, mac = (SELECT mac FROM audit_log WHERE seq = 4)")
    log.start()
    assert verify(log).returncode == 0, "so well was it done"
    found = verify(log, "--since", kept)
    assert found.returncode == 1 and "its end was cut off" in found.stdout
    log.project("And goes on")
    for number in range(10):
        log.project(f"Until it is as long {number}")
    found = verify(log, "--since", kept)
    assert found.returncode == 1 and "is not the one of the checkpoint" in found.stdout


def test_the_log_of_the_server_says_where_it_ends(log, tmp_path):
    log.restart()
    head = checkpoint(log, tmp_path).read_text().strip()
    [line] = until(lambda: [line for line in log.log.read_text().splitlines() if head in line])
    # As it stands there it is good for a look.
    (tmp_path / "line").write_text(line + "\n")
    assert verify(log, "--since", tmp_path / "line").returncode == 0


def test_events_from_before_there_were_chains_are_chained_once(log):
    assert log.process.stop() == 0
    with log.database() as database:
        database.execute("UPDATE audit_log SET seq = NULL, mac = NULL, pepper_version = NULL")
        database.execute("DELETE FROM audit_head")
    log.start()
    log.project("And goes on")
    assert verify(log).returncode == 0
    assert log.process.stop() == 0
    with log.database() as database:
        database.execute("INSERT INTO audit_log SELECT 'audit_log-x', organization_id, event_type, effective_at, project_id, project_name, actor, actor_id, actor_email, resource_id, payload, "
                         "actor_key_id, NULL, NULL, NULL FROM audit_log WHERE seq = 3")
    log.start()
    found = verify(log)
    assert found.returncode == 1 and "audit_log-x is in no chain" in found.stdout, "not twice"


def test_a_wrong_checkpoint_or_secrets_file_is_told(log, tmp_path):
    bad = tmp_path / "bad"
    bad.write_text("org-1:2:3\n")
    refused = verify(log, "--since", bad)
    assert refused.returncode not in (0, 1) or "is no checkpoint" in refused.stderr
    assert "is no checkpoint" in refused.stderr
    other = tmp_path / "secrets.json"
    key = "A" * 43 + "="
    other.write_text(json.dumps({"pepper": [{"version": 1, "key": key}], "encryption": [{"version": 1, "key": key}]}))
    other.chmod(0o600)
    refused = verify(log, secrets=other)
    assert refused.returncode != 0 and "is not the one of this installation" in refused.stderr


def test_the_command_line_shows_it(log):
    environment = {"TOLLGATE_URL": log.base_url, "TOLLGATE_ADMIN_KEY": log.admin_key}
    shown = run("audit", "list", "--limit", "3", env=environment, check=0).stdout
    assert "user.added" in shown.splitlines()[1] and "owner@localhost" in shown and len(shown.splitlines()) == 4
    only = run("audit", "list", "--type", "project.created", "--output", "json", env=environment, check=0).stdout
    assert {event["type"] for event in json.loads(only)} == {"project.created"}
    lines = [json.loads(line) for line in run("audit", "export", env=environment, check=0).stdout.splitlines()]
    assert [event["id"] for event in lines] == [event.id for event in reversed(list(log.admin.audit_logs.list(limit=100)))]
    tail = subprocess.Popen([BINARY, "audit", "tail", "--limit", "1"], stdout=subprocess.PIPE, text=True, env=clean_environment(**environment))
    try:
        assert json.loads(tail.stdout.readline())["type"] == "user.added"
        new = log.project("While it looks")
        event = json.loads(tail.stdout.readline())
        assert event["type"] == "project.created" and event["project.created"]["id"] == new
    finally:
        tail.kill()
        tail.wait()
