// A click on the head of a column sorts the rows by it: upwards, then downwards. Rows without a value come last.
document.documentElement.classList.remove("no-script");
for (const button of document.querySelectorAll("button.sort")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const column = head.cellIndex;
    const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of head.parentElement.cells) {
      if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", other === head ? order : "none");
    }
    const body = head.closest("table").tBodies[0];
    const textOf = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...body.rows].sort((one, other) => {
      const [a, b] = [textOf(one), textOf(other)];
      if (a === "" || b === "") return (a === "") - (b === "");
      if (!Number.isNaN(Number(a)) && !Number.isNaN(Number(b))) return sign * (Number(a) - Number(b));
      return sign * a.localeCompare(b, "en", { numeric: true });
    });
    body.append(...rows);
  });
}
