import importlib
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vtc_lab as vtc
from vtc_lab.qa.judge import Judge, judge_all, read_verdict

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-SeCreT-0123456789"
ASKED = ("what is rolled?", "dough", "The baker rolls some dough.")
YES = '{"pred": "yes", "score": 4}'


class Endpoint(BaseHTTPRequestHandler):
    """Answers each request with the next step of the server's script: a text, a status, or a function of itself."""

    def do_POST(self):
        body = self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers, body))
        steps = self.server.script
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        if callable(step):
            step(self)
        elif isinstance(step, int):
            self.send_error(step, f"no, {self.headers.get('Authorization')}")
        else:
            self.reply(json.dumps({"choices": [{"message": {"role": "assistant", "content": step}}]}))

    def reply(self, text, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self):
        self.server.seen.append((self.path, self.headers, None))
        self.reply(YES)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # a client that went away


@contextmanager
def serving(*script):
    server = Server(("127.0.0.1", 0), Endpoint)
    server.script, server.seen = list(script), []
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def judge(question, answer, prediction, by):
    (row,) = judge_all([{"question": question, "answer": answer}], [prediction], by).itertuples()
    return row


def test_a_verdict_and_what_was_asked():
    with serving(YES) as server:
        verdict = judge(*ASKED, Judge(server.url, "tiny", key_env="JUDGE_KEY"))
    assert (verdict.correct, verdict.score, verdict.problem) == (True, 4.0, "")
    ((path, headers, body),) = server.seen
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body["model"] == "tiny" and body["temperature"] == 0
    system, user = (message["content"] for message in body["messages"])
    assert list(json.loads(user).values()) == list(ASKED) and '"pred"' in system and '"score"' in system


def test_a_key_that_was_not_named_is_not_sent_and_a_temperature_may_be_left_out(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)  # which the client would take by itself
    with serving(YES) as server:
        judge(*ASKED, Judge(server.url, "tiny", temperature=None))
    ((_, headers, body),) = server.seen
    assert headers["Authorization"] == "Bearer none" and "temperature" not in body


def test_a_stored_verdict_is_not_asked_for_again(tmp_path, monkeypatch):
    cache = tmp_path / "verdicts.db"
    with serving(YES, '{"pred": "no", "score": 0}') as server:
        by = Judge(server.url, "tiny", cache=cache)
        first, again = judge(*ASKED, by), judge(*ASKED, by)
        assert (first.correct, first.score) == (again.correct, again.score) == (True, 4.0)
        assert len(server.seen) == 1
        # Everything that a verdict depends on is part of its key.
        for other in (("why?", *ASKED[1:]), (ASKED[0], "bread", ASKED[2]), (*ASKED[:2], "bread")):
            assert not judge(*other, by).correct
        assert not judge(*ASKED, Judge(server.url, "large", cache=cache)).correct
        assert not judge(*ASKED, Judge(server.url, "tiny", cache=cache, temperature=1.0)).correct
        monkeypatch.setattr("vtc_lab.qa.judge.PROMPT", "Mark it.")
        assert not judge(*ASKED, by).correct and len(server.seen) == 7
    monkeypatch.undo()
    assert judge(*ASKED, by).correct  # with the server gone


def test_a_reply_that_cannot_be_read_is_asked_for_once_more():
    with serving("I'd say it is fine.", YES) as server:
        verdict = judge(*ASKED, Judge(server.url, "tiny"))
    assert verdict.correct and [len(body["messages"]) for _, _, body in server.seen] == [2, 4]
    assert server.seen[1][2]["messages"][2] == {"role": "assistant", "content": "I'd say it is fine."}


