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

/* ---- when trials ran, side by side where they ran at a time ---- */
function drawTimeline() {
  const node = byId("chart-timeline"), now = Math.max(0, ...data.trials.map((t) => (t.started || 0) + (t.seconds || 0)));
  const ran = data.trials.filter((t) => known(t.started)).sort((a, b) => a.started - b.started || a.number - b.number);
  byId("timeline-text").textContent = "";
  if (!ran.length) return empty(node, "No trial has begun yet.");
  const lanes = [], end = (t) => (t.status === "running" ? now : t.started + (t.seconds || 0));
  const laneOf = ran.map((t) => {
    let lane = lanes.findIndex((free) => free <= t.started + 0.5);
    if (lane < 0) lane = lanes.push(0) - 1;
    lanes[lane] = Math.max(end(t), t.started + 1e-3);
    return lane;
  });
  const devices = [...new Set(ran.map((t) => t.device).filter(Boolean))];
  byId("timeline-text").textContent = `${lanes.length} at a time at most` + (devices.length ? `; latencies on ${devices.join(", ")}` : "");
  const span = Math.max(1e-3, now - data.origin) / 60, hours = span > 180, unit = hours ? 60 : 1, height = Math.max(8, Math.min(22, 220 / lanes.length));
  const f = frame(node, 46 + 12 + height * lanes.length, (a, b, n) => linear(0, span / unit, a, b, n), () => ({ at: () => 0, ticks: [] }),
    { x: hours ? "hours" : "minutes", y: "", label: "when trials ran" }, { left: 12, right: 12, top: 8, bottom: 46 });
  ran.forEach((t, i) => {
    const at = (s) => f.sx.at((s - data.origin) / 60 / unit), x = at(t.started), kind = t.front ? "front" : t.status;
    const bar = svg("rect", { class: "span s-" + kind, x, y: f.box.top + laneOf[i] * height + 1, width: Math.max(1.5, at(end(t)) - x - 0.7), height: height - 2, rx: 2, "data-hash": t.hash, tabindex: 0,
      role: "button", "aria-label": `trial ${t.number}, ${kind}, ${Math.round(t.seconds || 0)} s${t.device ? ", " + t.device : ""}` });
    listen(bar, t);
    f.root.append(bar);
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
