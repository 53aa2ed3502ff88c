import shutil
import sqlite3
import stat
import threading

import pytest

from harness import Process, request, run

pytestmark = pytest.mark.embedded


def test_a_backup_taken_while_serving_is_whole_and_restores(gateway, tmp_path):
    project = gateway.project("kept")
    key = gateway.key(project)
    gateway.limit(project, 500)
    assert gateway.chat(key["value"]).status == 200
    stop = threading.Event()

    def traffic():
        while not stop.is_set():
            gateway.chat(key["value"])

    threads = [threading.Thread(target=traffic) for _ in range(4)]
    [thread.start() for thread in threads]
    backup = gateway.home / "backups" / "one.db"
    assert "There is no directory" in run("backup", backup, "--data", gateway.data).stderr, "a disk that is not mounted"
    backup.parent.mkdir()
    done = run("backup", backup, "--data", gateway.data, check=0)
    stop.set()
    [thread.join() for thread in threads]
    assert "secrets" in done.stdout and str(gateway.data / "secrets/master.json") in done.stdout
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert run("backup", backup, "--data", gateway.data).returncode == 1, "nothing is overwritten"
    with sqlite3.connect(backup) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT COUNT(*) FROM attempt").fetchone()[0] >= 1

    restored = gateway.home / "restored"
    done = run("restore", backup, "--data", restored, check=0)
    assert "Bring the secrets file back" in done.stdout
    without = run("serve", "--data", restored, "--listen", "127.0.0.1:0")
    assert without.returncode == 1 and "is missing" in without.stderr, "a backup alone opens nothing"
    assert run("restore", backup, "--data", restored).returncode == 1, "nothing is overwritten"

    assert stat.S_IMODE((restored / "secrets").stat().st_mode) == 0o700
    shutil.copy2(gateway.data / "secrets/master.json", restored / "secrets/master.json")
    server = Process(tmp_path / "restored.log", "serve", "--data", restored, "--listen", "127.0.0.1:0")
    try:
        assert request(server.url, "GET", "/v1/models", key=key["value"]).status == 200
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]}
        assert request(server.url, "POST", "/v1/chat/completions", key=key["value"], body=body).status == 200, "credentials open"
        limit = request(server.url, "GET", f"/v1/organization/projects/{project}/spend_limit", key=gateway.admin_key).json
        assert limit["threshold_amount"] == 500 and float(limit["spent"]) > 0
    finally:
        assert server.stop() == 0
    assert run("fsck", "--data", restored).returncode == 0, run("fsck", "--data", restored).stdout
    shutil.rmtree(restored)


def test_what_is_no_backup_is_refused(server, tmp_path):
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    empty = tmp_path / "empty.db"
    sqlite3.connect(empty).execute("CREATE TABLE t (x)")
    for file in [garbage, empty, tmp_path / "absent"]:
        done = run("restore", file, "--data", tmp_path / "target")
        assert done.returncode == 1 and done.stderr.startswith("error: "), done
        assert not (tmp_path / "target/tollgate.db").exists()
    assert run("backup", tmp_path / "x.db", "--data", tmp_path / "nothing").returncode == 1


def test_a_backup_is_not_put_beside_what_another_database_left(server, tmp_path):
    backup = tmp_path / "one.db"
    run("backup", backup, "--data", server.data, check=0)
    for left in ["tollgate.db-wal", "tollgate.db-shm"]:
        target = tmp_path / f"left{left}"
        target.mkdir()
        (target / left).write_bytes(b"of another database")
        done = run("restore", backup, "--data", target)
        assert done.returncode == 1 and left in done.stderr, done
        assert not (target / "tollgate.db").exists()


def test_nothing_is_restored_under_a_running_server(server, tmp_path):
    backup = tmp_path / "one.db"
    run("backup", backup, "--data", server.data, check=0)
    database = server.data / "tollgate.db"
    moved = server.data / "moved"
    database.rename(moved)
    done = run("restore", backup, "--data", server.data)
    moved.rename(database)
    assert done.returncode == 1, done
