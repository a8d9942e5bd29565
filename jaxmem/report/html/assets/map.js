/* The step from left to right: which pass, which buffer lies where, how many bytes by role. Drawn by Bokeh. */
const leftBorder = () => (isPhone() ? 52 : 78);
const MOST_SAMPLES = 1200;

const isPhone = () => matchMedia("(max-width: 640px)").matches;
const isTouched = () => matchMedia("(pointer: coarse)").matches;

function plainFigure(options) {
  const ink = styleOf("--ink-2"), line = styleOf("--line");
  const plot = Bokeh.Plotting.figure({
    sizing_mode: "stretch_width", toolbar_location: null, output_backend: "canvas", tools: [],
    background_fill_color: styleOf("--surface"), border_fill_color: null, outline_line_color: line,
    min_border_left: leftBorder(), min_border_right: 10, min_border_top: 6, min_border_bottom: 6,
    ...options,
  });
  for (const axis of [plot.xaxis, plot.yaxis]) {
    Object.assign(axis, {
      axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: null, major_label_text_color: ink,
      axis_label_text_color: ink, axis_label_text_font_style: "normal", axis_label_text_font_size: "12px",
      major_label_text_font_size: "11px", major_label_text_font: "system-ui", axis_label_text_font: "system-ui",
    });
  }
  for (const grid of [plot.xgrid, plot.ygrid]) Object.assign(grid, { grid_line_color: line, grid_line_alpha: 0.6 });
  return plot;
}

function byteAxis(axis) {
  axis.formatter = new Bokeh.NumeralTickFormatter({ format: "0.[00] ib" });
  axis.ticker = new Bokeh.AdaptiveTicker({ base: 1024, mantissas: [1, 2, 4, 8, 16, 32, 64, 128, 256, 512], desired_num_ticks: 5 });
}

function peakLine(plot, report) {
  plot.add_layout(new Bokeh.Span({
    location: report.peak + 0.5, dimension: "height", line_color: styleOf("--ink"), line_dash: [5, 4], line_width: 1.5,
  }));
}

function roleColours(data) {
  return data.roles.map((role) => styleOf(`--role-${role.replaceAll("_", "-")}`));
}

/* The hatching of the roles that have one, over boxes already drawn: one glyph for each pattern, since a pattern by box takes
   a canvas by box. `columns` hold the edges, `roles` the role of each box. Returns what draws it anew. */
function hatched(plot, data, alpha) {
  const sources = new Map();
  for (const pattern of new Set(data.hatches.filter(Boolean))) {
    const source = new Bokeh.ColumnDataSource({ data: { left: [], right: [], bottom: [], top: [] } });
    plot.quad({ field: "left" }, { field: "right" }, { field: "bottom" }, { field: "top" }, {
      source, fill_color: null, line_color: null, hatch_pattern: pattern, hatch_color: styleOf("--surface"),
      hatch_alpha: alpha, hatch_scale: 8,
    });
    sources.set(pattern, source);
  }
  return (columns, roles) => sources.forEach((source, pattern) => {
    const own = Array.from(roles.keys()).filter((place) => data.hatches[roles[place]] === pattern);
    source.data = Object.fromEntries(
      ["left", "right", "bottom", "top"].map((edge) => [edge, own.map((place) => columns[edge][place])]),
    );
  });
}

function hover(tooltips, options = {}) {
  return new Bokeh.HoverTool({ tooltips, show_arrow: false, ...options });
}

/* Three lanes: where values of the forward pass, the backward pass and the update are made. */
function phaseStrip(data, report, xRange) {
  const lanes = ["update", "backward", "forward"];
  const names = isPhone() ? { update: "upd.", backward: "backw.", forward: "forw." } : {};
  const plot = plainFigure({ height: 92, x_range: xRange, y_range: new Bokeh.Range1d({ start: 0, end: 4 }) });
  const runs = phaseRuns(report).filter(([phase]) => lanes.includes(data.phases[phase]));
  const lane = (run) => lanes.indexOf(data.phases[run[0]]);
  plot.quad({
    left: runs.map((run) => run[1]), right: runs.map((run) => run[2]),
    bottom: runs.map((run) => lane(run) + 0.12), top: runs.map((run) => lane(run) + 0.88),
    fill_color: runs.map((run) => styleOf(`--phase-${data.phases[run[0]]}`)), line_color: null,
  });
  plot.xaxis.visible = false;
  plot.ygrid.visible = false;
  plot.yaxis.ticker = new Bokeh.FixedTicker({ ticks: [0.5, 1.5, 2.5], minor_ticks: [] });
  plot.yaxis.major_label_overrides = new Map(lanes.map((name, place) => [place + 0.5, names[name] ?? name]));
  plot.add_layout(new Bokeh.Label({
    x: report.peak + 0.5, y: 4, text: "peak", x_offset: report.peak > report.length * 0.8 ? -5 : 5, text_font_size: "12px",
    text_align: report.peak > report.length * 0.8 ? "right" : "left", text_baseline: "top", text_font_style: "bold",
    text_color: styleOf("--ink"), text_font: "system-ui",
  }));
  peakLine(plot, report);
  return plot;
}

