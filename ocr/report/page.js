"use strict";
// Layers: a class of the body hides each one that is off.
for (const box of document.querySelectorAll(".layers input")) {
  const show = () => document.body.classList.toggle("no-" + box.name, !box.checked);
  box.addEventListener("change", show);
  show();
}
// Tables: a click on a heading sorts by its column, numbers first in the order that shows the worst.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => head.addEventListener("click", () => {
    const falls = head.ariaSort ? head.ariaSort === "ascending" : head.dataset.first === "descending";
    heads.forEach((other) => { other.ariaSort = null; });
    head.ariaSort = falls ? "descending" : "ascending";
    const value = (row) => row.cells[place].dataset.value ?? row.cells[place].textContent;
    const compare = (one, other) => {
      const [a, b] = [value(one), value(other)];
      const order = a === "" || isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
      return falls ? -order : order;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
  }));
}
for (const button of document.querySelectorAll("button.enlarge")) {
  button.addEventListener("click", () => {
    const isBig = button.closest(".shot").classList.toggle("big");
    button.textContent = isBig ? "smaller" : "larger";
    button.closest(".shot").scrollIntoView({ block: "start" });
  });
}
for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", () => {
    const code = button.parentElement.querySelector("code");
    const done = () => { button.textContent = "copied"; };
    const select = () => { getSelection().selectAllChildren(code); };
    // Pages opened from a file may not reach the clipboard everywhere: then the line is selected.
    if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(done, select);
    else select();
  });
}
