// The stream, what to do without it, and the clock that lets every fact grow old.

// So long without a word is silence: the stream tells something once a second, and polling is slower.
const SILENT_MS = 3500;
const SILENT_POLLING_MS = 7000;
const POLL_MS = 2000;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const state = { view: null, at: 0, told: "", polling: null, width: 0, said: {} };

function take(text) {
  const told = JSON.parse(text);
  state.view = told.view;
  // A member that looks no more may still answer: what it tells is as old as its last look.
  state.at = performance.now() - told.age_ms;
  state.told = new Date(Date.now() - told.age_ms).toTimeString().slice(0, 8);
  announce(state.view);
  draw();
}

function draw() {
  const since = performance.now() - state.at;
  const silent = since > (state.polling ? SILENT_POLLING_MS : SILENT_MS);
  const { view } = state;
  document.body.className = view ? (silent ? "silent" : "live") : "waiting";
  patch(byId("silence"), silent ? [silence(view, state.told)] : []);
  if (!view) return;
  document.title = (silent ? "? " : view.could_fail_over.yes ? "" : "! ") + view.cluster + " – pgbaton";
  patch(byId("title"), [view.cluster]);
  patch(byId("seen-by"), ["Seen by ", h("b", {}, view.member), " ", h("span", { class: "pill" }, silent ? "silent for " + span(since) : state.polling ? "polling" : "live"), " pgbaton " + view.version]);
  const drawing = h("div", { id: "drawing" }, topology(view, since, drawingWidth()));
  patch(byId("page"), [
    h("div", { class: "row" }, verdict(view, since, silent), lease(view, since, silent)),
    warnings(view) || h("p", { class: "all-well quiet" }, silent ? "No warnings when this was told." : "No warnings."),
    h("div", { class: "row" }, part("topology", "Who follows whom", drawing), facts(view)),
    members(view, since),
    terms(view),
    settings(view),
  ]);
}

// The room for the drawing, measured: text in it stays as large as the rest.
function drawingWidth() {
  const there = byId("drawing");
  const room = there ? there.clientWidth : byId("page").clientWidth - 34;
  return Math.max(264, Math.min(room || 600, 760));
}

// For those who listen: what changed, not what ages.
function announce(view) {
  const primary = view.record && view.record.primary;
  const now = {
    primary: primary ? primary + " is the recorded primary, term " + view.record.term : "no primary is recorded",
    verdict: view.could_fail_over.yes ? "could fail over to " + view.could_fail_over.to : "could not fail over: " + view.could_fail_over.missing.replace(/\d+/g, "…"),
    away: view.members.filter((m) => m.error).map((m) => m.member + " does not answer").join(", "),
    warnings: view.warnings.length + " warnings",
  };
  const news = Object.keys(now).filter((key) => key in state.said && state.said[key] !== now[key] && now[key]);
  if (news.length) byId("news").textContent = news.map((key) => now[key]).join(". ") + ".";
  state.said = now;
}

function follow() {
  if (!window.EventSource) return poll();
  const stream = new EventSource("events");
  stream.onmessage = (event) => {
    stopPolling();
    take(event.data);
  };
  stream.onerror = () => {
    // It tries again by itself, unless it was refused: then the same is asked for from time to time.
    if (stream.readyState !== EventSource.CLOSED) return;
    poll();
    setTimeout(follow, 15000);
  };
}

function poll() {
  if (state.polling) return;
  const ask = async () => {
    try {
      const answer = await fetch("cluster", { cache: "no-store", signal: AbortSignal.timeout(POLL_MS) });
      if (answer.ok && state.polling) take(await answer.text());
    } catch {
      // Silence shows by itself.
    }
  };
  state.polling = setInterval(ask, POLL_MS);
  ask();
}

function stopPolling() {
  clearInterval(state.polling);
  state.polling = null;
}

state.at = performance.now();
setInterval(draw, calm.matches ? 1000 : 500);
addEventListener("resize", draw);
follow();
