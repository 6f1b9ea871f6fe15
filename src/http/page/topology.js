// Who follows whom, drawn; and the same in words.

// Older than this a fact looks old.
const STALE_MS = 3000;

// What a fact's age is by now: as told, and the time since it was told.
const aged = (ms, since) => (ms === null || ms === undefined ? null : ms + since);

function isOld(member, since) {
  return member.error !== null || member.age_ms === null || aged(member.age_ms, since) > STALE_MS;
}

function heard(member, since) {
  if (member.age_ms === null) return member.serves ? "not looked yet" : "never heard";
  return (member.serves ? "looked " : "heard ") + span(aged(member.age_ms, since)) + " ago";
}

// What a member is, or was when it was heard last.
const roleNow = (member, old) => (old && member.role !== "unknown" ? "was " : "") + member.role;

// For the edge between a standby and whom it follows.
function tie(member) {
  const counts = { sync: "sync", former: "former sync", async: "async", leads: "", unknown: "" }[member.sync];
  if (!member.streams) return "not streaming";
  const lag = member.lag_bytes === null ? "lag not known" : member.lag_bytes === 0 ? "no lag" : bytes(member.lag_bytes) + " behind";
  return [counts, lag].filter(Boolean).join(", ");
}

function inWords(view, since) {
  return view.members
    .map((m) => {
      const follows = m.role === "primary" ? "takes the writes" : m.follows ? "follows " + m.follows + ", " + tie(m) : "follows nobody";
      const position = m.lsn ? " at " + m.lsn + " on timeline " + (m.timeline || "not known") : "";
      return m.member + " is " + m.role + position + ", " + follows + ", " + heard(m, since) + (isOld(m, since) ? " (old)" : "");
    })
    .join("; ");
}

const BOX = { width: 236, height: 74 };
// Where they stand below each other they use the room there is.
const boxWidth = (beside, x, width) => (beside ? BOX.width : width - x - 1);

// Places: whoever is followed or leads first, the others beside it, or below it where there is little room.
function places(view, width) {
  const isTop = (m) => m.role === "primary" || (m.recorded_primary && !view.members.some((o) => o.role === "primary"));
  const tops = view.members.filter(isTop);
  const rest = view.members.filter((m) => !isTop(m));
  const beside = width >= 640;
  const step = BOX.height + (beside ? 16 : 34);
  const at = new Map();
  if (beside) {
    const rows = Math.max(tops.length, rest.length, 1);
    tops.forEach((m, i) => at.set(m.member, { x: 1, y: 1 + ((rows - tops.length) / 2 + i) * step }));
    rest.forEach((m, i) => at.set(m.member, { x: width - BOX.width - 1, y: 1 + ((rows - rest.length) / 2 + i) * step }));
    return { at, beside, height: rows * step - 16 + 2 };
  }
  const indent = tops.length ? 24 : 0;
  [...tops, ...rest].forEach((m, i) => at.set(m.member, { x: i < tops.length ? 1 : indent + 1, y: 1 + i * step }));
  return { at, beside, height: view.members.length * step - 34 + 2 };
}

function edge(from, to, member, old, beside) {
  const style = "tie" + (member.streams && !old ? "" : " off") + (member.sync === "sync" ? " sync" : "");
  if (beside) {
    const [x1, y1] = [to.x + BOX.width, to.y + BOX.height / 2];
    const [x2, y2] = [from.x, from.y + BOX.height / 2];
    const middle = (x1 + x2) / 2;
    const path = "M" + x1 + " " + y1 + " C" + middle + " " + y1 + " " + middle + " " + y2 + " " + (x2 - 7) + " " + y2;
    const arrow = "M" + (x2 - 8) + " " + (y2 - 5) + " L" + x2 + " " + y2 + " L" + (x2 - 8) + " " + (y2 + 5) + " Z";
    return [
      h("path", { class: style, d: path }),
      h("path", { class: "tip " + style, d: arrow }),
      // Where the line does not come from.
      h("text", { class: "tie-words", x: x2 - 14, y: y2 > y1 ? y2 + 18 : y2 - 9, "text-anchor": "end" }, old ? "not known now" : tie(member)),
    ];
  }
  const [x, y1, y2] = [to.x + 10, to.y + BOX.height, from.y + BOX.height / 2];
  const arrow = "M" + (from.x - 8) + " " + (y2 - 5) + " L" + from.x + " " + y2 + " L" + (from.x - 8) + " " + (y2 + 5) + " Z";
  return [
    h("path", { class: style, d: "M" + x + " " + y1 + " L" + x + " " + y2 + " L" + (from.x - 7) + " " + y2 }),
    h("path", { class: "tip " + style, d: arrow }),
    h("text", { class: "tie-words", x: from.x + 2, y: from.y - 9 }, old ? "not known now" : tie(member)),
  ];
}

function box(member, at, since, width) {
  const old = isOld(member, since);
  const extra = member.work ? work(member.work) : member.diverged ? "history has diverged" : member.terminating ? "pod is ending" : null;
  const where = member.lsn ? member.lsn + (member.timeline ? "  timeline " + member.timeline : "") : "position not known";
  return h(
    "g",
    { class: "box " + member.role + (old ? " old" : ""), transform: "translate(" + at.x + " " + at.y + ")" },
    h("rect", { class: "frame", width: width, height: BOX.height, rx: 6 }),
    h("rect", { class: "stripe", x: 0, y: 0, width: 6, height: BOX.height, rx: 3 }),
    h("text", { class: "name", x: 18, y: 24 }, member.member),
    h("text", { class: "role", x: width - 12, y: 24, "text-anchor": "end" }, roleNow(member, old)),
    h("text", { class: "fact", x: 18, y: 44 }, extra || where),
    h("text", { class: "fact age", x: 18, y: 62 }, (member.error ? "no answer, " : "") + heard(member, since))
  );
}

function work(doing) {
  const share = doing.bytes_total ? " " + Math.floor((100 * doing.bytes_done) / doing.bytes_total) + " %" : "";
  return doing.kind + share + ", " + bytes(doing.bytes_done);
}

function topology(view, since, width) {
  const { at, beside, height } = places(view, width);
  const ties = view.members
    .filter((m) => m.role !== "primary" && m.follows && at.has(m.follows) && m.follows !== m.member)
    .map((m) => edge(at.get(m.member), at.get(m.follows), m, isOld(m, since), beside));
  return h(
    "svg",
    { viewBox: "0 0 " + width + " " + height, width, height, role: "img", "aria-labelledby": "drawing-title drawing-words" },
    h("title", { id: "drawing-title" }, "Who follows whom"),
    h("desc", { id: "drawing-words" }, inWords(view, since)),
    ties,
    view.members.map((m) => box(m, at.get(m.member), since, boxWidth(beside, at.get(m.member).x, width)))
  );
}
