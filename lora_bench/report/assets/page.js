"use strict";

// The headers of a table become buttons that sort its rows: up, down, and back to the order of the report.
(() => {
  const NUMBER = /^([+−-]?)(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?:e([+−-]?\d+))?(?![\w.])\s*([KMGT]iB\b)?/;
  const BYTES = { KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 };
  const NEXT = { none: "ascending", ascending: "descending", descending: "none" };
  const words = new Intl.Collator("en", { numeric: true });
  const ascii = (sign) => sign.replace("−", "-");

  // What a cell is sorted by. Numbers come before texts, and what is missing comes last, in either direction.
  function key(cell) {
    const text = cell.textContent.trim();
    if (text === "" || text === "–") return { rank: 2, text };
    const found = NUMBER.exec(text);
    if (!found) return { rank: 1, text };
    const [, sign, whole, fraction = "", exponent = "0", unit] = found;
    const digits = `${ascii(sign)}${whole.replaceAll(",", "")}${fraction}e${ascii(exponent)}`;
    return { rank: 0, text, number: Number(digits) * (BYTES[unit] ?? 1) };
  }

  function compare(one, other, direction) {
    if (one.rank !== other.rank) return one.rank - other.rank;
    if (one.rank === 2) return 0;
    return direction * (one.rank === 0 ? one.number - other.number : words.compare(one.text, other.text));
  }

  function sorted(rows, column, direction) {
    const keyed = rows.map((row) => ({ row, key: key(row.cells[column]) }));
    return keyed.sort((one, other) => compare(one.key, other.key, direction)).map(({ row }) => row);
  }

  function makeSortable(table) {
    const headers = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    // Where the first column has no name, each row is another property: there is nothing to sort by.
    if (!body || body.rows.length < 2 || headers[0].textContent.trim() === "") return;
    const reported = [...body.rows];
    headers.forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        const next = NEXT[header.getAttribute("aria-sort") ?? "none"];
        headers.forEach((each) => each.removeAttribute("aria-sort"));
        if (next !== "none") header.setAttribute("aria-sort", next);
        const rows = next === "none" ? reported : sorted(reported, column, next === "ascending" ? 1 : -1);
        body.append(...rows);
      });
    });
  }

  document.querySelectorAll("table").forEach(makeSortable);
})();
