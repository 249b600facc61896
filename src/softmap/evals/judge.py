"""A judge behind an OpenAI-compatible endpoint: is an answer true to its document?

Whatever the judge does not clearly say never counts as correct: unreadable answers, rate limits,
time-outs and failures are counted, each under its name.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from softmap.errors import SoftmapError, shown

KEY = "SOFTMAP_JUDGE_KEY"
CORRECT, WRONG = "correct", "wrong"
UNREADABLE, LIMITED, TIMED_OUT, FAILED = "unreadable", "rate limited", "timed out", "failed"
_VERDICT = re.compile(r"conclusion\s*:\s*\W*(true|false)\b", re.IGNORECASE)
_ASK = """\
You judge whether an answer is true to a document. Whatever the document does not say counts as \
false, even where it is true in the world. Explain your judgement in a few sentences. Then write, \
as the last line, "Conclusion: True" or "Conclusion: False".

Document:
{document}

Question:
{question}

Reference answer:
{reference}

Answer to judge:
{answer}
"""


@dataclass
class Judge:
    """A judge at ``address``, the endpoint's base URL (http://localhost:8000/v1).

    Args:
        tries: attempts at one judgement, with growing pauses, after a rate limit, a time-out or a
            server error.
    """

    address: str
    model: str = "default"
    tries: int = 4
    timeout: float = 60.0
    pause: float = 2.0
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^\s/]", self.address):
            raise SoftmapError(
                f"--judge: expected an address (http://localhost:8000/v1), found "
                f"{shown(self.address)}"
            )

    def judge(self, document: str, question: str, reference: str, answer: str) -> str:
        """Returns ``"correct"``, ``"wrong"``, or why there is no judgement."""
        text = _ASK.format(document=document, question=question, reference=reference, answer=answer)
        found = self._judged(text)
        self.counts[found] += 1
        return found

    def _judged(self, text: str) -> str:
        outcome = FAILED
        for number in range(self.tries):
            if number:
                time.sleep(self.pause * 2 ** (number - 1))
            outcome, again = self._once(text)
            if not again:
                break
        return outcome

    def _once(self, text: str) -> tuple[str, bool]:
        """Returns the outcome of one request, and whether another may help."""
        try:
            with urllib.request.urlopen(self._request(text), timeout=self.timeout) as answer:
                return verdict(answer.read()), False
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 429:
                return LIMITED, True
            return FAILED, error.code >= 500
        except (TimeoutError, urllib.error.URLError) as error:
            late = isinstance(error, TimeoutError) or isinstance(error.reason, TimeoutError)
            return (TIMED_OUT if late else FAILED), True
        except OSError:  # a connection that broke
            return FAILED, True

    def _request(self, text: str) -> urllib.request.Request:
        body = {
            "model": self.model,
            "temperature": 0,
            "messages": [{"role": "user", "content": text}],
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        where = self.address.rstrip("/") + "/chat/completions"
        return urllib.request.Request(where, json.dumps(body).encode(), headers)


def verdict(body: bytes) -> str:
    """Returns the verdict of a completion: its conclusion, unless it also states the opposite."""
    try:
        said: Any = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return UNREADABLE
    found = {word.lower() for word in _VERDICT.findall(said)} if isinstance(said, str) else set()
    if len(found) != 1:
        return UNREADABLE
    return CORRECT if found == {"true"} else WRONG
