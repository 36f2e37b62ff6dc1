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

function value(row, column) {
  const text = row.cells[column].firstChild.textContent.trim();
  return [text, parseFloat(text.replace(/,/g, ""))];
}

function sort(head) {
  const column = head.cellIndex, down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = head.closest("table").tBodies[0];
  const sorted = [...body.rows].sort((a, b) => {
    const [x, p] = value(a, column), [y, q] = value(b, column);
    if (isNaN(p) !== isNaN(q)) return isNaN(p) ? 1 : -1;
    return (down ? -1 : 1) * (isNaN(p) ? x.localeCompare(y) : p - q);
  });
  body.append(...sorted);
}

for (const table of document.querySelectorAll("section.table")) {
  table.querySelector("input").addEventListener("input", () => filter(table));
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => sort(button.closest("th")));
  }
}
for (const ref of document.querySelectorAll("a.ref")) {
  tipOf(ref, () => document.querySelector(ref.getAttribute("href")).textContent.trim());
}
for (const mark of document.querySelectorAll(".mark")) {
  tipOf(mark, () => mark.getAttribute("aria-label"));
  const follow = () => {
    const table = document.getElementById("costs");
    table.querySelector("input").value = mark.dataset.rows;
    filter(table, true);
    tip.hidden = true;
    table.scrollIntoView();
  };
  mark.addEventListener("click", follow);
  mark.addEventListener("keydown", event => { if (event.key === "Enter") follow(); });
}
addEventListener("keydown", event => { if (event.key === "Escape") tip.hidden = true; });
addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details")) one.open = true; });
