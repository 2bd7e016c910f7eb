"""curl."""

import json
import subprocess

from checks import MOCK, RELAY, check, fetch, sees_leaving

BODY = json.dumps({"model": "m", "stream": True, "messages": []})
PATH = "/v1/chat/completions"


def curl(url, *options):
    return subprocess.run(["curl", "-sSN", "-m", "20", url, "-d", BODY, *options],
                          capture_output=True, text=True, check=False)


def leave():
    """Takes the first line and goes."""
    url = f"{RELAY}{PATH}?mock_tokens=2000&mock_rate=20"
    with subprocess.Popen(["curl", "-sSN", url, "-d", BODY], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.kill()


whole = curl(RELAY + PATH)
check("stream", whole.returncode == 0 and whole.stdout.rstrip().endswith("data: [DONE]"),
      whole.stdout[-200:])
check("the mock's very bytes", whole.stdout == curl(MOCK + PATH).stdout)
for eol in ("crlf", "cr"):
    check(f"the mock's very bytes, {eol}",
          curl(f"{RELAY}{PATH}?mock_eol={eol}").stdout == curl(f"{MOCK}{PATH}?mock_eol={eol}").stdout)
cut = curl(f"{RELAY}{PATH}?mock_truncate=900")
check("a cut is no clean end", cut.returncode == 18 and "upstream_truncated" in cut.stdout,
      (cut.returncode, cut.stdout[-200:]))
sees_leaving("leaving is noticed", leave)
check("page", "Millstream" in fetch(RELAY + "/"))
