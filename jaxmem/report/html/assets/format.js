/* Sizes and names for people, and elements whose text is only ever text. */
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

function formatBytes(size) {
  let value = Math.abs(size), unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 ? 0 : value < 100 ? 2 : 1;
  return `${size < 0 ? "-" : ""}${value.toFixed(digits)} ${UNITS[unit]}`;
}

function formatDifference(size) {
  return size > 0 ? `+${formatBytes(size)}` : formatBytes(size);
}

const formatCount = (number) => number.toLocaleString("en");
const spaced = (name) => name.replaceAll("_", " ");
const fileName = (source) => source.replaceAll("\\", "/").split("/").pop();

/* Both ends of a name tell it apart. */
function shortened(text, width) {
  if (text.length <= width) return text;
  const head = Math.floor((width - 1) / 2);
  return `${text.slice(0, head)}…${text.slice(text.length - (width - 1 - head))}`;
}

/* An element with attributes and children; a child that is a text cannot become anything else. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/* A name of the program: its direction of writing ends with it. */
const isolated = (text) => element("bdi", {}, text);

const roleSwatch = (role) => element("span", { class: `swatch role-${role.replaceAll("_", "-")}`, "aria-hidden": "true" });

const styleOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
