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
