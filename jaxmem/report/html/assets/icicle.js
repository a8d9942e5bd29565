/* The required bytes: by role, then by module, down to the layer. A part that is chosen fills the chart. */
const DEEPEST = 5;
const ROOT_WIDTH = 0.1;

function partsOf(data, report) {
  const root = { name: "required", bytes: 0, role: -1, children: new Map(), parent: null, depth: 0 };
  const roleOf = new Map(data.roles.map((role, place) => [spaced(role), place]));
  for (const [term, , layer, , compiled] of report.ledger) {
    if (!compiled) continue;
    const path = data.words[layer] ? data.words[layer].split("/") : [];
    const role = roleOf.get(data.words[term]) ?? -1;
    let node = root;
    node.bytes += compiled;
    for (const name of [data.words[term], ...path]) {
      if (!node.children.has(name)) {
        node.children.set(name, { name, bytes: 0, role, children: new Map(), parent: node, depth: node.depth + 1 });
      }
      node = node.children.get(name);
      node.bytes += compiled;
    }
  }
  return root;
}

const childrenOf = (node) => [...node.children.values()].sort((a, b) => b.bytes - a.bytes);

/* Chains of only children are one step. */
function merged(node) {
  const names = [node.name];
  while (node.children.size === 1 && node.depth > 0) {
    const [only] = node.children.values();
    if (only.bytes !== node.bytes) break;
    names.push(only.name);
    node = only;
  }
  return { node, name: names.join("/") };
}

function icicleBoxes(data, root, height) {
  const boxes = { left: [], right: [], bottom: [], top: [], node: [], name: [], depth: [] };
  const least = root.bytes / height; // a part below a pixel cannot be seen
  const lay = (node, from, depth) => {
    const { node: shown, name } = merged(node);
    boxes.left.push(depth ? depth - 1 + ROOT_WIDTH : 0);
    boxes.right.push(depth + ROOT_WIDTH);
    boxes.bottom.push(from);
    boxes.top.push(from + node.bytes);
    boxes.node.push(shown);
    boxes.name.push(name);
    boxes.depth.push(depth);
    if (depth + 1 >= DEEPEST) return;
    let at = from;
    for (const child of childrenOf(shown)) {
      if (child.bytes >= least) lay(child, at, depth + 1);
      at += child.bytes;
    }
  };
  lay(root, 0, 0);
  return boxes;
}

/* Black or white, whichever is easier to read on the colour. */
function inkOn(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 ? "#111418" : "#ffffff";
}

