"""An https upstream on Python's ssl: python3 peer.py CERT KEY VERSION CLIENT_CA|-
Says its port on standard output. The request's path says how it answers."""
import os
import socket
import ssl
import sys
import threading

cert, key, version, client_ca = sys.argv[1:5]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
context.set_alpn_protocols(["http/1.1"])
only = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
context.minimum_version = context.maximum_version = only
if client_ca != "-":
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(client_ca)

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSE = HEAD + b"Connection: close\r\n\r\n"


def frames(count):
    return [b'data: {"n":%d,"text":"%s"}\n\n' % (n, b"x" * (n % 90)) for n in range(count)]


def chunk(payload):
    return b"%x\r\n%s\r\n" % (len(payload), payload)


def vanish(conn):
    """Closes the connection beneath TLS, without close_notify."""
    raw = socket.socket(fileno=conn.detach())
    raw.shutdown(socket.SHUT_WR)
    while raw.recv(4096):
        pass
    raw.close()


def answer(conn, path, body):
    """True where the connection goes on."""
    done = b"data: [DONE]\n\n"
    if path == "/chunked":
        conn.sendall(CHUNKED)
        for frame in frames(50):
            conn.sendall(chunk(frame))
        conn.sendall(chunk(done) + b"0\r\n\r\n")
        return True
    if path == "/tiny":
        for byte in CHUNKED + b"".join(chunk(f) for f in frames(20)) + chunk(done) + b"0\r\n\r\n":
            conn.sendall(bytes([byte]))
        return True
    if path == "/burst":
        whole = CHUNKED + b"".join(chunk(f) for f in frames(2000)) + chunk(done) + b"0\r\n\r\n"
        for at in range(0, len(whole), 16384):
            conn.sendall(whole[at : at + 16384])
        return True
    if path == "/echo":
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return True
    if path == "/who":
        text = ("%s %s %s" % (conn.version(), conn.session_reused, bool(conn.getpeercert()))).encode()
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(text) + text)
        conn.unwrap()
        return False
    if path == "/close":
        conn.sendall(CLOSE + b"".join(frames(20)) + done)
        try:
            conn.unwrap()
        except (OSError, ssl.SSLError):
            pass
        return False
    if path == "/cut":
        conn.sendall(CLOSE + b"".join(frames(20)) + done)
        vanish(conn)
        return False
    if path == "/cut-length":
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        vanish(conn)
        return False
    if path == "/cut-chunked":
        conn.sendall(CHUNKED + chunk(frames(1)[0]))
        vanish(conn)
        return False
    if path == "/cut-head":
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-")
        vanish(conn)
        return False
    raise ValueError(path)


def serve(raw):
    try:
        with context.wrap_socket(raw, server_side=True) as conn:
            held = b""
            while True:
                while b"\r\n\r\n" not in held:
                    got = conn.recv(65536)
                    if not got:
                        return
                    held += got
                head, held = held.split(b"\r\n\r\n", 1)
                lines = head.decode().split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in lines[1:])
                want = int(fields.get("content-length", "0"))
                while len(held) < want:
                    held += conn.recv(65536)
                body, held = held[:want], held[want:]
                if not answer(conn, lines[0].split(" ")[1], body):
                    return
    except (OSError, ssl.SSLError, ValueError):
        pass
    finally:
        raw.close()


def main():
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    # Ends with the test that reads our standard output.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    while True:
        raw, _ = listener.accept()
        threading.Thread(target=serve, args=(raw,), daemon=True).start()


main()
