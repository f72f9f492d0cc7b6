/* ---- where a candidate answers otherwise than fp32 ---- */
function drawAnswers(trial) {
  const found = review(trial).answers;
  byId("answers").hidden = !found.images;
  if (!found.images) return;
  const named = (k) => (found.classes && found.classes[k]) || String(k);
  byId("answers-text").textContent = `${found.images - found.changed} of ${found.images} images alike; fp32's answer by row, the candidate's by column`;
  const table = byId("confusion"), counts = found.confusion || [];
  const most = Math.max(1, ...counts.flatMap((row, i) => row.filter((_, j) => i !== j)));
  table.replaceChildren(
    html("thead", {}, html("tr", {}, html("td", {}), ...counts.map((_, j) => html("th", { scope: "col" }, named(j))))),
    html("tbody", {}, ...counts.map((row, i) => html("tr", {}, html("th", { scope: "row" }, named(i)), ...row.map((n, j) => {
      const cell = html("td", { class: i === j ? "same" : "changed", title: `fp32 ${named(i)}, candidate ${named(j)}: ${n}` }, n || "");
      cell.style.setProperty("--harm", i === j ? "0%" : (100 * n) / most + "%");
      return cell;
    })))));
  table.hidden = !counts.length;
  byId("differing").replaceChildren(...(found.differing || []).map((one) => {
    const right = (k) => (known(one.label) ? (k === one.label ? " (right)" : " (wrong)") : "");
    const text = `fp32 ${named(one.fp32)} ${percent(one.fp32_share, 0)}${right(one.fp32)}, candidate ${named(one.given)} ${percent(one.share, 0)}${right(one.given)}`;
    return html("figure", { title: text }, html("img", { src: one.png, alt: `image ${one.index}: ${text}`, width: 56, height: 56 }),
      html("span", {}, `${named(one.fp32)} → ${named(one.given)}`));
  }));
}
