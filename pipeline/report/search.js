/* ---- the search over time ---- */
function drawHistory() {
  const node = byId("chart-history"), rows = data.history;
  if (!rows.length) return empty(node, "No trial has ended yet.");
  const values = rows.map((r) => r[1]).filter((v) => v > 0);
  if (!values.length) return empty(node, "No trial is inside the box yet.");
  let [y0, y1] = spread(...extent(values), 0.08);
  y0 = Math.max(0, y0);
  y1 = Math.min(Math.max(y1, y0 + 1e-6), 1.02);
  /* What it took to get there: trials, epochs of training, or minutes. */
  const byNumber = new Map(data.trials.map((t) => [t.number, t])), ended = (t) => (t && known(t.started) ? (t.started + (t.seconds || 0) - data.origin) / 60 : null);
  let spent = 0;
  const places = rows.map(([number], i) => {
    const t = byNumber.get(number);
    spent += (t && t.epochs) || 0;
    return state.over === "epochs" ? spent : state.over === "minutes" ? ended(t) : i + 1;
  });
  places.forEach((v, i) => { if (!known(v)) places[i] = i ? places[i - 1] : 0; });
  const whole = state.over === "trials", last = Math.max(whole ? 2 : 1e-9, ...places);
  const f = frame(node, 230, (a, b, n) => { const s = linear(0, last, a, b, whole ? Math.min(n, rows.length) : n); if (whole) s.ticks = s.ticks.filter(Number.isInteger); return s; }, (a, b, n) => linear(y0, y1, a, b, n),
    { x: { trials: "trials ended", epochs: "epochs of training of all trials", minutes: "minutes since the first trial began" }[state.over], y: "hypervolume", label: "hypervolume over " + state.over }, { left: 52, right: 12, top: 26, bottom: 46 });
  let path = "", start = 0, before = null;
  rows.forEach(([, v], i) => {
    if (!(v > 0)) return;
    if (!path) path = `M${(start = f.sx.at(places[i]))},${f.sy.at(v)}`;
    else path += `H${f.sx.at(places[i])}V${f.sy.at(v)}`;
  });
  f.root.append(svg("path", { class: "under", d: path + `V${f.box.bottom}H${start}Z` }), svg("path", { class: "trace", d: path }));
  rows.forEach(([number, v], i) => {
    if (v > (before ?? 0) + 1e-12) {
      const trial = byNumber.get(number);
      const dot = svg("circle", { class: "gain", cx: f.sx.at(places[i]), cy: f.sy.at(v), r: 3.5 });
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

/* ---- when trials ran ---- */
function drawTimeline() {
  const now = data.trials.reduce((last, t) => t.work.reduce((most, w) => Math.max(most, w[3]), Math.max(last, (t.started || 0) + (t.seconds || 0))), 0);
  const ran = data.trials.filter((t) => known(t.started)).sort((a, b) => a.started - b.started || a.number - b.number);
  byId("timeline-text").textContent = "";
  if (!ran.length) return empty(byId("chart-timeline"), "No trial has begun yet.");
  if (data.rows.length) drawBoard(ran, now);
  else drawLanes(ran, now);
}
const kindOf = (t) => (t.front ? "front" : t.status);
const span = (from, to) => { const minutes = Math.max(1e-3, to - from) / 60, hours = minutes > 180; return { last: minutes / (hours ? 60 : 1), unit: hours ? 3600 : 60, word: hours ? "hours" : "minutes" }; };

/* Of studies that do not say where: side by side where they ran at a time. */
function inLanes(ran, now) {
  const lanes = [], end = (t) => (t.status === "running" ? now : t.started + (t.seconds || 0));
  const bars = ran.map((t) => {
    let lane = lanes.findIndex((free) => free <= t.started + 0.5);
    if (lane < 0) lane = lanes.push(0) - 1;
    lanes[lane] = Math.max(end(t), t.started + 1e-3);
    return { trial: t, row: lane, from: t.started, to: end(t), what: "" };
  });
  return { bars, count: lanes.length };
}
function drawLanes(ran, now) {
  const { bars, count } = inLanes(ran, now), height = Math.max(8, Math.min(22, 220 / count));
  const devices = [...new Set(ran.map((t) => t.device).filter(Boolean))];
  byId("timeline-text").textContent = `${count} at a time at most` + (devices.length ? `; latencies on ${devices.join(", ")}` : "");
  const f = timeFrame(46 + 12 + height * count, span(data.origin, now), 12, 8);
  drawBars(f, bars.map((bar) => ({ ...bar, y: f.box.top + bar.row * height + 1, height: height - 2 })));
}
function timeFrame(height, time, left, top) {
  const f = frame(byId("chart-timeline"), height, (a, b, n) => linear(0, time.last, a, b, n), () => ({ at: () => 0, ticks: [] }), { x: time.word, y: "", label: "when trials ran" }, { left, right: 12, top, bottom: 46 });
  f.time = (seconds) => f.sx.at((seconds - data.origin) / time.unit);
  return f;
}

/* A row for each worker and each device; who is on the board by the keyboard goes along rows and between them with the arrows. */
function drawBoard(ran, now) {
  const node = byId("chart-timeline"), bars = [];
  const without = ran.filter((t) => !t.work.length && (t.seconds || 0) >= 0.5);
  for (const t of ran) {
    const last = t.status === "running" ? t.work.findLast((w) => w[1] === "trial") : null; /* goes on where it was seen last */
    for (const w of t.work) bars.push({ trial: t, row: w[0], what: w[1], from: w[2], to: w === last ? now : w[3] });
  }
  const lanes = inLanes(without, now);
  bars.push(...lanes.bars.map((bar) => ({ ...bar, row: data.rows.length + bar.row })));
  const names = [...data.rows.map(([name]) => name), ...Array.from({ length: lanes.count }, () => "place not recorded")];
  const workers = data.rows.filter(([, device]) => !device).length, devices = data.rows.length - workers;
  const several = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
  byId("timeline-text").textContent = `${several(workers, "worker")}, ${several(devices, "device")}; the arrow keys go from bar to bar`;
  const above = node.clientWidth < 620, most = Math.max(...names.map((name) => name.length));
  const left = above ? 12 : Math.min(230, 24 + 6.4 * most), bar = names.length > 16 ? 12 : 18, step = bar + (above ? 20 : 8);
  const f = timeFrame(46 + 14 + step * names.length, span(data.origin, now), left, 8);
  names.forEach((name, row) => {
    const y = f.box.top + row * step, middle = y + step / 2;
    if (row === workers && workers) f.root.append(svg("line", { class: "apart", x1: 0, x2: f.box.right, y1: y, y2: y }));
    const text = svg("text", { class: "row-name", x: above ? f.box.left : left - 10, y: above ? y + 14 : middle + 4, "text-anchor": above ? "start" : "end" }, short(name, above ? f.width - 24 : left - 14), svg("title", {}, name));
    f.root.append(text);
    const track = svg("rect", { class: "track", x: f.box.left, y: above ? y + 18 : y + 4, width: f.box.right - f.box.left, height: bar });
    track.addEventListener("click", (event) => { /* a bar of a second is hard to hit with a finger */
      const x = event.clientX - f.root.getBoundingClientRect().left;
      const off = (b) => Math.max(0, f.time(b.from) - x, x - f.time(b.to)), near = bars.filter((b) => b.row === row && off(b) <= REACH);
      if (near.length) pin(near.reduce((best, b) => (off(b) < off(best) ? b : best)).trial.hash);
    });
    f.root.append(track);
  });
  const top = (row) => f.box.top + row * step + (above ? 18 : 4);
  const drawn = drawBars(f, bars.map((b) => ({ ...b, y: top(b.row), height: bar, name: names[b.row] })));
  drawn.slice(1).forEach((b) => b.node.setAttribute("tabindex", -1)); /* one stop of the Tab key: thousands would keep whoever types from what comes after */
  wireArrows(f.root, drawn);
}
const DID = { trial: "ran on", profile: "profiled on", run: "compared with the reference on" };
function drawBars(f, bars) {
  const drawn = bars.sort((a, b) => a.row - b.row || a.from - b.from).map((b) => {
    const t = b.trial, kind = kindOf(t), x = f.time(b.from), seconds = Math.round(b.to - b.from);
    const time = `${seconds < 1 ? "under 1" : seconds} s`, did = b.name && b.what ? `${DID[b.what]} ${b.name}` : "";
    const where = did ? ", " + did : t.device ? ", " + t.device : "";
    const node = svg("rect", { class: `span s-${kind} ${b.what}`, x, y: b.y, width: Math.max(1.5, f.time(b.to) - x - 0.7), height: b.height, rx: 2, "data-hash": t.hash, tabindex: 0,
      role: "button", "aria-label": `trial ${t.number}, ${kind}, ${time}${where}` });
    return { ...b, node, told: did ? `${did}, ${time}` : "" };
  });
  f.root.append(...drawn.map((b) => b.node));
  listenToBars(f.root, new Map(drawn.map((b) => [b.node, b])));
  return drawn;
}
/* As `listen`, once for all: they are many. */
function listenToBars(root, bars) {
  const on = (kind, act) => root.addEventListener(kind, (event) => { const bar = bars.get(event.target); if (bar) act(bar, event); });
  const enter = (bar) => {
    mark(bar.trial.hash, "over", true);
    const box = bar.node.getBoundingClientRect();
    showTip(bar.trial, box.left + box.width / 2, box.top + box.height / 2, [], bar.told);
  };
  const leave = (bar) => { mark(bar.trial.hash, "over", false); tip.hidden = true; };
  on("pointerover", enter);
  on("pointerout", leave);
  on("focusin", enter);
  on("focusout", leave);
  on("click", (bar) => pin(bar.trial.hash));
  on("keydown", (bar, event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pin(bar.trial.hash); } });
}
function wireArrows(root, bars) {
  const rows = [...new Set(bars.map((b) => b.row))], middle = (b) => (b.from + b.to) / 2, byNode = new Map(bars.map((b) => [b.node, b]));
  root.addEventListener("keydown", (event) => {
    const b = byNode.get(event.target);
    if (!b) return;
    const own = bars.filter((other) => other.row === b.row), at = own.indexOf(b);
    const nextRow = rows[rows.indexOf(b.row) + { ArrowDown: 1, ArrowUp: -1 }[event.key]];
    const near = bars.filter((other) => other.row === nextRow).reduce((best, other) => (!best || Math.abs(middle(other) - middle(b)) < Math.abs(middle(best) - middle(b)) ? other : best), null);
    const to = { ArrowRight: own[at + 1], ArrowLeft: own[at - 1], Home: own[0], End: own[own.length - 1], ArrowDown: near, ArrowUp: near }[event.key];
    if (!to) return;
    event.preventDefault();
    b.node.setAttribute("tabindex", -1);
    to.node.setAttribute("tabindex", 0);
    to.node.focus();
  });
}

/* ---- the table ---- */
function wireTable() {
  const body = document.querySelector("#trials tbody"), heads = [...document.querySelectorAll("#trials thead th")];
  for (const row of body.rows) if (row.dataset.hash) listen(row, candidates.get(row.dataset.hash), false);
  const sort = (column, up) => {
    const head = heads[column], numeric = head.classList.contains("number");
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.value;
    const compare = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b));
    const rows = [...body.rows].sort((a, b) => (key(a) === "") - (key(b) === "") || (up ? 1 : -1) * compare(key(a), key(b)));
    body.append(...rows);
    state.sort = [column, up];
    if (byId("all-rows").textContent) applyChoice(); /* the first ones of another order */
  };
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => sort(column, head.getAttribute("aria-sort") !== "ascending")));
  if (state.sort) sort(...state.sort);
  if (!body.rows.length) return;
  if (!data.searched) return;
  const counts = new Map([["all", body.rows.length]]);
  for (const row of body.rows) counts.set(row.dataset.status, (counts.get(row.dataset.status) || 0) + 1);
  byId("chips").replaceChildren(...[...counts].map(([status, n]) => {
    const chip = html("button", { type: "button", "aria-pressed": String(status === state.status) }, `${status} ${n}`);
    chip.addEventListener("click", () => {
      for (const other of byId("chips").children) other.setAttribute("aria-pressed", other === chip);
      state.status = status;
      applyChoice();
    });
    return chip;
  }));
}
