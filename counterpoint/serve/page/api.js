// Requests to the server, and its refusals in plain words.

const ALL = 100000; // categories asked for: every one
const NEVER = new AbortController().signal;

export class Problem extends Error {
  constructor(status, detail, after = null) {
    super(detail);
    Object.assign(this, { status, after });
  }
}

// A problem as it is shown: a title, the server's line, and what to do.
export function inWords(problem) {
  const [title, todo] = {
    0: ["The server cannot be reached", "See whether it is still running and you are online, then try again."],
    401: ["The key is missing or wrong", "Ask the operator of this server for its key, then try again."],
    404: ["The server no longer has this clip", "It keeps answers for a limited time. Choose the file again."],
    408: ["The upload took too long", "Try again on a faster connection, or with a smaller file."],
    409: ["That clip is not ready yet", "Give it a moment, then try again."],
    413: ["That is more than this server takes", "Cut the video, or save it smaller, and try again."],
    422: ["The file could not be used", problem.message.includes(".tfrecord")
      ? "Choose it again, together with the features.json that lies beside it."
      : "See whether it plays on your computer; if so, save it again as MP4."],
    429: ["The server is full", problem.after
      ? `Try again in ${problem.after} ${problem.after === 1 ? "second" : "seconds"}.` : "Try again in a little while."],
    503: ["The server is about to stop", "Try again in a minute."],
  }[problem.status] ?? ["Something went wrong on the server", "Try again. If it happens again, inform the operator of this server."];
  return { title, what: problem.status ? problem.message : "", todo };
}

function detail(text, fallback) {
  try {
    const line = JSON.parse(text).detail;
    return typeof line === "string" ? line : fallback;
  } catch {
    return fallback;
  }
}

const authorization = () => {
  const key = sessionStorage.getItem("key");
  return key ? { Authorization: `Bearer ${key}` } : {};
};

export const keyed = () => sessionStorage.getItem("key") !== null;

// Asks for the key; whether one was given.
function askForKey() {
  const dialog = document.getElementById("key"), input = dialog.querySelector("input");
  input.value = "";
  dialog.returnValue = "";
  dialog.querySelector("button[type=button]").onclick = () => dialog.close("cancel");
  dialog.showModal();
  return new Promise(resolve => dialog.addEventListener("close", () => {
    const given = dialog.returnValue !== "cancel" && input.value !== "";
    if (given) sessionStorage.setItem("key", input.value);
    resolve(given);
  }, { once: true }));
}

async function request(path, { signal = NEVER, method = "GET" } = {}) {
  let response;
  try {
    response = await fetch(path, { method, signal, headers: authorization() });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "no answer");
  }
  if (response.ok) return response;
  if (response.status === 401 && await askForKey()) return request(path, { signal, method });
  throw new Problem(response.status, detail(await response.text(), response.statusText),
    Number(response.headers.get("Retry-After")) || null);
}

const json = async (path, options) => (await request(path, options)).json();
const of = job => `v1/jobs/${encodeURIComponent(job)}`;

export const about = () => json("v1/about");
export const examples = async () => (await json("v1/examples")).examples;
export const job = (id, wait, signal) => json(`${of(id)}?top=${ALL}&wait=${wait}`, { signal });
export const forget = id => request(of(id), { method: "DELETE" });
export const media = async (path, signal) => (await request(path, { signal })).blob();
export const explanation = (id, swap, signal) =>
  json(`${of(id)}/explanation?top=${ALL}${swap ? `&swap=${encodeURIComponent(swap)}` : ""}`, { signal });

// The jobs of the files, once they are uploaded; `progress` is called with the fraction that is sent.
export async function upload(files, features, progress, signal) {
  const form = new FormData();
  for (const file of files) form.append("files", file, file.name);
  if (features) form.append("features", features);
  const sent = await new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest(); // fetch does not report the progress of an upload
    sending.open("POST", "v1/categorize/batch?wait=0&top=1");
    Object.entries(authorization()).forEach(header => sending.setRequestHeader(...header));
    sending.upload.addEventListener("progress", event => progress(event.total ? event.loaded / event.total : 0));
    sending.addEventListener("load", () => resolve(sending));
    sending.addEventListener("error", () => reject(new Problem(0, "no answer")));
    sending.addEventListener("abort", () => reject(new DOMException("cancelled", "AbortError")));
    signal.addEventListener("abort", () => sending.abort());
    sending.send(form);
  });
  if (sending_ok(sent)) return JSON.parse(sent.responseText).jobs;
  if (sent.status === 401 && await askForKey()) return upload(files, features, progress, signal);
  throw new Problem(sent.status, detail(sent.responseText, sent.statusText),
    Number(sent.getResponseHeader("Retry-After")) || null);
}

const sending_ok = sent => sent.status >= 200 && sent.status < 300;
