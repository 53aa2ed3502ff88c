// What pages cannot do by themselves: copying, covering, keeping figures fresh, keys, the palette. Without it all of them work.
"use strict";

const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function tell(near, text) {
  let place = one("[role=status].said", near.closest("section, .secret, main")) || one("#said");
  if (!place) {
    place = document.createElement("p");
    place.id = "said"; place.className = "said hidden"; place.setAttribute("role", "status");
    document.body.append(place);
  }
  place.textContent = text;
}

function equip(root) {
  for (const button of all("[data-copy], [data-reveal], [data-download], [data-open]", root)) button.hidden = false;
  // A secret is covered until somebody wants to see it.
  for (const button of all("[data-reveal]", root)) {
    const secret = document.getElementById(button.dataset.reveal);
    secret.classList.add("covered");
    button.textContent = "Show";
  }
  // Times in the zone of whoever looks; what the server wrote stays in the title.
  for (const time of all("time[datetime]", root)) {
    if (time.dataset.shown || !/UTC$/.test(time.textContent.trim())) continue;
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const two = (number) => String(number).padStart(2, "0");
    const zone = new Intl.DateTimeFormat("en", { timeZoneName: "short" }).formatToParts(at).find((part) => part.type === "timeZoneName");
    time.textContent = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())} ${zone ? zone.value : ""}`;
    time.dataset.shown = "1";
  }
}

let copied = 0;
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-reveal], [data-download], [data-open]");
  if (!button) return;
  if (button.dataset.copy !== undefined) {
    if (Date.now() - copied < 300) return;
    copied = Date.now();
    try { await navigator.clipboard.writeText(button.dataset.copy); } catch { tell(button, "It could not be copied. Select it instead."); return; }
    const before = button.dataset.called ||= button.textContent;
    button.textContent = "Copied ✓";
    tell(button, "Copied");
    setTimeout(() => { button.textContent = before; }, 2000);
    for (const box of all("main form input[type=checkbox][required]")) box.required = false;
  } else if (button.dataset.reveal !== undefined) {
    const covered = document.getElementById(button.dataset.reveal).classList.toggle("covered");
    button.textContent = covered ? "Show" : "Hide";
  } else if (button.dataset.download !== undefined) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([button.dataset.download], { type: "text/plain" }));
    link.download = button.dataset.name;
    link.click();
    URL.revokeObjectURL(link.href);
  } else {
    open(button.dataset.open);
  }
});

// Live: pieces of the page are asked for again, while somebody looks and nothing in them is in use.
const born = Date.now();
let page = Promise.resolve(null), pageAt = 0;
// The page is asked for once for all of its pieces that are due at the same time.
function current() {
  if (Date.now() - pageAt > 1000) {
    pageAt = Date.now();
    page = fetch(location.href, { headers: { accept: "text/html", "x-tollgate-live": "1" }, redirect: "manual" })
      .then((answer) => answer.ok ? answer.text() : null, () => null)
      .then((text) => text && new DOMParser().parseFromString(text, "text/html"));
  }
  return page;
}
async function refresh(piece) {
  const isInUse = () => document.hidden || piece.contains(document.activeElement) || one("details[open]", piece);
  if (isInUse()) return;
  const fresh = (await current())?.getElementById(piece.id)?.cloneNode(true);
  if (!isInUse() && fresh && fresh.innerHTML !== piece.dataset.before) {
    piece.dataset.before = fresh.innerHTML;
    piece.replaceChildren(...fresh.childNodes);
    equip(piece);
  }
}
for (const piece of all("[data-live]")) {
  const seconds = Number(piece.dataset.live);
  // What stays open for long is asked for less often.
  if (seconds > 0) setInterval(() => { if (Date.now() - born < 600_000 || Math.random() < 0.2) refresh(piece); }, seconds * 1000);
}

// Keys. Single ones do nothing while somebody types, and can be turned off.
const SINGLE = "tollgate single keys off";
const single = () => localStorage.getItem(SINGLE) === null;
for (const box of all("[data-single-keys]")) {
  box.checked = single();
  box.addEventListener("change", () => { box.checked ? localStorage.removeItem(SINGLE) : localStorage.setItem(SINGLE, "1"); });
}

function open(id) {
  const dialog = document.getElementById(id);
  if (!dialog || dialog.open) return;
  dialog.showModal();
  if (id === "palette") { one("input", dialog).value = ""; filter(); }
}

let after = 0;
document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") { event.preventDefault(); open("palette"); return; }
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || one("dialog[open]") || !single()) return;
  if (Date.now() - after < 1500) {
    after = 0;
    const link = one(`nav [data-go="${CSS.escape(event.key)}"]`);
    if (link) { event.preventDefault(); link.click(); }
    return;
  }
  const does = {
    "/": () => one("[data-search]")?.focus(),
    c: () => one("[data-create]")?.click(),
    g: () => { after = Date.now(); },
    "?": () => open("help"),
  }[event.key];
  if (does) { event.preventDefault(); does(); }
});

// The palette: a field and the places that fit what is in it.
const palette = document.getElementById("palette");
let asked = 0;
function places() { return palette ? all("li:not([hidden])", palette) : []; }
function choose(place) {
  for (const other of all("li", palette)) other.setAttribute("aria-selected", String(other === place));
  const field = one("input", palette);
  if (place) { field.setAttribute("aria-activedescendant", place.id); place.scrollIntoView({ block: "nearest" }); } else field.removeAttribute("aria-activedescendant");
}
async function filter() {
  const text = one("input", palette).value.trim().toLowerCase();
  for (const place of all("li", palette)) {
    if (place.dataset.found) place.remove();
    else place.hidden = !place.firstChild.textContent.toLowerCase().includes(text);
  }
  choose(places()[0]);
  const mine = ++asked;
  if (text.length < 2) return;
  let answer;
  try { answer = await fetch(`/palette?q=${encodeURIComponent(text)}`, { redirect: "manual" }); } catch { return; }
  if (!answer.ok || mine !== asked) return;
  const found = new DOMParser().parseFromString(`<ul>${await answer.text()}</ul>`, "text/html");
  for (const place of all("li", found)) { place.dataset.found = "1"; one("ul", palette).append(place); }
  if (!one("[aria-selected=true]:not([hidden])", palette)) choose(places()[0]);
}
if (palette) {
  one("input", palette).addEventListener("input", filter);
  palette.addEventListener("click", (event) => { const place = event.target.closest("li"); if (place) location.href = place.dataset.path; else if (event.target === palette) palette.close(); });
  palette.addEventListener("keydown", (event) => {
    const now = places(), at = now.findIndex((place) => place.getAttribute("aria-selected") === "true");
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      choose(now[(at + (event.key === "ArrowDown" ? 1 : now.length - 1)) % now.length]);
    } else if (event.key === "Enter" && now[at]) { event.preventDefault(); location.href = now[at].dataset.path; }
  });
}

// On a narrow page the navigation is one row.
const row = one(".frame > nav");
if (row && row.scrollWidth > row.clientWidth) {
  const here = one("[aria-current]", row);
  if (here) row.scrollLeft = here.offsetLeft - row.clientWidth / 2;
}

equip(document);
