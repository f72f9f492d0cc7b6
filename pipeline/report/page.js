"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
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
    return value < 1048576 ? (value / 1024).toFixed(1) + " KiB" : (value / 1048576).toFixed(2) + " MiB";
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
  const state = { pinned: null, layer: null, status: "all" };

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
    return { at, ticks, low, high, label: (v) => v.toFixed(digits) };
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
    return { at: (v) => from + ((Math.log(v) - a) / (b - a)) * (to - from), ticks, low, high, label: (v) => String(Number(v.toPrecision(4))) };
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
    root.append(svg("text", { class: "axis-title", x: box.right, y: box.bottom + 37, "text-anchor": "end" }, titles.x));
    root.append(svg("text", { class: "axis-title", x: 0, y: 11 }, titles.y));
    node.replaceChildren(root);
    return { root, box, sx, sy, width };
  }
  const empty = (node, text) => node.replaceChildren(html("div", { class: "empty" }, text));

  /* ---- the front ---- */
  const REACH = 11; /* pixels around a point that count as on it */
  const AXES = {
    latency: {
      value: (t) => t.latency, low: (t) => t.low, high: (t) => t.high, unit: () => [1, "ms"],
      missing: "No trial has both an error and a latency yet.",
      title: (shown, unit) => {
        const kinds = [...new Set(shown.map((t) => t.source || "unknown source"))].sort();
        const devices = [...new Set(shown.map((t) => t.device).filter(Boolean))];
        return `latency, ${unit} (${kinds.join(" and ")}${devices.length === 1 ? ", " + devices[0] : ""})`;
      },
    },
    size: {
      value: (t) => t.size, low: () => null, high: () => null,
      unit: (high) => (high >= 4 * 1048576 ? [1048576, "MiB"] : [1024, "KiB"]),
      missing: "No trial has both an error and a size yet.", title: (shown, unit) => "size, " + unit,
    },
  };
  function drawFront(name) {
    const node = byId("chart-" + name), axis = AXES[name];
    const drawable = (t) => known(t.error) && known(axis.value(t));
    const trials = [...candidates.values()].filter(drawable);
    const references = data.references.filter(drawable);
    const shown = [...trials, ...references];
    if (!shown.length) return empty(node, axis.missing);
    const values = shown.flatMap((t) => [axis.value(t), axis.low(t), axis.high(t)]).filter(known);
    const [unit, unitName] = axis.unit(Math.max(...values));
    let [x0, x1] = extent(values.map((v) => v / unit));
    const log = x0 > 0 && x1 / x0 > 3;
    if (log) [x0, x1] = [x0 / Math.pow(x1 / x0, 0.05), x1 * Math.pow(x1 / x0, 0.06)];
    else [x0, x1] = spread(x0, x1, 0.07);
    /* A diverged trial must not flatten the front: errors far above it are shown at the upper edge. */
    const kept = [...trials.filter((t) => t.front), ...references].map((t) => 100 * t.error);
    const all = shown.map((t) => 100 * t.error);
    let [y0, y1] = extent(all);
    if (kept.length) {
      const [k0, k1] = extent(kept);
      const limit = k1 + Math.max(0.9 * (k1 - k0), 1);
      if (y1 > limit) y1 = limit;
    }
    [y0, y1] = spread(y0, y1, 0.09);
    y0 = Math.max(y0, 0 - 0.02 * (y1 - y0));
    y1 = Math.min(y1, 103);
    const above = shown.filter((t) => 100 * t.error > y1);
    const f = frame(
      node, node.clientWidth < 430 ? 300 : 350,
      (a, b, n) => (log ? logarithmic : linear)(Math.max(x0, log ? 1e-9 : 0), x1, a, b, n), (a, b, n) => linear(y0, y1, a, b, n),
      { x: axis.title(shown, unitName) + (log ? ", log" : ""), y: "error, %", label: "error against " + name }, { left: 44, right: 14, top: 26, bottom: 46 });
    const px = (t) => f.sx.at(axis.value(t) / unit), py = (t) => Math.max(f.box.top, f.sy.at(100 * t.error));
    drawStair(f, trials.filter((t) => t.front), px, py, axis.value);
    const order = [...trials.filter((t) => !t.front), ...references, ...trials.filter((t) => t.front)];
    const places = order.map((trial) => ({ trial, x: px(trial), y: py(trial) }));
    const cursor = svg("g", { class: "cursor", visibility: "hidden" }, svg("circle", { class: "halo", r: 9.5 }), svg("circle", { class: "mark", r: 4 }));
    for (const place of places) f.root.append(drawPoint(place, axis, f, unit, above.includes(place.trial), { places, cursor }));
    f.root.append(cursor);
    if (above.length) f.root.append(svg("text", { x: f.box.right, y: f.box.top - 10, "text-anchor": "end" }, `▲ ${above.length} above ${y1.toFixed(1)} %`));
  }
  function drawStair(f, points, px, py, value) {
    const best = [];
    for (const t of [...points].sort((a, b) => value(a) - value(b) || a.error - b.error))
      if (!best.length || t.error < best[best.length - 1].error) best.push(t);
    if (!best.length) return;
    let path = `M${px(best[0])},${f.box.top}V${py(best[0])}`;
    for (const t of best.slice(1)) path += `H${px(t)}V${py(t)}`;
    path += `H${f.box.right}`;
    f.root.append(svg("path", { class: "reach", d: path + `V${f.box.top}Z` }), svg("path", { class: "stair", d: path }));
  }
  function drawPoint(place, axis, f, unit, outside, chart) {
    const { trial, x, y } = place;
    const isReference = !trial.hash;
    const kind = [isReference ? "reference " + trial.name : trial.front ? "front" : trial.status, trial.source === "measured" ? "measured" : "modelled"];
    const group = svg("g", { class: "point " + kind.join(" "), "data-hash": trial.hash, tabindex: 0, role: isReference ? "img" : "button" });
    group.setAttribute("aria-label", `${trial.hash || trial.name}: error ${error(trial)}, ${milliseconds(trial.latency)} ${source(trial)}, ${bytes(trial.size)}`);
    if (known(axis.low(trial)) && known(axis.high(trial)))
      group.append(svg("line", { class: "bar", x1: f.sx.at(axis.low(trial) / unit), x2: f.sx.at(axis.high(trial) / unit), y1: y, y2: y }));
    const r = trial.front ? 5 : isReference ? 5 : 3.2;
    if (outside) group.append(svg("path", { class: "mark", d: `M${x - 4},${y + 4}L${x},${y - 3}L${x + 4},${y + 4}Z` }));
    else if (isReference) group.append(svg("rect", { class: "mark", x: x - r, y: y - r, width: 2 * r, height: 2 * r }));
    else group.append(svg("circle", { class: "mark", cx: x, cy: y, r }));
    if (isReference) {
      const left = x > f.box.right - 50;
      group.append(svg("text", { x: x + (left ? -10 : 10), y: y - 8, "text-anchor": left ? "end" : "start", class: "haloed" }, trial.name));
    }
    group.append(svg("circle", { class: "halo", cx: x, cy: y, r: r + 4.5 }), svg("circle", { class: "target", cx: x, cy: y, r: REACH }));
    listenAt(group, place, chart);
    return group;
  }
  /* Points may lie on top of each other. The mouse gets the nearest of those within reach and is told of the others, and further
     clicks go through them; the keyboard gets each in turn. What is shown is marked above all points. */
  function listenAt(group, own, chart) {
    const within = (x, y) => chart.places.filter((p) => Math.hypot(p.x - x, p.y - y) <= REACH);
    const pointed = (event) => {
      const box = group.ownerSVGElement.getBoundingClientRect();
      const x = event.clientX - box.left, y = event.clientY - box.top;
      const [at, here] = Math.hypot(own.x - x, own.y - y) <= REACH ? [{ x, y }, within(x, y)] : [own, within(own.x, own.y)];
      const nearest = here.reduce((best, p) => (Math.hypot(p.x - at.x, p.y - at.y) < Math.hypot(best.x - at.x, best.y - at.y) ? p : best), own);
      return { nearest, here };
    };
    let shown = null;
    const leave = () => {
      if (shown) mark(shown.trial.hash, "over", false);
      shown = null;
      tip.hidden = true;
      chart.cursor.setAttribute("visibility", "hidden");
    };
    const show = (place, here) => {
      if (shown === place) return;
      leave();
      shown = place;
      mark(place.trial.hash, "over", true);
      chart.cursor.setAttribute("transform", `translate(${place.x},${place.y})`);
      chart.cursor.setAttribute("visibility", "visible");
      const box = group.ownerSVGElement.getBoundingClientRect();
      showTip(place.trial, box.left + place.x, box.top + place.y, here.filter((p) => p !== place).map((p) => p.trial));
    };
    const point = (event) => { const { nearest, here } = pointed(event); show(nearest, here); };
    group.addEventListener("pointerenter", point);
    group.addEventListener("pointermove", (event) => { if (!shown || shown.trial.hash !== state.pinned) point(event); });
    group.addEventListener("pointerleave", leave);
    group.addEventListener("focus", () => { if (group.matches(":focus-visible")) show(own, within(own.x, own.y)); });
    group.addEventListener("blur", leave);
    group.addEventListener("click", (event) => {
      const { nearest, here } = pointed(event), stack = here.filter((p) => p.trial.hash);
      const at = stack.findIndex((p) => p.trial.hash === state.pinned);
      const next = at >= 0 ? stack[(at + 1) % stack.length] : nearest.trial.hash ? nearest : stack[0];
      if (!next) return;
      pin(next.trial.hash);
      show(next, here);
    });
    if (own.trial.hash) onKey(group, () => pin(own.trial.hash));
  }

  /* ---- hover and pin ---- */
  const tip = byId("tip");
  function showTip(trial, x, y, others = []) {
    const rows = [
      ["error", error(trial) + (trial.hash && drop(trial) ? ` (${drop(trial).replace(" points against fp32", "")})` : "")],
      ["latency", milliseconds(trial.latency)],
      known(trial.low) && known(trial.high) ? ["interval", `${significant(trial.low)} to ${milliseconds(trial.high)}`] : null,
      known(trial.latency) ? ["source", source(trial)] : null,
      ["size", bytes(trial.size)],
      trial.plan ? ["weights", byBits(trial)] : null,
      trial.plan ? ["activations", trial.activations + "-bit"] : null,
      trial.reason ? ["reason", trial.reason.length > 160 ? trial.reason.slice(0, 160) + " ..." : trial.reason] : null,
    ].filter(Boolean);
    tip.replaceChildren(
      html("b", {}, trial.hash || trial.name), trial.hash ? ` trial ${trial.number}, ${trial.front ? "on the front" : trial.status}` : " reference",
      html("table", {}, html("tbody", {}, ...rows.map(([k, v]) => html("tr", {}, html("td", {}, k), html("td", {}, v))))),
      others.length ? html("p", {}, `${others.length + 1} points here, click for the next: ` + others.map((t) => `${t.hash || t.name} (${error(t)})`).join(", ")) : "");
    tip.hidden = false;
    const left = Math.min(x + 16, innerWidth - tip.offsetWidth - 10);
    const top = y + 14 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 14 : y + 14;
    tip.style.left = Math.max(8, left) + scrollX + "px";
    tip.style.top = Math.max(8, top) + scrollY + "px";
  }
  function mark(hash, name, on) {
    if (!hash) return;
    for (const node of document.querySelectorAll("[data-hash]")) if (node.dataset.hash === hash) node.classList.toggle(name, on);
  }
  function listen(node, trial, withTip = true) {
    const enter = (event) => {
      mark(trial.hash, "over", true);
      const box = event.currentTarget.getBoundingClientRect();
      if (withTip) showTip(trial, box.left + box.width / 2, box.top + box.height / 2);
    };
    const leave = () => { mark(trial.hash, "over", false); tip.hidden = true; };
    node.addEventListener("pointerenter", enter);
    node.addEventListener("pointerleave", leave);
    node.addEventListener("focus", enter);
    node.addEventListener("blur", leave);
    if (!trial.hash) return;
    node.addEventListener("click", () => pin(trial.hash));
    onKey(node, () => pin(trial.hash));
  }
  function onKey(node, act) {
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(); }
    });
  }
  function pin(hash, remember = true) {
    if (!candidates.has(hash)) return;
    mark(state.pinned, "pinned", false);
    state.pinned = hash;
    mark(hash, "pinned", true);
    for (const card of document.querySelectorAll(".card")) card.setAttribute("aria-pressed", card.dataset.hash === hash);
    drawCandidate(candidates.get(hash));
    /* Inside a sandboxed viewer the address cannot be changed; the page works without. */
    if (remember) try { history.replaceState(null, "", "#candidate=" + encodeURIComponent(hash)); } catch (error) { void error; }
  }

  /* ---- cards and legend ---- */
  function drawCards() {
    const least = (key, of = front) => of.filter((t) => known(t[key])).sort((a, b) => a[key] - b[key] || a.error - b.error)[0];
    const near = fp32 && known(fp32.error) ? front.filter((t) => known(t.error) && t.error <= fp32.error + data.accuracyDrop / 100 + 1e-9) : [];
    const within = `within ${data.accuracyDrop} ${data.accuracyDrop === 1 ? "point" : "points"} of fp32`;
    const cards = [
      ["Recommended", candidates.get(data.recommended), (t) => bytes(t.size)],
      ["Smallest " + within, least("size", near), (t) => bytes(t.size)],
      ["Fastest " + within, least("latency", near), (t) => milliseconds(t.latency)],
      ["Most accurate", least("error"), error],
      ["Smallest", least("size"), (t) => bytes(t.size)],
      ["Fastest", least("latency"), (t) => milliseconds(t.latency)],
    ];
    const seen = new Set();
    const chosen = cards.filter(([name, trial]) => trial && !(seen.has(trial.hash) && name !== "Most accurate" && (name.length < 15 || trial.hash === data.recommended)) && seen.add(trial.hash)).slice(0, 4);
    byId("cards").replaceChildren(...chosen.map(([name, trial, big]) => {
      const of = trial.source || "unknown source", latency = milliseconds(trial.latency);
      const rest = [big(trial) === error(trial) ? null : error(trial) + " error", big(trial) === bytes(trial.size) ? null : bytes(trial.size),
        !known(trial.latency) ? null : big(trial) === latency ? of : `${latency} ${of}`];
      const text = rest.filter(Boolean).join(" · ");
      const card = html("button", { class: "card", type: "button", "data-hash": trial.hash, "aria-pressed": "false" },
        html("span", { class: "name" }, name), html("span", { class: "big" }, big(trial)), html("span", { class: "rest" }, text));
      listen(card, trial, false);
      return card;
    }));
    return chosen;
  }
  function drawLegend() {
    const entry = (className, text, shape) => {
      const icon = svg("svg", { width: 26, height: 14 }, svg("g", { class: "point " + className }, ...shape));
      return html("li", {}, icon, text);
    };
    const dot = (r) => [svg("line", { class: "bar", x1: 1, x2: 25, y1: 7, y2: 7 }), svg("circle", { class: "mark", cx: 13, cy: 7, r })];
    const box = () => [svg("rect", { class: "mark", x: 8, y: 2, width: 10, height: 10 })];
    const used = new Set([...candidates.values(), ...data.references].filter((t) => known(t.latency)).map((t) => (t.source === "measured" ? "measured" : "modelled")));
    const entries = [];
    for (const kind of ["measured", "modelled"]) if (used.has(kind)) entries.push(entry("front " + kind, "on the front, latency " + kind, dot(4.5)));
    if ([...candidates.values()].some((t) => !t.front && known(t.error))) entries.push(entry(used.has("measured") ? "measured" : "modelled", "other trials", dot(3)));
    for (const r of data.references) entries.push(entry(`reference ${r.name} ${r.source === "measured" ? "measured" : "modelled"}`, r.name + " reference", box()));
    byId("legend").replaceChildren(...entries);
    const without = [...candidates.values()].filter((t) => !known(t.error) && t.status !== "running");
    const never = without.filter((t) => t.status === "dominated").length, failed = without.filter((t) => t.status === "failed").length;
    const parts = [];
    if (never) parts.push(`${never} could not enter the front by latency and size and ${never === 1 ? "was" : "were"} never trained`);
    if (failed) parts.push(`${failed} failed`);
    byId("undrawn").textContent = parts.length ? "Not drawn, for want of an error: " + parts.join("; ") + "." : "";
  }

  /* ---- one candidate ---- */
  function drawCandidate(trial) {
    byId("candidate").hidden = false;
    byId("candidate-hash").textContent = trial.hash;
    const ratio = (of, key, word) => {
      const other = reference(of);
      if (!other || !known(other[key]) || !trial[key] || (key === "latency" && (other.source !== trial.source || other.device !== trial.device))) return null;
      const r = other[key] / trial[key];
      return `${r >= 1 ? r.toFixed(r < 10 ? 2 : 1) + "× " + word[0] : (1 / r).toFixed(2) + "× " + word[1]} than ${of}`;
    };
    const figure = (name, big, ...rest) => html("div", {}, html("span", { class: "name" }, name), html("span", { class: "big" }, big), ...rest.filter(Boolean).map((text) => html("span", { class: "rest" }, text)));
    byId("candidate-figures").replaceChildren(...[
      figure("Error", error(trial), drop(trial)),
      figure("Latency", milliseconds(trial.latency), known(trial.low) && known(trial.high) ? `${significant(trial.low)} to ${milliseconds(trial.high)}` : null, known(trial.latency) ? source(trial) : null,
        ratio("fp32", "latency", ["faster", "slower"]), ratio("int8", "latency", ["faster", "slower"])),
      figure("Size", bytes(trial.size), ratio("fp32", "size", ["smaller", "larger"]), ratio("int8", "size", ["smaller", "larger"])),
      known(trial.memory) ? figure("Peak memory", bytes(trial.memory)) : null,
      figure("Mean bits", significant(trial.bits), byBits(trial)),
      figure("Status", trial.front ? "on the front" : trial.status, `trial ${trial.number}`, trial.curve.length ? `${epochs(trial.epochs)}: ${trial.curve.map((r) => percent(r[1], trial.decimals)).join(" → ")}` : null),
    ].filter(Boolean));
    const [start, end, shape] = trial.temperature;
    byId("candidate-plan").textContent = `${trial.quantizer}, activations of ${trial.activations} bits, temperature ` +
      (shape === "constant" ? `constant ${start}` : `${start} to ${end}, ${shape}`) + "." + (trial.reason ? " " + trial.reason : "");
    const place = front.findIndex((t) => t.hash === trial.hash);
    const go = (button, index) => { button.disabled = !front[index]; button.onclick = () => front[index] && pin(front[index].hash); };
    go(byId("previous"), place < 0 ? 0 : place - 1);
    go(byId("next"), place < 0 ? 0 : place + 1);
    drawLayers(trial);
  }
  function meter(value, most, text, options = {}) {
    const track = html("div", { class: "track" });
    if (known(value)) {
      const fill = html("div", { class: "fill" + (options.plain ? " plain" : "") });
      fill.style.width = Math.max(0, Math.min(100, (100 * value) / most)) + "%";
      track.append(fill);
    }
    if (known(options.goal)) {
      const goal = html("div", { class: "goal", title: "target " + Math.round(100 * options.goal) + " %" });
      goal.style.left = `calc(${100 * options.goal}% - 1px)`;
      track.append(goal);
    }
    return html("div", { class: "meter" + (known(value) ? "" : " none") }, track, html("span", { class: "figure" }, text));
  }
  function drawLayers(trial) {
    const details = data.details[trial.hash] || {};
    const most = Math.max(4, ...trial.plan.map((p) => (p && p[1]) || 0));
    const titles = html("div", { class: "titles" }, ...["Layer", "Bits", "Components", "Zero share"].map((t) => html("span", {}, t)), html("span", { class: "weights" }, "Weights"));
    const rows = data.layers.map((name, i) => {
      const p = trial.plan[i];
      if (!p) return null;
      const detail = details[name], weights = detail ? detail.weights : data.weights[i];
      const zeros = detail ? detail.zero_share : p[2];
      const row = html("button", { class: "row", type: "button", "data-layer": name, title: name },
        html("span", { class: "layer" }, html("bdi", {}, name)), meter(p[0], 8, String(p[0]), { plain: p[0] === 8 }), meter(p[1], most, known(p[1]) ? String(p[1]) : p[0] === 8 ? "int8" : "-"),
        meter(zeros, 1, known(zeros) ? Math.round(100 * zeros) + " %" : p[0] === 8 ? "-" : "nat.", { goal: p[2] }), html("span", { class: "weights" }, weights ? count(weights) : ""));
      row.addEventListener("click", () => chooseLayer(trial, name));
      return row;
    }).filter(Boolean);
    byId("layers").replaceChildren(titles, ...rows);
    const select = byId("layer");
    select.replaceChildren(...data.layers.map((name) => html("option", { value: name }, name)));
    select.onchange = () => chooseLayer(trial, select.value);
    let first = data.layers.includes(state.layer) ? state.layer : null;
    if (!first) first = data.layers.find((n, i) => details[n] && details[n].counts.length && trial.plan[i] && trial.plan[i][0] < 8) || data.layers.find((n) => details[n]) || data.layers[0];
    if (first) chooseLayer(trial, first);
  }
  function chooseLayer(trial, name) {
    state.layer = name;
    byId("layer").value = name;
    for (const row of document.querySelectorAll("#layers .row")) row.setAttribute("aria-pressed", row.dataset.layer === name);
    drawWeights(trial, name);
  }

  /* ---- the learned mixture over the weights ---- */
  function drawWeights(trial, name) {
    const node = byId("chart-weights"), detail = (data.details[trial.hash] || {})[name], text = byId("weights-text");
    text.textContent = "";
    if (!detail) return empty(node, trial.front ? "No weights were kept for this layer." : "Weights are kept for candidates on the front only.");
    const bars = detail.counts.length, total = detail.counts.reduce((a, b) => a + b, 0);
    const width = bars ? (detail.high - detail.low) / bars : 1;
    const density = detail.counts.map((c) => c / (total * width));
    const [l0, l1] = extent(detail.levels);
    let [x0, x1] = bars ? [Math.min(detail.low, detail.levels.length ? l0 : detail.low), Math.max(detail.high, detail.levels.length ? l1 : detail.high)] : [l0, l1];
    [x0, x1] = spread(x0, x1, bars ? 0.03 : 0.1);
    if (!bars && !detail.levels.length) return empty(node, "Plain int8 with a scale per output channel: no codebook, and no histogram was kept.");
    const few = detail.levels.length && detail.levels.length <= 40;
    const y1 = bars ? 1.12 * Math.max(...density) : 1.08 * Math.max(...detail.shares, 0.01);
    const strip = bars && few ? 56 : 0;
    const f = frame(node, node.clientWidth < 430 ? 310 : 400, (a, b, n) => linear(x0, x1, a, b, n), (a, b, n) => linear(0, bars ? y1 : 100 * y1, a - strip, b, n),
      { x: "weight", y: bars ? "density" : "share of weights, %", label: "weights of " + name }, { left: 44, right: 10, top: 26, bottom: 46 });
    const floor = f.box.bottom - strip;
    if (bars) {
      density.forEach((d, i) => {
        const a = f.sx.at(detail.low + i * width), b = f.sx.at(detail.low + (i + 1) * width), top = f.sy.at(d);
        f.root.append(svg("rect", { class: "weights-bar", x: a, y: top, width: Math.max(0.5, b - a - 0.6), height: floor - top }));
      });
      f.root.append(svg("line", { class: "base", x1: f.box.left, x2: f.box.right, y1: floor, y2: floor }));
    }
    drawMixture(f, detail, x0, x1, floor);
    if (few) drawLevels(f, detail, bars ? floor : null);
    const zero = percent(detail.zero_share);
    text.textContent = `${detail.weights.toLocaleString("en")} weights, ${zero} exactly zero after packing. ` +
      (bars && detail.mixture.length ? "Grey: weights before hardening. Lines: the learned Gaussians, the zero component in orange, dashed their sum. " : bars ? "Grey: weights before hardening. " : "") +
      (few ? (bars ? "Below: share of the weights on each level of the codebook." : "Share of the weights on each level of the codebook.") : "");
  }
  function drawMixture(f, detail, x0, x1, floor) {
    if (!detail.mixture.length || !detail.counts.length) return;
    const id = "clip-weights";
    f.root.append(svg("clipPath", { id }, svg("rect", { x: f.box.left, y: f.box.top, width: f.box.right - f.box.left, height: floor - f.box.top })));
    const group = svg("g", { "clip-path": `url(#${id})` });
    const normal = ([w, m, s], x) => (w * Math.exp(-0.5 * ((x - m) / s) ** 2)) / (s * Math.sqrt(2 * Math.PI));
    const curve = (className, value, points) => {
      const path = points.map((x, i) => `${i ? "L" : "M"}${f.sx.at(x).toFixed(2)},${Math.max(f.box.top - 50, f.sy.at(value(x))).toFixed(2)}`).join("");
      group.append(svg("path", { class: className, d: path }));
    };
    const usable = detail.mixture.filter((c) => c[2] > 0);
    const grid = new Set();
    for (let i = 0; i <= 240; i++) grid.add(x0 + ((x1 - x0) * i) / 240);
    for (const [, m, s] of usable) for (let i = -16; i <= 16; i++) grid.add(m + (i * s) / 4);
    const points = [...grid].filter((x) => x >= x0 && x <= x1).sort((a, b) => a - b);
    if (usable.length > 1) curve("total", (x) => usable.reduce((sum, c) => sum + normal(c, x), 0), points);
    const zero = usable.reduce((best, c) => (!best || Math.abs(c[1]) < Math.abs(best[1]) ? c : best), null);
    for (const c of usable) curve("component" + (c === zero ? " zero" : ""), (x) => normal(c, x), points);
    f.root.append(group);
  }
  function drawLevels(f, detail, floor) {
    const most = Math.max(...detail.shares, 1e-9);
    const base = f.box.bottom, room = floor === null ? 0 : base - floor - 16;
    let last = -1e9;
    detail.levels.forEach((level, i) => {
      const x = f.sx.at(level), share = detail.shares[i];
      const top = floor === null ? f.sy.at(100 * share) : base - Math.max(1, (room * share) / most);
      const line = svg("line", { class: "level" + (level === 0 ? " zero" : ""), x1: x, x2: x, y1: base, y2: top });
      line.append(svg("title", {}, `level ${significant(level)}: ${percent(share)}`));
      f.root.append(line);
      if (x - last > 30 && share >= 0.005) {
        f.root.append(svg("text", { x, y: top - 4, "text-anchor": "middle", style: "font-size:10.5px" }, Math.round(100 * share) + "%"));
        last = x;
      }
    });
  }

  /* ---- the search over time ---- */
  function drawHistory() {
    const node = byId("chart-history"), rows = data.history;
    if (!rows.length) return empty(node, "No trial has ended yet.");
    const values = rows.map((r) => r[1]).filter((v) => v > 0);
    if (!values.length) return empty(node, "No trial is inside the box yet.");
    let [y0, y1] = spread(...extent(values), 0.08);
    y0 = Math.max(0, y0);
    y1 = Math.min(Math.max(y1, y0 + 1e-6), 1.02);
    const f = frame(node, 230, (a, b, n) => { const s = linear(0, Math.max(2, rows.length), a, b, Math.min(n, rows.length)); s.ticks = s.ticks.filter(Number.isInteger); return s; }, (a, b, n) => linear(y0, y1, a, b, n),
      { x: "trials ended", y: "hypervolume", label: "hypervolume over trials" }, { left: 52, right: 12, top: 26, bottom: 46 });
    let path = "", start = 0, before = null;
    rows.forEach(([, v], i) => {
      if (!(v > 0)) return;
      if (!path) path = `M${(start = f.sx.at(i + 1))},${f.sy.at(v)}`;
      else path += `H${f.sx.at(i + 1)}V${f.sy.at(v)}`;
    });
    f.root.append(svg("path", { class: "under", d: path + `V${f.box.bottom}H${start}Z` }), svg("path", { class: "trace", d: path }));
    rows.forEach(([number, v], i) => {
      if (v > (before ?? 0) + 1e-12) {
        const trial = data.trials.find((t) => t.number === number);
        const dot = svg("circle", { class: "gain", cx: f.sx.at(i + 1), cy: f.sy.at(v), r: 3.5 });
        if (trial) listen(dot, trial);
        f.root.append(dot);
      }
      before = v;
    });
  }
  function drawStrip() {
    const node = byId("strip");
    if (!data.trials.length) return empty(byId("strip-legend"), "No trial yet.");
    node.classList.toggle("several", data.trials.length > 75);
    node.classList.toggle("many", data.trials.length > 180);
    const kind = (t) => (t.front ? "front" : t.status);
    const sorted = [...data.trials].sort((a, b) => a.number - b.number);
    node.replaceChildren(...sorted.map((trial) => {
      const button = html("button", { type: "button", class: "s-" + kind(trial), "data-hash": trial.hash, "aria-label": `trial ${trial.number}, ${kind(trial)}` });
      listen(button, trial);
      return button;
    }));
    const meaning = { front: "on the front", finished: "finished", stopped: "stopped at a rung", dominated: "never trained", failed: "failed", running: "running" };
    byId("strip-legend").replaceChildren(...Object.keys(meaning).filter((k) => sorted.some((t) => kind(t) === k)).map((k) =>
      html("li", {}, html("span", { class: "swatch s-" + k }), `${sorted.filter((t) => kind(t) === k).length} ${meaning[k]}`)));
  }

  /* ---- the table ---- */
  function wireTable() {
    const body = document.querySelector("#trials tbody"), heads = [...document.querySelectorAll("#trials thead th")];
    for (const row of body.rows) if (row.dataset.hash) listen(row, candidates.get(row.dataset.hash), false);
    heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending", numeric = head.classList.contains("number");
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value;
      const compare = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b));
      const rows = [...body.rows].sort((a, b) => (key(a) === "") - (key(b) === "") || (up ? 1 : -1) * compare(key(a), key(b)));
      body.append(...rows);
    }));
    if (!body.rows.length) return;
    const counts = new Map([["all", body.rows.length]]);
    for (const row of body.rows) counts.set(row.dataset.status, (counts.get(row.dataset.status) || 0) + 1);
    byId("chips").replaceChildren(...[...counts].map(([status, n]) => {
      const chip = html("button", { type: "button", "aria-pressed": String(status === "all") }, `${status} ${n}`);
      chip.addEventListener("click", () => {
        for (const other of byId("chips").children) other.setAttribute("aria-pressed", other === chip);
        for (const row of body.rows) row.hidden = status !== "all" && row.dataset.status !== status;
      });
      return chip;
    }));
  }

  /* ---- go ---- */
  function draw() {
    drawFront("latency");
    drawFront("size");
    drawHistory();
    const shown = candidates.get(state.pinned);
    if (shown && state.layer) drawWeights(shown, state.layer);
    if (state.pinned) mark(state.pinned, "pinned", true);
  }
  const wanted = () => { const match = /candidate=([^&]+)/.exec(location.hash); return match ? decodeURIComponent(match[1]) : null; };
  const cards = drawCards();
  drawLegend();
  drawStrip();
  wireTable();
  const first = candidates.has(wanted()) ? wanted() : cards.length ? cards[0][1].hash : (front[0] || [...candidates.values()][0] || {}).hash;
  if (first) pin(first, false);
  draw();
  addEventListener("hashchange", () => pin(wanted()));
  let width = innerWidth, waiting = 0;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(draw, 80);
  });
  document.documentElement.dataset.ready = "true";
})();
