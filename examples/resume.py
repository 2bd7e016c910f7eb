"""Reads an answer of a route with resume = true through lost connections, with nothing but Python:

    for event in resumable("http://127.0.0.1:8080/chat", {"Content-Type": "application/json"}, body):
        if "event" not in event:
            print(json.loads(event["data"]), end="", flush=True)

It raises `Lost`, in words, where the rest cannot be had. Who leaves the loop early cancels the
answer, at the provider too. An event's `id`, kept and given back as `last_id`, goes on behind it;
what stands before its last dot, from the start again. As a program: resume.py URL MESSAGE.
"""

import http.client
import json
import random
import re
import sys
import time
from urllib.parse import urlsplit

WORDS = {404: "the answer is no longer kept", 410: "a part of the answer is no longer kept"}
# Seconds. The relay says something every 15: a network that is silent for longer is gone.
SILENCE, FIRST_BYTE = 45, 300


class Lost(Exception):
    """The rest of the answer cannot be had."""


def is_end(event):
    return event.get("event") in ("done", "error", "timeout")


def resumable(url, headers, body=None, last_id="", is_last=is_end):
    """The events of the answer to a POST, each a dict of its fields."""
    tries, retry = 0, 1.0
    try:
        while True:
            try:
                # The id is all it takes to come back: the request itself is not sent again.
                response = (ask("POST", url, headers | {"Last-Event-ID": last_id}) if last_id
                            else ask("POST", url, headers, body))
                if response.status == 204:
                    return  # It is over, and nothing of it is missing.
                if response.status == 200:
                    last_id = last_id or response.getheader("X-Stream-Id", "")
                    for event in events(response):
                        # Without a stream's name it is the provider's own.
                        last_id = last_id and event.get("id", last_id)
                        tries = 0
                        if event.get("retry", "").isdecimal():
                            retry = int(event["retry"]) / 1000
                        if "data" in event:
                            yield event
                        if is_last(event):
                            return
                elif response.status < 500 or not last_id:
                    told = response.read().decode(errors="replace")
                    raise Lost(last_id and WORDS.get(response.status) or told)
            except (OSError, http.client.HTTPException) as error:
                # Without an id there is nothing to come back to; what is asked anew is paid anew.
                if not last_id:
                    raise Lost(f"no answer: {error!r}") from error
            tries += 1
            if tries > 10 or not last_id:
                raise Lost("the connection was lost before the end")
            time.sleep(min(retry * 2 ** (tries - 1), 10) * random.uniform(0.5, 1))
    except (GeneratorExit, KeyboardInterrupt):
        if last_id:
            ask("DELETE", url, headers | {"Last-Event-ID": last_id})
        raise


def ask(method, url, headers, body=None):
    parts = urlsplit(url)
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connect(parts.netloc, timeout=FIRST_BYTE if body else SILENCE)
    connection.request(method, parts._replace(scheme="", netloc="", fragment="").geturl() or "/",
                       body, headers)
    response = connection.getresponse()
    if connection.sock:
        connection.sock.settimeout(SILENCE)
    return response


def events(response):
    """The events of a body. One that is cut off is none: it comes again."""
    rest, event = b"", {}
    while piece := response.read1(65536):
        # A CR at the end may be half of a CRLF.
        *lines, rest = re.split(rb"\r\n|\n|\r(?!\Z)", rest + piece)
        for line in lines:
            if not line:
                yield event
                event = {}
                continue
            field, _, value = line.decode(errors="replace").partition(":")
            value = value.removeprefix(" ")
            first = field != "data" or "data" not in event
            event[field] = value if first else f"{event['data']}\n{value}"


if __name__ == "__main__":
    address, message = sys.argv[1:]
    question = json.dumps({"messages": [{"role": "user", "content": message}]})
    try:
        for told in resumable(address, {"Content-Type": "application/json"}, question):
            if "event" not in told:
                print(json.loads(told["data"]), end="", flush=True)
            elif told["event"] in ("error", "timeout"):
                raise Lost(told["data"])
    except (Lost, KeyboardInterrupt) as end:
        sys.exit(f"\n{end}" if str(end) else "\ncancelled")
    print()
