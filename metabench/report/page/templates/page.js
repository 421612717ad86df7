"use strict";
document.documentElement.classList.add("js");
const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));

// Sorting: by data-sort in columns that have it, else by the number a text begins with, else by the text. What is absent goes last.
for (const table of all("table")) {
  const headers = Array.from(table.tHead.rows[table.tHead.rows.length - 1].cells);
  const bodies = Array.from(table.tBodies);
  const first = bodies.flatMap((body) => Array.from(body.rows));
  const kept = bodies.length ? bodies[0].rows.length : 0;
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const before = header.getAttribute("aria-sort");
      const after = before === null ? "ascending" : before === "ascending" ? "descending" : null;
      for (const other of headers) other.removeAttribute("aria-sort");
      if (after) header.setAttribute("aria-sort", after);
      const rows = after ? sorted(first, column, after === "descending") : first;
      if (bodies.length) bodies[0].append(...rows.slice(0, kept));
      if (bodies.length > 1) bodies[1].append(...rows.slice(kept));
    });
  });
  if (bodies.length > 1) {
    const more = Object.assign(document.createElement("button"), { type: "button", className: "all", textContent: `Show all ${first.length}` });
    bodies[1].hidden = true;
    more.setAttribute("aria-expanded", "false");
    more.addEventListener("click", () => {
      bodies[1].hidden = !bodies[1].hidden;
      more.setAttribute("aria-expanded", String(!bodies[1].hidden));
      more.textContent = bodies[1].hidden ? `Show all ${first.length}` : `Show ${kept}`;
    });
    table.parentElement.after(more);
  }
}

function sorted(rows, column, descending) {
  const given = rows.some((row) => row.cells[column].dataset.sort !== undefined);
  const read = (cell) => {
    if (given) return cell.dataset.sort;
    const text = cell.textContent.trim();
    return text === "–" ? undefined : text || undefined;
  };
  const number = (key) => (given ? Number(key) : parseFloat(key.replace("−", "-").replace(/\u202f/g, "")));
  const keyed = rows.map((row) => [read(row.cells[column]), row]);
  const present = keyed.filter(([key]) => key !== undefined);
  const numeric = present.every(([key]) => key !== "" && !Number.isNaN(number(key)));
  present.sort(([one], [other]) => (numeric ? number(one) - number(other) : one.localeCompare(other, undefined, { numeric: true })));
  if (descending) present.reverse();
  return present.concat(keyed.filter(([key]) => key === undefined)).map(([, row]) => row);
}

// The legend: one rule per hidden method acts on every figure.
const legend = document.querySelector(".legend");
const labels = {};
if (legend) {
  const rules = document.head.appendChild(document.createElement("style"));
  const buttons = all("button:not(.set)", legend);
  const update = () => {
    const hidden = buttons.filter((button) => button.getAttribute("aria-pressed") === "false");
    rules.textContent = hidden.map((button) => `svg .${button.className}{display:none}`).join("");
  };
  const press = (button, on) => button.setAttribute("aria-pressed", String(on));
  for (const button of buttons) {
    labels[button.className] = button.textContent;
    button.disabled = false;
    button.addEventListener("click", () => { press(button, button.getAttribute("aria-pressed") === "false"); update(); });
  }
  // It is there while a figure is.
  const seen = new Set();
  const watch = new IntersectionObserver((changes) => {
    for (const { target, isIntersecting } of changes) seen[isIntersecting ? "add" : "delete"](target);
    legend.classList.toggle("away", !seen.size);
  });
  legend.classList.add("away");
  for (const figure of all("figure")) watch.observe(figure);
  for (const button of all("button.set", legend)) {
    button.disabled = false;
    button.addEventListener("click", () => { for (const each of buttons) press(each, button.value === "true"); update(); });
  }
}
for (const span of all(".notes .name")) labels[span.classList[1]] ??= span.textContent.trim();

// Marks say their row to the pointer, and to the arrow keys: each drawing is one stop of the Tab key.
const tip = document.getElementById("tip");
let at = null;
function show(mark) {
  at?.classList.remove("at");
  at = mark;
  if (!mark) { tip.textContent = ""; return; }
  mark.classList.add("at");
  tip.textContent = `${labels[mark.classList[1]] ?? ""}\n${mark.dataset.r}`.trim();
  const box = mark.getBoundingClientRect();
  const left = Math.max(4, Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 4));
  tip.style.left = `${left + scrollX}px`;
  tip.style.top = `${scrollY + (box.bottom + tip.offsetHeight + 10 > innerHeight ? box.top - tip.offsetHeight - 6 : box.bottom + 6)}px`;
}
for (const svg of all("svg.p")) {
  svg.tabIndex = 0;
  const marks = () => all("[data-r]", svg).filter((mark) => mark.checkVisibility());
  svg.addEventListener("pointerover", (event) => show(event.target.closest("[data-r]")));
  svg.addEventListener("pointerleave", () => show(null));
  svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) show(marks()[0] ?? null); });
  svg.addEventListener("blur", () => show(null));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") show(null);
    if (!step) return;
    event.preventDefault();
    const listed = marks();
    if (listed.length) show(listed[(listed.indexOf(at) + step + listed.length) % listed.length]);
  });
}

// Headers stick: to the page where the table is no wider, to the table's own window where it is wide and high.
const root = document.documentElement;
function settle() {
  root.style.setProperty("--nav", `${document.querySelector("nav").offsetHeight - 1}px`);
  for (const scroll of all(".scroll")) {
    scroll.classList.remove("fits", "tall");
    if (!scroll.clientWidth) continue;
    if (scroll.scrollWidth <= scroll.clientWidth) scroll.classList.add("fits");
    else if (scroll.scrollHeight > 0.8 * innerHeight) scroll.classList.add("tall");
  }
}
addEventListener("resize", settle);
for (const part of all("main details")) part.addEventListener("toggle", settle);

// Copying also works from a file on disk in an old browser, where there is no clipboard interface.
for (const button of all("button.copy")) {
  button.addEventListener("click", async () => {
    const text = button.nextElementSibling.textContent + "\n";
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  });
}

// Narrow windows begin with the menus closed; a link opens what folds its target away; paper shows everything.
const narrow = matchMedia("(max-width: 46rem)");
const menus = all("nav:not(.menu) > details, .legend > details");
const fit = () => { for (const menu of menus) menu.open = !narrow.matches; };
narrow.addEventListener("change", fit);
fit();
document.querySelector("nav").addEventListener("click", (event) => {
  if (event.target.closest("a") && (narrow.matches || event.currentTarget.classList.contains("menu"))) event.currentTarget.firstElementChild.open = false;
});
function unfold() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  const own = target.querySelector(":scope > details");
  if (own) own.open = true;
  for (let around = target; around; around = around.parentElement) if (around.localName === "details") around.open = true;
  target.scrollIntoView({ behavior: "instant" });
}
addEventListener("hashchange", unfold);
unfold();
settle();
let folded = [];
addEventListener("beforeprint", () => { folded = all("main details:not([open])"); for (const details of folded) details.open = true; });
addEventListener("afterprint", () => { for (const details of folded) details.open = false; });
