// Small helpers around the document. Text is always set as text: nothing here makes HTML out of anything.

export const $ = (id) => document.getElementById(id);

/** Make an element; `properties` are the element's own, except `class`, `data` and whatever has a hyphen. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Make one of the page's icons. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const use = document.createElementNS(space, "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export const count = (number) => number.toLocaleString("en");

export const counted = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

export const bytes = (number) => {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (number >= 999.5 && unit < units.length - 1) [number, unit] = [number / 1000, unit + 1];
  return `${number >= 99.5 || unit === 0 ? Math.round(number) : number.toPrecision(2)} ${units[unit]}`;
};

/** Call `run` once `quiet_ms` have passed without a further call. */
export function debounced(run, quiet_ms) {
  let timer;
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(run, quiet_ms);
  };
  later.now = () => {
    clearTimeout(timer);
    run();
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}
