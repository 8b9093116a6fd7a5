"""One question to an OpenAI-compatible endpoint: retried while that can help, over at a deadline, the key kept out."""

from __future__ import annotations

import json
import os
import queue
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPException
from threading import Event, Lock, Thread

from vtc_lab.tokens import VTCError

_HOPELESS = {401: "check the key", 403: "check the key", 404: "check the url and the model"}
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
_PAUSE = 0.5  # seconds before the second try, doubled before every further one
_LONGEST = 1 << 20  # bytes of a reply that are read
PATIENCE = 600.0  # seconds for which an endpoint may ask to be left alone without answering anything meanwhile


class Unanswered(Exception):
    """This question got no answer; the next one may. The message has nothing that the endpoint said."""


class _Passing(Exception):
    """Worth another try, after `wait` seconds if the endpoint asked for that."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class Pace:
    """A clock for all who ask an endpoint together, which stands still while it wants to be left alone."""

    def __init__(self) -> None:
        self.ready = 0.0  # until when they wait, as time.monotonic()
        self._held = self._unanswered = 0.0  # seconds of all waits, and since the endpoint last answered
        self._lock, self._stopped, self._reason = Lock(), Event(), ""

    def now(self) -> float:
        """Seconds as time.monotonic() counts them, without those of the waits so far."""
        with self._lock:
            now = time.monotonic()
            return now - self._held + max(0.0, self.ready - now)

    def hold(self, error: _Passing) -> None:
        """Let everybody wait as long as an answer asks for, unless another asked for more.

        Raises
        ------
        VTCError
            If that is more than `PATIENCE`, together with what was waited since the endpoint last answered.
        """
        with self._lock:
            now = time.monotonic()
            begin = max(self.ready, now)
            self.ready = max(begin, now + error.wait)
            self._held += self.ready - begin
            self._unanswered += self.ready - begin
            asked = self._unanswered
        if asked > PATIENCE:
            self.stop(
                f"the endpoint asks to be left alone for {asked:.0f} s ({error}), longer than the {PATIENCE:.0f} s "
                "that are waited; run it again later, with a cache to go on where it was"
            )
            raise VTCError(self._reason)

    def answered(self) -> None:
        """The endpoint has answered somebody."""
        with self._lock:
            self._unanswered = max(0.0, self.ready - time.monotonic())

    def stop(self, reason: str) -> None:
        """Nobody waits any more."""
        self._reason = reason
        self._stopped.set()

    def sleep(self, seconds: float) -> None:
        """Wait.

        Raises
        ------
        VTCError
            As soon as it is stopped, with the reason.
        """
        if self._stopped.wait(seconds):
            raise VTCError(self._reason)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirection would take the key to another host."""

    def redirect_request(self, *_: object) -> None:
        return None


def chat_url(url: object) -> str:
    """The address of an API's chat completions.

    Raises
    ------
    VTCError
        If it is no http address, or holds a password (which the message does not repeat).

    Examples
    --------
    >>> chat_url("http://localhost:8000/v1/")
    'http://localhost:8000/v1/chat/completions'
    """
    try:
        parts = urllib.parse.urlsplit(url if isinstance(url, str) else "")
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if known and "@" in parts.netloc:
        raise VTCError("the endpoint's url holds a user or a password; take them out and give the key by key_env")
    if not known:
        raise VTCError(f"the endpoint's url is {url!r:.80}; give one such as 'http://localhost:8000/v1'")
    path = parts.path.rstrip("/")
    return parts._replace(path=path if path.endswith("/chat/completions") else f"{path}/chat/completions").geturl()


def read_key(name: str | None) -> str:
    """The key that an environment variable holds, "" for None.

    Raises
    ------
    VTCError
        If it is not set or cannot be sent; the message has the name alone.

    Examples
    --------
    >>> read_key("NO_SUCH_KEY")
    Traceback (most recent call last):
    ...
    vtc_lab.tokens.VTCError: the environment variable NO_SUCH_KEY is not set; put the endpoint's key there
    """
    if name is None:
        return ""
    if not isinstance(name, str) or not re.fullmatch("[A-Z][A-Z0-9_]{0,63}", name):
        raise VTCError(
            "key_env is no name such as 'OPENAI_API_KEY'; put the key into an environment variable of that name"
        )
    key = os.environ.get(name, "").strip()
    if not key:
        raise VTCError(f"the environment variable {name} is not set; put the endpoint's key there")
    if not re.fullmatch("[!-~]+", key):
        raise VTCError(f"the environment variable {name} holds spaces or signs that no key has; copy the key again")
    return key


