/* Served while the search runs: asks for the page as it is by now, and draws it with what was chosen in the one before. */
const kept = {};
let controller = new AbortController(), mark = null;
page(kept, controller.signal);
document.documentElement.dataset.ready = "true";
const say = (text, on) => {
  document.getElementById("live-text").textContent = text;
  document.getElementById("live").classList.toggle("off", !on);
};
function exchange(text) {
  const next = new DOMParser().parseFromString(text, "text/html");
  const focused = document.activeElement && document.activeElement.id, open = [...document.querySelectorAll("details")].map((d) => d.open);
  const scrolled = [...document.querySelectorAll(".scroll")].map((s) => [s.scrollLeft, s.scrollTop]), at = [scrollX, scrollY];
  controller.abort();
  controller = new AbortController();
  document.getElementById("tip").hidden = true;
  document.getElementById("data").textContent = next.getElementById("data").textContent;
  document.querySelector("main").replaceWith(next.querySelector("main"));
  page(kept, controller.signal);
  document.querySelectorAll("details").forEach((d, i) => { d.open = Boolean(open[i]); });
  document.querySelectorAll(".scroll").forEach((s, i) => { if (scrolled[i]) [s.scrollLeft, s.scrollTop] = scrolled[i]; });
  scrollTo(...at);
  if (focused && document.getElementById(focused)) document.getElementById(focused).focus({ preventScroll: true });
}
async function look() {
  try {
    const answer = await fetch(location.pathname, { cache: "no-store", headers: mark ? { "If-None-Match": mark } : {} });
    if (answer.status === 200) {
      const text = await answer.text();
      mark = answer.headers.get("ETag");
      exchange(text);
    } else if (answer.status !== 304) throw new Error(String(answer.status));
    say("Live: follows the search, looked at " + new Date().toLocaleTimeString(), true);
  } catch (error) {
    say("No longer live: this is the page as it was last seen", false);
  }
  setTimeout(look, 2000);
}
look();
