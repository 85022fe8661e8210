// One clip: its labels, the model's predictions, and the explanation.

import { byId, called, capital, coloured, el, signed } from "./dom.js";
import { Timeline } from "./timeline.js";

const PAIR = "audio and video";
const VERDICTS = { right: "✓ right", partly: "◐ partly right", wrong: "✗ wrong", unsure: "? unsure" };

// A path whose last name, the most specific one, is set apart.
function path(text) {
  const at = text.lastIndexOf(":") + 1;
  return el("span", { class: "path" }, el("span", { class: "top" }, text.slice(0, at).replaceAll(":", " › ")), text.slice(at));
}

const name = pair => (pair === PAIR ? "sound and picture" : pair.split(" and ").map(called).join(" and "));

// Odd are labels that are no answer of the model, and answers that are not among the labels.
export function categories(listed, by) {
  if (!listed.length) return el("p", { class: "dim" }, "none");
  return el("ul", {}, ...listed.map(({ path: text, probability, true: truth, answered }) => {
    const odd = by === "truth" ? !answered : answered && !truth;
    const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("i", { style: { "--kept": probability } }));
    const note = by === "truth" ? (odd ? "the model does not name it" : "") : truth ? "true" : odd ? "not in the labels" : "";
    return el("li", { class: `${truth ? "yes" : ""} ${odd ? "odd" : ""}`, title: note },
      path(text), bar, el("span", { class: "number value" }, probability.toFixed(2), el("span", { class: "unseen" }, `, ${note}`)));
  }));
}

export function figures(clip) {
  const figure = (what, value) => el("span", { class: "figure" }, `${what} `, el("b", {}, value));
  const verdict = VERDICTS[clip.verdict] ?? "no labels";
  const at = clip.level === null ? "" : ` at level ${clip.level}`;
  return [
    el("span", { class: `verdict ${clip.verdict ?? ""}` }, verdict + at),
    figure("loss", clip.loss.toFixed(4)),
    figure("surprise", clip.surprise.toFixed(2)),
    ...Object.entries(clip.correlation).map(([pair, value]) =>
      figure(pair === PAIR ? "correlation" : name(pair), value === null ? "one is missing" : value.toFixed(2))),
  ];
}

// A record's own id links to the data set's site, which maps it to YouTube's.
export const watched = clip => clip.link && el("a", { class: "watch", href: clip.link, target: "_blank", rel: "noopener noreferrer" },
  clip.link.includes("youtube.com") ? "YouTube" : "YouTube id", el("span", { class: "unseen" }, ` of ${clip.id}, another site`));

export function openClip(host, clip, steps, ask) {
  const why = el("section", { id: "why" }, el("h2", {}, "Why"), el("p", { class: "dim" }, "Computing ..."));
  host.replaceChildren(steps,
    el("h1", { id: "clip-name", tabindex: "-1" }, clip.id),
    el("p", { class: "facts" }, ...figures(clip), el("span", { class: "figure" }, `${clip.shard}, record ${clip.record}`), watched(clip)),
    el("div", { class: "pair listed" },
      el("div", {}, el("h2", {}, "Labels"), categories(clip.truth, "truth")),
      el("div", {}, el("h2", {}, "Model"), categories(clip.predictions, "model"))),
    why);
  byId("live").textContent = `Clip ${clip.id}`;
  ask(`v1/clips/${clip.number}/explanation`).then(explanation => explain(why, explanation),
    error => why.replaceChildren(el("h2", {}, "Why"), el("p", { class: "problem-line" }, error.message)));
}

