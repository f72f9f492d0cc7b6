/* ---- where a candidate answers otherwise than fp32 ---- */
function drawAnswers(trial) {
  const found = review(trial).answers, detects = known(found.scores);
  byId("answers").hidden = !found.images;
  byId("answers").parentNode.classList.toggle("wide", detects);
  if (!found.images) return;
  const named = (k) => (found.classes && found.classes[k]) || String(k), some = (found.differing || []).length;
  byId("answers-text").textContent = detects
    ? `${percent(found.agreement, 0)} of the detections on ${found.images} images (of scores from ${percent(found.scores[1], 0)} on) are pairs: of one class, overlapping by half. ` +
      (some ? `Drawn are the images with most that only one detects, and of the boxes those that one gives ${percent(found.scores[0], 0)} or more` : `With ${percent(found.scores[0], 0)} or more nothing is detected by only one`)
    : `${found.images - found.changed} of ${found.images} images alike; fp32's answer by row, the candidate's by column`;
  drawConfusion(found.confusion || [], named);
  byId("answers-legend").replaceChildren(...(detects && some ? ["fp32", "candidate"].map(boxLegend) : []));
  byId("differing").classList.toggle("scenes", detects);
  byId("differing").replaceChildren(...(found.differing || []).map((one) => (detects ? scene(one, named) : answered(one, named))));
}
/* Of what is told where there are no labels, the name, the figure and on what. */
function agreement(trial) {
  const found = review(trial).answers, share = found.agreement ?? 1 - found.changed / found.images;
  return ["Agreement with fp32", share >= 0 ? percent(share, 1) : "-", found.images ? `on ${found.images} images` : null];
}
function drawConfusion(counts, named) {
  const table = byId("confusion"), most = Math.max(1, ...counts.flatMap((row, i) => row.filter((_, j) => i !== j)));
  table.replaceChildren(
    html("thead", {}, html("tr", {}, html("td", {}), ...counts.map((_, j) => html("th", { scope: "col" }, named(j))))),
    html("tbody", {}, ...counts.map((row, i) => html("tr", {}, html("th", { scope: "row" }, named(i)), ...row.map((n, j) => {
      const cell = html("td", { class: i === j ? "same" : "changed", title: `fp32 ${named(i)}, candidate ${named(j)}: ${n}` }, n || "");
      cell.style.setProperty("--harm", i === j ? "0%" : (100 * n) / most + "%");
      return cell;
    })))));
  table.parentNode.hidden = !counts.length;
}
/* An image that was classified otherwise, or less surely. */
function answered(one, named) {
  const right = (k) => (known(one.label) ? (k === one.label ? " (right)" : " (wrong)") : "");
  const text = `fp32 ${named(one.fp32)} ${percent(one.fp32_share, 0)}${right(one.fp32)}, candidate ${named(one.given)} ${percent(one.share, 0)}${right(one.given)}`;
  return html("figure", { title: text }, html("img", { src: one.png, alt: `image ${one.index}: ${text}`, width: 56, height: 56 }),
    html("span", {}, `${named(one.fp32)} → ${named(one.given)}`));
}
/* An image with the boxes of both: fp32's lines are whole, the candidate's dashed, and thin where the other has the box too. */
function scene(one, named) {
  const boxes = svg("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  const frame = html("div", { class: "frame" }, html("img", { src: one.jpeg, alt: `image ${one.index}, what is detected on it drawn as boxes` }), boxes);
  const draw = (whose, [left, top, right, bottom], more = "") => {
    for (const part of ["casing", "box"])
      boxes.append(svg("rect", { class: `${part} ${whose}${more}`, x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top) }));
  };
  for (const [, , l, t, r, b, , ...other] of one.both) { draw("fp32", [l, t, r, b], " paired"); draw("candidate", other, " paired"); }
  const alone = [["fp32", one.fp32], ["candidate", one.given]];
  for (const [whose, rows] of alone) for (const [, , ...place] of rows) draw(whose, place);
  /* Names last, so that no line crosses them; fp32's above its box's left, the candidate's below its right. */
  const within = (v) => Math.min(1, Math.max(0, v)), part = (v) => `${(100 * within(v)).toFixed(1)}%`;
  for (const [whose, rows] of alone) for (const [kind, , left, top, right, bottom] of rows.slice(0, 8)) {
    const name = html("span", { class: "name " + whose, "aria-hidden": "true" }, named(kind));
    Object.assign(name.style, whose === "fp32" ? { left: part(left), top: part(top) } : { right: part(1 - right), bottom: part(1 - bottom) });
    frame.append(name);
  }
  const line = (term, texts) => (texts.length ? [html("div", {}, html("dt", {}, term), " ", html("dd", {}, texts.join("; ")))] : []);
  /* Of a class all scores together: person 65, 55 %. */
  const told = (rows, sure) => [...new Set(rows.map(([kind]) => kind))].map((kind) => `${named(kind)} ${rows.filter((row) => row[0] === kind).map(sure).join(", ")}\u00a0%`);
  const whole = (score) => (100 * score).toFixed(0), sure = (row) => whole(row[1]);
  return html("figure", {}, frame, html("figcaption", {}, `Image ${one.index}`),
    html("dl", {}, ...line("Only fp32", told(one.fp32, sure)), ...line("Only the candidate", told(one.given, sure)),
      ...line("Both", told(one.both, (row) => `${sure(row)} → ${whole(row[6])}`)), ...(one.undrawn ? line("Not drawn", [`${one.undrawn} more of lower scores`]) : [])));
}
function boxLegend(whose) {
  const icon = svg("svg", { width: 30, height: 16, "aria-hidden": "true" },
    ...["casing", "box"].map((part) => svg("rect", { class: `${part} ${whose}`, x: 3, y: 3, width: 24, height: 10 })));
  return html("li", {}, icon, whose === "fp32" ? "fp32: whole line; thin where the candidate has it too" : "candidate: dashed; thin where fp32 has it too");
}
