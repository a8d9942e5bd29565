/* Long tables: searched, sorted, and made a hundred rows at a time. */
const ROWS_AT_ONCE = 100;

/* columns: {title, right, key(row) to sort and search by, cell(row) → node or text}; rows: of any kind. */
function longTable(section, { columns, rows, choose, filters = [], label, sortBy = 0, descending = true, notes }) {
  const identifier = `${section.id}-search`;
  const search = element("input", { type: "search", id: identifier, autocomplete: "off", spellcheck: "false" });
  const count = element("output", { class: "count", for: identifier });
  const body = element("tbody");
  const more = element("button", { type: "button", class: "more" });
  const choices = filters.map(({ text, keep }, place) => {
    const made = element("button", { type: "button", "aria-pressed": String(place === 0) }, text);
    made.addEventListener("click", () => {
      choices.forEach((other) => other.setAttribute("aria-pressed", String(other === made)));
      kept = keep;
      renew();
    });
    return made;
  });
  let kept = filters.length ? filters[0].keep : () => true;
  let sorted = sortBy, falling = descending, found = [], shown = 0;
  const text = (row) => columns.map((column) => column.key(row)).join("\n").toLowerCase();
  const texts = new Map();
  const heads = columns.map((column, place) => {
    const button = element("button", { type: "button" }, column.title);
    button.addEventListener("click", () => {
      falling = place === sorted ? !falling : Boolean(column.right);
      sorted = place;
      renew();
    });
    return element("th", { scope: "col", class: column.right ? "right" : "left" }, button);
  });

  function renew() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = rows.filter((row) => {
      if (!kept(row)) return false;
      if (!words.length) return true;
      if (!texts.has(row)) texts.set(row, text(row));
      return words.every((word) => texts.get(row).includes(word));
    });
    const { key } = columns[sorted], sign = falling ? -1 : 1;
    found.sort((a, b) => {
      const first = key(a), second = key(b);
      return sign * (first < second ? -1 : first > second ? 1 : 0);
    });
    heads.forEach((head, place) => {
      if (place === sorted) head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    count.textContent = `${formatCount(found.length)} ${label}`;
    body.replaceChildren();
    shown = 0;
    extend();
  }

  function extend() {
    const next = found.slice(shown, shown + (shown ? ROWS_AT_ONCE : 15));
    for (const row of next) body.append(...rowOf(row));
    shown += next.length;
    more.hidden = shown >= found.length;
    more.textContent = `Show more: ${formatCount(found.length - shown)} left`;
  }

  function rowOf(row) {
    const cells = columns.map((column, place) => {
      const made = column.cell(row);
      const inside = choose && place === 0 ? element("button", { type: "button", class: "choose" }, made) : made;
      if (choose && place === 0) inside.addEventListener("click", () => choose(row));
      return element("td", { class: column.right ? "right" : "left" }, inside);
    });
    const said = notes ? notes(row) : null;
    const made = element("tr", { class: said ? "noted" : null }, ...cells);
    return said ? [made, element("tr", { class: "note" }, element("td", { colspan: String(columns.length) }, ...said))] : [made];
  }

  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(renew, 80);
  });
  more.addEventListener("click", extend);
  const head = element("thead", {}, element("tr", {}, ...heads));
  const title = section.querySelector("h2").textContent;
  section.append(
    element("div", { class: "tools" }, element("label", { for: identifier }, "Search "), search, ...choices, count),
    element("div", { class: "scrolls", tabindex: "0", role: "group", "aria-label": title }, element("table", {}, element("caption", {}, title), head, body)),
    more,
  );
  renew();
}

const wordCell = (text, width = 60) => {
  const made = isolated(shortened(text, width));
  if (text.length > width) made.title = text;
  return made;
};

const sizeCell = (size) => (size === null ? element("span", { class: "missing" }, "unknown") : element("span", { title: `${formatCount(size)} B` }, formatBytes(size)));

