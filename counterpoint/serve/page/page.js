// The page: from a file, an example or an address (#clip/JOB) to an answer and its explanation.

import { attended, headline, outcome } from "./answer.js";
import * as api from "./api.js";
import { byId, called, coloured, duration, el, show, size } from "./dom.js";
import { Player } from "./player.js";
import { Timeline } from "./timeline.js";
import { Tree } from "./tree.js";

const POLL = 0.5; // seconds
const MAX_FAILURES = 4; // polls without an answer
const STAGES = {
  waiting: "Waiting in the queue", decoding: "Decoding picture and sound", categorizing: "Categorizing", finished: "Done",
};

const clips = new Map(); // by job
let about = null, current = null, tree = null, explanation = null;
let visit = new AbortController(); // of the clip on the screen; requests of an earlier clip are aborted

const player = new Player(at => timeline.place(at));
const timeline = new Timeline(byId("timeline"), byId("readout"), second => player.seek(second));

const announce = text => { byId("live").textContent = text; };

// --- scenes ----------------------------------------------------------------------------------------------------------

function scene(name) {
  visit.abort();
  visit = new AbortController();
  for (const each of ["start", "problem", "progress", "result"]) show(byId(each), each === name);
  show(document.querySelector(".another"), name !== "start");
  if (name !== "result") player.stop();
  return visit.signal;
}

function fail(problem, again) {
  if (problem.name === "AbortError") return;
  if (!(problem instanceof api.Problem)) console.error(problem);
  const { title, what, todo } = api.inWords(problem);
  scene("problem");
  const heading = byId("problem").querySelector("h2");
  heading.textContent = title;
  byId("what").textContent = what;
  byId("todo").textContent = todo;
  const useless = [404, 413, 422].includes(problem.status);
  byId("again").textContent = useless ? "Choose another file" : "Try again";
  byId("again").onclick = useless ? () => byId("another").click() : again;
  heading.tabIndex = -1;
  heading.focus();
  others();
}

// --- sending and waiting ---------------------------------------------------------------------------------------------

async function take(files) {
  const features = [...files].find(file => file.name.toLowerCase().endsWith(".json"));
  const sent = [...files].filter(file => file !== features);
  if (!sent.length) return;
  const signal = scene("progress");
  const names = sent.length === 1 ? sent[0].name : `${sent.length} files`;
  try {
    const bytes = sent.reduce((sum, file) => sum + file.size, 0);
    if (about && bytes > about.max_bytes) {
      throw new api.Problem(413, `${names}: ${size(bytes)}, and ${size(about.max_bytes)} at most`);
    }
    wait(names, "Sending", 0, signal, () => {});
    const progress = fraction => wait(names, "Sending", fraction, signal);
    const jobs = await api.upload(sent, features && await features.text(), progress, signal);
    for (const job of jobs) {
      const file = jobs.length === sent.length ? sent[jobs.indexOf(job)] : null;
      const video = file && !file.name.toLowerCase().endsWith(".tfrecord");
      clips.set(job.id, { job: job.id, name: job.name, url: video ? URL.createObjectURL(file) : null, file });
    }
    location.hash = `clip/${jobs[0].id}`;
  } catch (problem) {
    fail(problem, () => take(files));
  }
}

function wait(name, stage, fraction, signal, cancel = null) {
  if (signal.aborted) return;
  byId("file-name").textContent = name;
  byId("bar").value = fraction;
  const text = `${stage}${fraction > 0 && fraction < 1 ? ` · ${Math.round(100 * fraction)} %` : ""}`;
  if (byId("stage").dataset.stage !== stage) announce(`${name}: ${stage}`);
  byId("stage").dataset.stage = stage;
  byId("stage").textContent = text;
  if (!cancel) return;
  byId("cancel").onclick = () => {
    cancel();
    history.replaceState(null, "", location.pathname);
    route();
  };
}

// A job's answer, once it is done.
async function follow(clip, signal) {
  let failures = 0;
  for (;;) {
    let job;
    try {
      job = await api.job(clip.job, POLL, signal);
      failures = 0;
    } catch (problem) {
      if (problem.status !== 0 || ++failures >= MAX_FAILURES) throw problem;
      await new Promise(resolve => setTimeout(resolve, 1000 * POLL));
      continue;
    }
    if (job.state === "done") return job.answer;
    if (job.state === "failed") throw new api.Problem(job.status, job.detail);
    wait(job.name, STAGES[job.stage], job.fraction, signal, () => api.forget(clip.job).catch(() => {}));
  }
}

