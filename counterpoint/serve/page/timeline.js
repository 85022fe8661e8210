// The weights of each modality before and after influence, and the correlation, by second; a slider over time.

import { called, capital, clock, coloured, el, inOrder, show, svg } from "./dom.js";

const TALL = 46, LABEL = 20, GAP = 12, AXIS = 22; // px
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];

const finite = values => values.filter(value => value !== null);

// A line of steps, each a second wide, with gaps where there is no value; closed down to `floor` if that is given.
function steps(values, x, y, floor = null) {
  let line = "", drawing = false;
  values.forEach((value, second) => {
    if (value === null) drawing = false;
    else {
      const start = floor === null ? `M${x(second)} ${y(value)}` : `M${x(second)} ${floor}V${y(value)}`;
      line += `${drawing ? `V${y(value)}` : start}H${x(second + 1)}`;
      drawing = true;
      const last = values[second + 1] === null || second + 1 === values.length;
      if (floor !== null && last) line += `V${floor}Z`;
    }
  });
  return line;
}

function lanesOf(explanation) {
  const lanes = inOrder(Object.keys(explanation.timelines)).map(name => {
    const { present, before, after } = explanation.timelines[name];
    const masked = values => values.map((value, second) => (present[second] ? value : null));
    const lane = { name: called(name), colour: coloured(name), before: masked(before), after: masked(after) };
    lane.highest = Math.max(...finite([...lane.before, ...lane.after]), 1e-9);
    lane.influenced = before.some((value, second) => present[second] && Math.abs(value - after[second]) > 1e-6 * lane.highest);
    return lane;
  });
  for (const [pair, values] of Object.entries(explanation.per_second)) {
    if (!finite(values).length) continue;
    const [modality, alone] = [pair.replace(" with all seconds", ""), pair.endsWith(" with all seconds")];
    const both = pair === "audio and video" ? "belong together" : pair.split(" and ").map(called).join(" and ");
    const name = alone ? `${called(modality)} belongs` : both;
    lanes.push({ name, colour: "together", after: values, before: [], highest: 1 });
  }
  return lanes;
}

export class Timeline {
  constructor(host, readout, seek) {
    Object.assign(this, { host, readout, seek, seconds: 0, at: 0, lanes: [] });
    new ResizeObserver(() => this.draw()).observe(host);
    host.addEventListener("pointerdown", event => this.press(event));
    host.addEventListener("pointermove", event => (event.buttons ? this.drag(event) : this.hover(event)));
    host.addEventListener("pointerleave", () => this.hover(null));
    host.addEventListener("keydown", event => this.key(event));
  }

  // Whether there is anything to draw.
  load(explanation) {
    this.lanes = lanesOf(explanation);
    this.seconds = Math.max(0, ...this.lanes.map(lane => lane.after.length));
    this.at = 0;
    const drawn = this.seconds > 1;
    show(this.host, drawn);
    show(this.readout, drawn);
    if (!drawn) return false;
    this.host.setAttribute("aria-valuemax", this.seconds - 1);
    this.draw();
    this.place(0);
    return true;
  }

  get influenced() {
    return this.lanes.some(lane => lane.influenced);
  }

  draw() {
    const width = this.host.clientWidth, { lanes, seconds } = this;
    if (!width || seconds < 2) return;
    const x = second => Math.round((second / seconds) * width * 100) / 100;
    const height = lanes.length * (LABEL + TALL + GAP) - GAP + AXIS;
    const place = number => number * (LABEL + TALL + GAP);
    const parts = lanes.flatMap((lane, number) => this.lane(lane, place(number), x, width));
    const labels = lanes.map((lane, number) =>
      svg("text", { class: `label ${lane.colour}`, y: place(number) + 13 }, capital(lane.name)));
    const step = STEPS.find(step => (step / seconds) * width > 52) ?? STEPS.at(-1);
    for (let second = 0; second < seconds; second += step) {
      const left = x(second);
      parts.push(svg("line", { x1: left + 0.5, x2: left + 0.5, y1: height - AXIS, y2: height - AXIS + 4 }));
      if (left > width - 16) continue;
      const anchor = second ? "middle" : "start";
      parts.push(svg("text", { class: "axis", x: left, y: height - 4, "text-anchor": anchor }, clock(second)));
    }
    this.ghost = svg("rect", { class: "ghost", y: 0, height: height - AXIS, width: x(1), visibility: "hidden" });
    this.head = svg("line", { class: "head", y1: 0, y2: height - AXIS });
    this.host.replaceChildren(svg("svg", { width, height, "aria-hidden": "true" }, this.ghost, ...parts, this.head, ...labels));
    this.place(this.at);
  }

