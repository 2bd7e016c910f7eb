"""Starts a mock and a relay for each driver, puts every client in front of them, one after the
other, and counts what they check. A client is a program of its own; it prints a line for each of
its checks, `ok NAME` or `FAILED NAME: why`, and learns from its environment where everything is.
"""

import base64
import collections
import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

# How long one client may take on one driver, in seconds; a client that hangs has failed.
CLIENT_SECONDS = 180
# Paced so that a person, or a page, sees the tokens come.
PACED = ["--rate", "40", "--first-delay", "100ms"]
AT_ONCE = ["--rate", "0", "--first-delay", "0ms"]
PACING = {"plain": AT_ONCE, "words": AT_ONCE, "page": PACED, "kept": AT_ONCE}
# What the examples' upstreams are asked with.
KEYS = {"ANTHROPIC_API_KEY": "k", "DASHSCOPE_API_KEY": "k"}
CHROMIUM = shutil.which("chromium") or "chromium"
PYTHON = [sys.executable, "-u"]
CLIENTS = {
    "curl": [*PYTHON, "python/curl.py"],
    "openai-python": [*PYTHON, "python/openai_sdk.py"],
    "anthropic-python": [*PYTHON, "python/anthropic_sdk.py"],
    "dashscope-python": [*PYTHON, "python/dashscope_sdk.py"],
    "openai-words-python": [*PYTHON, "python/openai_words.py"],
    "openai-node": ["node", "node/openai.mjs"],
    "openai-words-node": ["node", "node/openai_words.mjs"],
    "anthropic-node": ["node", "node/anthropic.mjs"],
    "eventsource-node": ["node", "node/eventsource.mjs"],
    "eventsource-chromium": ["node", "node/browser_eventsource.mjs"],
    "events-node": ["node", "node/events.mjs"],
    "page-chromium": ["node", "node/page.mjs"],
    "page-forms-chromium": ["node", "node/page_forms.mjs"],
    "page-readers-chromium": ["node", "node/page_readers.mjs"],
    "demo-chromium": ["node", "node/demo.mjs"],
    "resume-node": ["node", "node/resume.mjs"],
    "resume-chromium": ["node", "node/browser_resume.mjs"],
    "resume-sdk-python": [*PYTHON, "python/resume_sdk.py"],
    "page-resume-chromium": ["node", "node/page_resume.mjs"],
}
# These take streams that are kept. The SDKs take them too, and must notice nothing.
KEPT = {"resume-node", "resume-chromium", "resume-sdk-python", "page-resume-chromium"}
SDKS = {"openai-python", "anthropic-python", "dashscope-python", "openai-node", "anthropic-node"}
NEEDS_PACING = {"page-chromium", "page-forms-chromium", "page-readers-chromium"}
# Those that ask providers which speak otherwise, by routes that tell the answers in OpenAI's words.
NEEDS_WORDS = {"openai-words-python", "openai-words-node"}
# What cuts the optimiser's limit of 60 s short.
LIMIT = "4s"
# Those that do not come by https, through two relays with https between them: the demo has no
# upstream but its own, and the rest of the page is the same by both.
ONLY_BY_HTTP = {
    "demo-chromium", "events-node", "page-forms-chromium", "page-readers-chromium",
    "resume-chromium", "resume-sdk-python", "page-resume-chromium",
}
# Who leaves is gone at once, as the SDKs' tests have it; a hundred come back in seconds.
KEPT_FLAGS = ["--resume", "--resume-retry", "10ms", "--heartbeat", "1s"]
KEPT_ROUTES = """
[[route]]
path = "/ask"
to = "/v1/chat/completions"
query = ["prompt"]
body = { model = "mock", stream = true, messages = [{ role = "user", content = { from = "prompt" } }] }
cors = { origins = "*" }

[[route]]
path = "/small"
to = "/v1/chat/completions"
resume_bytes = "16k"

[[route]]
path = "/brief"
to = "/v1/chat/completions"
detach_grace = "300ms"
resume_keep = "300ms"

[[route]]
prefix = "/"
detach_grace = "0s"
"""


