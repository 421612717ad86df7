"use strict";
// Sorting: what a cell sorts by stands in data-sort; cells without it go last in either direction. The first order is the suite's.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headers = Array.from(table.tHead.rows[table.tHead.rows.length - 1].cells);
  const first = Array.from(body.rows);
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const before = header.getAttribute("aria-sort");
      const after = before === "none" ? "ascending" : before === "ascending" ? "descending" : "none";
      for (const other of headers) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", after);
      body.append(...(after === "none" ? first : sorted(first, column, after === "descending")));
    });
  });
}

function sorted(rows, column, descending) {
  const keyed = rows.map((row) => [row.cells[column].dataset.sort, row]);
  const present = keyed.filter(([key]) => key !== undefined);
  const numeric = present.every(([key]) => key !== "" && !Number.isNaN(Number(key)));
  present.sort(([one], [other]) => (numeric ? Number(one) - Number(other) : one.localeCompare(other, undefined, { numeric: true })));
  if (descending) present.reverse();
  return present.concat(keyed.filter(([key]) => key === undefined)).map(([, row]) => row);
}

// Copying also works from a file on disk in an old browser, where there is no clipboard interface.
for (const button of document.querySelectorAll("button.copy")) {
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

// A link to a folded table opens it.
function unfold() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === "DETAILS") target.open = true;
}
addEventListener("hashchange", unfold);
unfold();
addEventListener("beforeprint", () => { for (const details of document.querySelectorAll("details.block")) details.open = true; });