def complete(url: str, payload: Mapping[str, object], key: str, until: float, pace: Pace) -> str:
    """What the endpoint says to a chat.

    Parameters
    ----------
    url : from `chat_url`.
    payload : the body of the request: model, messages and so on.
    key : from `read_key`; it is taken out of the answer, should it be there.
    until : the `pace.now()` after which there is no answer, whatever the endpoint does.
    pace : shared by those who ask at the same time, so that a Retry-After holds them all, and takes no one's time.

    Returns
    -------
    The message's text; where the reply is not in the API's form, the reply as it is.

    Raises
    ------
    Unanswered
        If there is no answer in time, or this question alone is refused.
    VTCError
        If it refuses every question (401, 403, 404 or a redirection), or asks for a wait longer than `PATIENCE`.
    """
    tries, again, reason = 0, 0.0, ""
    while True:
        while (pause := max(pace.ready, again) - (now := time.monotonic())) > 0:
            if pace.now() + max(0.0, again - max(pace.ready, now)) >= until:
                raise Unanswered(f"{reason}, tried {tries} times")
            pace.sleep(pause)
        end = time.monotonic() + until - pace.now()
        try:
            body = _within(end, lambda end=end: _post(url, payload, key, end))
            break
        except _Passing as error:
            pace.hold(error)
            reason = f"{error}"
            again = time.monotonic() + _PAUSE * 2**tries
            tries += 1
    pace.answered()
    try:
        body = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        body = body.decode(errors="replace")
    text = body if isinstance(body, str) else ""
    return text.replace(key, "[key]") if key else text


def _within(until: float, work: Callable[[], bytes]) -> bytes:
    """Do work elsewhere and leave it behind at the deadline: neither a name that is looked up nor a header that comes
    in drop by drop minds the timeout of a socket.
    """
    box: queue.SimpleQueue = queue.SimpleQueue()

    def run() -> None:
        try:
            box.put((work(), None))
        except BaseException as error:  # raised again where somebody sees it
            box.put((b"", error))

    Thread(target=run, daemon=True).start()
    try:
        value, error = box.get(timeout=max(0.0, until - time.monotonic()))
    except queue.Empty:
        raise Unanswered("it did not answer in time") from None
    if error is not None:
        raise error
    return value


def _post(url: str, payload: Mapping[str, object], key: str, until: float) -> bytes:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    headers |= {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(url, json.dumps(payload).encode(), headers)
    shown = url.split("?")[0]
    try:
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=max(0.01, until - time.monotonic())) as response:
            body = b""
            while chunk := response.read1(1 << 16):
                body += chunk
                if len(body) > _LONGEST:
                    raise Unanswered(f"its reply is longer than {_LONGEST} bytes")
                if time.monotonic() > until:
                    raise Unanswered("it did not finish its answer in time")
            if response.length:
                raise _Passing("its reply breaks off")
            return body
    except urllib.error.HTTPError as error:
        error.close()
        known = [status.phrase for status in HTTPStatus if status == error.code]
        reason = " ".join([f"{error.code}", *known])  # not the phrase that was sent: it could be anything
        if error.code in _PASSING:
            raise _Passing(reason, _seconds(error.headers.get("Retry-After"))) from None
        if error.code in _HOPELESS or 300 <= error.code < 400:
            advice = _HOPELESS.get(error.code, "give the url that it leads to")
            raise VTCError(f"{shown} refuses with {reason}; {advice}") from None
        raise Unanswered(reason) from None
    except HTTPException as error:
        raise _Passing(type(error).__name__) from None
    except OSError as error:
        raise _Passing(str(getattr(error, "reason", error)) or type(error).__name__) from None


def _seconds(header: str | None) -> float:
    """What Retry-After says, as seconds or as a date, 0 if it says neither."""
    if not header or re.fullmatch(r"\d{1,6}", header.strip()):
        return float(header or 0)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return 0.0
