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
  const ends = (t) => [t.error - (t.deviation || 0), t.error + (t.deviation || 0)].map((e) => 100 * Math.min(1, Math.max(0, e)));
  const kept = [...trials.filter((t) => t.front), ...references].flatMap(ends);
  const all = [...shown.map((t) => 100 * t.error), ...kept]; /* differences below a standard error are to look small */
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
  wireBrush(f, name, unit);
  if (data.searched) drawStair(f, trials.filter((t) => t.front), px, py, axis.value);
  const order = [...trials.filter((t) => !t.front), ...references, ...trials.filter((t) => t.front)];
  const places = order.map((trial) => ({ trial, x: px(trial), y: py(trial), ends: ends(trial).map((e) => Math.max(f.box.top, Math.min(f.box.bottom, f.sy.at(e)))) }));
  const cursor = svg("g", { class: "cursor", visibility: "hidden" }, svg("line", { class: "deviation" }), svg("circle", { class: "halo", r: 9.5 }), svg("circle", { class: "mark", r: 4 }));
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
  const written = trial.name || (trial.uniform && trial.front ? trial.uniform + "-bit" : ""); /* beside it; who hears it hears that too */
  group.setAttribute("aria-label", `${[written, trial.hash].filter(Boolean).join(" ")}: error ${error(trial)}, ${milliseconds(trial.latency)} ${source(trial)}, ${bytes(trial.size)}`);
  if (known(axis.low(trial)) && known(axis.high(trial)))
    group.append(svg("line", { class: "bar", x1: f.sx.at(axis.low(trial) / unit), x2: f.sx.at(axis.high(trial) / unit), y1: y, y2: y }));
  const r = trial.front ? 5 : isReference ? 5 : 3.2;
  if (outside) group.append(svg("path", { class: "mark", d: `M${x - 4},${y + 4}L${x},${y - 3}L${x + 4},${y + 4}Z` }));
  else if (isReference) group.append(svg("rect", { class: "mark", x: x - r, y: y - r, width: 2 * r, height: 2 * r }));
  else if (trial.uniform) group.append(svg("path", { class: "mark", d: `M${x},${y - r - 1.5}L${x + r + 1.5},${y}L${x},${y + r + 1.5}L${x - r - 1.5},${y}Z` }));
  else group.append(svg("circle", { class: "mark", cx: x, cy: y, r }));
  if (written) {
    const left = x > f.box.right - 50;
    group.append(svg("text", { x: x + (left ? -10 : 10), y: isReference ? y - 8 : y + 17, "text-anchor": left ? "end" : "start", class: "haloed" }, written));
  }
  if (chart.places.length > 500 && !trial.front && !isReference) return listenAt(group, place, chart), group; /* pale ones of very many */
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
    place.ends.forEach((end, i) => chart.cursor.firstChild.setAttribute("y" + (i + 1), end - place.y));
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
function showTip(trial, x, y, others = [], told = "") {
  const rows = [
    ["error", error(trial) + (trial.hash && drop(trial) ? ` (${drop(trial).replace(" points against fp32", "")})` : "")],
    ["latency", milliseconds(trial.latency)],
    known(trial.low) && known(trial.high) ? ["interval", `${significant(trial.low)} to ${milliseconds(trial.high)}`] : null,
    known(trial.latency) ? ["source", source(trial)] : null,
    ["size", bytes(trial.size)],
    trial.plan ? ["weights", byBits(trial)] : null,
    ...(trial.network || []),
    trial.reason ? ["reason", trial.reason.length > 160 ? trial.reason.slice(0, 160) + " ..." : trial.reason] : null,
  ].filter(Boolean);
  tip.replaceChildren(
    html("b", {}, trial.hash || trial.name), !trial.hash ? " reference" : data.searched ? ` trial ${trial.number}, ${trial.front ? "on the front" : trial.status}` : "",
    html("table", {}, html("tbody", {}, ...rows.map(([k, v]) => html("tr", {}, html("td", {}, k), html("td", {}, v))))),
    told ? html("p", {}, told) : "",
    trial.uniform ? html("p", {}, `uniform: ${trial.uniform} bits in all layers but the first and the last`) : "",
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
  if (!data.searched) return [];
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
    const icon = svg("svg", { width: 26, height: 14, "aria-hidden": "true" }, svg("g", { class: "point " + className }, ...shape));
    return html("li", {}, icon, text);
  };
  const dot = (r) => [svg("line", { class: "bar", x1: 1, x2: 25, y1: 7, y2: 7 }), svg("circle", { class: "mark", cx: 13, cy: 7, r })];
  const box = () => [svg("rect", { class: "mark", x: 8, y: 2, width: 10, height: 10 })];
  const used = new Set([...candidates.values(), ...data.references].filter((t) => known(t.latency)).map((t) => (t.source === "measured" ? "measured" : "modelled")));
  const entries = [];
  for (const kind of ["measured", "modelled"]) if (used.has(kind)) entries.push(entry("front " + kind, (data.searched ? "on the front" : "the candidate") + ", latency " + kind, dot(4.5)));
  if ([...candidates.values()].some((t) => !t.front && known(t.error))) entries.push(entry(used.has("measured") ? "measured" : "modelled", "other trials", dot(3)));
  if ([...candidates.values()].some((t) => t.uniform && known(t.error))) {
    const diamond = [svg("path", { class: "mark", d: "M13,1L19,7L13,13L7,7Z" })];
    entries.push(entry("front " + (used.has("measured") ? "measured" : "modelled"), "uniform plan", diamond));
  }
  for (const r of data.references) entries.push(entry(`reference ${r.name} ${r.source === "measured" ? "measured" : "modelled"}`, r.name + " reference", box()));
  byId("legend").replaceChildren(...entries);
  const without = [...candidates.values()].filter((t) => !known(t.error) && t.status !== "running");
  const never = without.filter((t) => t.status === "dominated").length, failed = without.filter((t) => t.status === "failed").length;
  const parts = [];
  if (never) parts.push(`${never} could not enter the front by latency and size and ${never === 1 ? "was" : "were"} never trained`);
  if (failed) parts.push(`${failed} failed`);
  byId("undrawn").textContent = parts.length ? "Not drawn, for want of an error: " + parts.join("; ") + "." : "";
}
