// The page of `dlcv-infer serve`. All text of the server goes through `textContent`; nothing is loaded from elsewhere.

import { copy, show, stopPlaying, writeJson } from "./answer.js";
import { $, el, state } from "./base.js";
import { fade, paint, showHead } from "./overlay.js";
import { maskPixels } from "./pictures.js";

const INCLUDE = { classify: "explanation,attention,embedding", segment: "mask", embed: "embedding", caption: "attention" };
const TASKS = { classify: "Classify", segment: "Segment", caption: "Caption", embed: "Embed" };

const model = () => state.models.find((m) => m.name === $("model").value);
const path = (room, name, query) => `${room}/${encodeURIComponent(name)}?${String(query).replaceAll("%2C", ",")}`;

// The server.

async function call(where, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const response = await fetch(new URL(where, document.baseURI), { ...options, headers }).catch((error) => {
    throw error.name === "AbortError" ? error : trouble("The server does not answer; is it still running?", { status: 0 });
  });
  if (response.ok) return response.status === 204 ? null : response.json();
  if (response.status === 401) $("key-form").hidden = false;
  const { error } = await response.json().catch(() => ({}));
  const wait = 1000 * (Number(response.headers.get("Retry-After")) || 1);
  throw trouble(error ?? `The server answered with status ${response.status}.`, { status: response.status, wait });
}

const trouble = (message, facts) => Object.assign(new Error(message), facts);

async function loadModels() {
  const { models } = await call("models");
  if (JSON.stringify(models) !== JSON.stringify(state.models)) listModels(models);
}

function listModels(models) {
  const chosen = $("model").value;
  state.models = models;
  const groups = Object.entries(Object.groupBy(models, (m) => m.task));
  $("model").replaceChildren(...groups.map(([task, members]) => {
    const options = members.map((m) => new Option(m.name, m.name));
    return el("optgroup", { label: TASKS[task] ?? task }, ...options);
  }));
  if (models.some((m) => m.name === chosen)) $("model").value = chosen;
  describeModel();
}

function describeModel() {
  const m = model();
  $("about").textContent = "No bundle is served.";
  if (!m) return;
  const size = m.size ? `${m.size[1]} × ${m.size[0]}` : "";
  const classes = m.classes.length ? `${m.classes.length} classes` : "";
  $("about").textContent = [m.engine, size, classes].filter(Boolean).join(" · ");
  document.title = `${m.name} · dlcv`;
  $("vector").open = m.task === "embed";
  listSets(m);
  $("teach").hidden = !m.outputs.includes("embedding");
}

function listSets(m) {
  const chosen = $("set").value;
  const own = m.task === "classify" ? `its own ${m.classes.length}` : "none";
  $("set").replaceChildren(new Option(own, ""), ...m.prototypes.map((name) => new Option(name, name)));
  $("set").value = m.prototypes.includes(chosen) ? chosen : "";
  $("set-pick").hidden = !m.prototypes.length;
  $("forget").hidden = !$("set").value;
}

function predictPath(file) {
  const m = model();
  const include = state.stream ? INCLUDE[m.task].replace(",embedding", "") : INCLUDE[m.task];
  const query = new URLSearchParams({ top: 5, include, name: file.name });
  if ($("set").value) query.set("prototypes", $("set").value);
  return path("predict", m.name, query);
}

// Asks for the file's answer and shows it; an older question that is still open is dropped.
async function ask(file) {
  if (!file || !model()) return;
  state.ask?.abort();
  const { signal } = (state.ask = new AbortController());
  const [asked, where, start] = [{ ...model(), set: $("set").value }, predictPath(file), performance.now()];
  if (!state.stream) document.body.classList.add("waiting");
  try {
    const answer = await call(where, { method: "POST", body: file, signal });
    const took = performance.now() - start;
    const mask = answer.mask ? await maskPixels(answer) : null;
    if (signal.aborted) return;
    Object.assign(state, { answer, mask, asked, where });
    stage();
    show(`${took.toFixed(0)} ms`);
  } catch (error) {
    if (!signal.aborted && !state.stream) blank();
    throw error;
  } finally {
    if (!signal.aborted) document.body.classList.remove("waiting");
  }
}

const again = () => ask(state.file).catch(fail);

function fail(error) {
  if (error.name === "AbortError") return;
  $("error").textContent = error.message;
  $("again").hidden = !(error.status === 0 || error.status >= 500);
  $("trouble").classList.add("shown");
}

function calm() {
  $("error").textContent = "";
  $("trouble").classList.remove("shown");
}

// Photos.

function take(file) {
  if (!file) return;
  stopCamera();
  calm();
  clear();
  Object.assign(state, { file, unshowable: false });
  URL.revokeObjectURL($("photo").src);
  $("photo").src = URL.createObjectURL(file);
  $("photo").alt = `The photo ${file.name}`;
  stage();
  again();
}

function clear() {
  stopPlaying();
  document.body.classList.remove("waiting");
  Object.assign(state, { answer: null, mask: null, pinned: null, word: 0 });
  $("overlay").width = 0;
  $("note").textContent = $("timing").textContent = "";
}

// Takes away an answer that is not of what is asked now.
function blank() {
  clear();
  $("answer").replaceChildren(el("p", { className: "quiet" }, "The answer appears here."));
  $("spoken").textContent = "";
  for (const id of ["maps", "head-pick", "opacity-pick", "vector", "raw", "command"]) $(id).hidden = true;
}

