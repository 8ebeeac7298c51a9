// What JupyterLab's page does for a runbook: it keeps the cursor where a person goes on, shows refusals, and says when
// buttons are dead. It reads the page, moves focus and scroll position, and clicks nothing.
(() => {
  const TICK_MS = 100;
  const STEADY_MS = 1000; // JupyterLab moves the focus and scrolls while cells run: so long it must have stood still
  const LIMIT_MS = 60000;
  const ERROR = '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]';
  const page = (window.buddyOpsPage ??= start());
  page.panel("PANEL");
  page.follow();

  function start() {
    const panels = new Map();
    const known = new WeakSet();
    let goal = null;
    let followed = false;

    // A person who clicks, scrolls or types elsewhere has decided where to look.
    const drop = () => {
      goal = null;
    };
    window.addEventListener("pointerdown", drop, true);
    window.addEventListener("wheel", drop, true);
    window.addEventListener("keydown", onKey, true);
    setInterval(tick, TICK_MS);
    return { panel, follow };

    function onKey(event) {
      const panel = event.target.closest?.(".buddy-ops-panel");
      if (event.key === "Enter" && event.shiftKey) {
        // JupyterLab would run the waiting cell a second time. The field itself takes it for Enter.
        if (panel) event.stopImmediatePropagation();
      } else if (!panel && event.target.closest?.("input, textarea, [contenteditable=true]")) {
        drop();
      }
    }

    // A panel was shown. Its script runs again whenever JupyterLab draws it again, also after a reload of the page.
    function panel(name) {
      if (name) panels.set(name, { seen: false });
    }

    // From now on errors of runbooks are shown; those that are there already were.
    function follow() {
      if (!followed) document.querySelectorAll(ERROR).forEach((error) => known.add(error));
      followed = true;
    }

    function tick() {
      panels.forEach(watchPanel);
      for (const error of document.querySelectorAll(ERROR)) {
        const cell = error.closest(".jp-Cell");
        if (known.has(error) || !cell || !error.offsetParent) continue;
        known.add(error);
        if (cell.closest(".jp-Notebook")) setGoal(() => cell, error);
      }
      pursue();
    }

    function watchPanel(state, name) {
      const node = document.querySelector(`.${name}`);
      if (node) {
        if (!state.seen) {
          state.seen = true;
          state.cell = node.closest(".jp-Cell");
          node.classList.toggle("buddy-ops-detached", !isRunning(state.cell));
          for (const line of node.querySelectorAll(".buddy-ops-live")) {
            line.setAttribute("role", "status");
            line.setAttribute("aria-live", "polite");
          }
          const first = node.querySelector(".buddy-ops-first");
          if (first) setGoal(() => node.querySelector(".buddy-ops-first :is(input, select, textarea, button), button.buddy-ops-first"), node);
        }
        const now = document.activeElement;
        if (node.contains(now)) state.within = true;
        else if (now !== document.body) state.within = false;
        else if (state.within) node.querySelector("button")?.focus({ preventScroll: true });
      } else if (state.seen && state.cell?.isConnected) {
        // Answered: the keyboard goes on with the next cell, once it is known that this one did not fail.
        state.since ??= performance.now();
        if (isRunning(state.cell) && performance.now() - state.since < 5000) return;
        panels.delete(name);
        const next = state.cell.querySelector(ERROR) ? null : nextCodeCell(state.cell);
        if (next && (document.activeElement === document.body || state.cell.contains(document.activeElement))) {
          setGoal(() => next, next);
        }
      }
    }

    function setGoal(find, show) {
      goal = { find, show, since: null, until: performance.now() + LIMIT_MS };
    }

    // Focus and show, again and again, until both have stood still.
    function pursue() {
      const now = performance.now();
      const wanted = goal?.find();
      if (!goal || !wanted || !goal.show.isConnected || now > goal.until) return;
      const shown = isInView(goal.show);
      if (document.activeElement !== wanted || !shown) {
        goal.since = now;
        if (!shown) goal.show.scrollIntoView({ block: "nearest" });
        wanted.focus({ preventScroll: true });
      }
      goal.since ??= now;
      if (now - goal.since > STEADY_MS) drop();
    }

    function isInView(element) {
      const box = element.getBoundingClientRect();
      const frame = element.closest(".jp-WindowedPanel-outer, .jp-Notebook")?.getBoundingClientRect();
      if (!frame) return true;
      // Of what is higher than the frame, either end will do.
      const fits = box.height <= frame.height;
      return fits ? box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1 : box.top < frame.bottom && box.bottom > frame.top;
    }

    function isRunning(cell) {
      return cell?.querySelector(".jp-InputPrompt")?.textContent.includes("*") ?? false;
    }

    function nextCodeCell(cell) {
      const cells = [...cell.closest(".jp-Notebook").querySelectorAll(".jp-CodeCell")];
      return cells[cells.indexOf(cell) + 1] ?? null;
    }
  }
})();
