"""The Anthropic SDK for Python."""

import anthropic

from checks import LONG, RELAY, SILENCE, check, sees_leaving

client = anthropic.Anthropic(base_url=RELAY, api_key="k", max_retries=0)
ASK = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}


def leave():
    with client.messages.stream(**ASK, extra_headers=LONG) as stream:
        next(iter(stream.text_stream))


def stream_text(**headers):
    with client.messages.stream(**ASK, extra_headers=headers) as stream:
        return "".join(stream.text_stream), stream.get_final_message()


def raises(name, kind, words, **headers):
    try:
        stream_text(**headers)
        check(name, False, "no error")
    except kind as error:
        check(name, words in str(error), error)


text = client.messages.create(**ASK).content[0].text
streamed, final = stream_text()
check("messages", text and streamed == text, streamed[:80])
check("messages usage", final.usage.output_tokens == 60, final.usage)
# Its heartbeat is an event of the dialect, so the SDK itself must take it.
events = list(client.messages.create(**ASK, stream=True, extra_headers=SILENCE))
said = "".join(e.delta.text for e in events if e.type == "content_block_delta")
check("messages through a silence", said == text and events[-1].type == "message_stop", said)
raises("a cut stream raises", anthropic.APIError, "whole", **{"X-Mock-Truncate": "1500"})
raises("429", anthropic.RateLimitError, "told to fail", **{"X-Mock-Status": "429"})
raises("the relay's own 502", anthropic.InternalServerError, "upstream",
       **{"X-Mock-Fail-First": "99:close", "X-Mock-Key": "anthropic-python"})
sees_leaving("leaving is noticed", leave)