async function open(job) {
  const clip = clips.get(job) ?? { job, name: "" }, signal = scene("progress");
  show(byId("others"), false);
  wait(clip.name, STAGES.waiting, 0, signal, () => api.forget(job).catch(() => {}));
  try {
    clip.answer ??= await follow(clip, signal);
    clip.name = clip.answer.name;
    clips.set(job, clip);
    await result(clip);
  } catch (problem) {
    if (problem.name === "AbortError") return;
    if (problem.status) clips.delete(job);
    fail(problem, clip.file && problem.status === 404 ? () => take([clip.file]) : () => open(job));
  }
}

// --- the result ------------------------------------------------------------------------------------------------------

async function result(clip) {
  const signal = scene("result"), { answer } = clip;
  [current, explanation] = [clip, null];
  headline(answer, about);
  tree = new Tree(byId("tree"), answer.categories);
  choose(null);
  for (const id of ["timeline", "readout", "legend", "no-timeline"]) show(byId(id), false);
  byId("attended").replaceChildren(el("p", { class: "dim" }, "Working out why …"));
  window.scrollTo(0, 0);
  byId("best").focus({ preventScroll: true });
  const unlike = answer.unlike ? ` ${byId("unlike").textContent}` : "";
  announce(`${answer.name}: ${byId("best").textContent}.${unlike} ${byId("verdict").textContent}`);
  made(answer.made_by);
  others();
  const url = await source(clip, signal).catch(problem => {
    if (problem.name === "AbortError") throw problem;
    return null; // the answer is shown without its film
  });
  player.load({ url, seconds: answer.seconds, pictured: answer.modalities.includes("video"), stills: [] });
  try {
    explanation = await api.explanation(clip.job, null, signal);
    why(clip);
  } catch (problem) {
    if (problem.name === "AbortError") return;
    byId("attended").replaceChildren(el("p", {}, `${api.inWords(problem).title}: ${problem.message} `,
      el("button", { type: "button", on: { click: () => open(clip.job) } }, "Try again")));
  }
}

// The clip's file, if the page has it.
async function source(clip, signal) {
  if (!clip.url && clip.media) {
    clip.url = api.keyed() ? URL.createObjectURL(await api.media(clip.media, signal)) : clip.media;
  }
  return clip.url ?? null;
}

function why(clip) {
  const { answer } = clip;
  const drawn = timeline.load(explanation);
  const stills = explanation.attended.filter(each => each.thumbnail);
  player.stills = stills;
  player.picture();
  clip.thumbnail ??= stills[0]?.thumbnail;
  show(byId("legend"), drawn);
  show(byId("no-timeline"), !drawn || !timeline.influenced);
  show(document.querySelector("#legend .whether"), timeline.influenced);
  byId("no-timeline").textContent = drawn ? "In this model, no modality influences the other's weights."
    : "No timeline: this clip is one step long.";
  byId("attended").replaceChildren(...attended(explanation, second => player.seek(second)));
  offer();
  player.update();
  if (!answer.modalities.includes("video")) byId("screen").hidden = true;
}

// --- what if ---------------------------------------------------------------------------------------------------------

const switches = [...document.querySelectorAll("[role=switch]")];

// What can be switched: modalities that the clip has, and other clips to take the sound from.
function offer() {
  const other = byId("other"), chosen = other.value;
  const rest = [...clips.values()].filter(clip => clip !== current && clip.name);
  other.replaceChildren(...rest.map(clip => el("option", { value: clip.job }, clip.name)));
  if (rest.some(clip => clip.job === chosen)) other.value = chosen;
  for (const each of switches) {
    const { what, modality } = each.dataset;
    const possible = explanation !== null && (what === "swapped" ? rest.length > 0 && "audio" in explanation.timelines
      : explanation.changes.some(change => change.what === what && change.modality === modality));
    each.setAttribute("aria-disabled", !possible);
    const reason = what === "swapped" && !rest.length ? "There is no other clip yet" : `The clip has no ${called(modality)}`;
    each.title = possible || explanation === null ? "" : reason;
  }
  other.disabled = rest.length === 0;
}

async function choose(chosen) {
  for (const each of switches) each.setAttribute("aria-checked", each === chosen);
  byId("result").dataset.change = chosen ? coloured(chosen.dataset.modality) : "";
  const became = byId("became");
  if (!chosen) {
    player.effect(null);
    tree?.what(null);
    became.textContent = "";
    return;
  }
  const { what, modality } = chosen.dataset, other = what === "swapped" ? clips.get(byId("other").value) : null;
  const signal = visit.signal;
  try {
    if (other) became.textContent = "Computing with the other sound …";
    const explained = other ? await api.explanation(current.job, other.job, signal) : explanation;
    const url = other && await source(other, signal);
    if (chosen.getAttribute("aria-checked") !== "true") return; // switched off meanwhile
    const change = explained.changes.find(each => each.what === what && each.modality === modality);
    if (!change) {
      became.textContent = `${other.name} has no ${called(modality)} to take.`;
      return;
    }
    const changes = new Map(explained.categories.map((category, i) => [category.id, change.changes[i]]));
    player.effect({ what, modality, url });
    tree.what(changes);
    became.replaceChildren(...outcome(current.answer.categories, modality, other, changes));
  } catch (problem) {
    if (problem.name === "AbortError") return;
    choose(null);
    became.textContent = `${api.inWords(problem).title}: ${problem.message}`;
  }
}

