/* ---- what is looked at: at most so many points lost, and what was drawn a frame around ---- */
const losses = fp32 && known(fp32.error) ? [...candidates.values()].filter((t) => known(t.error)).map((t) => 100 * (t.error - fp32.error)) : [];
const steepest = Math.max(0.5, ...losses.filter((loss) => loss <= 30));
/* Finer where little is lost; the last step is no bound. */
const lostAt = (step) => (step >= 100 ? null : Number((steepest * (step / 100) ** 2).toFixed(2)));
const points = (value) => `${value} ${value === 1 ? "point" : "points"}`;
function inside(trial) {
  if (state.lost !== null && !(known(trial.error) && 100 * (trial.error - fp32.error) <= state.lost + 1e-9)) return false;
  const b = state.brush, at = b && AXES[b.axis].value(trial);
  return !b || (known(trial.error) && known(at) && at >= b.x0 && at <= b.x1 && trial.error >= b.y0 && trial.error <= b.y1);
}
function applyChoice() {
  const chosen = new Set([...candidates.values()].filter(inside).map((t) => t.hash));
  for (const node of document.querySelectorAll(".chart .point[data-hash], #strip [data-hash], #chart-timeline [data-hash]"))
    node.classList.toggle("outside", !chosen.has(node.dataset.hash));
  const bounded = state.lost !== null || state.brush !== null;
  let fitting = 0;
  for (const row of document.querySelectorAll("#trials tbody tr")) {
    const left = (state.status !== "all" && row.dataset.status !== state.status) || (bounded && "hash" in row.dataset && !chosen.has(row.dataset.hash));
    row.hidden = left || (++fitting > data.rowsAtOnce && !state.all);
  }
  byId("all-rows").hidden = state.all || fitting <= data.rowsAtOnce;
  byId("all-rows").textContent = `show all ${fitting} rows`;
  byId("lost-text").textContent = state.lost === null ? "any number of points" : points(state.lost);
  byId("unbrush").hidden = !bounded;
  const offered = front.filter(inside), told = byId("chosen");
  if (!bounded) return told.replaceChildren();
  const least = (key) => offered.filter((t) => known(t[key])).sort((a, b) => a[key] - b[key] || a.error - b.error)[0];
  const best = [["smallest", "size", bytes], ["fastest", "latency", milliseconds], ["most accurate", "error", (v) => percent(v) + " error"]]
    .map(([word, key, show]) => [word, least(key), show, key]).filter(([, trial]) => trial);
  told.replaceChildren(`${offered.length} of ${front.length} on the front${best.length ? ": " : ""}`, ...best.map(([word, trial, show, key]) => {
    const button = html("button", { type: "button", "data-hash": trial.hash }, `${word} ${show(trial[key])}`);
    listen(button, trial, false);
    return button;
  }));
}
function wireChoice() {
  byId("tools").hidden = !front.length || !data.searched;
  byId("lost-label").hidden = !losses.length;
  const slider = byId("lost");
  if (state.lost !== null) slider.value = Math.round(100 * Math.sqrt(Math.max(0, state.lost) / steepest));
  slider.addEventListener("input", () => { state.lost = lostAt(Number(slider.value)); applyChoice(); });
  const clear = () => {
    state.lost = state.brush = null;
    slider.value = 100;
    for (const frame of document.querySelectorAll(".brush")) frame.remove();
    applyChoice();
  };
  byId("unbrush").addEventListener("click", clear);
  byId("all-rows").addEventListener("click", () => { state.all = true; applyChoice(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") { tip.hidden = true; if (state.brush) clear(); } }, { signal });
}
/* A frame drawn in one chart with the mouse (or a finger, sideways) chooses in all of them. */
function wireBrush(f, name, unit) {
  const { left, right, top, bottom } = f.box;
  const area = svg("rect", { class: "brush-area", x: left, y: top, width: right - left, height: bottom - top });
  const shown = svg("rect", { class: "brush" });
  const put = (x0, y0, x1, y1) => { for (const [key, v] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) shown.setAttribute(key, Math.max(0, v)); };
  f.root.append(area);
  if (state.brush && state.brush.axis === name) {
    const b = state.brush, within = (v, low, high) => Math.min(high, Math.max(low, v));
    put(within(f.sx.at(b.x0 / unit), left, right), within(f.sy.at(100 * b.y1), top, bottom), within(f.sx.at(b.x1 / unit), left, right), within(f.sy.at(100 * b.y0), top, bottom));
    f.root.append(shown);
  }
  let from = null;
  const place = (event) => {
    const box = f.root.getBoundingClientRect();
    return [Math.min(right, Math.max(left, event.clientX - box.left)), Math.min(bottom, Math.max(top, event.clientY - box.top))];
  };
  const corners = (to) => [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
  area.addEventListener("pointerdown", (event) => { if (event.button === 0) { from = place(event); area.setPointerCapture(event.pointerId); } });
  area.addEventListener("pointermove", (event) => { if (from) { put(...corners(place(event))); f.root.append(shown); } });
  area.addEventListener("pointercancel", () => { from = null; shown.remove(); });
  area.addEventListener("pointerup", (event) => {
    if (!from) return;
    const [x0, y0, x1, y1] = corners(place(event));
    from = null;
    for (const other of document.querySelectorAll(".brush")) if (other !== shown) other.remove();
    if (x1 - x0 < 6 && y1 - y0 < 6) { shown.remove(); state.brush = null; } /* a click beside all points */
    else state.brush = { axis: name, x0: unit * f.sx.back(x0), x1: unit * f.sx.back(x1), y0: f.sy.back(y1) / 100, y1: y0 <= top + 1 ? 1 : f.sy.back(y0) / 100 };
    applyChoice();
  });
}
