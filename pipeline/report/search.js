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
