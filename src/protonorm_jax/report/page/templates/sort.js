"use strict";
// Tables are complete without this: it sorts rows at a click on the head of a column.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent.trim();
    head.textContent = "";
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "descending" ||
        (head.getAttribute("aria-sort") === null && head.classList.contains("t"));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "ascending" : "descending");
      const body = table.tBodies[0];
      const keyed = Array.from(body.rows, (row) => [row.cells[place].dataset.v, row]);
      const numeric = !head.classList.contains("t");
      keyed.sort(([a, one], [b, other]) => {
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = numeric ? a - b : a.localeCompare(b, "en", { numeric: true });
        return down ? order : -order;
      });
      body.append(...keyed.map(([, row]) => row));
    });
  });
}
const save = document.getElementById("save-numbers");
if (save) {
  save.hidden = false;
  save.addEventListener("click", () => {
    const content = document.getElementById("numbers").textContent;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type: "application/json" }));
    link.download = "numbers.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}