function explain(why, explanation) {
  if (!why.isConnected) return;
  const timeline = el("div", { id: "timeline", role: "slider", tabindex: "0", "aria-label": "Second of the clip", "aria-valuemin": "0" });
  const readout = el("p", { id: "readout", class: "number" });
  const row = Object.values(explanation.timelines)[0]?.row ?? "row", seconds = Object.values(explanation.timelines).some(one => one.present.length > 1);
  const weights = el("section", { id: "weights" }, el("h2", {}, "Weights in the last layer"), el("p", { class: "dim" }, seconds
    ? `Each line is one ${row}, from left to right by second; the stronger its colour, the larger its weight, and red is negative.`
    : `Each bar is one ${row}'s weight; the mark is the weight before the other modality's influence.`));
  why.replaceChildren(el("h2", {}, "What would change the answer"), changes(explanation), el("section", {}, el("h2", {}, "Over time"), timeline, readout), weights);
  const line = new Timeline(timeline, readout, at => line.place(at));
  if (!line.load(explanation)) timeline.parentElement.replaceChildren(el("h2", {}, "Over time"),
    el("p", { class: "dim" }, "This record is one mean over the whole video, so there is no time to show."));
  for (const [modality, one] of Object.entries(explanation.timelines)) {
    weights.append(el("h3", { class: coloured(modality) }, capital(called(modality))),
      one.numbers.length ? (one.present.length > 1 ? heat(one) : units(one, modality)) : el("p", { class: "dim" }, "This clip has none."));
  }
}

function changes(explanation) {
  const what = Object.keys(explanation.changes);
  const words = text => text.replace(/^without (\w+)$/, (_, modality) => `without ${called(modality)}`);
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Category"), el("th", { scope: "col" }, "as it is"), ...what.map(one => el("th", { scope: "col" }, words(one))))),
    el("tbody", {}, ...explanation.categories.map((category, i) => el("tr", {}, el("th", { scope: "row" }, path(category.path)),
      el("td", {}, category.probability.toFixed(2)), ...what.map(one => el("td", {}, signed(explanation.changes[one][i]))))))));
}

// Rows (clusters, heads or units) by second, as dark as their weights.
function heat(one) {
  const influenced = one.rows.influence.some(row => row.some(value => value));
  const shown = influenced ? [["before", "before"], ["influence", "influence"], ["after", "after"]] : [["after", "weights"]];
  const largest = rows => Math.max(...rows.flat().map(Math.abs), 1e-9);
  const scale = { before: largest([...one.rows.before, ...one.rows.after]), influence: largest(one.rows.influence) };
  return el("div", { class: "heat" }, ...shown.map(([part, text]) => {
    const rows = one.rows[part], canvas = el("canvas", { role: "img", "aria-label": `${text}: ${rows.length} ${one.row}s by second` });
    canvas.width = one.present.length;
    canvas.height = rows.length;
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink"), less = getComputedStyle(document.documentElement).getPropertyValue("--bad");
    const paper = canvas.getContext("2d");
    rows.forEach((row, y) => row.forEach((value, x) => {
      if (!one.present[x]) return;
      paper.globalAlpha = Math.min(1, Math.abs(value) / (scale[part] ?? scale.before));
      paper.fillStyle = value < 0 ? less : ink;
      paper.fillRect(x, y, 1, 1);
    }));
    return el("figure", {}, canvas, el("figcaption", {}, text));
  }));
}

const digits = value => value.toFixed(3).replace("-", "−");

// The same where there is one step: a bar for each, with a mark where it was before the other's influence.
function units(one, modality) {
  const value = (part, i) => one.rows[part][i][0];
  const largest = Math.max(...one.numbers.map((_, i) => Math.max(Math.abs(value("after", i)), Math.abs(value("before", i)))), 1e-9);
  return el("ul", { class: `units ${coloured(modality)}` }, ...one.numbers.map((number, i) => el("li", { title: `${one.row} ${number}` },
    el("span", { class: "dim number" }, number),
    el("span", { class: "bar", "aria-hidden": "true", style: { "--kept": Math.abs(value("after", i)) / largest, "--was": Math.abs(value("before", i)) / largest } },
      el("i", {}), el("b", {})),
    el("span", { class: "number" }, `${digits(value("before", i))} → ${digits(value("after", i))}`))));
}
