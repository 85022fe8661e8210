// The list of clips: filter and page stand in the address, so that it can be kept, sent and gone back to.

import { byId, el, show } from "./dom.js";
import { categories, figures, openClip, watched } from "./clip.js";

const SIZE = 25;
const FIELDS = ["role", "verdict", "level", "low", "high", "search"];
const form = document.querySelector("#filters form");
let about, latest = 0, timer, waiting = {};

const state = () => new URLSearchParams(location.search);

async function ask(path) {
  const answer = await fetch(path);
  const content = await answer.json();
  if (!answer.ok) throw new Error(typeof content.detail === "string" ? content.detail : answer.statusText);
  return content;
}

// Changes some parameters of the address; empty values are left out.
function go(changes, push = true) {
  const next = state();
  for (const [name, value] of Object.entries(changes)) {
    if (value === "" || value === null) next.delete(name);
    else next.set(name, value);
  }
  const address = `${location.pathname}${next.size ? `?${next}` : ""}`;
  if (address === location.pathname + location.search) return;
  history[push ? "pushState" : "replaceState"](null, "", address);
  showState();
}

function query() {
  const from = state(), to = new URLSearchParams();
  for (const name of ["category", ...FIELDS]) if (from.get(name)) to.set(name, from.get(name));
  const sort = from.get("sort") ?? "loss";
  to.set("sort", sort.replace("-", ""));
  if (sort.endsWith("-")) to.set("reverse", "true");
  return to;
}

async function showState() {
  const now = state(), request = ++latest;
  for (const name of FIELDS) {
    const field = form.elements[name];
    const typing = document.activeElement === field && field.tagName === "INPUT";
    if (!typing) field.value = now.get(name) ?? field.querySelector?.("option")?.value ?? "";
  }
  byId("sort").value = now.get("sort") ?? "loss";
  chosen(now.get("category"));
  for (const kind of ["csv", "json"]) byId(kind).href = `v1/export.${kind}?${query()}`;
  const page = Math.max(1, Number(now.get("page")) || 1), place = now.get("clip");
  const listed = query();
  listed.set("offset", place === null ? (page - 1) * SIZE : Math.max(0, Number(place) - 1));
  listed.set("limit", place === null ? SIZE : 3);
  byId("list").setAttribute("aria-busy", "true");
  try {
    const found = await ask(`v1/clips?${listed}`);
    if (request !== latest) return; // there is a newer request
    show(byId("problem"), false);
    if (place === null) list(found, page);
    else one(found, Number(place));
  } catch (error) {
    if (request !== latest) return;
    byId("problem").textContent = `${error.message}`;
    show(byId("problem"));
    show(byId("list"));
    show(byId("clip"), false);
    byId("count").textContent = "No clips";
    byId("clips").replaceChildren();
    show(byId("pages"), false);
  } finally {
    if (request === latest) byId("list").removeAttribute("aria-busy");
  }
}

const counted = count => `${count.toLocaleString("en")} ${count === 1 ? "clip" : "clips"}`;

function list(found, page) {
  const pages = Math.max(1, Math.ceil(found.total / SIZE)), first = (page - 1) * SIZE;
  show(byId("clip"), false);
  show(byId("list"));
  byId("count").textContent = found.total ? counted(found.total) : "No clips like that";
  byId("clips").replaceChildren(...found.clips.map((clip, i) => line(clip, first + i)));
  byId("page").textContent = `${page.toLocaleString("en")} of ${pages.toLocaleString("en")}`;
  byId("earlier").disabled = page <= 1;
  byId("later").disabled = page >= pages;
  show(byId("pages"), pages > 1);
  document.title = `Counterpoint: ${byId("count").textContent}`;
}

function line(clip, place) {
  const to = state();
  to.set("clip", place);
  const link = el("a", { href: `?${to}`, on: { click: event => followed(event, { clip: place }) } }, clip.id);
  return el("li", {}, el("div", { class: "line" },
    el("header", {}, link, ...figures(clip), watched(clip)),
    el("div", { class: "listed" }, el("h3", {}, "Labels"), categories(clip.truth, "truth")),
    el("div", { class: "listed" }, el("h3", {}, "Model"), categories(clip.predictions, "model"))));
}

function followed(event, changes) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(changes);
  window.scrollTo(0, 0);
}

function one(found, place) {
  const clip = found.clips[place > 0 ? 1 : 0];
  if (!clip) throw new Error("The list is not that long.");
  show(byId("list"), false);
  show(byId("clip"));
  const step = by => go({ clip: place + by }, false);
  const back = () => go({ clip: null, page: Math.floor(place / SIZE) + 1 > 1 ? Math.floor(place / SIZE) + 1 : null });
  const steps = el("div", { class: "steps" },
    el("button", { type: "button", on: { click: back } }, "Back to the list"),
    el("button", { type: "button", id: "before", disabled: place === 0, on: { click: () => step(-1) } }, "Previous"),
    el("button", { type: "button", id: "after", disabled: place + 1 >= found.total, on: { click: () => step(1) } }, "Next"),
    el("span", { class: "number dim" }, `${(place + 1).toLocaleString("en")} of ${found.total.toLocaleString("en")}`));
  openClip(byId("clip"), clip, steps, ask);
  document.title = `Counterpoint: ${clip.id}`;
}

