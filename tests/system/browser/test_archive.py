"""Archived runs in a real Chromium with the network off: the chart is there, nothing is fetched, no script runs."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.core import redaction
from buddy_ops.runs import archive, supervisor
from tests.conftest import Situation
from tests.runs.test_archive import leave
from tests.system.browser.conftest import PICTURES, serious

pytestmark = pytest.mark.xdist_group("browser")
Bring = Callable[..., Situation]
HOSTILE = (
    "</td><script>document.title='owned'</script><img src=http://127.0.0.1:9/x onerror=\"document.title='owned'\">"
)


class Page:
    """One page, what it asked the network for, and what its console complained of."""

    def __init__(self, browser: Any) -> None:
        self._context = browser.new_context(offline=True, viewport={"width": 1100, "height": 1400})
        self.page = self._context.new_page()
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)

    def open(self, path: Path) -> Any:
        self.page.goto(path.as_uri())
        return self.page

    def fetched(self) -> list[str]:
        return [url for url in self.asked if not url.startswith(("file:", "data:"))]

    def close(self) -> None:
        self._context.close()


LAB = {"light": ("#ffffff", "rgba(0,0,0,.87)", "#1565c0"), "dark": ("#111111", "#ffffff", "#64b5f6")}
"""Background, text and links of outputs in JupyterLab's themes. Within Lab axe-core does not see cells' contrast."""


def serious_in_lab(page: Any, notebook: Path, theme: str) -> list[tuple[str, str]]:
    """What axe-core finds in a notebook's HTML outputs, on the background of a theme."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
    outputs = "".join("".join(each["text/html"]) for each in data if "text/html" in each)
    assert "<table" in outputs or "buddy-ops-chart" in outputs
    background, text, link = LAB[theme]
    style = f"body{{background:{background};color:{text};font:14px sans-serif}}a{{color:{link}}}"
    light = "false" if theme == "dark" else "true"
    page.set_content(
        f"<!doctype html><html lang=en><title>t</title><style>{style}</style>"
        f"<body data-jp-theme-light={light}><main><h1>t</h1>{outputs}</main>"
    )
    return serious(page)


@pytest.fixture
def offline(chromium: Any) -> Iterator[Page]:
    page = Page(chromium)
    yield page
    page.close()


def test_an_archived_canary_opens_offline_with_its_chart(situation: Bring, offline: Page) -> None:
    """The picture has its pixels, every cell its state, and not one request fails, because there is none."""
    here = situation("errors_5_percent")
    given = {"environment": "sandbox", "artifact": here.build("errors_5_percent"), "approved_by": ["Ada"]}
    done = supervisor.run_notebook("strategies/canary", given, folder=here.folder / "runs" / "canary")
    assert done.report is not None and done.exit_code == 3
    page = offline.open(done.report)
    (width,) = page.eval_on_selector_all("img", "all => all.map(each => each.complete && each.naturalWidth)")
    assert width == 900 and page.locator("img").is_visible()
    assert page.locator(".state").all_inner_texts()[-1] == "failed" and page.locator("td.rolled-back").count() == 1
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / "archived-canary.png", full_page=True)
    assert offline.fetched() == [] and offline.complaints == []
    alt = page.locator("img").get_attribute("alt")
    assert "v2: " in alt and "error rate" in alt and "(limit 1 %)" in alt and "ROLLED BACK" in alt
    assert serious(page) == []
    # The address of the index leads to the same page.
    page = offline.open(here.folder / "runs" / "index.html")
    page.locator("tbody a").click()
    assert page.url == done.report.as_uri()


RED = "rgb(176, 0, 32)"


def colour(page: Any, selector: str) -> str:
    return str(page.eval_on_selector(selector, "each => getComputedStyle(each).color"))


@pytest.mark.whole
def test_what_burns_is_red_in_the_page(situation: Bring, offline: Page) -> None:
    """start_here while the live version hurts people: verdict and sign are as red as in JupyterLab."""
    here = situation("errors_5_percent", stable="errors_5_percent", history_minutes=40)
    done = supervisor.run_notebook("start_here", {"environment": "sandbox"}, folder=here.folder / "runs" / "start")
    assert done.report is not None and done.exit_code == 0, done.trouble
    page = offline.open(done.report)
    assert "ERROR RATE HIGH" in page.locator(".verdict").inner_text() and colour(page, ".verdict b") == RED
    assert page.locator("td .problem").first.inner_text() == "PROBLEM" and colour(page, "td .problem") == RED
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / "archived-start-here.png", full_page=True)
    assert serious(page) == []
    for theme in LAB:
        assert serious_in_lab(page, done.report.with_name("notebook.ipynb"), theme) == []
        page.screenshot(path=PICTURES / f"outputs-{theme}.png", full_page=True)
    # The check sees what it is for: a red for white pages is unreadable on a black one.
    page.evaluate(
        "document.querySelector('main').insertAdjacentHTML('beforeend', '<b style=\"color:#b00020\">x y</b>')"
    )
    assert [rule for rule, _ in serious(page)] == ["color-contrast"]


