"""The OpenAI and Anthropic SDKs for Python on streams that are kept, from a provider that keeps its
connections alive by frames which are nothing but a comment. Both SDKs know an id once they have seen
one, and take a frame without data for an event then, its data for JSON."""

import http.server
import json
import os
import re
import subprocess
import threading

import anthropic
import openai

from checks import check

KEEPALIVE = b": keep-alive\n\n"
WORDS = ["some ", "words, ", "模型 ", "and no more"]


def frame(data, event=None):
    named = f"event: {event}\n" if event else ""
    return f"{named}data: {json.dumps(data)}\n\n".encode()


def chat():
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    for word in WORDS:
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        yield frame(chunk | {"choices": [choice]})
    yield b"data: [DONE]\n\n"


def messages():
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [],
               "stop_reason": None, "stop_sequence": None,
               "usage": {"input_tokens": 1, "output_tokens": 1}}
    yield frame({"type": "message_start", "message": message}, "message_start")
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield frame(block, "content_block_start")
    for word in WORDS:
        delta = {"type": "text_delta", "text": word}
        yield frame({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta")
    yield frame({"type": "content_block_stop", "index": 0}, "content_block_stop")
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    yield frame({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 4}},
                "message_delta")
    yield frame({"type": "message_stop"}, "message_stop")


class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        frames = chat() if self.path.endswith("/completions") else messages()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(KEEPALIVE)
        for each in frames:
            self.wfile.write(each + KEEPALIVE)

    def log_message(self, *_):
        pass


provider = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=provider.serve_forever, daemon=True).start()
relay = subprocess.Popen(
    [os.environ["MILLSTREAM"], "serve", "--listen", "127.0.0.1:0", "--admin", "off", "--access-log",
     "off", "--resume", "--io", os.environ["DRIVER"], "--upstream",
     f"http://127.0.0.1:{provider.server_port}"],
    stderr=subprocess.PIPE, text=True)
try:
    said = next(line for line in relay.stderr if "serving" in line)
    threading.Thread(target=relay.stderr.read, daemon=True).start()
    base = re.search(r"http://127\.0\.0\.1:\d+", said).group(0)
    ask = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    try:
        chunks = list(openai.OpenAI(base_url=f"{base}/v1", api_key="k", max_retries=0)
                      .chat.completions.create(**ask, stream=True))
        text = "".join(chunk.choices[0].delta.content for chunk in chunks)
    except Exception as error:  # whatever it is, it is what the SDK's user would see
        text = repr(error)
    check("OpenAI: comments between its chunks", text == "".join(WORDS), text)
    try:
        client = anthropic.Anthropic(base_url=base, api_key="k", max_retries=0)
        with client.messages.stream(**ask, max_tokens=9) as stream:
            text = stream.get_final_text()
    except Exception as error:  # as above
        text = repr(error)
    check("Anthropic: comments between its events", text == "".join(WORDS), text)
finally:
    relay.terminate()
    check("the relay ends in order", relay.wait(timeout=20) == 0)
    provider.shutdown()
