// A clip's answer in words.

import { byId, called, clock, coloured, el, inOrder, show, signed, spaced } from "./dom.js";
import { alsoIn, best, changed, code, sure } from "./tree.js";

// The answer itself; `about`: the server's model.
export function headline(answer, about) {
  const path = best(answer.categories), leaf = path.at(-1);
  const { name, seconds, modalities } = answer;
  byId("name").textContent = [name, clock(seconds), inOrder(modalities).map(called).join(" and ")].join(" · ");
  document.title = leaf ? `${answer.unsure ? "Not sure" : leaf.name} · ${name} · Counterpoint` : "Counterpoint";
  byId("best").replaceChildren(...headed(path, answer.unsure));
  byId("best").classList.toggle("unsure", answer.unsure);
  show(byId("unlike"), answer.unlike);
  const also = alsoIn(answer.categories, path).slice(0, 4);
  show(byId("also"), also.length > 0);
  const named = also.map(each => `${spaced(each.path)} ${each.probability.toFixed(2)}`);
  byId("also").textContent = `Also ${named.join(", ")}`;
  byId("verdict").replaceChildren(...verdict(answer, about));
  show(byId("notes"), answer.notes.length > 0);
  byId("notes").replaceChildren(...answer.notes.map(note => el("li", {}, note)));
}

function headed(path, unsure) {
  const leaf = path.at(-1);
  if (!leaf) return ["Nothing"];
  const above = path.slice(0, -1).map(category => `${category.name} › `).join("");
  return [
    el("span", { class: "above" }, unsure ? `Not sure; perhaps ${above}` : above),
    el("span", { class: "leaf" }, leaf.name), " ",
    el("span", { class: "figures" }, el("span", { class: "number" }, leaf.probability.toFixed(2)), " ", code(leaf)),
  ];
}

// Whether sound and picture belong together.
function verdict({ correlation, modalities }, { tower, tower_auc: auc }) {
  const probability = correlation["audio and video"];
  const unknown = reason => [el("span", { class: "dim" }, reason)];
  if (!tower) {
    return unknown("Whether sound and picture belong together is unknown: this model has no correlation tower.");
  }
  if (auc && auc.low <= 0.5) {
    const [value, low, high] = [auc.value, auc.low, auc.high].map(figure => figure.toFixed(2));
    return unknown("Whether sound and picture belong together is unknown: this model's correlation tower is no better "
      + `than chance (AUC ${value} [${low}, ${high}]).`);
  }
  const missing = ["audio", "video"].find(modality => !modalities.includes(modality));
  if (missing) return unknown(`There is no ${called(missing)}, so nothing to belong together.`);
  if (probability === undefined) return [];
  const words = probability >= 0.6 ? "belong together" : probability > 0.4 ? "may or may not belong together" : "do not belong together";
  return [`Sound and picture ${words}:\u00a0`, el("b", { class: "number" }, probability.toFixed(2))];
}

// The most attended seconds of each modality; `seek` goes to one.
export function attended(explanation, seek) {
  return inOrder(Object.keys(explanation.timelines)).map(modality => ofOne(explanation, modality, seek)).filter(Boolean);
}

function ofOne(explanation, modality, seek) {
  const seconds = explanation.attended.filter(each => each.modality === modality);
  if (!seconds.length || explanation.timelines[modality].present.length < 2) return null;
  const item = each => el("li", {}, el("button", {
    type: "button",
    "aria-label": `Go to ${clock(each.second)}, ${Math.round(100 * each.share)} % of the strongest weight`,
    on: { click: () => seek(each.second) },
  }, each.thumbnail && el("img", { src: each.thumbnail, alt: "" }),
  el("span", { class: "number" }, clock(each.second)),
  el("i", { class: coloured(modality), style: { "--share": each.share }, "aria-hidden": "true" })));
  return el("section", {}, el("h3", { class: coloured(modality) }, `Where the ${called(modality)} counts most`),
    el("ol", {}, ...seconds.map(item)));
}

// What the clip would be without a modality, or with that of another clip.
export function outcome(categories, modality, other, changes) {
  const was = best(categories).at(-1), path = best(changed(categories, changes));
  const now = path.at(-1);
  const how = other ? `With the ${called(modality)} of ${other.name}` : `Without its ${called(modality)}`;
  const change = changes.get(was.id);
  const kept = was.id === now.id;
  const fate = `${was.name} ${was.probability.toFixed(2)} becomes ${(was.probability + change).toFixed(2)}`;
  const verb = sure(path) ? `it would ${kept ? "still " : ""}be` : "it is hard to say what it is, at best";
  return [
    `${how} ${verb} `, el("b", {}, spaced(now.path)),
    ` ${now.probability.toFixed(2)}${kept ? ` (${signed(change)})` : `; ${fate}`}.`,
  ];
}