@pytest.mark.whole
def test_broken_glass_is_red_in_the_page(situation: Bring, offline: Page) -> None:
    """A canary against prod's rules: who, why, and every rule, in a red box."""
    here = situation("good", environment="prod", history_minutes=0, requests_per_minute=0)
    given = {"environment": "prod", "artifact": here.build("good"), "dry_run": True}
    glass = {"who": "Ada", "why": "reminders are not sent"}
    done = supervisor.run_notebook(
        "strategies/canary", given | {"break_glass": glass}, folder=here.folder / "runs" / "glass"
    )
    assert done.report is not None and done.exit_code == 0, done.trouble
    page = offline.open(done.report)
    box = page.locator("div.alert-danger").first
    assert "Violates the rules. Ada used emergency override (break-glass): reminders are not sent" in box.inner_text()
    assert box.locator("li").count() >= 2
    assert (colour(page, "div.alert-danger"), colour(page, "div.alert-danger li")) == (RED, RED)
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / "archived-broken-glass.png", full_page=True)
    assert serious(page) == []


def test_the_index_finds_runs_by_what_is_typed(tmp_path: Path, offline: Page) -> None:
    """Newest first; each column has its box, and dates have two; together they narrow."""
    for number, (environment, who) in enumerate((("prod", "Ada"), ("prod", "Grace"), ("dev", "Ada"))):
        about = {"environment": environment, "parameters": {"approved_by": [who], "incident": f"INC-{number}"}}
        folder = leave(tmp_path, f"run-000{number}", **about)
        facts = archive.build_manifest(folder, redaction.Redactor(), ended=f"2026-11-2{number}T03:12:00Z")
        archive.append_to_chain(folder, facts)
    page = offline.open(tmp_path / "index.html")
    visible = page.locator("tbody tr:not([hidden])")
    assert serious(page) == []
    assert visible.count() == 3 and "2026-11-22" in visible.first.inner_text()
    for boxes, wanted in (
        ({"environment": "PROD"}, ["0001", "0000"]),
        ({"who": "ada"}, ["0002", "0000"]),
        ({"environment": "prod", "who": "ada"}, ["0000"]),
        ({"incident": "inc-1"}, ["0001"]),
        ({"outcome": "failed"}, []),
        ({"runbook": "canary"}, ["0002", "0001", "0000"]),
    ):
        for name, text in boxes.items():
            page.get_by_placeholder(name, exact=True).fill(text)
        assert [row.split("\t")[7].strip() for row in visible.all_inner_texts()] == wanted, boxes
        for name in boxes:
            page.get_by_placeholder(name, exact=True).fill("")
    page.locator("input[name=from]").fill("2026-11-21")
    page.locator("input[name=to]").fill("2026-11-21")
    assert visible.count() == 1 and page.locator("output").inner_text() == "1 of 3 runs"
    assert offline.fetched() == [] and offline.complaints == []


def test_hostile_values_run_nothing_in_a_browser(tmp_path: Path, offline: Page) -> None:
    """Markup in people, incident, outputs and errors is shown as text; no title changes, nothing is fetched."""
    folder = leave(tmp_path, "run-0001", "failed", parameters={"incident": HOSTILE, "approved_by": [HOSTILE]})
    document = (folder / "notebook.ipynb").read_text("utf-8")
    output = '{"output_type": "display_data", "data": {"text/html": "<b>kept</b>HOSTILE"}, "metadata": {}}'
    escaped = HOSTILE.replace('"', '\\"')
    document = document.replace('"outputs": [', f'"outputs": [{output.replace("HOSTILE", escaped)}, ')
    (folder / "notebook.ipynb").write_text(document, "utf-8")
    archive.append_to_chain(folder, archive.build_manifest(folder, redaction.Redactor(), trouble=HOSTILE))
    for path in (folder / "report.html", tmp_path / "index.html"):
        page = offline.open(path)
        assert "owned" not in page.title() and "document.title" in page.locator("body").inner_text()
    assert offline.fetched() == [] and offline.complaints == []
