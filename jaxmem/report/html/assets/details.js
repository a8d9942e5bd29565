const TOOLTIP_STYLE = "max-width:300px;color:#16191d;font:13px/1.45 system-ui,sans-serif;overflow-wrap:anywhere";

/* Everything that is known of one buffer, below the map; and the few words beside the pointer. */
function showDetails(place, facts) {
  const rows = [
    ["role", [roleSwatch(facts.role), ` ${spaced(facts.role)}`]],
    ["layer", [facts.layer ? isolated(facts.layer) : "(no layer)"]],
    ["operation", [isolated(facts.opcode), " · ", isolated(facts.instruction)]],
    ["value", [isolated(facts.shape)]],
    ["size", [`${formatBytes(facts.bytes)} (${formatCount(facts.bytes)} B)`]],
    ["padding", [facts.padding ? `${formatBytes(facts.padding)} of it` : "none"]],
    ["lives", [`position ${formatCount(facts.start)} to ${formatCount(facts.end)}`]],
    ["made in", [facts.phase === "unknown" ? "no known pass" : `${facts.phase} pass`]],
    ["source", [facts.source ? element("bdi", { title: facts.source }, fileName(facts.source)) : "not kept by the compiler"]],
    ["lies at", [`allocation ${facts.allocation}, offset ${formatCount(facts.offset)}`]],
    ["decided by", [isolated(facts.rule)]],
  ];
  const list = element("dl");
  for (const [name, said] of rows) list.append(element("div", {}, element("dt", {}, name), element("dd", {}, ...said)));
  place.replaceChildren(list);
}

function tooltip(facts) {
  return element(
    "div",
    { "data-tooltip": true, style: TOOLTIP_STYLE },
    element("strong", {}, `${formatBytes(facts.bytes)} · ${spaced(facts.role)}`),
    element("div", {}, isolated(facts.layer ? shortened(facts.layer, 80) : "(no layer)")),
    element("div", {}, isolated(shortened(facts.opcode, 40)), " · ", isolated(shortened(facts.shape, 60))),
    element("div", {}, facts.source ? isolated(shortened(fileName(facts.source), 60)) : ""),
  );
}
