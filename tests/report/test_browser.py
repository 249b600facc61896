"""The page as a browser has it: nothing in the console, nothing beyond the edge of a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape

import fake
import pytest

from softmap import report
from softmap.report import assemble

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
# A frame as wide as a phone; what it finds is written where --dump-dom reads it.
OUTSIDE = """<!doctype html><body><iframe id="page" src="%s" width="390" height="900"></iframe>
<pre id="found"></pre><script>
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
onload = async () => {
  const page = document.getElementById("page").contentDocument, found = {};
  const edge = () => page.documentElement.scrollWidth;
  const count = (query) => page.querySelectorAll(query).length;
  await wait(4000);
  Object.assign(found, { drawn: count(".chart svg"), figures: count(".chart"), edge: edge() });
  page.getElementById("none").click();
  await wait(500);
  found.empty = count("figure.empty");
  for (const box of page.querySelectorAll(".chip input:checked")) box.click();
  await wait(500);
  page.getElementById("all").click();
  await wait(500);
  Object.assign(found, { left: count("figure.empty"), last: edge() });
  document.getElementById("found").textContent = JSON.stringify(found);
};
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("seeds", [1, 3])
def test_in_a_browser(tmp_path, monkeypatch, seeds):
    monkeypatch.setattr(assemble, "_pictures", lambda *_: None)
    run = fake.make(tmp_path / "run", variants=9, seeds=seeds, windows=40, context=32)
    outside = tmp_path / "outside.html"
    outside.write_text(OUTSIDE % report.build(run).as_uri())
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=900,1000"),
        *("--allow-file-access-from-files", "--enable-logging=stderr", "--v=0", "--dump-dom"),
        *("--virtual-time-budget=30000", f"--user-data-dir={tmp_path / 'profile'}"),
        outside.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    dumped = re.search(r'<pre id="found">(.+?)</pre>', done.stdout)
    found = json.loads(unescape(dumped.group(1)))
    assert found["drawn"] == found["figures"] == 11
    assert found["edge"] <= 390 and found["last"] <= 390
    assert found["empty"] == 3 and found["left"] == 0  # the differences, of the control alone