function boxPlot(data, report, { boxes, total }, xRange, choose) {
  const yRange = new Bokeh.Range1d({ start: 0, end: total });
  const plot = plainFigure({ height: isPhone() ? 300 : 430, x_range: xRange, y_range: yRange });
  const role = boxes.buffer.map((buffer) => report.buffers.role[buffer]);
  const colours = roleColours(data), surface = styleOf("--surface");
  const source = new Bokeh.ColumnDataSource({
    data: {
      left: boxes.left, right: boxes.right, bottom: boxes.bottom, top: boxes.top, buffer: boxes.buffer,
      colour: role.map((one) => colours[one]),
    },
  });
  const look = {
    fill_color: { field: "colour" }, line_color: surface, line_width: boxes.buffer.length > 3000 ? 0 : 0.5,
  };
  const quads = plot.quad({ field: "left" }, { field: "right" }, { field: "bottom" }, { field: "top" }, {
    source, ...look, nonselection_fill_alpha: 1, nonselection_line_color: surface, selection_line_color: styleOf("--ink"),
    selection_line_width: 2.5, hover_line_color: styleOf("--ink"), hover_line_width: 1.5,
  });
  hatched(plot, data, 0.55)(boxes, role);
  const ring = new Bokeh.ColumnDataSource({ data: { x: [], y: [] } });
  plot.scatter({ field: "x" }, { field: "y" }, {
    source: ring, size: 22, fill_color: null, line_color: styleOf("--ink"), line_width: 2.5,
  });
  plot.add_tools(
    hover((from, at) => tooltip(bufferFacts(data, report, from.data.buffer[at.index])), { renderers: [quads] }),
    new Bokeh.TapTool({ renderers: [quads] }),
  );
  source.selected.change.connect(() => {
    const [first] = source.selected.indices;
    if (first !== undefined) choose(boxes.buffer[first]);
  });
  plot.yaxis.axis_label = isPhone() ? null : "address";
  byteAxis(plot.yaxis);
  plot.xaxis.visible = false;
  peakLine(plot, report);
  const mark = (buffer) => {
    const own = Array.from(boxes.buffer.keys()).filter((place) => boxes.buffer[place] === buffer);
    const now = source.selected.indices;
    if (own.length !== now.length || own.some((place) => !now.includes(place))) source.selected.indices = own;
    const [largest] = own;
    ring.data = largest === undefined ? { x: [], y: [] } : {
      x: [(boxes.left[largest] + boxes.right[largest]) / 2], y: [(boxes.bottom[largest] + boxes.top[largest]) / 2],
    };
  };
  return { plot, yRange, mark };
}

/* So few samples that drawing is quick, each the largest moment of its part of what is shown. */
function sampled(live, from, to) {
  const first = Math.max(0, Math.floor(from)), past = Math.min(live.sum.length, Math.ceil(to));
  const stride = Math.max(1, Math.ceil((past - first) / MOST_SAMPLES));
  const x = [], at = [];
  for (let start = first; start < past; start += stride) {
    let most = start;
    for (let i = start; i < Math.min(past, start + stride); i += 1) if (live.sum[i] > live.sum[most]) most = i;
    x.push(start);
    at.push(most);
  }
  x.push(past);
  at.push(at.at(-1) ?? 0);
  return { x, at };
}