  lane(lane, top, x, width) {
    const floor = top + LABEL + TALL;
    const y = value => Math.round((floor - (value / lane.highest) * (TALL - 2)) * 100) / 100;
    const missing = lane.after.map(value => (value === null ? 1 : null));
    const parts = [
      svg("path", { class: "missing", d: steps(missing, x, () => floor - TALL, floor) }),
      svg("line", { class: "floor", x1: 0, x2: width, y1: floor + 0.5, y2: floor + 0.5 }),
    ];
    if (lane.colour === "together") {
      parts.push(svg("line", { class: "half", x1: 0, x2: width, y1: y(0.5), y2: y(0.5) }));
    } else parts.push(svg("path", { class: `area ${lane.colour}`, d: steps(lane.after, x, y, floor) }));
    if (lane.influenced) parts.push(svg("path", { class: "before", d: steps(lane.before, x, y) }));
    parts.push(svg("path", { class: `after ${lane.colour}`, d: steps(lane.after, x, y) }));
    return parts;
  }

  // The playhead, in seconds.
  place(at) {
    this.at = Math.min(Math.max(at, 0), this.seconds);
    if (!this.head) return;
    const left = (this.at / this.seconds) * this.host.clientWidth;
    this.head.setAttribute("x1", left);
    this.head.setAttribute("x2", left);
    const second = Math.min(Math.floor(this.at), this.seconds - 1);
    if (second === this.announced && this.hovered === undefined) return;
    this.announced = second;
    this.host.setAttribute("aria-valuenow", second);
    this.host.setAttribute("aria-valuetext", `${clock(second)}: ${this.words(second).map(part => part.text).join(", ")}`);
    if (this.hovered === undefined) this.read(second);
  }

  words(second) {
    return this.lanes.map(lane => {
      const [now, was] = [lane.after[second], lane.before[second]];
      const value = now === null || now === undefined ? "none"
        : now.toFixed(2) + (lane.influenced ? ` (${was.toFixed(2)} before)` : "");
      return { text: `${lane.name} ${value}`, colour: lane.colour };
    });
  }

  read(second) {
    const words = this.words(second).map(part => el("span", { class: part.colour }, part.text));
    this.readout.replaceChildren(el("b", {}, clock(second)), ...words);
  }

  second(event) {
    const { left, width } = this.host.getBoundingClientRect();
    return Math.min(Math.max(((event.clientX - left) / width) * this.seconds, 0), this.seconds - 0.01);
  }

  press(event) {
    if (event.button) return;
    this.host.setPointerCapture(event.pointerId);
    this.hover(null);
    this.seek(this.second(event));
  }

  drag(event) {
    if (this.host.hasPointerCapture(event.pointerId)) this.seek(this.second(event));
  }

  hover(event) {
    const second = event && event.pointerType === "mouse" ? Math.floor(this.second(event)) : undefined;
    if (second === this.hovered || !this.ghost) return;
    this.hovered = second;
    this.ghost.setAttribute("visibility", second === undefined ? "hidden" : "visible");
    if (second !== undefined) this.ghost.setAttribute("x", (second / this.seconds) * this.host.clientWidth);
    this.read(second ?? Math.min(Math.floor(this.at), this.seconds - 1));
  }

  key(event) {
    const second = Math.floor(this.at), far = 10;
    const to = { ArrowRight: second + 1, ArrowUp: second + 1, ArrowLeft: second - 1, ArrowDown: second - 1,
      PageUp: second + far, PageDown: second - far, Home: 0, End: this.seconds - 1 }[event.key];
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.seek(Math.min(Math.max(to, 0), this.seconds - 1));
  }
}