class Tally:
    """What passed and failed, by client."""

    def __init__(self):
        self.passed = collections.Counter()
        self.failed = collections.Counter()

    def take(self, driver, client, line):
        """Counts a client's line and shows it."""
        mark, _, rest = line.partition(" ")
        if mark == "ok":
            self.passed[client] += 1
        elif mark == "FAILED":
            self.failed[client] += 1
        else:
            print(f"   {client}: {line}", flush=True)
            return
        print(f"{mark} {driver} {client}: {rest}", flush=True)

    def show(self):
        """One line a client, then all of them."""
        print()
        for client in sorted(self.passed.keys() | self.failed.keys()):
            print(f"{client}: {self.passed[client]} passed, {self.failed[client]} failed")
        print(f"{self.passed.total()} passed, {self.failed.total()} failed", flush=True)


class Service:
    """A running millstream: its process and the addresses of its start-up line."""

    def __init__(self, *command, environment=None):
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
        )
        said = []
        for line in self.process.stderr:
            said.append(line)
            if re.search(r"mock upstream on|serving", line):
                threading.Thread(target=self._drain, daemon=True).start()
                self.addresses = re.findall(r"https?://127\.0\.0\.1:\d+", line)
                return
        self.process.wait()
        raise SystemExit(f"FAILED {' '.join(command)} did not start: {''.join(said)}")

    def _drain(self):
        for line in self.process.stderr:
            if re.search(r"WARN|ERROR|panicked", line):
                print(f"   {line.strip()}", flush=True)

    def stop(self):
        """Asks it to end; gives its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def run_client(tally, driver, client, environment):
    """Runs one client to its end, or ends it."""
    before = tally.passed[client], tally.failed[client]
    process = subprocess.Popen(
        CLIENTS[client], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, text=True,
    )
    # SIGTERM first: Node then closes its browser.
    timers = [threading.Timer(CLIENT_SECONDS, process.terminate),
              threading.Timer(CLIENT_SECONDS + 10, process.kill)]
    for timer in timers:
        timer.start()
    try:
        for line in process.stdout:
            tally.take(driver, client, line.rstrip("\n"))
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait(timeout=20)
        raise
    finally:
        for timer in timers:
            timer.cancel()
    if code != 0 and tally.failed[client] == before[1]:
        tally.take(driver, client, f"FAILED to the end: exit code {code}")
    elif tally.passed[client] == before[0]:
        tally.take(driver, client, "FAILED to check anything")


def openssl(*arguments, said=b""):
    """Runs it; gives what it prints."""
    return subprocess.run(["openssl", *arguments], input=said, check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def certificate(folder):
    """A certificate for this machine's address, made now; it is its own authority."""
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
            "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE",
            "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem")
    return f"{folder}/cert.pem", f"{folder}/key.pem"


def public_key_hash(key):
    """What Chromium knows a key by that it is to trust: SHA-256 of its public half, in base64."""
    public = openssl("pkey", "-in", key, "-pubout", "-outform", "DER")
    return base64.b64encode(hashlib.sha256(public).digest()).decode()


def flags(folder, setup, upstream):
    """What the relay that the clients ask is started with, beside where it listens."""
    if setup == "kept":
        example = Path("../../examples/resume.toml").read_text(encoding="utf-8")
        config = Path(folder, "kept.toml")
        config.write_text(f"{example}{KEPT_ROUTES}", encoding="utf-8")
        return [*KEPT_FLAGS, "--config", str(config)]
    routes = {"page": routes_file, "words": words_file}.get(setup)
    where = ["--config", routes(folder)] if routes else ["--upstream", upstream]
    return ["--heartbeat", "1s", *where]