async function drawIcicle(place, crumbs, data, report) {
  const whole = partsOf(data, report);
  const height = isPhone() ? 420 : 460;
  const xRange = new Bokeh.Range1d({ start: 0, end: 1 }), yRange = new Bokeh.Range1d({ start: 1, end: 0 });
  const plot = plainFigure({ height, x_range: xRange, y_range: yRange, min_border_left: 4, min_border_right: 4 });
  for (const part of [plot.xaxis, plot.yaxis, plot.xgrid, plot.ygrid]) part.visible = false;
  plot.outline_line_color = null;
  const source = new Bokeh.ColumnDataSource({ data: { left: [], right: [], bottom: [], top: [], colour: [], edge: [] } });
  const labels = new Bokeh.ColumnDataSource({ data: { x: [], y: [], text: [], colour: [] } });
  const surface = styleOf("--surface");
  const quads = plot.quad({ field: "left" }, { field: "right" }, { field: "bottom" }, { field: "top" }, {
    source, fill_color: { field: "colour" }, line_color: surface, line_width: { field: "edge" }, nonselection_fill_alpha: 1, hover_line_color: styleOf("--ink"), hover_line_width: 2,
  });
  const hatch = hatched(plot, data, 0.18);
  plot.text({ field: "x" }, { field: "y" }, { field: "text" }, {
    source: labels, text_color: { field: "colour" }, text_baseline: "middle", text_font_size: "12px", text_font: "system-ui",
    x_offset: 6,
  });
  let boxes, shownRoot = whole;
  const colours = roleColours(data);
  const paint = (root) => {
    shownRoot = root;
    boxes = icicleBoxes(data, root, height);
    const colour = boxes.node.map((node) => (node.role < 0 ? styleOf("--line") : colours[node.role]));
    const depths = Math.max(...boxes.depth) + 1;
    const tall = (i) => ((boxes.top[i] - boxes.bottom[i]) / root.bytes) * height;
    source.data = {
      left: boxes.left, right: boxes.right, bottom: boxes.bottom, top: boxes.top, colour,
      edge: boxes.node.map((_, i) => (tall(i) >= 5 ? 1 : 0.2)),
    };
    hatch(boxes, boxes.node.map((node) => node.role));
    const letters = Math.floor((place.clientWidth - 8) / (depths - 1 + ROOT_WIDTH) / 7.2) - 2;
    const written = Array.from(boxes.node.keys()).filter((i) => boxes.depth[i] > 0 && tall(i) >= 15);
    labels.data = {
      x: written.map((i) => boxes.left[i]), y: written.map((i) => (boxes.bottom[i] + boxes.top[i]) / 2),
      text: written.map((i) => labelOf(boxes.name[i], boxes.top[i] - boxes.bottom[i], letters, tall(i) >= 34)),
      colour: written.map((i) => inkOn(colour[i])),
    };
    xRange.setv({ start: 0, end: Math.max(depths - 1, 1) + ROOT_WIDTH });
    yRange.setv({ start: root.bytes, end: 0 });
    fillCrumbs(crumbs, root, paint);
  };
  plot.add_tools(
    hover((from, at) => partTooltip(boxes.name[at.index], boxes.node[at.index], whole), { renderers: [quads] }),
    new Bokeh.TapTool({ renderers: [quads] }),
  );
  source.selected.change.connect(() => {
    const [first] = source.selected.indices;
    if (first === undefined) return;
    source.selected.indices = [];
    const node = boxes.node[first];
    const next = node === shownRoot ? node.parent ?? node : node;
    if (next.children.size) setTimeout(() => paint(next), 0);
  });
  place.replaceChildren();
  paint(whole);
  const view = await Bokeh.Plotting.show(plot, place);
  return { view };
}

/* A name and its size, below one another where there is room; the name alone where there is little. */
function labelOf(name, bytes, letters, twoLines) {
  const size = formatBytes(bytes);
  if (letters < 3) return "";
  if (twoLines && letters >= size.length) return `${shortened(name, letters)}\n${size}`;
  if (letters < size.length + 8) return shortened(name, letters);
  return `${shortened(name, letters - size.length - 2)}  ${size}`;
}

function partTooltip(name, node, whole) {
  return element(
    "div",
    { "data-tooltip": true, style: TOOLTIP_STYLE },
    element("strong", {}, isolated(shortened(name, 80))),
    element("div", {}, `${formatBytes(node.bytes)}, ${((100 * node.bytes) / whole.bytes).toFixed(1)} % of required`),
  );
}

/* The way to what is shown, and its parts: what the chart says, for a keyboard. */
function fillCrumbs(place, root, paint) {
  const way = [];
  for (let node = root; node; node = node.parent) way.unshift(node);
  const button = (node, more) => {
    const made = element("button", { type: "button" }, isolated(shortened(node.name, 40)), more);
    made.addEventListener("click", () => paint(node));
    return made;
  };
  const trail = element("ol", { class: "trail" });
  for (const node of way) {
    const last = node === root;
    trail.append(element("li", {}, last ? element("strong", { "aria-current": "true" }, isolated(shortened(node.name, 40)), ` ${formatBytes(node.bytes)}`) : button(node, "")));
  }
  const inside = element("ul", { class: "inside" });
  for (const child of childrenOf(root).filter((one) => one.children.size).slice(0, 8)) inside.append(element("li", {}, button(child, ` ${formatBytes(child.bytes)}`)));
  place.replaceChildren(trail, inside);
}