// --- categories ----------------------------------------------------------------------------------------------------

function chosen(path) {
  const box = byId("chosen");
  show(byId("role-field"), path !== null);
  if (path === null) box.replaceChildren(el("span", { class: "dim" }, "any"));
  else box.replaceChildren(el("b", {}, path), el("button", { type: "button", on: { click: () => go({ category: null, page: null, clip: null }) } }, "Any"));
  for (const button of byId("tree").querySelectorAll("button")) button.setAttribute("aria-pressed", button.dataset.path === path);
}

// Paths with some words in them, or the tree.
function tree(words = "") {
  const { paths, parents, counts } = about.named, path = state().get("category");
  const choice = (i, text) => el("button", { type: "button", "data-path": paths[i], "aria-pressed": String(paths[i] === path),
    on: { click: event => { event.preventDefault(); go({ category: paths[i], page: null, clip: null }); } } },
    el("span", {}, text), el("span", { class: "number" }, counts[i].toLocaleString("en")));
  if (words) {
    const wanted = words.toLowerCase().split(/\s+/);
    const found = paths.map((_, i) => i).filter(i => wanted.every(word => paths[i].toLowerCase().includes(word)));
    const rows = found.slice(0, 100).map(i => el("li", { class: "found" }, choice(i, paths[i].replaceAll(":", " › "))));
    return byId("tree").replaceChildren(el("ul", {}, ...(rows.length ? rows : [el("li", { class: "dim" }, "no category of that name")])));
  }
  const children = new Map();
  parents.forEach((parent, i) => children.set(parent, [...(children.get(parent) ?? []), i]));
  const name = i => paths[i].slice(paths[i].lastIndexOf(":") + 1);
  const level = parent => el("ul", {}, ...children.get(parent).map(i => {
    if (!children.has(i)) return el("li", { class: "leaf" }, choice(i, name(i)));
    const details = el("details", {}, el("summary", {}, choice(i, name(i))));
    const fill = () => details.childElementCount === 1 && details.append(level(i));
    details.addEventListener("toggle", () => details.open && fill());
    if (path !== null && path.startsWith(`${paths[i]}:`)) { fill(); details.open = true; }
    return el("li", {}, details);
  }));
  byId("tree").replaceChildren(level(-1));
}

// --- events ----------------------------------------------------------------------------------------------------------

function changed(event) {
  const { name, value } = event.target;
  if (!FIELDS.includes(name)) return;
  waiting[name] = name === "role" && value === "truth" ? "" : value;
  clearTimeout(timer);
  timer = setTimeout(() => {
    go({ ...waiting, page: null, clip: null });
    waiting = {};
  }, event.type === "input" ? 250 : 0);
}

async function start() {
  byId("filters").open = matchMedia("(min-width: 58rem)").matches;
  try {
    about = await ask("v1/about");
  } catch (error) {
    byId("problem").textContent = error.message;
    return show(byId("problem"));
  }
  byId("run").textContent = about.run;
  byId("about").textContent = `${counted(about.clips)} of ${about.shards} ${about.shards === 1 ? "shard" : "shards"}, with the answers of ${about.run} (${about.recipe})`;
  for (let level = 0; level < about.levels; level++) {
    form.elements.level.append(el("option", { value: level }, level ? `level ${level}` : "level 0, the top"));
  }
  show(byId("correlation"), about.pairs.length > 0);
  if (!about.pairs.length) for (const option of [...byId("sort").options]) if (option.value.startsWith("corr")) option.remove();
  byId("correlation-name").textContent = about.pairs.length > 1 ? "Least correlation" : "Correlation of sound and picture";
  tree();
  form.addEventListener("input", changed);
  form.addEventListener("change", changed);
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", () => { byId("find").value = ""; history.pushState(null, "", location.pathname); tree(); setTimeout(showState); });
  byId("find").addEventListener("input", event => tree(event.target.value.trim()));
  byId("sort").addEventListener("change", event => go({ sort: event.target.value === "loss" ? "" : event.target.value, page: null, clip: null }));
  const turn = by => { go({ page: (Number(state().get("page")) || 1) + by }); window.scrollTo(0, 0); };
  byId("earlier").addEventListener("click", () => turn(-1));
  byId("later").addEventListener("click", () => turn(1));
  addEventListener("popstate", showState);
  addEventListener("keydown", event => {
    if (event.target.closest("input, select, textarea, [role=slider]") || event.altKey || event.ctrlKey || event.metaKey) return;
    const [before, after] = state().has("clip") ? ["before", "after"] : ["earlier", "later"];
    const button = byId({ ArrowLeft: before, ArrowRight: after }[event.key] ?? "");
    if (button && !button.disabled && button.checkVisibility()) button.click();
  });
  showState();
}

start();
