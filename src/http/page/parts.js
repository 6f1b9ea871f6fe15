// The parts of the page, each from the last view and the time since it came.

function part(id, title, ...children) {
  return h("section", { id, "aria-labelledby": id + "-title" }, h("h2", { id: id + "-title" }, title), ...children);
}

const see = (heading, words) => h("a", { href: "runbook#" + heading }, words || "Runbook");

// "Could I fail over now, to whom, in how long, and if not, why."
function verdict(view, since, silent) {
  const could = view.could_fail_over;
  const age = aged(could.age_ms === null ? 0 : could.age_ms, since);
  const old = silent || could.stale;
  const by = could.told_by ? could.told_by + "’s word" : view.member + "’s own judgement";
  const kind = old ? "old" : could.yes ? "good" : "bad";
  const answer = could.yes
    ? [h("b", {}, "yes"), could.to ? [", to ", h("b", {}, could.to)] : "", could.about_ms === null ? "" : [", in about ", h("b", {}, span(could.about_ms))]]
    : [h("b", {}, "no"), could.missing ? ": " + could.missing : ": it was not said why"];
  return h(
    "section",
    { id: "verdict", class: kind, "aria-labelledby": "verdict-title" },
    h("h2", { id: "verdict-title" }, old ? "Could fail over, when last known" : "Could fail over now"),
    h("p", { class: "answer" }, answer),
    h("p", { class: "quiet" }, by + (could.told_by || silent ? ", " + span(age) + " ago" : "") + (old ? ". It may not hold now." : ".")),
    h("p", { class: "why" }, view.why_of + " says: " + view.why.text + ". ", view.why.code === "leading" ? "" : see(view.why_see))
  );
}

function lease(view, since, silent) {
  const told = view.lease;
  const holder = nameOf(told.holder);
  const age = aged(told.age_ms, since);
  const left = age === null ? null : told.duration_ms - age;
  const words = [];
  if (silent) return part("lease", "Lease", h("p", {}, holder ? [h("b", {}, holder), " held it, term " + view.term + ", when this was told"] : "Nobody held it when this was told", ". What became of it is not known here."));
  if (!holder) words.push("Nobody holds it.");
  else if (left > 0) words.push(h("b", {}, holder), " holds it, term " + view.term + ".");
  else words.push(h("b", {}, holder), " held it and has not renewed it, as far as " + view.member + " sees.");
  const holding = view.members.find((m) => m.member === holder);
  const permit = holding && holding.permit_left_ms !== null ? Math.max(0, holding.permit_left_ms - since) : null;
  const running = left !== null && holder;
  return part(
    "lease",
    "Lease",
    h("p", {}, words),
    running && bar("Lease", left, told.duration_ms, "Renewed " + span(age) + " ago; " + (left > 0 ? "runs out in " + span(left) : "ran out " + span(-left) + " ago")),
    permit !== null && bar("Permit", permit, told.duration_ms * 0.8, "Permit to write: " + span(permit) + " left"),
    told.contact_age_ms !== null && h("p", { class: "quiet" }, "The API server answered " + view.member + " " + span(aged(told.contact_age_ms, since)) + " ago."),
    told.contact_age_ms === null && h("p", { class: "quiet" }, "The API server has not answered " + view.member + " yet.")
  );
}

function bar(name, left, whole, words) {
  const share = Math.max(0, Math.min(100, (100 * left) / whole));
  const low = share < 40 ? " low" : "";
  return h("div", { class: "timer" }, h("div", { class: "track", "aria-hidden": "true" }, h("div", { class: "fill" + low, share })), h("p", {}, words));
}

function facts(view) {
  const record = view.record;
  if (!record) {
    const text = view.record_error || "The record was not read yet.";
    return part("recorded", "Recorded", h("p", { class: "bad-words" }, text), h("p", {}, see("lease_damaged")));
  }
  if (record.never_initialised) {
    return part("recorded", "Recorded", h("p", {}, "The cluster was never initialised. ", see("waiting_for_first_primary")));
  }
  const waits = record.durability === "async" ? "for nobody" : record.k === 0 ? "for nobody: no standby is in the sync set" : "for " + record.k + " of " + record.standbys.join(", ");
  const rows = [
    ["Primary", record.primary || "none"],
    ["Term", record.term],
    ["Timeline", record.timeline === null ? "not known" : record.timeline],
    ["Durability", record.durability + ", " + record.availability],
    ["A commit waits", waits],
    record.former_sets ? ["Former sync sets", record.former_sets + ", which a takeover must prove too"] : null,
    record.step ? ["Under way", record.step] : null,
  ].filter(Boolean);
  return part(
    "recorded",
    "Recorded",
    record.paused && h("p", { class: "bad-words" }, "Paused: nobody takes over until “pgbaton resume”. ", see("paused")),
    h("dl", {}, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]))
  );
}

const COUNTS = { leads: "leads", sync: "sync", former: "former sync", async: "async", unknown: "not known" };
const COLUMNS = ["Member", "Role", "Commits", "Follows", "Timeline", "Position", "Lag", "Heard", "State"];

