// What JupyterLab's page does for a runbook: it keeps the cursor where a person goes on, shows refusals, and says when
// buttons are dead. It moves the focus and the scroll position, and saves the
// notebook where a cell waits; it clicks nothing.
(() => {
  const TICK_MS = 100;
  const STEADY_MS = 1000; // JupyterLab moves the focus and scrolls while cells run: so long it must have stood still
  const ERROR_MS = 500;
  const LIMIT_MS = 60000;
  // JupyterLab shows what an error says as it shows stderr; a warning there is no error.
  const ERROR = '.jp-Cell .jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]';
  const BEGINNINGS = /^\s*(FAILED|INVALID INPUT|REFUSED|ROLLED BACK|ABORTED|INCONCLUSIVE|Stopped\.|-{30})/;
  const page = (window.buddyOpsPage ??= start());
  page.panel("PANEL");
  page.follow();
  // What carries this script takes no room.
  element.closest(".jp-OutputArea-child")?.style.setProperty("display", "none");

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
      // Who presses a key where the focus was brought to goes on from there: it must not be brought back.
      if (panel || (goal && document.activeElement === goal.find())) drop();
      if (panel && event.key === "Enter") {
        // JupyterLab would run the waiting cell a second time. The field itself takes it for Enter.
        if (event.shiftKey) event.stopImmediatePropagation();
        moveOn(event, panel);
      } else if (!panel && event.target.closest?.("input, textarea, [contenteditable=true]")) {
        drop();
      }
    }

    // Enter in a field goes to the next one, at once: the next letter belongs there. In the last one the cell acts.
    function moveOn(event, panel) {
      const fields = [...panel.querySelectorAll("input, select")].filter((field) => field.offsetParent);
      if (!fields.includes(event.target)) return;
      const isText = event.target.matches("input:not([type=checkbox])");
      const next = fields[fields.indexOf(event.target) + 1] ?? (isText ? null : panel.querySelector("button"));
      if (!next) return;
      event.preventDefault();
      next.focus();
    }

    // A panel was shown. Its script runs again whenever JupyterLab draws it again, also after a reload of the page: its
    // cell still waits then, but this page would not show what follows.
    function panel(name) {
      if (!name) return;
      const drawn = panels.has(name) || shownEarlier(name);
      panels.set(name, { seen: false, detached: panels.get(name)?.detached ?? drawn });
    }

    function shownEarlier(name) {
      try {
        const shown = localStorage.getItem(name) !== null;
        localStorage.setItem(name, "");
        return shown;
      } catch {
        return false; // the browser keeps nothing for this page
      }
    }

    // From now on errors of runbooks are shown; those that are there already were.
    function follow() {
      if (!followed) findErrors(document).forEach((error) => known.add(error));
      followed = true;
    }

    function tick() {
      panels.forEach(watchPanel);
      for (const error of findErrors(document)) {
        if (!followed || known.has(error) || !error.offsetParent) continue;
        known.add(error);
        const cell = error.closest(".jp-Cell");
        setGoal(() => cell, error);
      }
      pursue();
    }

    function watchPanel(state, name) {
      const node = document.querySelector(`.${name}`);
      if (node) {
        if (!state.seen) {
          state.seen = true;
          state.cell = node.closest(".jp-Cell");
          node.classList.toggle("buddy-ops-detached", state.detached);
          for (const line of node.querySelectorAll(".buddy-ops-live")) {
            line.setAttribute("role", "status");
            line.setAttribute("aria-live", "polite");
          }
          const first = node.querySelector(".buddy-ops-first");
          if (state.detached) setGoal(() => state.cell, node);
          else save(state.cell);
          if (first && !state.detached) setGoal(() => focusedWithin(node) ?? firstField(node), node);
        }
        const now = document.activeElement;
        if (node.contains(now)) state.within = true;
        else if (now !== document.body) state.within = false;
        else if (state.within) focusPanel(node);
      } else if (state.seen && state.cell?.isConnected) {
        // Answered: the keyboard goes on with the next cell, unless this one failed. An error comes a moment later.
        state.since ??= performance.now();
        if (performance.now() - state.since < ERROR_MS) return;
        panels.delete(name);
        localStorage.removeItem(name);
        const next = findErrors(state.cell).length ? null : nextCodeCell(state.cell);
        if (next && (document.activeElement === document.body || state.cell.contains(document.activeElement))) {
          setGoal(() => next, next);
        }
      }
    }

    // The button that had the focus is gone. Not to another one: the key that pressed it may still be down.
    function focusPanel(node) {
      node.tabIndex = -1;
      node.focus({ preventScroll: true });
    }

    // A person who is in another field of the panel stays there.
    function focusedWithin(node) {
      return node.contains(document.activeElement) ? document.activeElement : null;
    }

    function firstField(node) {
      return node.querySelector(".buddy-ops-first :is(input, select), button.buddy-ops-first");
    }

    // As Ctrl+S does: a page that is reloaded then finds the panel in the file, and says how to go on.
    function save(cell) {
      const isMac = navigator.platform.startsWith("Mac");
      const keys = { key: "s", code: "KeyS", keyCode: 83, ctrlKey: !isMac, metaKey: isMac };
      cell.dispatchEvent(new KeyboardEvent("keydown", { ...keys, bubbles: true, cancelable: true }));
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

    function findErrors(within) {
      return [...within.querySelectorAll(ERROR)].filter((error) => BEGINNINGS.test(error.textContent));
    }

    function nextCodeCell(cell) {
      const cells = [...cell.closest(".jp-Notebook").querySelectorAll(".jp-CodeCell")];
      return cells[cells.indexOf(cell) + 1] ?? null;
    }
  }
})();
