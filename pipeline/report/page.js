/* ---- go ---- */
function draw() {
  if (data.labelled) for (const name of Object.keys(AXES)) drawFront(name);
  if (data.searched) drawHistory();
  if (data.searched) drawTimeline();
  const shown = candidates.get(state.pinned);
  if (shown && state.layer) drawWeights(shown, state.layer);
  if (state.pinned) mark(state.pinned, "pinned", true);
  applyChoice();
}
const wanted = () => { const match = /candidate=([^&]+)/.exec(location.hash); return match ? decodeURIComponent(match[1]) : null; };
const cards = drawCards();
if (data.labelled) drawLegend();
wireTable();
wireChoice();
if (data.searched) {
  drawStrip();
  byId("over").value = state.over;
  byId("over").addEventListener("change", () => { state.over = byId("over").value; drawHistory(); });
}
const first = candidates.has(state.pinned) ? state.pinned : candidates.has(wanted()) ? wanted() : cards.length ? cards[0][1].hash : (front[0] || [...candidates.values()][0] || {}).hash;
if (first) pin(first, false);
draw();
addEventListener("hashchange", () => pin(wanted()), { signal });
let width = innerWidth, waiting = 0;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  clearTimeout(waiting);
  waiting = setTimeout(() => { if (!signal || !signal.aborted) draw(); }, 80);
}, { signal });
