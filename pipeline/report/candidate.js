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
    figure(...(data.labelled ? ["Error", error(trial), drop(trial)] : agreement(trial)), known(trial.divergence) ? `divergence ${significant(trial.divergence)}${known(trial.divergenceDeviation) ? " ± " + significant(trial.divergenceDeviation) : ""} nats` : null),
    figure("Latency", milliseconds(trial.latency), known(trial.low) && known(trial.high) ? `${significant(trial.low)} to ${milliseconds(trial.high)}` : null, known(trial.latency) ? source(trial) : null,
      ratio("fp32", "latency", ["faster", "slower"]), ratio("int8", "latency", ["faster", "slower"])),
    figure("Size", bytes(trial.size), ratio("fp32", "size", ["smaller", "larger"]), ratio("int8", "size", ["smaller", "larger"])),
    known(trial.memory) ? figure("Peak memory", bytes(trial.memory)) : null,
    figure("Mean bits", significant(trial.bits), byBits(trial)),
    data.searched ? figure("Status", trial.front ? "on the front" : trial.status, `trial ${trial.number}`, trial.curve.length ? `${epochs(trial.epochs)}: ${trial.curve.map((r) => (r[3] === "free" ? "" : r[3] + " ") + percent(r[1], trial.decimals)).join(" → ")}` : null) : null,
  ].filter(Boolean));
  const chosen = [trial.quantizer, ...trial.network.map((pair) => pair.join(" "))];
  byId("candidate-plan").textContent = chosen.join(", ") + "." + (trial.reason ? " " + trial.reason : "");
  const place = front.findIndex((t) => t.hash === trial.hash);
  const go = (button, index) => { button.disabled = !front[index]; button.onclick = () => front[index] && pin(front[index].hash); };
  go(byId("previous"), place < 0 ? 0 : place - 1);
  go(byId("next"), place < 0 ? 0 : place + 1);
  drawBeside(trial);
  drawLayers(trial);
  drawOperations(trial);
  drawAnswers(trial);
}
/* ---- two candidates side by side ---- */
const beside = (trial) => (state.other !== trial.hash && candidates.get(state.other)) || null;
function drawBeside(trial) {
  const select = byId("other"), told = (t) => `${t.hash}: ${error(t)}, ${bytes(t.size)}, ${milliseconds(t.latency)}`;
  const offered = [...front, ...[...candidates.values()].filter((t) => !t.front && known(t.error))].filter((t) => t.hash !== trial.hash).slice(0, 200);
  const other = beside(trial);
  if (other && !offered.includes(other)) offered.push(other);
  select.replaceChildren(html("option", { value: "" }, "nothing"), ...offered.map((t) => html("option", { value: t.hash }, told(t))));
  select.value = other ? other.hash : "";
  select.onchange = () => { state.other = select.value; drawBeside(trial); drawLayers(trial); };
  byId("beside").hidden = !other;
  if (!other) return;
  byId("beside-hash").textContent = other.hash;
  const same = trial.source === other.source && trial.device === other.device;
  const ratio = (key, less, more) => {
    if (!(trial[key] > 0) || !(other[key] > 0)) return "-";
    const r = other[key] / trial[key];
    return r === 1 ? "the same" : `${significant(r > 1 ? r : 1 / r)}× ${r > 1 ? less : more}`;
  };
  const gap = known(trial.error) && known(other.error) ? `${trial.error > other.error ? "+" : trial.error < other.error ? "−" : "±"}${Math.abs(100 * (trial.error - other.error)).toFixed(trial.decimals)} points` : "-";
  const rows = [["Error", error(trial), error(other), gap],
    ["Latency", `${milliseconds(trial.latency)} ${source(trial)}`, `${milliseconds(other.latency)} ${source(other)}`, same ? ratio("latency", "faster", "slower") : "not comparable: of two kinds"],
    ["Size", bytes(trial.size), bytes(other.size), ratio("size", "smaller", "larger")],
    ["Peak memory", bytes(trial.memory), bytes(other.memory), ratio("memory", "less", "more")],
    ["Mean bits", significant(trial.bits), significant(other.bits), ""],
    ["Network", trial.network.map((pair) => pair.join(" ")).join(", "), other.network.map((pair) => pair.join(" ")).join(", "), ""]];
  byId("beside-table").replaceChildren(
    html("thead", {}, html("tr", {}, html("td", {}), html("th", { scope: "col", class: "own" }, trial.hash), html("th", { scope: "col", class: "others" }, other.hash), html("th", { scope: "col" }, "Difference"))),
    html("tbody", {}, ...rows.map(([name, ...cells]) => html("tr", {}, html("th", { scope: "row" }, name), ...cells.map((cell) => html("td", {}, cell))))));
}
/* What is known of a layer beside its plan: shares of the program's time, and of the bytes of indices before they are coded. */
function sharesOf(trial) {
  const parts = times(trial), details = data.details[trial.hash] || {};
  const whole = parts ? [...parts.values()].reduce((a, b) => a + b, 0) : 0;
  const size = data.layers.map((name, i) => (trial.plan[i] ? ((details[name] || {}).weights || data.weights[i] || 0) * trial.plan[i][0] : 0));
  const all = size.reduce((a, b) => a + b, 0);
  return { time: (name) => (whole ? (parts.get(name) || 0) / whole : null), bytes: (i) => (all ? size[i] / all : null) };
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
  const most = data.columns.map((c, k) => c.most || Math.max(4, ...[...trial.plan, ...((beside(trial) || {}).plan || [])].map((p) => (p && p[k]) || 0)));
  const other = beside(trial), shares = sharesOf(trial), theirs = other && sharesOf(other);
  const largest = (of) => Math.max(1e-9, ...data.layers.flatMap((name, i) => [of(shares, name, i), theirs && of(theirs, name, i)]).filter(known));
  const extras = [["Time", (s, name) => s.time(name)], ["Bytes", (s, name, i) => s.bytes(i)]].filter(([, of]) => data.layers.some((name, i) => known(of(shares, name, i))));
  const tops = extras.map(([, of]) => largest(of)), part = (value) => (known(value) ? (100 * value).toFixed(value < 0.1 ? 1 : 0) + " %" : "-");
  byId("layers").style.setProperty("--columns", data.columns.length + extras.length);
  const titles = html("div", { class: "titles" }, ...["Layer", ...data.columns.map((c) => c.title), ...extras.map(([title]) => title)].map((t) => html("span", {}, t)), html("span", { class: "weights" }, "Weights"));
  const rows = data.layers.map((name, i) => {
    const p = trial.plan[i];
    if (!p) return null;
    const detail = details[name], weights = detail ? detail.weights : data.weights[i];
    const q = other && other.plan[i], theirDetail = other && (data.details[other.hash] || {})[name];
    const planned = (p, detail, c, k) => {
      const words = p[data.columns.length]; // after the numbers
      const became = c.measured && detail ? detail[c.measured] : null; // of what was aimed at
      const options = { goal: c.measured ? p[k] : null, plain: k === 0 && p[0] === 8 };
      return known(became) ? meter(became, most[k], Math.round(100 * became) + " %", options) : meter(p[k], most[k], words[k], options);
    };
    const two = (own, others) => (other ? html("span", { class: "two" }, own, others || meter(null, 1, "-")) : own);
    const cells = [...data.columns.map((c, k) => two(planned(p, detail, c, k), q && planned(q, theirDetail, c, k))),
      ...extras.map(([, of], k) => two(meter(of(shares, name, i), tops[k], part(of(shares, name, i))), other && meter(of(theirs, name, i), tops[k], part(of(theirs, name, i)))))];
    const row = html("button", { class: "row", type: "button", "data-layer": name, title: name },
      html("span", { class: "layer" }, html("bdi", {}, name)), ...cells, html("span", { class: "weights" }, weights ? count(weights) : ""));
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
  const zero = percent(detail.zeros);
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