function livePlot(data, report, live, xRange) {
  const most = live.sum.reduce((a, b) => Math.max(a, b), 0);
  const top = Math.max(most, report.reserved) * 1.06 || 1;
  const plot = plainFigure({
    height: isPhone() ? 190 : 220, x_range: xRange, y_range: new Bokeh.Range1d({ start: 0, end: top }),
  });
  const colours = roleColours(data), roles = [...live.byRole.keys()];
  const columns = () => {
    const { x, at } = sampled(live, xRange.start, xRange.end);
    const filled = { x, at };
    let below = new Float64Array(at.length);
    for (const role of roles) {
      const values = live.byRole.get(role);
      const above = below.map((bytes, place) => bytes + values[at[place]]);
      filled[`from${role}`] = below;
      filled[`to${role}`] = above;
      below = above;
    }
    filled.sum = below;
    return filled;
  };
  const source = new Bokeh.ColumnDataSource({ data: columns() });
  for (const role of roles) {
    plot.varea_step({ field: "x" }, { field: `from${role}` }, { field: `to${role}` }, "after", {
      source, fill_color: colours[role], hatch_pattern: data.hatches[role] || null,
      hatch_color: styleOf("--surface"), hatch_alpha: 0.55, hatch_scale: 8,
    });
  }
  const edge = plot.step({ field: "x" }, { field: "sum" }, "after", { source, line_color: styleOf("--ink"), line_width: 1 });
  plot.add_layout(new Bokeh.Span({ location: report.reserved, dimension: "width", line_color: styleOf("--ink-2"), line_dash: [2, 3] }));
  plot.add_tools(hover((from, vars) => momentTooltip(data, live, from.data.at[vars.index]), {
    renderers: [edge], mode: "vline", line_policy: "prev", attachment: "horizontal",
  }));
  let waiting = 0;
  const again = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { source.data = columns(); }, 60);
  };
  xRange.properties.start.change.connect(again);
  xRange.properties.end.change.connect(again);
  plot.xaxis.axis_label = isPhone() ? "position in the schedule" : "position in the schedule: the instructions in program order";
  plot.yaxis.axis_label = isPhone() ? null : "live bytes";
  byteAxis(plot.yaxis);
  peakLine(plot, report);
  return plot;
}

function momentTooltip(data, live, at) {
  const parts = [...live.byRole.entries()].map(([role, bytes]) => [data.roles[role], bytes[at]]).filter((part) => part[1] > 0);
  parts.sort((a, b) => b[1] - a[1]);
  const made = element("div", { "data-tooltip": true, style: TOOLTIP_STYLE });
  made.append(element("strong", {}, `position ${formatCount(at)}: ${formatBytes(live.sum[at])}`));
  for (const [role, bytes] of parts.slice(0, 6)) {
    const colour = styleOf(`--role-${role.replaceAll("_", "-")}`);
    const square = element("span", { style: `display:inline-block;width:10px;height:10px;background:${colour}` });
    made.append(element("div", {}, square, ` ${spaced(role)} ${formatBytes(bytes)}`));
  }
  return made;
}

/* The whole chart. Returns what the rest of the page can do with it. */
async function drawMap(place, tools, data, report, choose) {
  const cut = occupancy(report);
  const live = timeline(report, cut.boxes);
  const xRange = new Bokeh.Range1d({ start: 0, end: report.length });
  const map = boxPlot(data, report, cut, xRange, choose);
  const plots = [phaseStrip(data, report, xRange), map.plot, livePlot(data, report, live, xRange)];
  if (!isTouched()) {
    const zoom = new Bokeh.BoxZoomTool({ dimensions: "auto" });
    map.plot.add_tools(zoom);
    map.plot.toolbar.active_drag = zoom;
  }
  place.replaceChildren();
  const view = await Bokeh.Plotting.show(new Bokeh.Column({ children: plots, sizing_mode: "stretch_width", spacing: 2 }), place);
  const show = (from, to) => {
    const width = Math.min(Math.max(to - from, 4), report.length);
    const start = Math.max(0, Math.min(from, report.length - width));
    Object.assign(map.yRange, { start: 0, end: cut.total });
    xRange.setv({ start, end: start + width });
  };
  fillTools(tools, data, report, show, xRange);
  place.dataset.peak = report.peak;
  place.dataset.peakBytes = live.sum[report.peak] ?? 0;
  return { mark: map.mark, show, view };
}

function fillTools(tools, data, report, show, xRange) {
  const button = (text, act, label) => {
    const made = element("button", { type: "button", ...(label ? { "aria-label": label } : {}) }, text);
    made.addEventListener("click", act);
    return made;
  };
  const part = (name) => {
    const runs = phaseRuns(report).filter(([phase]) => data.phases[phase] === name);
    if (!runs.length) return [];
    const from = Math.min(...runs.map((run) => run[1])), to = Math.max(...runs.map((run) => run[2]));
    return [button(name, () => show(from, to))];
  };
  const scale = (factor) => () => {
    const middle = (xRange.start + xRange.end) / 2, half = ((xRange.end - xRange.start) * factor) / 2;
    show(middle - half, middle + half);
  };
  const move = (share) => () => {
    const by = (xRange.end - xRange.start) * share;
    show(xRange.start + by, xRange.end + by);
  };
  tools.replaceChildren(
    button("whole step", () => show(0, report.length)),
    ...["forward", "backward", "update"].flatMap(part),
    button("around the peak", () => show(report.peak - report.length * 0.05, report.peak + report.length * 0.05)),
    button("−", scale(2), "zoom out"), button("+", scale(0.5), "zoom in"),
    button("←", move(-0.5), "earlier"), button("→", move(0.5), "later"),
  );
}