@pytest.mark.parametrize(
    "nonsense",
    ["maybe", "", '{"pred": "yes"} {"pred": "no", "score": 1}'],
)
def test_what_stays_unreadable_is_unscored_and_asked_again_another_time(tmp_path, nonsense):
    cache = tmp_path / "verdicts.db"
    with serving(nonsense, nonsense, YES) as server:
        by = Judge(server.url, "tiny", cache=cache)
        verdict = judge(*ASKED, by)
        assert verdict.problem == "the reply cannot be read" and pd.isna(verdict.correct) and pd.isna(verdict.score)
        assert len(server.seen) == 2
        assert verdict.reply == nonsense
        assert judge(*ASKED, by).correct and judge(*ASKED, by).correct and len(server.seen) == 3


@pytest.mark.parametrize(
    "body", ["<html>busy</html>", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}']
)
def test_a_body_that_is_no_chat_is_unreadable_too(body):
    with serving(lambda request: request.reply(body)) as server:
        verdict = judge(*ASKED, Judge(server.url, "tiny"))
    assert pd.isna(verdict.correct) and verdict.problem == "the reply cannot be read" and server.seen


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [429, 503, lambda request: request.connection.close()])
def test_passing_trouble_is_tried_again(trouble):
    with serving(trouble, YES) as server:
        assert judge(*ASKED, Judge(server.url, "tiny")).correct
    assert len(server.seen) == 2


@pytest.mark.slow
def test_it_waits_as_long_as_it_is_told_to():
    later = lambda seconds: lambda request: request.reply("", 429, Retry_After=seconds)  # noqa: E731
    with serving(later("1"), YES) as server:
        started = time.monotonic()
        assert judge(*ASKED, Judge(server.url, "tiny")).correct
        assert time.monotonic() - started > 1
    with serving(later("3600")) as server:
        verdict = judge(*ASKED, Judge(server.url, "tiny"))
    assert len(server.seen) == 1 and verdict.problem == "no answer (429)"


@pytest.mark.slow
def test_a_reply_that_breaks_off_is_fetched_again():
    def cut(request):
        request.send_response(200)
        request.send_header("Content-Length", "500")
        request.end_headers()
        request.wfile.write(b'{"choices": [{"mess')

    def torn(request):
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b'20\r\n{"choices": [{"mess')
        request.close_connection = True

    for breaking in (cut, torn):
        with serving(breaking, YES) as server:
            assert judge(*ASKED, Judge(server.url, "tiny")).correct
        assert [len(body["messages"]) for _, _, body in server.seen] == [2, 2]  # not as one that cannot be read


@pytest.mark.parametrize("status", [500, 422])
def test_trouble_that_stays_ends_without_a_verdict_and_is_not_stored(tmp_path, status):
    cache = tmp_path / "verdicts.db"
    with serving(status) as server:
        by = Judge(server.url, "tiny", key_env="JUDGE_KEY", cache=cache, timeout=0.3, retries=1)
        verdict = judge(*ASKED, by)
        assert len(server.seen) == 1 + (status != 422)
    assert pd.isna(verdict.correct) and pd.isna(verdict.score) and verdict.problem == f"no answer ({status})"
    assert sqlite3.connect(cache).execute("SELECT count(*) FROM replies").fetchone() == (0,)


def refused():
    server = Server(("127.0.0.1", 0), Endpoint)
    server.server_close()
    return f"http://127.0.0.1:{server.server_port}/v1"


def test_nobody_there_or_nobody_who_answers():
    with pytest.raises(vtc.VTCError, match="gives no verdicts .APIConnectionError.; check the url"):
        judge_all(together(9), ["dough"] * 9, Judge(refused(), "tiny", retries=0), workers=2)
    with serving(lambda request: time.sleep(2)) as server, pytest.raises(vtc.VTCError, match="APITimeoutError"):
        judge(*ASKED, Judge(server.url, "tiny", timeout=0.3, retries=0))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_every_question_would_meet_is_an_error(status):
    with serving(status) as server, pytest.raises(vtc.VTCError, match=f"gives no verdicts .{status}.") as error:
        judge(*ASKED, Judge(server.url, "tiny", key_env="JUDGE_KEY"))
    assert len(server.seen) == 1 and KEY not in str(error.value)