function buffersTable(section, data, report, choose) {
  const columns = report.buffers, live = new Set(report.live);
  const word = (name) => (i) => data.words[columns[name][i]];
  const shape = (i) => word("dtype")(i) + word("shape")(i);
  const role = (i) => spaced(data.roles[columns.role[i]]);
  longTable(section, {
    label: "buffers", rows: Array.from(columns.bytes.keys()), choose,
    filters: [{ text: "at the peak", keep: (i) => live.has(i) }, { text: "all", keep: () => true }],
    columns: [
      { title: "bytes", right: true, key: (i) => columns.bytes[i], cell: (i) => sizeCell(columns.bytes[i]) },
      { title: "role", key: role, cell: (i) => element("span", {}, roleSwatch(data.roles[columns.role[i]]), ` ${role(i)}`) },
      { title: "layer", key: word("layer"), cell: (i) => wordCell(word("layer")(i) || "–", 44) },
      { title: "value", key: shape, cell: (i) => wordCell(shape(i), 34) },
      { title: "operation", key: (i) => `${word("opcode")(i)} ${word("instruction")(i)}`, cell: (i) => wordCell(word("instruction")(i), 40) },
      { title: "pass", key: (i) => data.phases[columns.phase[i]], cell: (i) => (data.phases[columns.phase[i]] === "unknown" ? "–" : data.phases[columns.phase[i]]) },
      { title: "source", key: word("source"), cell: (i) => wordCell(fileName(word("source")(i)), 30) },
      { title: "padding", right: true, key: (i) => columns.padding[i], cell: (i) => sizeCell(columns.padding[i]) },
      { title: "from", right: true, key: (i) => columns.start[i], cell: (i) => formatCount(columns.start[i]) },
      { title: "to", right: true, key: (i) => columns.end[i], cell: (i) => formatCount(columns.end[i]) },
    ],
  });
}

function layersTable(section, data, report) {
  const formula = (said, compiled) => {
    if (said === compiled) return compiled ? "= formula" : "";
    return element("span", {}, "formula ", sizeCell(said));
  };
  const both = (title, at) => ({
    title, right: true, key: (row) => row[at + 1],
    cell: (row) => element("span", { class: "both" }, sizeCell(row[at + 1]), element("small", {}, formula(row[at], row[at + 1]))),
  });
  const total = (row) => row[2] + row[4] + row[6] + row[8];
  longTable(section, {
    label: "layers", rows: report.layers,
    columns: [
      { title: "layer", key: (row) => data.words[row[0]], cell: (row) => wordCell(data.words[row[0]] || "(no layer)", 60) },
      { title: "together", right: true, key: total, cell: (row) => sizeCell(total(row)) },
      both("parameters", 1), both("gradients", 3), both("optimizer", 5), both("activations", 7),
    ],
    sortBy: 1,
  });
}

function ledgerTable(section, data, report) {
  const word = (place) => data.words[place];
  const difference = (row) => (row[3] === null ? null : row[4] - row[3]);
  longTable(section, {
    label: "rows", rows: report.ledger.filter((row) => row[3] || row[4] || row[7].length),
    columns: [
      { title: "term", key: (row) => word(row[0]), cell: (row) => wordCell(word(row[0])) },
      { title: "layer", key: (row) => word(row[2]), cell: (row) => wordCell(word(row[2]) || "–", 50) },
      { title: "symbol", key: (row) => word(row[1]), cell: (row) => wordCell(word(row[1]), 40) },
      { title: "formula", right: true, key: (row) => row[3] ?? -1, cell: (row) => sizeCell(row[3]) },
      { title: "compiled", right: true, key: (row) => row[4], cell: (row) => sizeCell(row[4]) },
      { title: "difference", right: true, key: (row) => Math.abs(difference(row) ?? 0), cell: (row) => (difference(row) === null ? sizeCell(null) : formatDifference(difference(row))) },
      { title: "unexplained", right: true, key: (row) => row[5] ?? -1, cell: (row) => sizeCell(row[5]) },
    ],
    sortBy: 4,
    notes: (row) => (row[7].length ? row[7].slice(0, 20).map(([kind, bytes, evidence]) => element("div", {}, isolated(word(kind)), ` ${formatDifference(bytes)} `, element("small", {}, isolated(shortened(word(evidence), 300))))) : null),
  });
}
