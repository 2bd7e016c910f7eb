"""The DashScope SDK for Python, which reads its streams line by line and knows an error by
`event:error` without a space."""

import asyncio
import os

import certifi
import dashscope
from dashscope.aigc.generation import AioGeneration, Generation
from dashscope.api_entities.aio_session import close_shared_aio_session
from dashscope.api_entities.http_request import close_shared_sync_session

from checks import LONG, RELAY, SILENCE, check, sees_heartbeat, sees_leaving

# Its asynchronous half trusts certifi's authorities alone, whatever the environment says.
if trusted := os.environ.get("SSL_CERT_FILE"):
    certifi.where = lambda: trusted

dashscope.base_http_api_url = f"{RELAY}/api/v1"
ASK = {"model": "qwen-turbo", "prompt": "hi", "api_key": "k"}


def stream(incremental=True, **headers):
    return Generation.call(**ASK, stream=True, incremental_output=incremental, headers=headers)


async def aio_stream(**headers):
    answers = await AioGeneration.call(
        **ASK, stream=True, incremental_output=True, headers=headers)
    try:
        return [answer async for answer in answers]
    finally:
        await close_shared_aio_session()


def text_of(answers):
    return "".join(answer.output.text for answer in answers if answer.output)


def leave():
    answers = stream(**LONG)
    next(answers)
    answers.close()
    # The SDK keeps the connection of a stream that was left in its session.
    close_shared_sync_session()


def ends_badly(name, answers, status, code):
    """The last answer is the error, with one of these codes, and what came before it is not. Of a
    refusal the older SDKs do not read the code."""
    *before, last = answers
    check(name, last.status_code == status and last.code in code
          and all(answer.status_code == 200 for answer in before), last)


text = Generation.call(**ASK).output.text
answers = list(stream())
check("generation", text and text_of(answers) == text, text_of(answers)[:80])
check("generation usage", answers[-1].usage.output_tokens == 60
      and answers[-1].output.finish_reason == "stop", answers[-1])
check("generation, whole text each time", list(stream(incremental=False))[-1].output.text == text)
check("generation, async", text_of(asyncio.run(aio_stream())) == text)
sees_heartbeat("generation through a silence", lambda: text_of(stream(**SILENCE)) == text)
CUT = {"X-Mock-Truncate": "900"}
ends_badly("a cut stream ends in an error", stream(**CUT), 502, ["upstream_truncated"])
ends_badly("a cut stream ends in an error, async", asyncio.run(aio_stream(**CUT)), 502,
           ["upstream_truncated"])
ends_badly("the provider's own error", stream(**{"X-Mock-Error-At": "4"}), 529, ["overloaded"])
ends_badly("429", stream(**{"X-Mock-Status": "429"}), 429, [None, "mock"])
ends_badly("the relay's own 502", stream(
    **{"X-Mock-Fail-First": "99:close", "X-Mock-Key": "dashscope"}), 502, ["upstream_no_answer"])
sees_leaving("leaving is noticed", leave)