def run_by_https(tally, binary, driver, clients, setup):
    """Clients over https to a relay, over https to another, to the mock."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        shown, key = certificate(folder)

        def start(*command, environment=None):
            service = Service(binary, *command, environment=environment)
            stack.callback(service.stop)
            return service.addresses

        upstream = start("mock", "--listen", "127.0.0.1:0", *PACING[setup])[0]
        serve = ["serve", "--listen", "127.0.0.1:0", "--io", driver, "--access-log", "off",
                 "--retry-backoff", "20ms", "--tls-cert", shown, "--tls-key", key]
        # One of the two fills silences: with both, whichever is first leaves the other none.
        inner = start(*serve, "--heartbeat", "off", "--admin", "off", "--upstream", upstream)[0]
        outer = start(*serve, "--admin", "127.0.0.1:0", *flags(folder, setup, inner),
                      "--upstream-ca", shown, environment=os.environ | KEYS | {"UPSTREAM": inner})
        base, admin = outer[0], outer[-1]
        environment = os.environ | {
            "MILLSTREAM": binary, "DRIVER": driver, "RELAY": base, "MOCK": upstream,
            "ADMIN": admin, "CHROMIUM": CHROMIUM, "NO_PROXY": "*", "SSL_CERT_FILE": shown,
            "CURL_CA_BUNDLE": shown, "REQUESTS_CA_BUNDLE": shown, "NODE_EXTRA_CA_CERTS": shown,
            "TRUSTED_KEY": public_key_hash(key), "PYTHON": sys.executable,
        }
        for client in clients:
            run_client(tally, f"{driver} {setup} https", client, environment)


def routes_file(folder):
    """The routes of both references as one file, and all else as it comes."""
    chat, optimize = (Path(f"../../examples/{name}.toml").read_text(encoding="utf-8")
                      for name in ("chat", "optimize"))
    route = optimize[optimize.index("[[route]]"):]
    assert route.count('"60s"') == 1
    path = Path(folder, "page.toml")
    everything = '[[route]]\nprefix = "/"\n'
    path.write_text(f"{chat}\n{route.replace('60s', LIMIT)}\n{everything}", encoding="utf-8")
    return str(path)


def words_file(folder):
    """The routes of the examples for OpenAI's SDKs, each below its provider's name, and all else as
    it comes."""
    text = ['upstream = "${UPSTREAM}"']
    for provider in ("anthropic", "dashscope"):
        example = Path(f"../../examples/openai-at-{provider}.toml").read_text(encoding="utf-8")
        route = example[example.index("[[route]]"):]
        assert route.count('path = "/v1/') == 1
        text.append(route.replace('path = "/v1/', f'path = "/{provider}/v1/'))
    text.append('[[route]]\nprefix = "/"\n')
    path = Path(folder, "words.toml")
    path.write_text("\n".join(text), encoding="utf-8")
    return str(path)


def run_driver(tally, binary, driver, clients, setup):
    """Every client of one setup on one driver."""
    mock = Service(binary, "mock", "--listen", "127.0.0.1:0", *PACING[setup])
    folder = tempfile.TemporaryDirectory()
    try:
        upstream = mock.addresses[0]
        environment = os.environ | KEYS | {
            "MILLSTREAM": binary, "DRIVER": driver, "MOCK": upstream, "UPSTREAM": upstream,
            "CONFIG": routes_file(folder.name), "NO_PROXY": "*",
            "CHROMIUM": CHROMIUM, "PYTHON": sys.executable,
        }
        relay = Service(
            binary, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
            "--io", driver, "--access-log", "off", "--retry-backoff", "20ms",
            *flags(folder.name, setup, upstream), environment=environment,
        )
        try:
            # The start-up line names the upstream too where it is one and no file says it.
            base, admin = relay.addresses[0], relay.addresses[-1]
            environment |= {"RELAY": base, "ADMIN": admin}
            for client in clients:
                run_client(tally, f"{driver} {setup}", client, environment)
        finally:
            code = relay.stop()
        ended = "ok ends in order" if code == 0 else f"FAILED ends in order: exit code {code}"
        tally.take(f"{driver} {setup}", "relay", ended)
    finally:
        mock.stop()
        folder.cleanup()


def main():
    binary, *wanted = sys.argv[1:]
    unknown = [name for name in wanted if name not in CLIENTS]
    if unknown:
        raise SystemExit(f"no such client: {unknown}; there are {', '.join(CLIENTS)}")
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    # A script that is ended must still end what it started: the finally blocks do.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    clients = wanted or list(CLIENTS)
    tally = Tally()
    checked = subprocess.run([binary, "check", "--upstream", "http://127.0.0.1:9000"],
                             stdout=subprocess.DEVNULL, check=False).returncode
    tally.take("any", "check", "ok accepts its flags" if checked == 0 else "FAILED its flags: "
               f"exit code {checked}")
    for driver in ("auto", "epoll"):
        for setup, chosen in (
            ("plain", [name for name in clients if name not in NEEDS_PACING | NEEDS_WORDS | KEPT]),
            ("words", [name for name in clients if name in NEEDS_WORDS]),
            ("page", [name for name in clients if name in NEEDS_PACING]),
            ("kept", [name for name in clients if name in KEPT | SDKS]),
        ):
            if chosen:
                run_driver(tally, binary, driver, chosen, setup)
            by_https = [name for name in chosen if name not in ONLY_BY_HTTP]
            if by_https:
                run_by_https(tally, binary, driver, by_https, setup)
    tally.show()
    return 1 if tally.failed.total() else 0


sys.exit(main())
