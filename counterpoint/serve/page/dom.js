// Elements and words. Names from files and from the server become text, never markup.

export const byId = id => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name in HANDLED) HANDLED[name](element, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined && child !== false));
  return element;
}

const HANDLED = {
  on: (element, events) => Object.entries(events).forEach(event => element.addEventListener(...event)),
  style: (element, values) => Object.entries(values).forEach(value => element.style.setProperty(...value)),
};

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

export function show(element, shown = true) {
  element.hidden = !shown;
}

const NAMES = { video: "picture", audio: "sound", text: "words", joined: "picture and sound" };
const ORDER = Object.keys(NAMES);
const place = name => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
export const called = modality => NAMES[modality] ?? modality;
export const coloured = modality => (ORDER.includes(modality) ? modality : "joined");
export const spaced = path => path.replaceAll(":", " › ");
export const capital = text => text[0].toUpperCase() + text.slice(1);

export const inOrder = names => [...names].sort((a, b) => place(a) - place(b));

export const signed = change => `${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(2)}`;

export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

export function duration(seconds) {
  const [amount, unit] = seconds < 120 ? [Math.round(seconds), "second"] : [Math.round(seconds / 60), "minute"];
  return `${amount} ${unit}${amount === 1 ? "" : "s"}`;
}

export const size = bytes => (bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${Math.round(bytes / 1e6)} MB`);