// Shows the camera, the photo, or that there is none; some formats are the server's only.
function stage() {
  const shown = !state.stream && state.file && !state.unshowable;
  $("video").hidden = !state.stream;
  $("photo").hidden = !shown;
  $("empty").hidden = Boolean(shown || state.stream || state.answer);
  const unseen = state.answer && state.unshowable && !state.stream;
  $("note").textContent = unseen ? `This browser cannot show ${state.file.name}; the answer is of the file itself.` : "";
}

// The camera: one request at a time, of the newest frame.

async function startCamera() {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: 1280 } });
  state.ask?.abort();
  clear();
  state.stream = stream;
  $("video").srcObject = stream;
  stage();
  $("camera").textContent = "Stop camera";
  await $("video").play();
  await watch(stream);
}

async function watch(stream) {
  while (state.stream === stream) {
    const file = document.hidden ? await sleep(200) : await frame();
    if (state.stream === stream) await ask(file).catch(waitIfFull);
  }
}

const waitIfFull = (error) => (error.status === 503 ? sleep(error.wait) : Promise.reject(error));

function stopCamera() {
  if (!state.stream) return;
  state.ask?.abort();
  state.stream.getTracks().forEach((track) => track.stop());
  state.stream = $("video").srcObject = null;
  $("camera").textContent = "Start camera";
  blank();
  stage();
}

function frame() {
  const video = $("video");
  const canvas = el("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new Promise((done) => canvas.toBlob((blob) => done(new File([blob], "camera.jpg")), "image/jpeg", 0.9));
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function toggleCamera() {
  if (state.stream) return stopCamera(), again();
  try {
    await startCamera();
  } catch (error) {
    if (error.name === "AbortError") return; // stopped
    stopCamera();
    const refused = "The camera may not be used; allow it in the browser's settings for this page.";
    fail(error.name === "NotAllowedError" ? new Error(refused) : error);
  }
}

// Few-shot sets.

function addRow() {
  const number = $("rows").children.length + 1;
  const name = el("input", { required: true, autocomplete: "off" });
  const files = el("input", { type: "file", accept: "image/*", multiple: true, required: true });
  const labels = [el("label", {}, `Class ${number}`, name), el("label", {}, `Photos of class ${number}`, files)];
  $("rows").append(el("div", { className: "kind" }, ...labels));
}

async function teach(event) {
  event.preventDefault();
  const form = new FormData();
  for (const kind of $("rows").children) {
    const [name, { files }] = kind.querySelectorAll("input");
    for (const file of files) form.append(name.value.trim(), file);
  }
  const [set, chosen] = [$("set-name").value.trim(), model().name];
  const { classes } = await call(path("prototypes", set, new URLSearchParams({ model: chosen })), { method: "PUT", body: form });
  $("teach-said").textContent = `Made ${set}: ${classes.map((c) => `${c.name} (${c.examples})`).join(", ")}.`;
  await loadModels();
  $("set").value = set;
  changed();
}

async function forget() {
  const set = $("set").value;
  if (!confirm(`Delete the set ${set}?`)) return;
  await call(path("prototypes", set, new URLSearchParams({ model: model().name })), { method: "DELETE" });
  await loadModels();
  changed();
}

// What the hands do.

function changed() {
  calm();
  describeModel();
  Object.assign(state, { pinned: null, word: 0 });
  stopPlaying();
  if (!state.stream) again();
}

function useKey(event) {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value);
  $("key-form").hidden = true;
  calm();
  loadModels().then(again).catch(fail);
}

function listen() {
  $("model").onchange = $("set").onchange = changed;
  for (const id of ["file", "shot"]) $(id).onchange = ({ target }) => (take(target.files[0]), (target.value = ""));
  $("photo").onerror = () => ((state.unshowable = true), stage());
  $("camera").onclick = toggleCamera;
  $("camera").hidden = !navigator.mediaDevices?.getUserMedia;
  $("opacity").oninput = fade;
  $("head").oninput = () => (showHead(), paint());
  $("raw").ontoggle = writeJson;
  $("json-copy").onclick = () => copy($("json-copy"), JSON.stringify(state.answer));
  $("curl-copy").onclick = () => copy($("curl-copy"), $("curl").textContent);
  for (const button of document.querySelectorAll(".copy")) button.hidden = !navigator.clipboard; // there is none without HTTPS
  $("key-form").onsubmit = useKey;
  $("teach-form").onsubmit = (event) => teach(event).catch(fail);
  $("add").onclick = addRow;
  $("forget").onclick = () => forget().catch(fail);
  $("again").onclick = () => (calm(), loadModels().then(again).catch(fail));
  $("empty").onclick = () => $("file").click();
  $("dismiss").onclick = calm;
  document.addEventListener("keydown", ({ key }) => key === "Escape" && calm());
}

function listenForFiles() {
  const dropping = (on) => $("stage").classList.toggle("dropping", on);
  document.ondragover = (event) => (event.preventDefault(), dropping(true));
  document.ondragleave = (event) => event.relatedTarget ?? dropping(false);
  document.ondrop = (event) => {
    event.preventDefault();
    dropping(false);
    take(event.dataTransfer.files[0]);
  };
  document.onpaste = (event) => {
    if (!event.clipboardData.files.length) return;
    event.preventDefault();
    take(event.clipboardData.files[0]);
  };
}

listen();
listenForFiles();
fade();
addRow();
addRow();
loadModels().catch(fail);
