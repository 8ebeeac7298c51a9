"""A real JupyterLab on a copy of the project, in a real Chromium. Without a browser these tests are skipped."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from buddy_ops.cli import sandbox

ROOT = Path(__file__).parents[3]
PICTURES = ROOT / "build" / "screenshots"
"""Where each test leaves what a person would see."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LIMIT_S = 120
"""Of anything that is waited for. Generous: the machine may be busy."""

QUIET = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser. Playwright's event loop runs in this thread until it ends: tests elsewhere start loops of their own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make .venv/.dev")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@dataclass
class Lab:
    """A JupyterLab that runs, and the folder that it serves: a copy, since Lab saves what it executes."""

    url: str
    token: str
    folder: Path
    settings: Path

    def use_theme(self, name: str) -> None:
        """Choose the theme of the pages that are opened from now on."""
        (self.settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": f"JupyterLab {name}"}))

    def fill(self, runbook: str, **parameters: object) -> None:
        """Write parameters into a runbook's cell, as a person would."""
        fresh = (ROOT / "notebooks" / f"{runbook}.ipynb").read_text("utf-8")
        document = json.loads(fresh)
        (cell,) = (each for each in document["cells"] if "parameters" in each["metadata"].get("tags", ()))
        more = "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
        cell["source"] = "".join(cell["source"]) + more
        (self.folder / "notebooks" / f"{runbook}.ipynb").write_text(json.dumps(document), "utf-8")

    def saved(self, runbook: str) -> dict[str, Any]:
        """The notebook's file as Lab saved it."""
        found = json.loads((self.folder / "notebooks" / f"{runbook}.ipynb").read_text("utf-8"))
        assert isinstance(found, dict)
        return found


@pytest.fixture(scope="module")
def lab(chromium: Any, sandbox_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab as ``buddy-ops lab`` starts it, on loopback, with settings of its own and no popups."""
    folder, home = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("jupyter")
    for name in ("notebooks", "parameters"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    settings = home / "lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(QUIET))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"JUPYTER_CONFIG_DIR": str(home), "JUPYTER_DATA_DIR": str(home / "data"), "JUPYTER_TOKEN": "browser-tests"}
    own["BUDDY_OPS_ENVIRONMENT"] = "sandbox"
    environment = {**os.environ, **own, "AWS_ENDPOINT_URL": sandbox_url, "JUPYTER_PLATFORM_DIRS": "1"}
    environment.pop("BUDDY_OPS_RUN_FOLDER", None)
    log = (home / "lab.log").open("w")
    process = subprocess.Popen(sandbox.lab_command(folder, port, False), env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        _await_answer(f"{url}/api", process, home / "lab.log")
        yield Lab(url, "browser-tests", folder, settings.parent)
    finally:
        process.terminate()
        process.wait(LIMIT_S)
        log.close()


def _await_answer(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()}")


OUTPUTS = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output"

UNREADABLE = """selector => {
    const rgba = text => {
        const found = text.match(/[\\d.]+/g).map(Number);
        return found.length < 4 ? [...found, 1] : found;
    };
    const over = (front, back) => [0, 1, 2].map(i => front[3] * front[i] + (1 - front[3]) * back[i]);
    const linear = part => part <= 10.31475 ? part / 3294.6 : ((part / 255 + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const background = element => {
        if (!element) return [255, 255, 255];
        const own = rgba(getComputedStyle(element).backgroundColor);
        return own[3] === 1 ? own.slice(0, 3) : over(own, background(element.parentElement));
    };
    const texts = element => [...element.childNodes].filter(node => node.nodeType === 3 && node.data.trim());
    const all = [...document.querySelectorAll(selector)].flatMap(output => [output, ...output.querySelectorAll("*")]);
    const read = [...new Set(all)].filter(e => e.checkVisibility() && !e.closest("svg") && (texts(e).length || e.value));
    const cut = read.filter(element => {
        const hides = ["hidden", "clip"].includes(getComputedStyle(element).overflowX);
        const isSpoken = element.clientWidth <= 1; // for screen readers only
        return hides && !isSpoken && !element.matches("input") && element.scrollWidth > element.clientWidth + 1;
    });
    const pale = read.map(element => {
            const behind = background(element);
            const style = getComputedStyle(element);
            const [one, other] = [luminance(over(rgba(style.color), behind)), luminance(behind)].sort((a, b) => b - a);
            const ratio = (one + 0.05) / (other + 0.05);
            const size = parseFloat(style.fontSize);
            const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
            return [ratio, ratio < (large ? 3 : 4.5), element.outerHTML.slice(0, 160)];
        })
        .filter(([, low]) => low)
        .map(([ratio, , html]) => `contrast ${ratio.toFixed(2)}: ${html}`);
    return [...cut.map(element => `cut: ${element.outerHTML.slice(0, 160)}`), ...pale];
}"""
"""Texts that are cut, or below WCAG's contrast (1.4.3): within JupyterLab's scrolled cells axe-core does not decide it."""


def serious(page: Any, context: str = "body") -> list[tuple[str, str]]:
    """What axe-core finds that keeps people from reading or using it: the rule, and each element."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, context=context).response["violations"]
    return [
        (finding["id"], f"{node['html'][:200]} {node.get('failureSummary', '')}")
        for finding in found
        if finding["impact"] in ("serious", "critical")
        for node in finding["nodes"]
    ]


class Person:
    """Somebody at a notebook: opens it, runs it, types and clicks, and looks."""

    def __init__(self, lab: Lab, page: Any) -> None:
        self.lab, self.page, self.runbook = lab, page, ""
        page.set_default_timeout(1000 * LIMIT_S)

    def open(self, runbook: str) -> None:
        """Open a runbook, and wait until its kernel is ready."""
        self.runbook = runbook
        self.go()
        self.await_idle()

    def go(self) -> None:
        """Open the runbook alone.

        Without ``reset`` Lab opens the earlier tests' notebooks beside it. The status bar then speaks of one of them for
        a moment, and a "Run All" that trusts its "Idle" reaches a notebook that has no kernel yet: nothing runs.
        """
        self.page.goto(f"{self.lab.url}/lab/tree/notebooks/{self.runbook}.ipynb?token={self.lab.token}&reset")

    def run_all(self) -> None:
        """Run > Run All Cells."""
        self.menu("Run", "Run All Cells")

    def menu(self, name: str, item: str) -> None:
        self.page.locator(".lm-MenuBar-itemLabel", has_text=name).first.click()
        self.page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{item}$")).click()

    def write(self, field: str, text: str) -> None:
        """Type into the field with this label."""
        self.page.get_by_label(field, exact=True).fill(text)

    def approve(self, word: str, name: str, button: str) -> None:
        """Answer a gate."""
        self.write("Type", word)
        self.write("Your name", name)
        self.click(button)

    def press(self, *keys: str) -> None:
        """Press these keys, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def approve_by_keyboard(self, word: str, name: str) -> None:
        """Answer a gate without the mouse: the cursor is in its first field."""
        for text in (word, name):
            self.page.keyboard.type(text)
            self.press("Enter")

    def await_in_view(self, selector: str) -> None:
        """Wait until the whole of the last such element is in the visible part of its notebook: nobody scrolls."""
        self.page.wait_for_function(
            """selector => {
                const element = [...document.querySelectorAll(selector)].at(-1);
                const box = element?.getBoundingClientRect();
                const frame = element?.closest(".jp-Notebook").getBoundingClientRect();
                return box?.height > 0 && box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1;
            }""",
            arg=selector,
        )

    def use_theme(self, name: str) -> None:
        """Settings > Theme: Light or Dark, for this page as it is."""
        self.page.locator(".lm-MenuBar-itemLabel", has_text="Settings").first.click()
        self.page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Theme$")).hover()
        self.page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^JupyterLab {name}$")).click()
        light = str(name == "Light").lower()
        self.page.wait_for_function(
            "light => document.body.dataset.jpThemeLight === light"
            " && getComputedStyle(document.body).getPropertyValue('--jp-layout-color0').trim()"
            " === (light === 'true' ? 'white' : '#111')",
            arg=light,
        )

    def serious_findings(self) -> list[str]:
        """What axe-core finds in the outputs of the open notebook, widgets included, and texts that people cannot read."""
        found = [f"{rule}: {node}" for rule, node in serious(self.page, OUTPUTS)]
        return found + list(self.page.evaluate(UNREADABLE, OUTPUTS))

    def assert_accessible(self, name: str) -> None:
        """Nothing serious in the outputs, in both themes; a picture of each."""
        for theme in ("Dark", "Light"):
            self.use_theme(theme)
            assert self.serious_findings() == [], theme
            self.picture(f"{name}-{theme.lower()}")

    def verdict_bottom(self, length: int) -> float:
        """Where a verdict of so many characters ends in the page, in pixels, with the notebook at its top."""
        bottom = self.page.evaluate(
            """length => {
                document.querySelector(".jp-WindowedPanel-outer").scrollTo(0, 0);
                const verdict = document.querySelector(".verdict");
                const figures = verdict.lastChild;
                const shown = figures.data;
                figures.data = ": 17,952 requests of v41".repeat(length).slice(0, length - verdict.firstChild.innerText.length);
                const {bottom} = verdict.getBoundingClientRect();
                figures.data = shown;
                return bottom;
            }""",
            length,
        )
        return float(bottom)

    def await_focus_on_cell(self, text: str) -> None:
        """Wait until the cell with this text has the focus, so that the keyboard acts on it."""
        self.page.wait_for_function(
            "text => document.activeElement?.closest('.jp-Cell')?.innerText.includes(text)", arg=text
        )

    def restart_and_run_all(self) -> None:
        """Run > Restart Kernel and Run All Cells, and yes."""
        self.menu("Run", "Restart Kernel and Run All Cells…")
        self.page.locator(".jp-Dialog-button.jp-mod-accept").click()

    def run_all_by_button(self) -> None:
        """The toolbar's ▶▶, and Enter in its dialog: one click."""
        self.page.locator('.jp-NotebookPanel:not(.lm-mod-hidden) [data-command="notebook:restart-run-all"]').click()
        self.page.locator(".jp-Dialog-button.jp-mod-accept").wait_for()
        self.page.keyboard.press("Enter")
        self.page.locator(".jp-Dialog").wait_for(state="detached")

    def count_clicks(self) -> None:
        """Count the clicks of this page from now on."""
        self.page.evaluate(
            "() => { window.clicks = 0; addEventListener('click', e => { window.clicks += e.detail > 0; }, true); }"
        )

    def clicks(self) -> int:
        """How many there were: those of a mouse, and none that a key made."""
        return int(self.page.evaluate("() => window.clicks"))

    def click(self, button: str) -> None:
        """Click the button that begins with these words; behind them it names its target."""
        words = re.compile(f"^{re.escape(button)}(?!\\w)")
        self.page.get_by_role("button", name=words).click()

    def sees(self, text: str) -> None:
        """Wait until a text is there among the outputs."""
        self.page.locator(".jp-OutputArea-output", has_text=text).first.wait_for()

    def chart(self) -> str:
        """The picture that a rollout shows just now, once there is one: drawn while it runs, a PNG at its end."""
        return str(
            self.page.locator(".jp-OutputArea-output .buddy-ops-chart").last.evaluate("e => e.src || e.outerHTML")
        )

    def sees_another_chart_than(self, chart: str) -> None:
        self.page.wait_for_function(
            "old => { const e = [...document.querySelectorAll('.jp-OutputArea-output .buddy-ops-chart')].at(-1);"
            "return e && (e.src || e.outerHTML) !== old }",
            arg=chart,
        )

    def restart_kernel(self) -> None:
        """Kernel > Restart Kernel, and yes."""
        self.menu("Kernel", "Restart Kernel…")
        self.page.locator(".jp-Dialog-button.jp-mod-accept").click()
        self.page.locator(".jp-Dialog").wait_for(state="detached")
        self.await_idle()

    def see_from(self, text: str) -> None:
        """Scroll to where a text stands."""
        self.page.locator(".jp-OutputArea-output", has_text=text).first.scroll_into_view_if_needed()

    def leave_and_come_back_without_a_kernel(self) -> None:
        """Close the tab, end the kernel, and open the saved notebook again without starting one."""
        self.page.goto("about:blank")
        end_kernels(self.lab)
        self.go()

    def await_idle(self) -> None:
        """Wait until the kernel is there and nothing runs."""
        self.page.locator(".jp-StatusBar-TextItem", has_text=re.compile(r"ipykernel\) \| Idle")).wait_for()

    def await_gate(self) -> None:
        """Wait until the gate asks, and has scrolled itself into view."""
        self.sees("To approve, type sandbox")
        self.await_cursor()

    def await_cursor(self) -> None:
        """Wait until a field among the outputs has the cursor. A program that types before that is faster than people."""
        self.page.wait_for_function("() => document.activeElement?.matches('.jp-OutputArea-output input')")

    def save(self) -> None:
        with self.page.expect_response(lambda reply: reply.request.method == "PUT" and "/api/contents/" in reply.url):
            self.menu("File", "Save Notebook")

    def picture(self, name: str) -> None:
        """Keep what is on the screen."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png")


@pytest.fixture
def person(lab: Lab, chromium: Any) -> Iterator[Person]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    somebody = Person(lab, context.new_page())
    yield somebody
    somebody.picture("last")
    context.close()
    end_kernels(lab)


def end_kernels(lab: Lab) -> None:
    """Shut every kernel of this Lab down: the next test begins with none."""
    head = {"Authorization": f"token {lab.token}"}
    with urllib.request.urlopen(urllib.request.Request(f"{lab.url}/api/sessions", headers=head)) as reply:
        sessions = json.load(reply)
    for each in sessions:
        gone = urllib.request.Request(f"{lab.url}/api/sessions/{each['id']}", headers=head, method="DELETE")
        urllib.request.urlopen(gone).close()


def python() -> str:
    """The interpreter that runs this, for kernels."""
    return sys.executable
