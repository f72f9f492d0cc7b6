/* ---- what each operation takes, and what computes it ---- */
const review = (trial) => data.reviews[trial.hash] || { operations: [], answers: {} };
/* Milliseconds by layer; null where nobody timed the parts. */
function times(trial) {
  const total = new Map();
  for (const [layer, , , ms] of review(trial).operations) total.set(layer, (total.get(layer) || 0) + ms);
  return total.size ? total : null;
}
function drawOperations(trial) {
  const { operations, source: of, device } = review(trial), whole = operations.reduce((sum, o) => sum + o[3], 0);
  byId("operations").hidden = !(whole > 0);
  if (!(whole > 0)) return;
  const most = Math.max(...operations.map((o) => o[3]));
  byId("operations-source").textContent = `${of || "unknown source"}${device ? ", " + device : ""}; the slowest first`;
  const why = (kernel, foreseen) => {
    const ranked = Object.entries(foreseen).sort((a, b) => a[1] - b[1]);
    if (ranked.length < 2) return data.kernels[kernel] ?? "";
    return ranked.map(([name, cycles]) => `${name} ${count(Math.round(cycles))}`).join(", ") + " cycles foreseen";
  };
  byId("operations-rows").replaceChildren(...[...operations].sort((a, b) => b[3] - a[3]).map(([layer, kind, kernel, ms, low, high, , foreseen]) => {
    const row = html("tr", {}, html("th", { scope: "row" }, html("code", {}, layer), html("span", { class: "below" }, kind.replaceAll("_", " "))),
      html("td", {}, kernel || "-"),
      html("td", { class: "number harm" }, `${significant(1000 * ms)} µs`, html("span", { class: "below" }, `${significant(1000 * low)} to ${significant(1000 * high)}, ${((100 * ms) / whole).toFixed(1)} %`)),
      html("td", { class: "why" }, why(kernel, foreseen)));
    row.cells[2].style.setProperty("--harm", (100 * ms) / most + "%");
    return row;
  }));
}
