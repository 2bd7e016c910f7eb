"""A client on Python's ssl: python3 client.py PORT NAME CA VERSION PATH COUNT
Asks for PATH COUNT times on one connection, resumes the session on another and asks once more.
Prints the version, whether the second was resumed, and the digest of each body."""
import hashlib
import http.client
import socket
import ssl
import sys

port, name, ca, version, path, count = sys.argv[1:7]
context = ssl.create_default_context(cafile=ca)
only = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
context.minimum_version = context.maximum_version = only
context.set_alpn_protocols(["http/1.1"])
BODY = b'{"model":"m-1","stream":true,"messages":[{"role":"user","content":"hi"}]}'


class Connection(http.client.HTTPSConnection):
    """To the address, by the name, with an earlier session."""

    def __init__(self, session):
        super().__init__(name, timeout=20)
        self.session = session

    def connect(self):
        raw = socket.create_connection(("127.0.0.1", int(port)), timeout=20)
        self.sock = context.wrap_socket(raw, server_hostname=name, session=self.session)

    def ask(self):
        """The digest of the answer's body."""
        self.request("POST", path, BODY, {"Content-Type": "application/json"})
        answer = self.getresponse()
        return f"{answer.status} {hashlib.sha256(answer.read()).hexdigest()}"


first = Connection(None)
digests = [first.ask() for _ in range(int(count))]
second = Connection(first.sock.session)
digests.append(second.ask())
print(second.sock.version(), second.sock.selected_alpn_protocol(), second.sock.session_reused)
print("\n".join(digests))
