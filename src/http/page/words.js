// Numbers and moments in words, and the few lines that make elements.

const byId = (id) => document.getElementById(id);

// A description of an element; `patch` makes it so.
function h(name, props, ...children) {
  return { name, props: props || {}, children: children.flat(3).filter((c) => c !== null && c !== undefined && c !== false) };
}

const SVG = "http://www.w3.org/2000/svg";
const SVG_NAMES = new Set(["svg", "g", "rect", "path", "line", "circle", "text", "tspan", "title", "desc"]);

// Makes the children of `parent` as described, touching only what differs: focus and selection stay where they are.
function patch(parent, wanted) {
  wanted.forEach((want, at) => {
    let have = parent.childNodes[at];
    if (typeof want !== "object") {
      const text = String(want);
      if (!have || have.nodeType !== Node.TEXT_NODE) {
        const node = document.createTextNode(text);
        have ? parent.replaceChild(node, have) : parent.appendChild(node);
      } else if (have.data !== text) {
        have.data = text;
      }
      return;
    }
    if (!have || have.nodeType !== Node.ELEMENT_NODE || have.localName !== want.name || have.id !== (want.props.id || "")) {
      const made = SVG_NAMES.has(want.name) ? document.createElementNS(SVG, want.name) : document.createElement(want.name);
      have ? parent.replaceChild(made, have) : parent.appendChild(made);
      have = made;
    }
    dress(have, want.props);
    patch(have, want.children);
  });
  while (parent.childNodes.length > wanted.length) parent.removeChild(parent.lastChild);
}

// Sets what differs. `share` is a width in percent: styles in attributes are not allowed here.
function dress(element, props) {
  for (const [name, value] of Object.entries(props)) {
    if (name === "share") {
      element.style.width = value + "%";
    } else if (value === null || value === undefined || value === false) {
      element.removeAttribute(name);
    } else if (element.getAttribute(name) !== String(value)) {
      element.setAttribute(name, value);
    }
  }
  for (const { name } of [...element.attributes]) {
    if (!(name in props) && name !== "style" && name !== "open") element.removeAttribute(name);
  }
}

function span(ms) {
  if (ms < 10000) return (ms / 1000).toFixed(1) + " s";
  const seconds = Math.round(ms / 1000);
  if (seconds < 120) return seconds + " s";
  if (seconds < 7200) return Math.round(seconds / 60) + " min";
  if (seconds < 172800) return Math.round(seconds / 3600) + " h";
  return Math.round(seconds / 86400) + " d";
}

function bytes(count) {
  let value = count;
  for (const unit of ["B", "kB", "MB", "GB", "TB"]) {
    if (value < 1000 || unit === "TB") return (unit === "B" ? value : value.toFixed(1)) + " " + unit;
    value /= 1000;
  }
}

function clock(unixMs) {
  const at = new Date(unixMs);
  const day = at.toDateString() === new Date().toDateString() ? "" : at.toISOString().slice(0, 10) + " ";
  return day + at.toTimeString().slice(0, 8);
}

const nameOf = (holder) => (holder ? holder.split("_")[0] : null);
