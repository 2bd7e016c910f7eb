"""The OpenAI SDK for Python at providers that speak otherwise, by routes that tell their answers in
OpenAI's words. The mock refuses what those providers would."""

import json

import openai

from checks import LONG, RELAY, SILENCE, check, sees_heartbeat, sees_leaving

PLAIN = openai.OpenAI(base_url=f"{RELAY}/v1", api_key="k", max_retries=0)
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}
CALLS = [("call_0", "look_up", {"query": '模型 "0"'}), ("call_1", "look_up", {"query": '模型 "1"'})]
TEXT = PLAIN.chat.completions.create(**ASK).choices[0].message.content


def text_of(chunks):
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def calls_of(calls):
    return [(c.id, c.function.name, json.loads(c.function.arguments)) for c in calls or []]


class At:
    """The SDK at one provider."""

    def __init__(self, provider):
        self.provider = provider
        self.client = openai.OpenAI(base_url=f"{RELAY}/{provider}/v1", api_key="k", max_retries=0,
                                    default_headers={"X-Mock-Strict": "1"})

    def check(self, name, condition, detail=""):
        check(f"{self.provider}: {name}", condition, detail)

    def create(self, headers=None, **more):
        return self.client.chat.completions.create(**ASK | more, extra_headers=headers or {})

    def raises(self, name, kind, words, headers, then=lambda error, seen: True, **more):
        """Checks that asking raises a `kind` that says `words`, of which `then` holds."""
        seen = []
        try:
            answer = self.create(headers, **more)
            if more.get("stream"):
                for chunk in answer:
                    seen.append(chunk)
            self.check(name, False, "it looked whole")
        except kind as error:
            self.check(name, words in str(error) and then(error, seen), (str(error), len(seen)))

    def streams(self):
        chunks = list(self.create(stream=True))
        last = chunks[-1].choices[0]
        self.check("streamed", text_of(chunks) == TEXT, text_of(chunks)[:80])
        self.check("role first, reason last, no usage unasked",
                   chunks[0].choices[0].delta.role == "assistant" and last.finish_reason == "stop"
                   and not any(c.usage for c in chunks), (chunks[0], chunks[-1]))
        used = list(self.create(**WITH_USAGE))
        self.check("usage", text_of(used) == TEXT and used[-1].usage is not None
                   and used[-1].usage.completion_tokens == 60
                   and used[-1].usage.prompt_tokens == 7, used[-1])
        with self.client.chat.completions.stream(
                **ASK, extra_headers={"X-Mock-Tools": "2"}) as stream:
            final = stream.get_final_completion().choices[0]
        self.check("tool calls, the SDK's helper", final.finish_reason == "tool_calls"
                   and final.message.content == TEXT
                   and calls_of(final.message.tool_calls) == CALLS, final)
        sees_heartbeat(f"{self.provider}: through a silence",
                       lambda: text_of(self.create(SILENCE, stream=True)) == TEXT)
        sees_leaving(f"{self.provider}: leaving is noticed", self.leave)

    def leave(self):
        stream = self.create(LONG, stream=True)
        next(iter(stream))
        stream.close()

    def whole(self):
        for name, more in (("no word of a stream", {}), ("stream: false", {"stream": False})):
            answer = self.create(**more)
            choice = answer.choices[0]
            self.check(f"collected, {name}", choice.message.content == TEXT
                       and choice.finish_reason == "stop"
                       and answer.usage.completion_tokens == 60, answer)
        calls = self.create({"X-Mock-Tools": "2"}).choices[0]
        self.check("collected, tool calls", calls.finish_reason == "tool_calls"
                   and calls_of(calls.message.tool_calls) == CALLS, calls)
        limited = self.create(max_completion_tokens=100, temperature=0.5, user="u", seed=1)
        instructed = self.client.chat.completions.create(model="m", messages=[
            {"role": "system", "content": "Be brief."}, *ASK["messages"]])
        self.check("with a system message", instructed.choices[0].message.content == TEXT,
                   instructed)
        self.check("with a limit", limited.choices[0].message.content == TEXT, limited)

    def fails(self):
        self.raises("an error before the first token", openai.APIError, "told to fail here",
                    {"X-Mock-Error-At": "0"}, lambda _, seen: text_of(seen) == "", stream=True)
        self.raises("an error later", openai.APIError, "told to fail here",
                    {"X-Mock-Error-At": "12"},
                    lambda _, seen: TEXT.startswith(text_of(seen)) and text_of(seen), stream=True)
        self.raises("a cut", openai.APIError, "whole", {"X-Mock-Truncate": "2500"},
                    lambda _, seen: TEXT.startswith(text_of(seen)) and text_of(seen), stream=True)
        self.raises("collected, an error in the stream", openai.InternalServerError,
                    "told to fail here", {"X-Mock-Error-At": "12"},
                    lambda error, _: error.status_code == 529)
        self.raises("collected, a cut", openai.InternalServerError, "whole",
                    # By https the relay in between has told it in the provider's words: an api_error.
                    {"X-Mock-Truncate": "2500"}, lambda error, _: error.status_code in (500, 502))
        for stream in (False, True):
            kind = "streamed" if stream else "collected"
            self.raises(f"429, {kind}", openai.RateLimitError, "told to fail",
                        {"X-Mock-Status": "429", "X-Mock-Retry-After": "7"},
                        lambda error, _: error.response.headers["retry-after"] == "7"
                        and error.type == "rate_limit_exceeded" and error.code, stream=stream)
            self.raises(f"401, {kind}", openai.AuthenticationError, "told to fail",
                        {"X-Mock-Status": "401"},
                        lambda error, _: error.type == "authentication_error", stream=stream)
        self.raises("the relay's own 502", openai.InternalServerError, "closed the connection",
                    {"X-Mock-Fail-First": "99:close", "X-Mock-Key": f"words-{self.provider}"},
                    stream=True)


for provider in ("anthropic", "dashscope"):
    at = At(provider)
    at.streams()
    at.whole()
    at.fails()
