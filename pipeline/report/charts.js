const data = JSON.parse(document.getElementById("data").textContent);
for (const trial of data.trials) trial.plan = trial.plan.map((place) => (place === null ? null : data.cells[place]));
const byId = (id) => document.getElementById(id);
const known = (value) => value !== null && value !== undefined;

/* ---- elements: text only ever enters as text ---- */
const SVG = "http://www.w3.org/2000/svg";
function make(namespace, tag, attributes, children) {
  const node = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) if (known(value)) node.setAttribute(key, value);
  for (const child of children) if (known(child)) node.append(child);
  return node;
}
const svg = (tag, attributes, ...children) => make(SVG, tag, attributes, children);
const html = (tag, attributes, ...children) => make(null, tag, attributes, children);

/* ---- figures as text ---- */
const percent = (value, digits = 2) => (known(value) ? (100 * value).toFixed(digits) + " %" : "-");
/* An error with its standard error, and no more decimals than that leaves. */
const error = (trial) => (!known(trial.error) ? "-" : !known(trial.deviation) ? percent(trial.error) :
  `${(100 * trial.error).toFixed(trial.decimals)} ± ${percent(trial.deviation, trial.decimals)}`);
const epochs = (value) => `${Number(value.toPrecision(value < 1 ? 2 : 3))} ${value === 1 ? "epoch" : "epochs"}`;
const significant = (value, digits = 3) => {
  if (!known(value)) return "-";
  const text = value.toPrecision(digits);
  return text.includes("e") ? String(Number(text)) : text;
};
const milliseconds = (value) => (known(value) ? significant(value) + " ms" : "-");
const bytes = (value) => {
  if (!known(value)) return "-";
  if (value < 1024) return value + " B";
  return value < 1048576 ? (value / 1024).toFixed(1) + " KiB" : (value / 1048576).toFixed(1) + " MiB";
};
const count = (value) => (value >= 1e6 ? (value / 1e6).toFixed(2) + " M" : value >= 1e4 ? (value / 1e3).toFixed(1) + " k" : String(value));
const source = (trial) => (trial.source || "unknown source") + (trial.device ? ", " + trial.device : "");
const reference = (name) => data.references.find((r) => r.name === name);
const fp32 = reference("fp32");
const byBits = (trial) => {
  const tally = new Map();
  for (const layer of trial.plan) if (layer) tally.set(layer[0], (tally.get(layer[0]) || 0) + 1);
  return [...tally].sort((a, b) => a[0] - b[0]).map(([bits, n]) => n + " × " + bits + "-bit").join(", ");
};
const drop = (trial) => {
  if (!fp32 || !known(fp32.error) || !known(trial.error)) return "";
  const points = 100 * (trial.error - fp32.error);
  return (points < 0 ? "−" : "+") + Math.abs(points).toFixed(trial.decimals) + " points against fp32";
};

/* ---- trials: one entry per candidate, the last trial that got anywhere ---- */
const candidates = new Map();
for (const trial of data.trials) {
  const other = candidates.get(trial.hash);
  if (!other || known(trial.error) || !known(other.error)) candidates.set(trial.hash, trial);
}
const front = [...candidates.values()].filter((t) => t.front).sort((a, b) => (a.size ?? 0) - (b.size ?? 0) || (a.latency ?? 0) - (b.latency ?? 0));
const state = kept; /* what a person has chosen; outlives the page's values where those change */
for (const [key, value] of Object.entries({ pinned: null, layer: null, status: "all", other: "", lost: null, brush: null, over: "trials", sort: null, all: false }))
  if (!(key in state)) state[key] = value;

/* ---- scales and ticks ---- */
function niceStep(span, wanted) {
  const raw = span / Math.max(1, wanted);
  const power = Math.pow(10, Math.floor(Math.log10(raw)));
  const lead = raw / power;
  return (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 2.5 ? 2.5 : lead <= 5 ? 5 : 10) * power;
}
function linear(low, high, from, to, wanted) {
  const step = niceStep(high - low, wanted);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
  const at = (value) => from + ((value - low) / (high - low)) * (to - from);
  const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9) + (/^(25|2\.5)/.test(String(step * Math.pow(10, -Math.floor(Math.log10(step))))) ? 1 : 0)));
  const back = (place) => low + ((place - from) / (to - from)) * (high - low);
  return { at, back, ticks, low, high, label: (v) => v.toFixed(digits) };
}
function logarithmic(low, high, from, to, wanted) {
  const a = Math.log(low), b = Math.log(high);
  let ticks = [];
  for (const leads of [[1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    ticks = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
      for (const lead of leads) {
        const value = Number((lead * Math.pow(10, e)).toPrecision(6));
        if (value >= low * 0.999 && value <= high * 1.001) ticks.push(value);
      }
    if (ticks.length <= wanted) break;
  }
  const back = (place) => Math.exp(a + ((place - from) / (to - from)) * (b - a));
  return { at: (v) => from + ((Math.log(v) - a) / (b - a)) * (to - from), back, ticks, low, high, label: (v) => String(Number(v.toPrecision(4))) };
}
function extent(values) {
  return values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
}
function spread(low, high, share) {
  const gap = high > low ? (high - low) * share : Math.abs(high || 1) * 0.15;
  return [low - gap, high + gap];
}

/* ---- frame of a chart: axes, grid, titles ---- */
function frame(node, height, x, y, titles, margin) {
  const width = Math.max(280, node.clientWidth);
  const box = { left: margin.left, right: width - margin.right, top: margin.top, bottom: height - margin.bottom };
  const sx = x(box.left, box.right, Math.floor((box.right - box.left) / 62));
  const sy = y(box.bottom, box.top, Math.floor((box.bottom - box.top) / 38));
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "group", "aria-label": titles.label });
  for (const tick of sy.ticks) {
    const at = sy.at(tick);
    root.append(svg("line", { class: "grid", x1: box.left, x2: box.right, y1: at, y2: at }));
    root.append(svg("text", { x: box.left - 8, y: at + 4, "text-anchor": "end" }, sy.label(tick)));
  }
  for (const tick of sx.ticks) {
    const at = sx.at(tick);
    root.append(svg("line", { class: "grid", x1: at, x2: at, y1: box.top, y2: box.bottom }));
    root.append(svg("text", { x: at, y: box.bottom + 18, "text-anchor": "middle" }, sx.label(tick)));
  }
  root.append(svg("line", { class: "base", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  root.append(svg("text", { class: "axis-title", x: box.right, y: box.bottom + 37, "text-anchor": "end" }, short(titles.x, width)));
  root.append(svg("text", { class: "axis-title", x: 0, y: 11 }, titles.y));
  node.replaceChildren(root);
  return { root, box, sx, sy, width };
}
/* What fits in so many pixels of an axis title; names of devices may be long. */
const short = (text, pixels) => (text.length > pixels / 6.2 ? text.slice(0, pixels / 6.2 - 1) + "…" : text);
const empty = (node, text) => node.replaceChildren(html("div", { class: "empty" }, text));
