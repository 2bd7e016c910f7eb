"""The OpenAI SDK for Python."""

import openai

from checks import LONG, RELAY, SILENCE, check, sees_heartbeat, sees_leaving

client = openai.OpenAI(base_url=f"{RELAY}/v1", api_key="k", max_retries=0)
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def text_of(chunks):
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def responses_text(events):
    return "".join(e.delta for e in events if e.type == "response.output_text.delta")


def leave():
    stream = client.chat.completions.create(**ASK, stream=True, extra_headers=LONG)
    next(iter(stream))
    stream.close()


def raises(name, kind, words, **more):
    try:
        answer = client.chat.completions.create(**ASK, **more)
        if more.get("stream"):
            list(answer)
        check(name, False, "no error")
    except kind as error:
        check(name, words in str(error), error)


text = client.chat.completions.create(**ASK).choices[0].message.content
chunks = list(client.chat.completions.create(
    **ASK, stream=True, stream_options={"include_usage": True}))
check("chat", text and text_of(chunks) == text, text_of(chunks)[:80])
check("chat usage", chunks[-1].usage.completion_tokens == 60, chunks[-1])
events = list(client.responses.create(model="m", input="hi", stream=True))
check("responses", responses_text(events) == text and events[-1].type == "response.completed",
      events[-1])
check("responses usage", events[-1].response.usage.output_tokens == 60, events[-1])
sees_heartbeat("chat through a silence", lambda: text == text_of(
    client.chat.completions.create(**ASK, stream=True, extra_headers=SILENCE)))
raises("a cut stream raises", openai.APIError, "whole", stream=True,
       extra_headers={"X-Mock-Truncate": "900"})
raises("429", openai.RateLimitError, "told to fail", extra_headers={"X-Mock-Status": "429"})
raises("the relay's own 502", openai.InternalServerError, "upstream_no_answer",
       extra_headers={"X-Mock-Fail-First": "99:close", "X-Mock-Key": "openai-python"})
sees_leaving("leaving is noticed", leave)
