// Everything is on the page without this script: it only sorts, filters and finds. It writes text, never markup.
"use strict";
(() => {
  const counted = new Intl.NumberFormat("en");

  function valueOf(cell) {
    const text = cell.textContent.trim();
    if (text === "exact") return Infinity;
    const number = parseFloat(text.replace(/−/g, "-").replace(/\s(?=\d)/g, "").replace("∞", "Infinity"));
    return Number.isNaN(number) ? null : number;
  }

  function sortBy(table, index, numeric, descending) {
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => {
      const cell = row.cells[index];
      return [numeric ? valueOf(cell) : cell.textContent.trim().toLowerCase(), row];
    });
    const sign = descending ? -1 : 1;
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // what has no value comes last, either way
      return sign * (numeric ? (a === b ? 0 : a - b) : a.localeCompare(b, "en", { numeric: true }));
    });
    body.append(...keyed.map(([, row]) => row));
  }

  function makeSortable(table) {
    [...table.tHead.rows[0].cells].forEach((head, index) => {
      const numeric = head.classList.contains("num");
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const was = head.getAttribute("aria-sort");
        const descending = was ? was === "ascending" : numeric;
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sortBy(table, index, numeric, descending);
      });
    });
  }

  function searchBox(label, before, search) {
    const field = document.createElement("label");
    const input = document.createElement("input");
    const found = document.createElement("output");
    input.type = "search";
    input.autocomplete = "off";
    input.spellcheck = false;
    field.append("Find ", input, found);
    field.className = "find";
    input.placeholder = label;
    input.setAttribute("aria-label", `Find ${label}`);
    input.addEventListener("input", () => { found.textContent = search(input.value.trim().toLowerCase()); });
    before.before(field);
  }

  function makeFilterable(table) {
    const rows = [...table.tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]);
    searchBox(table.dataset.find, table.closest(".scroll"), (wanted) => {
      let count = 0;
      for (const [row, text] of rows) {
        row.hidden = !text.includes(wanted);
        count += !row.hidden;
      }
      return wanted ? `${counted.format(count)} of ${counted.format(rows.length)}` : "";
    });
  }

  function makeSearchable(picture) {
    const nodes = [...picture.querySelectorAll(".node")].map((node) => [node, node.textContent.toLowerCase()]);
    const box = picture.querySelector(".scroll");
    searchBox(picture.dataset.find, box, (wanted) => {
      let first = null;
      let count = 0;
      for (const [node, text] of nodes) {
        const found = wanted !== "" && text.includes(wanted);
        node.classList.toggle("found", found);
        if (found) { first ??= node; count += 1; }
      }
      picture.classList.toggle("searched", wanted !== "");
      if (first) {
        const [here, there] = [box.getBoundingClientRect(), first.getBoundingClientRect()];
        box.scrollBy(there.left - here.left - 40, there.top - here.top - 60);
      }
      return wanted ? `${counted.format(count)} found` : "";
    });
  }

  for (const table of document.querySelectorAll("table")) makeSortable(table);
  for (const table of document.querySelectorAll("table[data-find]")) makeFilterable(table);
  for (const picture of document.querySelectorAll(".picture")) makeSearchable(picture);
})();