function members(view, since) {
  const rows = view.members.map((m) => {
    const old = isOld(m, since);
    const link = m.serves || !m.endpoint ? m.member : h("a", { href: location.protocol + "//" + m.endpoint + "/" }, m.member);
    const lagAge = m.lag_age_ms !== null && aged(m.lag_age_ms, since) > STALE_MS ? " (" + span(aged(m.lag_age_ms, since)) + " ago)" : "";
    const lag = m.role === "primary" ? "–" : m.lag_bytes === null ? "not known" : bytes(m.lag_bytes) + lagAge;
    const state = m.error ? "no answer: " + m.error : m.why ? m.why.text : m.phase || m.server || "not known";
    const cells = [
      [link, m.serves ? h("span", { class: "tag" }, "this page") : "", m.holds_lease ? h("span", { class: "tag" }, "Lease") : ""],
      roleNow(m, old),
      COUNTS[m.sync],
      m.role === "primary" ? "–" : m.follows ? m.follows + (m.streams ? "" : ", not streaming") : "nobody",
      m.timeline === null ? "?" : m.timeline,
      m.lsn || (m.rest ? "at rest " + m.rest.last_record : "?"),
      lag,
      heard(m, since) + (old ? ", old" : ""),
      [m.work ? work(m.work) + ". " : "", state],
    ];
    const cell = (content, i) => h(i ? "td" : "th", { role: i ? "cell" : "rowheader", scope: i ? null : "row", "data-label": COLUMNS[i], class: i === 8 ? "state" : null }, h("span", {}, content));
    return h("tr", { role: "row", class: old ? "old" : null }, cells.map(cell));
  });
  // Named roles: laid out as cards on a narrow screen it is still a table.
  return part(
    "members",
    "Members",
    h(
      "table",
      { role: "table", "aria-labelledby": "members-title" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, COLUMNS.map((c) => h("th", { role: "columnheader", scope: "col" }, c)))),
      h("tbody", { role: "rowgroup" }, rows)
    ),
    view.more_members ? h("p", {}, "And " + view.more_members + " more.") : null
  );
}

function warnings(view) {
  if (!view.warnings.length) return null;
  const one = (w) => h("li", {}, h("b", {}, w.member), ": " + w.text + ". ", see(w.see));
  return part("warnings", view.warnings.length === 1 ? "1 warning" : view.warnings.length + " warnings", h("ul", {}, view.warnings.map(one)));
}

// The last terms, each with the phases of its takeover as a bar in milliseconds.
function terms(view) {
  if (!view.history.length) return part("terms", "Last terms", h("p", {}, "No term yet."));
  const total = (t) => t.phases.reduce((sum, [, ms]) => sum + ms, 0);
  const longest = Math.max(1, ...view.history.map(total));
  const names = [];
  for (const t of [...view.history].reverse()) for (const [name] of t.phases) if (!names.includes(name)) names.push(name);
  const colour = (name) => "p" + (names.indexOf(name) % 8);
  const row = (t) => {
    const sum = total(t);
    const spelt = t.phases.map(([name, ms]) => name + " " + ms).join(", ");
    return h(
      "li",
      {},
      h("div", { class: "term" }, h("b", {}, "Term " + t.term), h("span", {}, t.member), h("span", { class: "quiet" }, clock(t.at_unix_ms)), h("span", { class: "sum" }, sum ? sum + " ms" : "")),
      sum ? h("div", { class: "phases", "aria-hidden": "true" }, t.phases.map(([name, ms]) => h("div", { class: colour(name), share: (100 * ms) / longest }))) : null,
      h("p", { class: "quiet" }, t.why + (spelt ? ". Phases in ms: " + spelt + "." : "."))
    );
  };
  const legend = names.length ? h("p", { class: "legend" }, names.map((n) => h("span", {}, h("i", { class: colour(n), "aria-hidden": "true" }), n))) : null;
  return part("terms", "Last terms", legend, h("ol", {}, view.history.map(row)));
}

function settings(view) {
  return h(
    "section",
    { id: "settings", "aria-labelledby": "settings-title" },
    h("h2", { id: "settings-title" }, "Settings in force on " + view.member),
    h("dl", {}, view.settings.map((s) => [h("dt", {}, s.name), h("dd", {}, s.value)]))
  );
}

// The member that serves this page says nothing: what is seen is old, and others can be asked. No age in it: it is read out at each change.
function silence(view, told) {
  if (!view) return h("div", { class: "silence" }, h("p", {}, h("b", {}, "This member does not answer yet."), " Trying again."));
  const others = view.members.filter((m) => !m.serves && m.endpoint);
  const link = (m, i) => [i ? ", " : "", h("a", { href: location.protocol + "//" + m.endpoint + "/" }, m.member)];
  return h(
    "div",
    { class: "silence" },
    h("p", {}, h("b", {}, view.member + ", which serves this page, does not answer."), " Everything below is as it was told at " + told + "."),
    others.length ? h("p", {}, "The other members’ pages: ", others.map(link), ". Or, from where kubectl works: ", h("code", {}, "kubectl -n " + view.namespace + " port-forward pod/" + others[0].member + "-0 8008")) : null
  );
}
