"""Real clients through a real relay, on both drivers. Prints one line per check."""

import json
import subprocess
import sys
import threading
import urllib.request

import anthropic
import openai

PASSED = 0


def start(binary, *arguments):
    """Starts the binary; gives the process and the first operational line that has a port."""
    process = subprocess.Popen(
        [binary, *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    for line in process.stderr:
        if "http://127.0.0.1:" in line:
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, "http://127.0.0.1:" + line.split("http://127.0.0.1:")[1].split()[0].strip(",")
    raise SystemExit(f"{arguments} did not start")


def check(name, condition, detail=""):
    global PASSED
    if not condition:
        raise SystemExit(f"FAILED {name}: {detail}")
    PASSED += 1
    print(f"ok {name}")


def with_curl(base, driver):
    body = json.dumps({"model": "m", "stream": True, "messages": []})
    out = subprocess.run(
        ["curl", "-sSN", "-m", "20", f"{base}/v1/chat/completions", "-d", body],
        capture_output=True, text=True, check=True,
    ).stdout
    check(f"{driver}: curl", out.rstrip().endswith("data: [DONE]"), out[-200:])
    cut = subprocess.run(
        ["curl", "-sSN", "-m", "20", f"{base}/v1/chat/completions?mock_truncate=900", "-d", body],
        capture_output=True, text=True, check=False,
    )
    check(f"{driver}: curl sees a cut", cut.returncode == 18 and "upstream_truncated" in cut.stdout,
          cut.returncode)


def with_openai(base, driver):
    client = openai.OpenAI(base_url=f"{base}/v1", api_key="k", max_retries=0)
    whole = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    text = whole.choices[0].message.content
    stream = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    check(f"{driver}: openai chat", text and streamed == text, streamed[:80])
    check(f"{driver}: openai usage", chunks[-1].usage.completion_tokens == 60, chunks[-1])
    events = list(client.responses.create(model="m", input="hi", stream=True))
    said = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    check(f"{driver}: openai responses", said == text and events[-1].type == "response.completed")
    try:
        list(client.chat.completions.create(
            model="m", messages=[], stream=True, extra_headers={"X-Mock-truncate": "900"}))
        check(f"{driver}: openai error", False, "a cut stream looked whole")
    except openai.APIError as error:
        check(f"{driver}: openai error", "whole" in str(error), error)
    try:
        client.chat.completions.create(
            model="m", messages=[], extra_headers={"X-Mock-status": "429"})
        check(f"{driver}: openai 429", False, "no error")
    except openai.RateLimitError:
        check(f"{driver}: openai 429", True)


def with_anthropic(base, driver):
    client = anthropic.Anthropic(base_url=base, api_key="k", max_retries=0)
    ask = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
    text = client.messages.create(**ask).content[0].text
    with client.messages.stream(**ask) as stream:
        streamed = "".join(stream.text_stream)
        final = stream.get_final_message()
    check(f"{driver}: anthropic", streamed == text, streamed[:80])
    check(f"{driver}: anthropic usage", final.usage.output_tokens == 60, final.usage)
    try:
        with client.messages.stream(**ask, extra_headers={"X-Mock-truncate": "1500"}) as stream:
            "".join(stream.text_stream)
        check(f"{driver}: anthropic error", False, "a cut stream looked whole")
    except anthropic.APIError as error:
        check(f"{driver}: anthropic error", True, error)


def main():
    binary = sys.argv[1]
    subprocess.run([binary, "check", "--upstream", "http://127.0.0.1:9000"], check=True,
                   stdout=subprocess.DEVNULL)
    mock, upstream = start(binary, "mock", "--listen", "127.0.0.1:0", "--rate", "0",
                           "--first-delay", "0ms")
    try:
        for driver in ("auto", "epoll"):
            relay, base = start(binary, "serve", "--listen", "127.0.0.1:0", "--admin", "off",
                                "--upstream", upstream, "--io", driver, "--access-log", "off")
            try:
                with_curl(base, driver)
                with_openai(base, driver)
                with_anthropic(base, driver)
                page = urllib.request.urlopen(base + "/", timeout=10).read().decode()
                check(f"{driver}: page", "Millstream" in page)
            finally:
                relay.terminate()
                check(f"{driver}: exit", relay.wait(timeout=20) == 0)
    finally:
        mock.kill()
    print(f"{PASSED} passed, 0 failed")


main()