// --- around it -------------------------------------------------------------------------------------------------------

function others() {
  const rest = [...clips.values()].filter(clip => clip !== current || byId("result").hidden);
  const seen = rest.some(clip => clip.thumbnail), focused = document.activeElement.getAttribute("href");
  const link = clip => el("a", { href: `#clip/${encodeURIComponent(clip.job)}` },
    clip.thumbnail ? el("img", { src: clip.thumbnail, alt: "" }) : seen && el("span", { class: "blank" }),
    el("span", {}, clip.name));
  const links = rest.map(link);
  show(byId("others"), rest.length > 0);
  byId("others").classList.toggle("plain", !seen);
  byId("others").querySelector("h2").textContent = byId("start").hidden ? "Other clips" : "Or try one of these";
  byId("others").querySelector("ul").replaceChildren(...links.map(each => el("li", {}, each)));
  links.find(each => each.getAttribute("href") === focused)?.focus();
}

function made(by) {
  byId("made").textContent = [`${by.run} (${by.recipe})`, `model ${by.model}`, `taxonomy ${by.taxonomy}`,
    `features ${by.features.encoder || by.features.fingerprint}`].join(" · ");
}

function route() {
  const [, job] = location.hash.match(/^#clip\/(.+)$/) ?? [];
  if (job) return open(job); // ids need no escaping
  current = null;
  document.title = "Counterpoint";
  scene("start");
  others();
}

async function begin() {
  const before = visit; // a file that is chosen meanwhile is not interrupted
  try {
    about = await api.about();
    byId("run").textContent = [...new Set([about.made_by.run, about.made_by.recipe])].join(" · ");
    const limits = `up to ${duration(about.max_seconds)} and ${size(about.max_bytes)}`;
    byId("limits").textContent = about.videos ? `Any usual format, ${limits}; or a feature record with its features.json`
      : `This run reads .tfrecord files only, with the features.json beside them, up to ${size(about.max_bytes)}`;
    byId("kind").textContent = about.videos ? "video" : "feature record";
    made(about.made_by);
    await examples();
    if (visit === before) await route();
  } catch (problem) {
    if (visit === before) fail(problem, begin);
  }
}

// The server may still be encoding its examples when the page loads: their thumbnails are requested again.
async function examples(tries = 40) {
  const given = await api.examples();
  for (const example of given) clips.set(example.job, { ...clips.get(example.job), ...example });
  if (tries === 0 || given.every(example => example.thumbnail || example.kind !== "video")) return;
  const again = () => byId("others").hidden || others();
  setTimeout(() => examples(tries - 1).then(again).catch(() => {}), 3000); // the page works without them
}

for (const input of document.querySelectorAll("input[type=file]")) {
  input.addEventListener("change", () => {
    take([...input.files]);
    input.value = "";
  });
}
for (const each of switches) {
  each.addEventListener("click", () => {
    if (each.getAttribute("aria-disabled") !== "true") choose(each.getAttribute("aria-checked") === "true" ? null : each);
  });
}
byId("other").addEventListener("change", () => {
  const swap = switches.find(each => each.dataset.what === "swapped");
  if (swap.getAttribute("aria-checked") === "true") choose(swap);
});
document.querySelector(".skip").addEventListener("click", event => {
  event.preventDefault();
  byId("content").focus();
});

let inside = 0; // dragenter and dragleave come for each element under the pointer
const carried = event => event.dataTransfer?.types.includes("Files");
window.addEventListener("dragenter", event => carried(event) && show(byId("dropping"), ++inside > 0));
window.addEventListener("dragleave", event => carried(event) && show(byId("dropping"), --inside > 0));
window.addEventListener("dragover", event => carried(event) && event.preventDefault());
window.addEventListener("drop", event => {
  if (!carried(event)) return;
  event.preventDefault();
  show(byId("dropping"), (inside = 0) > 0);
  take([...event.dataTransfer.files]);
});
window.addEventListener("hashchange", route);
document.addEventListener("click", event => { // on the current address again, after a file that failed
  const link = event.target.closest("a[href^='#']:not(.skip)");
  if (link?.getAttribute("href") === (location.hash || "#")) route();
});
begin();