def test_a_redirection_does_not_take_the_key_along():
    with serving(YES) as elsewhere:
        away = elsewhere.url.replace("127.0.0.1", "localhost") + "/chat/completions"
        with serving(lambda request: request.reply("", 307, Location=away)) as server:
            judge(*ASKED, Judge(server.url, "tiny", key_env="JUDGE_KEY"))
        assert all(KEY not in str(headers) for _, headers, _ in elsewhere.seen)


def test_the_key_is_nowhere(tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    cache = tmp_path / "verdicts.db"
    telling = json.dumps({"pred": "yes", "score": 4, "you sent": KEY})
    with serving(telling, f"{KEY}?", f"{KEY}!", YES) as server:
        by = Judge(server.url, "tiny", key_env="JUDGE_KEY", cache=cache)
        verdicts = [judge(*ASKED, by), judge(ASKED[0], "bread", "dough", by)]
    assert verdicts[0].correct and pd.isna(verdicts[1].correct)
    assert KEY.encode() not in cache.read_bytes()
    assert all(KEY not in verdict.reply for verdict in verdicts) and KEY not in repr((by, verdicts))
    assert KEY not in caplog.text and not any(capfd.readouterr())
    assert server.seen[2][2]["messages"][2]["content"] == "[key]?"


@pytest.mark.parametrize("value", ["", "  ", "two words", "line\nbreak", "ümlaut", f"{KEY}\x7f"])
def test_a_key_that_cannot_be_sent_is_not_shown(monkeypatch, value):
    monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(vtc.VTCError, match="the environment variable JUDGE_KEY") as error:
        judge(*ASKED, Judge("http://127.0.0.1:9/v1", "tiny", key_env="JUDGE_KEY"))
    assert not value.strip() or value.strip() not in str(error.value)


def test_the_client_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "vtc_lab.qa.judge")
    with pytest.raises(vtc.VTCError, match=r"needs the client `openai`; pip install 'vtc_lab\[judge\]'"):
        importlib.import_module("vtc_lab.qa.judge")


def test_a_cache_that_cannot_be(tmp_path):
    (tmp_path / "text.db").write_text("no database at all, but long enough to be looked at " * 40)
    os.mkfifo(tmp_path / "pipe.db")
    for path in (tmp_path / "text.db", tmp_path / "no/such/folder.db", tmp_path / "pipe.db"):
        with pytest.raises(vtc.VTCError, match="cannot hold verdicts"):
            judge(*ASKED, Judge("http://127.0.0.1:9/v1", "tiny", cache=path))


def test_a_verdict_that_cannot_be_stored_is_not_lost(tmp_path):
    cache = tmp_path / "verdicts.db"
    with serving(YES) as server:
        by = Judge(server.url, "tiny", cache=cache)
        judge("another question", "a", "b", by)
        with sqlite3.connect(cache) as connection:
            connection.execute("CREATE TRIGGER full BEFORE INSERT ON replies BEGIN SELECT RAISE(ABORT, 'no room'); END")
        verdict = judge(*ASKED, by)
    assert verdict.correct and verdict.problem == "not stored (no room)"


def test_many_are_judged_and_a_run_that_broke_off_goes_on(tmp_path):
    samples = [{"id": str(n), "kind": "what", "question": f"{n}?", "answer": "dough"} for n in range(5)]
    samples[4] |= {"stem": "and five?"}
    replies = [YES, '{"pred": "no", "score": 1}', "what?", "what?", 503]
    with serving(*replies) as server:
        by = Judge(server.url, "tiny", cache=tmp_path / "verdicts.db", retries=0)
        table = judge_all(samples, ["dough"] * 5, by)
        assert table.correct.tolist()[:2] == [True, False] and table.correct.isna().tolist() == [False] * 2 + [True] * 3
        assert table.correct.mean() == 0.5 and table.score.mean() == 2.5 and table.id.tolist() == list("01234")
        assert json.loads(server.seen[-1][2]["messages"][1]["content"])["question"] == "and five?"
        server.script[:], asked = [YES], len(server.seen)
        table = judge_all(samples, ["dough"] * 5, by)
        assert len(server.seen) == asked + 3 and table.correct.notna().all()
        asked = len(server.seen)
        with pytest.raises(vtc.VTCError, match="one answer for each sample"):
            judge_all(samples, ["bread"] * 4, by)
        assert len(server.seen) == asked  # nothing was sent


