"use strict";
const tip = document.getElementById("tip");

function show(target, text) {
  tip.textContent = text;
  tip.hidden = false;
  const at = target.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const left = at.left + at.width / 2 - own.width / 2;
  tip.style.left = Math.max(8, Math.min(left, document.documentElement.clientWidth - own.width - 8)) + "px";
  tip.style.top = (at.top > own.height + 16 ? at.top - own.height - 10 : at.bottom + 10) + "px";
}

function tipOf(target, text) {
  for (const name of ["pointerenter", "focus"]) target.addEventListener(name, () => show(target, text()));
  for (const name of ["pointerleave", "blur"]) target.addEventListener(name, () => { tip.hidden = true; });
}

// Text that is alike in every policy of a task must not match by accident: marks ask for whole words.
function filter(table, whole = false) {
  const box = table.querySelector("input"), words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...table.querySelector("tbody").rows];
  for (const row of rows) {
    const text = row.textContent.toLowerCase(), parts = text.split(/\s+/);
    row.hidden = !words.every(word => whole ? parts.includes(word) : text.includes(word));
  }
  const all = `${rows.length} row${rows.length === 1 ? "" : "s"}`;
  const left = rows.filter(row => !row.hidden).length;
  table.querySelector("output").textContent = left === rows.length ? all : `${left} of ${all}`;
}

// A text is a number where it begins with one that is a word of its own: dates and commits are none.
function value(row, column) {
  const text = row.cells[column].firstChild.textContent.trim();
  const number = /^-?[\d,]+(\.\d+)?(?![\w.:-])/.exec(text);
  return [text, text === "none" ? 0 : number ? Number(number[0].replace(/,/g, "")) : NaN];
}

// Up, down, and as it was.
function sort(head) {
  const after = {null: "ascending", ascending: "descending", descending: null};
  const column = head.cellIndex, wanted = after[head.getAttribute("aria-sort")];
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  if (wanted) head.setAttribute("aria-sort", wanted);
  const body = head.closest("table").tBodies[0];
  const sorted = [...body.rows].sort((a, b) => {
    if (!wanted) return a.dataset.place - b.dataset.place;
    const [x, p] = value(a, column), [y, q] = value(b, column);
    if (isNaN(p) !== isNaN(q)) return isNaN(p) ? 1 : -1;
    return (wanted === "descending" ? -1 : 1) * (isNaN(p) ? x.localeCompare(y) : p - q);
  });
  body.append(...sorted);
}

for (const table of document.querySelectorAll("section.table")) {
  [...table.querySelector("tbody").rows].forEach((row, place) => { row.dataset.place = place; });
  table.querySelector("input").addEventListener("input", () => filter(table));
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => sort(button.closest("th")));
  }
}
for (const ref of document.querySelectorAll("a.ref")) {
  tipOf(ref, () => document.querySelector(ref.getAttribute("href")).textContent.trim());
}

function middle(mark) {
  const box = mark.getBoundingClientRect();
  return [box.left + box.width / 2, box.top + box.height / 2];
}

// The rows of a mark in the table of costs; the browser's way back leads to the picture again.
function follow(mark) {
  const table = document.getElementById("costs"), box = table.querySelector("input");
  box.value = mark.dataset.rows;
  filter(table, true);
  point(null);
  location.hash = "costs";
  box.focus({preventScroll: true});
}

let pointed = null;
function point(mark, more = "") {
  if (pointed) pointed.classList.remove("on");
  pointed = mark;
  if (mark) { mark.classList.add("on"); show(mark, mark.getAttribute("aria-label") + more); } else tip.hidden = true;
}

// Marks lie on each other: the one that is meant is the nearest, a large one before small ones.
function nearest(marks, x, y) {
  let best = null, least = 24;
  for (const mark of marks) {
    const [left, top] = middle(mark);
    const away = Math.hypot(left - x, top - y) + (mark.classList.contains("large") ? 0 : 5);
    if (away < least) [best, least] = [mark, away];
  }
  return best;
}

for (const panel of document.querySelectorAll(".panel")) {
  const marks = [...panel.querySelectorAll(".mark")];
  if (!marks.length) continue;
  const large = marks.filter(mark => mark.classList.contains("large"));
  let before = null;  // What was pointed at before a finger came down, which moves the focus.
  panel.addEventListener("pointerdown", () => { before = pointed; });
  panel.addEventListener("pointermove", event => {
    if (event.pointerType === "mouse") point(nearest(marks, event.clientX, event.clientY));
  });
  panel.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") point(null); });
  panel.addEventListener("click", event => {
    const mark = nearest(marks, event.clientX, event.clientY);
    // A finger cannot point without a click: its first one shows the numbers.
    if (mark && (event.pointerType === "mouse" || mark === before)) follow(mark);
    else point(mark, " (once more: its rows)");
  });
  panel.addEventListener("keydown", event => {
    const along = [...large].sort((a, b) => middle(a)[0] - middle(b)[0]);
    const here = along.indexOf(document.activeElement), step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (here < 0) return;
    if (event.key === "Enter") follow(along[here]);
    if (!step || !along[here + step]) return;
    event.preventDefault();
    along[here].tabIndex = -1;
    along[here + step].tabIndex = 0;
    along[here + step].focus();
  });
  for (const mark of large) {
    mark.addEventListener("focus", () => point(mark));
    mark.addEventListener("blur", () => point(null));
  }
}
addEventListener("keydown", event => { if (event.key === "Escape") point(null); });
addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details")) one.open = true; });
