// The answer: the best path, and the tree of all categories with their probabilities and changes.

import { el, show, signed } from "./dom.js";

const FAINT = 0.01; // less probable categories are shown on demand

const answered = category => category.probability >= category.threshold;

// Whether a category of the path reaches its threshold.
export const sure = path => path.some(answered);

// Categories as they are after changes, a map from ids.
export const changed = (categories, changes) => categories.map(category =>
  ({ ...category, probability: Math.min(1, Math.max(0, category.probability + (changes.get(category.id) ?? 0))) }));

function below(categories) {
  const children = new Map([[null, []]]);
  for (const category of categories) {
    if (!children.has(category.parent)) children.set(category.parent, []);
    children.get(category.parent).push(category);
  }
  for (const siblings of children.values()) siblings.sort((a, b) => b.probability - a.probability);
  return children;
}

// Whether a category or one below it reaches its threshold.
const leads = (category, children) => answered(category) || (children.get(category.id) ?? []).some(child => leads(child, children));

// From the top down to a most specific answer, each time by the most probable category that leads to one. Where there is
// no answer: by the most probable ones, while half of the top's probability is reached.
export function best(categories) {
  const children = below(categories), path = [], tops = children.get(null);
  const found = tops.some(top => leads(top, children)), enough = tops.length ? tops[0].probability / 2 : 0;
  const goes = category => (found ? leads(category, children) : category.probability >= enough);
  for (let next = tops.find(goes); next; next = (children.get(next.id) ?? []).find(goes)) path.push(next);
  return path;
}

// The most specific other answers.
export function alsoIn(categories, path) {
  const children = below(categories), taken = new Set(path.map(category => category.id));
  return categories.filter(category => answered(category) && !taken.has(category.id)
    && !(children.get(category.id) ?? []).some(child => leads(child, children)));
}

export const code = category => (category.iab ? el("span", { class: "code", title: "IAB Content Taxonomy 3.1" },
  `IAB ${category.iab}`) : null);

export class Tree {
  constructor(host, categories) {
    this.categories = categories;
    this.children = below(categories);
    this.lists = [];
    this.changes = null;
    this.details = new Map();
    host.replaceChildren(this.list(null));
    host.onkeydown = event => this.walk(event, host);
    this.open(best(categories));
  }

  list(parent) {
    const rows = this.children.get(parent).map(category => this.row(category));
    const more = el("button", { type: "button", class: "more" });
    const list = { rows, more, all: false, end: el("li", {}, more) };
    more.onclick = () => {
      const first = rows.find(row => row.item.hidden);
      list.all = true;
      this.update(list);
      first.item.querySelector("summary, .row").focus();
    };
    this.lists.push(list);
    this.update(list);
    return el("ul", {}, ...rows.map(row => row.item), list.end);
  }

  row(category) {
    const value = el("span", { class: "number value" }), change = el("span", { class: "number change" });
    const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("i", { class: "kept" }), el("i", { class: "difference" }));
    const name = el("span", { class: "name" }, category.name, " ", code(category));
    const parts = [name, bar, value, change];
    if (!this.children.has(category.id)) {
      return { category, value, change, bar, item: el("li", {}, el("div", { class: "row", tabindex: "-1" }, ...parts)) };
    }
    const details = el("details", {}, el("summary", { class: "row" }, ...parts));
    const fillIn = () => details.childElementCount === 1 && details.append(this.list(category.id));
    details.addEventListener("toggle", () => details.open && fillIn());
    this.details.set(category.id, { details, fillIn });
    return { category, value, change, bar, item: el("li", {}, details) };
  }

  update(list) {
    list.rows.forEach((row, place) => {
      const was = row.category.probability;
      const change = this.changes?.get(row.category.id) ?? 0;
      const now = Math.min(1, Math.max(0, was + change));
      row.value.textContent = now.toFixed(2);
      row.change.textContent = this.changes && Math.abs(change) >= 0.005 ? signed(change) : "";
      row.bar.style.setProperty("--kept", Math.min(was, now));
      row.bar.style.setProperty("--difference", Math.abs(change));
      row.bar.classList.toggle("lost", change < 0);
      show(row.item, list.all || place < 1 || Math.max(was, now) >= FAINT);
    });
    const hidden = list.rows.filter(row => row.item.hidden).length;
    list.more.textContent = `${hidden} more below ${FAINT}`;
    show(list.end, hidden > 0);
  }

  open(path) {
    for (const category of path) {
      const found = this.details.get(category.id);
      if (!found) continue;
      found.fillIn();
      found.details.open = true;
    }
  }

  // Changes by category's id, or null for the answer as it is.
  what(changes) {
    this.changes = changes;
    this.lists.forEach(list => this.update(list));
    if (changes) this.open(best(changed(this.categories, changes)));
  }

  walk(event, host) {
    if (!event.target.matches("summary")) return;
    const details = event.target.parentElement;
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      details.open = event.key === "ArrowRight";
      event.preventDefault();
    }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const lines = [...host.querySelectorAll("summary")].filter(line => line.checkVisibility());
    event.preventDefault();
    lines[lines.indexOf(event.target) + step]?.focus();
  }
}