def agree(request):
    request.reply(json.dumps({"choices": [{"message": {"content": YES}}]}))


def number_of(request):
    return int(json.loads(request.body["messages"][1]["content"])["question"][:-1])


def together(number):
    return [{"id": str(n), "question": f"{n}?", "answer": "dough"} for n in range(number)]


class Crowd:
    """A step of a script that takes a while, less for later questions, and counts how many come at once."""

    def __init__(self, seconds):
        self.now, self.most, self.seconds, self.lock = 0, 0, seconds, threading.Lock()

    def __call__(self, request):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds * (1 - number_of(request) % 6 / 8))
        with self.lock:
            self.now -= 1
        agree(request)


def test_some_are_asked_at_the_same_time_and_come_back_in_order(tmp_path):
    samples = together(24)
    with serving(crowd := Crowd(0.1)) as server:
        by = Judge(server.url, "tiny", cache=tmp_path / "verdicts.db")
        table = judge_all(samples, [sample["id"] for sample in samples], by, workers=4)
        assert table.id.tolist() == [sample["id"] for sample in samples] == table.prediction.tolist()
        assert 2 <= crowd.most <= 4 and len(server.seen) == 24
        again = judge_all(samples, [sample["id"] for sample in samples], by, workers=4)
        assert again.equals(table) and len(server.seen) == 24
    with serving(crowd := Crowd(0.01)) as server:
        judge_all(samples[:6], ["dough"] * 6, Judge(server.url, "tiny"))
    assert crowd.most == 1  # unless more are asked for


def test_trouble_with_one_question_is_its_own(tmp_path):
    def refuse(request):
        request.reply("", 422) if number_of(request) in (1, 6) else agree(request)

    samples = together(8)
    with serving(refuse) as server:
        table = judge_all(samples, ["dough"] * 8, Judge(server.url, "tiny", cache=tmp_path / "v.db"), workers=3)
    assert table.correct.isna().tolist() == [n in (1, 6) for n in range(8)]
    assert table.problem[1] == "no answer (422)"


def test_a_refusal_ends_it_and_what_was_asked_is_stored(tmp_path):
    def until_five(request):
        request.reply("", 401) if number_of(request) >= 5 else agree(request)

    cache = tmp_path / "verdicts.db"
    with serving(until_five) as server, pytest.raises(vtc.VTCError, match="gives no verdicts .401."):
        judge_all(together(40), ["dough"] * 40, Judge(server.url, "tiny", cache=cache), workers=1)
    assert 6 <= len(server.seen) < 12
    assert sqlite3.connect(cache).execute("SELECT count(*) FROM replies").fetchone() == (5,)


@pytest.mark.slow
def test_an_interrupt_comes_through_and_leaves_the_cache_whole(tmp_path):
    """Ctrl-C in the middle: it does not wait for the judge, and what was answered by then is there the next time."""
    cache = tmp_path / "verdicts.db"
    script = (
        "import sys; from vtc_lab.qa.judge import Judge, judge_all\n"
        "samples = [{'id': str(n), 'question': f'{n}?', 'answer': 'dough'} for n in range(400)]\n"
        "try:\n    judge_all(samples, ['dough'] * 400, Judge(sys.argv[1], 'tiny', cache=sys.argv[2]), workers=4)\n"
        "except KeyboardInterrupt:\n    print('interrupted', flush=True)\n"
    )
    with serving(*[agree] * 12, Crowd(2)) as server:
        run = subprocess.Popen(
            [sys.executable, "-c", script, server.url, cache], stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        while len(server.seen) < 15:
            assert run.poll() is None
            time.sleep(0.02)
        run.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert run.stdout.readline() == "interrupted\n" and time.monotonic() - started < 0.7
        assert not run.communicate(timeout=20)[0] and run.returncode == 0
        asked = len(server.seen)
        connection = sqlite3.connect(cache)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        stored = connection.execute("SELECT count(*) FROM replies").fetchone()[0]
        assert stored == asked < 40
        server.script[:] = [YES]
        table = judge_all(together(40), ["dough"] * 40, Judge(server.url, "tiny", cache=cache), workers=4)
        assert table.correct.all() and len(server.seen) == asked + 40 - stored


@pytest.mark.parametrize(
    "reply, expected",
    [
        (YES, (True, 4.0)),
        ("{'pred': 'yes', 'score': 4.8}", (True, 4.8)),
        ('```json\n{"pred": "No", "score": "0"}\n```', (False, 0.0)),
        ('The student is right. {"pred": "yes", "score": 5}.', (True, 5.0)),
        ('{"score": 3, "pred": "yes",}', (True, 3.0)),
        ("pred: no, score: 2", (False, 2.0)),
        ('{"pred": "yes", "score": 5}\n{"pred": "yes", "score": 5}', (True, 5.0)),
        ('{"pred": "yes", "score": 5}\n{"pred": "yes", "score": 4}', None),
        ('{"pred": "yes", "score": -1}', None),
        ('{"pred": "yes", "score": 5.5}', None),
        ('{"pred": "yes", "score": NaN}', None),
        ('{"pred": "yesterday", "score": 5}', None),
        ('{"pred": true, "score": 5}', None),
        ("yes", None),
        ("", None),
    ],
)
def test_verdicts_are_read(reply, expected):
    assert read_verdict(reply) == expected


@given(st.booleans(), st.integers(0, 5), st.booleans(), st.text(), st.integers(0, 4))
def test_every_verdict_in_json_is_read_whatever_stands_beside_it(correct, score, swap, note, indent):
    fields = {"pred": "yes" if correct else "no", "score": score}
    fields = dict(reversed(fields.items())) if swap else fields
    if any(word in note.lower() for word in ("pred", "score")):
        return
    assert read_verdict(json.dumps(fields | {"note": note}, indent=indent)) == (correct, score)


@given(st.text())
def test_any_reply_is_a_verdict_or_none(reply):
    found = read_verdict(reply)
    assert found is None or (isinstance(found[0], bool) and 0 <= found[1] <= 5)


def test_a_draft_within_a_thought_is_no_verdict():
    draft = '<think>Draft: {"pred": "no", "score": 1}. Hmm.</think>'
    assert read_verdict(f'{draft}{{"pred": "yes", "score": 5}}') == (True, 5.0)
    assert read_verdict(draft) is None and read_verdict(draft.removesuffix("</think>")) is None
    with serving(draft + YES) as server:
        verdict = judge(*ASKED[:2], "<think>Bread?</think>Some dough.", Judge(server.url, "tiny"))
    assert (verdict.correct, verdict.score) == (True, 4.0)
    assert json.loads(server.seen[0][2]["messages"][1]["content"])["student's answer"] == "Some dough."


def test_half_a_character_loses_no_verdict(tmp_path):
    """JSON can hold half of an emoji, as text that was cut does; SQLite, pandas and the network cannot."""
    with serving(lambda request: request.reply(HALF)) as server:
        by = Judge(server.url, "tiny", cache=tmp_path / "verdicts.db")
        sample = {"question": "what \ud83d?", "answer": "dough", "id": "\ud83d", "kind": "\ud83d"}
        for _ in range(2):
            (row,) = judge_all([sample], ["dough \ud83d"], by).itertuples()
            assert (row.correct, row.score, row.kind, row.prediction) == (True, 4.0, "\\ud83d", "dough \\ud83d")
    assert len(server.seen) == 1


HALF = json.dumps({"choices": [{"message": {"role": "assistant", "content": f"{YES} \ud83d"}}]})
